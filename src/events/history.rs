//! The events of a log in memory, and the subscribers that read them.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::ring::{Bounds, Ring, StoredEvent};
use crate::{
    error::{Error, ErrorKind},
    message::EVENT_OVERHEAD,
    sync::{AtomicUsize, Event, EventListener, Mutex, MutexGuard, lock},
};

/// What subscribers can get: of a durable log, only events that are on disk.
pub(super) struct History {
    epoch: u64,
    bounds: Bounds,
    max_subscribers: usize,
    ring: Mutex<Ring>,
    published: Event,
    subscribers: AtomicUsize,
}

/// JSON, and the peers that speak it, hold integers exactly up to 2^53 (RFC 8259, section 6).
const EPOCH_MASK: u64 = (1 << 53) - 1;

impl History {
    pub(super) fn new(epoch: u64, bounds: Bounds, max_subscribers: usize, ring: Ring) -> Arc<Self> {
        Arc::new(Self {
            epoch,
            bounds,
            max_subscribers,
            ring: Mutex::new(ring),
            published: Event::new(),
            subscribers: AtomicUsize::new(0),
        })
    }

    /// Appends events and wakes the subscribers. Returns the number of the last event.
    pub(super) fn append(&self, events: impl IntoIterator<Item = StoredEvent>) -> u64 {
        let last = {
            let mut ring = self.ring();
            events.into_iter().for_each(|event| ring.push(event));
            ring.last()
        };
        self.published.notify(usize::MAX);
        last
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn first_seq(&self) -> u64 {
        self.ring().first()
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.ring().last()
    }

    pub(super) fn len(&self) -> usize {
        self.ring().len()
    }

    /// What [`first_seq`](Self::first_seq) will be when these events are appended.
    #[cfg(feature = "durable")]
    pub(super) fn first_seq_after(&self, events: &[StoredEvent]) -> u64 {
        self.ring().first_after(events)
    }

    /// The position of a subscriber that has processed everything up to `resume_from` in `epoch`, and what
    /// it cannot get.
    pub(super) fn subscribe(
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
            // A cursor of another history says nothing about this one, and a cursor ahead of the log
            // belongs to another history.
            Some(_) if epoch.is_some_and(|epoch| epoch != self.epoch) => {
                (Position { next: first }, gap(None))
            }
            Some(seq) if seq > last => (Position { next: first }, gap(None)),
            Some(seq) if seq + 1 < first => (Position { next: first }, gap(Some(first - (seq + 1)))),
            Some(seq) => (Position { next: seq + 1 }, None),
        }
    }

    /// Puts the events from `position` on into `batch`, until their payloads together reach `enough` bytes,
    /// and moves `position` behind them. If the next event is no longer held, returns what was missed, and
    /// goes on after the gap.
    pub(super) fn read(
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

    /// A slot for a subscriber, until it is dropped; `None` if all are taken.
    pub(super) fn admit_subscriber(self: &Arc<Self>) -> Option<SubscriberSlot> {
        let max = self.max_subscribers;
        let taken = self
            .subscribers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1));
        taken.is_ok().then(|| SubscriberSlot { history: Arc::clone(self) })
    }

    pub(super) fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Resolves when an event was appended after this call.
    pub(super) fn listen(&self) -> EventListener {
        self.published.listen()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        let mut ring = lock(&self.ring);
        if self.bounds.age.is_some() {
            ring.expire(since_1970());
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

/// The next event that a subscriber is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    next: u64,
}

impl Position {
    /// The last event that the subscriber has got, or that was before the first it is to get.
    pub(crate) fn last_seq(self) -> u64 {
        self.next - 1
    }
}

/// Events that a subscriber will not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GapBefore {
    /// The oldest event held.
    pub(crate) first_seq: u64,
    /// How many are missing; `None` if that is not known.
    pub(crate) missed: Option<u64>,
}

/// Calendar time, in which ages are measured: a log may go on in another process, or after a restart of the
/// machine.
pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A number that two histories of a node have in common by chance only.
pub(super) fn random_epoch() -> u64 {
    // The standard library seeds its hashers from the operating system.
    let random = RandomState::new().build_hasher().finish();
    (random & EPOCH_MASK).max(1)
}

pub(super) fn closed_error() -> Error {
    Error::new(ErrorKind::Closed).detail("the event log is closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of `count` events that holds the newest `max_events`.
    fn history(count: u64, max_events: usize) -> Arc<History> {
        let bounds = Bounds { events: max_events, bytes: usize::MAX, age: None };
        let history = History::new(random_epoch(), bounds, 1, Ring::new(bounds, 1));
        for seq in 1..=count {
            assert_eq!(history.append([event(seq)]), seq);
        }
        history
    }

    fn event(seq: u64) -> StoredEvent {
        StoredEvent { payload: format!("event {seq}").into(), published: Duration::ZERO }
    }

    /// The sequence numbers that a subscriber gets, and the gap before them.
    fn replay(
        history: &History,
        resume_from: Option<u64>,
        epoch: Option<u64>,
    ) -> (Option<GapBefore>, Vec<u64>) {
        let (mut position, gap) = history.subscribe(resume_from, epoch);
        let mut batch = Vec::new();
        assert_eq!(history.read(&mut position, usize::MAX, &mut batch), None);
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
        assert_eq!((history.first_seq(), history.last_seq(), history.len()), (7, 10, 4));
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
        assert_eq!((history.len(), history.first_seq(), history.last_seq()), (0, 1, 0));
        assert_eq!(replay(&history, Some(0), None), (None, vec![]));
        let gap = GapBefore { first_seq: 1, missed: None };
        assert_eq!(replay(&history, Some(1), None), (Some(gap), vec![]));
    }

    #[test]
    fn a_subscriber_that_falls_behind_learns_how_many_it_missed() {
        let history = history(4, 4);
        let (mut position, _) = history.subscribe(None, None);
        let mut batch = Vec::new();
        assert_eq!(history.read(&mut position, 1, &mut batch), None);
        assert_eq!(batch.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1], "one event is enough");
        history.append((5..=9).map(event));
        batch.clear();
        let gap = history.read(&mut position, usize::MAX, &mut batch);
        assert_eq!(gap, Some(GapBefore { first_seq: 6, missed: Some(4) }), "2 to 5");
        assert_eq!(batch.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [6, 7, 8, 9]);
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
