//! Where calls of the file system run.

use std::io;

use smol::Task;

/// Which thread waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// A thread that may block, so that the executor's threads do not.
    #[allow(dead_code, reason = "a test in virtual time uses the other")]
    Threads,
    /// The thread that asks. In virtual time, nobody waits for another thread.
    #[allow(dead_code, reason = "only a test uses this")]
    Caller,
}

/// A call that has begun.
pub(crate) enum DiskTask<T> {
    Running(Task<io::Result<T>>),
    Done(io::Result<T>),
}

impl Disk {
    /// Begins a call. Once it runs, it is not interrupted when its task is dropped.
    pub(crate) fn begin<T: Send + 'static>(
        self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> DiskTask<T> {
        match self {
            Self::Threads => DiskTask::Running(smol::unblock(call)),
            Self::Caller => DiskTask::Done(call()),
        }
    }

    /// Makes a call, and waits for its result.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.begin(call).result().await
    }
}

impl<T> DiskTask<T> {
    pub(crate) async fn result(self) -> io::Result<T> {
        match self {
            Self::Running(task) => task.await,
            Self::Done(result) => result,
        }
    }
}
