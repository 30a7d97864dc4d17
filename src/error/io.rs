//! Errors for interfaces that speak [`io::Error`].

use std::{error::Error as _, io};

use super::{Error, ErrorKind};
use crate::wire_error::WireError;

/// For interfaces that speak [`io::Error`]. The error itself is its inner one, and the kind the nearest that
/// the standard library has.
///
/// ```
/// use std::io;
/// use palyra_quic::{Error, ErrorKind};
///
/// let error = io::Error::from("not hexadecimal".parse::<palyra_quic::Pin>().unwrap_err());
/// assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
/// let error = error.downcast::<Error>().unwrap();
/// assert_eq!(error.kind(), &ErrorKind::InvalidConfig);
/// ```
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(io_kind(&error), error)
    }
}

fn io_kind(error: &Error) -> io::ErrorKind {
    use io::ErrorKind as Io;
    if error.is_timeout() {
        return Io::TimedOut;
    }
    match error.kind() {
        // As the operating system has it, which may be one of many.
        ErrorKind::Io => {
            let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            source.map_or(Io::Other, io::Error::kind)
        }
        ErrorKind::InvalidConfig | ErrorKind::MessageTooLarge | ErrorKind::Codec => Io::InvalidInput,
        ErrorKind::Closed => Io::NotConnected,
        ErrorKind::DeadlineExceeded | ErrorKind::HandshakeTimeout => Io::TimedOut,
        ErrorKind::Exhausted => Io::WouldBlock,
        ErrorKind::Intercepted => Io::Other,
        ErrorKind::ConnectionLost => Io::ConnectionAborted,
        ErrorKind::PinMismatch | ErrorKind::PeerCertificate | ErrorKind::CertificateRefused => {
            Io::PermissionDenied
        }
        ErrorKind::Refused => Io::ConnectionRefused,
        ErrorKind::ConnectionClosed(_) | ErrorKind::StreamReset(_) if error.is_authentication() => {
            Io::PermissionDenied
        }
        ErrorKind::ConnectionClosed(_) | ErrorKind::StreamReset(_) => Io::ConnectionReset,
        ErrorKind::Remote(WireError::PermissionDenied) => Io::PermissionDenied,
        ErrorKind::Remote(WireError::UnsupportedMethod)
        | ErrorKind::AlpnMismatch
        | ErrorKind::VersionMismatch
        | ErrorKind::Unsupported => Io::Unsupported,
        ErrorKind::Remote(_) => Io::Other,
        ErrorKind::Truncated => Io::UnexpectedEof,
        ErrorKind::FrameTooLarge | ErrorKind::Protocol => Io::InvalidData,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Code;

    #[test]
    fn an_io_error_has_the_nearest_kind_and_keeps_the_error() {
        use io::ErrorKind as Io;
        let os = Error::from(io::Error::from(Io::AddrInUse));
        for (error, expected) in [
            (os, Io::AddrInUse),
            (Error::new(ErrorKind::Io), Io::Other),
            (Error::invalid_config("x"), Io::InvalidInput),
            (Error::new(ErrorKind::HandshakeTimeout), Io::TimedOut),
            (Error::new(ErrorKind::StreamReset(Code::DEADLINE_EXCEEDED)), Io::TimedOut),
            (Error::new(ErrorKind::StreamReset(Code::CANCELLED)), Io::ConnectionReset),
            (Error::new(ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED)), Io::PermissionDenied),
            (Error::new(ErrorKind::Remote(WireError::DeadlineExceeded)), Io::TimedOut),
            (Error::new(ErrorKind::Remote(WireError::UnsupportedMethod)), Io::Unsupported),
            (Error::new(ErrorKind::Remote(WireError::Internal)), Io::Other),
            (Error::new(ErrorKind::Refused), Io::ConnectionRefused),
            (Error::new(ErrorKind::Truncated), Io::UnexpectedEof),
            (Error::new(ErrorKind::FrameTooLarge), Io::InvalidData),
        ] {
            let kind = error.kind().clone();
            let converted = io::Error::from(error);
            assert_eq!(converted.kind(), expected, "{kind:?}");
            assert_eq!(converted.downcast::<Error>().unwrap().kind(), &kind);
        }
    }
}
