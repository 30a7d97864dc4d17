//! The parameters of `node.ack_events`.

use minicbor::{Decode, Encode};

/// Says that a consumer has processed the events of a log up to a number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct AckEvents {
    #[n(0)]
    pub(crate) consumer: Box<str>,
    #[n(1)]
    pub(crate) epoch: u64,
    #[n(2)]
    pub(crate) seq: u64,
    /// The method that serves the log; `None` for the node's own.
    #[n(3)]
    pub(crate) log: Option<Box<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn it_is_a_map_with_numbers_for_keys() {
        let mut ack = AckEvents { consumer: "a".into(), epoch: 5, seq: 41, log: Some("b.c".into()) };
        let bytes = value::encode(&ack).unwrap();
        assert_eq!(bytes, b"\xA4\x00\x61a\x01\x05\x02\x18\x29\x03\x63b.c"[..]);
        assert_eq!(value::decode::<AckEvents>(&bytes).unwrap(), ack);
        ack.log = None;
        assert_eq!(value::encode(&ack).unwrap(), b"\xA3\x00\x61a\x01\x05\x02\x18\x29"[..]);
        assert_eq!(value::decode::<AckEvents>(b"\xA3\x00\x61a\x01\x05\x02\x18\x29").unwrap(), ack);
        for invalid in [&b""[..], b"\xA0", b"\xA2\x00\x61a\x01\x05", b"\xA3\x00\x01\x01\x05\x02\x05"] {
            value::decode::<AckEvents>(invalid).unwrap_err();
        }
    }
}
