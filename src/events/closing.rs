//! Closes the store of a log, once, on a thread that may block.

use std::{io, mem, sync::Arc, time::Duration};

use super::{
    event_store::EventStore,
    on_thread::{StoreCall, catch_panic, on_thread, wait_for_thread},
};
use crate::sync::AsyncMutex;

/// Disks that work take less time, so that a log which was dropped can be opened again immediately. One that
/// hangs holds up the thread that drops the log for no longer.
const MAX_WAIT_IN_DROP: Duration = Duration::from_secs(1);

/// Closes a store when it is asked to, or when it is dropped.
pub(super) struct Closing(AsyncMutex<State>);

enum State {
    Open(Arc<dyn EventStore>),
    Closing(StoreCall<()>),
    Closed,
}

impl Closing {
    pub(super) fn new(store: Arc<dyn EventStore>) -> Self {
        Self(AsyncMutex::new(State::Open(store)))
    }

    /// Resolves when the store is closed, by this call or an earlier one.
    ///
    /// # Errors
    ///
    /// Why the store could not be closed in order, once.
    ///
    /// # Cancellation
    ///
    /// The store is closed all the same once this was polled; the next caller waits for it.
    pub(super) async fn close(&self) -> io::Result<()> {
        // Locked while the store is closed, so that every other caller waits for that, too.
        let mut state = self.0.lock().await;
        if let State::Open(store) = &*state {
            let store = Arc::clone(store);
            *state = State::Closing(on_thread(move || store.close()));
        }
        let State::Closing(task) = &mut *state else { return Ok(()) };
        let closed = task.await;
        *state = State::Closed;
        closed
    }
}

/// A log that is not closed before its last handle is dropped closes its store then, so that the store knows
/// where it ends.
impl Drop for Closing {
    fn drop(&mut self) {
        match mem::replace(self.0.get_mut(), State::Closed) {
            State::Open(store) => close_soon(store),
            State::Closing(task) => task.detach(),
            State::Closed => {}
        }
    }
}

fn close_soon(store: Arc<dyn EventStore>) {
    let close = move || {
        if let Err(error) = catch_panic(|| store.close()) {
            tracing::warn!(%error, "the store of an event log was not closed in order");
        }
        drop(store);
    };
    wait_for_thread(close, MAX_WAIT_IN_DROP);
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::events::event_store::{Batch, Clocks, Extent, StoredEvent};

    /// A store that takes as long to close as the test wants.
    struct Slow {
        may_close: Barrier,
        closed: AtomicUsize,
    }

    impl Slow {
        fn new() -> Arc<Self> {
            Arc::new(Self { may_close: Barrier::new(2), closed: AtomicUsize::new(0) })
        }

        fn closed(&self) -> usize {
            self.closed.load(Ordering::SeqCst)
        }
    }

    impl EventStore for Slow {
        fn extent(&self) -> Extent {
            Extent { epoch: 1, first: 1, next: 1 }
        }

        fn last_clocks(&self) -> Option<Clocks> {
            None
        }

        fn append(&self, _batch: &Batch) -> io::Result<()> {
            Ok(())
        }

        fn read(&self, from: u64, _max: usize, _out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
            Ok(from)
        }

        fn discard(&self, _below: u64) -> io::Result<()> {
            Ok(())
        }

        fn close(&self) -> io::Result<()> {
            self.may_close.wait();
            self.closed.fetch_add(1, Ordering::SeqCst);
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn a_caller_that_leaves_does_not_keep_the_store_open() {
        let store = Slow::new();
        let closing = Closing::new(store.clone());
        assert!(block_on(poll_once(closing.close())).is_none());
        store.may_close.wait();
        assert_eq!(block_on(closing.close()).unwrap_err().kind(), io::ErrorKind::StorageFull);
        block_on(closing.close()).unwrap();
        drop(closing);
        assert_eq!(store.closed(), 1);
    }

    #[test]
    fn a_drop_closes_the_store_and_does_not_wait_for_a_disk_that_hangs() {
        let store = Slow::new();
        drop(Closing::new(store.clone()));
        assert_eq!(store.closed(), 0, "it hangs");
        store.may_close.wait();
        // The thread that closed the store lets go of it afterwards.
        while Arc::strong_count(&store) > 1 {
            std::thread::yield_now();
        }
        assert_eq!(store.closed(), 1);
    }

    #[test]
    fn a_drop_in_the_middle_of_closing_closes_the_store() {
        let store = Slow::new();
        let closing = Closing::new(store.clone());
        assert!(block_on(poll_once(closing.close())).is_none());
        drop(closing);
        store.may_close.wait();
        while Arc::strong_count(&store) > 1 {
            std::thread::yield_now();
        }
        assert_eq!(store.closed(), 1);
    }
}
