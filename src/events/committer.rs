//! Writes events to disk in groups, so that flash is written rarely.

use std::{
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_lite::FutureExt;
use quinn::Runtime;

use super::{
    history::{History, closed_error},
    progress::{CommitState, Progress, ReportOnDrop},
    ring::{StoredEvent, cost},
    store::{Batch, Store},
};
use crate::{
    error::{Error, ErrorKind, Result},
    runtime::{Clock, Elapsed},
    sync::{Event, Mutex, MutexGuard, lock},
};

/// How often to write.
#[derive(Clone, Debug)]
pub(super) struct CommitSettings {
    pub(super) runtime: Option<Arc<dyn Runtime>>,
    pub(super) commit_interval: Duration,
    pub(super) commit_events: usize,
}

/// A person does not notice this delay, and flash is written at most fifty times per second.
const COMMIT_INTERVAL: Duration = Duration::from_millis(20);
const COMMIT_EVENTS: usize = 1024;

impl Default for CommitSettings {
    fn default() -> Self {
        Self { runtime: None, commit_interval: COMMIT_INTERVAL, commit_events: COMMIT_EVENTS }
    }
}

/// Collects events, and has a task write them while there are any. When the last handle is dropped, the
/// file is closed.
pub(super) struct Committer {
    /// `None` once the log is closed.
    store: async_lock::Mutex<Option<Arc<Store>>>,
    history: Arc<History>,
    clock: Clock,
    commit_interval: Duration,
    commit_events: usize,
    max_pending_bytes: usize,
    damaged: Option<PathBuf>,
    pending: Mutex<Pending>,
    /// Notified when pending events are to be written without waiting for the interval to end.
    due: Event,
    progress: Arc<Progress>,
}

/// The events that wait to be written, and where the log stands.
struct Pending {
    events: Vec<StoredEvent>,
    /// What the events count for.
    bytes: usize,
    /// The number of the newest event, pending or not.
    last: u64,
    /// The number of the newest event on disk.
    committed: u64,
    commits: u64,
    latest_commit: Option<Instant>,
    /// A task is committing. Invariant: true while events are pending, unless a commit has failed.
    committing: bool,
    /// A caller waits for the pending events, which are to be written now.
    flush: bool,
    /// No more events are published.
    closed: bool,
    /// A commit has failed. An event that was written after it would leave a hole in the numbers.
    failed: bool,
}

impl Committer {
    pub(super) fn new(
        runtime: Arc<dyn Runtime>,
        store: Store,
        history: Arc<History>,
        settings: &CommitSettings,
        max_pending_bytes: usize,
        damaged: Option<PathBuf>,
    ) -> Arc<Self> {
        let committed = history.last_seq();
        let pending = Pending {
            events: Vec::new(),
            bytes: 0,
            last: committed,
            committed,
            commits: 0,
            latest_commit: None,
            committing: false,
            flush: false,
            closed: false,
            failed: false,
        };
        Arc::new(Self {
            store: async_lock::Mutex::new(Some(Arc::new(store))),
            history,
            clock: Clock::new(runtime),
            commit_interval: settings.commit_interval,
            commit_events: settings.commit_events,
            max_pending_bytes,
            damaged,
            pending: Mutex::new(pending),
            due: Event::new(),
            progress: Progress::starting_at(committed),
        })
    }

    /// Takes an event for the next commit, and returns its number.
    pub(super) fn publish(self: &Arc<Self>, event: StoredEvent) -> Result<u64> {
        let mut pending = self.pending();
        if pending.closed {
            return Err(closed_error());
        }
        if pending.failed {
            return Err(write_failed());
        }
        let bytes = pending.bytes + cost(&event.payload);
        if bytes > self.max_pending_bytes {
            return Err(Error::new(ErrorKind::Exhausted).detail("too many events wait to be written"));
        }
        pending.bytes = bytes;
        pending.events.push(event);
        pending.last += 1;
        let (seq, count) = (pending.last, pending.events.len());
        let idle = !std::mem::replace(&mut pending.committing, true);
        drop(pending);
        if idle {
            let task = CommitTask(Some(Arc::clone(self)));
            self.clock.spawn(async move { task.run().await });
        } else if count >= self.commit_events {
            self.due.notify(usize::MAX);
        }
        Ok(seq)
    }

    /// The number of the newest event that was published, on disk or not.
    pub(super) fn last_seq(&self) -> u64 {
        self.pending().last
    }

    pub(super) fn commits(&self) -> u64 {
        self.pending().commits
    }

    pub(super) fn damaged(&self) -> Option<&Path> {
        self.damaged.as_deref()
    }

    /// Resolves when the event with this number is on disk.
    pub(super) async fn committed(&self, seq: u64) -> Result<()> {
        if self.progress.reached(seq).await { Ok(()) } else { Err(write_failed()) }
    }

    /// Writes the pending events without waiting for the interval between commits to end. Resolves when
    /// they are on disk.
    pub(super) async fn flush(&self) -> Result<()> {
        let last = {
            let mut pending = self.pending();
            if pending.failed {
                return Err(write_failed());
            }
            pending.flush = !pending.events.is_empty();
            pending.last
        };
        self.due.notify(usize::MAX);
        self.committed(last).await
    }

    /// Takes no more events, writes those that are pending, and closes the file.
    pub(super) async fn close(&self) -> Result<()> {
        self.pending().closed = true;
        let flushed = self.flush().await;
        // Locked while the file is closed, so that every other caller waits for that, too.
        let mut store = self.store.lock().await;
        if let Some(store) = store.take() {
            blocking::unblock(move || drop(store)).await;
        }
        flushed
    }

    /// Writes the pending events in one commit. Returns the state after it, and whether other events are
    /// pending by then.
    async fn commit(&self) -> (CommitState, bool) {
        self.wait_until_due().await;
        let Some(store) = self.store.lock().await.clone() else {
            return (self.fail(), false);
        };
        let (events, first) = {
            let mut pending = self.pending();
            pending.bytes = 0;
            pending.flush = false;
            (std::mem::take(&mut pending.events), pending.committed + 1)
        };
        let oldest = self.history.first_seq_after(&events);
        let batch = Batch { first, events, oldest };
        let kept = Arc::clone(&store);
        let written = AssertUnwindSafe(blocking::unblock(move || {
            let written = store.commit(&batch);
            (batch, written)
        }));
        // A panic in the database would end the whole executor.
        let Ok((batch, written)) = written.catch_unwind().await else {
            tracing::warn!("writing events panicked");
            // Dropping the database would panic again, when the log is dropped. The file stays locked
            // instead.
            std::mem::forget(kept);
            return (self.fail(), false);
        };
        if let Err(error) = written {
            tracing::warn!(%error, "events could not be written");
            // Before callers learn of it, who may then close the log and with it the file.
            drop(kept);
            return (self.fail(), false);
        }
        let last = self.history.append(batch.events);
        let mut pending = self.pending();
        pending.committed = last;
        pending.commits += 1;
        pending.latest_commit = Some(self.clock.now());
        pending.committing = !pending.events.is_empty();
        (CommitState { committed: last, failed: false }, pending.committing)
    }

    /// From now on nothing can be published.
    fn fail(&self) -> CommitState {
        let (events, committed) = {
            let mut pending = self.pending();
            pending.failed = true;
            pending.committing = false;
            // No caller was promised the numbers of the pending events.
            pending.last = pending.committed;
            (std::mem::take(&mut pending.events), pending.committed)
        };
        drop(events);
        CommitState { committed, failed: true }
    }

    /// Resolves when the interval since the latest commit is over, enough events are pending, or a caller
    /// waits for them.
    async fn wait_until_due(&self) {
        let Some(latest) = self.pending().latest_commit else { return };
        let Some(end) = latest.checked_add(self.commit_interval) else { return };
        let due = async {
            loop {
                let due = self.due.listen();
                {
                    let pending = self.pending();
                    if pending.flush || pending.events.len() >= self.commit_events {
                        return;
                    }
                }
                due.await;
            }
        };
        match self.clock.timeout_at(Some(end), due).await {
            Ok(()) | Err(Elapsed) => {}
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }
}

/// The task that commits. An executor may drop it at any time: then the log fails, and no caller waits for
/// ever.
struct CommitTask(Option<Arc<Committer>>);

impl CommitTask {
    /// Writes pending events, group by group, until there are none.
    async fn run(mut self) {
        while let Some(committer) = &self.0 {
            let progress = Arc::clone(&committer.progress);
            let (state, more) = committer.commit().await;
            // Reports even if the executor drops this task while it releases the committer.
            let _report = ReportOnDrop { progress, state };
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
            committer.progress.report(committer.fail());
        }
    }
}

/// Drops a handle; in the thread pool if it is the last one, and so closes the file.
async fn release(mut committer: Arc<Committer>) {
    if Arc::get_mut(&mut committer).is_some() {
        blocking::unblock(move || drop(committer)).await;
    }
}

fn write_failed() -> Error {
    Error::from(std::io::Error::other("the event log cannot be written; it has to be opened again"))
}
