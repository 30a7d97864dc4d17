//! Deadlines of calls and handlers, any number of them on one timer of the runtime; and whether the runtime
//! is still there.

mod liveness;
mod shared;
mod sleep;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::Runtime;

use self::{
    shared::Shared,
    sleep::{Limit, Sleep, Timeout, later},
    watch::Sentinel,
};
pub(crate) use self::{sleep::Elapsed, watch::RuntimeWatch};
use crate::error::{Error, ErrorKind};

/// The runtime, and one timer for all deadlines of an endpoint.
///
/// With a timer of its own, each call would register with the reactor and wake its thread. Nearly all
/// deadlines are cancelled before they pass, and later ones are usually set later; so the clock keeps them
/// in order, and arms its one timer only for the first.
#[derive(Clone)]
pub(crate) struct Clock {
    shared: Arc<Shared>,
}

impl Clock {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { shared: Shared::new(runtime) }
    }

    pub(crate) fn now(&self) -> Instant {
        self.shared.runtime.now()
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(Box::pin(future));
    }

    pub(crate) fn spawn_boxed(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.shared.runtime.spawn(future);
    }

    /// The instant `after` from now, or one that is as good as never.
    pub(crate) fn deadline(&self, after: Duration) -> Instant {
        Self::after(self.now(), after)
    }

    /// The instant `after` a recent one, or one that is as good as never.
    pub(crate) fn after(instant: Instant, after: Duration) -> Instant {
        later(instant, after)
    }

    pub(crate) fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep::new(Arc::clone(&self.shared), deadline)
    }

    pub(crate) fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.deadline(duration))
    }

    /// Awaits `future` until `deadline`. A future that is ready immediately costs no timer.
    pub(crate) fn timeout_at<F: Future>(&self, deadline: Option<Instant>, future: F) -> Timeout<'_, F> {
        let limit = deadline.map_or(Limit::Never, Limit::Until);
        Timeout::new(&self.shared, limit, future)
    }

    /// Awaits `future` for as long as `limit`, from the first time that it is pending. A future that is
    /// ready immediately does not even read the clock.
    pub(crate) fn timeout<F: Future>(&self, limit: Duration, future: F) -> Timeout<'_, F> {
        Timeout::new(&self.shared, Limit::For(limit), future)
    }

    /// The error of a call whose time limit has [elapsed](Elapsed): of this kind, unless the runtime was
    /// dropped.
    pub(crate) fn timed_out(&self, kind: ErrorKind) -> Error {
        if self.is_runtime_dropped() { runtime_is_gone() } else { Error::new(kind) }
    }

    /// Spawns a task that notices when the runtime drops its tasks. The task ends when the returned value is
    /// dropped.
    pub(crate) fn watch_runtime(&self) -> RuntimeWatch {
        // Made here, so that a runtime that was dropped before is noticed, too.
        let sentinel = Sentinel(Arc::clone(&self.shared));
        self.spawn(async move { sentinel.watch().await });
        RuntimeWatch(Arc::clone(&self.shared))
    }

    /// Whether the runtime has dropped its tasks, which it does only at its end.
    pub(crate) fn is_runtime_dropped(&self) -> bool {
        self.shared.liveness.is_dropped()
    }

    /// Resolves when the runtime has dropped its tasks.
    pub(crate) async fn runtime_dropped(&self) {
        self.shared.liveness.ended().await;
        if !self.is_runtime_dropped() {
            std::future::pending().await
        }
    }
}

/// The monotonic clock of the system, for what has no runtime: an event log in memory.
pub(crate) fn monotonic_now() -> Instant {
    Instant::now()
}

/// The error of everything that a dropped runtime leaves unfinished.
pub(crate) fn runtime_is_gone() -> Error {
    Error::new(ErrorKind::Closed).detail("the runtime of the endpoint was dropped")
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("runtime", &self.shared.runtime).finish_non_exhaustive()
    }
}
