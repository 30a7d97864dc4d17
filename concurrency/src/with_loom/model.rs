//! What `src/sync.rs` and `src/runtime/poll/bell.rs` take from here: loom's locks and atomics, and a
//! descriptor that a thread of loom can wait for.
//!
//! async-task is not loom's, so each of its operations is one step.

pub(crate) use event_listener::Event;
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic::AtomicBool};

pub(crate) mod wake_fd {
    use std::{cell::RefCell, fmt, io, os::fd::BorrowedFd, sync::Arc};

    use loom::sync::{Condvar, Mutex};

    /// In place of a descriptor, which loom cannot wait for.
    pub(crate) struct WakeFd(Arc<Signal>);

    pub(crate) struct Signal {
        readable: Mutex<bool>,
        changed: Condvar,
    }

    thread_local! {
        static LATEST: RefCell<Option<Arc<Signal>>> = const { RefCell::new(None) };
    }

    impl WakeFd {
        pub(crate) fn new() -> io::Result<Self> {
            let signal = Arc::new(Signal { readable: Mutex::new(false), changed: Condvar::new() });
            LATEST.set(Some(Arc::clone(&signal)));
            Ok(Self(signal))
        }

        pub(crate) fn signal(&self) {
            *self.0.lock() = true;
            self.0.changed.notify_all();
        }

        pub(crate) fn clear(&self) -> bool {
            std::mem::take(&mut *self.0.lock())
        }

        pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
            unreachable!("no system call waits for it")
        }
    }

    impl Signal {
        /// Of the descriptor that was made last.
        pub(crate) fn latest() -> Arc<Self> {
            LATEST.take().expect("one was made")
        }

        /// Waits until the descriptor is readable, as a thread does in `ppoll`.
        pub(crate) fn wait(&self) {
            let mut readable = self.lock();
            while !*readable {
                readable = self.changed.wait(readable).expect("nothing panics under the lock");
            }
        }

        fn lock(&self) -> loom::sync::MutexGuard<'_, bool> {
            self.readable.lock().expect("nothing panics under the lock")
        }
    }

    impl fmt::Debug for WakeFd {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("WakeFd")
        }
    }
}
