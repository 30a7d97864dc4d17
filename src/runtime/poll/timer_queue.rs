//! Which timers a runtime has, by when the first of them fires.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    task::{Poll, Waker},
    time::Instant,
};

use slab::Slab;

/// All timers of a runtime, by when each is next checked.
///
/// quinn moves its deadline on almost every packet, nearly always further away. Only one that moves closer
/// changes the queue immediately; the others keep their place, and find their new one when the old is
/// reached, or when it is the first and the thread is about to wait for it.
#[derive(Debug, Default)]
pub(super) struct TimerQueue {
    entries: Slab<Entry>,
    /// Places of timers, and stale places that timers have left for an earlier one, which are skipped.
    queue: BinaryHeap<Reverse<(Instant, usize)>>,
    /// The runtime was dropped.
    closed: bool,
}

/// Places that may be in the queue beside two for each timer.
const SPARE_PLACES: usize = 32;

#[derive(Debug)]
struct Entry {
    deadline: Instant,
    /// Its place in the queue.
    queued: Option<Instant>,
    fired: bool,
    waker: Option<Waker>,
}

impl TimerQueue {
    pub(super) fn insert(&mut self, deadline: Instant) -> usize {
        self.entries.insert(Entry { deadline, queued: None, fired: false, waker: None })
    }

    pub(super) fn reset(&mut self, key: usize, deadline: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.deadline = deadline;
            entry.fired = false;
        }
    }

    pub(super) fn poll(&mut self, key: usize, waker: &Waker) -> Poll<()> {
        let Some(entry) = self.entries.get_mut(key) else { return Poll::Pending };
        if entry.fired {
            return Poll::Ready(());
        }
        if self.closed {
            return Poll::Pending;
        }
        match &mut entry.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        if entry.queued.is_none_or(|queued| entry.deadline < queued) {
            entry.queued = Some(entry.deadline);
            self.queue.push(Reverse((entry.deadline, key)));
            self.sweep();
        }
        Poll::Pending
    }

    pub(super) fn remove(&mut self, key: usize) -> Option<Waker> {
        let entry = self.entries.try_remove(key)?;
        self.sweep();
        entry.waker
    }

    /// Removes stale places before they pile up.
    fn sweep(&mut self) {
        let Self { entries, queue, closed: _ } = self;
        if queue.len() > 2 * entries.len() + SPARE_PLACES {
            queue.retain(|Reverse((place, key))| {
                entries.get(*key).is_some_and(|entry| entry.queued == Some(*place))
            });
        }
    }

    /// Adds the wakers of the timers whose deadline has passed to `due`, in order.
    pub(super) fn expire(&mut self, now: Instant, due: &mut Vec<Waker>) {
        while let Some((_, key)) = self.first().filter(|(first, _)| *first <= now) {
            let Some(entry) = self.entries.get_mut(key) else { return };
            entry.fired = true;
            entry.queued = None;
            due.extend(entry.waker.take());
        }
    }

    /// Clears the queue, and returns all wakers: no timer fires any more.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        self.closed = true;
        self.queue = BinaryHeap::new();
        self.entries.iter_mut().filter_map(|(_, entry)| entry.waker.take()).collect()
    }

    /// The first deadline.
    pub(super) fn next(&mut self) -> Option<Instant> {
        self.first().map(|(first, _)| first)
    }

    /// The first deadline, and the key of its timer. Moves timers that it finds in an outdated place.
    fn first(&mut self) -> Option<(Instant, usize)> {
        let Self { entries, queue, closed: _ } = self;
        loop {
            let mut top = queue.peek_mut()?;
            let Reverse((place, key)) = *top;
            match entries.get_mut(key).filter(|entry| entry.queued == Some(place)) {
                Some(entry) if entry.deadline <= place => return Some((place, key)),
                Some(entry) => {
                    entry.queued = Some(entry.deadline);
                    *top = Reverse((entry.deadline, key));
                }
                None => {
                    PeekMut::pop(top);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn due(timers: &mut TimerQueue, now: Instant) -> usize {
        let mut due = Vec::new();
        timers.expire(now, &mut due);
        due.len()
    }

    #[test]
    fn a_deadline_that_moves_away_costs_nothing_until_its_place_is_reached() {
        let (mut timers, start) = (TimerQueue::default(), Instant::now());
        let key = timers.insert(start + SECOND);
        assert!(timers.poll(key, Waker::noop()).is_pending());
        for seconds in 2..10 {
            timers.reset(key, start + seconds * SECOND);
            assert!(timers.poll(key, Waker::noop()).is_pending());
            let places: Vec<_> = timers.queue.iter().collect();
            assert_eq!(places, [&Reverse((start + SECOND, key))], "the queue was touched");
        }
        assert_eq!(due(&mut timers, start + SECOND), 0, "woken before its time");
        assert_eq!(timers.next(), Some(start + 9 * SECOND));
        assert_eq!(due(&mut timers, start + 9 * SECOND), 1);
        assert!(timers.poll(key, Waker::noop()).is_ready());
    }

    #[test]
    fn a_wait_ends_at_the_deadline_and_not_at_its_old_place() {
        let (mut timers, start) = (TimerQueue::default(), Instant::now());
        let key = timers.insert(start + SECOND);
        assert!(timers.poll(key, Waker::noop()).is_pending());
        assert_eq!(timers.next(), Some(start + SECOND));
        timers.reset(key, start + 5 * SECOND);
        assert_eq!(timers.next(), Some(start + 5 * SECOND));
    }

    #[test]
    fn a_deadline_that_moves_closer_applies_immediately() {
        let (mut timers, start) = (TimerQueue::default(), Instant::now());
        let key = timers.insert(start + 5 * SECOND);
        assert!(timers.poll(key, Waker::noop()).is_pending());
        timers.reset(key, start + SECOND);
        assert!(timers.poll(key, Waker::noop()).is_pending());
        assert_eq!(timers.next(), Some(start + SECOND));
        assert_eq!(due(&mut timers, start + 5 * SECOND), 1);
        assert_eq!(timers.next(), None, "its stale place is skipped");
    }

    #[test]
    fn stale_places_do_not_pile_up() {
        let (mut timers, start) = (TimerQueue::default(), Instant::now());
        let key = timers.insert(start);
        for _ in 0..1000 {
            // What a call does to the timer of its connection: closer for its answer, and away again.
            for away in [1, 1000] {
                timers.reset(key, start + away * SECOND);
                assert!(timers.poll(key, Waker::noop()).is_pending());
                assert_eq!(timers.next(), Some(start + away * SECOND));
            }
        }
        assert!(timers.queue.len() <= 2 + SPARE_PLACES, "{} places", timers.queue.len());
    }

    #[test]
    fn a_closed_queue_returns_every_waker_and_keeps_none() {
        let (mut timers, start) = (TimerQueue::default(), Instant::now());
        let keys = [1, 2, 3].map(|seconds| timers.insert(start + seconds * SECOND));
        for key in keys {
            assert!(timers.poll(key, Waker::noop()).is_pending());
        }
        assert_eq!(due(&mut timers, start + SECOND), 1);
        assert_eq!(timers.close().len(), 2);
        assert!(timers.poll(keys[0], Waker::noop()).is_ready(), "it had fired before");
        for key in &keys[1..] {
            assert!(timers.poll(*key, Waker::noop()).is_pending());
        }
        assert_eq!((timers.next(), timers.close().len()), (None, 0));
    }

    #[test]
    fn a_dropped_timer_wakes_no_task() {
        let (mut timers, start) = (TimerQueue::default(), Instant::now());
        let key = timers.insert(start);
        assert!(timers.poll(key, Waker::noop()).is_pending());
        timers.remove(key);
        assert_eq!((due(&mut timers, start + SECOND), timers.next()), (0, None));
    }
}
