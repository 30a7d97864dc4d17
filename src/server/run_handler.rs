//! Running a handler that may take too long, be given up, or panic.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Poll,
    time::Instant,
};

use super::node::Node;
use crate::{code::Code, drain::ExchangeId, router::MethodError};

/// How a handler ended.
pub(super) enum Outcome<T, E = MethodError> {
    Returned(Result<T, E>),
    TimedOut,
    /// The peer stopped the stream with this code, or is gone.
    GivenUp(Code),
    Panicked,
}

impl<T, E> Outcome<T, E> {
    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Outcome<U, E> {
        match self {
            Self::Returned(result) => Outcome::Returned(result.map(map)),
            Self::TimedOut => Outcome::TimedOut,
            Self::GivenUp(code) => Outcome::GivenUp(code),
            Self::Panicked => Outcome::Panicked,
        }
    }
}

/// Whether the shutdown waits for a handler while connections are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShutdownWaits {
    ForHandler,
    No,
}

/// Drives a handler until it returns, panics, runs out of time, or is given up by `given_up`, and drops it.
///
/// The handler is polled first, so that one which is ready immediately costs neither a timer nor a waker.
pub(super) async fn run_handler<T, E>(
    node: &Node,
    holds: ShutdownWaits,
    deadline: Option<Instant>,
    mut given_up: Pin<&mut impl Future<Output = Code>>,
    handler: Pin<Box<dyn Future<Output = Result<T, E>> + Send + '_>>,
) -> Outcome<T, E> {
    let mut handler = CatchOnDrop(Some(handler));
    // A shutdown that is awaited in the handler has to know whose it is. This variable stays where it is,
    // within the future.
    let handling = ExchangeId::new(&node.drain, &handler, holds == ShutdownWaits::ForHandler);
    let outcome = poll_fn(|cx| {
        let Some(handler) = &mut handler.0 else { return Poll::Pending };
        // Nothing of the handler is looked at again after a panic.
        match handling.poll(|| catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx)))) {
            Ok(Poll::Ready(result)) => return Poll::Ready(Outcome::Returned(result)),
            Ok(Poll::Pending) => {}
            Err(panic) => {
                forget(panic);
                return Poll::Ready(Outcome::Panicked);
            }
        }
        given_up.as_mut().poll(cx).map(Outcome::GivenUp)
    });
    let outcome = node.clock.timeout_at(deadline, outcome).await.unwrap_or(Outcome::TimedOut);
    match handler.discard() {
        Ok(()) => outcome,
        Err(Panicked) => Outcome::Panicked,
    }
}

/// A handler, or nothing. Whatever the handler holds may panic when it is dropped, also where this is dropped
/// with the task that it is in: the panic ends here.
struct CatchOnDrop<T>(Option<T>);

struct Panicked;

impl<T> CatchOnDrop<T> {
    fn discard(&mut self) -> Result<(), Panicked> {
        let Some(handler) = self.0.take() else { return Ok(()) };
        catch_unwind(AssertUnwindSafe(move || drop(handler))).map_err(|panic| {
            forget(panic);
            Panicked
        })
    }
}

impl<T> Drop for CatchOnDrop<T> {
    fn drop(&mut self) {
        if self.discard().is_err() {
            tracing::warn!("a handler panicked when it was dropped");
        }
    }
}

/// The payload of a panic may panic when it is dropped, too.
fn forget(panic: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
        std::mem::forget(another);
    }
}
