//! Bodies in CBOR: the validator against a plain reading of the rules, and messages there and back.

#![no_main]

use std::collections::{BTreeMap, HashSet};

use libfuzzer_sys::{Corpus, fuzz_target};
use palyra_quic::{
    Bytes, Codec, CountedResponse, Item, MessageError, Notification, Request, Response,
    fuzzing::{AckEvents, validate_body, validate_item},
    minicbor,
};

fuzz_target!(|input: &[u8]| -> Corpus {
    if Codec::of(input) != Codec::Cbor {
        return Corpus::Reject;
    }
    rules(input);
    messages(input);
    acknowledgement(input);
    Corpus::Keep
});

/// docs/protocol.md, section 5.1. Not the crate's own numbers, which may be what is wrong.
const MAX_LEVELS: usize = 16;
const MAX_UNORDERED: usize = 16;

fn rules(input: &[u8]) {
    let expected = Plain { rest: input }.body();
    assert_eq!(validate_body(input).is_ok(), expected.is_some_and(|unordered| unordered <= MAX_UNORDERED));

    let item = validate_item(input).is_ok();
    assert_eq!(item, Plain { rest: input }.whole_item().is_some());
    if item {
        let mut decoder = minicbor::Decoder::new(input);
        assert!(decoder.skip().is_ok(), "refused by the decoder, let pass by the validator");
        assert_eq!(decoder.position(), input.len());
    }
    assert!(item || expected.is_none(), "a body is an item");
}

/// The rules of section 5.1, as one would write them down: with recursion, a set, and no thought of cost.
struct Plain<'a> {
    rest: &'a [u8],
}

impl Plain<'_> {
    /// How many keys of the body are out of order; `None` if a rule is broken.
    fn body(mut self) -> Option<usize> {
        let (5, entries) = self.head()? else { return None };
        let (mut keys, mut greatest, mut unordered) = (HashSet::new(), 0, 0);
        for _ in 0..entries {
            // Negative keys come after all others, -1 first.
            let key = match self.head()? {
                (0, number) => i128::from(number),
                (1, number) => (1 << 64) + i128::from(number),
                _ => return None,
            };
            if !keys.insert(key) {
                return None;
            }
            unordered += usize::from(key > 255 && key < greatest);
            greatest = greatest.max(key);
            self.item(1)?;
        }
        self.rest.is_empty().then_some(unordered)
    }

    fn whole_item(mut self) -> Option<()> {
        self.item(0)?;
        self.rest.is_empty().then_some(())
    }

    /// The values of the body's own map, which is valid, by their keys.
    fn fields(mut self) -> Option<BTreeMap<i128, Field>> {
        let mut fields = BTreeMap::new();
        for _ in 0..self.head()?.1 {
            let (major, number) = self.head()?;
            let key = if major == 0 { i128::from(number) } else { -1 - i128::from(number) };
            let mut ahead = Plain { rest: self.rest };
            let (major, argument) = ahead.head()?;
            let content = if matches!(major, 2 | 3) { ahead.take(argument)?.to_vec() } else { Vec::new() };
            fields.insert(key, (major, argument, content));
            self.item(1)?;
        }
        Some(fields)
    }

    /// An item, `levels` deep.
    fn item(&mut self, levels: usize) -> Option<()> {
        let (major, argument) = self.head()?;
        let items = match major {
            4 => argument,
            5 => argument.checked_mul(2)?,
            6 => 1,
            3 => return std::str::from_utf8(self.take(argument)?).ok().map(drop),
            2 => return self.take(argument).map(drop),
            _ => return Some(()),
        };
        (levels < MAX_LEVELS).then_some(())?;
        (0..items).try_for_each(|_| self.item(levels + 1))
    }

    /// A major type and its argument.
    fn head(&mut self) -> Option<(u8, u64)> {
        let initial = *self.take(1)?.first()?;
        let (major, info) = (initial >> 5, initial & 0x1f);
        let argument = match info {
            0..24 => u64::from(info),
            24..28 => {
                let bytes = self.take(1 << (info - 24))?;
                bytes.iter().fold(0, |argument, byte| argument << 8 | u64::from(*byte))
            }
            _ => return None,
        };
        (initial != 0xf8 || argument >= 32).then_some((major, argument))
    }

    fn take(&mut self, count: u64) -> Option<&[u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(count).ok()?)?;
        self.rest = rest;
        Some(taken)
    }
}

/// Major type, argument, and what is in a string.
type Field = (u8, u64, Vec<u8>);

fn messages(input: &[u8]) {
    let body = Bytes::copy_from_slice(input);
    let (request, response, notification) =
        (Request::decode(&body), Response::decode(&body), Notification::decode(&body));

    if let Ok(message) = &request {
        assert!((1..=128).contains(&message.method.len()));
        let fields = Plain { rest: input }.fields().unwrap();
        assert!(fields.keys().all(|key| matches!(key, 0..=7 | 16..)), "an unknown key");
        assert_eq!(message.trace().map(|trace| trace.to_bytes().to_vec()), trace(&fields));
        there_and_back(message, input, Request::encode, Request::decode, |message| {
            let in_json = Request::decode(&json(message, Request::encode)).unwrap();
            assert!(in_json.trace().is_none() && in_json.more() == message.more());
            message.trace().map_or(in_json.clone(), |trace| in_json.with_trace(trace))
        });
    }
    if let Ok(message) = &response {
        there_and_back(message, input, Response::encode, Response::decode, Clone::clone);
    }
    if let Ok(message) = CountedResponse::decode(&body) {
        assert_eq!(response.as_ref(), Ok(&message.response), "another response with its items");
        there_and_back(&message, input, CountedResponse::encode, CountedResponse::decode, Clone::clone);
    }
    if let Ok(message) = Item::decode(&body) {
        let fields = Plain { rest: input }.fields().unwrap();
        assert!(fields.keys().all(|key| matches!(key, 3 | 16..)), "an unknown key");
        there_and_back(&message, input, Item::encode, Item::decode, Clone::clone);
    }
    if let Ok(message) = notification {
        there_and_back(&message, input, Notification::encode, Notification::decode, |message| {
            let in_json = Notification::decode(&json(message, Notification::encode)).unwrap();
            message.trace().map_or(in_json.clone(), |trace| in_json.with_trace(trace))
        });
        // A notification is a request with fewer keys.
        let trace = message.trace();
        let mut same = Request::new(message.method);
        (same.protocol_version, same.params) = (message.protocol_version, message.params);
        assert_eq!(request, Ok(trace.map_or(same.clone(), |trace| same.with_trace(trace))));
    }
}

/// The parameters of `node.ack_events`, against a plain reading of docs/protocol.md, section 7.7.
fn acknowledgement(input: &[u8]) {
    let sound = Plain { rest: input }.body().filter(|unordered| *unordered <= MAX_UNORDERED);
    let fields = sound.and_then(|_| Plain { rest: input }.fields());
    let expected = fields.and_then(|fields| {
        let uint = |key: i128| fields.get(&key).filter(|field| field.0 == 0).map(|field| field.1);
        let text = |field: &Field, most: usize| {
            let is_name = field.0 == 3 && (1..=most).contains(&field.2.len());
            is_name.then(|| String::from_utf8(field.2.clone()).unwrap())
        };
        fields.keys().all(|key| matches!(key, 0..=3 | 16..)).then_some(())?;
        let log = match fields.get(&3) {
            Some(field) => Some(text(field, 128)?),
            None => None,
        };
        Some((text(fields.get(&0)?, 64)?, uint(1)?, uint(2)?, log))
    });
    let decoded = AckEvents::decode(input).ok();
    let found = decoded.clone().map(|AckEvents { consumer, epoch, seq, log }| {
        (String::from(consumer), epoch, seq, log.map(String::from))
    });
    assert_eq!(found, expected);
    if let Some(ack) = decoded {
        let mut encoded = vec![0xaa];
        ack.encode(&mut encoded).unwrap();
        assert_eq!(encoded.remove(0), 0xaa, "what was there is overwritten");
        assert!(encoded.len() <= input.len(), "{encoded:02x?}");
        assert_eq!(AckEvents::decode(&encoded), Ok(ack));
    }
}

/// What a receiver takes for a trace context.
fn trace(fields: &BTreeMap<i128, Field>) -> Option<Vec<u8>> {
    let (2, 25, bytes) = fields.get(&16)? else { return None };
    let is_set = |range: std::ops::Range<usize>| bytes[range].iter().any(|byte| *byte != 0);
    (is_set(0..16) && is_set(16..24)).then(|| bytes.clone())
}

fn json<T>(message: &T, encode: impl Fn(&T, Codec, &mut Vec<u8>) -> Result<(), MessageError>) -> Bytes {
    let mut encoded = Vec::new();
    encode(message, Codec::Json, &mut encoded).unwrap();
    encoded.into()
}

fn there_and_back<T: std::fmt::Debug + PartialEq>(
    message: &T,
    input: &[u8],
    encode: impl Fn(&T, Codec, &mut Vec<u8>) -> Result<(), MessageError>,
    decode: impl Fn(&Bytes) -> Result<T, MessageError>,
    // What JSON says of the message, with what it cannot say.
    by_way_of_json: impl Fn(&T) -> T,
) {
    assert_eq!(&by_way_of_json(message), message);
    assert_eq!(validate_body(input), Ok(()), "decoded without being valid");
    assert!(decode(&[input, &[0]].concat().into()).is_err(), "decoded with a byte behind it");
    for end in [input.len() / 2, input.len() - 1] {
        assert!(decode(&Bytes::copy_from_slice(&input[..end])).is_err(), "decoded without its end");
    }

    for codec in [Codec::Cbor, Codec::Json] {
        let mut encoded = vec![0xaa];
        encode(message, codec, &mut encoded).unwrap();
        assert_eq!(encoded.remove(0), 0xaa, "what was there is overwritten");
        assert_eq!(Codec::of(&encoded), codec);
        if codec == Codec::Cbor {
            let [read, written] = [input, &encoded].map(|body| Plain { rest: body }.fields().unwrap());
            for (key, value) in written {
                // An error is written as failed, whatever was read.
                let failed = key == 2 && (value.0, value.1) == (7, 20);
                assert!(failed || read.get(&key) == Some(&value), "another value of key {key}");
            }
        }
        // Senders use the shortest form, so nothing that says the same is shorter.
        assert!(codec == Codec::Json || encoded.len() <= input.len(), "{encoded:02x?}");
        let decoded = decode(&encoded.into()).expect("what was encoded");
        assert!(codec == Codec::Json || decoded == *message, "CBOR does not bring it back");
    }
}
