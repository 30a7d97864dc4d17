//! Why an endpoint has ended.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use event_listener::Event;

use crate::{
    code::Code,
    error::{Error, ErrorKind},
    runtime::RuntimeWatch,
    sync::wait_until,
};

/// The end of an endpoint, which comes once and has one cause: the first that was given.
///
/// It has two moments: from the end on, nothing can be begun; and it is complete when the shutdowns that
/// brought it, or came meanwhile, have finished what was going on, or when nothing is waited for: see
/// [`complete`](Self::complete).
#[derive(Debug, Default)]
pub(crate) struct CloseState {
    cause: OnceLock<Cause>,
    ended: Event,
    shutdowns: AtomicUsize,
    complete: AtomicBool,
}

/// quinn's endpoint, which is closed when the last owner of this is dropped: handles of the endpoint, and
/// those of connections that it dialled.
pub(crate) struct OpenEndpoint {
    quinn: quinn::Endpoint,
    close_state: Arc<CloseState>,
    _watch: RuntimeWatch,
}

/// What ended an endpoint.
#[derive(Debug)]
pub(crate) enum Cause {
    /// [`Endpoint::shutdown`](crate::Endpoint::shutdown).
    Shutdown,
    /// [`Endpoint::close`](crate::Endpoint::close).
    Closed,
    /// Its socket failed, and did not recover.
    Socket(io::Error),
}

impl CloseState {
    /// Wakes everybody who waits for the end. Only the first cause counts.
    pub(crate) fn end(&self, cause: Cause) {
        if self.cause.set(cause).is_ok() {
            if self.failure().is_some() {
                self.complete.store(true, SeqCst);
            }
            self.ended.notify(usize::MAX);
        }
    }

    /// Makes an end that has come complete, whatever shutdowns have not finished: their futures may not even
    /// be polled any more.
    pub(crate) fn complete(&self) {
        self.complete.store(true, SeqCst);
        self.ended.notify(usize::MAX);
    }

    /// The end is not complete while a shutdown holds this.
    pub(crate) fn shutdown(&self) -> Shutdown<'_> {
        self.shutdowns.fetch_add(1, SeqCst);
        Shutdown(self)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.cause.get().is_some()
    }

    /// Why the endpoint has ended; `None` while it has not.
    pub(crate) fn error(&self) -> Option<Error> {
        self.cause.get().map(Cause::to_error)
    }

    /// Why the endpoint has ended, if that was not on request.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.cause
            .get()
            .filter(|cause| !matches!(cause, Cause::Shutdown | Cause::Closed))
            .map(Cause::to_error)
    }

    /// Resolves when the endpoint has ended, with the reason.
    pub(crate) async fn ended(&self) -> Error {
        wait_until(&self.ended, || self.has_ended()).await;
        self.error().unwrap_or_else(|| Error::new(ErrorKind::Closed))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(SeqCst)
    }

    /// Resolves when the end is complete, with the reason for it.
    pub(crate) async fn completed(&self) -> Error {
        wait_until(&self.ended, || self.is_complete()).await;
        self.ended().await
    }
}

/// A shutdown that has not finished.
pub(crate) struct Shutdown<'a>(&'a CloseState);

impl Drop for Shutdown<'_> {
    fn drop(&mut self) {
        let Self(close_state) = self;
        if close_state.shutdowns.fetch_sub(1, SeqCst) == 1 && close_state.has_ended() {
            close_state.complete();
        }
    }
}

impl OpenEndpoint {
    pub(crate) fn new(quinn: quinn::Endpoint, close_state: Arc<CloseState>, watch: RuntimeWatch) -> Self {
        Self { quinn, close_state, _watch: watch }
    }

    pub(crate) fn quinn(&self) -> &quinn::Endpoint {
        &self.quinn
    }

    /// Ends every connection for a reason of this side's. The peers may find another node, or this one when
    /// it was started again.
    pub(crate) fn fail(&self, cause: Cause) {
        self.close_state.end(cause);
        self.quinn.close(Code::INTERNAL.to_varint(), b"the socket failed");
    }
}

impl Drop for OpenEndpoint {
    fn drop(&mut self) {
        self.quinn.close(Code::NO_ERROR.to_varint(), b"");
    }
}

impl Cause {
    fn to_error(&self) -> Error {
        let closed = Error::new(ErrorKind::Closed);
        match self {
            Self::Shutdown => closed.detail("the endpoint was shut down"),
            Self::Closed => closed.detail("the endpoint was closed"),
            Self::Socket(error) => {
                closed.detail("the endpoint's socket has failed").caused_by(duplicate(error))
            }
        }
    }
}

/// The same error again, since errors of the system cannot be cloned.
pub(crate) fn duplicate(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn the_first_cause_is_the_one_that_everybody_gets() {
        let close_state = CloseState::default();
        let (early, late) = block_on(async {
            let mut early = Box::pin(close_state.ended());
            assert!(poll_once(&mut early).await.is_none());
            assert!(!close_state.has_ended());
            close_state.end(Cause::Socket(io::Error::from(io::ErrorKind::PermissionDenied)));
            close_state.end(Cause::Shutdown);
            (early.await, close_state.ended().await)
        });
        for error in [early, late, close_state.failure().unwrap()] {
            assert_eq!(*error.kind(), ErrorKind::Closed);
            let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>()).unwrap();
            assert_eq!(cause.kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn a_shutdown_is_an_end_and_no_failure() {
        let close_state = CloseState::default();
        close_state.end(Cause::Shutdown);
        assert!(close_state.failure().is_none());
        assert_eq!(*block_on(close_state.ended()).kind(), ErrorKind::Closed);
    }

    #[test]
    fn an_end_is_complete_when_the_last_shutdown_finishes_or_is_given_up() {
        let close_state = CloseState::default();
        drop(close_state.shutdown());
        assert!(!close_state.is_complete(), "one that was given up before the end");
        let [first, second] = [close_state.shutdown(), close_state.shutdown()];
        close_state.end(Cause::Shutdown);
        drop(first);
        block_on(async {
            let mut completed = Box::pin(close_state.completed());
            assert!(poll_once(&mut completed).await.is_none());
            assert_eq!(*close_state.ended().await.kind(), ErrorKind::Closed);
            drop(second);
            assert_eq!(*completed.await.kind(), ErrorKind::Closed);
        });
        let _late = close_state.shutdown();
        assert!(close_state.is_complete(), "what is complete stays so");
    }

    #[test]
    fn an_end_that_is_completed_waits_for_no_shutdown() {
        let close_state = CloseState::default();
        let _shutdown = close_state.shutdown();
        close_state.end(Cause::Closed);
        block_on(async {
            let mut completed = Box::pin(close_state.completed());
            assert!(poll_once(&mut completed).await.is_none());
            close_state.complete();
            assert_eq!(*completed.await.kind(), ErrorKind::Closed);
        });
    }

    #[test]
    fn a_failure_waits_for_no_shutdown() {
        let close_state = CloseState::default();
        let _shutdown = close_state.shutdown();
        close_state.end(Cause::Socket(io::ErrorKind::PermissionDenied.into()));
        assert!(close_state.is_complete());
    }
}
