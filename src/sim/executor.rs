//! Tasks, run one at a time in an order that the seed chooses.

use std::sync::Mutex;

use async_task::Runnable;
use fastrand::Rng;

use crate::sync::lock;

/// The tasks that are ready.
pub(super) struct Executor(Mutex<Ready>);

struct Ready {
    runnables: Vec<Runnable>,
    rng: Rng,
}

impl Executor {
    pub(super) fn new(rng: Rng) -> Self {
        Self(Mutex::new(Ready { runnables: Vec::new(), rng }))
    }

    /// Lets a task run that was woken.
    pub(super) fn schedule(&self, runnable: Runnable) {
        lock(&self.0).runnables.push(runnable);
    }

    /// Polls one task that is ready, picked by chance; `false` where none is.
    pub(super) fn run_one(&self) -> bool {
        let picked = {
            let Ready { runnables, rng } = &mut *lock(&self.0);
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

    pub(super) fn clear(&self) -> Vec<Runnable> {
        std::mem::take(&mut lock(&self.0).runnables)
    }
}
