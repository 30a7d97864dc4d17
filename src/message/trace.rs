//! Which trace a message belongs to, as W3C trace context defines it.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

/// Which trace a request or notification belongs to: the three values of a W3C
/// [`traceparent`](https://www.w3.org/TR/trace-context-1/#traceparent-header), in 25 bytes on the wire
/// (key 16 of requests and notifications in CBOR; JSON has no such field).
///
/// It says which operation made the call, so that a tracing system can put the spans of both nodes into one
/// trace. This crate only carries it.
///
/// ```
/// use palyra_quic::{Request, TraceContext};
///
/// let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let trace: TraceContext = traceparent.parse()?;
/// assert!(trace.is_sampled());
/// assert_eq!(trace.to_string(), traceparent);
/// assert_eq!(Request::new("demo.add").with_trace(trace).trace(), Some(trace));
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; TRACE_ID_LEN],
    parent_id: [u8; PARENT_ID_LEN],
    flags: u8,
}

const TRACE_ID_LEN: usize = 16;
const PARENT_ID_LEN: usize = 8;

impl TraceContext {
    /// How many bytes a trace context has on the wire.
    pub const LEN: usize = TRACE_ID_LEN + PARENT_ID_LEN + 1;

    /// A trace context of these values, or `None` if one of the identifiers is zero, which W3C trace context
    /// does not allow.
    #[must_use]
    pub fn new(trace_id: [u8; 16], parent_id: [u8; 8], flags: u8) -> Option<Self> {
        let is_valid = trace_id != [0; TRACE_ID_LEN] && parent_id != [0; PARENT_ID_LEN];
        is_valid.then_some(Self { trace_id, parent_id, flags })
    }

    /// The trace as a whole.
    #[must_use]
    pub const fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The operation of the sender that the message was sent for: its span.
    #[must_use]
    pub const fn parent_id(&self) -> [u8; 8] {
        self.parent_id
    }

    /// The trace flags. W3C trace context level 1 defines the lowest bit alone.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// Whether the sender may have recorded its part of the trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Reads the bytes of the wire: trace-id, parent-id, flags. `None` as for [`new`](Self::new).
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Option<Self> {
        let (trace_id, rest) = bytes.split_first_chunk()?;
        let (parent_id, &[flags]) = rest.split_first_chunk()? else { return None };
        Self::new(*trace_id, *parent_id, flags)
    }

    /// The bytes of the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let Self { trace_id, parent_id, flags } = self;
        let mut bytes = [0; Self::LEN];
        let values = trace_id.iter().chain(parent_id).chain([flags]);
        bytes.iter_mut().zip(values).for_each(|(byte, value)| *byte = *value);
        bytes
    }
}

const SAMPLED: u8 = 1;

/// The text of a `traceparent`, version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, parent_id, flags } = self;
        f.write_str("00-")?;
        trace_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        parent_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{flags:02x}")
    }
}

/// Reads the text of a `traceparent` header.
///
/// Of versions above 00, which this crate does not know, it reads the values that 00 defines ([section
/// 3.2.4](https://www.w3.org/TR/trace-context-1/#versioning-of-traceparent)).
///
/// # Errors
///
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for any other text, upper case included.
impl FromStr for TraceContext {
    type Err = Error;

    fn from_str(traceparent: &str) -> Result<Self> {
        parse(traceparent.as_bytes()).ok_or_else(|| Error::invalid_config("not a traceparent"))
    }
}

fn parse(text: &[u8]) -> Option<TraceContext> {
    let ([version], rest) = split_hex(text)?;
    let (trace_id, rest) = split_hex(rest.strip_prefix(b"-")?)?;
    let (parent_id, rest) = split_hex(rest.strip_prefix(b"-")?)?;
    let ([flags], rest) = split_hex(rest.strip_prefix(b"-")?)?;
    let (flags, ends) = match version {
        0 => (flags, rest.is_empty()),
        0xff => return None,
        // Other bits may mean anything there.
        _ => (flags & SAMPLED, rest.first().is_none_or(|&byte| byte == b'-')),
    };
    ends.then(|| TraceContext::new(trace_id, parent_id, flags)).flatten()
}

/// As many bytes as asked for, from two digits each, and what is behind them.
fn split_hex<const N: usize>(text: &[u8]) -> Option<([u8; N], &[u8])> {
    let (digits, rest) = text.split_at_checked(2 * N)?;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some((bytes, rest))
}

/// The header has lower case only.
const fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceContext({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_has_one_form() {
        assert!(TEXT.parse::<TraceContext>().is_ok());
        for text in [
            "",
            "00",
            &TEXT[..54],
            &TEXT.to_uppercase(),
            &format!("{TEXT}-"),
            &format!("{TEXT}0"),
            &format!(" {TEXT}"),
            &TEXT.replace("00-4b", "ff-4b"),
            &TEXT.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert!(text.parse::<TraceContext>().is_err(), "{text}");
        }
    }

    #[test]
    fn of_later_versions_the_values_of_this_one_are_read() {
        let known: TraceContext = TEXT.parse().unwrap();
        for later in
            ["01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0d", &TEXT.replacen("00", "cc", 1)]
        {
            assert_eq!(later.parse::<TraceContext>().unwrap(), known, "{later}");
            assert_eq!(format!("{later}-what-comes").parse::<TraceContext>().unwrap(), known);
            assert!(format!("{later}.what-comes").parse::<TraceContext>().is_err());
        }
    }

    #[test]
    fn an_identifier_of_zeros_is_none() {
        assert!(TraceContext::new([0; 16], [1; 8], 1).is_none());
        assert!(TraceContext::new([1; 16], [0; 8], 1).is_none());
        let least = TraceContext::new([1; 16], [1; 8], 0).unwrap();
        assert!(!least.is_sampled() && least.flags() == 0);
        assert_eq!(TraceContext::from_bytes([0; 25]), None);
    }

    proptest! {
        #[test]
        fn text_and_bytes_bring_it_back(bytes: [u8; 25]) {
            let trace = TraceContext::from_bytes(bytes);
            prop_assume!(trace.is_some());
            let trace = trace.unwrap();
            prop_assert_eq!(trace.to_bytes(), bytes);
            prop_assert_eq!(trace.to_string().parse::<TraceContext>().unwrap(), trace);
            prop_assert_eq!(trace.to_bytes()[..16].to_vec(), trace.trace_id());
            prop_assert_eq!(trace.to_bytes()[16..24].to_vec(), trace.parent_id());
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}", at in any::<prop::sample::Index>(), byte: char) {
            let _ = text.parse::<TraceContext>();
            let mut damaged: Vec<char> = TEXT.chars().collect();
            *at.get_mut(&mut damaged) = byte;
            let damaged = damaged.into_iter().collect::<String>();
            if let Ok(trace) = damaged.parse::<TraceContext>() {
                prop_assert!(damaged == TEXT || trace.to_string()[3..53] == damaged[3..53]);
            }
        }
    }
}
