//! A log whose events are in a store.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    ahead::Ahead,
    archive::Archive,
    backing::{Backing, BoxFuture},
    committer::Committer,
    event_store::EventStore,
    health::LogHealth,
    history::Older,
    stored_event::StoredEvent,
};
use crate::{error::Result, runtime::Clock};

/// The committer appends events to the history once they are in the store.
pub(super) struct Stored {
    committer: Arc<Committer>,
    archive: Archive,
    store: Arc<dyn EventStore>,
}

impl Stored {
    pub(super) fn new(
        committer: Arc<Committer>,
        store: Arc<dyn EventStore>,
        max_payload_bytes: usize,
        clock: Clock,
    ) -> Self {
        let archive = Archive::new(Arc::clone(&store), max_payload_bytes, clock);
        Self { committer, archive, store }
    }
}

impl Backing for Stored {
    fn publish(&self, event: StoredEvent) -> Result<u64> {
        self.committer.publish(event)
    }

    fn committer(&self) -> Option<&Arc<Committer>> {
        Some(&self.committer)
    }

    fn first_seq(&self) -> u64 {
        self.committer.first_seq()
    }

    fn last_seq(&self) -> u64 {
        self.committer.last_seq()
    }

    fn older(&self) -> Older {
        Older::Stored
    }

    fn read_older(&self, from: u64, before: u64) -> BoxFuture<'_, Result<Ahead>> {
        // Not those that the log no longer holds, though they may still be there.
        let first = self.first_seq().min(before);
        Box::pin(async move {
            if first == before {
                Ok(Ahead::nothing_before(before))
            } else {
                self.archive.read(from.max(first), before).await
            }
        })
    }

    fn read_cached(&self, from: u64, take: &mut dyn FnMut(u64, Bytes) -> bool) {
        if from >= self.first_seq() {
            self.archive.read_cached(from, take);
        }
    }

    /// The next commit takes it into account.
    fn acknowledged_by_all(&self, _seq: u64) {}

    fn close(&self) {
        self.committer.refuse_events();
    }

    fn commits(&self) -> u64 {
        self.committer.commits()
    }

    fn health(&self) -> LogHealth {
        let reads = self.archive.failures();
        LogHealth {
            damaged_events: self.store.damaged(),
            failed_reads: reads.count,
            read_error: reads.reason().map(str::to_owned),
            ..self.committer.health()
        }
    }
}
