//! The test vectors of `docs/event-log-format.md`.

use std::time::Duration;

use super::header;
use crate::events::{
    event_store::{Batch, Clocks, StoredEvent},
    segment::{batch::encode, checksum::Checksum, unwritten::Unwritten},
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

#[test]
fn a_header_is_as_the_document_shows() {
    assert_eq!(hex(&header(true).encode()), vector("header"));
}

#[test]
fn an_unwritten_sector_is_as_the_document_shows() {
    let sector = Unwritten::of(&header(true)).sector(8192);
    let (stamp, zeros) = sector.split_at(5);
    assert_eq!(hex(stamp), vector("stamp"));
    assert_eq!(zeros, [0; 507]);
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
    let encoded = encode(&batch, 4, 0, &Checksum::new(&header(true).salt)).unwrap();
    assert_eq!(encoded.offset, 8192);
    assert_eq!(hex(&encoded.bytes), vector("batch"));
}
