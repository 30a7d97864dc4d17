//! Writes events to disk in groups, so that flash is written rarely.

use std::{
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use event_listener::Event;
use futures_lite::FutureExt;
use quinn::Runtime;

use super::{
    log::{EventLog, EventLogBuilder, closed, random_epoch},
    ring::{Held, Ring, cost},
    store::{Batch, Contents, Store},
};
use crate::{
    error::{Error, ErrorKind, Result},
    runtime::{Clock, Elapsed, default_runtime},
    sync::lock,
};

/// How often to write.
#[derive(Clone, Debug)]
pub(super) struct Knobs {
    runtime: Option<Arc<dyn Runtime>>,
    commit_interval: Duration,
    commit_events: usize,
}

/// A person does not notice it, and flash is written fifty times a second at most.
const COMMIT_INTERVAL: Duration = Duration::from_millis(20);
const COMMIT_EVENTS: usize = 1024;

impl Default for Knobs {
    fn default() -> Self {
        Self { runtime: None, commit_interval: COMMIT_INTERVAL, commit_events: COMMIT_EVENTS }
    }
}

impl EventLogBuilder {
    /// What runs the task that writes, and its clock. Default: as for
    /// [`EndpointBuilder::runtime`](crate::EndpointBuilder::runtime). For logs that are
    /// [opened](Self::open).
    #[must_use]
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.knobs.runtime = Some(runtime);
        self
    }

    /// The least time between two commits, unless [`commit_events`](Self::commit_events) wait. Default: 20
    /// ms. An event that comes after a pause is written immediately. For logs that are [opened](Self::open).
    #[must_use]
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.knobs.commit_interval = interval;
        self
    }

    /// How many events that wait to be written are not made to wait longer. Default: 1,024. For logs that are
    /// [opened](Self::open).
    #[must_use]
    pub fn commit_events(mut self, events: usize) -> Self {
        self.knobs.commit_events = events;
        self
    }

    /// Opens the log in this file, or makes it: a history that goes on across restarts, with its epoch and
    /// its numbers.
    ///
    /// An event whose [`publish_durable`](EventLog::publish_durable) has resolved survives kill -9 and the
    /// loss of power, as far as the disk keeps what it was told to. Subscribers get an event only when it
    /// is written, so that none ever gets one that is then forgotten. A file that is damaged is kept
    /// aside, under the name that [`EventLog::damaged`] gives, and a new epoch begins.
    ///
    /// This blocks while the file is read and checked, all of it. Writing goes through the thread pool of the
    /// `blocking` crate, as smol's own file operations do.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) as for [`build`](Self::build), and without a runtime;
    /// [`Io`](ErrorKind::Io) where the file cannot be opened, or another process has it.
    pub fn open(self, path: impl AsRef<Path>) -> Result<EventLog> {
        self.check()?;
        let Knobs { runtime, commit_events, .. } = self.knobs.clone();
        let runtime =
            runtime.or_else(default_runtime).ok_or_else(|| Error::invalid_config("no runtime was given"))?;
        if commit_events == 0 {
            return Err(Error::invalid_config("commit_events is zero"));
        }
        let (store, contents, damaged) = Store::open(path.as_ref(), random_epoch)?;
        Ok(self.run(runtime, store, contents, damaged))
    }

    fn run(
        self,
        runtime: Arc<dyn Runtime>,
        store: Store,
        contents: Contents,
        damaged: Option<PathBuf>,
    ) -> EventLog {
        let Knobs { commit_interval, commit_events, .. } = self.knobs.clone();
        let Contents { epoch, first, events } = contents;
        let mut ring = Ring::new(self.bounds(), first);
        events.into_iter().for_each(|held| ring.push(held));
        // A subscriber could not get past an event that fits no frame any more.
        ring.forget_larger_than(self.max_payload_bytes);
        let committed = ring.last();
        let queue = Queue {
            waiting: Vec::new(),
            bytes: 0,
            last: committed,
            committed,
            commits: 0,
            latest_commit: None,
            committing: false,
            hurry: false,
            closed: false,
            failed: false,
        };
        let committer = Committer {
            store: async_lock::Mutex::new(Some(Arc::new(store))),
            clock: Clock::new(runtime),
            commit_interval,
            commit_events,
            most_waiting_bytes: self.bounds().bytes,
            damaged,
            queue: Mutex::new(queue),
            enough: Event::new(),
            progress: Progress::starting_at(committed),
        };
        self.create_with(epoch, ring, Some(committer))
    }
}

/// Collects events, and has a task write them while there are any.
pub(super) struct Committer {
    /// `None` once the log is closed.
    store: async_lock::Mutex<Option<Arc<Store>>>,
    clock: Clock,
    commit_interval: Duration,
    commit_events: usize,
    most_waiting_bytes: usize,
    damaged: Option<PathBuf>,
    queue: Mutex<Queue>,
    /// What waits is to be written without further delay.
    enough: Event,
    /// What those who wait for a commit hear of it.
    progress: Arc<Progress>,
}

/// How far the commits have come, apart from the log: the committing task tells after it has let go of the
/// log, since callers who hear that their event is on disk may drop their handles, and expect that to release
/// the file.
#[derive(Default)]
struct Progress {
    state: Mutex<Reached>,
    changed: Event,
}

#[derive(Clone, Copy, Default)]
struct Reached {
    /// The number of the newest event on disk.
    committed: u64,
    failed: bool,
}

impl Progress {
    fn starting_at(committed: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(Reached { committed, failed: false }), changed: Event::new() })
    }

    /// Tells how far a commit has come. The task of the one before may tell later.
    fn reach(&self, Reached { committed, failed }: Reached) {
        {
            let mut state = lock(&self.state);
            state.committed = state.committed.max(committed);
            state.failed |= failed;
        }
        self.changed.notify(usize::MAX);
    }

    fn reached(&self) -> Reached {
        *lock(&self.state)
    }
}

struct Queue {
    waiting: Vec<Held>,
    /// What the waiting events count for.
    bytes: usize,
    /// The number of the newest event, waiting or not.
    last: u64,
    /// The number of the newest event on disk.
    committed: u64,
    commits: u64,
    latest_commit: Option<Instant>,
    /// A task is at work. Invariant: as long as events wait, there is one, unless a commit has failed.
    committing: bool,
    /// Somebody waits for what is to be written now, and not when the interval is over.
    hurry: bool,
    /// Nothing more is published.
    closed: bool,
    /// A commit has failed. What was to follow would leave a hole.
    failed: bool,
}

impl EventLog {
    /// Where the file is that was found damaged when this log was opened; `None` where all was well.
    #[must_use]
    pub fn damaged(&self) -> Option<&Path> {
        self.committer()?.damaged.as_deref()
    }

    /// How often events were written since the log was opened; 0 for logs in memory.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.committer().map_or(0, |committer| committer.queue().commits)
    }
}

impl Committer {
    /// Takes an event for the next commit, and gives its number.
    pub(super) fn enqueue(&self, log: &EventLog, held: Held) -> Result<u64> {
        let mut queue = self.queue();
        if queue.closed {
            return Err(closed());
        }
        if queue.failed {
            return Err(failure());
        }
        let bytes = queue.bytes + cost(&held.payload);
        if bytes > self.most_waiting_bytes {
            return Err(Error::new(ErrorKind::Exhausted).detail("too many events wait to be written"));
        }
        queue.bytes = bytes;
        queue.waiting.push(held);
        queue.last += 1;
        let (seq, waiting) = (queue.last, queue.waiting.len());
        let idle = !std::mem::replace(&mut queue.committing, true);
        drop(queue);
        if idle {
            let unfinished = Unfinished(Some(log.clone()));
            self.clock.spawn(async move { unfinished.commit_all().await });
        } else if waiting >= self.commit_events {
            self.enough.notify(usize::MAX);
        }
        Ok(seq)
    }

    /// The number of the newest event that was taken, on disk or not.
    pub(super) fn last(&self) -> u64 {
        self.queue().last
    }

    /// Resolves when every event that was taken is on disk, for which the interval between commits does not
    /// count.
    pub(super) async fn flushed(&self) -> Result<()> {
        let last = {
            let mut queue = self.queue();
            if queue.failed {
                return Err(failure());
            }
            queue.hurry = !queue.waiting.is_empty();
            queue.last
        };
        self.enough.notify(usize::MAX);
        self.committed(last).await
    }

    /// Takes no more events, writes those that were taken, and lets go of the file.
    pub(super) async fn close(&self) -> Result<()> {
        self.queue().closed = true;
        let flushed = self.flushed().await;
        // Held while the file is closed, so that every other caller waits for that, too.
        let mut store = self.store.lock().await;
        if let Some(store) = store.take() {
            blocking::unblock(move || drop(store)).await;
        }
        flushed
    }

    /// Resolves when the event with this number is on disk.
    pub(super) async fn committed(&self, seq: u64) -> Result<()> {
        loop {
            let changed = self.progress.changed.listen();
            let Reached { committed, failed } = self.progress.reached();
            if committed >= seq {
                return Ok(());
            }
            if failed {
                return Err(failure());
            }
            changed.await;
        }
    }

    /// Writes the events that wait, in one commit. Says how far that has come, and whether others wait by
    /// then.
    async fn commit(&self, log: &EventLog) -> (Reached, bool) {
        self.wait_until_due().await;
        let Some(store) = self.store.lock().await.clone() else {
            return (self.fail(), false);
        };
        let (events, first) = {
            let mut queue = self.queue();
            queue.bytes = 0;
            queue.hurry = false;
            (std::mem::take(&mut queue.waiting), queue.committed + 1)
        };
        let oldest = log.first_seq_after(&events);
        let batch = Batch { first, events, oldest };
        let kept = Arc::clone(&store);
        let written = AssertUnwindSafe(blocking::unblock(move || {
            let written = store.commit(&batch);
            (batch, written)
        }));
        // A panic of the file's library would take the whole executor along.
        let Ok((batch, written)) = written.catch_unwind().await else {
            tracing::warn!("writing events panicked");
            // Dropping what panicked would panic again, where the log is dropped. The file stays locked
            // instead.
            std::mem::forget(kept);
            return (self.fail(), false);
        };
        if let Err(error) = written {
            tracing::warn!(%error, "events could not be written");
            // Before others learn of it, who may then close the log and with it the file.
            drop(kept);
            return (self.fail(), false);
        }
        let last = log.append(batch.events);
        let mut queue = self.queue();
        queue.committed = last;
        queue.commits += 1;
        queue.latest_commit = Some(self.clock.now());
        queue.committing = !queue.waiting.is_empty();
        (Reached { committed: last, failed: false }, queue.committing)
    }

    /// From now on nothing can be published.
    fn fail(&self) -> Reached {
        let (waiting, committed) = {
            let mut queue = self.queue();
            queue.failed = true;
            queue.committing = false;
            // Their numbers were never anybody's to rely on.
            queue.last = queue.committed;
            (std::mem::take(&mut queue.waiting), queue.committed)
        };
        drop(waiting);
        Reached { committed, failed: true }
    }

    /// Resolves when the interval since the latest commit is over, enough events wait, or somebody waits for
    /// them.
    async fn wait_until_due(&self) {
        let Some(latest) = self.queue().latest_commit else { return };
        let Some(due) = latest.checked_add(self.commit_interval) else { return };
        let enough = async {
            loop {
                let enough = self.enough.listen();
                {
                    let queue = self.queue();
                    if queue.hurry || queue.waiting.len() >= self.commit_events {
                        return;
                    }
                }
                enough.await;
            }
        };
        match self.clock.timeout_at(Some(due), enough).await {
            Ok(()) | Err(Elapsed) => {}
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

/// The task that commits, which an executor may drop at any time: then the log fails, rather than let anybody
/// wait.
struct Unfinished(Option<EventLog>);

impl Unfinished {
    /// Writes what waits, group by group, until nothing does.
    async fn commit_all(mut self) {
        while let Some(log) = &self.0
            && let Some(committer) = log.committer()
        {
            let progress = Arc::clone(&committer.progress);
            let (reached, more) = committer.commit(log).await;
            // Even where the executor drops this task while it lets go of the log.
            let _told = Told { progress, reached };
            if !more && let Some(log) = self.0.take() {
                release(log).await;
            }
        }
    }
}

/// Tells those who wait for a commit, when it is dropped.
struct Told {
    progress: Arc<Progress>,
    reached: Reached,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.progress.reach(self.reached);
    }
}

/// Drops a handle, by the thread pool if it is the last one and so closes the file.
async fn release(log: EventLog) {
    if log.is_last_handle() {
        blocking::unblock(move || drop(log)).await;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(committer) = self.0.as_ref().and_then(EventLog::committer) {
            tracing::warn!("the executor dropped the task that writes events");
            committer.progress.reach(committer.fail());
        }
    }
}

fn failure() -> Error {
    Error::from(std::io::Error::other("the event log cannot be written; it has to be opened again"))
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicU8, Ordering},
    };

    use async_executor::Executor;
    use futures_lite::future::block_on;
    use redb::{StorageBackend, backends::InMemoryBackend};

    use super::*;
    use crate::runtime::AsyncIoRuntime;

    const WELL: u8 = 0;
    const FULL: u8 = 1;
    const CRASHING: u8 = 2;

    /// A disk in memory, whose state the test changes.
    #[derive(Clone, Debug)]
    struct Disk {
        memory: Arc<InMemoryBackend>,
        state: Arc<AtomicU8>,
    }

    impl Disk {
        fn check(&self) -> io::Result<()> {
            match self.state.load(Ordering::Relaxed) {
                WELL => Ok(()),
                FULL => Err(io::ErrorKind::StorageFull.into()),
                _ => panic!("as the test wants it"),
            }
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.check()?;
            self.memory.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.check()?;
            self.memory.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.check()?;
            self.memory.write(offset, data)
        }
    }

    /// A log on such a disk, and what drives it.
    fn log() -> (EventLog, Arc<AtomicU8>, Arc<Executor<'static>>) {
        let state = Arc::new(AtomicU8::new(WELL));
        let disk = Disk { memory: Arc::new(InMemoryBackend::new()), state: Arc::clone(&state) };
        let database = redb::Builder::new().create_with_backend(disk).unwrap();
        let Ok((store, contents)) = Store::on(database, &random_epoch) else { panic!("the disk is well") };
        let executor = Arc::new(Executor::new());
        let runtime = Arc::new(AsyncIoRuntime::on(Arc::clone(&executor)));
        let builder = EventLog::builder().commit_interval(Duration::ZERO);
        (builder.run(runtime, store, contents, None), state, executor)
    }

    #[test]
    fn a_disk_that_fails_fails_the_log_and_nobody_waits_for_ever() {
        for failing in [FULL, CRASHING] {
            let (log, state, executor) = log();
            block_on(executor.run(async {
                assert_eq!(log.publish_durable("kept").await.unwrap(), 1);
                state.store(failing, Ordering::Relaxed);
                let error = log.publish_durable("lost").await.unwrap_err();
                assert_eq!(error.kind(), &ErrorKind::Io, "{failing}");
            }));
            state.store(WELL, Ordering::Relaxed);
            assert_eq!(log.publish("too late").unwrap_err().kind(), &ErrorKind::Io);
            assert_eq!(
                (log.last_seq(), log.committed_seq(), log.commits()),
                (1, 1, 1),
                "nobody sees what is not on disk"
            );
            assert_eq!(block_on(log.flush()).unwrap_err().kind(), &ErrorKind::Io);
            assert_eq!(block_on(log.close()).unwrap_err().kind(), &ErrorKind::Io);
            assert_eq!(log.publish("too late").unwrap_err().kind(), &ErrorKind::Closed);
        }
    }

    /// The twin, and the end of an executor in the middle of it all.
    #[test]
    fn an_executor_that_is_dropped_fails_the_log_too() {
        let (log, _state, executor) = log();
        block_on(executor.run(async { assert_eq!(log.publish_durable("kept").await.unwrap(), 1) }));
        let waiting = log.publish_durable("never written");
        drop(executor);
        assert_eq!(block_on(waiting).unwrap_err().kind(), &ErrorKind::Io);
        assert_eq!(log.last_seq(), 1);
    }
}
