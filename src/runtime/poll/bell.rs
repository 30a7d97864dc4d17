//! How other threads wake the one that waits.

use std::{io, os::fd::BorrowedFd, sync::atomic::Ordering};

#[cfg(model_checked)]
use crate::model::wake_fd;
use crate::sync::AtomicBool;

/// A descriptor to wait for beside the sockets. Ringing costs a system call only while somebody waits.
#[derive(Debug)]
pub(super) struct Bell {
    asleep: AtomicBool,
    fd: wake_fd::WakeFd,
    #[cfg(test)]
    pub(super) rung: std::sync::atomic::AtomicUsize,
    #[cfg(test)]
    pub(super) slept: std::sync::atomic::AtomicUsize,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            asleep: AtomicBool::new(false),
            fd: wake_fd::WakeFd::new()?,
            #[cfg(test)]
            rung: std::sync::atomic::AtomicUsize::new(0),
            #[cfg(test)]
            slept: std::sync::atomic::AtomicUsize::new(0),
        })
    }

    /// Wakes the thread if it waits.
    ///
    /// To be called after the change that the thread is to see, and after the lock on what was changed has
    /// been released. The thread calls [`sleep`](Self::sleep) and then takes the same lock; so either the
    /// thread sees the change, or this call sees that it sleeps.
    pub(super) fn ring(&self) {
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            // Counted first, since the other thread may run as soon as the descriptor is signalled.
            #[cfg(test)]
            self.rung.fetch_add(1, Ordering::Relaxed);
            self.fd.signal();
        }
    }

    /// Says that the thread is about to check everything a last time, and then waits.
    ///
    /// A swap, as in [`wake`](Self::wake): it follows the latest swap of another thread, whatever the memory
    /// model makes of plain stores. Under loom, stores lose a wake-up in schedules with three preemptions.
    pub(super) fn sleep(&self) {
        self.asleep.swap(true, Ordering::AcqRel);
        #[cfg(test)]
        self.slept.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that the thread is awake. Another thread that rang may still have to signal the descriptor;
    /// then a later wait returns early.
    pub(super) fn wake(&self) {
        self.asleep.swap(false, Ordering::AcqRel);
    }

    #[cfg(test)]
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// The descriptor that becomes readable when the bell rings.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes the descriptor unreadable again; `false` if that fails, so that no wait would block any more.
    pub(super) fn clear(&self) -> bool {
        self.fd.clear()
    }
}

#[cfg(all(target_os = "linux", not(model_checked)))]
mod wake_fd {
    use std::{
        io,
        os::fd::{AsFd, BorrowedFd, OwnedFd},
    };

    use rustix::event::{EventfdFlags, eventfd};

    #[derive(Debug)]
    pub(super) struct WakeFd(OwnedFd);

    impl WakeFd {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
        }

        pub(super) fn signal(&self) {
            // Fails only where the counter is full, and then it is readable.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }

        pub(super) fn clear(&self) -> bool {
            rustix::io::read(&self.0, &mut [0; 8]).is_ok()
        }

        pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(all(not(target_os = "linux"), not(model_checked)))]
mod wake_fd {
    use std::{
        io::{self, Read, Write},
        os::{
            fd::{AsFd, BorrowedFd},
            unix::net::UnixStream,
        },
    };

    #[derive(Debug)]
    pub(super) struct WakeFd {
        near: UnixStream,
        far: UnixStream,
    }

    impl WakeFd {
        pub(super) fn new() -> io::Result<Self> {
            let (near, far) = UnixStream::pair()?;
            near.set_nonblocking(true)?;
            far.set_nonblocking(true)?;
            Ok(Self { near, far })
        }

        pub(super) fn signal(&self) {
            // Fails only where the buffer is full, and then it is readable.
            let _ = (&self.near).write(&[1]);
        }

        pub(super) fn clear(&self) -> bool {
            let mut any = false;
            loop {
                match (&self.far).read(&mut [0; 64]) {
                    Ok(64) => any = true,
                    Ok(count) => return any || count > 0,
                    Err(_) => return any,
                }
            }
        }

        pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
            self.far.as_fd()
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn rings(bell: &Bell) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn a_bell_rings_once_and_only_while_the_thread_sleeps() {
        let bell = Bell::new().unwrap();
        bell.ring();
        assert!(!rings(&bell), "a system call though the thread is awake");
        bell.sleep();
        bell.ring();
        assert!(rings(&bell));
        assert!(bell.clear());
        assert!(!bell.clear(), "the descriptor was cleared before");
        bell.ring();
        assert!(!rings(&bell), "a second system call for one wakeup");
    }
}
