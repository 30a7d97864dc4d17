//! The parameters of `node.ack_events`.

#![cfg_attr(
    not(any(fuzzing, feature = "__internals")),
    allow(unreachable_pub, reason = "public for `fuzzing`")
)]

use super::{
    MessageError,
    cbor::{self, BodySource, Key},
    codec::Codec,
    fields::{FieldWriter, Message},
};
use crate::protocol::{is_consumer_len, is_method_len};

/// Says that a consumer has processed the events of a log up to a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckEvents {
    /// On whose behalf the events were kept.
    pub consumer: Box<str>,
    /// The epoch that `seq` belongs to.
    pub epoch: u64,
    /// The newest event that was processed.
    pub seq: u64,
    /// The method that serves the log; `None` for the node's own.
    pub log: Option<Box<str>>,
}

impl AckEvents {
    /// Writes the parameters behind the bytes that `out` holds already. Names of any length are written:
    /// the node that reads them judges them.
    ///
    /// # Errors
    ///
    /// None, as long as messages in CBOR have none.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        Codec::Cbor.write(self, out)
    }

    /// Reads the parameters, by the rules for the body of a request.
    ///
    /// # Errors
    ///
    /// The first fault found; see [`MessageError`].
    pub fn decode(params: &[u8]) -> Result<Self, MessageError> {
        let AckFields { consumer, epoch, seq, log } = cbor::decode(BodySource::Borrowed(params))?;
        let consumer = consumer.ok_or(MessageError::MissingField("consumer"))?;
        if !is_consumer_len(consumer.len()) {
            return Err(MessageError::InvalidField("consumer"));
        }
        if log.as_ref().is_some_and(|log| !is_method_len(log.len())) {
            return Err(MessageError::InvalidField("log"));
        }
        let epoch = epoch.ok_or(MessageError::MissingField("epoch"))?;
        let seq = seq.ok_or(MessageError::MissingField("seq"))?;
        Ok(Self { consumer, epoch, seq, log })
    }
}

impl Message for AckEvents {
    fn write(&self, fields: &mut impl FieldWriter) {
        let Self { consumer, epoch, seq, log } = self;
        fields.text(0, "consumer", consumer);
        fields.uint(1, "epoch", *epoch);
        fields.uint(2, "seq", *seq);
        if let Some(log) = log {
            fields.text(3, "log", log);
        }
    }
}

#[derive(Default)]
struct AckFields {
    consumer: Option<Box<str>>,
    epoch: Option<u64>,
    seq: Option<u64>,
    log: Option<Box<str>>,
}

impl cbor::Fields for AckFields {
    fn read(&mut self, key: Key, value: &cbor::Value<'_>) -> Result<(), MessageError> {
        match key {
            Key::Unsigned(0) => self.consumer = value.text("consumer")?,
            Key::Unsigned(1) => self.epoch = value.u64("epoch")?,
            Key::Unsigned(2) => self.seq = value.u64("seq")?,
            Key::Unsigned(3) => self.log = value.text("log")?,
            Key::Unsigned(16..) => {}
            _ => return Err(cbor::unknown(key)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(ack: &AckEvents) -> Vec<u8> {
        let mut out = Vec::new();
        ack.encode(&mut out).unwrap();
        out
    }

    #[test]
    fn it_is_a_map_with_numbers_for_keys() {
        let mut ack = AckEvents { consumer: "a".into(), epoch: 5, seq: 41, log: Some("b.c".into()) };
        assert_eq!(encoded(&ack), b"\xA4\x00\x61a\x01\x05\x02\x18\x29\x03\x63b.c");
        assert_eq!(AckEvents::decode(&encoded(&ack)), Ok(ack.clone()));
        ack.log = None;
        assert_eq!(encoded(&ack), b"\xA3\x00\x61a\x01\x05\x02\x18\x29");
        assert_eq!(AckEvents::decode(&encoded(&ack)), Ok(ack));
    }

    #[test]
    fn names_have_their_lengths() {
        let ack = |consumer, log: Option<usize>| {
            let log = log.map(|bytes| "l".repeat(bytes).into());
            let ack = AckEvents { consumer: "c".repeat(consumer).into(), epoch: 1, seq: 0, log };
            AckEvents::decode(&encoded(&ack)).map(|decoded| assert_eq!(decoded, ack))
        };
        for (consumer, log) in [(1, None), (64, Some(1)), (1, Some(128))] {
            assert_eq!(ack(consumer, log), Ok(()));
        }
        for consumer in [0, 65] {
            assert_eq!(ack(consumer, None), Err(MessageError::InvalidField("consumer")));
        }
        for log in [0, 129] {
            assert_eq!(ack(1, Some(log)), Err(MessageError::InvalidField("log")));
        }
    }
}
