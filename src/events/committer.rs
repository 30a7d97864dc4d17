//! Writes events to a store in groups, so that flash is written rarely.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    commit::{Commit, EndOnDrop},
    commit_settings::CommitSettings,
    event_store::{Batch, EventStore},
    health::{LogHealth, LogState},
    history::History,
    on_thread::on_thread,
    pending::Pending,
    stored_event::StoredEvent,
};
use crate::{
    error::{Error, Result},
    runtime::{Clock, Elapsed},
    sync::{AsyncMutex, Event, Mutex, MutexGuard, lock},
};

/// A commit that takes longer is reported.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// Collects events, and has a task write them while there are any.
///
/// When the store fails, the events that wait are given up with an error, and for a while that grows with
/// each failure nothing is accepted. The next event after that tries again.
pub(super) struct Committer {
    /// `None` once the log is closed.
    store: AsyncMutex<Option<Arc<dyn EventStore>>>,
    history: Arc<History>,
    clock: Clock,
    settings: CommitSettings,
    retention: Retention,
    pending: Mutex<Pending>,
    /// Notified when pending events are to be written without waiting for the interval to end.
    due: Event,
}

/// What a log keeps on disk, beyond what the store itself bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retention {
    pub(super) events: u64,
    pub(super) age: Option<Duration>,
}

impl Committer {
    pub(super) fn new(
        clock: Clock,
        store: Arc<dyn EventStore>,
        history: Arc<History>,
        settings: CommitSettings,
        retention: Retention,
        max_pending_bytes: usize,
    ) -> Arc<Self> {
        let pending = Mutex::new(Pending::new(history.last_seq(), max_pending_bytes));
        Arc::new(Self {
            store: AsyncMutex::new(Some(store)),
            history,
            clock,
            settings,
            retention,
            pending,
            due: Event::new(),
        })
    }

    /// Takes an event for the next commit. Returns its number, and the commit.
    pub(super) fn publish(self: &Arc<Self>, event: StoredEvent) -> Result<u64> {
        self.add(event).map(|(seq, _)| seq)
    }

    /// Takes an event for the next commit, and resolves to its number when it is written.
    pub(super) fn publish_durable(
        self: &Arc<Self>,
        event: StoredEvent,
    ) -> Result<impl Future<Output = Result<u64>> + Send + use<>> {
        let (seq, commit) = self.add(event)?;
        Ok(async move { commit.ended().await.map(|()| seq) })
    }

    fn add(self: &Arc<Self>, event: StoredEvent) -> Result<(u64, Arc<Commit>)> {
        let (seq, commit, idle, count) = {
            let mut pending = self.pending();
            let seq = pending.add(event, || self.clock.now())?;
            (seq, Arc::clone(pending.commit()), pending.begin_committing(), pending.count())
        };
        if idle {
            // Not under the lock: an executor that is gone drops the task here, which fails the log.
            let task = CommitTask(Some(Arc::clone(self)));
            self.clock.spawn(async move { task.run().await });
            self.pending().check_failed()?;
        } else if count >= self.settings.commit_events {
            self.due.notify(usize::MAX);
        }
        Ok((seq, commit))
    }

    /// The number of the oldest event that the log holds, as `next` is the number of its next one.
    pub(super) fn first_held(&self, oldest: u64, next: u64) -> u64 {
        oldest.max(next.saturating_sub(self.retention.events))
    }

    /// The number of the newest event that was published, on disk or not.
    pub(super) fn last_seq(&self) -> u64 {
        self.pending().last()
    }

    pub(super) fn commits(&self) -> u64 {
        self.pending().commits
    }

    pub(super) fn health(&self) -> LogHealth {
        let now = self.clock.now();
        let pending = self.pending();
        let stalled = |began| now.saturating_duration_since(began) > STALLED_AFTER;
        let state = match pending.failure() {
            _ if pending.is_ended() => LogState::Closed,
            Some(failure) => LogState::Failing(failure.reason.to_string()),
            None if pending.running_since().is_some_and(stalled) => LogState::Stalled,
            None => LogState::Writable,
        };
        LogHealth {
            state,
            failed_commits: pending.failed_commits,
            unwritten_events: pending.unwritten_events,
            damaged_events: 0,
        }
    }

    /// Writes the pending events without waiting for the interval between commits to end. Resolves when
    /// they are on disk.
    pub(super) async fn flush(&self) -> Result<()> {
        let (before, commits) = self.pending().flush();
        self.due.notify(usize::MAX);
        // The failure of an earlier commit is reported once, and below.
        let mut flushed = before.ended().await.or(Ok(()));
        for commit in commits.into_iter().flatten() {
            flushed = flushed.and(commit.ended().await);
        }
        let unreported = self.pending().take_unreported();
        flushed.and(unreported.map_or(Ok(()), |error| Err(error.into())))
    }

    /// Takes no more events, writes those that are pending, and closes the store.
    pub(super) async fn close(&self) -> Result<()> {
        self.pending().close();
        let flushed = self.flush().await;
        // Locked while the store is closed, so that every other caller waits for that, too.
        let mut store = self.store.lock().await;
        let Some(store) = store.take() else { return flushed };
        let closed = on_thread(move || store.close()).await;
        flushed?;
        closed.map_err(Error::from)
    }

    /// Writes the pending events in one commit. Returns the commit and its outcome, and whether other events
    /// are pending by then.
    async fn commit(&self) -> (EndOnDrop, bool) {
        self.wait_until_due().await;
        let Some(store) = self.store.lock().await.clone() else {
            return (self.failed("the log is closed".into(), None), false);
        };
        let (first, events) = self.pending().take(self.clock.now());
        let batch = Batch { first, events, clocks: self.history.clock().clocks() };
        let written = on_thread(move || store.append(&batch).map(|()| (store, batch)));
        let (store, batch) = match written.await {
            Ok(written) => written,
            Err(error) => {
                tracing::warn!(%error, "events could not be written");
                return (self.failed(error.to_string().into(), Some(self.clock.now())), false);
            }
        };
        let last = self.history.append(batch.events);
        let commit = self.pending().written(last, self.clock.now());
        // Made before, so that it ends if the executor drops the task while old events are discarded.
        let end = EndOnDrop { commit, outcome: Ok(()) };
        self.discard(store, last).await;
        (end, self.pending().continue_committing())
    }

    /// Gives up the events that wait. Without `now` for good.
    fn failed(&self, reason: Arc<str>, now: Option<Instant>) -> EndOnDrop {
        let (commit, error) = self.pending().failed(reason, now);
        EndOnDrop { commit, outcome: Err(error) }
    }

    /// Has the store give up events that are too many or too old.
    async fn discard(&self, store: Arc<dyn EventStore>, last: u64) {
        let below = catch_unwind(AssertUnwindSafe(|| self.expired(&*store, last)));
        let Ok(Some(below)) = below else { return };
        if let Err(error) = on_thread(move || store.discard(below)).await {
            tracing::warn!(%error, "old events could not be discarded");
        }
    }

    /// The number below which events are to be given up now.
    fn expired(&self, store: &dyn EventStore, last: u64) -> Option<u64> {
        let Retention { events, age } = self.retention;
        let mut below = last.saturating_add(1).saturating_sub(events);
        if let Some(age) = age {
            below = below.max(store.expired(self.history.clock().now().saturating_sub(age)));
        }
        // Not with each commit: subscribers do not get what is below anyway.
        let postponed = store.extent().first.saturating_add((events / 16).min(1024));
        (below > postponed).then_some(below)
    }

    /// Resolves when the interval since the latest commit is over, enough events are pending, or a caller
    /// waits for them.
    async fn wait_until_due(&self) {
        let CommitSettings { commit_interval, commit_events, delays_first, .. } = self.settings;
        let Some(begins) = self.pending().interval_begins(delays_first) else { return };
        let Some(end) = begins.checked_add(commit_interval) else { return };
        let due = crate::sync::wait_until(&self.due, || {
            let pending = self.pending();
            pending.is_flushed() || pending.count() >= commit_events
        });
        match self.clock.timeout_at(Some(end), due).await {
            Ok(()) | Err(Elapsed) => {}
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }
}

/// A log that is not closed before its last handle is dropped closes its store then, so that the store
/// knows where it ends.
impl Drop for Committer {
    fn drop(&mut self) {
        let Some(store) = self.store.get_mut().take() else { return };
        match catch_unwind(AssertUnwindSafe(|| store.close())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the store of an event log was not closed"),
            Err(_panic) => tracing::warn!("the store of an event log panicked when it was closed"),
        }
    }
}

/// The task that commits. An executor may drop it at any time: then the log fails, and no caller waits for
/// ever.
struct CommitTask(Option<Arc<Committer>>);

impl CommitTask {
    /// Writes pending events, group by group, until there are none.
    async fn run(mut self) {
        while let Some(committer) = &self.0 {
            // Ends even if the executor drops this task while it releases the committer.
            let (_end, more) = committer.commit().await;
            if !more && let Some(committer) = self.0.take() {
                release(committer).await;
            }
        }
    }
}

impl Drop for CommitTask {
    fn drop(&mut self) {
        if let Some(committer) = &self.0 {
            tracing::warn!("the executor dropped the task that writes events");
            drop(committer.failed("the executor dropped the task that writes them".into(), None));
        }
    }
}

/// Drops a handle; in the thread pool if it is the last one, and so closes the store.
async fn release(mut committer: Arc<Committer>) {
    if Arc::get_mut(&mut committer).is_some() {
        blocking::unblock(move || drop(committer)).await;
    }
}
