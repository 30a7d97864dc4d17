//! What the log holds of a message.

use minicbor::{
    Decode, Encode,
    bytes::{ByteArray, ByteVec},
};

/// A message of JetStream as an event of the log: a CBOR map with these integer keys.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[non_exhaustive]
pub struct StoredMessage {
    /// Key 0: the payload of the message.
    #[n(0)]
    pub payload: ByteVec,
    /// Key 1: where the message stood.
    #[n(1)]
    pub origin: Origin,
    /// Key 2: the subject of the message.
    #[n(2)]
    pub subject: String,
}

/// Where a message stood: what makes it the same message when JetStream delivers it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[non_exhaustive]
pub struct Origin {
    /// Key 0: when the stream was created, in nanoseconds since 1970 as 16 bytes, big-endian. A stream that
    /// was deleted and created anew numbers its messages from 1 again.
    #[n(0)]
    pub stream_created: ByteArray<16>,
    /// Key 1: the number of the message in the stream.
    #[n(1)]
    pub stream_sequence: u64,
}

impl Origin {
    /// Whether a message from here was stored before one from `newest`.
    pub(super) fn is_covered_by(&self, newest: &Self) -> bool {
        self.stream_created == newest.stream_created && self.stream_sequence <= newest.stream_sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(created: u8, stream_sequence: u64) -> Origin {
        Origin { stream_created: [created; 16].into(), stream_sequence }
    }

    #[test]
    fn the_numbers_of_a_new_stream_are_not_those_of_the_old_one() {
        assert!(origin(1, 7).is_covered_by(&origin(1, 7)));
        assert!(origin(1, 6).is_covered_by(&origin(1, 7)));
        assert!(!origin(1, 8).is_covered_by(&origin(1, 7)));
        assert!(!origin(2, 6).is_covered_by(&origin(1, 7)));
    }

    #[test]
    fn a_stored_message_is_a_map_with_integer_keys() {
        let message =
            StoredMessage { payload: vec![9].into(), origin: origin(1, 7), subject: "a".to_owned() };
        let bytes = minicbor::to_vec(&message).unwrap();
        assert_eq!(&bytes[..5], [0xa3, 0x00, 0x41, 9, 0x01], "{bytes:02x?}");
        assert_eq!(minicbor::decode::<StoredMessage>(&bytes).unwrap(), message);
    }
}
