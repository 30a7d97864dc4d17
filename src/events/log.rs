//! The event log of a node.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

#[cfg(feature = "durable")]
use super::durable::{Committer, Knobs};
use super::ring::{Bounds, Held, OVERHEAD, Ring};
use crate::{
    error::{Error, ErrorKind, Result},
    limits::TransportLimits,
    message::{EVENT_OVERHEAD, largest_event_payload},
    sync::{AtomicBool, AtomicUsize, Event, EventListener, Mutex, MutexGuard, lock},
};

/// Events that peers subscribe to with `node.stream_events`, oldest first.
///
/// Each event gets a sequence number, from 1 by 1, and the log as a whole a random epoch, so that a
/// subscriber can tell this history from another one. The newest events are kept, up to a number and up to a
/// size; subscribers that come too late for an event are told how many they missed. The log lives in memory,
/// and a process that restarts begins a new epoch; with feature `durable` it may live in a file, and go on.
///
/// Cloning gives another handle to the same log. Publishing works from any thread, and waits for no
/// subscriber.
///
/// ```
/// use palyra_quic::EventLog;
///
/// let log = EventLog::builder().max_events(100).build()?;
/// assert_eq!(log.publish("door opened")?, 1);
/// assert_eq!(log.publish("door closed")?, 2);
/// assert_eq!((log.first_seq(), log.last_seq()), (1, 2));
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
}

struct Shared {
    epoch: u64,
    bounds: Bounds,
    max_payload_bytes: usize,
    max_subscribers: usize,
    ring: Mutex<Ring>,
    published: Event,
    subscribers: AtomicUsize,
    closed: AtomicBool,
    #[cfg(feature = "durable")]
    committer: Option<Committer>,
}

const MAX_EVENTS: usize = 4096;
const MAX_BYTES: usize = 1024 * 1024;
/// As many as there are connections by default.
const MAX_SUBSCRIBERS: usize = 256;
/// Base64 makes this a third larger, and it must still fit a frame of the default size.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// JSON, and the peers that speak it, hold integers exactly up to 2^53 (RFC 8259, section 6).
const EPOCH_MASK: u64 = (1 << 53) - 1;

impl EventLog {
    /// A log with the default bounds: 4,096 events and 1 MiB.
    #[must_use]
    pub fn new() -> Self {
        EventLogBuilder::default().create()
    }

    /// Chooses the bounds.
    #[must_use]
    pub fn builder() -> EventLogBuilder {
        EventLogBuilder::default()
    }

    /// Appends an event and wakes the subscribers; gives its sequence number.
    ///
    /// The log counts what it is given: a payload that is a slice of something larger keeps all of that in
    /// memory. Parameters of methods and notifications never do.
    ///
    /// Never waits, neither for subscribers nor for a disk. The oldest events make room where a bound is
    /// reached. In a durable log the event is written, and subscribers get it, with the next commit;
    /// until then it does not survive the process.
    ///
    /// # Errors
    ///
    /// [`MessageTooLarge`](ErrorKind::MessageTooLarge) where the payload is above
    /// [`max_payload_bytes`](EventLogBuilder::max_payload_bytes); [`Closed`](ErrorKind::Closed) once the log
    /// is [closed](Self::close). Of a durable log,
    /// [`Exhausted`](ErrorKind::Exhausted) where more waits to be written than the log may hold, and
    /// [`Io`](ErrorKind::Io) once writing has failed.
    pub fn publish(&self, payload: impl Into<Bytes>) -> Result<u64> {
        let payload = payload.into();
        let shared = &*self.shared;
        if payload.len() > shared.max_payload_bytes {
            let (length, max) = (payload.len(), shared.max_payload_bytes);
            return Err(Error::new(ErrorKind::MessageTooLarge)
                .detail(format!("an event of {length} bytes, at most {max} may be published")));
        }
        let held = Held { payload, published: since_1970() };
        #[cfg(feature = "durable")]
        if let Some(committer) = &shared.committer {
            return committer.enqueue(self, held);
        }
        if shared.closed.load(Ordering::Relaxed) {
            return Err(closed());
        }
        Ok(self.append([held]))
    }

    /// As [`publish`](Self::publish), and resolves when the event survives the process and the machine: in a
    /// durable log with the commit that writes it, in memory immediately, since there nothing ever does.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish); [`Io`](ErrorKind::Io) where writing failed.
    ///
    /// # Cancellation
    ///
    /// The event is published all the same.
    pub async fn publish_durable(&self, payload: impl Into<Bytes>) -> Result<u64> {
        let seq = self.publish(payload)?;
        #[cfg(feature = "durable")]
        if let Some(committer) = &self.shared.committer {
            committer.committed(seq).await?;
        }
        Ok(seq)
    }

    /// Resolves when everything published so far survives the process; see
    /// [`publish_durable`](Self::publish_durable). What waits is written now, and not when the interval
    /// between commits is over.
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) where writing failed.
    ///
    /// # Cancellation
    ///
    /// The events are written all the same.
    pub async fn flush(&self) -> Result<()> {
        #[cfg(feature = "durable")]
        if let Some(committer) = &self.shared.committer {
            committer.flushed().await?;
        }
        Ok(())
    }

    /// Publishes nothing more: writes what is pending, and releases the file of a durable log, though other
    /// handles are left. Subscribers go on to get what is held in memory. Closing twice is closing once,
    /// and every caller waits until the file is released.
    ///
    /// Dropping the last handle releases the file, too: immediately where nothing is pending, and otherwise
    /// once it is written. A log that an [`Endpoint`](crate::Endpoint) serves has a handle there, until
    /// the endpoint is dropped.
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) where writing failed, now or earlier. The file is released all the same.
    ///
    /// # Cancellation
    ///
    /// Nothing more is published, and what is pending is written. The file is released by the next call, or
    /// with the last handle.
    pub async fn close(&self) -> Result<()> {
        self.shared.closed.store(true, Ordering::Relaxed);
        #[cfg(feature = "durable")]
        if let Some(committer) = &self.shared.committer {
            committer.close().await?;
        }
        Ok(())
    }

    /// Whether dropping this handle drops the log.
    #[cfg(feature = "durable")]
    pub(super) fn is_last_handle(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// Appends events that may be seen from now on; gives the number of the last.
    pub(super) fn append(&self, events: impl IntoIterator<Item = Held>) -> u64 {
        let last = {
            let mut ring = self.ring();
            events.into_iter().for_each(|held| ring.push(held));
            ring.last()
        };
        self.shared.published.notify(usize::MAX);
        last
    }

    /// Identifies this history. Random, never 0, and below 2^53, which JSON can still tell exactly.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// The sequence number of the oldest event still held, or of the next event if none is held.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.ring().first()
    }

    /// The sequence number of the newest event that was published; 0 before the first. In a durable log, it
    /// may still have to be written: see [`committed_seq`](Self::committed_seq).
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        #[cfg(feature = "durable")]
        if let Some(committer) = &self.shared.committer {
            return committer.last();
        }
        self.committed_seq()
    }

    /// The sequence number of the newest event that subscribers can get; 0 before the first. In a durable
    /// log, it and all before it are on disk; in memory, it is [`last_seq`](Self::last_seq).
    #[must_use]
    pub fn committed_seq(&self) -> u64 {
        self.ring().last()
    }

    /// How many events are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring().len()
    }

    /// Whether no event is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn max_payload_bytes(&self) -> usize {
        self.shared.max_payload_bytes
    }

    /// Where a subscriber starts that has processed everything up to `resume_from` in `epoch`, and what it
    /// cannot get.
    pub(crate) fn subscribe(
        &self,
        resume_from: Option<u64>,
        epoch: Option<u64>,
    ) -> (Position, Option<GapBefore>) {
        let (first, last) = {
            let ring = self.ring();
            (ring.first(), ring.last())
        };
        let gap = |missed| Some(GapBefore { first_seq: first, missed });
        match resume_from {
            None => (Position { next: first }, None),
            // A cursor of another history says nothing about this one, and one ahead of the log belongs to
            // another.
            Some(_) if epoch.is_some_and(|epoch| epoch != self.epoch()) => {
                (Position { next: first }, gap(None))
            }
            Some(seq) if seq > last => (Position { next: first }, gap(None)),
            Some(seq) if seq + 1 < first => (Position { next: first }, gap(Some(first - (seq + 1)))),
            Some(seq) => (Position { next: seq + 1 }, None),
        }
    }

    /// Moves `position` over events whose payloads together reach `enough` bytes, or over all there are, and
    /// puts them into `batch`. Where the next one is gone already, gives what was missed, and goes on
    /// behind it.
    pub(crate) fn read(
        &self,
        position: &mut Position,
        enough: usize,
        batch: &mut Vec<(u64, Bytes)>,
    ) -> Option<GapBefore> {
        let ring = self.ring();
        let first = ring.first();
        let gap = (position.next < first).then(|| {
            let missed = Some(first - position.next);
            position.next = first;
            GapBefore { first_seq: first, missed }
        });
        let mut bytes = 0;
        for payload in ring.from(position.next) {
            batch.push((position.next, payload.clone()));
            position.next += 1;
            bytes += payload.len() + EVENT_OVERHEAD;
            if bytes >= enough {
                break;
            }
        }
        gap
    }

    /// A place among the subscribers, until it is dropped; `None` where all are taken.
    pub(crate) fn admit_subscriber(&self) -> Option<SubscriberSlot> {
        let max = self.shared.max_subscribers;
        let taken = self
            .shared
            .subscribers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1));
        taken.is_ok().then(|| SubscriberSlot { log: self.clone() })
    }

    /// How many subscriptions are open.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.shared.subscribers.load(Ordering::Relaxed)
    }

    /// Resolves when something was published after this call.
    pub(crate) fn listen(&self) -> EventListener {
        self.shared.published.listen()
    }

    /// What [`first_seq`](Self::first_seq) will be when these are appended.
    #[cfg(feature = "durable")]
    pub(super) fn first_seq_after(&self, events: &[Held]) -> u64 {
        self.ring().first_after(events)
    }

    #[cfg(feature = "durable")]
    pub(super) fn committer(&self) -> Option<&Committer> {
        self.shared.committer.as_ref()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        let mut ring = lock(&self.shared.ring);
        if self.shared.bounds.age.is_some() {
            ring.expire(since_1970());
        }
        ring
    }
}

/// Calendar time, which ages are counted in: a log may go on in another process, or after a restart of the
/// machine.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed).detail("the event log is closed")
}

/// Held by a subscription while it is served.
#[derive(Debug)]
pub(crate) struct SubscriberSlot {
    log: EventLog,
}

impl Drop for SubscriberSlot {
    fn drop(&mut self) {
        self.log.shared.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("epoch", &self.epoch())
            .field("first_seq", &self.first_seq())
            .field("last_seq", &self.last_seq())
            .finish_non_exhaustive()
    }
}

/// Where a subscriber stands: the next event it is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    next: u64,
}

impl Position {
    /// The last event that the subscriber got, or that was before those it is to get.
    pub(crate) fn last_seq(self) -> u64 {
        self.next - 1
    }
}

/// Events that a subscriber will not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GapBefore {
    /// The oldest event held.
    pub(crate) first_seq: u64,
    /// How many are missing, where that is known.
    pub(crate) missed: Option<u64>,
}

/// Collects the bounds of an [`EventLog`]; see [`EventLog::builder`].
#[derive(Clone, Debug)]
pub struct EventLogBuilder {
    max_events: usize,
    max_bytes: usize,
    max_age: Option<Duration>,
    pub(super) max_payload_bytes: usize,
    max_subscribers: usize,
    #[cfg(feature = "durable")]
    pub(super) knobs: Knobs,
}

impl Default for EventLogBuilder {
    fn default() -> Self {
        Self {
            max_events: MAX_EVENTS,
            max_bytes: MAX_BYTES,
            max_age: None,
            max_payload_bytes: MAX_PAYLOAD_BYTES,
            max_subscribers: MAX_SUBSCRIBERS,
            #[cfg(feature = "durable")]
            knobs: Knobs::default(),
        }
    }
}

impl EventLogBuilder {
    /// How many events are held at most. Default: 4,096.
    #[must_use]
    pub fn max_events(self, max_events: usize) -> Self {
        Self { max_events, ..self }
    }

    /// How many bytes the events held may take: each counts its payload and 64 more. Default: 1 MiB. A
    /// durable log takes as much of the disk, and while events are written and others wait, twice as much
    /// memory again.
    #[must_use]
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// How long an event is held at most, by the calendar's clock. Default: for ever.
    #[must_use]
    pub fn max_age(self, max_age: Duration) -> Self {
        Self { max_age: Some(max_age), ..self }
    }

    /// The largest payload of an event, in bytes. Default: 256 KiB, which fits a frame of the default size
    /// even in JSON.
    #[must_use]
    pub fn max_payload_bytes(self, max_payload_bytes: usize) -> Self {
        Self { max_payload_bytes, ..self }
    }

    /// How many subscriptions may be open at a time, of all peers together. Default: 256. Further ones are
    /// answered `resource_exhausted`. One that does not read holds 32 KiB, or 16 KiB and the largest
    /// event, and the send window of its connection.
    #[must_use]
    pub fn max_subscribers(self, max_subscribers: usize) -> Self {
        Self { max_subscribers, ..self }
    }

    /// Takes `max_bytes` from the limits' [`event_log_bytes`](crate::TransportLimits::event_log_bytes), and
    /// makes `max_payload_bytes` the most that fits their frames, in JSON too.
    #[must_use]
    pub fn within(self, limits: &TransportLimits) -> Self {
        let max_bytes = usize::try_from(limits.event_log_bytes()).unwrap_or(usize::MAX);
        let largest = largest_event_payload(limits.max_frame_len()).min(max_bytes.saturating_sub(OVERHEAD));
        Self { max_bytes, max_payload_bytes: largest, ..self }
    }

    /// Checks the bounds and makes the log. Memory grows with the events, up to the bounds.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where `max_events` or `max_subscribers` is zero, or a
    /// single event of `max_payload_bytes` would not fit into `max_bytes`.
    pub fn build(self) -> Result<EventLog> {
        self.check()?;
        Ok(self.create())
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.max_events == 0 {
            return Err(Error::invalid_config("max_events is zero"));
        }
        if self.max_subscribers == 0 {
            return Err(Error::invalid_config("max_subscribers is zero"));
        }
        if self.max_payload_bytes.saturating_add(OVERHEAD) > self.max_bytes {
            return Err(Error::invalid_config("max_bytes does not hold one event of max_payload_bytes"));
        }
        Ok(())
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds { events: self.max_events, bytes: self.max_bytes, age: self.max_age }
    }

    fn create(self) -> EventLog {
        let ring = Ring::new(self.bounds(), 1);
        self.create_with(
            random_epoch(),
            ring,
            #[cfg(feature = "durable")]
            None,
        )
    }

    pub(super) fn create_with(
        self,
        epoch: u64,
        ring: Ring,
        #[cfg(feature = "durable")] committer: Option<Committer>,
    ) -> EventLog {
        EventLog {
            shared: Arc::new(Shared {
                epoch,
                bounds: self.bounds(),
                max_payload_bytes: self.max_payload_bytes,
                max_subscribers: self.max_subscribers,
                ring: Mutex::new(ring),
                published: Event::new(),
                subscribers: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
                #[cfg(feature = "durable")]
                committer,
            }),
        }
    }
}

/// A number that two histories of a node will hardly share.
pub(super) fn random_epoch() -> u64 {
    // The standard library seeds its hashers from the operating system.
    let random = RandomState::new().build_hasher().finish();
    (random & EPOCH_MASK).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(count: u64, max_events: usize) -> EventLog {
        let log = EventLog::builder().max_events(max_events).build().unwrap();
        for seq in 1..=count {
            assert_eq!(log.publish(format!("event {seq}")).unwrap(), seq);
        }
        log
    }

    /// The sequence numbers that a subscriber gets, and the gap before them.
    fn replay(log: &EventLog, resume_from: Option<u64>, epoch: Option<u64>) -> (Option<GapBefore>, Vec<u64>) {
        let (mut position, gap) = log.subscribe(resume_from, epoch);
        let mut batch = Vec::new();
        assert_eq!(log.read(&mut position, usize::MAX, &mut batch), None);
        (gap, batch.into_iter().map(|(seq, _)| seq).collect())
    }

    #[test]
    fn a_subscriber_gets_what_follows_its_cursor() {
        let log = log_of(5, 10);
        assert_eq!(replay(&log, None, None), (None, vec![1, 2, 3, 4, 5]));
        assert_eq!(replay(&log, Some(0), None), (None, vec![1, 2, 3, 4, 5]));
        assert_eq!(replay(&log, Some(3), Some(log.epoch())), (None, vec![4, 5]));
        assert_eq!(replay(&log, Some(5), None), (None, vec![]));
    }

    #[test]
    fn what_is_no_longer_held_is_a_gap_with_its_count() {
        let log = log_of(10, 4);
        assert_eq!((log.first_seq(), log.last_seq(), log.len()), (7, 10, 4));
        let gap = GapBefore { first_seq: 7, missed: Some(3) };
        assert_eq!(replay(&log, Some(3), None), (Some(gap), vec![7, 8, 9, 10]));
        assert_eq!(replay(&log, Some(6), None), (None, vec![7, 8, 9, 10]), "nothing is missing");
        assert_eq!(replay(&log, None, None), (None, vec![7, 8, 9, 10]), "nothing was promised");
    }

    #[test]
    fn a_cursor_ahead_of_the_log_or_of_another_epoch_is_a_gap_of_unknown_size() {
        let log = log_of(3, 10);
        let gap = Some(GapBefore { first_seq: 1, missed: None });
        for (resume_from, epoch) in [(4, None), (u64::MAX, None), (2, Some(log.epoch() + 1)), (3, Some(0))] {
            assert_eq!(replay(&log, Some(resume_from), epoch), (gap, vec![1, 2, 3]));
        }
        assert_eq!(
            replay(&log, None, Some(0)),
            (None, vec![1, 2, 3]),
            "an epoch without a cursor means nothing"
        );
    }

    #[test]
    fn an_empty_log_promises_the_first_event() {
        let log = EventLog::new();
        assert!(log.is_empty());
        assert_eq!((log.first_seq(), log.last_seq()), (1, 0));
        assert_eq!(replay(&log, Some(0), None), (None, vec![]));
        assert_eq!(replay(&log, Some(1), None), (Some(GapBefore { first_seq: 1, missed: None }), vec![]));
    }

    #[test]
    fn a_subscriber_that_falls_behind_learns_how_many_it_missed() {
        let log = log_of(4, 4);
        let (mut position, _) = log.subscribe(None, None);
        let mut batch = Vec::new();
        assert_eq!(log.read(&mut position, 1, &mut batch), None);
        assert_eq!(batch.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1], "one event is enough");
        for _ in 5..=9 {
            log.publish("more").unwrap();
        }
        batch.clear();
        let gap = log.read(&mut position, usize::MAX, &mut batch);
        assert_eq!(gap, Some(GapBefore { first_seq: 6, missed: Some(4) }), "2 to 5");
        assert_eq!(batch.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [6, 7, 8, 9]);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let log = EventLog::builder().max_payload_bytes(100).max_bytes(3 * (100 + OVERHEAD)).build().unwrap();
        for _ in 0..10 {
            log.publish(vec![0; 100]).unwrap();
        }
        assert_eq!((log.len(), log.first_seq()), (3, 8));
        assert_eq!(log.publish(vec![0; 101]).unwrap_err().kind(), &ErrorKind::MessageTooLarge);
        assert_eq!(log.last_seq(), 10, "a refused event takes no number");
    }

    #[test]
    fn bounds_that_hold_no_event_are_refused() {
        for builder in [EventLog::builder().max_events(0), EventLog::builder().max_bytes(1024)] {
            assert_eq!(builder.build().unwrap_err().kind(), &ErrorKind::InvalidConfig);
        }
    }

    #[test]
    fn epochs_are_exact_in_json_and_differ() {
        let epochs: std::collections::HashSet<u64> = (0..100).map(|_| EventLog::new().epoch()).collect();
        assert_eq!(epochs.len(), 100);
        assert!(epochs.iter().all(|epoch| (1..=EPOCH_MASK).contains(epoch)));
    }

    #[test]
    fn publishing_wakes_who_listens() {
        let log = EventLog::new();
        let listener = log.listen();
        log.publish("news").unwrap();
        futures_lite::future::block_on(listener);
    }
}
