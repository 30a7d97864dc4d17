//! Bodies in JSON: what is accepted says what another reader of JSON finds, and messages there and back.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use palyra_quic::{Bytes, Codec, CountedResponse, Item, MessageError, Notification, Request, Response};
use serde_json::{Map, Value};

fuzz_target!(|input: &[u8]| -> Corpus {
    if Codec::of(input) != Codec::Json {
        return Corpus::Reject;
    }
    messages(input);
    Corpus::Keep
});

/// As in CBOR. Not the crate's own number, which may be what is wrong.
const MAX_LEVELS: usize = 16;

fn messages(input: &[u8]) {
    let body = Bytes::copy_from_slice(input);
    let (request, response, notification) =
        (Request::decode(&body), Response::decode(&body), Notification::decode(&body));

    if let Ok(message) = &request {
        assert!((1..=128).contains(&message.method.len()));
        let encoded = there_and_back(message, input, Request::encode, Request::decode);
        assert_eq!(said(parse(input).unwrap()), said(encoded), "another message than the text");
    }
    if let Ok(message) = &response {
        let encoded = there_and_back(message, input, Response::encode, Response::decode);
        // The reader here refuses numbers that no float holds, even where they are to be ignored.
        if let Ok(text) = parse(input) {
            let text = said(text);
            for (name, value) in said(encoded) {
                // An error is written as failed, whatever was read.
                let failed = name == "ok" && matches!(message, Response::Error { .. });
                assert!(failed || text.get(&name) == Some(&value), "another {name} than in the text");
            }
        }
    }
    if let Ok(message) = CountedResponse::decode(&body) {
        assert_eq!(response.as_ref(), Ok(&message.response), "another response with its items");
        let encoded = there_and_back(&message, input, CountedResponse::encode, CountedResponse::decode);
        if let Ok(text) = parse(input) {
            assert!(encoded.get("items").is_none_or(|items| text.get("items") == Some(items)));
        }
    }
    if let Ok(message) = Item::decode(&body) {
        let encoded = there_and_back(&message, input, Item::encode, Item::decode);
        assert_eq!(said(parse(input).unwrap()), said(encoded), "another item than the text");
    }
    if let Ok(message) = notification {
        let encoded = there_and_back(&message, input, Notification::encode, Notification::decode);
        assert_eq!(said(parse(input).unwrap()), said(encoded), "another message than the text");
        // A notification is a request with fewer fields.
        let mut same = Request::new(message.method);
        (same.protocol_version, same.params) = (message.protocol_version, message.params);
        assert_eq!(request, Ok(same));
    }
}

fn parse(text: &[u8]) -> serde_json::Result<Map<String, Value>> {
    serde_json::from_slice(text)
}

/// The fields that say something: not those whose absence says the same.
fn said(mut fields: Map<String, Value>) -> Map<String, Value> {
    fields.retain(|name, value| !value.is_null() && (name != "follow" || *value != false));
    fields
}

/// Gives what the message is in JSON.
fn there_and_back<T: std::fmt::Debug + PartialEq>(
    message: &T,
    input: &[u8],
    encode: impl Fn(&T, Codec, &mut Vec<u8>) -> Result<(), MessageError>,
    decode: impl Fn(&Bytes) -> Result<T, MessageError>,
) -> Map<String, Value> {
    assert!(std::str::from_utf8(input).is_ok(), "decoded without being UTF-8");
    if let Ok(fields) = parse(input) {
        assert!(depth(&Value::Object(fields)) <= MAX_LEVELS, "decoded in spite of its depth");
    }
    for behind in [&b"x"[..], b"{}", b"}", b"\0", b","] {
        assert!(decode(&[input, behind].concat().into()).is_err(), "decoded with bytes behind it");
    }
    assert!(decode(&Bytes::copy_from_slice(input.trim_ascii_end().split_last().unwrap().1)).is_err());

    let [cbor, json] = [Codec::Cbor, Codec::Json].map(|codec| {
        let mut encoded = vec![0xaa];
        encode(message, codec, &mut encoded).unwrap();
        assert_eq!(encoded.remove(0), 0xaa, "what was there is overwritten");
        assert_eq!(Codec::of(&encoded), codec);
        Bytes::from(encoded)
    });
    let from_cbor = decode(&cbor).expect("its CBOR is refused");
    assert_eq!(from_cbor, *message, "CBOR does not bring it back");
    assert_eq!(decode(&json).as_ref(), Ok(message), "JSON does not bring it back");
    // Debug hides what byte strings hold; the encoding does not.
    let mut again = Vec::new();
    encode(&from_cbor, Codec::Json, &mut again).unwrap();
    assert_eq!(again, json, "by way of CBOR it is other JSON");
    parse(&json).expect("its JSON is refused by another reader")
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
