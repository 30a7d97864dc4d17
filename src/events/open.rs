//! Event logs in files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use quinn::Runtime;

use super::{
    backing::Backing,
    builder::EventLogBuilder,
    committer::{CommitSettings, Committer},
    history::random_epoch,
    log::EventLog,
    ring::Ring,
    store::{Contents, Store},
};
use crate::{
    error::{Error, Result},
    runtime::default_runtime,
};

impl EventLogBuilder {
    /// The runtime of the task that writes, and of its clock. Default: as for
    /// [`EndpointBuilder::runtime`](crate::EndpointBuilder::runtime). For logs that are
    /// [opened](Self::open).
    #[must_use]
    pub fn runtime(self, runtime: impl Runtime) -> Self {
        self.shared_runtime(Arc::new(runtime))
    }

    /// What runs the log, as [`runtime`](Self::runtime), for one that has other owners too: that of an
    /// endpoint, for instance.
    #[must_use]
    pub fn shared_runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.commits.runtime = Some(runtime);
        self
    }

    /// The least time between two commits, unless [`commit_events`](Self::commit_events) wait. Default: 20
    /// ms. An event that comes after a pause is written immediately. For logs that are [opened](Self::open).
    #[must_use]
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.commits.commit_interval = interval;
        self
    }

    /// This many waiting events are written without waiting for the interval to end. Default: 1,024. For
    /// logs that are [opened](Self::open).
    #[must_use]
    pub fn commit_events(mut self, events: usize) -> Self {
        self.commits.commit_events = events;
        self
    }

    /// Opens the log in this file, or creates it: a history that goes on across restarts, with its epoch and
    /// its numbers.
    ///
    /// An event whose [`publish_durable`](EventLog::publish_durable) has resolved survives kill -9 and the
    /// loss of power, as far as the disk keeps what it was told to. Subscribers get an event only when it
    /// is written, so that none ever gets one that is then forgotten. A damaged file is moved
    /// aside, to the path that [`EventLog::damaged`] returns, and a new epoch begins.
    ///
    /// This blocks while the file is read and checked, all of it. Writing goes through the thread pool of
    /// the `blocking` crate, as smol's own file operations do.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) as for [`build`](Self::build), and without a
    /// runtime;
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be opened, or another process has it.
    pub fn open(self, path: impl AsRef<Path>) -> Result<EventLog> {
        self.check()?;
        let CommitSettings { runtime, commit_events, .. } = self.commits.clone();
        let runtime =
            runtime.or_else(default_runtime).ok_or_else(|| Error::invalid_config("no runtime was given"))?;
        if commit_events == 0 {
            return Err(Error::invalid_config("commit_events is zero"));
        }
        let (store, contents, damaged) = Store::open(path.as_ref(), random_epoch)?;
        Ok(self.start(runtime, store, contents, damaged))
    }

    fn start(
        self,
        runtime: Arc<dyn Runtime>,
        store: Store,
        contents: Contents,
        damaged: Option<PathBuf>,
    ) -> EventLog {
        let Contents { epoch, first, events } = contents;
        let mut ring = Ring::new(self.bounds(), first);
        events.into_iter().for_each(|event| ring.push(event));
        // A subscriber could never get past an event that no longer fits a frame.
        ring.evict_larger_than(self.max_payload_bytes);
        let history = self.history(epoch, ring);
        let max_pending_bytes = self.bounds().bytes;
        let committer =
            Committer::new(runtime, store, Arc::clone(&history), &self.commits, max_pending_bytes, damaged);
        EventLog::with(history, Backing::File(committer), self.max_payload_bytes)
    }
}

impl EventLog {
    /// The path to which a damaged file was moved when this log was opened; `None` if the file was sound.
    #[must_use]
    pub fn damaged(&self) -> Option<&Path> {
        self.backing().committer()?.damaged()
    }

    /// How often events were written since the log was opened; 0 for logs in memory.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.backing().committer().map_or(0, Committer::commits)
    }
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
    use crate::{error::ErrorKind, runtime::AsyncIoRuntime};

    const SOUND: u8 = 0;
    const FULL: u8 = 1;
    const CRASHING: u8 = 2;

    /// A disk in memory, which fails as the test says.
    #[derive(Clone, Debug)]
    struct Disk {
        memory: Arc<InMemoryBackend>,
        state: Arc<AtomicU8>,
    }

    impl Disk {
        fn check(&self) -> io::Result<()> {
            match self.state.load(Ordering::Relaxed) {
                SOUND => Ok(()),
                FULL => Err(io::ErrorKind::StorageFull.into()),
                _ => panic!("the test asked for this"),
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

    /// A log on such a disk, the state of the disk, and the executor that writes.
    fn log() -> (EventLog, Arc<AtomicU8>, Arc<Executor<'static>>) {
        let state = Arc::new(AtomicU8::new(SOUND));
        let disk = Disk { memory: Arc::new(InMemoryBackend::new()), state: Arc::clone(&state) };
        let database = redb::Builder::new().create_with_backend(disk).unwrap();
        let Ok((store, contents)) = Store::on(database, &random_epoch) else { panic!("the disk is sound") };
        let executor = Arc::new(Executor::new());
        let runtime = Arc::new(AsyncIoRuntime::on(Arc::clone(&executor)));
        let builder = EventLog::builder().commit_interval(Duration::ZERO);
        (builder.start(runtime, store, contents, None), state, executor)
    }

    #[test]
    fn a_disk_that_fails_fails_the_log_and_every_waiting_call() {
        for failing in [FULL, CRASHING] {
            let (log, state, executor) = log();
            block_on(executor.run(async {
                assert_eq!(log.publish_durable_raw("kept").await.unwrap(), 1);
                state.store(failing, Ordering::Relaxed);
                let error = log.publish_durable_raw("lost").await.unwrap_err();
                assert_eq!(error.kind(), &ErrorKind::Io, "{failing}");
            }));
            state.store(SOUND, Ordering::Relaxed);
            assert_eq!(log.publish_raw("too late").unwrap_err().kind(), &ErrorKind::Io);
            assert_eq!(
                (log.last_seq(), log.committed_seq(), log.commits()),
                (1, 1, 1),
                "subscribers see only what is on disk"
            );
            assert_eq!(block_on(log.flush()).unwrap_err().kind(), &ErrorKind::Io);
            assert_eq!(block_on(log.close()).unwrap_err().kind(), &ErrorKind::Io);
            assert_eq!(log.publish_raw("too late").unwrap_err().kind(), &ErrorKind::Closed);
        }
    }

    #[test]
    fn an_executor_that_is_dropped_fails_the_log_too() {
        let (log, _state, executor) = log();
        block_on(executor.run(async { assert_eq!(log.publish_durable_raw("kept").await.unwrap(), 1) }));
        let waiting = log.publish_durable_raw("never written");
        drop(executor);
        assert_eq!(block_on(waiting).unwrap_err().kind(), &ErrorKind::Io);
        assert_eq!(log.last_seq(), 1);
    }
}
