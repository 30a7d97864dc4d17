//! What a handler answers instead of a result.

use std::{fmt, time::Duration};

use crate::message::{Response, WireError};

/// A handler's failure, as the caller gets to see it.
///
/// The detail goes to the peer word for word, so it must hold no secret; text beyond 256 bytes is cut off.
///
/// ```
/// use std::time::Duration;
/// use palyra_quic::{MethodError, WireError};
///
/// let busy = MethodError::resource_exhausted("flash is being written").retry_after(Duration::from_secs(2));
/// assert_eq!(busy.error(), &WireError::ResourceExhausted);
/// assert_eq!(busy.to_string(), "resource_exhausted: flash is being written");
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
    /// It reaches the caller as it is, and the caller takes it that the method [may have
    /// run](crate::Error::may_have_run), whatever the error. The one exception is `unavailable`, which is
    /// the node's own to say: callers take it to mean that the method has not run, so that a handler's
    /// becomes `resource_exhausted`.
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

    /// As a handler may say it.
    pub(crate) fn of_handler(self) -> Self {
        match self.error {
            WireError::Unavailable => Self { error: WireError::ResourceExhausted, ..self },
            _ => self,
        }
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
