//! Application close and reset codes, and what their class tells the receiver to do.

use std::fmt;

use quinn::VarInt;

/// An application error code, as carried by CONNECTION_CLOSE, RESET_STREAM and STOP_SENDING
/// ([RFC 9000, section 20.2](https://www.rfc-editor.org/rfc/rfc9000#section-20.2)).
///
/// Codes that this version does not know survive unchanged, and [`class`](Self::class) still says
/// whether trying again makes sense.
///
/// ```
/// use palyra_quic::{Code, CodeClass};
///
/// assert_eq!(Code::SHUTTING_DOWN.class(), CodeClass::Retry);
/// assert_eq!(Code::from_u64(0x2ab).class(), CodeClass::Terminal);
/// assert_eq!(Code::FRAME_TOO_LARGE.to_string(), "FRAME_TOO_LARGE (0x201)");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u64);

/// What a [`Code`] asks of its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CodeClass {
    /// Nothing went wrong, or the sender lost interest.
    Done,
    /// Come back later, with backoff.
    Retry,
    /// The same attempt will fail again.
    Terminal,
    /// A code outside the ranges of this protocol.
    Unknown,
}

impl Code {
    /// The connection or stream ended as intended.
    pub const NO_ERROR: Self = Self(0x000);
    /// The sender lost interest in the exchange.
    pub const CANCELLED: Self = Self(0x001);
    /// A capacity limit was reached.
    pub const CAPACITY: Self = Self(0x100);
    /// The node is going away.
    pub const SHUTTING_DOWN: Self = Self(0x101);
    /// The peer was too quick.
    pub const RATE_LIMITED: Self = Self(0x102);
    /// A time limit passed.
    pub const DEADLINE_EXCEEDED: Self = Self(0x103);
    /// The sender failed.
    pub const INTERNAL: Self = Self(0x104);
    /// The peer broke the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self(0x200);
    /// A frame announced more than `max_frame_bytes`.
    pub const FRAME_TOO_LARGE: Self = Self(0x201);
    /// The peer's identity is revoked or not allowed.
    pub const IDENTITY_REJECTED: Self = Self(0x202);
    /// The peer's certificate expired.
    pub const IDENTITY_EXPIRED: Self = Self(0x203);
    /// The peer abused the node.
    pub const EXCESSIVE_LOAD: Self = Self(0x204);

    /// The code with this number; any number is accepted.
    #[must_use]
    pub const fn from_u64(code: u64) -> Self {
        Self(code)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// What the code asks of its receiver, by its range alone.
    #[must_use]
    pub const fn class(self) -> CodeClass {
        match self.0 {
            0x000..=0x0ff => CodeClass::Done,
            0x100..=0x1ff => CodeClass::Retry,
            0x200..=0x2ff => CodeClass::Terminal,
            _ => CodeClass::Unknown,
        }
    }

    /// The code's name, where this version knows it.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::NO_ERROR => "NO_ERROR",
            Self::CANCELLED => "CANCELLED",
            Self::CAPACITY => "CAPACITY",
            Self::SHUTTING_DOWN => "SHUTTING_DOWN",
            Self::RATE_LIMITED => "RATE_LIMITED",
            Self::DEADLINE_EXCEEDED => "DEADLINE_EXCEEDED",
            Self::INTERNAL => "INTERNAL",
            Self::PROTOCOL_VIOLATION => "PROTOCOL_VIOLATION",
            Self::FRAME_TOO_LARGE => "FRAME_TOO_LARGE",
            Self::IDENTITY_REJECTED => "IDENTITY_REJECTED",
            Self::IDENTITY_EXPIRED => "IDENTITY_EXPIRED",
            Self::EXCESSIVE_LOAD => "EXCESSIVE_LOAD",
            _ => return None,
        })
    }

    pub(crate) fn to_varint(self) -> VarInt {
        VarInt::from_u64(self.0).unwrap_or(VarInt::MAX)
    }
}

impl From<VarInt> for Code {
    fn from(code: VarInt) -> Self {
        Self(code.into_inner())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({:#05x})", self.0),
            None => write!(f, "{:#05x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_code_has_the_class_of_its_range() {
        for (code, number, class) in [
            (Code::NO_ERROR, 0x000, CodeClass::Done),
            (Code::CANCELLED, 0x001, CodeClass::Done),
            (Code::CAPACITY, 0x100, CodeClass::Retry),
            (Code::SHUTTING_DOWN, 0x101, CodeClass::Retry),
            (Code::RATE_LIMITED, 0x102, CodeClass::Retry),
            (Code::DEADLINE_EXCEEDED, 0x103, CodeClass::Retry),
            (Code::INTERNAL, 0x104, CodeClass::Retry),
            (Code::PROTOCOL_VIOLATION, 0x200, CodeClass::Terminal),
            (Code::FRAME_TOO_LARGE, 0x201, CodeClass::Terminal),
            (Code::IDENTITY_REJECTED, 0x202, CodeClass::Terminal),
            (Code::IDENTITY_EXPIRED, 0x203, CodeClass::Terminal),
            (Code::EXCESSIVE_LOAD, 0x204, CodeClass::Terminal),
        ] {
            assert_eq!(code.as_u64(), number);
            assert_eq!(code.class(), class, "{code}");
            assert!(code.name().is_some());
        }
    }

    #[test]
    fn unknown_codes_survive_and_keep_their_class() {
        assert_eq!(Code::from_u64(0x1fe).class(), CodeClass::Retry);
        assert_eq!(Code::from_u64(0x300).class(), CodeClass::Unknown);
        assert_eq!(Code::from_u64(0x1fe).as_u64(), 0x1fe);
        assert_eq!(Code::from_u64(0x1fe).to_string(), "0x1fe");
    }
}
