//! The tasks of a runtime on one thread, and the order in which they run.

use std::{collections::VecDeque, sync::atomic::Ordering, task::Waker};

use async_task::{Runnable, ScheduleInfo};
use slab::Slab;

use crate::sync::AtomicBool;

/// Tasks run in a row before sockets and deadlines are checked, though more tasks are ready. If more than
/// this are ready, all of them are one batch: a batch that ended between two callers on one connection would
/// send their requests in two datagrams.
pub(super) const TASKS_PER_CHECK: usize = 128;

/// Which tasks there are, and which of them are ready.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    ready: VecDeque<Runnable>,
    /// Tasks that were woken while they ran, and so gave way to others: ready in the next batch.
    yielded: VecDeque<Runnable>,
    /// The drivers of quinn's connections, which run after a batch of the others, so that what those have
    /// written leaves in common packets.
    drivers: VecDeque<Runnable>,
    /// The future given to `block_on` is ready, too.
    main: bool,
    live: Slab<Live>,
    closed: bool,
}

/// A task that has not ended.
#[derive(Debug)]
struct Live {
    waker: Waker,
    is_driver: bool,
}

/// Which of the ready tasks to take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ready {
    /// Those that were woken, and those that gave way in the last batch.
    NextBatch,
    /// Those that were woken.
    Woken,
    /// The drivers of connections.
    Drivers,
}

impl Tasks {
    /// Moves at most `max` ready tasks into `batch`, which must be empty, or all if they are more than
    /// `TASKS_PER_CHECK`. Returns whether they were all.
    pub(super) fn take(&mut self, which: Ready, max: usize, batch: &mut VecDeque<Runnable>) -> bool {
        let queue = match which {
            Ready::NextBatch => {
                self.ready.append(&mut self.yielded);
                &mut self.ready
            }
            Ready::Woken => &mut self.ready,
            Ready::Drivers => &mut self.drivers,
        };
        let all = queue.len() <= max || queue.len() > TASKS_PER_CHECK;
        if all {
            std::mem::swap(queue, batch);
        } else {
            batch.extend(queue.drain(..max));
        }
        all
    }

    /// Whether the future given to `block_on` was woken since the last call.
    pub(super) fn take_main(&mut self) -> bool {
        std::mem::take(&mut self.main)
    }

    pub(super) fn wake_main(&mut self) {
        self.main = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.yielded.is_empty() && self.drivers.is_empty() && !self.main
    }

    /// The key that the next inserted task gets; `None` once the runtime is closed.
    pub(super) fn vacant_key(&self) -> Option<usize> {
        (!self.closed).then(|| self.live.vacant_key())
    }

    /// Adds a new task, which is ready.
    pub(super) fn insert(&mut self, runnable: Runnable) {
        self.live.insert(Live { waker: runnable.waker(), is_driver: false });
        self.ready.push_back(runnable);
    }

    /// Queues a task that was woken.
    pub(super) fn schedule(&mut self, key: usize, runnable: Runnable, info: ScheduleInfo) {
        let queue = if self.live.get(key).is_some_and(|live| live.is_driver) {
            &mut self.drivers
        } else if info.woken_while_running {
            &mut self.yielded
        } else {
            &mut self.ready
        };
        queue.push_back(runnable);
    }

    pub(super) fn mark_driver(&mut self, key: usize) {
        if let Some(live) = self.live.get_mut(key) {
            live.is_driver = true;
        }
    }

    /// Removes a task that has ended. Its waker must be dropped after the lock on the tasks is released.
    #[must_use]
    pub(super) fn remove(&mut self, key: usize) -> Option<Waker> {
        self.live.try_remove(key).map(|live| live.waker)
    }

    /// Takes no more tasks. Returns the wakers of those that there are.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        self.closed = true;
        self.live.iter().map(|(_, live)| live.waker.clone()).collect()
    }

    /// Takes all tasks that are ready.
    pub(super) fn drain(&mut self) -> VecDeque<Runnable> {
        let mut all = std::mem::take(&mut self.ready);
        all.append(&mut self.yielded);
        all.append(&mut self.drivers);
        all
    }

    /// For each task, whether it is a driver.
    #[cfg(test)]
    pub(super) fn are_drivers(&self) -> Vec<bool> {
        self.live.iter().map(|(_, live)| live.is_driver).collect()
    }
}

/// Set while a task runs that asks whether it may send, as only the driver of a connection does.
#[derive(Debug, Default)]
pub(super) struct DriverMark(AtomicBool);

impl DriverMark {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}
