//! The position of a subscriber, in a form that can be stored.

use std::{fmt, str::FromStr};

use minicbor::{Decode, Encode};

use crate::{
    error::{Error, ErrorKind, Result},
    value,
};

/// The last event that a subscriber processed. To be kept across restarts, as bytes or as text.
///
/// ```
/// use palyra_quic::Cursor;
///
/// let cursor: Cursor = "5:41".parse()?;
/// assert_eq!((cursor.epoch(), cursor.seq()), (Some(5), 41));
/// assert_eq!(Cursor::from_bytes(&cursor.to_bytes())?, cursor);
/// assert_eq!(cursor.to_string(), "5:41");
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Cursor {
    #[n(0)]
    seq: u64,
    #[n(1)]
    epoch: Option<u64>,
}

impl Cursor {
    /// Behind event `seq` of this epoch; `None` for peers that have no epochs. Event 0 is before the first.
    #[must_use]
    pub fn new(epoch: Option<u64>, seq: u64) -> Self {
        Self { seq, epoch }
    }

    /// The sequence number of the last event processed; 0 before the first.
    #[must_use]
    pub fn seq(self) -> u64 {
        self.seq
    }

    /// The history that `seq` belongs to, if it is known.
    #[must_use]
    pub fn epoch(self) -> Option<u64> {
        self.epoch
    }

    /// At most 19 bytes, for [`from_bytes`](Self::from_bytes).
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        // Encoding numbers into memory does not fail.
        value::encode(&self).map(Vec::from).unwrap_or_default()
    }

    /// What [`to_bytes`](Self::to_bytes) gave.
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        value::decode(bytes)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            Some(epoch) => write!(f, "{epoch}:{}", self.seq),
            None => write!(f, "{}", self.seq),
        }
    }
}

impl FromStr for Cursor {
    type Err = Error;

    /// `epoch:seq`, or `seq` alone, in decimal.
    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| {
            let bare = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u64>().ok().filter(|_| bare)
        };
        let cursor = match text.split_once(':') {
            Some((epoch, seq)) => {
                number(epoch).zip(number(seq)).map(|(epoch, seq)| Self::new(Some(epoch), seq))
            }
            None => number(text).map(|seq| Self::new(None, seq)),
        };
        cursor.ok_or_else(|| Error::new(ErrorKind::Codec).detail("a cursor is `epoch:seq`, in decimal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_as_bytes_and_as_text() {
        for cursor in [Cursor::new(None, 0), Cursor::new(Some(0), 1), Cursor::new(Some(u64::MAX), u64::MAX)] {
            let bytes = cursor.to_bytes();
            assert!(bytes.len() <= 19, "{} bytes", bytes.len());
            assert_eq!(Cursor::from_bytes(&bytes).unwrap(), cursor);
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
    }

    #[test]
    fn text_and_bytes_that_are_no_cursor_are_refused() {
        for text in ["", ":", "1:", ":1", "1:2:3", "+1", "-1", "1:0x2", "18446744073709551616"] {
            assert_eq!(text.parse::<Cursor>().unwrap_err().kind(), &ErrorKind::Codec, "{text:?}");
        }
        let whole = Cursor::new(Some(5), 41).to_bytes();
        for bytes in [&[][..], &whole[1..], &whole[..whole.len() - 1], &[&whole[..], &[0]].concat()] {
            assert!(Cursor::from_bytes(bytes).is_err(), "{bytes:02x?}");
        }
    }
}
