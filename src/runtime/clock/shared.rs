//! Any number of deadlines on one timer of the runtime.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use quinn::{AsyncTimer, Runtime};

use super::liveness::Liveness;
use crate::sync::lock;

/// The state of a clock.
///
/// No task drives the timer: its waker itself wakes the sleepers and arms the timer again, on the thread
/// that fires it. So a time limit fires while the executor of the endpoint is blocked, or is not driven, as
/// long as something fires the timer.
pub(super) struct Shared {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) liveness: Liveness,
    sleepers: Mutex<Sleepers>,
    /// Locked only by the thread that has set [`Sleepers::arming`].
    alarm: Mutex<Alarm>,
    /// Calls [`Shared::arm_or_wake`].
    waker: Waker,
}

#[derive(Default)]
struct Sleepers {
    wakers: BTreeMap<(Instant, u64), Waker>,
    next_id: u64,
    /// When the timer fires; `None` while it is not armed.
    alarm: Option<Instant>,
    /// A thread is arming the timer. Invariant: at most one thread does.
    arming: bool,
    /// Another thread would have armed the timer meanwhile, so the one that is arming it must look again.
    rearm: bool,
}

#[derive(Default)]
struct Alarm {
    timer: Option<Pin<Box<dyn AsyncTimer>>>,
    /// `None` once the timer has fired: not every timer fires twice without being set again.
    armed: Option<Instant>,
}

/// Each round handles a waker that was called, or a timer that fired, while the timer was being armed. More
/// than a few in a row mean that the timer cannot be armed at the moment: tokio's timers require their task
/// to yield first.
pub(super) const MAX_ROUNDS: usize = 8;

impl Shared {
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new_cyclic(|shared| Self {
            runtime,
            liveness: Liveness::new(),
            sleepers: Mutex::default(),
            alarm: Mutex::default(),
            // Weak, since the timer keeps the waker, and the clock the timer.
            waker: Waker::from(Arc::new(AlarmWaker(Weak::clone(shared)))),
        })
    }

    /// Has `waker` called at the deadline. The first call for a sleeper sets its `id`.
    pub(super) fn sleep(&self, deadline: Instant, id: &mut Option<u64>, waker: &Waker) {
        let in_time = {
            let mut sleepers = lock(&self.sleepers);
            let id = *id.get_or_insert_with(|| {
                sleepers.next_id += 1;
                sleepers.next_id
            });
            sleepers
                .wakers
                .entry((deadline, id))
                .and_modify(|known| known.clone_from(waker))
                .or_insert_with(|| waker.clone());
            sleepers.alarm.is_some_and(|alarm| alarm <= deadline)
        };
        if !in_time {
            self.arm_or_wake();
        }
    }

    pub(super) fn remove(&self, deadline: Instant, id: u64) {
        let waker = lock(&self.sleepers).wakers.remove(&(deadline, id));
        // Without the lock, since dropping a waker may run anything.
        drop(waker);
    }

    pub(super) fn wake_all(&self) {
        let wakers: Vec<_> = lock(&self.sleepers).wakers.values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Arms the timer. If that fails, wakes every sleeper, so that each tries again when it is polled: all
    /// of them, since others may have left arming to this thread.
    fn arm_or_wake(&self) {
        if !self.arm() {
            self.wake_all();
        }
    }

    /// Wakes the sleepers whose deadline has passed, and arms the timer for the first of the others.
    /// `false` if the timer cannot be armed here.
    fn arm(&self) -> bool {
        {
            let mut sleepers = lock(&self.sleepers);
            if sleepers.arming {
                sleepers.rearm = true;
                return true;
            }
            sleepers.arming = true;
        }
        let mut arming = Arming { shared: self, finished: false };
        let mut due = Vec::new();
        let armed = 'armed: {
            for _ in 0..MAX_ROUNDS {
                let Some(first) = self.take_due(&mut due) else {
                    if arming.finish() {
                        break 'armed true;
                    }
                    continue;
                };
                // With nothing locked that the waker locks, since the timer may call the waker right here.
                if self.poll_timer(first).is_pending() && arming.finish() {
                    break 'armed true;
                }
            }
            drop(arming);
            false
        };
        // Last, since a waker may do anything, such as sleeping again.
        due.into_iter().for_each(Waker::wake);
        armed
    }

    /// Takes the wakers of the sleepers whose deadline has passed, and returns the first deadline of the
    /// others.
    fn take_due(&self, due: &mut Vec<Waker>) -> Option<Instant> {
        let now = self.runtime.now();
        let mut sleepers = lock(&self.sleepers);
        sleepers.rearm = false;
        sleepers.alarm = loop {
            let Some(first) = sleepers.wakers.first_entry() else { break None };
            let (deadline, _) = *first.key();
            if deadline > now {
                break Some(deadline);
            }
            due.push(first.remove());
        };
        sleepers.alarm
    }

    fn poll_timer(&self, deadline: Instant) -> Poll<()> {
        let Alarm { timer, armed } = &mut *lock(&self.alarm);
        let timer = timer.get_or_insert_with(|| {
            *armed = Some(deadline);
            self.runtime.new_timer(deadline)
        });
        if *armed != Some(deadline) {
            timer.as_mut().reset(deadline);
            *armed = Some(deadline);
        }
        let polled = timer.as_mut().poll(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            *armed = None;
        }
        polled
    }

    #[cfg(test)]
    pub(super) fn sleepers(&self) -> usize {
        lock(&self.sleepers).wakers.len()
    }
}

/// Held while the timer is being armed. Dropped before it [finishes](Self::finish), it leaves the timer
/// unarmed, for the next sleeper.
struct Arming<'a> {
    shared: &'a Shared,
    finished: bool,
}

impl Arming<'_> {
    /// Lets others arm the timer; `false` if one has tried to meanwhile, so that all deadlines must be
    /// checked again.
    fn finish(&mut self) -> bool {
        let mut sleepers = lock(&self.shared.sleepers);
        self.finished = !sleepers.rearm;
        sleepers.arming = sleepers.rearm;
        self.finished
    }
}

impl Drop for Arming<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let mut sleepers = lock(&self.shared.sleepers);
            (sleepers.arming, sleepers.rearm, sleepers.alarm) = (false, false, None);
        }
    }
}

/// The waker of the timer.
struct AlarmWaker(Weak<Shared>);

impl Wake for AlarmWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(shared) = self.0.upgrade() {
            shared.arm_or_wake();
        }
    }
}
