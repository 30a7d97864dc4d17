//! Counts what is running, so that a shutdown can wait for it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use event_listener::Event;

/// Whether the node is shutting down, and how many exchanges keep it from it.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    begun: AtomicBool,
    beginning: Event,
    running: AtomicUsize,
    idle: Event,
}

/// Held by an exchange until its answer has left.
pub(super) struct Running {
    node: Arc<super::Node>,
}

impl Drain {
    /// Turns new work away from now on.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.beginning.notify(usize::MAX);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Resolves when the shutdown begins.
    pub(super) async fn begun(&self) {
        wait(&self.beginning, || self.has_begun()).await;
    }

    /// Resolves when nothing is running.
    pub(crate) async fn idle(&self) {
        wait(&self.idle, || self.running.load(Ordering::SeqCst) == 0).await;
    }
}

impl Running {
    /// To be taken before asking [`Drain::has_begun`], so that a shutdown waits for whoever heard "no".
    pub(super) fn enter(node: &Arc<super::Node>) -> Self {
        node.drain.running.fetch_add(1, Ordering::SeqCst);
        Self { node: Arc::clone(node) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let drain = &self.node.drain;
        if drain.running.fetch_sub(1, Ordering::SeqCst) == 1 && drain.has_begun() {
            drain.idle.notify(usize::MAX);
        }
    }
}

async fn wait(event: &Event, condition: impl Fn() -> bool) {
    while !condition() {
        let listener = event.listen();
        if condition() {
            return;
        }
        listener.await;
    }
}
