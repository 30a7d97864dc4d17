//! Event logs in files.

#[cfg(unix)]
use std::path::Path;
use std::{sync::Arc, time::Duration};

use quinn::Runtime;

use super::{
    builder::EventLogBuilder,
    committer::{Committer, Retention},
    consumer_file::ConsumerFile,
    cursor::Cursor,
    event_store::{EventStore, Extent},
    kept::Kept,
    log::EventLog,
    log_clock::{LogClock, system_clocks},
    stored::Stored,
};
#[cfg(unix)]
use super::{cursor_table::MAX_NAMES, log_files::LogFiles, segment::SegmentOptions, served_log::MirroredLog};
use crate::{
    error::{Error, Result},
    runtime::{Clock, default_runtime},
    sync::{AtomicU64, Mutex},
};

/// Eight segments are as many bytes as a log may have, so that few events go at a time: but not in segments
/// that would be more header than events, nor in larger ones than it takes to spare anything.
const MIN_SEGMENT_BYTES: u64 = 64 * 1024;
const MAX_SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

impl EventLogBuilder {
    /// The runtime whose timers let the [interval](Self::commit_interval) between commits pass, and whose
    /// clock measures ages. Default: as for
    /// [`EndpointBuilder::runtime`](crate::EndpointBuilder::runtime). If its executor is dropped, events are
    /// written without an interval. For logs that are [opened](Self::open).
    #[must_use]
    pub fn runtime(self, runtime: impl Runtime) -> Self {
        self.shared_runtime(Arc::new(runtime))
    }

    /// What runs the log, as [`runtime`](Self::runtime), for one that has other owners too: that of an
    /// endpoint, for instance.
    #[must_use]
    pub fn shared_runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.commits.runtime = Some(runtime);
        self
    }

    /// The least time between two commits, unless [`commit_events`](Self::commit_events) wait. Default: 20
    /// ms. An event that comes after a pause is written immediately. For logs that are [opened](Self::open).
    ///
    /// With an interval of zero, events are written as soon as the disk is free. If callers of
    /// [`publish_durable`](EventLog::publish_durable) share the log, a commit then lets those publish who
    /// waited for the one before: for as long as the disk took at most, and for no longer than 1 ms.
    #[must_use]
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.commits.commit_interval = interval;
        self
    }

    /// This many waiting events are written without waiting for the interval to end. Default: 1,024. For
    /// logs that are [opened](Self::open).
    #[must_use]
    pub fn commit_events(mut self, events: usize) -> Self {
        self.commits.commit_events = events;
        self
    }

    /// Makes the interval between commits pass before the first event after a pause is written, too: an
    /// event then waits for up to the interval, and a log that gets one event now and then writes flash less
    /// often. For logs that are [opened](Self::open).
    #[must_use]
    pub fn delay_first_commit(mut self) -> Self {
        self.commits.delays_first = true;
        self
    }

    /// Opens the log in this directory, or creates it: a history that goes on across restarts, with its epoch
    /// and its numbers, in a [`SegmentStore`](crate::SegmentStore) of at most [`max_bytes`](Self::max_bytes).
    ///
    /// An event whose [`publish_durable`](EventLog::publish_durable) has resolved survives kill -9 and the
    /// loss of power, as far as the disk keeps what it was told to. Damage costs the damaged events, which
    /// subscribers learn by a gap; see [`EventLog::health`].
    ///
    /// This blocks while the newest two segments are read. Reading and writing later go through the thread
    /// pool of the `blocking` crate, as smol's own file operations do: at most one write and four reads of a
    /// log at a time.
    ///
    /// For other options of the store, open it yourself, and use [`on`](Self::on).
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) as for [`build`](Self::build), and without a
    /// runtime;
    /// [`Io`](crate::ErrorKind::Io) as for [`SegmentStore::open`](crate::SegmentStore::open).
    #[cfg(unix)]
    pub fn open(self, path: impl AsRef<Path>) -> Result<EventLog> {
        self.open_in(path.as_ref(), SegmentOptions::default())
    }

    /// What is served of a log with these bounds that a mirror will open.
    #[cfg(unix)]
    pub(crate) fn mirrored(&self) -> MirroredLog {
        MirroredLog::new(self.max_payload_bytes, self.consumers.max_bytes.is_some())
    }

    /// As [`open`](Self::open), for a log that mirrors this epoch of another node.
    #[cfg(unix)]
    pub(crate) fn open_mirror(self, files: &(impl LogFiles + ?Sized), epoch: u64) -> Result<EventLog> {
        let log =
            self.open_in(files, SegmentOptions::default().epochs_from(move || epoch).repeat_numbers())?;
        if log.epoch() != epoch {
            let text = format!("{} has events of epoch {}, not {epoch}", files.location(), log.epoch());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text).into());
        }
        log.into_mirror().ok_or_else(|| Error::invalid_config("the log is in use"))
    }

    /// As [`open`](Self::open), with files that may be elsewhere.
    #[cfg(unix)]
    pub(crate) fn open_in(
        self,
        files: &(impl LogFiles + ?Sized),
        options: SegmentOptions,
    ) -> Result<EventLog> {
        let runtime = self.checked_runtime()?;
        self.check_stored_consumers()?;
        let segment_bytes = self.segment_bytes();
        let max_bytes = self.consumers.max_bytes.unwrap_or(self.max_bytes);
        let store = files.store(options.segment_bytes(segment_bytes).max_bytes(max_bytes))?;
        let consumers = self.consumers.open_file.map(|open| files.consumers(open)).transpose()?;
        self.start(runtime, store, consumers)
    }

    #[cfg(unix)]
    fn check_stored_consumers(&self) -> Result<()> {
        if self.consumers.max > MAX_NAMES {
            return Err(Error::invalid_config(format!("a log in files keeps at most {MAX_NAMES} consumers")));
        }
        let least = self.reserve().saturating_mul(2);
        if self.consumers.refuses && self.consumers.max_bytes.is_some_and(|bytes| bytes < least) {
            let text =
                format!("to refuse events, this log needs keep_unacknowledged of {least} bytes or more");
            return Err(Error::invalid_config(text));
        }
        Ok(())
    }

    /// What must be left where events are refused: before a store begins a segment, it discards what would be
    /// too much with that one, which is as large as a commit may be.
    fn reserve(&self) -> u64 {
        let commit = u64::try_from(self.stored_memory_bytes()).unwrap_or(u64::MAX);
        self.segment_bytes().saturating_add(commit).saturating_mul(2)
    }

    fn segment_bytes(&self) -> u64 {
        (self.max_bytes / 8).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES)
    }

    /// Continues the log that is in this store, or begins one in it.
    ///
    /// Subscribers get an event only when the store has it, so that none ever gets one that is then
    /// forgotten.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) as for [`build`](Self::build), and without a
    /// runtime; [`Io`](crate::ErrorKind::Io) if the store is at numbers that [`Extent`] does not allow.
    pub fn on(self, store: impl EventStore) -> Result<EventLog> {
        let runtime = self.checked_runtime()?;
        self.start(runtime, Arc::new(store), None)
    }

    fn checked_runtime(&self) -> Result<Arc<dyn Runtime>> {
        self.check()?;
        if self.commits.commit_events == 0 {
            return Err(Error::invalid_config("commit_events is zero"));
        }
        let runtime = self.commits.runtime.clone().or_else(default_runtime);
        runtime.ok_or_else(|| Error::invalid_config("no runtime was given"))
    }

    fn start(
        self,
        runtime: Arc<dyn Runtime>,
        store: Arc<dyn EventStore>,
        file: Option<Box<dyn ConsumerFile>>,
    ) -> Result<EventLog> {
        let Extent { epoch, next, .. } = store.extent().checked()?;
        let clocks = {
            let runtime = Arc::clone(&runtime);
            system_clocks(move || runtime.now())
        };
        let clock = match store.last_clocks() {
            Some(last) => LogClock::resuming(clocks, last),
            None => LogClock::starting(clocks),
        };
        let kept = self.kept(epoch, next, clock.now(), file)?;
        let consumers = kept.as_ref().map(|kept| Arc::clone(&kept.consumers));
        let history = self.newest(epoch, next, clock);
        let retention =
            Retention { events: u64::try_from(self.max_events).unwrap_or(u64::MAX), age: self.max_age };
        let max_pending_bytes = self.stored_memory_bytes();
        let clock = Clock::new(runtime);
        let committer = Committer::new(
            clock.clone(),
            Arc::clone(&store),
            Arc::clone(&history),
            self.commits,
            retention,
            kept,
            max_pending_bytes,
        );
        let stored = Stored::new(committer, store, self.max_payload_bytes, clock);
        Ok(EventLog::with(history, Box::new(stored), self.max_payload_bytes, consumers))
    }

    /// The consumers of a log that is at number `next`: those that the owner declares, and those in the file.
    fn kept(
        &self,
        epoch: u64,
        next: u64,
        now: Duration,
        file: Option<Box<dyn ConsumerFile>>,
    ) -> Result<Option<Kept>> {
        let (saved, is_incomplete) = file.as_ref().map(|file| file.all()).unwrap_or_default();
        let acknowledged = |(name, cursor): (Box<str>, Cursor)| {
            // Of another epoch, it says nothing about this one.
            let seq = if cursor.epoch() == Some(epoch) { cursor.seq() } else { 0 };
            (name, seq.min(next.saturating_sub(1)))
        };
        let saved: Vec<_> = saved.into_iter().map(acknowledged).collect();
        let Some((max_bytes, consumers)) =
            self.consumers.max_bytes.zip(self.consumers.consumers(&saved, now)?)
        else {
            return Ok(None);
        };
        if is_incomplete {
            tracing::warn!("the consumers of an event log are lost to damage: everything is kept");
            consumers.set_incomplete();
        }
        let saved_from = consumers.acknowledged_by_all().saturating_add(1);
        Ok(Some(Kept {
            consumers: Arc::new(consumers),
            epoch: AtomicU64::new(epoch),
            file: file.map(|file| Mutex::new(Some(file))),
            saving: Mutex::new(()),
            saved_from: AtomicU64::new(saved_from),
            max_acknowledged_bytes: self.max_bytes,
            full_at: self.consumers.refuses.then(|| max_bytes.saturating_sub(self.reserve())),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicU8, AtomicU32, Ordering},
    };

    use async_executor::Executor;
    use bytes::Bytes;
    use futures_lite::future::{self, block_on};

    use super::*;
    use crate::{
        error::ErrorKind,
        events::{
            GapBefore, LogState,
            event_store::{Batch, Clocks, StoredEvent},
        },
        runtime::AsyncIoRuntime,
        sync::lock,
    };

    const EPOCH: u64 = 5;
    const SOUND: u8 = 0;
    const FULL: u8 = 1;
    const PANICKING: u8 = 2;

    /// A store in memory, which loses and fails what the test says.
    #[derive(Default)]
    struct Faulty {
        events: Mutex<Vec<(u64, StoredEvent)>>,
        next: Mutex<u64>,
        state: AtomicU8,
        reads: AtomicU32,
        /// Events below this number are at hand.
        at_hand: AtomicU64,
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Faulty>);

    impl Shared {
        fn set(&self, state: u8) {
            self.0.state.store(state, Ordering::Relaxed);
        }

        fn lose(&self, numbers: std::ops::Range<u64>) {
            lock(&self.0.events).retain(|(seq, _)| !numbers.contains(seq));
        }

        fn check(&self) -> io::Result<()> {
            match self.0.state.load(Ordering::Relaxed) {
                SOUND => Ok(()),
                FULL => Err(io::ErrorKind::StorageFull.into()),
                _ => panic!("the test asked for this"),
            }
        }
    }

    impl EventStore for Shared {
        fn extent(&self) -> Extent {
            let (next, events) = (*lock(&self.0.next) + 1, lock(&self.0.events));
            Extent { epoch: EPOCH, first: events.first().map_or(next, |(seq, _)| *seq), next }
        }

        fn last_clocks(&self) -> Option<Clocks> {
            None
        }

        fn append(&self, batch: &Batch) -> io::Result<()> {
            self.check()?;
            let mut last = lock(&self.0.next);
            *last = batch.end(*last + 1)? - 1;
            lock(&self.0.events).extend((batch.first..).zip(batch.events.iter().cloned()));
            Ok(())
        }

        fn read(&self, from: u64, max: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
            self.0.reads.fetch_add(1, Ordering::Relaxed);
            self.check()?;
            let events = lock(&self.0.events);
            let mut bytes = 0;
            for (seq, event) in events.iter().filter(|(seq, _)| *seq >= from) {
                out.push((*seq, event.clone()));
                bytes += event.payload.len();
                if bytes >= max {
                    return Ok(seq + 1);
                }
            }
            Ok(*lock(&self.0.next) + 1)
        }

        fn read_cached(&self, from: u64, take: &mut dyn FnMut(u64, StoredEvent) -> bool) {
            let end = self.0.at_hand.load(Ordering::Relaxed);
            assert!(end < u64::MAX, "the test asked for this");
            let events = lock(&self.0.events).clone();
            for (seq, event) in events.into_iter().filter(|(seq, _)| (from..end).contains(seq)) {
                if !take(seq, event) {
                    break;
                }
            }
        }

        fn discard(&self, below: u64) -> io::Result<()> {
            lock(&self.0.events).retain(|(seq, _)| *seq >= below);
            Ok(())
        }

        fn close(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A log in such a store, and its executor. Few events are in memory.
    fn log() -> (EventLog, Shared, Arc<Executor<'static>>) {
        let (store, executor) = (Shared::default(), Arc::new(Executor::new()));
        let runtime = AsyncIoRuntime::on(Arc::clone(&executor));
        let builder = EventLog::builder().commit_interval(Duration::ZERO).runtime(runtime);
        let builder = builder.max_payload_bytes(100).memory_bytes(4 * 164);
        (builder.on(store.clone()).unwrap(), store, executor)
    }

    fn publish(log: &EventLog, executor: &Executor<'static>, count: u64) {
        block_on(executor.run(async {
            for _ in 0..count {
                log.publish_durable_raw(vec![0; 100]).await.unwrap();
            }
        }));
    }

    /// The gaps and the numbers of events that a subscriber gets.
    fn replay(log: &EventLog, resume_from: Option<u64>, epoch: Option<u64>) -> (Vec<GapBefore>, Vec<u64>) {
        let mut reader = log.subscribe(resume_from, epoch);
        let (mut gaps, mut seqs) = (Vec::new(), Vec::new());
        loop {
            let mut batch: Vec<(u64, Bytes)> = Vec::new();
            let gap = block_on(log.read(&mut reader, 250, &mut batch)).unwrap();
            if gap.is_none() && batch.is_empty() {
                assert_eq!(reader.last_seq(), log.committed_seq());
                return (gaps, seqs);
            }
            gaps.extend(gap);
            seqs.extend(batch.into_iter().map(|(seq, _)| seq));
        }
    }

    fn gap(first_seq: u64, missed: u64) -> GapBefore {
        GapBefore { first_seq, missed: Some(missed) }
    }

    #[test]
    fn a_log_holds_more_than_fits_in_memory() {
        let (log, _store, executor) = log();
        publish(&log, &executor, 50);
        assert_eq!((log.first_seq(), log.last_seq(), log.len()), (1, 50, 50));
        assert_eq!(replay(&log, None, None), (vec![], (1..=50).collect()));
        assert_eq!(replay(&log, Some(13), Some(EPOCH)), (vec![], (14..=50).collect()));
        let unknown = GapBefore { first_seq: 1, missed: None };
        assert_eq!(replay(&log, Some(13), Some(6)), (vec![unknown], (1..=50).collect()));
    }

    #[test]
    fn holes_are_gaps_with_their_counts_wherever_they_are() {
        let (log, store, executor) = log();
        publish(&log, &executor, 50);
        for lost in [1..4, 10..11, 20..40] {
            store.lose(lost);
        }
        let seqs: Vec<u64> = (4..10).chain(11..20).chain(40..=50).collect();
        let gaps = [gap(11, 1), gap(40, 20)];
        assert_eq!(replay(&log, None, None), (gaps.to_vec(), seqs.clone()), "none was promised the first");
        assert_eq!(replay(&log, Some(0), None), ([&[gap(4, 3)], &gaps[..]].concat(), seqs));
        // A cursor in a hole stays where it is, and the gap leads to the next event.
        assert_eq!(replay(&log, Some(30), None), (vec![gap(40, 9)], (40..=50).collect()));
        // Up to what is in memory, where nothing is lost.
        store.lose(40..50);
        assert_eq!(replay(&log, Some(39), None), (vec![gap(47, 7)], (47..=50).collect()));
        let unknown = GapBefore { first_seq: 4, missed: None };
        assert_eq!(replay(&log, Some(99), None).0[0], unknown);
    }

    #[test]
    fn what_a_store_has_at_hand_takes_no_read_and_is_the_same() {
        let (log, store, executor) = log();
        publish(&log, &executor, 50);
        let reads = |at_hand, resume_from, epoch| {
            store.0.at_hand.store(at_hand, Ordering::Relaxed);
            let before = store.0.reads.load(Ordering::Relaxed);
            let replayed = replay(&log, resume_from, epoch);
            (replayed, store.0.reads.load(Ordering::Relaxed) - before)
        };
        assert_eq!(reads(100, None, None), ((vec![], (1..=50).collect()), 0));
        assert_eq!(reads(20, Some(5), None), ((vec![], (6..=50).collect()), 1));
        let unknown = GapBefore { first_seq: 1, missed: None };
        assert_eq!(reads(100, Some(13), Some(6)), ((vec![unknown], (1..=50).collect()), 0));
        // A store that panics there is read as if it had nothing at hand.
        assert_eq!(reads(u64::MAX, None, None), ((vec![], (1..=50).collect()), 1));
        store.lose(10..12);
        let seqs = (1..10).chain(12..=50).collect();
        assert_eq!(reads(100, None, None), ((vec![gap(12, 2)], seqs), 1), "a hole takes a read");
    }

    #[test]
    fn a_log_that_ends_in_a_hole_says_so_before_a_heartbeat() {
        let (store, executor) = (Shared::default(), Arc::new(Executor::new()));
        *lock(&store.0.next) = 10;
        let log = EventLog::builder().runtime(AsyncIoRuntime::on(executor)).on(store).unwrap();
        assert_eq!((log.first_seq(), log.last_seq(), log.len()), (11, 10, 0));
        assert_eq!(replay(&log, Some(3), None), (vec![gap(11, 7)], vec![]));
    }

    #[test]
    fn a_store_that_breaks_its_rules_is_an_error() {
        struct Lying(Shared, u64);
        impl EventStore for Lying {
            fn extent(&self) -> Extent {
                self.0.extent()
            }
            fn last_clocks(&self) -> Option<Clocks> {
                None
            }
            fn append(&self, batch: &Batch) -> io::Result<()> {
                self.0.append(batch)
            }
            fn read(&self, from: u64, _max: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
                let event = StoredEvent { payload: Bytes::new(), published: Duration::ZERO };
                match self.1 {
                    // Events before those that were asked for.
                    0 => out.push((from - 1, event)),
                    1 => out.extend([(from, event.clone()), (from, event)]),
                    _ => {
                        out.push((from, event));
                        return Ok(from);
                    }
                }
                Ok(from + 1)
            }
            fn discard(&self, below: u64) -> io::Result<()> {
                self.0.discard(below)
            }
            fn close(&self) -> io::Result<()> {
                Ok(())
            }
        }
        for lie in 0..3 {
            let (store, executor) = (Shared::default(), Arc::new(Executor::new()));
            let runtime = AsyncIoRuntime::on(Arc::clone(&executor));
            let builder = EventLog::builder().runtime(runtime).max_payload_bytes(100).memory_bytes(164);
            let log = builder.on(Lying(store, lie)).unwrap();
            publish(&log, &executor, 5);
            let mut reader = log.subscribe(Some(1), None);
            let read = block_on(log.read(&mut reader, 250, &mut Vec::new()));
            assert_eq!(read.unwrap_err().kind(), &ErrorKind::Exhausted, "{lie}");
            assert_eq!(log.health().failed_reads, 1);
            assert!(log.health().read_error.is_some_and(|error| error.contains("broke its rules")));
        }
    }

    #[test]
    fn a_store_at_numbers_that_cannot_be_is_refused() {
        struct At(Extent);
        impl EventStore for At {
            fn extent(&self) -> Extent {
                self.0
            }
            fn last_clocks(&self) -> Option<Clocks> {
                None
            }
            fn append(&self, _batch: &Batch) -> io::Result<()> {
                Ok(())
            }
            fn read(&self, _from: u64, _max: usize, _out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
                Ok(self.0.next)
            }
            fn discard(&self, _below: u64) -> io::Result<()> {
                Ok(())
            }
            fn close(&self) -> io::Result<()> {
                Ok(())
            }
        }
        let on = |epoch, first, next| {
            let runtime = AsyncIoRuntime::on(Arc::new(Executor::new()));
            EventLog::builder().runtime(runtime).on(At(Extent { epoch, first, next }))
        };
        const MAX: u64 = 1 << 53;
        for (epoch, first, next) in [
            (0, 1, 1),
            (MAX, 1, 1),
            (1, 0, 1),
            (1, 0, 0),
            (1, 2, 1),
            (1, 1, MAX),
            (u64::MAX, u64::MAX, u64::MAX),
        ] {
            let refused = on(epoch, first, next).unwrap_err();
            assert_eq!(refused.kind(), &ErrorKind::Io, "{epoch} {first} {next}");
        }
        for (epoch, first, next) in [(1, 1, 1), (MAX - 1, 7, 8), (1, MAX - 1, MAX - 1)] {
            let log = on(epoch, first, next).unwrap();
            assert_eq!((log.epoch(), log.first_seq(), log.last_seq()), (epoch, first, next - 1));
        }
    }

    /// Such a store may change its mind while it is in use, too.
    #[test]
    fn a_store_that_turns_to_impossible_numbers_harms_no_subscriber() {
        struct Turning(Shared, AtomicU8);
        impl EventStore for Turning {
            fn extent(&self) -> Extent {
                match self.1.fetch_add(1, Ordering::Relaxed) {
                    0 => self.0.extent(),
                    n if n % 2 == 0 => Extent { epoch: 9, first: u64::MAX, next: 0 },
                    _ => Extent { epoch: 9, first: 0, next: u64::MAX },
                }
            }
            fn last_clocks(&self) -> Option<Clocks> {
                Some(Clocks { log: Duration::MAX, wall: Duration::MAX })
            }
            fn append(&self, batch: &Batch) -> io::Result<()> {
                self.0.append(batch)
            }
            fn read(&self, from: u64, max: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
                self.0.read(from, max, out)
            }
            fn expired(&self, _before: Duration) -> u64 {
                u64::MAX
            }
            fn discard(&self, _below: u64) -> io::Result<()> {
                Ok(())
            }
            fn close(&self) -> io::Result<()> {
                Ok(())
            }
        }
        let (store, executor) = (Shared::default(), Arc::new(Executor::new()));
        let builder = EventLog::builder().max_payload_bytes(100).memory_bytes(164).max_events(3);
        let builder = builder.max_age(Duration::from_secs(1));
        let log =
            builder.runtime(AsyncIoRuntime::on(Arc::clone(&executor))).on(Turning(store, AtomicU8::new(0)));
        let log = log.unwrap();
        publish(&log, &executor, 5);
        for resume_from in [None, Some(0), Some(3), Some(u64::MAX)] {
            let mut reader = log.subscribe(resume_from, None);
            for _ in 0..9 {
                let mut batch = Vec::new();
                drop(block_on(log.read(&mut reader, 250, &mut batch)));
                assert!(batch.iter().all(|(seq, _)| (1..=5).contains(seq)));
                assert!(reader.last_seq() <= 5);
            }
            assert!(log.len() <= 5 && log.first_seq() <= 6);
        }
    }

    #[test]
    fn a_store_that_cannot_be_read_is_left_alone_for_a_while() {
        for failing in [FULL, PANICKING] {
            let (log, store, executor) = log();
            publish(&log, &executor, 50);
            assert_eq!((log.health().failed_reads, log.health().read_error), (0, None));
            store.set(failing);
            let mut reader = log.subscribe(Some(3), Some(EPOCH));
            let mut read = || block_on(log.read(&mut reader, 250, &mut Vec::new()));
            let pauses: Vec<Duration> = (0..1000)
                .map(|_| {
                    let error = read().unwrap_err();
                    assert_eq!(error.kind(), &ErrorKind::Exhausted);
                    error.retry_after().unwrap()
                })
                .collect();
            let reads = store.0.reads.load(Ordering::Relaxed);
            // The pauses double, so that this leaves room for more than ten seconds.
            assert!(reads < 9, "{reads} reads");
            assert_eq!(log.health().failed_reads, u64::from(reads));
            assert!(log.health().read_error.is_some());

            store.set(SOUND);
            block_on(async_io::Timer::after(*pauses.last().unwrap()));
            read().unwrap();
            assert_eq!((log.health().failed_reads, log.health().read_error), (u64::from(reads), None));
        }
    }

    #[test]
    fn a_store_that_fails_fails_its_events_alone_and_the_log_goes_on_when_it_does() {
        for failing in [FULL, PANICKING] {
            let (log, store, executor) = log();
            publish(&log, &executor, 1);
            store.set(failing);
            let error = block_on(executor.run(log.publish_durable_raw("lost"))).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Exhausted, "{failing}");
            let pause = error.retry_after().unwrap();
            let refused = log.publish_raw("too early").unwrap_err();
            assert!(refused.retry_after().unwrap() <= pause && refused.kind() == &ErrorKind::Exhausted);
            assert!(matches!(log.health().state, LogState::Failing(_)));
            assert_eq!((log.health().failed_commits, log.health().unwritten_events), (1, 1));
            assert_eq!((log.last_seq(), log.committed_seq()), (1, 1), "subscribers see what is on disk");
            block_on(log.flush()).unwrap();

            store.set(SOUND);
            let seq = block_on(executor.run(async {
                loop {
                    match log.publish_durable_raw("kept").await {
                        Ok(seq) => break seq,
                        Err(error) => _ = async_io::Timer::after(error.retry_after().unwrap()).await,
                    }
                }
            }));
            assert_eq!((seq, log.committed_seq(), log.health().state), (2, 2, LogState::Writable));
            block_on(executor.run(log.close())).unwrap();
            assert_eq!(log.publish_raw("too late").unwrap_err().kind(), &ErrorKind::Closed);
            assert_eq!(log.health().state, LogState::Closed);
        }
    }

    #[test]
    fn a_flush_reports_that_events_were_lost_unless_their_publishers_know() {
        let (log, store, executor) = log();
        store.set(FULL);
        let waiting = block_on(executor.run(log.publish_durable_raw("lost, and reported")));
        assert_eq!(waiting.unwrap_err().kind(), &ErrorKind::Exhausted);
        block_on(log.flush()).unwrap();

        block_on(async {
            while let Err(error) = log.publish_raw("lost") {
                async_io::Timer::after(error.retry_after().unwrap()).await;
            }
        });
        assert_eq!(block_on(log.flush()).unwrap_err().kind(), &ErrorKind::Exhausted);
        block_on(log.flush()).unwrap();
    }

    /// The executor lets the interval pass, and no more.
    #[test]
    fn events_are_written_though_the_executor_is_gone() {
        let (store, executor) = (Shared::default(), Arc::new(Executor::new()));
        let builder = EventLog::builder().commit_interval(Duration::from_secs(3600)).delay_first_commit();
        let log = builder.runtime(AsyncIoRuntime::on(Arc::clone(&executor))).on(store).unwrap();
        let mut waiting = std::pin::pin!(log.publish_durable_raw("before"));
        assert!(block_on(future::poll_once(&mut waiting)).is_none());
        drop(executor);
        assert_eq!(block_on(waiting).unwrap(), 1);
        assert_eq!(block_on(log.publish_durable_raw("after")).unwrap(), 2);
        log.publish_raw("after that").unwrap();
        block_on(log.close()).unwrap();
        assert_eq!(log.committed_seq(), 3);
    }

    #[test]
    fn old_events_are_given_up() {
        let (store, executor) = (Shared::default(), Arc::new(Executor::new()));
        let builder = EventLog::builder().max_events(10).commit_interval(Duration::ZERO);
        let log = builder.runtime(AsyncIoRuntime::on(Arc::clone(&executor))).on(store.clone()).unwrap();
        publish(&log, &executor, 50);
        assert_eq!((log.first_seq(), log.len()), (41, 10));
        assert_eq!(replay(&log, Some(3), None), (vec![gap(41, 37)], (41..=50).collect()));
        assert!(lock(&store.0.events).len() <= 11);
    }
}
