//! One error type, sorted by who is at fault.

mod attempt_errors;
mod io;
mod kind;

use std::{error::Error as StdError, fmt, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    code::{Code, CodeClass},
    protocol::MAX_METHOD_BYTES,
    text::{MAX_HOST_BYTES, printable},
    wire_error::WireError,
};

pub(crate) use self::attempt_errors::AttemptErrors;
pub use self::kind::ErrorKind;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, with its cause in [`source`](StdError::source). One pointer in size.
///
/// Match on [`kind`](Self::kind), or ask one of the predicates; never compare the text. That is for people:
/// in plain words, on one line, with the method and the address of the peer where they are known. The texts
/// of its causes show no names out of other crates either; their [`Debug`] does.
///
/// ```
/// use palyra_quic::{ErrorKind, Pin};
///
/// let error = "not hexadecimal".parse::<Pin>().unwrap_err();
/// assert!(matches!(error.kind(), ErrorKind::InvalidConfig));
/// assert!(!error.is_retryable());
/// ```
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    detail: Option<Box<str>>,
    retry_after: Option<Duration>,
    request: Progress,
    #[cfg(feature = "streams")]
    items_taken: Option<u64>,
    /// The cause may be this side's own, and pass.
    temporary: bool,
    /// Shared with [duplicates](Error::duplicate).
    source: Option<Arc<dyn StdError + Send + Sync>>,
    context: ErrorDetails,
    /// Another attempt to reach the peer, which has shown more about the other end than this.
    other_attempt: Option<Arc<Error>>,
}

/// Which method failed, and with which peer, as far as that is known.
#[derive(Clone, Debug, Default)]
struct ErrorDetails {
    method: Option<Box<str>>,
    /// The name by which the peer was dialled.
    host: Option<Box<str>>,
    peer: Option<SocketAddr>,
}

/// How far the request that failed had come, as far as this side knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It had not left this side, or not complete.
    NotSent,
    Sent,
    /// The peer says that it refused the request before a handler started.
    NotRun,
    /// An answer had come. What the peer says of it afterwards changes nothing.
    Answered,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: None,
            retry_after: None,
            request: Progress::NotSent,
            #[cfg(feature = "streams")]
            items_taken: None,
            temporary: false,
            source: None,
            context: ErrorDetails::default(),
            other_attempt: None,
        }))
    }

    /// Adds which method was called, unless it is known.
    pub(crate) fn of_method(mut self, method: &str) -> Self {
        self.0.context.method.get_or_insert_with(|| method.into());
        self
    }

    /// Adds the name of the host that was dialled, unless it is known.
    pub(crate) fn of_host(mut self, host: &str) -> Self {
        self.0.context.host.get_or_insert_with(|| host.into());
        self
    }

    /// Adds the peer, unless it is known.
    pub(crate) fn at(mut self, peer: SocketAddr) -> Self {
        self.0.context.peer.get_or_insert(peer);
        self
    }

    /// Adds what happened, in the words of a person; never a secret.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into().into_boxed_str());
        self
    }

    /// Adds how long the peer asks to wait before the next attempt.
    pub(crate) fn after(mut self, delay: Option<Duration>) -> Self {
        self.0.retry_after = delay;
        self
    }

    /// Remembers that nothing of the request had left, whichever other request the error is of.
    pub(crate) fn before_request(mut self) -> Self {
        self.0.request = Progress::NotSent;
        self
    }

    /// Remembers that the request had left.
    pub(crate) fn after_request(mut self) -> Self {
        if self.0.request == Progress::NotSent {
            self.0.request = Progress::Sent;
        }
        self
    }

    /// Remembers that an answer to the request had come.
    pub(crate) fn after_answer(mut self) -> Self {
        self.0.request = Progress::Answered;
        self
    }

    /// Remembers that the peer had refused the request before a handler started.
    pub(crate) fn not_run(mut self) -> Self {
        self.0.request = Progress::NotRun;
        self
    }

    /// Adds how many items the peer had handed to the handler, if it has said so.
    #[cfg(feature = "streams")]
    pub(crate) fn after_items(mut self, taken: Option<u64>) -> Self {
        self.0.items_taken = taken;
        self
    }

    /// Says that trying again later may help, though failures of this kind are final otherwise.
    pub(crate) fn temporary(mut self) -> Self {
        self.0.temporary = true;
        self
    }

    /// Whether this side could not tell if the peer's certificate is good: its own revocation list is out of
    /// date, or its clock may be behind.
    pub(crate) fn is_temporary(&self) -> bool {
        self.0.temporary
    }

    pub(crate) fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// The same error once more, for another caller that waited for the same.
    pub(crate) fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// Takes the text and the cause of another error, and keeps what is known of the request.
    pub(crate) fn explained_by(mut self, other: Self) -> Self {
        let Inner {
            kind: _,
            detail,
            retry_after: _,
            request: _,
            #[cfg(feature = "streams")]
                items_taken: _,
            temporary: _,
            source,
            context: _,
            other_attempt: _,
        } = *other.0;
        self.0.detail = detail;
        self.0.source = source;
        self
    }

    pub(crate) fn invalid_config(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidConfig).detail(detail)
    }

    pub(crate) fn protocol(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol).detail(detail)
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The explanation for people that came with the failure, the peer's included.
    #[must_use]
    pub fn explanation(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// The method that was called, or notified, when this failed.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.0.context.method.as_deref()
    }

    /// The address of the peer that was called, or dialled, when this failed.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.0.context.peer
    }

    /// How long the peer asks to wait before the next attempt, where it says.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the identity of either side was not acceptable, or not for this method. Such a failure is
    /// never a reason to fall back to another transport, and neither is one after which another address was
    /// silent: [`FallbackPolicy`](crate::FallbackPolicy) knows of both.
    #[must_use]
    pub fn is_authentication(&self) -> bool {
        match self.kind() {
            ErrorKind::PinMismatch | ErrorKind::PeerCertificate | ErrorKind::CertificateRefused => true,
            ErrorKind::ConnectionClosed(code) | ErrorKind::StreamReset(code) => {
                matches!(*code, Code::IDENTITY_REJECTED | Code::IDENTITY_EXPIRED)
            }
            ErrorKind::Remote(error) => *error == WireError::PermissionDenied,
            _ => false,
        }
    }

    /// Whether a time limit passed, here or at the peer.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self.kind() {
            ErrorKind::DeadlineExceeded | ErrorKind::HandshakeTimeout => true,
            ErrorKind::StreamReset(code) => *code == Code::DEADLINE_EXCEEDED,
            ErrorKind::Remote(error) => *error == WireError::DeadlineExceeded,
            _ => false,
        }
    }

    /// Whether the call that failed may have run at the peer, wholly or in part. `false` where it certainly
    /// has not, so that repeating it does no harm: the request was not sent complete, the peer says that
    /// it refused it before a handler started (response key 12, `not_run`, or the error `unavailable`),
    /// or it refused this side's certificate, before which it reads no request. `true` in all other
    /// cases, whatever the error: a handler may answer any but `unavailable`, and nodes of
    /// earlier versions and of the tokio implementation do not say whether one ran.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        match self.0.request {
            Progress::NotSent | Progress::NotRun => false,
            Progress::Answered => true,
            Progress::Sent => !matches!(
                self.kind(),
                ErrorKind::Remote(WireError::Unavailable) | ErrorKind::CertificateRefused
            ),
        }
    }

    /// How many items of the request the peer had handed to its handler when it last said so: with its error,
    /// or with an answer before that. `None` if it did not say, and for requests without items.
    ///
    /// What the handler has done with them is for the method to define. Items beyond these may be on the way,
    /// and are not handled any more.
    #[cfg(feature = "streams")]
    #[must_use]
    pub fn items_taken(&self) -> Option<u64> {
        self.0.items_taken
    }

    /// Whether trying again cannot help: the two sides do not belong together, do not understand each other,
    /// or the peer said so with a code or an error that is final.
    pub(crate) fn is_terminal(&self) -> bool {
        if self.0.temporary {
            return false;
        }
        match self.kind() {
            ErrorKind::Io
            // Whether another connection can be had, only trying tells.
            | ErrorKind::Closed
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Exhausted
            | ErrorKind::HandshakeTimeout
            | ErrorKind::ConnectionLost
            | ErrorKind::Refused
            | ErrorKind::Truncated => false,
            // A code of a class that is not defined is no reason to try again (docs/protocol.md, section 9).
            ErrorKind::ConnectionClosed(code) | ErrorKind::StreamReset(code) => {
                matches!(code.class(), CodeClass::Terminal | CodeClass::Unknown)
            }
            ErrorKind::Remote(error) => matches!(
                error,
                WireError::InvalidRequest
                    | WireError::ProtocolMismatch
                    | WireError::UnsupportedMethod
                    | WireError::PermissionDenied
            ),
            ErrorKind::InvalidConfig
            | ErrorKind::MessageTooLarge
            | ErrorKind::Codec
            | ErrorKind::Intercepted
            | ErrorKind::PinMismatch
            | ErrorKind::PeerCertificate
            | ErrorKind::CertificateRefused
            | ErrorKind::AlpnMismatch
            | ErrorKind::VersionMismatch
            | ErrorKind::Unsupported
            | ErrorKind::FrameTooLarge
            | ErrorKind::Protocol => true,
        }
    }

    /// Whether the same attempt may succeed later, as far as the failure tells.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        if self.0.temporary {
            return true;
        }
        match self.kind() {
            ErrorKind::Exhausted
            | ErrorKind::HandshakeTimeout
            | ErrorKind::ConnectionLost
            | ErrorKind::Refused => true,
            ErrorKind::ConnectionClosed(code) | ErrorKind::StreamReset(code) => {
                code.class() == CodeClass::Retry
            }
            ErrorKind::Remote(error) => matches!(
                error,
                WireError::StreamFailure | WireError::ResourceExhausted | WireError::Unavailable
            ),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.kind, f)?;
        if let Some(detail) = &self.0.detail {
            write!(f, ": {detail}")?;
        }
        fmt::Display::fmt(&self.0.context, f)?;
        self.0.other_attempt.as_ref().map_or(Ok(()), |other| write!(f, "; another attempt: {other}"))
    }
}

/// Written in brackets behind the text of the error: the method and the peer.
impl fmt::Display for ErrorDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = self.method.as_deref().map(|method| printable(method, MAX_METHOD_BYTES));
        let host = self.host.as_deref().map(|host| printable(host, MAX_HOST_BYTES));
        if method.is_none() && host.is_none() && self.peer.is_none() {
            return Ok(());
        }
        f.write_str(" (")?;
        if let Some(method) = &method {
            write!(f, "`{method}`")?;
        }
        if host.is_some() || self.peer.is_some() {
            f.write_str(if method.is_some() { " at " } else { "at " })?;
        }
        match (host, self.peer) {
            (Some(host), Some(peer)) => write!(f, "{host}, {peer}")?,
            (Some(host), None) => write!(f, "{host}")?,
            (None, Some(peer)) => write!(f, "{peer}")?,
            (None, None) => {}
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            detail,
            retry_after,
            request,
            #[cfg(feature = "streams")]
            items_taken,
            temporary,
            source,
            context,
            other_attempt,
        } = &*self.0;
        let mut debug = f.debug_struct("Error");
        debug.field("kind", kind).field("detail", detail).field("retry_after", retry_after);
        #[cfg(feature = "streams")]
        debug.field("items_taken", items_taken);
        debug
            .field("request", request)
            .field("temporary", temporary)
            .field("source", source)
            .field("context", context)
            .field("other_attempt", other_attempt)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.0.source.as_deref()?;
        Some(source)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(ErrorKind::Io).caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_is_one_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn the_text_names_the_kind_and_the_source_keeps_the_cause() {
        let error = Error::from(io::Error::from(io::ErrorKind::AddrInUse));
        assert_eq!(error.to_string(), "I/O error");
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::AddrInUse));
    }

    #[test]
    fn the_text_ends_with_what_failed_and_where() {
        let (method, peer) = ("demo.add", SocketAddr::from(([192, 0, 2, 1], 7443)));
        let error = || Error::new(ErrorKind::Truncated).detail("half");
        for (error, text) in [
            (error(), "truncated message: half"),
            (error().of_method(method), "truncated message: half (`demo.add`)"),
            (error().at(peer), "truncated message: half (at 192.0.2.1:7443)"),
            (error().of_method(method).at(peer), "truncated message: half (`demo.add` at 192.0.2.1:7443)"),
            (error().of_method("a\u{1b}b"), "truncated message: half (`a\u{fffd}b`)"),
            (error().of_host("node.example"), "truncated message: half (at node.example)"),
            (error().of_host("a\u{1b}\0b"), "truncated message: half (at a\u{fffd}\u{fffd}b)"),
            (
                error().of_method(method).of_host("node.example").at(peer),
                "truncated message: half (`demo.add` at node.example, 192.0.2.1:7443)",
            ),
        ] {
            assert_eq!(error.to_string(), text);
            assert_eq!(error.explanation(), Some("half"));
        }
        // Who knew first knows best.
        let error = error().at(peer).of_method(method);
        let error = error.at(([192, 0, 2, 2], 1).into()).of_method("node.health");
        assert_eq!((error.method(), error.peer_address()), (Some(method), Some(peer)));
    }

    #[test]
    fn an_error_that_a_peer_does_not_name_has_a_word() {
        for name in
            ["", " ", "\t\u{a0}", "\u{200b}", "\u{feff}\u{2060}", "\u{202e}", "\u{e0041}", "\u{7f}\u{1}"]
        {
            let error = Error::new(ErrorKind::Remote(WireError::from(name)));
            assert_eq!(error.to_string(), "unnamed error");
        }
    }

    #[test]
    fn only_identity_failures_count_as_authentication() {
        assert!(Error::new(ErrorKind::PinMismatch).is_authentication());
        assert!(Error::new(ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED)).is_authentication());
        assert!(!Error::new(ErrorKind::HandshakeTimeout).is_authentication());
        assert!(!Error::new(ErrorKind::ConnectionClosed(Code::CAPACITY)).is_authentication());
    }

    #[test]
    fn retryable_follows_the_class_of_the_code() {
        assert!(Error::new(ErrorKind::StreamReset(Code::SHUTTING_DOWN)).is_retryable());
        assert!(!Error::new(ErrorKind::StreamReset(Code::FRAME_TOO_LARGE)).is_retryable());
        assert!(Error::new(ErrorKind::Remote(WireError::Unavailable)).is_retryable());
        assert!(!Error::new(ErrorKind::Remote(WireError::Internal)).is_retryable());
        let unsupported = Error::new(ErrorKind::Unsupported);
        assert!(unsupported.is_terminal() && !unsupported.is_retryable());
    }
}
