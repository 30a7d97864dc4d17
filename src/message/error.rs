//! Why a message could not be read or written.

use super::{CborError, JsonError};
use crate::{
    error::{Error, ErrorKind},
    protocol::{MAX_METHOD_BYTES, PROTOCOL_VERSION},
    wire_error::WireError,
};

/// Why a body is not the message expected, or a message cannot become a body.
///
/// As a crate [`Error`] it is one of kind [`Protocol`](ErrorKind::Protocol): the peer sent it. Three are not:
/// [`Version`](Self::Version) is [`Remote`](ErrorKind::Remote) with `protocol_mismatch`, and of this side's,
/// [`MethodLength`](Self::MethodLength) is [`Codec`](ErrorKind::Codec) and [`JsonError::Disabled`]
/// [`InvalidConfig`](ErrorKind::InvalidConfig).
///
/// ```
/// use palyra_quic::{CborError, Error, ErrorKind, MessageError, Request};
///
/// let error = Request::decode(&vec![0xa1, 0x00, 0x01].into()).unwrap_err();
/// assert_eq!(error, MessageError::MissingField("method"));
///
/// let error = Request::decode(&vec![0xa1, 0x00].into()).unwrap_err();
/// assert_eq!(error, MessageError::Cbor(CborError::Truncated));
/// assert!(matches!(Error::from(error).kind(), ErrorKind::Protocol));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    // In what a peer sent.
    /// The body is not CBOR that this protocol accepts.
    #[error("unacceptable CBOR")]
    Cbor(#[from] CborError),
    /// The body is not JSON that this protocol accepts.
    #[error("unacceptable JSON")]
    Json(#[from] JsonError),
    /// A field that the message needs is not there.
    #[error("field `{0}` is missing")]
    MissingField(&'static str),
    /// A field has a value of the wrong type, or one out of range.
    #[error("field `{0}` has a wrong type or is out of range")]
    InvalidField(&'static str),
    /// A request or notification has a key that is neither known nor kept for extensions (16 and up).
    #[error("unknown key {0}")]
    UnknownKey(i128),
    /// A response is of another version of the protocol.
    #[error("protocol version {0} instead of {PROTOCOL_VERSION}")]
    Version(u16),
    /// A response is of a kind that this version does not know.
    #[error("response of an unknown kind")]
    UnknownKind,

    // In what this side was asked to send.
    /// A method has 1 to 128 bytes; this one has another number of them.
    #[error("method of {0} bytes; it has to be 1 to {MAX_METHOD_BYTES}")]
    MethodLength(usize),
}

impl From<MessageError> for Error {
    fn from(error: MessageError) -> Self {
        let kind = match error {
            MessageError::MethodLength(_) => ErrorKind::Codec,
            MessageError::Json(JsonError::Disabled) => ErrorKind::InvalidConfig,
            // As if the peer had said so, which it does where it gets a request of another version.
            MessageError::Version(_) => ErrorKind::Remote(WireError::ProtocolMismatch),
            _ => ErrorKind::Protocol,
        };
        Self::new(kind).caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn the_peer_is_blamed_for_what_it_sent_and_this_side_for_what_it_sends() {
        for (error, kind) in [
            (MessageError::Cbor(CborError::TooDeep), ErrorKind::Protocol),
            (MessageError::Version(2), ErrorKind::Remote(WireError::ProtocolMismatch)),
            (MessageError::InvalidField("method"), ErrorKind::Protocol),
            (MessageError::MethodLength(0), ErrorKind::Codec),
            (MessageError::Json(JsonError::Utf8), ErrorKind::Protocol),
            (MessageError::Json(JsonError::Disabled), ErrorKind::InvalidConfig),
        ] {
            let converted = Error::from(error.clone());
            assert_eq!(converted.kind(), &kind);
            let source = converted.source().and_then(|source| source.downcast_ref());
            assert_eq!(source, Some(&error), "the cause is kept");
        }
    }

    #[test]
    fn the_cause_is_a_source_and_not_in_the_text() {
        let error = MessageError::from(CborError::TooDeep);
        assert_eq!(error.to_string(), "unacceptable CBOR");
        let source = error.source().and_then(|source| source.downcast_ref());
        assert_eq!(source, Some(&CborError::TooDeep));
    }
}
