//! What a handler answers instead of a result.

use std::{fmt, time::Duration};

use crate::{
    error::{Error, ErrorKind},
    message::{Response, WireError},
};

/// A handler's failure, as the caller receives it: an error string, a detail for people, and perhaps when
/// trying again makes sense.
///
/// The caller gets the detail word for word, so it must not contain secrets. It is cut off after 256 bytes.
///
/// ```
/// use std::time::Duration;
/// use palyra_quic::{MethodError, WireError};
///
/// let busy = MethodError::resource_exhausted("flash is being written").retry_after(Duration::from_secs(2));
/// assert_eq!(busy.error(), &WireError::ResourceExhausted);
/// assert_eq!(busy.to_string(), "resource_exhausted: flash is being written");
/// ```
///
/// `?` converts an [`Error`] into [`internal`](Self::internal) without a detail: the caller learns nothing of
/// the cause, which the log of this node gets at level `debug`.
///
/// ```
/// use palyra_quic::{Context, EventLog, Router};
///
/// let log = EventLog::new();
/// let router = Router::new().serve("demo.publish", move |_: Context, line: String| {
///     let log = log.clone();
///     async move { Ok(log.publish(&line)?) }
/// });
/// # drop(router);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodError {
    error: WireError,
    detail: Option<Box<str>>,
    retry_after: Option<Duration>,
    /// The node refused the request before a handler started. No handler can make one that says so.
    not_run: bool,
}

impl MethodError {
    /// A failure with any error string.
    ///
    /// The caller gets the string unchanged, and assumes that the method [may have
    /// run](crate::Error::may_have_run). There is one exception: `unavailable` tells callers that the method
    /// has not run. So it is for the node itself, and for interceptors that refuse the exchange. From a
    /// handler, it becomes `resource_exhausted`.
    #[must_use]
    pub fn new(error: WireError) -> Self {
        Self { error, detail: None, retry_after: None, not_run: false }
    }

    /// The parameters are not what the method takes. The caller should not try again.
    #[must_use]
    pub fn invalid_request(detail: impl Into<Box<str>>) -> Self {
        Self::new(WireError::InvalidRequest).detail(detail)
    }

    /// This peer may not do this.
    #[must_use]
    pub fn permission_denied(detail: impl Into<Box<str>>) -> Self {
        Self::new(WireError::PermissionDenied).detail(detail)
    }

    /// A limit was hit; later there may be room.
    #[must_use]
    pub fn resource_exhausted(detail: impl Into<Box<str>>) -> Self {
        Self::new(WireError::ResourceExhausted).detail(detail)
    }

    /// The node is shutting down. For the node alone: it says that the method has not run, and callers then
    /// repeat the call elsewhere.
    pub(crate) fn unavailable(detail: impl Into<Box<str>>) -> Self {
        Self::new(WireError::Unavailable).detail(detail)
    }

    /// Says that no handler has started. For the node alone.
    pub(crate) fn not_run(self) -> Self {
        Self { not_run: true, ..self }
    }

    /// The handler failed.
    #[must_use]
    pub fn internal(detail: impl Into<Box<str>>) -> Self {
        Self::new(WireError::Internal).detail(detail)
    }

    /// Explains the failure to people.
    #[must_use]
    pub fn detail(self, detail: impl Into<Box<str>>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// Tells the caller when trying again makes sense, in whole milliseconds.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }

    /// The error string's type.
    #[must_use]
    pub fn error(&self) -> &WireError {
        &self.error
    }

    /// As a handler may say it, or an interceptor.
    pub(crate) fn of_handler(self) -> Self {
        match self.error {
            WireError::Unavailable if !self.not_run => Self { error: WireError::ResourceExhausted, ..self },
            _ => self,
        }
    }

    /// For an interceptor, which must not keep what says that a handler has not run; and whether it said so.
    pub(super) fn without_not_run(self) -> (Self, bool) {
        let not_run = self.not_run;
        (Self { not_run: false, ..self }, not_run)
    }

    /// As the caller gets it.
    pub(crate) fn into_response(self) -> Response {
        let Self { error, detail, retry_after, not_run } = self;
        Response::Error { error, detail, retry_after, not_run }
    }
}

impl fmt::Display for MethodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for MethodError {}

/// `internal`, without a detail; or `resource_exhausted` with its `retry_after`, where something of this
/// node's is [used up](crate::ErrorKind::Exhausted) for a while, such as the disk of its event log. The
/// error itself goes to the log of this node, at level `debug`.
impl From<Error> for MethodError {
    fn from(error: Error) -> Self {
        let source = std::error::Error::source(&error);
        tracing::debug!(%error, source, "a handler failed");
        match (error.kind(), error.retry_after()) {
            (ErrorKind::Exhausted, Some(after)) => Self::new(WireError::ResourceExhausted).retry_after(after),
            _ => Self::new(WireError::Internal),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::message::Codec;

    #[test]
    fn a_disk_that_fails_asks_the_caller_to_come_back() {
        let after = Duration::from_secs(3);
        let failing = Error::new(ErrorKind::Exhausted).detail("hunter2").after(Some(after));
        let expected = MethodError::new(WireError::ResourceExhausted).retry_after(after);
        assert_eq!(MethodError::from(failing).into_response(), expected.into_response());
        let busy = Error::new(ErrorKind::Exhausted).detail("hunter2");
        assert_eq!(
            MethodError::from(busy).into_response(),
            MethodError::new(WireError::Internal).into_response()
        );
    }

    #[test]
    fn nothing_of_an_error_is_sent_to_the_peer() {
        let error = || {
            Error::new(ErrorKind::Remote(WireError::ResourceExhausted))
                .detail("hunter2")
                .after(Some(Duration::from_secs(1)))
                .not_run()
                .of_method("hunter2")
                .caused_by(std::io::Error::other("hunter2"))
        };
        let on_the_wire = |error: MethodError, codec| {
            let mut out = Vec::new();
            error.into_response().encode(codec, &mut out).unwrap();
            out
        };
        for codec in [
            Codec::Cbor,
            #[cfg(feature = "json")]
            Codec::Json,
        ] {
            let sent = on_the_wire(error().into(), codec);
            assert_eq!(sent, on_the_wire(MethodError::new(WireError::Internal), codec));
            assert!(!sent.windows(7).any(|bytes| bytes == b"hunter2"));
            let told = on_the_wire(MethodError::internal(error().to_string()), codec);
            assert!(told.windows(7).any(|bytes| bytes == b"hunter2"), "the check can fail");
        }
    }
}
