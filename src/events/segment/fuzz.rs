//! For the fuzz target: any bytes as a segment.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    SegmentOptions, SegmentStore,
    checksum::SALT_LEN,
    header::Header,
    layout::{BLOCK, DATA_START, SECTOR_BYTES},
    names::segment_name,
    number::{to_u64, to_usize},
    sim_disk::SimDisk,
    unwritten::Unwritten,
};
use crate::events::event_store::{Batch, Clocks, EventStore, StoredEvent};

const EPOCH: u64 = 5;
const CAPACITY: u64 = 64 * 1024;
/// How the input is used, in its first byte.
const WHOLE_FILE: u8 = 1;
const FILLED: u8 = 2;
const FRESH_BLOCKS: u8 = 4;
const CLOSED: u8 = 8;
const FOLLOWED: u8 = 16;

/// Opens a store whose oldest segment contains these bytes, reads it, appends to it, and opens it again.
/// The first byte says how the others are used, the second is the number that the header calls durable.
pub fn open_any_segment(input: &[u8]) {
    let Some(([flags, durable], content)) = input.split_first_chunk() else { return };
    let disk = SimDisk::new(1, flags & FILLED != 0);
    disk.replace(&segment_name(1), Some(segment(*flags, u64::from(*durable), content)));
    let options = SegmentOptions::default().segment_bytes(CAPACITY).epochs_from(|| EPOCH);
    if flags & FOLLOWED != 0 {
        let header = header(*flags & !FILLED, 200, 199);
        disk.replace(&segment_name(200), Some(with_header(&header, &[])));
    }
    // Numbers may be used up, and formats unknown.
    let Ok(store) = SegmentStore::on(Arc::new(disk.clone()), &options) else { return };
    read_all(&store);
    let first = store.extent().next;
    let event = StoredEvent { payload: "appended".into(), published: Duration::ZERO };
    let batch = Batch { first, events: vec![event], clocks: Clocks::default() };
    if store.append(&batch).is_err() {
        return;
    }
    // Not what it reads: with checksums that are always right, a segment can contain records anywhere, also
    // where others are written later.
    read_all(&store);
    drop(store);
    // What is behind the end of the first open may be records of the last numbers.
    let Ok(store) = SegmentStore::on(Arc::new(disk), &options) else { return };
    assert!(store.extent().next > first, "a number is used again");
}

/// Reads make progress, and no number comes twice.
fn read_all(store: &SegmentStore) {
    let extent = store.extent();
    let (mut from, mut read) = (extent.first, BTreeSet::new());
    while from < extent.next {
        let mut out = Vec::new();
        let next = store.read(from, 1000, &mut out).expect("the disk has no faults");
        assert!(next > from && next <= extent.next, "no progress");
        for (number, _) in out {
            assert!((from..next).contains(&number), "a number out of place");
            assert!(read.insert(number), "a number twice");
        }
        from = next;
    }
    for lost in store.lost() {
        assert!(lost.first <= lost.last);
    }
}

fn segment(flags: u8, durable: u64, content: &[u8]) -> Vec<u8> {
    if flags & WHOLE_FILE != 0 { content.to_vec() } else { with_header(&header(flags, 1, durable), content) }
}

fn header(flags: u8, first: u64, durable: u64) -> Header {
    Header {
        epoch: EPOCH,
        first,
        floor: 1,
        durable,
        certain: durable,
        capacity: CAPACITY,
        salt: [7; SALT_LEN],
        filled: flags & FILLED != 0,
        fresh_blocks: flags & FRESH_BLOCKS != 0,
        closed: flags & CLOSED != 0,
    }
}

fn with_header(header: &Header, content: &[u8]) -> Vec<u8> {
    let mut file = header.encode().to_vec();
    file.resize(to_usize(BLOCK), 0);
    file.extend(header.encode());
    file.resize(to_usize(DATA_START), 0);
    file.extend(content);
    if header.filled {
        let unwritten = Unwritten::of(header);
        file.resize(file.len().next_multiple_of(SECTOR_BYTES), 0);
        while to_u64(file.len()) < CAPACITY {
            file.extend(unwritten.sector(to_u64(file.len())));
        }
    }
    file
}
