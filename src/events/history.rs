//! The events of a log in memory, and the subscribers that read them.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;

use super::{
    log_clock::LogClock,
    ring::{Bounds, Ring},
    stored_event::StoredEvent,
};
use crate::{
    error::{Error, ErrorKind, Result},
    message::EVENT_OVERHEAD,
    sync::{AtomicU64, AtomicUsize, Event, EventListener, Mutex, MutexGuard, lock},
};

/// What subscribers can get from memory: all events of a log that has nothing else, or the newest events
/// that a store holds, too.
pub(super) struct History {
    epoch: AtomicU64,
    bounds: Bounds,
    max_subscribers: usize,
    clock: LogClock,
    ring: Mutex<Ring>,
    published: Event,
    subscribers: AtomicUsize,
}

/// JSON, and the peers that speak it, hold integers exactly up to 2^53 (RFC 8259, section 6).
const EPOCH_MASK: u64 = (1 << 53) - 1;

/// When to publish again after consumers were too far behind.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl History {
    /// A history whose next event gets the number `next`.
    pub(super) fn new(
        epoch: u64,
        next: u64,
        bounds: Bounds,
        max_subscribers: usize,
        clock: LogClock,
    ) -> Arc<Self> {
        Arc::new(Self {
            epoch: AtomicU64::new(epoch),
            bounds,
            max_subscribers,
            clock,
            ring: Mutex::new(Ring::new(bounds, next)),
            published: Event::new(),
            subscribers: AtomicUsize::new(0),
        })
    }

    /// Appends events and wakes the subscribers. Returns the number of the last event.
    #[cfg(any(test, feature = "durable"))]
    pub(super) fn append(&self, events: impl IntoIterator<Item = StoredEvent>) -> u64 {
        self.append_if(events, |_, _| true).unwrap_or_else(|| self.last_seq())
    }

    /// Appends an event unless consumers still need the room. Returns its number.
    pub(super) fn publish(&self, event: StoredEvent) -> Result<u64> {
        self.append_if([event], |ring, event| !ring.refuses(&event.payload)).ok_or_else(not_acknowledged)
    }

    fn append_if(
        &self,
        events: impl IntoIterator<Item = StoredEvent>,
        may_be_added: impl Fn(&Ring, &StoredEvent) -> bool,
    ) -> Option<u64> {
        let last = {
            let mut ring = self.ring();
            for event in events {
                if !may_be_added(&ring, &event) {
                    return None;
                }
                ring.push(event);
            }
            ring.last()
        };
        self.published.notify(usize::MAX);
        Some(last)
    }

    /// All consumers have acknowledged the events up to this number.
    pub(super) fn set_acknowledged(&self, seq: u64) {
        self.ring().set_acknowledged(seq);
    }

    /// The next event gets number `to`. Those held are no longer in memory.
    #[cfg(all(feature = "durable", unix))]
    pub(super) fn skip(&self, to: u64) {
        self.ring().skip(to);
        self.published.notify(usize::MAX);
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The events and their numbers are of this epoch from now on. Wakes the subscribers, which have to be
    /// told.
    pub(super) fn set_epoch(&self, epoch: u64) {
        {
            // No event is appended meanwhile, so that each is of one epoch.
            let _ring = self.ring();
            self.epoch.store(epoch, Ordering::Release);
        }
        self.published.notify(usize::MAX);
    }

    pub(super) fn first_seq(&self) -> u64 {
        self.ring().first()
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.ring().last()
    }

    pub(super) fn clock(&self) -> &LogClock {
        &self.clock
    }

    /// The position of a subscriber that has processed everything up to `resume_from` in `epoch`, of a log
    /// whose oldest event is `first`.
    pub(super) fn position(&self, first: u64, resume_from: Option<u64>, epoch: Option<u64>) -> Position {
        let here = self.epoch();
        let of_another = |seq| epoch.is_some_and(|epoch| epoch != here) || seq > self.last_seq();
        match resume_from {
            None => Position { epoch: here, next: first, of_another_history: false },
            // A cursor of another history says nothing about this one, and a cursor ahead of the log
            // belongs to another history.
            Some(seq) if of_another(seq) => Position::of_new_epoch(here, first),
            Some(seq) => Position { epoch: here, next: seq + 1, of_another_history: false },
        }
    }

    /// Puts the events from `position` on into `batch`, until their payloads together reach `enough` bytes,
    /// and moves `position` behind them. If the next event is no longer in memory, what happens depends on
    /// whether `older` events are elsewhere.
    pub(super) fn read(
        &self,
        position: &mut Position,
        older: Older,
        enough: usize,
        batch: &mut Vec<(u64, Bytes)>,
    ) -> Read {
        let ring = self.ring();
        if older == Older::Stored && position.next < ring.first() {
            return Read::Stored { before: ring.first() };
        }
        let gap = position.move_to(ring.first().max(position.next));
        let mut bytes = 0;
        for payload in ring.from(position.next) {
            batch.push((position.next, payload.clone()));
            position.next += 1;
            bytes += payload.len() + EVENT_OVERHEAD;
            if bytes >= enough {
                break;
            }
        }
        Read::Events(gap)
    }

    /// A slot for a subscriber, until it is dropped; `None` if all are taken.
    pub(super) fn admit_subscriber(self: &Arc<Self>) -> Option<SubscriberSlot> {
        let max = self.max_subscribers;
        let taken = self
            .subscribers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1));
        taken.is_ok().then(|| SubscriberSlot { history: Arc::clone(self) })
    }

    #[cfg(all(test, feature = "durable", feature = "cert", feature = "sim"))]
    pub(super) fn memory_bytes(&self) -> usize {
        self.ring().bytes()
    }

    pub(super) fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Wakes the subscribers though no event was appended.
    #[cfg(all(feature = "durable", unix))]
    pub(super) fn wake(&self) {
        self.published.notify(usize::MAX);
    }

    /// Resolves when an event was appended after this call.
    pub(super) fn listen(&self) -> EventListener {
        self.published.listen()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        let mut ring = lock(&self.ring);
        if self.bounds.age.is_some() {
            ring.expire(self.clock.now());
        }
        ring
    }
}

/// Held by a subscription while it is served.
pub(crate) struct SubscriberSlot {
    history: Arc<History>,
}

impl Drop for SubscriberSlot {
    fn drop(&mut self) {
        self.history.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for SubscriberSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriberSlot").finish_non_exhaustive()
    }
}

/// Where the events are that are no longer in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Older {
    /// Nowhere.
    Discarded,
    /// In a store.
    Stored,
}

/// What a subscriber gets from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Events, perhaps none, after a gap, if there is one.
    Events(Option<GapBefore>),
    /// Nothing: its next events are in the store, or were, up to the number `before`.
    Stored { before: u64 },
}

/// The next event that a subscriber is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// That of the events which the subscriber gets.
    epoch: u64,
    next: u64,
    /// The subscriber's cursor is of another history, which it has to be told.
    of_another_history: bool,
}

impl Position {
    /// Of a subscriber that is to get everything from `first` on, and to be told that it is of this epoch.
    pub(super) fn of_new_epoch(epoch: u64, first: u64) -> Self {
        Self { epoch, next: first, of_another_history: true }
    }

    pub(crate) fn epoch(self) -> u64 {
        self.epoch
    }

    /// The last event that the subscriber has got, or that was before the first it is to get.
    pub(crate) fn last_seq(self) -> u64 {
        self.next - 1
    }

    pub(super) fn next(self) -> u64 {
        self.next
    }

    /// The subscriber gets this event.
    pub(super) fn pass(&mut self, seq: u64) {
        self.next = seq + 1;
    }

    /// Goes on to the next event held, which is `next`. Returns the gap that this makes.
    pub(super) fn move_to(&mut self, next: u64) -> Option<GapBefore> {
        let unknown = std::mem::take(&mut self.of_another_history);
        let missed = next - self.next;
        self.next = next;
        (unknown || missed > 0).then(|| GapBefore { first_seq: next, missed: (!unknown).then_some(missed) })
    }
}

/// Events that a subscriber will not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GapBefore {
    /// The next event held, or the number that the next event will get.
    pub(crate) first_seq: u64,
    /// How many are missing; `None` if that is not known.
    pub(crate) missed: Option<u64>,
}

/// A number that two histories of a node have in common by chance only.
pub(super) fn random_epoch() -> u64 {
    // The standard library seeds its hashers from the operating system.
    let random = RandomState::new().build_hasher().finish();
    (random & EPOCH_MASK).max(1)
}

/// Consumers lag so far behind that no event is taken.
pub(super) fn not_acknowledged() -> Error {
    let full = Error::new(ErrorKind::Exhausted).detail("the log is full of events that a consumer needs");
    full.after(Some(RETRY_AFTER))
}

pub(super) fn closed_error() -> Error {
    Error::new(ErrorKind::Closed).detail("the event log is closed")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{super::log_clock::system_clocks, *};

    /// A history of `count` events that holds the newest `max_events`.
    fn history(count: u64, max_events: usize) -> Arc<History> {
        let bounds = Bounds { events: max_events, bytes: usize::MAX, age: None, unacknowledged: None };
        let clock = LogClock::starting(system_clocks(Instant::now));
        let history = History::new(random_epoch(), 1, bounds, 1, clock);
        for seq in 1..=count {
            assert_eq!(history.append([event(seq)]), seq);
        }
        history
    }

    fn event(seq: u64) -> StoredEvent {
        StoredEvent { payload: format!("event {seq}").into(), published: Duration::ZERO }
    }

    fn read(
        history: &History,
        position: &mut Position,
        enough: usize,
        batch: &mut Vec<(u64, Bytes)>,
    ) -> Option<GapBefore> {
        match history.read(position, Older::Discarded, enough, batch) {
            Read::Events(gap) => gap,
            Read::Stored { .. } => panic!("nothing is stored"),
        }
    }

    /// The sequence numbers that a subscriber gets, and the gap before them.
    fn replay(
        history: &History,
        resume_from: Option<u64>,
        epoch: Option<u64>,
    ) -> (Option<GapBefore>, Vec<u64>) {
        let mut position = history.position(history.first_seq(), resume_from, epoch);
        let mut batch = Vec::new();
        let gap = read(history, &mut position, usize::MAX, &mut batch);
        assert_eq!(read(history, &mut position, usize::MAX, &mut batch), None, "a gap is announced once");
        (gap, batch.into_iter().map(|(seq, _)| seq).collect())
    }

    #[test]
    fn a_subscriber_gets_what_follows_its_cursor() {
        let history = history(5, 10);
        assert_eq!(replay(&history, None, None), (None, vec![1, 2, 3, 4, 5]));
        assert_eq!(replay(&history, Some(0), None), (None, vec![1, 2, 3, 4, 5]));
        assert_eq!(replay(&history, Some(3), Some(history.epoch())), (None, vec![4, 5]));
        assert_eq!(replay(&history, Some(5), None), (None, vec![]));
    }

    #[test]
    fn events_that_are_no_longer_held_are_a_gap_with_their_count() {
        let history = history(10, 4);
        assert_eq!((history.first_seq(), history.last_seq()), (7, 10));
        let gap = GapBefore { first_seq: 7, missed: Some(3) };
        assert_eq!(replay(&history, Some(3), None), (Some(gap), vec![7, 8, 9, 10]));
        assert_eq!(replay(&history, Some(6), None), (None, vec![7, 8, 9, 10]), "nothing is missing");
        assert_eq!(replay(&history, None, None), (None, vec![7, 8, 9, 10]), "nothing was promised");
    }

    #[test]
    fn a_cursor_ahead_of_the_log_or_of_another_epoch_is_a_gap_of_unknown_size() {
        let history = history(3, 10);
        let gap = Some(GapBefore { first_seq: 1, missed: None });
        for (resume_from, epoch) in
            [(4, None), (u64::MAX, None), (2, Some(history.epoch() + 1)), (3, Some(0))]
        {
            assert_eq!(replay(&history, Some(resume_from), epoch), (gap, vec![1, 2, 3]));
        }
        assert_eq!(
            replay(&history, None, Some(0)),
            (None, vec![1, 2, 3]),
            "an epoch without a cursor means nothing"
        );
    }

    #[test]
    fn an_empty_history_promises_the_first_event() {
        let history = history(0, 10);
        assert_eq!((history.first_seq(), history.last_seq()), (1, 0));
        assert_eq!(replay(&history, Some(0), None), (None, vec![]));
        let gap = GapBefore { first_seq: 1, missed: None };
        assert_eq!(replay(&history, Some(1), None), (Some(gap), vec![]));
    }

    #[test]
    fn a_subscriber_that_falls_behind_learns_how_many_it_missed() {
        let history = history(4, 4);
        let mut position = history.position(1, None, None);
        let mut batch = Vec::new();
        assert_eq!(read(&history, &mut position, 1, &mut batch), None);
        assert_eq!(batch.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1], "one event is enough");
        history.append((5..=9).map(event));
        batch.clear();
        let gap = read(&history, &mut position, usize::MAX, &mut batch);
        assert_eq!(gap, Some(GapBefore { first_seq: 6, missed: Some(4) }), "2 to 5");
        assert_eq!(batch.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [6, 7, 8, 9]);
    }

    #[test]
    fn events_that_are_stored_are_no_gap() {
        let history = history(10, 4);
        let mut position = history.position(1, Some(2), None);
        let mut batch = Vec::new();
        let read = history.read(&mut position, Older::Stored, usize::MAX, &mut batch);
        assert_eq!((read, position.next(), batch.len()), (Read::Stored { before: 7 }, 3, 0));
        let mut position = history.position(1, Some(6), None);
        let read = history.read(&mut position, Older::Stored, usize::MAX, &mut batch);
        assert_eq!((read, position.last_seq(), batch.len()), (Read::Events(None), 10, 4));
    }

    #[test]
    fn a_slot_is_free_again_when_it_is_dropped() {
        let history = history(0, 1);
        let slot = history.admit_subscriber().unwrap();
        assert!(history.admit_subscriber().is_none());
        drop(slot);
        assert!(history.admit_subscriber().is_some());
    }

    #[test]
    fn epochs_are_exact_in_json_and_differ() {
        let epochs: std::collections::HashSet<u64> = (0..100).map(|_| random_epoch()).collect();
        assert_eq!(epochs.len(), 100);
        assert!(epochs.iter().all(|epoch| (1..=EPOCH_MASK).contains(epoch)));
    }

    #[test]
    fn appending_wakes_listeners() {
        let history = history(0, 1);
        let listener = history.listen();
        history.append([event(1)]);
        futures_lite::future::block_on(listener);
    }
}
