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

    /// Reads a few of the events that are kept, from this number on, or from the oldest one if it is none of
    /// them, so that damage to them is found. Returns the number to go on with.
    pub(crate) async fn check_from(&self, from: u64) -> Result<u64> {
        let kept = self.first_seq()..self.committed_seq() + 1;
        if kept.is_empty() {
            return Ok(from);
        }
        let from = if kept.contains(&from) { from } else { kept.start };
        let read = self.backing().read_older(from, kept.end).await?;
        // A store that goes no further is at its end.
        Ok(if read.end() > from { read.end() } else { kept.end })
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use async_executor::Executor;
    use futures_lite::future::block_on;

    use super::*;
    use crate::{
        events::{
            EventLogBuilder,
            event_store::{Batch, Clocks, EventStore, Extent},
        },
        runtime::AsyncIoRuntime,
        sync::{Mutex, lock},
    };

    /// A store of events 1 to 100 with two holes, of which those below 40 are old. Notes what it is to fill.
    #[derive(Clone, Default)]
    struct Holey(Arc<Mutex<Vec<(u64, usize)>>>);

    impl EventStore for Holey {
        fn extent(&self) -> Extent {
            Extent { epoch: 5, first: 1, next: 101 }
        }
        fn last_clocks(&self) -> Option<Clocks> {
            None
        }
        fn expired(&self, _before: Duration) -> u64 {
            40
        }
        fn append(&self, _batch: &Batch) -> io::Result<()> {
            Ok(())
        }
        fn holes(&self) -> Vec<Range<u64>> {
            vec![5..10, 30..60]
        }
        fn fill(&self, batch: &Batch) -> io::Result<()> {
            lock(&self.0).push((batch.first, batch.events.len()));
            Ok(())
        }
        fn read(&self, _from: u64, _max: usize, _out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
            Ok(101)
        }
        fn discard(&self, _below: u64) -> io::Result<()> {
            Ok(())
        }
        fn close(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The holes of a log, and what the store is asked to fill.
    type Filling = (Vec<Range<u64>>, io::Result<()>, Vec<(u64, usize)>);

    /// A log with these bounds is to be filled with two events.
    fn fill(bounds: EventLogBuilder, first: u64) -> Filling {
        let store = Holey::default();
        let runtime = AsyncIoRuntime::on(Arc::new(Executor::new()));
        let log = bounds.runtime(runtime).on(store.clone()).unwrap();
        let filled = block_on(log.fill(first, vec![Bytes::from_static(b"event"); 2]));
        let asked = lock(&store.0).clone();
        (block_on(log.holes()).unwrap(), filled, asked)
    }

    #[test]
    fn an_event_that_is_too_large_fills_no_hole() {
        let (_, filled, asked) = fill(EventLog::builder().max_payload_bytes(4), 5);
        assert_eq!((filled.unwrap_err().kind(), asked), (io::ErrorKind::InvalidData, vec![]));
    }

    #[test]
    fn holes_below_the_bounds_are_neither_known_nor_filled() {
        let bounds = || EventLog::builder().max_events(1000);
        let (holes, filled, asked) = fill(bounds(), 5);
        assert_eq!((holes, filled.is_ok(), asked), (vec![5..10, 30..60], true, vec![(5, 2)]));
        for (bounds, kept_from) in
            [(bounds().max_events(66), 35), (bounds().max_age(Duration::from_secs(1)), 40)]
        {
            let (holes, filled, asked) = fill(bounds.clone(), kept_from - 1);
            assert!(holes.into_iter().eq(std::iter::once(kept_from..60)));
            assert_eq!((filled.unwrap_err().kind(), asked), (io::ErrorKind::StorageFull, vec![]));
            let (_, filled, asked) = fill(bounds, kept_from);
            assert_eq!((filled.is_ok(), asked), (true, vec![(kept_from, 2)]));
        }
    }
}
