//! New epochs: crashes while one begins, and numbers that are used up.

use std::{io, time::Duration};

use super::{
    super::{
        SegmentOptions, SegmentStore,
        disk::Disk,
        header::{HEADER_LEN, Header},
        names::{DAMAGE, EPOCH as EPOCH_FILE, segment_name, segment_number},
        sim_disk::{Call, Fault, FaultKind, SimDisk},
    },
    EPOCH, open,
};
use crate::events::event_store::{Batch, Clocks, EventStore, Extent, MAX_NUMBER, StoredEvent};

fn options() -> SegmentOptions {
    SegmentOptions::default().segment_bytes(16 * 1024).epochs_from(|| EPOCH)
}

fn new_epoch() -> SegmentOptions {
    options().epochs_from(|| EPOCH + 1).begin_epoch()
}

fn append(store: &SegmentStore, count: usize) {
    for _ in 0..count {
        let event = StoredEvent { payload: vec![7; 1000].into(), published: Duration::ZERO };
        let first = store.extent().next;
        store.append(&Batch { first, events: vec![event], clocks: Clocks::default() }).unwrap();
    }
}

fn firsts(disk: &SimDisk) -> Vec<u64> {
    disk.list().unwrap().iter().filter_map(|name| segment_number(name)).collect()
}

/// A closed log of several segments, and their first numbers.
fn log(seed: u64) -> (SimDisk, Vec<u64>) {
    let disk = SimDisk::new(seed, true);
    let store = open(&disk, &options()).unwrap();
    append(&store, 30);
    store.close().unwrap();
    let firsts = firsts(&disk);
    assert!(firsts.len() >= 4, "{firsts:?}");
    (disk, firsts)
}

fn destroy_header(disk: &SimDisk, first: u64) {
    disk.rot(&segment_name(first), |content| content[..8192].fill(1));
}

#[test]
fn a_crash_while_an_epoch_begins_leaves_one_epoch() {
    let mut begun = 0;
    for (seed, is_damaged) in (0..120).flat_map(|seed| [(seed, false), (seed, true)]) {
        let (disk, old) = log(seed);
        if is_damaged {
            destroy_header(&disk, old[1]);
        }
        disk.inject(Fault { call: Call::Any, after: seed, times: u64::MAX, kind: FaultKind::Io });
        let _ = open(&disk, &new_epoch());
        disk.heal();
        disk.lose_power();
        let store = open(&disk, &options()).unwrap();
        let (extent, firsts) = (store.extent(), firsts(&disk));
        if extent.epoch == EPOCH {
            assert_eq!((extent.next, firsts), (31, old), "seed {seed}");
            continue;
        }
        begun += 1;
        // The damaged one stays until space is needed: somebody may want to examine it.
        let left: Vec<u64> = firsts.iter().copied().filter(|first| *first < extent.first).collect();
        let expected: Vec<u64> = old.into_iter().skip(1).take(usize::from(is_damaged)).collect();
        assert_eq!((left, extent.next), (expected, 31), "seed {seed}");
    }
    assert!(begun > 40, "{begun}");
}

/// The newest segment has a number near the end of all numbers: it was damaged, or somebody renamed it.
fn used_up(seed: u64, newest: u64) -> SimDisk {
    let (disk, old) = log(seed);
    let content = disk.contents()[&segment_name(old[0])].clone();
    disk.replace(&segment_name(newest), Some(content));
    disk
}

#[test]
fn an_epoch_begins_when_the_numbers_are_used_up() {
    for newest in [MAX_NUMBER - 10, MAX_NUMBER] {
        let disk = used_up(1, newest);
        let error = open(&disk, &options()).unwrap_err();
        assert!(error.to_string().contains("used up"), "{error}");
        let store = open(&disk, &new_epoch()).unwrap();
        assert_eq!(store.extent(), Extent { epoch: EPOCH + 1, first: 1, next: 1 });
        append(&store, 20);
        let listed: Vec<_> = store.lost().iter().map(|lost| (lost.first, lost.last, lost.exact)).collect();
        // The damaged one may have had the numbers between, and those from its own on.
        assert_eq!(listed, [(newest, MAX_NUMBER, false), (31, newest - 1, true)]);
        store.close().unwrap();
        let store = open(&disk, &options()).unwrap();
        assert_eq!(store.extent(), Extent { epoch: EPOCH + 1, first: 1, next: 21 });
        let mut read = Vec::new();
        store.read(1, usize::MAX, &mut read).unwrap();
        assert_eq!(read.len(), 20);
        let aside = format!("{}.damaged", segment_name(newest));
        assert!(disk.list().unwrap().contains(&aside), "{:?}", disk.list());
    }
}

#[test]
fn a_report_of_another_epoch_hides_no_damage() {
    let disk = used_up(1, MAX_NUMBER - 10);
    let store = open(&disk, &new_epoch()).unwrap();
    append(&store, 60);
    store.close().unwrap();
    let number = firsts(&disk)[4];
    assert!(store.lost().iter().any(|lost| (lost.first..lost.last).contains(&number)));
    destroy_header(&disk, number);
    let store = open(&disk, &options()).unwrap();
    let in_new_epoch = store.lost().into_iter().skip(2).map(|lost| lost.first).collect::<Vec<_>>();
    assert_eq!(in_new_epoch, [number]);
}

#[test]
fn a_crash_while_numbers_begin_anew_leaves_one_epoch() {
    let mut begun = 0;
    for seed in 0..150 {
        let disk = used_up(seed, MAX_NUMBER - 10);
        disk.inject(Fault { call: Call::Any, after: seed, times: u64::MAX, kind: FaultKind::Io });
        let _ = open(&disk, &new_epoch());
        disk.heal();
        disk.lose_power();
        // The owner asks again, until there is another epoch.
        let again = || options().epochs_from(|| EPOCH + 2);
        let store = open(&disk, &again()).or_else(|_| open(&disk, &again().begin_epoch())).unwrap();
        let extent = store.extent();
        begun += u64::from(extent.epoch == EPOCH + 1);
        assert!(extent.epoch != EPOCH && (extent.first, extent.next) == (1, 1), "seed {seed}: {extent:?}");
        append(&store, 1);
        assert_eq!(firsts(&disk), [1], "seed {seed}");
    }
    assert!(begun > 30, "{begun}");
}

#[test]
fn names_that_no_store_gives_are_no_segments() {
    for name in
        ["18446744073709551615.segment", "00009007199254740992.segment", "00000000000000000000.segment"]
    {
        let (disk, _) = log(1);
        disk.replace(name, Some(vec![1; 100]));
        let store = open(&disk, &options()).unwrap();
        assert_eq!((store.extent().epoch, store.extent().next, store.lost()), (EPOCH, 31, vec![]));
        append(&store, 1);
        assert!(disk.contents().contains_key(name));
        let disk = SimDisk::new(1, true);
        disk.replace(name, Some(vec![1; 100]));
        let error = open(&disk, &options()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
}

/// Values that no store writes, with a right checksum.
#[test]
fn a_header_that_makes_no_sense_is_a_damaged_one() {
    let (disk, old) = log(1);
    let first = *old.last().unwrap();
    let name = segment_name(first);
    let header = Header::read(&*disk.open(&name).unwrap(), first).unwrap().unwrap();
    let changes: [&dyn Fn(&mut Header); 6] = [
        &|header| header.floor = u64::MAX,
        &|header| header.durable = u64::MAX,
        &|header| header.certain = u64::MAX,
        &|header| header.capacity = u64::MAX,
        &|header| header.capacity = 100,
        &|header| header.first = 1 << 53,
    ];
    for change in changes {
        let mut changed = header.clone();
        change(&mut changed);
        let copy = SimDisk::new(1, true);
        disk.contents().into_iter().for_each(|(name, content)| copy.replace(&name, Some(content)));
        for place in [0, 4096] {
            copy.rot(&name, |content| content[place..place + HEADER_LEN].copy_from_slice(&changed.encode()));
        }
        // The file `newest` has another copy.
        let store = open(&copy, &options()).unwrap();
        assert_eq!((store.extent().epoch, store.extent().next), (EPOCH, 31), "{changed:?}");
    }
}

/// A capacity that the file does not have must not be gone through sector by sector.
#[test]
fn a_segment_of_a_capacity_without_end_is_opened() {
    for filled in [true, false] {
        let disk = SimDisk::new(1, filled);
        let store = open(&disk, &options()).unwrap();
        append(&store, 3);
        drop(store);
        let name = segment_name(1);
        let mut header = Header::read(&*disk.open(&name).unwrap(), 1).unwrap().unwrap();
        header.capacity = 1 << 60;
        for place in [0, 4096] {
            disk.rot(&name, |content| content[place..place + HEADER_LEN].copy_from_slice(&header.encode()));
        }
        disk.rot(&name, |content| content.truncate(11_000));
        let error = open(&disk, &options()).unwrap_err();
        assert!(error.to_string().contains("used up"), "{error}");
    }
}

#[test]
fn an_edited_report_of_damage_does_no_harm() {
    let (disk, _) = log(1);
    let edited = [
        "events 0 to 18446744073709551615 of epoch 77 are lost (1), in x",
        "events 1 to 18446744073709551615 of epoch 77 are lost (1), in x",
        "events 18446744073709551615 to 18446744073709551615 of epoch 77 are lost (1), in x",
        "events 3 to 9007199254740991 of epoch 77 are lost (1), in x",
        "events 3 to 9007199254740991 of epoch 77 are lost (1), in x",
    ];
    disk.replace(DAMAGE, Some(edited.join("\n").into_bytes()));
    let store = open(&disk, &options()).unwrap();
    assert_eq!((store.lost().len(), store.extent().next), (2, 31));
    assert!(store.damaged() > 0);
    append(&store, 1);
}

#[test]
fn a_crash_while_the_log_gets_another_epoch_leaves_one_of_both_and_every_event() {
    let (mut changed, mut unchanged) = (0, 0);
    for seed in 0..60 {
        let (disk, firsts_before) = log(seed);
        let store = open(&disk, &options()).unwrap();
        let before = store.extent();
        disk.inject(Fault { call: Call::Any, after: seed % 12, times: u64::MAX, kind: FaultKind::Io });
        let is_set = store.set_epoch(EPOCH + 1).is_ok();
        assert_eq!(store.extent().epoch, if is_set { EPOCH + 1 } else { EPOCH });
        drop(store);
        disk.heal();
        disk.lose_power();
        let store = open(&disk, &options()).unwrap();
        let after = store.extent();
        assert!(after.epoch == EPOCH + 1 || after.epoch == EPOCH && !is_set, "seed {seed}: {after:?}");
        assert_eq!(Extent { epoch: EPOCH, ..after }, before, "seed {seed}");
        assert_eq!(firsts(&disk), firsts_before);
        let mut events = Vec::new();
        store.read(1, usize::MAX, &mut events).unwrap();
        assert!(!events.is_empty() && store.lost().is_empty());
        append(&store, 1);
        (changed, unchanged) = (changed + usize::from(is_set), unchanged + usize::from(!is_set));
    }
    assert!(changed > 0 && unchanged > 0, "{changed} were changed, {unchanged} were not");
}

#[test]
fn an_epoch_of_the_log_that_is_damaged_is_never_that_of_the_segments() {
    let (disk, _) = log(1);
    open(&disk, &options()).unwrap().set_epoch(EPOCH + 1).unwrap();
    disk.rot(EPOCH_FILE, |content| content[20] ^= 1);
    for _ in 0..2 {
        let store = open(&disk, &options().epochs_from(|| EPOCH + 2)).unwrap();
        assert_eq!(store.extent().epoch, EPOCH + 2);
        store.close().unwrap();
    }
    // The segments of another epoch are not called by that name.
    let store = open(&disk, &options().epochs_from(|| EPOCH + 3).begin_epoch()).unwrap();
    assert_eq!(store.extent().epoch, EPOCH + 3);
    store.close().unwrap();
    let store = open(&disk, &options().epochs_from(|| EPOCH + 4)).unwrap();
    assert_eq!(store.extent().epoch, EPOCH + 3);
}

#[test]
fn a_counter_elsewhere_is_of_the_epoch_that_the_log_has() {
    let (disk, _) = log(1);
    let store = open(&disk, &options()).unwrap();
    let next = store.extent().next;
    store.set_epoch(EPOCH + 1).unwrap();
    store.close().unwrap();
    assert!(store.set_epoch(EPOCH + 9).is_err(), "closed");
    for (known, epoch) in [(EPOCH, EPOCH + 1), (EPOCH + 1, EPOCH + 2)] {
        let store = open(&disk, &options().epochs_from(|| EPOCH + 2).at_least(known, next)).unwrap();
        assert_eq!(store.extent().epoch, epoch);
        store.close().unwrap();
    }
}

#[test]
fn holes_are_filled_before_and_after_the_log_gets_another_epoch() {
    let batch = |first: u64, count: u64| Batch {
        first,
        events: (first..first + count)
            .map(|number| StoredEvent { payload: number.to_string().into(), published: Duration::ZERO })
            .collect(),
        clocks: Clocks::default(),
    };
    let disk = SimDisk::new(1, true);
    let store = open(&disk, &options()).unwrap();
    store.append(&batch(1, 3)).unwrap();
    store.skip(10).unwrap();
    store.append(&batch(10, 3)).unwrap();
    store.fill(&batch(4, 2)).unwrap();
    store.set_epoch(EPOCH + 1).unwrap();
    store.fill(&batch(8, 2)).unwrap();
    drop(store);
    disk.lose_power();
    let store = open(&disk, &options()).unwrap();
    assert_eq!(store.extent(), Extent { epoch: EPOCH + 1, first: 1, next: 13 });
    assert_eq!(store.holes().into_iter().flatten().collect::<Vec<_>>(), [6, 7]);
    store.fill(&batch(6, 2)).unwrap();
    let mut events = Vec::new();
    let mut from = 1;
    while from < 13 {
        from = store.read(from, usize::MAX, &mut events).unwrap();
    }
    let expected = (1..13).map(|number: u64| (number, bytes::Bytes::from(number.to_string())));
    assert!(events.into_iter().map(|(number, event)| (number, event.payload)).eq(expected));
}
