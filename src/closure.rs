//! Why an endpoint has ended.

use std::{io, sync::OnceLock};

use event_listener::Event;

use crate::{
    error::{Error, ErrorKind},
    sync::wait_until,
};

/// The end of an endpoint, which comes once and has one cause: the first that was given.
#[derive(Debug, Default)]
pub(crate) struct Closure {
    cause: OnceLock<Cause>,
    ended: Event,
}

/// What ended an endpoint.
#[derive(Debug)]
pub(crate) enum Cause {
    /// [`Endpoint::shutdown`](crate::Endpoint::shutdown).
    Shutdown,
    /// Its socket failed, and did not recover.
    Socket(io::Error),
}

impl Closure {
    /// Wakes everybody who waits for the end. Only the first cause counts.
    pub(crate) fn end(&self, cause: Cause) {
        if self.cause.set(cause).is_ok() {
            self.ended.notify(usize::MAX);
        }
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
        self.cause.get().filter(|cause| !matches!(cause, Cause::Shutdown)).map(Cause::to_error)
    }

    /// Resolves when the endpoint has ended, with the reason.
    pub(crate) async fn ended(&self) -> Error {
        wait_until(&self.ended, || self.has_ended()).await;
        self.error().unwrap_or_else(|| Error::new(ErrorKind::Closed))
    }
}

impl Cause {
    fn to_error(&self) -> Error {
        let closed = Error::new(ErrorKind::Closed);
        match self {
            Self::Shutdown => closed.detail("the endpoint was shut down"),
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
        let closure = Closure::default();
        let (early, late) = block_on(async {
            let mut early = Box::pin(closure.ended());
            assert!(poll_once(&mut early).await.is_none());
            assert!(!closure.has_ended());
            closure.end(Cause::Socket(io::Error::from(io::ErrorKind::PermissionDenied)));
            closure.end(Cause::Shutdown);
            (early.await, closure.ended().await)
        });
        for error in [early, late, closure.failure().unwrap()] {
            assert_eq!(*error.kind(), ErrorKind::Closed);
            let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>()).unwrap();
            assert_eq!(cause.kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn a_shutdown_is_an_end_and_no_failure() {
        let closure = Closure::default();
        closure.end(Cause::Shutdown);
        assert!(closure.failure().is_none());
        assert_eq!(*block_on(closure.ended()).kind(), ErrorKind::Closed);
    }
}
