//! Where a log keeps its events: in memory only, or also in a store.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

#[cfg(feature = "durable")]
use super::committer::Committer;
use super::{
    ahead::Ahead,
    health::LogHealth,
    history::{History, Older, closed_error},
    stored_event::StoredEvent,
};
use crate::{error::Result, sync::AtomicBool};

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a log does beside keeping its newest events in memory.
pub(super) trait Backing: Send + Sync {
    /// Publishes an event, and returns its number.
    fn publish(&self, event: StoredEvent) -> Result<u64>;

    /// What writes events to the store; `None` if there is no store. What a log does only on demand is not in
    /// this trait, but reached by this, so that a program which does not demand it does not contain it.
    #[cfg(feature = "durable")]
    fn committer(&self) -> Option<&Arc<Committer>>;

    /// The number of the oldest event held, or of the next event if none is held.
    fn first_seq(&self) -> u64;

    /// The number of the newest event that was published, whether subscribers can get it or not.
    fn last_seq(&self) -> u64;

    /// Whether events are elsewhere when they are no longer in memory.
    fn older(&self) -> Older;

    /// Reads events that are no longer in memory, from this number on, which is below `before`.
    fn read_older(&self, from: u64, before: u64) -> BoxFuture<'_, Result<Ahead>>;

    /// Hands over events that are no longer in memory, from this number on and without holes, until `take`
    /// returns `false` or the next one takes [`read_older`](Self::read_older).
    fn read_cached(&self, from: u64, take: &mut dyn FnMut(u64, Bytes) -> bool);

    /// All consumers have acknowledged the events up to this number.
    fn acknowledged_by_all(&self, seq: u64);

    /// Refuses further events.
    fn close(&self);

    /// How many commits there were.
    fn commits(&self) -> u64;

    fn health(&self) -> LogHealth;
}

/// Of a log that is in memory only.
pub(super) struct InMemory {
    history: Arc<History>,
    closed: AtomicBool,
}

impl InMemory {
    pub(super) fn new(history: Arc<History>) -> Self {
        Self { history, closed: AtomicBool::new(false) }
    }
}

impl Backing for InMemory {
    fn publish(&self, event: StoredEvent) -> Result<u64> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(closed_error());
        }
        self.history.publish(event)
    }

    #[cfg(feature = "durable")]
    fn committer(&self) -> Option<&Arc<Committer>> {
        None
    }

    fn first_seq(&self) -> u64 {
        self.history.first_seq()
    }

    fn last_seq(&self) -> u64 {
        self.history.last_seq()
    }

    fn older(&self) -> Older {
        Older::Discarded
    }

    fn read_older(&self, _from: u64, before: u64) -> BoxFuture<'_, Result<Ahead>> {
        Box::pin(ready(Ok(Ahead::nothing_before(before))))
    }

    fn read_cached(&self, _from: u64, _take: &mut dyn FnMut(u64, Bytes) -> bool) {}

    fn acknowledged_by_all(&self, seq: u64) {
        self.history.set_acknowledged(seq);
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn commits(&self) -> u64 {
        0
    }

    fn health(&self) -> LogHealth {
        LogHealth::default()
    }
}
