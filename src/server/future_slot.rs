//! Memory for an exchange's future, which is used again when an exchange finishes inline.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tracing::Span;

use super::connection_state::{ConnectionState, ExchangePermit};
use crate::drain::TaskGuard;

pin_project! {
    /// The future of an exchange, or free memory for one.
    pub(super) struct FutureSlot<F> {
        #[pin]
        pub(super) future: Option<F>,
        // The future is polled and dropped in it.
        pub(super) span: Span,
        // Set if the exchange has a task.
        pub(super) task: Option<Task>,
    }

    impl<F> PinnedDrop for FutureSlot<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.span.enter();
            this.future.set(None);
        }
    }
}

/// What an exchange with a task of its own holds.
pub(super) struct Task {
    pub(super) state: Arc<ConnectionState>,
    pub(super) _permit: ExchangePermit,
    /// Dropped last.
    pub(super) _guard: TaskGuard,
}

impl<F> FutureSlot<F> {
    pub(super) const fn empty() -> Self {
        Self { future: None, span: Span::none(), task: None }
    }
}

impl<F: Future<Output = ()>> Future for FutureSlot<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let mut future = this.future;
        let began = this.task.as_ref().map(|task| task.state.node.clock.now());
        let polled = this.span.in_scope(|| {
            let polled = future.as_mut().as_pin_mut().map_or(Poll::Ready(()), |future| future.poll(cx));
            if polled.is_ready() {
                future.set(None);
            }
            polled
        });
        if let Some((task, began)) = this.task.as_ref().zip(began) {
            let now = task.state.node.clock.now();
            task.state.inline_policy.record(now.saturating_duration_since(began));
        }
        if polled.is_ready() {
            // The span ends here, though the slot may be kept for the next exchange.
            *this.span = Span::none();
        }
        polled
    }
}
