//! One commit, as those see it who wait for its events to be written.

use std::{sync::Arc, time::Duration};

use crate::{
    error::{Error, ErrorKind},
    sync::{Event, Mutex, lock, wait_until},
};

/// The commit that will write certain events, or fail to. Numbers would not do: those of events that could
/// not be written are given again to others.
#[derive(Default)]
pub(super) struct Commit {
    outcome: Mutex<Option<Outcome>>,
    ended: Event,
}

type Outcome = Result<(), WriteError>;

/// Why events could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WriteError {
    pub(super) reason: Arc<str>,
    /// When to try again; `None` if that cannot help.
    pub(super) retry_after: Option<Duration>,
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
}

impl From<WriteError> for Error {
    fn from(WriteError { reason, retry_after }: WriteError) -> Self {
        let kind = if retry_after.is_some() { ErrorKind::Exhausted } else { ErrorKind::Io };
        Self::new(kind).detail(format!("events cannot be written: {reason}")).after(retry_after)
    }
}

/// Ends a commit when it is dropped, even by an executor that drops the task: after the task has released
/// the store, so that callers who learn that their event is on disk may drop their handles, and find the
/// store free.
pub(super) struct EndOnDrop {
    pub(super) commit: Arc<Commit>,
    pub(super) outcome: Outcome,
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.commit.end(self.outcome.clone());
    }
}
