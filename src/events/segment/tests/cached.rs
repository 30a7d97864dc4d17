//! Reads that do not wait for the disk.

use std::time::Duration;

use super::{EPOCH, open};
use crate::events::{
    event_store::{Batch, Clocks, EventStore, StoredEvent},
    segment::{SegmentOptions, SegmentStore, sim_disk::SimDisk},
};

const EVENTS: u64 = 3000;

/// A store with events of 100 bytes in several segments.
fn store(disk: &SimDisk) -> SegmentStore {
    let options = SegmentOptions::default().segment_bytes(64 * 1024).epochs_from(|| EPOCH);
    let store = open(disk, &options).unwrap();
    let event = StoredEvent { payload: vec![7; 100].into(), published: Duration::ZERO };
    while store.extent().next <= EVENTS {
        let first = store.extent().next;
        let batch = Batch { first, events: vec![event.clone(); 100], clocks: Clocks::default() };
        store.append(&batch).unwrap();
    }
    store
}

/// The number behind the events that are at hand from this one on, `max` at most.
fn cached(store: &SegmentStore, from: u64, max: u64) -> u64 {
    let mut next = from;
    store.read_cached(from, &mut |number, event| {
        assert_eq!((number, event.payload.len()), (next, 100));
        next += 1;
        next - from < max
    });
    next
}

fn read(store: &SegmentStore, from: u64) -> u64 {
    store.read(from, 1000, &mut Vec::new()).unwrap()
}

#[test]
fn a_reader_goes_on_in_an_open_segment_with_one_call_of_the_disk() {
    let disk = SimDisk::new(1, true);
    let store = store(&disk);
    assert_eq!(cached(&store, 1, 10), 1, "nothing was read yet");
    let (mut next, mut waits) = (1, 0);
    while next <= EVENTS {
        let before = disk.calls();
        let end = cached(&store, next, 100);
        if end == next {
            next = read(&store, next);
            waits += 1;
        } else {
            assert!(disk.calls() - before <= 2, "{} calls", disk.calls() - before);
            next = end;
        }
    }
    assert!((5..12).contains(&waits), "{waits} for the segments of {EVENTS} events");
}

#[test]
fn readers_at_the_same_place_do_not_take_it_from_each_other() {
    let disk = SimDisk::new(1, true);
    let store = store(&disk);
    let next = read(&store, 1);
    assert_eq!(read(&store, 1), next);
    for _ in 0..2 {
        let end = cached(&store, next, 50);
        assert_eq!(end, next + 50);
        assert_eq!(cached(&store, end, 50), end + 50);
    }
    assert_eq!(cached(&store, next, 50), next, "both have gone on");
}

#[test]
fn a_closed_store_has_nothing_at_hand() {
    let disk = SimDisk::new(1, true);
    let store = store(&disk);
    let next = read(&store, 1);
    store.close().unwrap();
    assert_eq!(cached(&store, next, 10), next);
}
