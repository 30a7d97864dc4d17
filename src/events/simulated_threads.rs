//! The threads that may block, of a test in virtual time: tasks of its simulation do their work, each after a
//! while that the seed chooses.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_task::{Runnable, Task};
use fastrand::Rng;
use quinn::Runtime;

use crate::{runtime::Clock, sim::Sim, sync::lock};

#[derive(Clone)]
pub(crate) struct SimulatedThreads {
    /// Not the simulation itself, which ends with its last handle.
    runtime: Arc<dyn Runtime>,
    random: Arc<Mutex<Rng>>,
    longest_wait: Duration,
}

thread_local! {
    static CURRENT: RefCell<Option<SimulatedThreads>> = const { RefCell::new(None) };
}

pub(super) fn current() -> Option<SimulatedThreads> {
    CURRENT.with_borrow(Clone::clone)
}

impl SimulatedThreads {
    /// Threads that begin work after up to this long.
    pub(crate) fn new(sim: &Sim, longest_wait: Duration) -> Self {
        let random = Arc::new(Mutex::new(Rng::with_seed(sim.seed())));
        Self { runtime: sim.runtime(), random, longest_wait }
    }

    /// Runs a test of which the work that may block goes here.
    pub(crate) fn enter<T>(self, test: impl FnOnce() -> T) -> T {
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                let threads = CURRENT.take();
                drop(threads);
            }
        }
        let _leave = Leave;
        CURRENT.set(Some(self));
        test()
    }

    pub(super) fn unblock<T: Send + 'static>(&self, run: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        let wait = self.longest_wait.mul_f64(lock(&self.random).f64());
        let clock = Clock::new(Arc::clone(&self.runtime));
        let work = async move {
            clock.sleep(wait).await;
            run()
        };
        let runtime = Arc::clone(&self.runtime);
        let schedule = move |runnable: Runnable| {
            runtime.spawn(Box::pin(async move {
                runnable.run();
            }));
        };
        let (runnable, task) = async_task::spawn(work, schedule);
        runnable.schedule();
        task
    }
}
