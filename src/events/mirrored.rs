//! A log whose events come from another node, with their numbers.

use std::{io, ops::Range};

use bytes::Bytes;

use super::{log::EventLog, stored_event::StoredEvent};
use crate::error::{Error, ErrorKind, Result};

impl EventLog {
    /// Appends event `seq` of the origin.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish), and `Exhausted` if `seq` is not the next number, because events
    /// before it could not be written.
    pub(crate) fn append_mirrored(&self, seq: u64, payload: Bytes) -> Result<()> {
        let next = self.last_seq() + 1;
        if seq != next {
            let text = format!("the mirror needs event {next} before event {seq}");
            return Err(Error::new(ErrorKind::Exhausted).detail(text));
        }
        self.check_payload(&payload)?;
        self.backing().publish(StoredEvent { payload, published: self.now() }).map(|_| ())
    }

    /// Leaves out the events before `to`, which the origin has lost. Nothing is appended meanwhile.
    pub(crate) async fn skip_mirrored(&self, to: u64) -> Result<()> {
        let Some(committer) = self.committer() else {
            return Err(Error::invalid_config("a log in memory is no mirror"));
        };
        committer.skip(to).await
    }

    /// The numbers that are missing between those that the log keeps, as far as that is known.
    pub(crate) async fn holes(&self) -> io::Result<Vec<Range<u64>>> {
        match self.committer() {
            Some(committer) => committer.holes().await,
            None => Ok(Vec::new()),
        }
    }

    /// Writes events that another holder still has into a hole, the first under this number. They are durable
    /// when this returns.
    ///
    /// # Errors
    ///
    /// Those of `EventStore::fill`; `InvalidData` for an event that is too large.
    pub(crate) async fn fill(&self, first: u64, payloads: Vec<Bytes>) -> io::Result<()> {
        for payload in &payloads {
            let too_large = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            self.check_payload(payload).map_err(too_large)?;
        }
        let published = self.now();
        let events = payloads.into_iter().map(|payload| StoredEvent { payload, published }).collect();
        match self.committer() {
            Some(committer) => committer.fill(first, events).await,
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Event `seq`, if it is held.
    pub(crate) async fn payload_of(&self, seq: u64) -> Result<Option<Bytes>> {
        let Some(before) = seq.checked_sub(1) else { return Ok(None) };
        let mut reader = self.subscribe(Some(before), Some(self.epoch()));
        let mut batch = Vec::new();
        self.read(&mut reader, 1, &mut batch).await?;
        Ok(batch.into_iter().find(|(found, _)| *found == seq).map(|(_, payload)| payload))
    }
}
