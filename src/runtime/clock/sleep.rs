//! Futures that wait for an instant, and futures with a time limit.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;

use super::shared::Shared;

/// Waits for an instant. Dropping it removes its deadline.
pub(crate) struct Sleep {
    shared: Arc<Shared>,
    deadline: Instant,
    id: Option<u64>,
}

impl Sleep {
    pub(super) fn new(shared: Arc<Shared>, deadline: Instant) -> Self {
        Self { shared, deadline, id: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { shared, deadline, id } = &mut *self;
        if shared.runtime.now() >= *deadline {
            return Poll::Ready(());
        }
        shared.sleep(*deadline, id, cx.waker());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.remove(self.deadline, id);
        }
    }
}

/// The time limit has passed first; or the runtime was dropped, so that no time limit will ever pass.
/// [`Clock::timed_out`](super::Clock::timed_out) tells the two apart.
#[derive(Debug)]
pub(crate) struct Elapsed;

pin_project! {
    /// A future with a time limit.
    ///
    /// Not an `async fn`, which would keep its argument twice: as it was passed, and where it is polled.
    pub(crate) struct Timeout<'a, F> {
        shared: &'a Arc<Shared>,
        limit: Limit,
        sleep: Option<Sleep>,
        #[pin]
        future: F,
    }
}

#[derive(Clone, Copy)]
pub(super) enum Limit {
    Never,
    Until(Instant),
    /// From the first time that the future is pending.
    For(Duration),
}

impl<'a, F> Timeout<'a, F> {
    pub(super) fn new(shared: &'a Arc<Shared>, limit: Limit, future: F) -> Self {
        Self { shared, limit, sleep: None, future }
    }
}

impl<F: Future> Future for Timeout<'_, F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        this.limit.poll(this.shared, this.sleep, cx).map(Err)
    }
}

impl Limit {
    /// Once for all futures, since a program contains [`Timeout`] for each of their types.
    fn poll(self, shared: &Arc<Shared>, sleep: &mut Option<Sleep>, cx: &mut Context<'_>) -> Poll<Elapsed> {
        let sleep = match (sleep, self) {
            (Some(sleep), _) => sleep,
            (none, Self::Until(deadline)) => none.insert(Sleep::new(Arc::clone(shared), deadline)),
            (none, Self::For(limit)) => {
                let deadline = later(shared.runtime.now(), limit);
                none.insert(Sleep::new(Arc::clone(shared), deadline))
            }
            (_, Self::Never) => return Poll::Pending,
        };
        // In this order: a runtime that is dropped wakes those that sleep at that time.
        if Pin::new(sleep).poll(cx).is_pending() && !shared.liveness.is_dropped() {
            return Poll::Pending;
        }
        Poll::Ready(Elapsed)
    }
}

/// Later than any deadline that the limits allow.
const FAR: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// The instant `after` a recent one, or one that is as good as never.
pub(super) fn later(instant: Instant, after: Duration) -> Instant {
    instant.checked_add(after).unwrap_or_else(|| instant + FAR)
}
