//! A dial in progress, seen from the callers that wait for it and from the task that runs it.

use std::sync::{Arc, OnceLock, atomic::Ordering::SeqCst};

use crate::{
    error::Result,
    sync::{AtomicBool, AtomicUsize, Event, wait_until},
};

/// A dial that runs in a task of its own, and that any number of callers wait for.
///
/// Callers hold nothing that the task or other callers need: one that is no longer polled delays nobody.
#[derive(Debug, Default)]
pub(super) struct PendingDial {
    outcome: OnceLock<Result<()>>,
    finished: Event,
    callers: AtomicUsize,
    /// A caller has come after all others had left, and the task has not taken notice yet.
    rejoined: AtomicBool,
    /// The client was dropped, so that no caller can come any more.
    orphaned: AtomicBool,
    /// Told of every change of the three above that the task may wait for.
    callers_changed: Event,
}

/// A caller that waits for a dial, until it is dropped.
#[derive(Debug)]
pub(super) struct Caller(Arc<PendingDial>);

impl PendingDial {
    /// Counts one more caller, before anything else can find that there is none. The caller may have to
    /// [say that it has come](Caller::announce).
    pub(super) fn join(self: &Arc<Self>) -> Caller {
        if self.callers.fetch_add(1, SeqCst) == 0 {
            self.rejoined.store(true, SeqCst);
        }
        Caller(Arc::clone(self))
    }

    pub(super) fn has_callers(&self) -> bool {
        self.callers.load(SeqCst) > 0
    }

    /// Resolves when nobody waits for the dial.
    pub(super) async fn deserted(&self) {
        wait_until(&self.callers_changed, || !self.has_callers()).await;
    }

    /// Forgets that a caller has come after all others had left.
    pub(super) fn forget_rejoined(&self) {
        self.rejoined.store(false, SeqCst);
    }

    /// Resolves when a caller has come after all others had left, once for each time.
    pub(super) async fn rejoined(&self) {
        wait_until(&self.callers_changed, || self.rejoined.swap(false, SeqCst)).await;
    }

    /// The client was dropped.
    pub(super) fn orphan(&self) {
        self.orphaned.store(true, SeqCst);
        self.callers_changed.notify(usize::MAX);
    }

    /// Resolves when the client was dropped.
    pub(super) async fn orphaned(&self) {
        wait_until(&self.callers_changed, || self.orphaned.load(SeqCst)).await;
    }

    /// Tells all callers how the dial has ended. Only the first outcome counts.
    pub(super) fn finish(&self, outcome: Result<()>) {
        if self.outcome.set(outcome).is_ok() {
            self.finished.notify(usize::MAX);
        }
    }
}

impl Caller {
    /// Tells the task, which may go on to another address. To be called without a lock that the task takes,
    /// since an executor may drop the task while it is woken.
    pub(super) fn announce(&self) {
        if self.0.rejoined.load(SeqCst) {
            self.0.callers_changed.notify(usize::MAX);
        }
    }

    /// Resolves when the dial has ended, with how.
    pub(super) async fn outcome(&self) -> Result<()> {
        wait_until(&self.0.finished, || self.0.outcome.get().is_some()).await;
        match self.0.outcome.get() {
            Some(Err(error)) => Err(error.duplicate()),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.0.callers.fetch_sub(1, SeqCst) == 1 {
            self.0.callers_changed.notify(usize::MAX);
        }
    }
}
