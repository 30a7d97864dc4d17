//! An append-only ring of events in memory.

use std::{
    collections::VecDeque,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use event_listener::{Event, EventListener};

use crate::error::{Error, ErrorKind, Result};

/// Events that peers subscribe to with `node.stream_events`, oldest first.
///
/// Each event gets a sequence number, from 1 by 1, and the log as a whole a random epoch, so that a subscriber can tell
/// this history from another one. The newest events are kept, up to a number and up to a size; subscribers that
/// come too late for an event are told how many they missed. The log lives in memory: a process that restarts
/// begins a new epoch.
///
/// Cloning gives another handle to the same log. Publishing works from any thread, and waits for no subscriber.
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
    max_events: usize,
    max_bytes: usize,
    max_payload_bytes: usize,
    ring: Mutex<Ring>,
    published: Event,
}

struct Ring {
    events: VecDeque<Bytes>,
    /// The sequence number of the oldest event held, or of the next one where none is.
    first: u64,
    /// What the events held count for: their payloads and `OVERHEAD` each.
    bytes: usize,
}

/// What holding an event costs beside its payload: its place in the ring and the allocation's own.
const OVERHEAD: usize = 64;
const MAX_EVENTS: usize = 4096;
const MAX_BYTES: usize = 1024 * 1024;
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
    /// Never waits for a subscriber. The oldest events make room where a bound is reached.
    ///
    /// # Errors
    ///
    /// [`MessageTooLarge`](ErrorKind::MessageTooLarge) where the payload is above
    /// [`max_payload_bytes`](EventLogBuilder::max_payload_bytes).
    pub fn publish(&self, payload: impl Into<Bytes>) -> Result<u64> {
        let payload = payload.into();
        let shared = &*self.shared;
        if payload.len() > shared.max_payload_bytes {
            let (length, max) = (payload.len(), shared.max_payload_bytes);
            return Err(Error::new(ErrorKind::MessageTooLarge)
                .detail(format!("an event of {length} bytes, at most {max} may be published")));
        }
        let seq = {
            let mut ring = self.ring();
            ring.bytes += payload.len() + OVERHEAD;
            ring.events.push_back(payload);
            while ring.events.len() > shared.max_events || ring.bytes > shared.max_bytes {
                ring.forget_oldest();
            }
            ring.last()
        };
        shared.published.notify(usize::MAX);
        Ok(seq)
    }

    /// Identifies this history. Random, never 0, and below 2^53, which JSON can still tell exactly.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// The sequence number of the oldest event still held, or of the next event if none is held.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.ring().first
    }

    /// The sequence number of the newest event; 0 before the first.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.ring().last()
    }

    /// How many events are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring().events.len()
    }

    /// Whether no event is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn max_payload_bytes(&self) -> usize {
        self.shared.max_payload_bytes
    }

    /// Where a subscriber starts that has processed everything up to `resume_from` in `epoch`, and what it cannot get.
    pub(crate) fn subscribe(
        &self,
        resume_from: Option<u64>,
        epoch: Option<u64>,
    ) -> (Position, Option<GapBefore>) {
        let (first, last) = {
            let ring = self.ring();
            (ring.first, ring.last())
        };
        let gap = |missed| Some(GapBefore { first_seq: first, missed });
        match resume_from {
            None => (Position { next: first }, None),
            // A cursor of another history says nothing about this one, and one ahead of the log belongs to another.
            Some(_) if epoch.is_some_and(|epoch| epoch != self.epoch()) => {
                (Position { next: first }, gap(None))
            }
            Some(seq) if seq > last => (Position { next: first }, gap(None)),
            Some(seq) if seq + 1 < first => (Position { next: first }, gap(Some(first - (seq + 1)))),
            Some(seq) => (Position { next: seq + 1 }, None),
        }
    }

    /// Moves `position` over events whose payloads together reach `enough` bytes, or over all there are, and puts them
    /// into `batch`. Where the next one is gone already, gives what was missed, and goes on behind it.
    pub(crate) fn read(
        &self,
        position: &mut Position,
        enough: usize,
        batch: &mut Vec<(u64, Bytes)>,
    ) -> Option<GapBefore> {
        let ring = self.ring();
        let gap = (position.next < ring.first).then(|| {
            let missed = Some(ring.first - position.next);
            position.next = ring.first;
            GapBefore { first_seq: ring.first, missed }
        });
        let skipped = usize::try_from(position.next - ring.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        for payload in ring.events.range(skipped.min(ring.events.len())..) {
            batch.push((position.next, payload.clone()));
            position.next += 1;
            bytes += payload.len() + FRAME_OVERHEAD;
            if bytes >= enough {
                break;
            }
        }
        gap
    }

    /// Resolves when something was published after this call.
    pub(crate) fn listen(&self) -> EventListener {
        self.shared.published.listen()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing in here panics halfway through a change.
        self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// About what a small event's frame has beside its payload.
const FRAME_OVERHEAD: usize = 32;

impl Ring {
    fn last(&self) -> u64 {
        // As many events as a `u64` counts are never published.
        self.first + u64::try_from(self.events.len()).unwrap_or(u64::MAX) - 1
    }

    fn forget_oldest(&mut self) {
        if let Some(payload) = self.events.pop_front() {
            self.first += 1;
            self.bytes -= payload.len() + OVERHEAD;
        }
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
    max_payload_bytes: usize,
}

impl Default for EventLogBuilder {
    fn default() -> Self {
        Self { max_events: MAX_EVENTS, max_bytes: MAX_BYTES, max_payload_bytes: MAX_PAYLOAD_BYTES }
    }
}

impl EventLogBuilder {
    /// How many events are held at most. Default: 4,096.
    #[must_use]
    pub fn max_events(self, max_events: usize) -> Self {
        Self { max_events, ..self }
    }

    /// How many bytes the events held may take: each counts its payload and 64 more. Default: 1 MiB.
    #[must_use]
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// The largest payload of an event, in bytes. Default: 256 KiB, which fits a frame of the default size even in JSON.
    #[must_use]
    pub fn max_payload_bytes(self, max_payload_bytes: usize) -> Self {
        Self { max_payload_bytes, ..self }
    }

    /// Checks the bounds and makes the log. Memory grows with the events, up to the bounds.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where `max_events` is zero, or a single event of
    /// `max_payload_bytes` would not fit into `max_bytes`.
    pub fn build(self) -> Result<EventLog> {
        if self.max_events == 0 {
            return Err(Error::invalid_config("max_events is zero"));
        }
        if self.max_payload_bytes.saturating_add(OVERHEAD) > self.max_bytes {
            return Err(Error::invalid_config("max_bytes does not hold one event of max_payload_bytes"));
        }
        Ok(self.create())
    }

    fn create(self) -> EventLog {
        let Self { max_events, max_bytes, max_payload_bytes } = self;
        let ring = Ring { events: VecDeque::new(), first: 1, bytes: 0 };
        EventLog {
            shared: Arc::new(Shared {
                epoch: random_epoch(),
                max_events,
                max_bytes,
                max_payload_bytes,
                ring: Mutex::new(ring),
                published: Event::new(),
            }),
        }
    }
}

/// A number that two histories of a node will hardly share.
fn random_epoch() -> u64 {
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
