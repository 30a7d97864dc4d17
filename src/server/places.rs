//! How many exchanges a peer may have under way.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_lock::{Semaphore, SemaphoreGuardArc};
use quinn::VarInt;

use crate::connection::Link;

/// The places for the exchanges of a connection.
///
/// QUIC has a limit too, which the peer is told, and which counts a stream until its answer is acknowledged
/// ([RFC 9000, section 3.1](https://www.rfc-editor.org/rfc/rfc9000#section-3.1)): a peer with as many calls under way as it may have
/// waits for its own acknowledgements half of the time. And it is told anew for each eighth of the limit that has been used, in a
/// packet of its own. So a peer that goes on calling is allowed as many streams again, and what it opens on these beyond the exchanges
/// that it may have waits there, unread.
#[derive(Debug)]
pub(super) struct Places {
    exchanges: Arc<Semaphore>,
    max: u32,
    /// Answers until the peer is allowed more streams.
    reserved: AtomicU32,
}

/// Held by an exchange until it is over.
pub(super) type Place = SemaphoreGuardArc;

impl Places {
    pub(super) fn new(max: u32) -> Self {
        let exchanges = Arc::new(Semaphore::new(usize::try_from(max).unwrap_or(usize::MAX)));
        Self { exchanges, max, reserved: AtomicU32::new(max) }
    }

    /// Waits while all places are taken.
    pub(super) async fn take(&self) -> Place {
        self.exchanges.acquire_arc().await
    }

    /// The most streams that the peer can have open, whether they have a place or not.
    pub(super) fn most_streams(&self) -> u32 {
        self.max.saturating_mul(2)
    }

    /// Allows the peer more streams when it has had as many answers as it may have exchanges at a time.
    pub(super) fn count_answer(&self, link: &Link) {
        let count_down = |left: u32| left.checked_sub(1);
        if self.reserved.load(Ordering::Relaxed) != 0
            && self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count_down) == Ok(1)
        {
            link.quinn().set_max_concurrent_bi_streams(VarInt::from_u32(self.most_streams()));
        }
    }
}
