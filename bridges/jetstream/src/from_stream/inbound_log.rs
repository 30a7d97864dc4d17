//! The log that a subject fills.

use std::{path::Path, time::Duration};

use palyra_quic::{EventLog, EventLogBuilder, EventStore, SegmentOptions, SegmentStore, StoredEvent};

use super::{Origin, StoredMessage};
use crate::error::{BridgeError, Result};

/// How many bytes of events are read at a time when the newest one is looked for.
const READ_BYTES: usize = 1024 * 1024;

/// A log in files that one [`FromStream`](super::FromStream) fills, and nobody else.
#[derive(Debug)]
pub struct InboundLog {
    pub(super) log: EventLog,
    pub(super) newest: Option<Origin>,
}

impl InboundLog {
    /// Opens the log in this directory, or creates it, and reads its newest event. Blocks while it does.
    ///
    /// Commits follow each other without a pause, because each message waits for one.
    ///
    /// # Errors
    ///
    /// [`Open`](BridgeError::Open) if the files cannot be used, and
    /// [`ForeignEvent`](BridgeError::ForeignEvent) if the newest event does not come from a bridge.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self> {
        let open = |error: std::io::Error| BridgeError::Open(error.into());
        let options = SegmentOptions::default().max_bytes(max_bytes);
        let store = SegmentStore::open(path, &options).map_err(open)?;
        let newest = newest(&store)?;
        let log = builder(max_bytes).on(store).map_err(|error| BridgeError::Open(error.into()))?;
        Ok(Self { log, newest })
    }

    /// The log, to be served.
    #[must_use]
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// Where the newest message of the log stood.
    #[must_use]
    pub fn newest(&self) -> Option<Origin> {
        self.newest
    }
}

fn builder(max_bytes: u64) -> EventLogBuilder {
    EventLog::builder().max_events(usize::MAX).max_bytes(max_bytes).commit_interval(Duration::ZERO)
}

/// The origin of the newest event. If damage has cost it, that of the newest event that is left.
fn newest(store: &SegmentStore) -> Result<Option<Origin>> {
    let extent = store.extent();
    let last = extent.next.saturating_sub(1).max(extent.first);
    let newest = match newest_from(store, last, extent.next)? {
        None => newest_from(store, extent.first, extent.next)?,
        newest => newest,
    };
    let Some((seq, event)) = newest else { return Ok(None) };
    let message: StoredMessage =
        minicbor::decode(&event.payload).map_err(|_| BridgeError::ForeignEvent(seq))?;
    Ok(Some(message.origin))
}

fn newest_from(store: &SegmentStore, mut from: u64, next: u64) -> Result<Option<(u64, StoredEvent)>> {
    let mut newest = None;
    while from < next {
        let mut events = Vec::new();
        let read = store.read(from, READ_BYTES, &mut events);
        from = read.map_err(|error| BridgeError::Open(error.into()))?;
        newest = events.pop().or(newest);
    }
    Ok(newest)
}
