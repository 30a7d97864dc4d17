//! The error strings of the protocol.

use std::fmt;

use crate::text::{is_format, printable};

/// Why a peer did not do what it was asked, as the string on the wire says it.
///
/// Strings that this version does not know survive unchanged in [`Other`](Self::Other). Make values
/// from text with [`From`], so that a known string never ends up there.
///
/// ```
/// use palyra_quic::WireError;
///
/// assert_eq!(WireError::from("unavailable"), WireError::Unavailable);
/// assert_eq!(WireError::Unavailable.to_string(), "unavailable");
/// assert_eq!(WireError::from("out_of_cheese").as_str(), "out_of_cheese");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WireError {
    /// The request could not be decoded, or misses a field, or has an unknown one.
    InvalidRequest,
    /// The protocol version of the request is not the peer's.
    ProtocolMismatch,
    /// The peer has no such method.
    UnsupportedMethod,
    /// The exchange broke on the peer's side. Worth another try.
    StreamFailure,
    /// The time limit of the request or of the peer passed.
    DeadlineExceeded,
    /// A limit or rate was hit. Worth another try, later.
    ResourceExhausted,
    /// This side may not call the method.
    PermissionDenied,
    /// The peer is shutting down. Worth another try, later or elsewhere.
    Unavailable,
    /// The peer's handler failed.
    Internal,
    /// A string that this version does not know.
    Other(Box<str>),
}

impl WireError {
    /// The string on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ProtocolMismatch => "protocol_mismatch",
            Self::UnsupportedMethod => "unsupported_method",
            Self::StreamFailure => "stream_failure",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ResourceExhausted => "resource_exhausted",
            Self::PermissionDenied => "permission_denied",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Other(text) => text,
        }
    }
}

impl From<&str> for WireError {
    fn from(text: &str) -> Self {
        match text {
            "invalid_request" => Self::InvalidRequest,
            "protocol_mismatch" => Self::ProtocolMismatch,
            "unsupported_method" => Self::UnsupportedMethod,
            "stream_failure" => Self::StreamFailure,
            "deadline_exceeded" => Self::DeadlineExceeded,
            "resource_exhausted" => Self::ResourceExhausted,
            "permission_denied" => Self::PermissionDenied,
            "unavailable" => Self::Unavailable,
            "internal" => Self::Internal,
            other => Self::Other(other.into()),
        }
    }
}

/// Fit for one line of a log, though a peer may have chosen the name: at most 64 characters, none of them a
/// control character, and "unnamed error" if none of them can be seen.
impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_str() {
            unseen if unseen.chars().all(is_unseen) => f.write_str("unnamed error"),
            name => f.write_str(&printable(name, MAX_SHOWN_CHARS)),
        }
    }
}

const MAX_SHOWN_CHARS: usize = 64;

/// Characters of which nothing is seen: blanks, those of no width, and those that are not shown.
fn is_unseen(char: char) -> bool {
    char.is_whitespace()
        || char.is_control()
        || is_format(char)
        || matches!(
            char,
            '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_what_its_string_says() {
        for error in [
            WireError::InvalidRequest,
            WireError::ProtocolMismatch,
            WireError::UnsupportedMethod,
            WireError::StreamFailure,
            WireError::DeadlineExceeded,
            WireError::ResourceExhausted,
            WireError::PermissionDenied,
            WireError::Unavailable,
            WireError::Internal,
        ] {
            assert_eq!(WireError::from(error.as_str()), error);
            assert_eq!(error.to_string(), error.as_str());
        }
    }

    #[test]
    fn what_a_peer_says_is_shown_as_one_short_line() {
        let shown = WireError::from("gone\nERROR forged\u{1b}[31m").to_string();
        assert_eq!(shown, "gone\u{fffd}ERROR forged\u{fffd}[31m");
        assert_eq!(WireError::from(&*"é".repeat(1000)).to_string().chars().count(), 64);
        let shown = WireError::from("a\u{202e}b\u{2066}c\u{200f}d").to_string();
        assert_eq!(shown, "a\u{fffd}b\u{fffd}c\u{fffd}d");
    }

    #[test]
    fn an_unknown_string_survives() {
        for text in ["", "Internal", "internal ", "later_addition"] {
            assert_eq!(WireError::from(text), WireError::Other(text.into()));
            assert_eq!(WireError::from(text).as_str(), text);
        }
    }
}
