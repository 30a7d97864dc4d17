//! The state of a simulation: its clock, its tasks and its network.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::Waker,
    time::Instant,
};

use fastrand::Rng;

use super::{
    agenda::{Agenda, ScheduledEvent},
    executor::Executor,
    network::Network,
};
use crate::sync::lock;

/// The state that hosts, sockets, timers and tasks share.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) start: Instant,
    executor: Executor,
    agenda: Mutex<Agenda>,
    network: Mutex<Network>,
}

impl World {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let mut rng = Rng::with_seed(seed);
        let start = Instant::now();
        Arc::new(Self {
            seed,
            start,
            executor: Executor::new(rng.fork()),
            agenda: Mutex::new(Agenda::new(start)),
            network: Mutex::new(Network::new(start, rng.fork())),
        })
    }

    pub(super) fn now(&self) -> Instant {
        self.agenda().now()
    }

    pub(super) fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.executor.spawn(future);
    }

    /// Polls one task that is ready; `false` where none is.
    pub(super) fn run_one(&self) -> bool {
        self.executor.run_one()
    }

    /// Moves time to the next event and lets it happen; `false` if there is none.
    pub(super) fn advance(&self) -> bool {
        let next = self.agenda().next();
        match next {
            Some(ScheduledEvent::Wake(waker)) => waker.wake(),
            Some(ScheduledEvent::Arrival(datagram)) => {
                let waker = self.network().deliver(datagram);
                waker.into_iter().for_each(Waker::wake);
            }
            None => return false,
        }
        true
    }

    pub(super) fn agenda(&self) -> MutexGuard<'_, Agenda> {
        lock(&self.agenda)
    }

    pub(super) fn network(&self) -> MutexGuard<'_, Network> {
        lock(&self.network)
    }
}

/// Clears the world when the last handle of the simulation is gone: tasks hold the world by their endpoints,
/// and the world holds tasks by their wakers.
pub(super) struct ClearOnDrop(pub(super) Arc<World>);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        loop {
            let events = self.0.agenda().clear();
            let wakers = self.0.network().clear();
            let runnables = self.0.executor.clear();
            // What is dropped here may wake more.
            if events.is_empty() && wakers.is_empty() && runnables.is_empty() {
                return;
            }
        }
    }
}
