//! Whether the endpoint and its runtime are still there.

use std::sync::atomic::{AtomicU8, Ordering};

use event_listener::Event;

use crate::sync::wait_until;

/// The endpoint is there, and as far as is known, so is its runtime.
const ALIVE: u8 = 0;
/// The endpoint was dropped, so that the runtime no longer matters.
const RELEASED: u8 = 1;
/// The runtime has dropped its tasks.
const DROPPED: u8 = 2;

/// Changes once, to whichever of the two ends comes first.
pub(super) struct Liveness {
    state: AtomicU8,
    changed: Event,
}

impl Liveness {
    pub(super) fn new() -> Self {
        Self { state: AtomicU8::new(ALIVE), changed: Event::new() }
    }

    /// Whether the runtime has dropped its tasks while the endpoint was there.
    pub(super) fn is_dropped(&self) -> bool {
        self.state.load(Ordering::SeqCst) == DROPPED
    }

    /// Resolves when the endpoint was dropped, or the runtime has dropped its tasks.
    pub(super) async fn ended(&self) {
        wait_until(&self.changed, || self.state.load(Ordering::SeqCst) != ALIVE).await;
    }

    /// The endpoint was dropped.
    pub(super) fn release(&self) {
        self.end(RELEASED);
    }

    /// The runtime has dropped its tasks. Returns whether the endpoint was there.
    pub(super) fn drop_runtime(&self) -> bool {
        self.end(DROPPED)
    }

    fn end(&self, state: u8) -> bool {
        let ended = self.state.compare_exchange(ALIVE, state, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if ended {
            self.changed.notify(usize::MAX);
        }
        ended
    }
}
