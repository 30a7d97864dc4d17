//! The test vectors of `docs/event-log-format.md`.

use std::time::Duration;

use crate::events::{
    event_store::{Batch, Clocks, StoredEvent},
    segment::{batch::encode, checksum::Checksum, header::Header},
};

const DOCUMENT: &str = include_str!("../../../../docs/event-log-format.md");

/// The bytes in the block of the document that begins with this name.
fn vector(name: &str) -> String {
    let (_, block) = DOCUMENT.split_once(&format!("```text\n{name}\n")).unwrap();
    block.split_once("```").unwrap().0.split_whitespace().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn salt() -> [u8; 16] {
    std::array::from_fn(|at| u8::try_from(at).unwrap())
}

#[test]
fn a_header_is_as_the_document_shows() {
    let header = Header {
        epoch: 77,
        first: 5,
        floor: 3,
        durable: 4,
        capacity: 16384,
        salt: salt(),
        filled: true,
        fresh_blocks: false,
        closed: false,
    };
    assert_eq!(hex(&header.encode()), vector("header"));
}

#[test]
fn a_batch_is_as_the_document_shows() {
    let event = |payload: &'static str, millis| StoredEvent {
        payload: payload.into(),
        published: Duration::from_millis(millis),
    };
    let batch = Batch {
        first: 5,
        events: vec![event("hello", 1000), event("", 1001)],
        clocks: Clocks { log: Duration::from_millis(1002), wall: Duration::from_millis(1_700_000_000_000) },
    };
    let encoded = encode(&batch, 4, 0, &Checksum::new(&salt())).unwrap();
    assert_eq!(encoded.offset, 8192);
    assert_eq!(hex(&encoded.bytes), vector("batch"));
}
