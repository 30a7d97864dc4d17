//! Holes that are filled.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one hole")]

use std::{cell::Cell, collections::BTreeMap, io, ops::Range, time::Duration};

use bytes::Bytes;

use super::{
    super::{
        LostEvents, SegmentOptions, SegmentStore,
        names::{DAMAGE, fill_name, fill_numbers, segment_name},
        sabotage::Sabotage,
        sim_disk::{Call, Fault, FaultKind, SimDisk},
    },
    EPOCH, must_find, open, run,
};
use crate::events::event_store::{Batch, Clocks, EventStore, StoredEvent};

fn options() -> SegmentOptions {
    SegmentOptions::default().segment_bytes(16 * 1024).epochs_from(|| EPOCH)
}

/// The event that every holder of the history has under this number.
fn payload(number: u64) -> Vec<u8> {
    let len = usize::try_from(number * 37 % 900).unwrap();
    [format!("the payload of {number}.").into_bytes(), vec![b'x'; len]].concat()
}

fn batch(numbers: Range<u64>) -> Batch {
    let event = |number| StoredEvent { payload: payload(number).into(), published: Duration::ZERO };
    Batch { first: numbers.start, events: numbers.map(event).collect(), clocks: Clocks::default() }
}

fn numbers(store: &SegmentStore) -> Vec<u64> {
    let mut out = Vec::new();
    let mut from = store.extent().first;
    while from < store.extent().next {
        from = store.read(from, 3000, &mut out).unwrap();
    }
    assert!(out.iter().all(|(number, event)| event.payload == payload(*number)));
    out.into_iter().map(|(number, _)| number).collect()
}

fn lost(store: &SegmentStore) -> Vec<(u64, u64)> {
    store.lost().iter().map(|LostEvents { first, last, .. }| (*first, *last)).collect()
}

/// A log with the events below `end` that are in none of these holes, in several segments.
fn log_with_holes(disk: &SimDisk, end: u64, holes: &[Range<u64>]) -> SegmentStore {
    let store = open(disk, &options()).unwrap();
    for number in (1..end).filter(|number| !holes.iter().any(|hole| hole.contains(number))) {
        store.skip(number).unwrap();
        store.append(&batch(number..number + 1)).unwrap();
    }
    store
}

/// Changes a byte of this event in a file.
fn break_event(disk: &SimDisk, name: &str, number: u64) {
    let start = format!("the payload of {number}.");
    disk.rot(name, |content| {
        let at = content.windows(start.len()).position(|bytes| bytes == start.as_bytes()).unwrap();
        content[at] ^= 1;
    });
}

/// Power is lost at the call `after` while a hole is filled.
fn interrupted(seed: u64, after: u64) -> Result<bool, String> {
    let disk = SimDisk::new(seed, seed.is_multiple_of(2));
    let store = log_with_holes(&disk, 100, &[40..60, 70..72]);
    disk.inject(Fault { call: Call::Any, after, times: u64::MAX, kind: FaultKind::Io });
    let before = disk.calls();
    let filled = store.fill(&batch(43..58));
    // Also while the report of damage is written, which is no reason to tell that the hole is not filled.
    let was_reached = disk.calls() - before > after;
    disk.heal();
    drop(store);
    disk.lose_power();
    let store = open(&disk, &options()).map_err(|error| format!("open: {error}"))?;
    let mut out = Vec::new();
    store.read(43, 0, &mut out).map_err(|error| format!("read: {error}"))?;
    let is_filled = out.first().is_some_and(|(number, _)| *number < 58);
    if filled.is_ok() && !is_filled {
        return Err("what was filled is lost".into());
    }
    let expected = (1..100).filter(|number| {
        let in_a_hole = (40..60).contains(number) || (70..72).contains(number);
        !in_a_hole || is_filled && (43..58).contains(number)
    });
    let found = numbers(&store);
    if !found.iter().copied().eq(expected) {
        return Err(format!("neither the hole nor what fills it, but {found:?}"));
    }
    if !lost(&store).is_empty() {
        return Err(format!("{:?} are reported as damaged", lost(&store)));
    }
    // The report that says so may be from before.
    let again = store.fill(&batch(43..58)).map_err(|error| error.kind());
    let expected = if is_filled { Err(io::ErrorKind::AlreadyExists) } else { Ok(()) };
    if again != expected {
        return Err(format!("filled again: {again:?}"));
    }
    if store.holes() != [40..43, 58..60, 70..72] {
        return Err(format!("the holes are {:?}", store.holes()));
    }
    Ok(was_reached)
}

/// Power is lost at every call.
fn interrupted_everywhere(seed: u64) -> Result<(), String> {
    let mut after = 0;
    while interrupted(seed, after).map_err(|found| format!("at call {after}: {found}"))? {
        after += 1;
    }
    if after < 10 {
        return Err(format!("{after} calls are too few for a write, a sync and a name"));
    }
    Ok(())
}

#[test]
fn power_that_is_lost_leaves_the_hole_or_all_of_what_fills_it() {
    run(6, 200, interrupted_everywhere);
}

#[test]
fn a_file_that_gets_its_name_too_early_is_found() {
    must_find(Sabotage::NameFillEarly, interrupted_everywhere);
}

/// A log is filled at random, and loses power now and then. Returns how many holes were filled.
fn trial(seed: u64) -> Result<usize, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::new(seed, random.bool());
    let mut held = BTreeMap::<u64, Bytes>::new();
    let mut store = open(&disk, &options()).map_err(|error| format!("open: {error}"))?;
    for _ in 0..60 {
        let next = store.extent().next;
        match random.u8(..10) {
            0..3 => {
                let next = next + if random.bool() { random.u64(1..9) } else { 0 };
                store.skip(next).map_err(|error| format!("skip: {error}"))?;
                let batch = batch(next..next + random.u64(1..4));
                store.append(&batch).map_err(|error| format!("append: {error}"))?;
                held.extend((batch.first..).zip(batch.events.into_iter().map(|event| event.payload)));
            }
            3 => {
                drop(store);
                disk.lose_power();
                store = open(&disk, &options()).map_err(|error| format!("open: {error}"))?;
            }
            _ => {
                let first = random.u64(..next);
                let mut batch = batch(first..first + random.u64(1..6));
                // So that one event in the place of another is found.
                batch
                    .events
                    .iter_mut()
                    .for_each(|event| event.payload = Bytes::from(format!("filled {}", random.u64(..))));
                let numbers = batch.first..batch.end(batch.first).unwrap();
                let is_hole = numbers.clone().all(|number| !held.contains_key(&number));
                match store.fill(&batch) {
                    Ok(()) if is_hole && numbers.end < next => {
                        held.extend(numbers.zip(batch.events.into_iter().map(|event| event.payload)));
                    }
                    Ok(()) => return Err(format!("{numbers:?} are filled, of which events are held")),
                    // A hole may reach over several segments.
                    Err(_) => {}
                }
            }
        }
        let mut read = Vec::new();
        let (mut from, end) = (store.extent().first, store.extent().next);
        while from < end {
            from = store
                .read(from, random.usize(..5000), &mut read)
                .map_err(|error| format!("read: {error}"))?;
        }
        let read: Vec<_> = read.into_iter().map(|(number, event)| (number, event.payload)).collect();
        if !read.iter().cloned().eq(held.clone()) {
            return Err(format!("{read:?} instead of {held:?}"));
        }
    }
    Ok(disk.contents().keys().filter(|name| fill_numbers(name).is_some()).count())
}

#[test]
fn holes_are_filled_and_no_event_is_replaced() {
    let fills = Cell::new(0);
    run(60, 2_000, |seed| trial(seed).map(|count| fills.set(fills.get() + count)));
    assert!(fills.get() > 100, "{} holes were filled", fills.get());
}

#[test]
fn a_store_that_replaces_events_is_found() {
    must_find(Sabotage::FillHeldNumbers, |seed| trial(seed).map(drop));
}

#[test]
fn damage_that_is_filled_is_reported_no_longer_and_again_if_it_comes_back() {
    let disk = SimDisk::new(1, true);
    let store = log_with_holes(&disk, 200, &[]);
    break_event(&disk, &segment_name(1), 11);
    assert_eq!(numbers(&store).len(), 198);
    assert_eq!((lost(&store), store.holes(), store.damaged()), (vec![(11, 11)], vec![11..12], 1));
    store.fill(&batch(11..12)).unwrap();
    let whole = |store: &SegmentStore| {
        assert!(numbers(store).into_iter().eq(1..200));
        assert_eq!((lost(store), store.holes(), store.damaged()), (vec![], vec![], 0));
    };
    whole(&store);
    assert_eq!(disk.contents()[DAMAGE], b"");
    drop(store);
    let store = open(&disk, &options()).unwrap();
    whole(&store);
    break_event(&disk, &fill_name(&(11..12)), 11);
    assert_eq!(numbers(&store).len(), 198);
    assert_eq!((lost(&store), store.holes()), (vec![(11, 11)], vec![11..12]));
    store.fill(&batch(11..12)).unwrap();
    whole(&store);
}

#[test]
fn a_segment_that_is_gone_is_filled_file_by_file() {
    let disk = SimDisk::new(1, true);
    let store = log_with_holes(&disk, 200, &[]);
    let names = disk.contents();
    let firsts: Vec<u64> =
        names.keys().filter_map(|name| super::super::names::segment_number(name)).collect();
    let (gone, damaged) = (firsts[1]..firsts[2], firsts[3]..firsts[4]);
    disk.replace(&segment_name(gone.start), None);
    disk.rot(&segment_name(damaged.start), |content| content[..8192].fill(1));
    drop(store);
    let store = open(&disk, &options()).unwrap();
    assert!(numbers(&store).into_iter().eq((1..200).filter(|n| !gone.contains(n) && !damaged.contains(n))));
    assert_eq!(store.holes(), [gone.clone(), damaged.clone()]);
    for middle in [gone.start + 3..gone.start + 5, damaged.start + 3..damaged.start + 5] {
        store.fill(&batch(middle)).unwrap();
    }
    assert_eq!(store.holes().len(), 4);
    let across = store.fill(&batch(gone.start..gone.end)).unwrap_err();
    assert_eq!(across.kind(), io::ErrorKind::InvalidInput, "over what is filled");
    for hole in store.holes() {
        store.fill(&batch(hole)).unwrap();
    }
    let whole = |store: &SegmentStore| {
        assert!(numbers(store).into_iter().eq(1..200));
        assert_eq!((lost(store), store.holes()), (vec![], vec![]));
    };
    whole(&store);
    drop(store);
    let store = open(&disk, &options()).unwrap();
    whole(&store);
    // A file that fills a hole can be damaged like any other.
    let rotten = gone.start + 3..gone.start + 5;
    disk.rot(&fill_name(&rotten), |content| content[..8192].fill(1));
    drop(store);
    let store = open(&disk, &options()).unwrap();
    assert_eq!((lost(&store), store.holes()), (vec![(rotten.start, rotten.end - 1)], vec![rotten.clone()]));
    store.fill(&batch(rotten)).unwrap();
    whole(&store);
}

#[test]
fn a_hole_in_what_fills_a_hole_is_filled() {
    let disk = SimDisk::new(1, true);
    let store = log_with_holes(&disk, 60, &[20..40]);
    store.fill(&batch(20..40)).unwrap();
    for number in [20, 27, 28, 39] {
        break_event(&disk, &fill_name(&(20..40)), number);
    }
    let kept = |n: &u64| ![20, 27, 28, 39].contains(n);
    assert!(numbers(&store).into_iter().eq((1..60).filter(kept)));
    assert_eq!(store.holes(), [20..21, 27..29, 39..40]);
    store.holes().into_iter().for_each(|hole| store.fill(&batch(hole)).unwrap());
    assert!(numbers(&store).into_iter().eq(1..60));
    drop(store);
    let store = open(&disk, &options()).unwrap();
    assert!(numbers(&store).into_iter().eq(1..60));
    assert_eq!((lost(&store), store.holes()), (vec![], vec![]));
}

#[test]
fn what_fills_a_hole_goes_with_its_segment() {
    let disk = SimDisk::new(1, true);
    let store = log_with_holes(&disk, 200, &[10..12, 150..160]);
    let fills = || disk.contents().keys().filter(|name| fill_numbers(name).is_some()).count();
    let used = |store: &SegmentStore| (0..).find(|bytes| store.surplus(*bytes << 10) <= 1).unwrap();
    let before = used(&store);
    store.fill(&batch(10..12)).unwrap();
    store.fill(&batch(150..160)).unwrap();
    assert!(used(&store) >= before + 16, "two headers of 8 KiB are counted");
    drop(store);
    let store = open(&disk, &options()).unwrap();
    assert!(used(&store) >= before + 16, "also when the log is opened again");
    assert_eq!(fills(), 2);
    store.discard(100).unwrap();
    assert_eq!(fills(), 1);
    assert_eq!(numbers(&store).last(), Some(&199));
    // A crash may leave the file of a segment that is gone.
    disk.replace(&fill_name(&(10..12)), Some(disk.contents()[&fill_name(&(150..160))].clone()));
    drop(store);
    let store = open(&disk, &options()).unwrap();
    assert_eq!(fills(), 1);
    drop(store);
    let store = open(&disk, &options().epochs_from(|| EPOCH + 1).begin_epoch()).unwrap();
    assert_eq!((store.extent().epoch, fills()), (EPOCH + 1, 0));
}

#[test]
fn a_hole_whose_segment_would_go_for_it_is_not_filled() {
    let disk = SimDisk::new(1, true);
    drop(log_with_holes(&disk, 200, &[10..12, 150..160]));
    let segments = disk.contents().keys().filter(|name| name.ends_with(".segment")).count();
    let max = |segments: usize| options().max_bytes(u64::try_from(segments * 16 * 1024).unwrap());
    let store = open(&disk, &max(segments)).unwrap();
    assert_eq!(store.holes(), [150..160], "the oldest segment is the next to go");
    assert_eq!(store.fill(&batch(10..12)).unwrap_err().kind(), io::ErrorKind::StorageFull);
    store.fill(&batch(150..160)).unwrap();
    let kept = numbers(&store);
    assert!(kept[0] > 12 && kept.ends_with(&(145..200).collect::<Vec<_>>()), "{kept:?}");
    let bytes: usize = disk
        .contents()
        .iter()
        .filter(|(name, _)| name.contains(".segment") || name.contains(".filled"))
        .map(|(_, content)| content.len())
        .sum();
    assert!(bytes <= segments * 16 * 1024, "{bytes}");
}

/// A reader is at this number when the hole is filled, and gets what fills it.
fn filled_meanwhile(disk: &SimDisk, store: SegmentStore, hole: Range<u64>) {
    let store = std::sync::Arc::new(store);
    let filler = std::sync::Arc::clone(&store);
    let mut from = hole.start;
    // On the thread of the reader, when it has read the header of the file.
    disk.interrupt(Call::Read, 2, move || filler.fill(&batch(hole)).unwrap());
    let (mut out, began) = (Vec::new(), from);
    while from < 60 {
        from = store.read(from, usize::MAX, &mut out).unwrap();
    }
    assert!(disk.is_uninterrupted());
    assert!(out.into_iter().map(|(number, _)| number).eq(began..60));
}

#[test]
fn a_reader_in_a_hole_gets_what_fills_it_meanwhile() {
    let disk = SimDisk::new(1, true);
    filled_meanwhile(&disk, log_with_holes(&disk, 60, &[20..40]), 20..40);
}

#[test]
fn a_reader_at_damage_in_what_fills_a_hole_gets_what_fills_that_meanwhile() {
    let disk = SimDisk::new(1, true);
    let store = log_with_holes(&disk, 60, &[20..40]);
    store.fill(&batch(20..40)).unwrap();
    break_event(&disk, &fill_name(&(20..40)), 27);
    filled_meanwhile(&disk, store, 27..28);
}

#[test]
fn a_reader_that_has_passed_a_hole_reports_nothing_that_was_filled_since() {
    for after in 0..20 {
        let disk = SimDisk::new(1, true);
        let store = std::sync::Arc::new(log_with_holes(&disk, 200, &[20..40]));
        let filler = std::sync::Arc::clone(&store);
        disk.interrupt(Call::Read, after, move || filler.fill(&batch(20..40)).unwrap());
        let (mut from, mut out) = (1, Vec::new());
        while from < 200 {
            from = store.read(from, usize::MAX, &mut out).unwrap();
        }
        assert!(disk.is_uninterrupted());
        assert_eq!((lost(&store), store.holes()), (vec![], vec![]), "before read {after}");
        assert!(numbers(&store).into_iter().eq(1..200));
    }
}

#[test]
fn holes_are_filled_beside_readers_and_writers() {
    let disk = SimDisk::new(1, true);
    let store = &log_with_holes(&disk, 10, &[]);
    std::thread::scope(|scope| {
        let reader = || {
            let mut from = 1;
            while from < 600 {
                let mut out = Vec::new();
                from = store.read(from, 1000, &mut out).unwrap();
                assert!(out.iter().all(|(number, event)| event.payload == payload(*number)));
            }
        };
        scope.spawn(reader);
        scope.spawn(reader);
        scope.spawn(|| {
            while store.extent().next < 600 || !store.holes().is_empty() {
                store.holes().into_iter().for_each(|hole| store.fill(&batch(hole)).unwrap());
            }
        });
        for next in (15..600).step_by(9) {
            store.skip(next).unwrap();
            store.append(&batch(next..next + 3)).unwrap();
        }
        store.append(&batch(store.extent().next..602)).unwrap();
    });
    assert!(numbers(store).into_iter().eq(1..602));
    assert_eq!(store.damaged(), 0);
}

#[test]
fn nothing_is_filled_behind_the_newest_event_or_in_a_closed_log() {
    let disk = SimDisk::new(1, true);
    let store = log_with_holes(&disk, 10, &[]);
    store.skip(20).unwrap();
    // Without power, these numbers would be the next ones.
    assert_eq!(store.fill(&batch(12..14)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert!(store.holes().is_empty());
    store.append(&batch(20..21)).unwrap();
    assert_eq!(store.holes(), [10..20]);
    store.close().unwrap();
    store.fill(&batch(12..14)).unwrap_err();
    assert!(!disk.contents().keys().any(|name| fill_numbers(name).is_some()));
}
