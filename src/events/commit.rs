//! One commit, as those see it who wait for its events to be written.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::{
    error::{Error, ErrorKind},
    sync::{AtomicUsize, Event, Mutex, lock, wait_until},
};

/// The commit that will write certain events, or fail to. Numbers would not do: those of events that could
/// not be written are given again to others.
#[derive(Default)]
pub(super) struct Commit {
    outcome: Mutex<Option<Outcome>>,
    ended: Event,
    waiters: AtomicUsize,
}

type Outcome = Result<(), WriteError>;

/// Why events could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WriteError {
    pub(super) reason: Arc<str>,
    /// When to try again.
    pub(super) retry_after: Duration,
}

impl Commit {
    /// Ends the commit. The first outcome counts.
    pub(super) fn end(&self, outcome: Outcome) {
        lock(&self.outcome).get_or_insert(outcome);
        self.ended.notify(usize::MAX);
    }

    pub(super) async fn ended(&self) -> crate::error::Result<()> {
        wait_until(&self.ended, || lock(&self.outcome).is_some()).await;
        let outcome = lock(&self.outcome).clone();
        outcome.unwrap_or(Ok(())).map_err(WriteError::into)
    }

    /// How many callers wait for events that they published.
    pub(super) fn waiters(&self) -> usize {
        self.waiters.load(Ordering::Relaxed)
    }
}

/// A caller that waits for an event that it published, until it is dropped.
pub(super) struct Waiter(Arc<Commit>);

impl Waiter {
    pub(super) fn new(commit: &Arc<Commit>) -> Self {
        commit.waiters.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(commit))
    }

    pub(super) async fn ended(&self) -> crate::error::Result<()> {
        self.0.ended().await
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl From<WriteError> for Error {
    fn from(WriteError { reason, retry_after }: WriteError) -> Self {
        let error = Self::new(ErrorKind::Exhausted).detail(format!("events cannot be written: {reason}"));
        error.after(Some(retry_after))
    }
}

/// Ends a commit when it is dropped.
pub(super) struct EndOnDrop {
    pub(super) commit: Arc<Commit>,
    pub(super) outcome: Outcome,
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.commit.end(self.outcome.clone());
    }
}
