//! What a store takes on the disk, also when segments are damaged.

use std::time::Duration;

use super::{
    super::{
        disk::Disk,
        names::{DAMAGE, segment_name, segment_number},
        sim_disk::SimDisk,
    },
    EPOCH, SegmentOptions, SegmentStore, open,
};
use crate::events::event_store::{Batch, Clocks, EventStore, StoredEvent};

const MAX_BYTES: usize = 100_000;
/// The report of damage twice, while it is replaced, what was in earlier ones, and the copies of the newest
/// header.
const OTHER_FILES: usize = 2 * 64 * 1024 + 24 * 1024 + 8 * 1024;

fn options() -> SegmentOptions {
    let max_bytes = u64::try_from(MAX_BYTES).unwrap();
    SegmentOptions::default().segment_bytes(16 * 1024).max_bytes(max_bytes).epochs_from(|| EPOCH)
}

/// Appends events, and checks the bound after each call to the disk.
fn append(store: &SegmentStore, disk: &SimDisk, count: usize) {
    for _ in 0..count {
        let first = store.extent().next;
        let event = StoredEvent { payload: vec![7; 1000].into(), published: Duration::ZERO };
        store.append(&Batch { first, events: vec![event], clocks: Clocks::default() }).unwrap();
        check_size(disk);
    }
}

fn check_size(disk: &SimDisk) {
    let contents = disk.contents();
    let is_segment = |name: &String| name.ends_with(".segment");
    let segments: usize =
        contents.iter().filter(|(name, _)| is_segment(name)).map(|(_, content)| content.len()).sum();
    let others: usize =
        contents.iter().filter(|(name, _)| !is_segment(name)).map(|(_, content)| content.len()).sum();
    assert!(segments <= MAX_BYTES, "{segments} bytes in {:?}", contents.keys());
    assert!(others <= OTHER_FILES, "{others} bytes in {:?}", contents.keys());
}

fn firsts(disk: &SimDisk) -> Vec<u64> {
    disk.list().unwrap().iter().filter_map(|name| segment_number(name)).collect()
}

fn destroy_header(disk: &SimDisk, first: u64) {
    disk.rot(&segment_name(first), |content| content[..8192].fill(1));
}

fn has_report(disk: &SimDisk) -> bool {
    disk.list().unwrap().contains(&DAMAGE.to_owned())
}

#[test]
fn damaged_segments_are_removed_to_make_room_and_the_report_stays() {
    let disk = SimDisk::new(1, true);
    for round in 0..6 {
        let store = open(&disk, &options()).unwrap();
        append(&store, &disk, 100);
        store.close().unwrap();
        let damaged = firsts(&disk)[round % 3];
        destroy_header(&disk, damaged);
        let store = open(&disk, &options()).unwrap();
        assert!(firsts(&disk).contains(&damaged), "it is there at the start that reports it");
        assert!(store.lost().iter().any(|lost| lost.first == damaged.max(store.extent().first)));
        append(&store, &disk, 100);
        assert!(!firsts(&disk).contains(&damaged), "it takes the place of others");
        store.close().unwrap();
        assert!(has_report(&disk));
    }
}

#[test]
fn a_damaged_segment_below_the_floor_is_removed_with_the_next_one() {
    let disk = SimDisk::new(1, true);
    let store = open(&disk, &options()).unwrap();
    append(&store, &disk, 30);
    let [first, second, ..] = firsts(&disk)[..] else { panic!("there is one segment") };
    store.close().unwrap();
    destroy_header(&disk, first);
    // Its events are discarded while it cannot be removed: it is the oldest, and the process ends.
    let store = open(&disk, &options()).unwrap();
    let kept = disk.contents()[&segment_name(first)].clone();
    store.discard(second).unwrap();
    store.close().unwrap();
    disk.replace(&segment_name(first), Some(kept));
    let store = open(&disk, &options()).unwrap();
    assert_eq!((store.extent().first, firsts(&disk)[0]), (second, first));
    store.discard(second).unwrap();
    assert_eq!(firsts(&disk)[0], second);
    assert_eq!(store.extent().first, second);
}

#[test]
fn the_bound_holds_when_all_headers_are_lost_and_when_an_epoch_begins_on_purpose() {
    for on_purpose in [true, false] {
        let disk = SimDisk::new(1, true);
        let mut events = 100;
        for epoch in 1..5 {
            let mut options = options().epochs_from(move || epoch);
            if on_purpose {
                options = options.begin_epoch();
            }
            let store = open(&disk, &options).unwrap();
            assert_eq!(store.extent().epoch, epoch);
            check_size(&disk);
            append(&store, &disk, events);
            // In the last rounds the segments of the epochs before are still there.
            events = 5;
            store.close().unwrap();
            drop(store);
            if !on_purpose {
                firsts(&disk).into_iter().for_each(|first| destroy_header(&disk, first));
                disk.rot("newest", Vec::clear);
            }
        }
        assert_eq!(has_report(&disk), !on_purpose);
    }
}
