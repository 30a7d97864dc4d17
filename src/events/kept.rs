//! What a log with a store keeps on behalf of its consumers.

use std::sync::{Arc, atomic::Ordering};

use super::{
    consumer_file::ConsumerFile, consumers::Consumers, cursor::Cursor, event_store::EventStore,
    history::closed_error,
};
use crate::{
    error::Result,
    sync::{AtomicU64, Mutex, lock},
};

/// The consumers of a log, where they are saved, and how many bytes of events there may be.
pub(super) struct Kept {
    pub(super) consumers: Arc<Consumers>,
    pub(super) epoch: AtomicU64,
    /// `None` for a store of the embedder, which keeps no consumers, and, inside, once it is released.
    pub(super) file: Option<Mutex<Option<Box<dyn ConsumerFile>>>>,
    /// Locked while they are saved, so that the newest state is saved last.
    pub(super) saving: Mutex<()>,
    /// What events may take that all consumers have acknowledged.
    pub(super) max_acknowledged_bytes: u64,
    /// The number of the first event that a consumer needs after a crash, as far as the consumers are saved.
    pub(super) saved_from: AtomicU64,
    /// With more bytes than these, nothing is appended that would make the store discard events which a
    /// consumer needs. `None` if the oldest events go.
    pub(super) full_at: Option<u64>,
}

impl Kept {
    /// The number of the first event that a consumer needs; above all numbers if there is none.
    pub(super) fn needed_from(&self) -> u64 {
        self.consumers.acknowledged_by_all().saturating_add(1)
    }

    /// Whether events must wait until a consumer acknowledges others.
    pub(super) fn is_full(&self, store: &dyn EventStore) -> bool {
        self.is_full_from(store, self.needed_from())
    }

    /// Whether events would have to wait after a crash: for acknowledgements that were made, and that no
    /// consumer makes again.
    pub(super) fn is_full_after_crash(&self, store: &dyn EventStore) -> bool {
        self.is_full_from(store, self.saved_from.load(Ordering::Relaxed))
    }

    fn is_full_from(&self, store: &dyn EventStore, needed_from: u64) -> bool {
        self.full_at.is_some_and(|bytes| store.surplus(bytes) > needed_from)
    }

    /// The number below which events may go, because no consumer needs them and they are too many bytes.
    pub(super) fn surplus(&self, store: &dyn EventStore) -> u64 {
        store.surplus(self.max_acknowledged_bytes).min(self.needed_from())
    }

    /// Writes what changed since it was written. Blocks.
    pub(super) fn save(&self) -> Result<()> {
        let _saving = lock(&self.saving);
        // Before: what was acknowledged in an epoch is never saved as of a later one.
        let epoch = self.epoch.load(Ordering::Acquire);
        let Some(consumers) = self.consumers.take_changes() else { return Ok(()) };
        let needed_from = consumers.iter().map(|(_, seq)| seq.saturating_add(1)).min().unwrap_or(u64::MAX);
        // Everything is kept where consumers are not known.
        let needed_from = needed_from.min(self.needed_from());
        let cursor = |(name, seq): (Box<str>, u64)| (name, Cursor::new(Some(epoch), seq));
        let cursors: Vec<_> = consumers.into_iter().map(cursor).collect();
        self.write(&cursors).inspect_err(|error| {
            tracing::warn!(%error, "the consumers of an event log could not be written");
            self.consumers.not_saved();
        })?;
        self.saved_from.store(needed_from, Ordering::Relaxed);
        Ok(())
    }

    /// Lets another log open the file. Blocks.
    pub(super) fn release(&self) {
        drop(self.file.as_ref().map(|file| lock(file).take()));
    }

    fn write(&self, cursors: &[(Box<str>, Cursor)]) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        lock(file).as_ref().map_or_else(|| Err(closed_error()), |file| file.replace(cursors))
    }
}
