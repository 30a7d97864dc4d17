//! Numbers that were left out on purpose.

use std::time::Duration;

use super::{
    super::{
        LostEvents, SegmentOptions, SegmentStore,
        disk::Disk as _,
        names::DAMAGE_KNOWN,
        sim_disk::{Call, Fault, FaultKind, SimDisk},
    },
    EPOCH, open, run,
};
use crate::events::event_store::{Batch, Clocks, EventStore, StoredEvent};

fn options() -> SegmentOptions {
    SegmentOptions::default().segment_bytes(16 * 1024).epochs_from(|| EPOCH)
}

fn append(store: &SegmentStore, number: u64) -> std::io::Result<()> {
    let event = StoredEvent { payload: payload(number).into(), published: Duration::ZERO };
    store.append(&Batch { first: number, events: vec![event], clocks: Clocks::default() })
}

fn payload(number: u64) -> Vec<u8> {
    format!("the payload of {number}.").into_bytes()
}

fn numbers(store: &SegmentStore) -> Vec<u64> {
    let mut out = Vec::new();
    let mut from = store.extent().first;
    while from < store.extent().next {
        from = store.read(from, usize::MAX, &mut out).unwrap();
    }
    assert!(out.iter().all(|(number, event)| event.payload == payload(*number)));
    out.into_iter().map(|(number, _)| number).collect()
}

/// A log of events and holes loses power somewhere, and goes on.
fn trial(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let is_filled = random.bool();
    let disk = SimDisk::new(seed, is_filled);
    let (mut acknowledged, mut tried) = (Vec::new(), Vec::new());
    let mut next = 1;
    for _ in 0..4 {
        let store = open(&disk, &options()).map_err(|error| format!("open: {error}"))?;
        let found = numbers(&store);
        if let Some(lost) = acknowledged.iter().find(|number| !found.contains(*number)) {
            return Err(format!("event {lost} is lost, found {found:?}"));
        }
        if let Some(strange) = found.iter().find(|number| !tried.contains(*number)) {
            return Err(format!("event {strange} was never published"));
        }
        // In a segment that grows, an end that was cut off leaves numbers in doubt.
        if store.lost().iter().any(|lost| lost.exact || is_filled) {
            return Err(format!("{:?} are reported as damaged", store.lost()));
        }
        // A mirror asks its origin again, which says where it goes on.
        next = store.extent().next.max(next);
        let after = random.u64(..60);
        disk.inject(Fault { call: Call::Any, after, times: u64::MAX, kind: FaultKind::Io });
        for _ in 0..random.u8(1..40) {
            if random.u8(..4) == 0 {
                next += random.u64(1..9);
            }
            if store.skip(next).is_err() {
                break;
            }
            tried.push(next);
            if append(&store, next).is_err() {
                break;
            }
            acknowledged.push(next);
            next += 1;
        }
        disk.heal();
        drop(store);
        disk.lose_power();
    }
    Ok(())
}

#[test]
fn holes_survive_the_loss_of_power_and_are_no_damage() {
    run(300, 5_000, trial);
}

#[test]
fn damage_beside_a_hole_is_reported_without_the_hole() {
    let disk = SimDisk::new(1, true);
    let store = open(&disk, &options()).unwrap();
    append(&store, 1).unwrap();
    store.skip(10).unwrap();
    // Until event 11 is no longer in memory.
    (10..100).for_each(|number| append(&store, number).unwrap());
    disk.rot("00000000000000000001.segment", |content| {
        let at = content.windows(18).position(|bytes| bytes == payload(11)).unwrap();
        content[at] ^= 1;
    });
    assert!(numbers(&store).into_iter().eq([1, 10].into_iter().chain(12..100)));
    let lost: Vec<_> = store.lost().iter().map(|LostEvents { first, last, .. }| (*first, *last)).collect();
    assert_eq!(lost, [(11, 11)]);
}

#[test]
fn a_log_that_begins_above_1_does_so_after_a_crash_or_a_close() {
    for (is_filled, is_closed) in [(true, false), (false, false), (true, true), (false, true)] {
        let disk = SimDisk::new(1, is_filled);
        let store = open(&disk, &options()).unwrap();
        store.skip(20).unwrap();
        append(&store, 20).unwrap();
        assert_eq!((store.extent().first, store.extent().next), (20, 21));
        if is_closed {
            store.close().unwrap();
        }
        drop(store);
        disk.lose_power();
        let store = open(&disk, &options()).unwrap();
        let extent = store.extent();
        assert_eq!((extent.first, extent.next), (20, 21), "filled {is_filled}, closed {is_closed}");
        assert_eq!((numbers(&store), store.holes()), (vec![20], vec![]));
        append(&store, 21).unwrap();
        assert_eq!(numbers(&store), [20, 21]);
    }
}

#[test]
fn a_log_whose_first_event_was_not_written_begins_with_any_other() {
    // Wherever power is lost while the first event is written.
    for after in 0..40 {
        let disk = SimDisk::new(after, true);
        let store = open(&disk, &options()).unwrap();
        store.skip(20).unwrap();
        disk.inject(Fault { call: Call::Any, after, times: u64::MAX, kind: FaultKind::Io });
        let is_written = append(&store, 20).is_ok();
        disk.heal();
        drop(store);
        disk.lose_power();
        let store = open(&disk, &options()).unwrap();
        let next = store.extent().next;
        assert!(next == 21 || !is_written && matches!(next, 1 | 20), "{next} after {after} calls");
        append(&store, next).unwrap();
        assert_eq!(numbers(&store).last(), Some(&next), "after {after} calls");
    }
}

/// Events with odd numbers and holes between them, of which as many stay as fit into `max_bytes`.
fn with_holes(disk: &SimDisk, max_bytes: u64) -> SegmentStore {
    let store = open(disk, &options().max_bytes(max_bytes)).unwrap();
    for number in (1..6000).step_by(2) {
        store.skip(number).unwrap();
        append(&store, number).unwrap();
    }
    store
}

fn holes(store: &SegmentStore) -> Vec<u64> {
    store.holes().into_iter().flatten().collect()
}

#[test]
fn holes_below_what_is_held_are_forgotten_and_the_others_are_no_damage_after_a_restart() {
    let disk = SimDisk::new(1, true);
    let store = with_holes(&disk, 64 * 1024);
    let held = numbers(&store);
    assert!((100..400).contains(&held.len()), "{}", held.len());
    let between: Vec<u64> = (held[0]..5999).filter(|number| number % 2 == 0).collect();
    assert!(store.lost().is_empty());
    drop(store);
    let store = open(&disk, &options()).unwrap();
    assert_eq!((numbers(&store), store.lost(), holes(&store)), (held, vec![], between));
}

#[test]
fn of_too_many_holes_the_oldest_are_forgotten() {
    let disk = SimDisk::new(1, true);
    let store = with_holes(&disk, u64::MAX);
    let newest: Vec<u64> = (6000 - 2 * 512..6000).step_by(2).collect();
    assert_eq!(holes(&store), newest);
    assert!(disk.open(DAMAGE_KNOWN).unwrap().len().unwrap() < 24 * 1024);
    drop(store);
    let store = open(&disk, &options()).unwrap();
    assert_eq!((store.lost(), holes(&store)), (vec![], newest));
    assert_eq!(numbers(&store).len(), 3000);
    assert!(store.lost().is_empty(), "a full report says once that there is more, and lists nothing");
}
