//! Timers that cost a system call only by how long the thread waits.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use quinn::AsyncTimer;
use slab::Slab;

use super::Shared;
use crate::sync::lock;

/// All timers of a runtime, by when each is next looked at.
///
/// quinn moves its deadline on almost every packet, nearly always further away. Only one that moves closer changes the
/// queue at once; the others keep their place, and find their new one when the old is reached, or when it is the first and
/// the thread is about to wait for it.
#[derive(Debug, Default)]
pub(super) struct Timers {
    entries: Slab<Entry>,
    queue: BTreeSet<(Instant, usize)>,
}

#[derive(Debug)]
struct Entry {
    deadline: Instant,
    /// Its place in the queue.
    queued: Option<Instant>,
    fired: bool,
    waker: Option<Waker>,
}

impl Timers {
    fn insert(&mut self, deadline: Instant) -> usize {
        self.entries.insert(Entry { deadline, queued: None, fired: false, waker: None })
    }

    fn reset(&mut self, key: usize, deadline: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.deadline = deadline;
            entry.fired = false;
        }
    }

    fn poll(&mut self, key: usize, waker: &Waker) -> Poll<()> {
        let Some(entry) = self.entries.get_mut(key) else { return Poll::Pending };
        if entry.fired {
            return Poll::Ready(());
        }
        match &mut entry.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        if entry.queued.is_none_or(|queued| entry.deadline < queued) {
            if let Some(queued) = entry.queued.replace(entry.deadline) {
                self.queue.remove(&(queued, key));
            }
            self.queue.insert((entry.deadline, key));
        }
        Poll::Pending
    }

    fn remove(&mut self, key: usize) -> Option<Waker> {
        let entry = self.entries.try_remove(key)?;
        if let Some(queued) = entry.queued {
            self.queue.remove(&(queued, key));
        }
        entry.waker
    }

    /// Gives the wakers of those whose deadline has come, first come first.
    pub(super) fn expire(&mut self, now: Instant, due: &mut Vec<Waker>) {
        while let Some((queued, key)) = self.queue.first().copied().filter(|(queued, _)| *queued <= now) {
            let Some(entry) = self.look_again(queued, key) else { continue };
            if entry.deadline <= now {
                entry.fired = true;
                due.extend(entry.waker.take());
                entry.queued = None;
                self.queue.remove(&(queued, key));
            }
        }
    }

    /// When the first deadline comes.
    pub(super) fn next(&mut self) -> Option<Instant> {
        while let Some((queued, key)) = self.queue.first().copied() {
            if self.look_again(queued, key).is_some() {
                return Some(queued);
            }
        }
        None
    }

    /// The timer at this place, unless it has moved on; then it gets its new place.
    fn look_again(&mut self, queued: Instant, key: usize) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key)?;
        if entry.deadline <= queued {
            return Some(entry);
        }
        entry.queued = Some(entry.deadline);
        self.queue.remove(&(queued, key));
        self.queue.insert((entry.deadline, key));
        None
    }
}

/// One timer, as quinn knows it.
#[derive(Debug)]
pub(super) struct Timer {
    home: Arc<Shared>,
    key: usize,
}

impl Timer {
    pub(super) fn new(home: Arc<Shared>, deadline: Instant) -> Self {
        let key = lock(&home.timers).insert(deadline);
        Self { home, key }
    }
}

impl AsyncTimer for Timer {
    fn reset(self: Pin<&mut Self>, deadline: Instant) {
        lock(&self.home.timers).reset(self.key, deadline);
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = lock(&self.home.timers).poll(self.key, cx.waker());
        self.home.bell.ring();
        polled
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let waker = lock(&self.home.timers).remove(self.key);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn due(timers: &mut Timers, now: Instant) -> usize {
        let mut due = Vec::new();
        timers.expire(now, &mut due);
        due.len()
    }

    #[test]
    fn a_deadline_that_moves_away_costs_nothing_until_its_place_is_reached() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let key = timers.insert(start + SECOND);
        assert!(timers.poll(key, Waker::noop()).is_pending());
        for seconds in 2..10 {
            timers.reset(key, start + seconds * SECOND);
            assert!(timers.poll(key, Waker::noop()).is_pending());
            assert_eq!(timers.queue.first(), Some(&(start + SECOND, key)), "the queue was touched");
        }
        assert_eq!(due(&mut timers, start + SECOND), 0, "woken before its time");
        assert_eq!(timers.next(), Some(start + 9 * SECOND));
        assert_eq!(due(&mut timers, start + 9 * SECOND), 1);
        assert!(timers.poll(key, Waker::noop()).is_ready());
    }

    #[test]
    fn a_thread_that_waits_does_so_for_the_deadline_and_not_for_its_old_place() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let key = timers.insert(start + SECOND);
        assert!(timers.poll(key, Waker::noop()).is_pending());
        assert_eq!(timers.next(), Some(start + SECOND));
        timers.reset(key, start + 5 * SECOND);
        assert_eq!(timers.next(), Some(start + 5 * SECOND));
    }

    #[test]
    fn a_deadline_that_moves_closer_counts_at_once() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let key = timers.insert(start + 5 * SECOND);
        assert!(timers.poll(key, Waker::noop()).is_pending());
        timers.reset(key, start + SECOND);
        assert!(timers.poll(key, Waker::noop()).is_pending());
        assert_eq!(timers.next(), Some(start + SECOND));
        assert_eq!(timers.queue.len(), 1);
    }

    #[test]
    fn a_timer_that_is_gone_wakes_nobody() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let key = timers.insert(start);
        assert!(timers.poll(key, Waker::noop()).is_pending());
        timers.remove(key);
        assert_eq!((due(&mut timers, start + SECOND), timers.next()), (0, None));
    }
}
