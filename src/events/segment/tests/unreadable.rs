//! Parts of files that cannot be read, for a while or for good.

use std::{collections::BTreeSet, io, ops::Range, sync::Arc, time::Duration};

use super::{
    super::{
        disk::Disk,
        header::{COPIES, Header},
        layout::{DATA_START, end_offset_of, offset_of},
        names::segment_name,
        retrying::RetryingDisk,
        sabotage::Sabotage,
        scan::{Found, Scanner},
        sim_disk::{Call, Fault, FaultKind, SimDisk},
    },
    EPOCH, SegmentOptions, SegmentStore, must_find, open, run,
};
use crate::events::event_store::{Batch, Clocks, EventStore, StoredEvent};

const EVENTS: u64 = 300;
const BLOCK: usize = 4096;

fn small() -> SegmentOptions {
    SegmentOptions::default().segment_bytes(16 * 1024).epochs_from(|| EPOCH)
}

/// An event, and where its record is.
type RecordPlace = (u64, Range<usize>);

/// A store of several segments.
fn filled(disk: &SimDisk) -> SegmentStore {
    let store = open(disk, &small()).unwrap();
    for number in 1..=EVENTS {
        let event = StoredEvent { payload: vec![7; 200].into(), published: Duration::ZERO };
        store.append(&Batch { first: number, events: vec![event], clocks: Clocks::default() }).unwrap();
    }
    store
}

/// Of each segment the first number, and where the record of each event is in the file.
fn places(disk: &SimDisk) -> Vec<(u64, Vec<RecordPlace>)> {
    let mut firsts = firsts(disk);
    firsts.push(u64::MAX);
    let offset = |offset: u64| usize::try_from(offset).unwrap();
    let segment = |pair: &[u64]| {
        let file = disk.open(&segment_name(pair[0])).unwrap();
        let header = Header::read(&*file, pair[0]).unwrap().unwrap();
        let buffers = Arc::default();
        let mut scanner = Scanner::new(&*file, &header, &buffers, 0, pair[0]..pair[1]).unwrap();
        let mut places = Vec::new();
        while let Some(found) = scanner.next().unwrap() {
            if let Found::Record { number, place, .. } = found {
                places.push((number, offset(offset_of(place.start))..offset(end_offset_of(place.end))));
            }
        }
        (pair[0], places)
    };
    firsts.windows(2).map(segment).collect()
}

fn firsts(disk: &SimDisk) -> Vec<u64> {
    let names = disk.list().unwrap();
    names.iter().filter_map(|name| super::super::names::segment_number(name)).collect()
}

/// All events, as a subscriber gets them who comes back after errors.
fn read_all(store: &SegmentStore) -> Result<BTreeSet<u64>, String> {
    let (mut read, mut from, mut errors) = (BTreeSet::new(), store.extent().first, 0);
    while from < store.extent().next {
        let mut out = Vec::new();
        match store.read(from, 2000, &mut out) {
            Ok(next) => from = next,
            Err(_) if errors < 1000 => errors += 1,
            Err(error) => return Err(format!("event {from} cannot be read: {error}")),
        }
        read.extend(out.into_iter().map(|(number, _)| number));
    }
    Ok(read)
}

fn reported(store: &SegmentStore) -> BTreeSet<u64> {
    store.lost().iter().flat_map(|lost| lost.first..=lost.last).collect()
}

/// Exactly these are lost and reported, in the running store and in one that is opened then.
fn check_lost(disk: &SimDisk, store: SegmentStore, lost: &BTreeSet<u64>) -> Result<(), String> {
    let kept: BTreeSet<u64> = (1..=EVENTS).filter(|number| !lost.contains(number)).collect();
    store.close().unwrap();
    let store = [store, open(disk, &small()).map_err(|error| format!("open: {error}"))?];
    // The first is closed, and judges nothing any more.
    let [_, store] = store;
    if store.extent().epoch != EPOCH || store.extent().next != EVENTS + 1 {
        return Err(format!("{:?}", store.extent()));
    }
    let read = read_all(&store)?;
    if read != kept || reported(&store) != *lost {
        return Err(format!("lost are {lost:?}, read {read:?}, reported {:?}", store.lost()));
    }
    Ok(())
}

#[test]
fn a_part_that_stays_unreadable_costs_its_events_alone() {
    run(40, 400, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new(seed, random.bool());
        let store = filled(&disk);
        let places = places(&disk);
        let mut lost = BTreeSet::new();
        for _ in 0..random.u8(1..4) {
            let (first, events) = &places[random.usize(..places.len() - 1)];
            let data = usize::try_from(DATA_START).unwrap();
            let len = disk.contents()[&segment_name(*first)].len();
            let part = if random.bool() { BLOCK } else { 512 };
            let start = random.usize(data / part..len / part) * part;
            disk.make_unreadable(&segment_name(*first), start..start + part);
            let blocks = start / BLOCK * BLOCK..(start + part).next_multiple_of(BLOCK);
            let is_hit = |place: &Range<usize>| place.start < blocks.end && blocks.start < place.end;
            lost.extend(events.iter().filter(|(_, place)| is_hit(place)).map(|(number, _)| *number));
        }
        let kept: BTreeSet<u64> = (1..=EVENTS).filter(|number| !lost.contains(number)).collect();
        let read = read_all(&store)?;
        if read != kept || reported(&store) != lost {
            return Err(format!("lost are {lost:?}, read {read:?}, reported {:?}", store.lost()));
        }
        check_lost(&disk, store, &lost)?;
        // What can be read again is not lost to those who read it then.
        disk.heal();
        let store = open(&disk, &small()).unwrap();
        if read_all(&store)?.len() != usize::try_from(EVENTS).unwrap() {
            return Err("events are still missing after the disk has healed".into());
        }
        Ok(())
    });
}

#[test]
fn headers_that_stay_unreadable_cost_their_segment_alone() {
    for filled_files in [true, false] {
        for unreadable in 1..4 {
            for at in [0, 1, usize::MAX] {
                let disk = SimDisk::new(1, filled_files);
                let store = filled(&disk);
                let places = places(&disk);
                let (first, events) = &places[at.min(places.len() - 1)];
                for (bit, copy) in COPIES.iter().enumerate() {
                    let start = usize::try_from(*copy).unwrap();
                    if unreadable & (1 << bit) != 0 {
                        disk.make_unreadable(&segment_name(*first), start..start + BLOCK);
                    }
                }
                let is_lost = unreadable == 3 && at != usize::MAX;
                let lost = events.iter().map(|(number, _)| *number).filter(|_| is_lost).collect();
                // The newest segment has a third and a fourth copy elsewhere.
                check_lost(&disk, store, &lost)
                    .unwrap_or_else(|found| panic!("copies {unreadable} of {first}: {found}"));
            }
        }
    }
}

#[test]
fn a_segment_that_cannot_be_opened_costs_its_events_alone() {
    let disk = SimDisk::new(1, true);
    let store = filled(&disk);
    let places = places(&disk);
    let (first, events) = &places[1];
    disk.make_unopenable(&segment_name(*first));
    let lost: BTreeSet<u64> = events.iter().map(|(number, _)| *number).collect();
    assert_eq!(read_all(&store).unwrap().len(), usize::try_from(EVENTS).unwrap() - lost.len());
    assert_eq!(reported(&store), lost);
    check_lost(&disk, store, &lost).unwrap();
}

#[test]
fn errors_that_go_away_cost_nothing() {
    run(150, 2_000, errors_that_go_away);
}

#[test]
fn a_store_that_takes_errors_for_damage_is_found() {
    must_find(Sabotage::TakeErrorsForDamage, errors_that_go_away);
    must_find(Sabotage::TakeErrorsForDamage, |_| a_disk_that_does_not_answer());
}

fn errors_that_go_away(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::new(seed, random.bool());
    let mut store = filled(&disk);
    for call in [Call::Read, Call::Open, Call::Any] {
        let fault = Fault { call, after: random.u64(..30), times: random.u64(1..30), kind: FaultKind::Io };
        disk.inject(fault.clone());
        let read = read_all(&store)?;
        if read.len() != usize::try_from(EVENTS).unwrap() || !store.lost().is_empty() {
            return Err(format!("{} of {EVENTS} after {fault:?}, lost {:?}", read.len(), store.lost()));
        }
        disk.heal();
        drop(store);
        disk.inject(fault.clone());
        let opened = (0..100).find_map(|_| open(&disk, &small()).ok());
        store = opened.ok_or("the store cannot be opened")?;
        if store.extent().epoch != EPOCH || !store.lost().is_empty() {
            return Err(format!("{:?} after {fault:?}, lost {:?}", store.extent(), store.lost()));
        }
        disk.heal();
    }
    Ok(())
}

#[test]
fn nothing_is_lost_while_the_whole_disk_does_not_answer() {
    a_disk_that_does_not_answer().unwrap();
}

/// What the operating system has in memory can still be read.
fn a_disk_that_does_not_answer() -> Result<(), String> {
    let disk = SimDisk::new(1, true);
    let store = filled(&disk);
    for first in firsts(&disk) {
        disk.make_unreadable(&segment_name(first), 2 * BLOCK..usize::MAX);
    }
    disk.inject(Fault { call: Call::SyncDir, after: 0, times: u64::MAX, kind: FaultKind::Io });
    if store.read(1, 1000, &mut Vec::new()).is_ok() || !store.lost().is_empty() {
        return Err(format!("lost are {:?}", store.lost()));
    }
    drop(store);
    if open(&disk, &small()).is_ok() {
        return Err("the store is open".into());
    }
    disk.heal();
    let store = open(&disk, &small()).map_err(|error| error.to_string())?;
    let read = read_all(&store)?;
    if read.len() != usize::try_from(EVENTS).unwrap() || !store.lost().is_empty() {
        return Err(format!("lost are {:?}", store.lost()));
    }
    Ok(())
}

/// Events that come before an unreadable place are delivered, so that subscribers get on.
#[test]
fn what_was_read_before_an_error_is_returned() {
    let disk = SimDisk::new(1, true);
    let store = filled(&disk);
    let second = firsts(&disk)[1];
    disk.make_unopenable(&segment_name(second));
    disk.inject(Fault { call: Call::SyncDir, after: 0, times: u64::MAX, kind: FaultKind::Io });
    let mut out = Vec::new();
    assert_eq!(store.read(1, usize::MAX, &mut out).unwrap(), second);
    assert_eq!(u64::try_from(out.len()).unwrap(), second - 1);
    store.read(second, 1, &mut Vec::new()).unwrap_err();
    assert_eq!(store.lost(), []);
}

#[test]
fn what_cannot_be_read_is_not_written_again() {
    let disk = SimDisk::new(1, true);
    let store = open(&disk, &small()).unwrap();
    let event = StoredEvent { payload: vec![7; 6000].into(), published: Duration::ZERO };
    store.append(&Batch { first: 1, events: vec![event.clone()], clocks: Clocks::default() }).unwrap();
    drop(store);
    // A part of the last batch, which is written again when the log was not closed.
    disk.make_unreadable(&segment_name(1), 3 * BLOCK..3 * BLOCK + 512);
    let store = open(&disk, &small()).unwrap();
    // Nor are those of the batches that may have been behind it in the same block.
    assert_eq!(store.extent().next, 77, "the number is not used again");
    assert_eq!(reported(&store), (1..77).collect());
    drop(store);
    disk.heal();
    let store = open(&disk, &small()).unwrap();
    let mut out = Vec::new();
    store.read(1, 1, &mut out).unwrap();
    assert_eq!(out, [(1, event)]);
}

#[test]
fn a_block_is_read_alone_up_to_the_end_of_the_file() {
    let sim = SimDisk::new(1, true);
    let file = sim.create("newest").unwrap();
    file.write_at(0, &vec![1; 3 * BLOCK + 10]).unwrap();
    sim.make_unreadable("newest", BLOCK + 7..BLOCK + 8);
    let file = RetryingDisk(Arc::new(sim.clone())).open("newest").unwrap();
    let mut buffer = vec![0; 4 * BLOCK];
    assert_eq!(file.read_at(100, &mut buffer).unwrap(), 3 * BLOCK + 10 - 100);
    let block = BLOCK - 100..2 * BLOCK - 100;
    assert!(buffer[block.clone()].iter().all(|byte| *byte == 0xEE));
    let others = buffer[..block.start].iter().chain(&buffer[block.end..3 * BLOCK + 10 - 100]);
    assert!(others.into_iter().all(|byte| *byte == 1));
    assert_eq!(
        file.read_intact_at(100, &mut buffer).unwrap_err().kind(),
        io::Error::from_raw_os_error(5).kind()
    );
}
