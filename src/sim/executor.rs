//! Tasks, run one at a time in an order that the seed chooses.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::Waker,
};

use async_task::Runnable;
use fastrand::Rng;

use crate::sync::lock;

/// The tasks of a simulation.
pub(super) struct Executor(Arc<Tasks>);

struct Tasks {
    ready: Mutex<Ready>,
    unfinished: Mutex<Unfinished>,
}

struct Ready {
    runnables: Vec<Runnable>,
    rng: Rng,
}

/// The wakers of the tasks that have not ended. A task may wait for something that nobody but itself holds,
/// and then this is the only way to it.
#[derive(Default)]
struct Unfinished {
    wakers: Vec<Option<Waker>>,
    /// Where in `wakers` there is none.
    free: Vec<usize>,
}

impl Unfinished {
    /// A place for the waker of a task.
    fn reserve(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        })
    }

    fn set(&mut self, place: usize, waker: Waker) {
        if let Some(at) = self.wakers.get_mut(place) {
            *at = Some(waker);
        }
    }

    fn remove(&mut self, place: usize) -> Option<Waker> {
        let at = self.wakers.get_mut(place)?;
        self.free.push(place);
        at.take()
    }

    fn take_all(&mut self) -> Vec<Option<Waker>> {
        self.free.clear();
        std::mem::take(&mut self.wakers)
    }
}

impl Executor {
    pub(super) fn new(rng: Rng) -> Self {
        let ready = Mutex::new(Ready { runnables: Vec::new(), rng });
        Self(Arc::new(Tasks { ready, unfinished: Mutex::default() }))
    }

    /// Makes the future a task, which is ready.
    pub(super) fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let place = lock(&self.0.unfinished).reserve();
        let ended = RemoveOnDrop { tasks: Arc::downgrade(&self.0), place };
        let future = async move {
            let _ended = ended;
            future.await;
        };
        let tasks = Arc::downgrade(&self.0);
        let schedule = move |runnable| {
            if let Some(tasks) = tasks.upgrade() {
                lock(&tasks.ready).runnables.push(runnable);
            }
        };
        let (runnable, task) = async_task::spawn(future, schedule);
        lock(&self.0.unfinished).set(place, runnable.waker());
        task.detach();
        runnable.schedule();
    }

    /// Polls one task that is ready, picked by chance; `false` where none is.
    pub(super) fn run_one(&self) -> bool {
        let picked = {
            let Ready { runnables, rng } = &mut *lock(&self.0.ready);
            let among = runnables.len();
            (among > 0).then(|| runnables.swap_remove(rng.usize(..among)))
        };
        match picked {
            Some(runnable) => {
                runnable.run();
                true
            }
            None => false,
        }
    }

    /// Takes all tasks out: one that is not run ends when it is dropped.
    pub(super) fn clear(&self) -> Vec<Runnable> {
        let wakers = lock(&self.0.unfinished).take_all();
        wakers.into_iter().flatten().for_each(Waker::wake);
        std::mem::take(&mut lock(&self.0.ready).runnables)
    }
}

struct RemoveOnDrop {
    tasks: Weak<Tasks>,
    place: usize,
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let Some(tasks) = self.tasks.upgrade() else { return };
        let waker = lock(&tasks.unfinished).remove(self.place);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{
        sim::Sim,
        sync::{Event, wait_until},
    };

    /// The task holds what it waits for, and that holds the task's waker.
    #[test]
    fn a_task_that_nobody_else_can_wake_ends_with_the_simulation() {
        let (sim, event) = (Sim::new(1), Arc::new(Event::new()));
        let held = Arc::downgrade(&event);
        sim.spawn(async move { wait_until(&event, || false).await });
        sim.run(sim.sleep(std::time::Duration::from_secs(1)));
        assert!(held.upgrade().is_some());
        drop(sim);
        assert!(held.upgrade().is_none());
    }
}
