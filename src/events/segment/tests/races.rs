//! What happens to the store in the middle of a read: at each of its calls to the disk in turn.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use super::{
    super::{
        disk::Disk,
        header::{COPIES, Header},
        names::{DAMAGE, segment_name, segment_number},
        sabotage::{Sabotage, with},
        sim_disk::{Call, Fault, FaultKind, SimDisk},
    },
    EPOCH, SegmentOptions, SegmentStore, open,
};
use crate::{
    events::event_store::{Batch, Clocks, EventStore, StoredEvent},
    sync::{Mutex, lock},
};

fn small() -> SegmentOptions {
    SegmentOptions::default().segment_bytes(16 * 1024).epochs_from(|| EPOCH)
}

fn append(store: &SegmentStore, len: usize) -> std::io::Result<()> {
    let first = store.extent().next;
    let event = StoredEvent { payload: vec![7; len].into(), published: Duration::ZERO };
    store.append(&Batch { first, events: vec![event], clocks: Clocks::default() })
}

fn numbers(store: &SegmentStore) -> Vec<u64> {
    let mut out = Vec::new();
    store.read(1, usize::MAX, &mut out).unwrap();
    out.into_iter().map(|(number, _)| number).collect()
}

/// Reads everything, with this work in the middle, and once for each place where that can be. Returns what
/// `check` found, for all places.
fn at_each_call(
    new: impl Fn(&SimDisk) -> SegmentStore,
    work: impl Fn(&SegmentStore, &SimDisk) + Clone + Send + 'static,
    check: impl Fn(&SegmentStore, &[u64]) -> Result<(), String>,
) -> Result<(), String> {
    for filled in [true, false] {
        for after in 0.. {
            let disk = SimDisk::new(after, filled);
            let store = Arc::new(new(&disk));
            let (work, working, working_disk) = (work.clone(), Arc::clone(&store), disk.clone());
            disk.interrupt(Call::Any, after, move || work(&working, &working_disk));
            let read = numbers(&store);
            if !disk.is_uninterrupted() {
                assert!(after > 3, "the read was not interrupted");
                break;
            }
            check(&store, &read).map_err(|found| format!("at call {after}: {found}"))?;
        }
    }
    Ok(())
}

/// All numbers up to `last` are read, and none is reported as lost.
fn complete(last: u64) -> impl Fn(&SegmentStore, &[u64]) -> Result<(), String> {
    move |store, read| {
        let lost = store.lost();
        if read.len() < usize::try_from(last).unwrap()
            || read.iter().copied().zip(1..).any(|(number, expected)| number != expected)
        {
            return Err(format!("read {read:?}, lost {lost:?}"));
        }
        if lost.is_empty() { Ok(()) } else { Err(format!("{lost:?}")) }
    }
}

/// A write destroys the block that it shares with acknowledged events, which the next one writes again.
fn fail_and_roll(store: &SegmentStore, disk: &SimDisk) {
    disk.inject(Fault { call: Call::Write, after: 0, times: 1, kind: FaultKind::DestroyBlocks });
    append(store, 100).unwrap_err();
    // Until the events that were written again are no longer in memory.
    (0..60).for_each(|_| append(store, 100).unwrap());
}

/// The same, and the disk does not work yet.
fn fail(store: &SegmentStore, disk: &SimDisk) {
    disk.inject(Fault { call: Call::Write, after: 0, times: 1, kind: FaultKind::DestroyBlocks });
    append(store, 100).unwrap_err();
}

fn with_events(count: u64) -> impl Fn(&SimDisk) -> SegmentStore {
    move |disk| {
        let store = open(disk, &small()).unwrap();
        (0..count).for_each(|_| append(&store, 100).unwrap());
        store
    }
}

#[test]
fn events_that_are_written_again_are_not_missed() {
    // All in the block that is destroyed, so that the new segment replaces the old one; and more.
    for count in [5, 50, 200] {
        at_each_call(with_events(count), fail_and_roll, complete(count)).unwrap();
    }
}

#[test]
fn events_are_not_missed_before_they_are_written_again() {
    for count in [5, 50, 200] {
        at_each_call(with_events(count), fail, complete(count)).unwrap();
    }
}

#[test]
fn a_reader_that_looks_once_is_found() {
    let found = with(Sabotage::LookOnce, || at_each_call(with_events(50), fail_and_roll, complete(50)));
    found.unwrap_err();
}

#[test]
fn a_roll_in_a_read_loses_nothing() {
    let roll = |store: &SegmentStore, _: &SimDisk| (0..60).for_each(|_| append(store, 1000).unwrap());
    at_each_call(with_events(50), roll, complete(50)).unwrap();
}

#[test]
fn events_that_are_discarded_in_a_read_are_not_damage() {
    let discard = |store: &SegmentStore, _: &SimDisk| store.discard(190).unwrap();
    let check = |store: &SegmentStore, read: &[u64]| {
        let is_sound = store.lost().is_empty() && read.contains(&190) && read.contains(&200);
        if is_sound { Ok(()) } else { Err(format!("read {read:?}, lost {:?}", store.lost())) }
    };
    at_each_call(with_events(200), discard, check).unwrap();
}

/// The reader goes on when the file is gone, and before the store has taken note of that.
#[test]
fn a_file_that_is_just_being_discarded_is_not_damage() {
    let disk = SimDisk::new(1, true);
    let store = Arc::new(with_events(200)(&disk));
    let (reading, is_reading) = mpsc::channel();
    let (goes_on, go_on) = mpsc::channel::<()>();
    let (finished, is_finished) = mpsc::channel();
    disk.interrupt(Call::Open, 0, move || {
        reading.send(()).unwrap();
        go_on.recv().unwrap();
    });
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let read = numbers(&store);
            finished.send(()).unwrap();
            read
        });
        is_reading.recv().unwrap();
        disk.interrupt(Call::Unlinked, 0, move || {
            goes_on.send(()).unwrap();
            is_finished.recv().unwrap();
        });
        store.discard(150).unwrap();
        assert_eq!(reader.join().unwrap().last(), Some(&200));
    });
    assert!(disk.is_uninterrupted());
    assert_eq!(store.lost(), []);
}

/// The newest segment goes, and its numbers grow while a reader finds that out.
#[test]
fn a_lost_file_is_reported_though_events_are_appended_meanwhile() {
    let disk = SimDisk::new(1, false);
    let store = Arc::new(with_events(40)(&disk));
    let kept = {
        let working = Arc::clone(&store);
        let working_disk = disk.clone();
        disk.interrupt(Call::Open, 0, move || {
            append(&working, 100).unwrap();
            working_disk.replace(&segment_name(1), None);
        });
        numbers(&store)
    };
    let lost: Vec<u64> = store.lost().iter().flat_map(|lost| lost.first..=lost.last).collect();
    assert_eq!(lost, (1..kept[0]).collect::<Vec<_>>(), "kept are {kept:?}");
}

/// The next owner begins an epoch, and removes what the reader is about to read.
#[test]
fn a_closed_store_judges_nothing_that_another_one_may_have_removed() {
    for after in 0..6 {
        let disk = SimDisk::new(1, true);
        let store = Arc::new(with_events(200)(&disk));
        let (closing, other) = (Arc::clone(&store), disk.clone());
        disk.interrupt(Call::Any, after, move || {
            closing.close().unwrap();
            open(&other, &small().begin_epoch().epochs_from(|| EPOCH + 1)).unwrap();
        });
        let mut out = Vec::new();
        let read = store.read(1, usize::MAX, &mut out);
        assert!(disk.is_uninterrupted());
        assert!(read.is_err() || !out.is_empty(), "at call {after}");
        let next = read.unwrap_or(1);
        assert!(out.iter().map(|(number, _)| *number).eq(1..next), "at call {after}");
        assert!(store.read(next, 1, &mut Vec::new()).is_err());
        assert_eq!(store.lost(), []);
        assert!(!disk.list().unwrap().contains(&DAMAGE.to_owned()), "it would be in the other store");
    }
}

/// A reader that reads each copy of the header while it is being written.
#[test]
fn a_header_that_is_replaced_in_a_read_is_found() {
    let disk = SimDisk::new(1, true);
    let store = with_events(5)(&disk);
    let name = disk.list().unwrap().into_iter().find(|name| segment_number(name).is_some()).unwrap();
    let spoil = |copy: usize, is_spoilt: bool| {
        let (disk, name) = (disk.clone(), name.clone());
        let at = usize::try_from(COPIES[copy]).unwrap() + 40;
        move || disk.rot(&name, |content| content[at] ^= u8::from(is_spoilt))
    };
    let reads = Arc::new(Mutex::new(0));
    // The reads of a header: one copy, then the other.
    for (after, copy) in [(0, 0), (1, 1)] {
        let (before, reads) = (spoil(copy, true), Arc::clone(&reads));
        let other = spoil(1 - copy, copy == 1);
        disk.interrupt(Call::Read, after, move || {
            before();
            other();
            *lock(&reads) += 1;
        });
    }
    let file = disk.open(&name).unwrap();
    assert!(Header::read(&*file, 1).unwrap().is_some());
    assert_eq!(*lock(&reads), 2);
    drop(store);
}

#[test]
fn a_read_of_many_small_events_is_bounded_in_events_and_in_calls() {
    let disk = SimDisk::new(1, true);
    let store = open(&disk, &SegmentOptions::default().epochs_from(|| EPOCH)).unwrap();
    for _ in 0..50 {
        let first = store.extent().next;
        let event = StoredEvent { payload: vec![7; 4].into(), published: Duration::ZERO };
        let batch = Batch { first, events: vec![event; 100], clocks: Clocks::default() };
        store.append(&batch).unwrap();
    }
    let before = disk.calls();
    let mut out = Vec::new();
    let next = store.read(1, 64 * 1024, &mut out).unwrap();
    assert_eq!((next, out.len()), (2049, 2048));
    assert!(disk.calls() - before < 12, "{} calls", disk.calls() - before);
}

#[test]
fn a_read_for_little_takes_one_buffer_and_goes_on_behind_it() {
    let disk = SimDisk::new(1, true);
    let store = open(&disk, &SegmentOptions::default().epochs_from(|| EPOCH)).unwrap();
    let event = StoredEvent { payload: vec![7; 100].into(), published: Duration::ZERO };
    for n in 0..20 {
        let batch = Batch { first: 1 + n * 100, events: vec![event.clone(); 100], clocks: Clocks::default() };
        store.append(&batch).unwrap();
    }
    let (mut next, mut reads) = (1, 0);
    while next <= 2000 {
        let (before, mut out) = (disk.calls(), Vec::new());
        let end = store.read(next, 16 * 1024, &mut out).unwrap();
        assert!(out.iter().map(|(number, _)| *number).eq(next..end));
        assert!(disk.calls() - before < 7, "{} calls", disk.calls() - before);
        let starts = || out.iter().map(|(_, event)| event.payload.as_ptr().addr());
        assert!(starts().max().unwrap() - starts().min().unwrap() < 20 * 1024, "in one buffer");
        (next, reads) = (end, reads + 1);
    }
    assert!(reads <= 17, "{reads} reads of 256 KiB");
}
