//! When a caller may turn to another transport.

use std::{error::Error as StdError, fmt, io};

use crate::error::{Error, ErrorKind};

/// Whether a failed connection may be answered with another transport. Default: never.
///
/// This crate has no other transport and falls back to none; the policy only says when a caller
/// may. UDP that is blocked or swallowed is a reason. Anything that somebody on the way or at the
/// other end could provoke in order to force a downgrade is not: a wrong pin or certificate, a
/// refused certificate, another ALPN or version, a refusal, or an answer of any kind. Of several
/// addresses, a single one that answered so is enough, though the error is that of a silent one.
///
/// ```
/// use std::io;
///
/// use palyra_quic::{Error, FallbackPolicy, FallbackReason, PathPrivilege};
///
/// let blocked = Error::from(io::Error::from(io::ErrorKind::PermissionDenied));
/// let policy = FallbackPolicy::AllowExplicit;
///
/// let fallback = policy.decide(&blocked, PathPrivilege::Unprivileged).unwrap();
/// assert_eq!(fallback.reason, FallbackReason::UdpBlocked);
///
/// assert!(policy.decide(&blocked, PathPrivilege::Privileged).is_none());
/// assert!(FallbackPolicy::default().decide(&blocked, PathPrivilege::Unprivileged).is_none());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FallbackPolicy {
    /// A failure stays a failure.
    #[default]
    Disabled,
    /// The caller may use another transport for unprivileged paths. The crate never does so by itself.
    AllowExplicit,
}

/// Whether what is about to travel grants power over a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathPrivilege {
    /// Commands, pairing, secrets: QUIC or nothing.
    Privileged,
    /// Anything that another transport may carry too.
    Unprivileged,
}

/// Permission to fall back, and what for. As an error it can take the place of the one that it
/// was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FallbackRequired {
    /// What kept QUIC from working.
    pub reason: FallbackReason,
}

/// What kept QUIC from working.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FallbackReason {
    /// The operating system refuses UDP to this process. [`bind`](crate::EndpointBuilder::bind) says so,
    /// also of a port that needs privileges.
    UdpBlocked,
    /// There was no answer within `handshake_timeout`.
    TimedOut,
}

impl FallbackPolicy {
    /// Whether this failure to connect may be answered with another transport, on a path of this
    /// privilege.
    ///
    /// Ask with the error of `bind` or of the attempt to connect. A connection that was once up has shown
    /// that UDP gets through, and its later failures give `None`.
    #[must_use]
    pub fn decide(self, error: &Error, path: PathPrivilege) -> Option<FallbackRequired> {
        match (self, path) {
            (Self::AllowExplicit, PathPrivilege::Unprivileged) => {
                FallbackReason::of(error).map(|reason| FallbackRequired { reason })
            }
            (Self::Disabled, _) | (_, PathPrivilege::Privileged) => None,
        }
    }
}

impl FallbackReason {
    /// Names what counts, so that a kind of failure that is added later does not.
    fn of(error: &Error) -> Option<Self> {
        if error.was_answered_elsewhere() {
            return None;
        }
        match error.kind() {
            ErrorKind::HandshakeTimeout => Some(Self::TimedOut),
            ErrorKind::Io if is_udp_blocked(error) => Some(Self::UdpBlocked),
            _ => None,
        }
    }
}

/// Of `bind`, or of a socket of the caller's own. Packet filters on this machine answer a send with EPERM
/// or EACCES. Those on the way, and hosts without a listener, answer with an ICMP message that becomes one
/// of the other three.
fn is_udp_blocked(error: &Error) -> bool {
    use io::ErrorKind as E;
    error.source().and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(|error| {
        matches!(
            error.kind(),
            E::PermissionDenied | E::NetworkUnreachable | E::HostUnreachable | E::ConnectionRefused
        )
    })
}

impl fmt::Display for FallbackReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UdpBlocked => "UDP is blocked",
            Self::TimedOut => "no answer over UDP",
        })
    }
}

impl fmt::Display for FallbackRequired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason } = self;
        write!(f, "fallback required: {reason}")
    }
}

impl StdError for FallbackRequired {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{code::Code, wire_error::WireError};

    const POLICIES: [FallbackPolicy; 2] = [FallbackPolicy::Disabled, FallbackPolicy::AllowExplicit];
    const PATHS: [PathPrivilege; 2] = [PathPrivilege::Privileged, PathPrivilege::Unprivileged];

    fn io(kind: io::ErrorKind) -> Error {
        Error::from(io::Error::from(kind))
    }

    /// Without a wildcard arm, so that a new kind has to be decided about here.
    fn expected(kind: &ErrorKind) -> Option<FallbackReason> {
        match kind {
            ErrorKind::HandshakeTimeout => Some(FallbackReason::TimedOut),
            ErrorKind::Io => Some(FallbackReason::UdpBlocked),
            ErrorKind::InvalidConfig
            | ErrorKind::MessageTooLarge
            | ErrorKind::Codec
            | ErrorKind::Closed
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Exhausted
            | ErrorKind::Intercepted
            | ErrorKind::ConnectionLost
            | ErrorKind::PinMismatch
            | ErrorKind::PeerCertificate
            | ErrorKind::CertificateRefused
            | ErrorKind::AlpnMismatch
            | ErrorKind::VersionMismatch
            | ErrorKind::Refused
            | ErrorKind::ConnectionClosed(_)
            | ErrorKind::StreamReset(_)
            | ErrorKind::Remote(_)
            | ErrorKind::Unsupported
            | ErrorKind::Truncated
            | ErrorKind::FrameTooLarge
            | ErrorKind::Protocol => None,
        }
    }

    #[test]
    fn only_blocked_or_silent_udp_on_an_unprivileged_path_allows_a_fallback() {
        for kind in [
            ErrorKind::InvalidConfig,
            ErrorKind::Io,
            ErrorKind::MessageTooLarge,
            ErrorKind::Codec,
            ErrorKind::Closed,
            ErrorKind::DeadlineExceeded,
            ErrorKind::Exhausted,
            ErrorKind::Intercepted,
            ErrorKind::HandshakeTimeout,
            ErrorKind::ConnectionLost,
            ErrorKind::PinMismatch,
            ErrorKind::PeerCertificate,
            ErrorKind::CertificateRefused,
            ErrorKind::AlpnMismatch,
            ErrorKind::VersionMismatch,
            ErrorKind::Refused,
            ErrorKind::ConnectionClosed(Code::SHUTTING_DOWN),
            ErrorKind::StreamReset(Code::DEADLINE_EXCEEDED),
            ErrorKind::Remote(WireError::Unavailable),
            ErrorKind::Unsupported,
            ErrorKind::Truncated,
            ErrorKind::FrameTooLarge,
            ErrorKind::Protocol,
        ] {
            // Each with the cause that would count for `Io`, to see that the kind decides.
            let error = Error::new(kind.clone()).caused_by(io::Error::from(io::ErrorKind::PermissionDenied));
            for policy in POLICIES {
                for path in PATHS {
                    let reason = policy.decide(&error, path).map(|fallback| fallback.reason);
                    match (policy, path) {
                        (FallbackPolicy::AllowExplicit, PathPrivilege::Unprivileged) => {
                            assert_eq!(reason, expected(&kind), "{kind:?}");
                        }
                        _ => assert_eq!(reason, None, "{kind:?} {policy:?} {path:?}"),
                    }
                }
            }
            assert!(!error.is_authentication() || expected(&kind).is_none(), "{kind:?}");
        }
    }

    #[test]
    fn only_some_io_errors_mean_that_udp_is_blocked() {
        let decide = |error| FallbackPolicy::AllowExplicit.decide(&error, PathPrivilege::Unprivileged);
        for kind in [
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::NetworkUnreachable,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::ConnectionRefused,
        ] {
            assert!(decide(io(kind)).is_some(), "{kind}");
        }
        for kind in [
            io::ErrorKind::AddrInUse,
            io::ErrorKind::AddrNotAvailable,
            io::ErrorKind::InvalidInput,
            io::ErrorKind::NotFound,
            io::ErrorKind::OutOfMemory,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::Other,
        ] {
            assert!(decide(io(kind)).is_none(), "{kind}");
        }
        assert!(decide(Error::new(ErrorKind::Io)).is_none(), "without a cause");
    }

    #[test]
    fn the_reason_is_readable() {
        let fallback = FallbackRequired { reason: FallbackReason::UdpBlocked };
        assert_eq!(fallback.to_string(), "fallback required: UDP is blocked");
    }
}
