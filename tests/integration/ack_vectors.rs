//! The test vectors of the parameters of `node.ack_events`, against the decoder and the CDDL.

use std::collections::BTreeSet;

use palyra_quic::{CborError, MessageError, fuzzing::AckEvents};
use serde_json::{Value, json};

use crate::vectors::{
    item::{Item, hex},
    schema::Schema,
};

const CDDL: &str = include_str!("../../docs/protocol.cddl");

fn vectors(class: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/ack_events.json")).unwrap();
    vectors[class].as_array().unwrap().clone()
}

fn bytes(vector: &Value) -> Vec<u8> {
    hex(vector["hex"].as_str().unwrap()).unwrap()
}

fn values(ack: &AckEvents) -> [Value; 4] {
    let AckEvents { consumer, epoch, seq, log } = ack;
    [json!(consumer), json!(epoch), json!(seq), json!(log)]
}

/// Whether a node takes the bytes for what the vector says.
fn says_the_same(vector: &Value, bytes: &[u8]) -> bool {
    let expected = ["consumer", "epoch", "seq", "log"].map(|field| vector[field].clone());
    let diag = Item::from_diag(vector["diag"].as_str().unwrap());
    diag == Item::from_bytes(bytes)
        && AckEvents::decode(bytes).is_ok_and(|ack| {
            let mut encoded = Vec::new();
            ack.encode(&mut encoded).unwrap();
            values(&ack) == expected
                && (vector["reencodes"] != true || encoded == bytes)
                && AckEvents::decode(&encoded) == Ok(ack)
        })
}

#[test]
fn valid_vectors_say_what_they_name_and_any_other_bit_is_noticed() {
    for vector in vectors("valid") {
        let mut bytes = bytes(&vector);
        assert!(says_the_same(&vector, &bytes), "{}", vector["name"]);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(!says_the_same(&vector, &bytes), "{}: bit {bit} of byte {at}", vector["name"]);
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn invalid_vectors_are_refused_for_the_fault_that_they_name() {
    use {CborError as C, MessageError as M};

    let mut faults = BTreeSet::new();
    for vector in vectors("invalid") {
        let (bytes, fault) = (bytes(&vector), vector["fault"].as_str().unwrap());
        if let Some(diag) = vector["diag"].as_str() {
            assert_eq!(Item::from_diag(diag), Item::from_bytes(&bytes), "{}", vector["name"]);
        }
        let error = AckEvents::decode(&bytes).unwrap_err();
        let expected = match fault {
            "not_a_map" => error == M::Cbor(C::NotAMap),
            "indefinite" => error == M::Cbor(C::Indefinite),
            "too_deep" => error == M::Cbor(C::TooDeep),
            "trailing" => error == M::Cbor(C::TrailingBytes),
            "duplicate_key" => error == M::Cbor(C::DuplicateKey),
            "key_type" => error == M::Cbor(C::KeyType),
            "bad_utf8" => error == M::Cbor(C::Utf8),
            "truncated" => error == M::Cbor(C::Truncated),
            "reserved_info" => error == M::Cbor(C::Malformed),
            "unknown_key" => matches!(error, M::UnknownKey(..16)),
            "wrong_type" | "out_of_range" => matches!(error, M::InvalidField(_)),
            "missing_key" => matches!(error, M::MissingField(_)),
            other => panic!("{other}"),
        };
        assert!(expected, "{}: {error:?}", vector["name"]);
        faults.insert(fault.to_owned());
    }
    assert_eq!(faults.len(), 13, "{faults:?}");
}

#[test]
fn the_cddl_accepts_the_valid_ones_and_excludes_what_it_can() {
    let schema = Schema::new(CDDL);
    let closed = CDDL.replace("  * extension-key => any,\n", "");
    let closed = Schema::new(&closed);
    for vector in vectors("valid") {
        let item = Item::from_bytes(&bytes(&vector)).unwrap();
        assert!(schema.matches("ack-events", &item), "{}", vector["name"]);
        let has_no_more = closed.matches("ack-events", &item);
        assert_eq!(has_no_more, vector["cddl"] == "closed", "{}", vector["name"]);
    }
    for vector in vectors("invalid") {
        let item = Item::from_bytes(&bytes(&vector));
        let matches = item.is_ok_and(|item| schema.matches("ack-events", &item));
        assert!(!(matches && vector["cddl"] == true), "{}", vector["name"]);
        // What CDDL has no rule against: how long a length is, how deep a value is, what comes twice.
        let is_beyond = ["indefinite", "too_deep"].contains(&vector["fault"].as_str().unwrap());
        assert!(!matches || is_beyond, "{}", vector["name"]);
    }
}
