//! Where a log keeps its events: in memory only, or also in a store.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{
    ahead::Ahead,
    health::LogHealth,
    history::{History, Older, closed_error},
    stored_event::StoredEvent,
};
#[cfg(all(feature = "durable", unix))]
use crate::error::Error;
use crate::{error::Result, sync::AtomicBool};

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a log does beside keeping its newest events in memory.
pub(super) trait Backing: Send + Sync {
    /// Publishes an event, and returns its number.
    fn publish(&self, event: StoredEvent) -> Result<u64>;

    /// Leaves out numbers, so that the next event gets number `to`. Nobody publishes meanwhile.
    #[cfg(all(feature = "durable", unix))]
    fn skip(&self, to: u64) -> BoxFuture<'_, Result<()>>;

    /// Publishes an event now, and resolves to its number when it is as durable as it gets.
    fn publish_durable(&self, event: StoredEvent) -> BoxFuture<'static, Result<u64>>;

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

    /// Makes the consumers as durable as they get.
    fn save_consumers(&self) -> BoxFuture<'_, Result<()>>;

    /// Resolves when all events published so far are as durable as they get.
    fn flush(&self) -> BoxFuture<'_, Result<()>>;

    /// Refuses further events, and releases the store.
    fn close(&self) -> BoxFuture<'_, Result<()>>;

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

    #[cfg(all(feature = "durable", unix))]
    fn skip(&self, _to: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Err(Error::invalid_config("a log in memory is no mirror"))))
    }

    fn publish_durable(&self, event: StoredEvent) -> BoxFuture<'static, Result<u64>> {
        Box::pin(ready(self.publish(event)))
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

    fn save_consumers(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.closed.store(true, Ordering::Relaxed);
        Box::pin(ready(Ok(())))
    }

    fn commits(&self) -> u64 {
        0
    }

    fn health(&self) -> LogHealth {
        LogHealth::default()
    }
}
