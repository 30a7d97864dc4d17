//! How many exchanges a peer may have under way.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_lock::{Semaphore, SemaphoreGuardArc};
use quinn::VarInt;

use crate::connection::Link;

/// The places for the exchanges of a connection.
///
/// QUIC has a limit too, which the peer is told, and which counts a stream until its answer is acknowledged
/// ([RFC 9000, section 3.1](https://www.rfc-editor.org/rfc/rfc9000#section-3.1)). A peer with as many calls under way as it may have
/// would wait for its own acknowledgements half of the time. So such a peer is allowed as many streams again, and what it opens
/// beyond the exchanges that it may have waits there, unread.
#[derive(Debug)]
pub(super) struct Places {
    exchanges: Arc<Semaphore>,
    max: u32,
    extended: AtomicBool,
}

/// Held by an exchange until it is over.
pub(super) type Place = SemaphoreGuardArc;

impl Places {
    pub(super) fn new(max: u32) -> Self {
        let exchanges = Arc::new(Semaphore::new(usize::try_from(max).unwrap_or(usize::MAX)));
        Self { exchanges, max, extended: AtomicBool::new(false) }
    }

    /// Waits while all places are taken.
    pub(super) async fn take(&self) -> Place {
        self.exchanges.acquire_arc().await
    }

    /// The most streams that the peer can have open, whether they have a place or not.
    pub(super) fn most_streams(&self) -> u32 {
        self.max.saturating_mul(2)
    }

    /// So many answers that the peer has not acknowledged are in its way.
    pub(super) fn obstacle(&self) -> u32 {
        self.max.div_ceil(4)
    }

    /// Allows the peer more streams when so many answers are in its way.
    pub(super) fn extend(&self, link: &Link, undelivered: usize) {
        let undelivered = u32::try_from(undelivered).unwrap_or(u32::MAX);
        if undelivered >= self.obstacle() && !self.extended.swap(true, Ordering::Relaxed) {
            link.quinn().set_max_concurrent_bi_streams(VarInt::from_u32(self.most_streams()));
        }
    }
}
