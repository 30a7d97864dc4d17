//! The kinds of failure.

use std::fmt;
#[cfg(doc)]
use std::{error::Error as StdError, io};

use crate::{code::Code, wire_error::WireError};

/// The kinds of failure, sorted by who is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    // On this side.
    /// The configuration contradicts itself or cannot be parsed: limits, pins, PEM, keys, names.
    InvalidConfig,
    /// The operating system refused something, or cannot resolve a host name; [`source`](StdError::source)
    /// is the [`io::Error`]. For sockets: by [`bind`](crate::EndpointBuilder::bind) alone, since later errors
    /// of the socket are lost datagrams, or [end the endpoint](crate::Endpoint::closed).
    Io,
    /// A message that this side was asked to send is larger than `max_frame_bytes`.
    MessageTooLarge,
    /// A value could not be encoded, or a reply did not decode as the type asked for.
    Codec,
    /// The endpoint or connection was closed by this side: on request, or because the endpoint's socket has
    /// failed, which [`source`](StdError::source) says with an [`io::Error`].
    Closed,
    /// This side's time limit passed; [`may_have_run`](crate::Error::may_have_run) says whether the request
    /// had left.
    DeadlineExceeded,
    /// A bound of this side is reached; there may be room again later.
    Exhausted,
    /// An [interceptor](crate::EndpointBuilder::around_calls) of this side did not let the call pass.
    Intercepted,

    // On the way.
    /// No handshake within `handshake_timeout`: the peer is away, or UDP is blocked. Where the system did not
    /// take a datagram to the peer meanwhile, [`source`](StdError::source) is the latest such [`io::Error`].
    HandshakeTimeout,
    /// The connection fell silent for longer than `idle_timeout`, or the peer lost its state.
    ConnectionLost,

    // The peer's identity, or what it thinks of ours.
    /// The peer's certificate is not one of the pinned ones.
    PinMismatch,
    /// The peer's certificate was not acceptable: expired, unknown issuer, wrong name, wrong use, or a chain
    /// that is larger than `max_certificate_chain_bytes`. Where the cause may be this side's own, a
    /// revocation list that is out of date or a clock that is behind, the failure [may
    /// pass](crate::Error::is_retryable).
    PeerCertificate,
    /// The peer refused this side's certificate, or its chain for its size, or asked for one that was not
    /// there.
    CertificateRefused,
    /// The peer does not speak `palyra-quic-v1`.
    AlpnMismatch,
    /// The peer speaks no QUIC or TLS version that this side does.
    VersionMismatch,

    // At the peer.
    /// The peer refused the connection before the handshake: it is full, or shutting down.
    Refused,
    /// The peer closed the connection with this code.
    ConnectionClosed(Code),
    /// The peer reset or stopped the stream with this code.
    StreamReset(Code),
    /// The peer answered with an error.
    Remote(WireError),
    /// The peer is known to be a node that cannot do this: one of the tokio implementation reads no
    /// notifications, see [`Connection::is_json_only`](crate::Connection::is_json_only); and one of the tokio
    /// implementation, of an earlier release, or without the feature `streams`, takes no items.
    Unsupported,
    /// A frame ended before its announced length, or an answer before its end.
    Truncated,
    /// The peer announced a frame larger than `max_frame_bytes`.
    FrameTooLarge,
    /// The peer broke the protocol.
    Protocol,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidConfig => "invalid configuration",
            Self::Io => "I/O error",
            Self::MessageTooLarge => "message too large to send",
            Self::Codec => "encoding failed",
            Self::Closed => "closed by this side",
            Self::DeadlineExceeded => "deadline exceeded",
            Self::Exhausted => "no room",
            Self::Intercepted => "intercepted by this side",
            Self::HandshakeTimeout => "handshake timed out",
            Self::ConnectionLost => "connection lost",
            Self::PinMismatch => "pin mismatch",
            Self::PeerCertificate => "peer certificate not acceptable",
            Self::CertificateRefused => "certificate refused by the peer",
            Self::AlpnMismatch => "ALPN mismatch",
            Self::VersionMismatch => "version mismatch",
            Self::Refused => "connection refused by the peer",
            Self::ConnectionClosed(code) => return write!(f, "connection closed by the peer: {code}"),
            Self::StreamReset(code) => return write!(f, "stream reset by the peer: {code}"),
            Self::Remote(error) => return fmt::Display::fmt(error, f),
            Self::Unsupported => "not supported by the peer",
            Self::Truncated => "truncated message",
            Self::FrameTooLarge => "frame too large",
            Self::Protocol => "protocol violation by the peer",
        })
    }
}
