//! New epochs: crashes while one begins, and numbers that are used up.

use std::time::Duration;

use super::{
    super::{
        SegmentOptions, SegmentStore,
        disk::Disk,
        names::{segment_name, segment_number},
        sim_disk::{Call, Fault, FaultKind, SimDisk},
    },
    EPOCH, open,
};
use crate::events::event_store::{Batch, Clocks, EventStore, StoredEvent};

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
