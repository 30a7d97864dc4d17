//! Single faults, on the simulated disk, and what only a real directory shows.

use std::{fs, io, path::PathBuf, process, time::Duration};

use super::{
    super::sim_disk::{Call, Fault, FaultKind, SimDisk},
    EPOCH, SegmentOptions, SegmentStore,
    model::Model,
    open, trials,
};
use crate::events::{
    conformance::conformance,
    event_store::{Batch, Clocks, EventStore, StoredEvent},
};

/// A directory that is removed at the end of the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("segment-store-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn small() -> SegmentOptions {
    SegmentOptions::default().segment_bytes(16 * 1024).epochs_from(|| EPOCH)
}

fn append(store: &SegmentStore, payload: &str) -> io::Result<u64> {
    let first = store.extent().next;
    let event = StoredEvent { payload: payload.to_owned().into(), published: Duration::ZERO };
    store.append(&Batch { first, events: vec![event], clocks: Clocks::default() })?;
    Ok(first)
}

fn payloads(store: &SegmentStore) -> Vec<(u64, String)> {
    let mut events = Vec::new();
    store.read(0, usize::MAX, &mut events).unwrap();
    events.into_iter().map(|(n, event)| (n, String::from_utf8_lossy(&event.payload).into_owned())).collect()
}

#[test]
fn a_segment_store_is_an_event_store() {
    for (filled, fresh_blocks) in [(true, false), (false, false), (true, true)] {
        let options = if fresh_blocks { small().fresh_block_for_each_commit() } else { small() };
        conformance(|| open(&SimDisk::new(1, filled), &options).unwrap());
    }
    let mut directories = Vec::new();
    conformance(|| {
        let directory = Directory::new(&format!("conformance-{}", directories.len()));
        let store = SegmentStore::open(&directory.0, &small()).unwrap();
        directories.push(directory);
        store
    });
}

#[test]
fn each_fault_of_each_call_is_survived() {
    use Call::{Create, List, Open, Read, Rename, Sync, SyncDir, Unlink, Write};
    for call in [Create, List, Open, Read, Rename, Sync, SyncDir, Unlink, Write] {
        for kind in [FaultKind::Io, FaultKind::Full, FaultKind::Short] {
            let few = (0..trials(8, 30)).flat_map(|after| [(after, 1), (after, 3), (after, u64::MAX)]);
            for (after, times) in few {
                let mut random = fastrand::Rng::with_seed(after);
                let (disk, mut model) = Model::on_disk(after, after % 2 == 0);
                model.may_be_in_doubt |= kind == FaultKind::Short;
                let store = open(&disk, &small()).unwrap();
                model.append(&store, &mut random).unwrap().unwrap();
                disk.inject(Fault { call, after, times, kind });
                for _ in 0..12 {
                    let _ = model.append(&store, &mut random).unwrap();
                    let _ = store.read(1, 500, &mut Vec::new());
                    let _ = store.discard(store.extent().next.saturating_sub(3));
                }
                let _ = store.close();
                drop(store);
                let _ = open(&disk, &small());
                disk.heal();
                let store = open(&disk, &small()).unwrap();
                model.check(&store, &mut random).unwrap_or_else(|found| {
                    panic!("{call:?} {kind:?} after {after}, {times} times: {found}")
                });
                model.append(&store, &mut random).unwrap().unwrap();
            }
        }
    }
}

#[test]
fn a_segment_that_goes_while_it_is_written_costs_the_events_that_are_not_in_memory() {
    const FIRST: &str = "00000000000000000001.segment";
    for (truncates, filled) in [(true, true), (true, false), (false, true), (false, false)] {
        let disk = SimDisk::new(1, filled);
        let store = open(&disk, &small()).unwrap();
        for n in 0..6 {
            append(&store, &format!("{n}{}", "x".repeat(1000))).unwrap();
        }
        if truncates {
            disk.rot(FIRST, |content| content.truncate(8192));
        } else {
            disk.replace(FIRST, None);
        }
        assert_eq!(append(&store, "behind").unwrap(), 7);
        let numbers = || payloads(&store).into_iter().map(|(number, _)| number).collect::<Vec<_>>();
        assert_eq!(numbers(), [4, 5, 6, 7], "those of the last block are in memory");
        let lost: Vec<_> = store.lost().iter().map(|lost| (lost.first, lost.last, lost.exact)).collect();
        assert_eq!(lost, [(1, 3, true)]);
    }
}

/// A program that is restarted because its disk is full must not report damage.
#[test]
fn a_write_that_failed_leaves_no_doubt_if_the_store_is_closed() {
    for (seed, filled) in (0..20).flat_map(|seed| [(seed, true), (seed, false)]) {
        let disk = SimDisk::new(seed, filled);
        let store = open(&disk, &small()).unwrap();
        append(&store, "one").unwrap();
        disk.inject(Fault { call: Call::Write, after: 0, times: 1, kind: FaultKind::Short });
        disk.inject(Fault { call: Call::Write, after: 1, times: 1, kind: FaultKind::Full });
        append(&store, &"x".repeat(2000)).unwrap_err();
        store.close().unwrap();
        disk.heal();
        let store = open(&disk, &small()).unwrap();
        assert_eq!((store.lost(), store.extent().next), (vec![], 2), "seed {seed}, filled: {filled}");
        append(&store, "two").unwrap();
        assert_eq!(payloads(&store), [(1, "one".into()), (2, "two".into())]);
    }
}

#[test]
fn a_commit_is_one_write_and_one_sync() {
    let disk = SimDisk::new(1, true);
    let store = open(&disk, &small()).unwrap();
    append(&store, "one").unwrap();
    let (calls, syncs) = (disk.calls(), disk.syncs());
    for _ in 0..50 {
        append(&store, "more").unwrap();
    }
    assert_eq!((disk.calls() - calls, disk.syncs() - syncs), (100, 50));
}

#[test]
fn an_epoch_begins_on_purpose_and_after_a_backup() {
    let directory = Directory::new("epochs");
    let path = &directory.0;
    let store = SegmentStore::open(path, &small()).unwrap();
    for _ in 0..3 {
        append(&store, "old").unwrap();
    }
    store.close().unwrap();
    let fresh = || SegmentOptions::default().epochs_from(|| EPOCH + 1);
    for same in [fresh(), fresh().at_least(EPOCH, 3), fresh().at_least(EPOCH + 7, 9)] {
        let store = SegmentStore::open(path, &same).unwrap();
        assert_eq!((store.extent().epoch, payloads(&store).len()), (EPOCH, 3), "{same:?}");
        store.close().unwrap();
    }
    let store = SegmentStore::open(path, &fresh().at_least(EPOCH, 4)).unwrap();
    assert_eq!((store.extent().epoch, payloads(&store)), (EPOCH + 1, vec![]));
    let number = append(&store, "new").unwrap();
    store.close().unwrap();
    let store = SegmentStore::open(path, &fresh()).unwrap();
    assert_eq!((store.extent().epoch, payloads(&store)), (EPOCH + 1, vec![(number, "new".into())]));
    store.close().unwrap();
    let begin = SegmentOptions::default().epochs_from(|| EPOCH + 2).begin_epoch();
    let store = SegmentStore::open(path, &begin).unwrap();
    assert_eq!((store.extent().epoch, payloads(&store), store.lost()), (EPOCH + 2, vec![], vec![]));
}

#[test]
fn a_directory_is_open_once() {
    let directory = Directory::new("lock");
    let store = SegmentStore::open(&directory.0, &small()).unwrap();
    let busy = SegmentStore::open(&directory.0, &small()).unwrap_err();
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy, "{busy}");
    store.close().unwrap();
    SegmentStore::open(&directory.0, &small()).unwrap();
}

#[test]
fn foreign_content_is_refused_and_left_alone() {
    let directory = Directory::new("foreign");
    let path = &directory.0;
    fs::create_dir(path).unwrap();
    let (redb, other, link) = (path.join("events.redb"), path.join("other"), path.join("link"));
    fs::write(&redb, b"redb\x1A\x0A\xA9\x0D\x0A and more").unwrap();
    fs::write(&other, b"text").unwrap();
    std::os::unix::fs::symlink(path.join("nowhere"), &link).unwrap();
    for (path, says) in [
        (&redb, "redb database"),
        (&other, "not a directory"),
        (&link, "does not exist"),
        (path, "other files, such as"),
    ] {
        let error = SegmentStore::open(path, &small()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(fs::read(&other).unwrap(), b"text");
    assert!(fs::read(&redb).unwrap().starts_with(b"redb"));
    let good = path.join("log");
    fs::create_dir(&good).unwrap();
    std::os::unix::fs::symlink(&good, path.join("good-link")).unwrap();
    let store = SegmentStore::open(path.join("good-link"), &small()).unwrap();
    append(&store, "through the link").unwrap();
    assert!(good.join("00000000000000000001.segment").exists());
}

#[test]
fn damage_is_reported_until_somebody_removes_the_report() {
    const REPORT: &str = "events 2 to 2 of epoch 77 are lost (1), in 00000000000000000001.segment";
    let directory = Directory::new("report");
    let path = &directory.0;
    let store = SegmentStore::open(path, &small()).unwrap();
    for payload in ["one", "two", "three"] {
        append(&store, payload).unwrap();
    }
    store.close().unwrap();
    let damage = |payload: &str| {
        let segment = path.join("00000000000000000001.segment");
        let mut content = fs::read(&segment).unwrap();
        let is_there = |window: &[u8]| window == payload.as_bytes();
        let place = content.windows(payload.len()).position(is_there).unwrap();
        content[place] ^= 1;
        fs::write(&segment, content).unwrap();
    };
    damage("two");
    for _ in 0..2 {
        let store = SegmentStore::open(path, &small()).unwrap();
        assert_eq!(payloads(&store), [(1, "one".into()), (3, "three".into())]);
        let lost = store.lost();
        assert_eq!((lost.len(), lost[0].first, lost[0].last, lost[0].exact), (1, 2, 2, true));
        store.close().unwrap();
    }
    let report = fs::read_to_string(path.join("damage")).unwrap();
    assert!(report.starts_with(REPORT), "{report}");

    // Somebody has read the report, and removes it.
    fs::remove_file(path.join("damage")).unwrap();
    for _ in 0..2 {
        let store = SegmentStore::open(path, &small()).unwrap();
        assert_eq!((payloads(&store).len(), store.lost(), store.damaged()), (2, vec![], 0));
        store.close().unwrap();
        assert!(!path.join("damage").exists(), "it is not news any more");
    }
    damage("three");
    let store = SegmentStore::open(path, &small()).unwrap();
    assert_eq!((payloads(&store).len(), store.lost().len(), store.damaged()), (1, 1, 1));
    let report = fs::read_to_string(path.join("damage")).unwrap();
    assert!(report.starts_with("events 3 to 3 of epoch 77") && report.lines().count() == 1, "{report}");
}

#[test]
fn a_report_that_is_removed_while_the_store_is_open_stays_removed() {
    let disk = SimDisk::new(1, true);
    let store = open(&disk, &small()).unwrap();
    for payload in ["one", "two", "three", "four"] {
        append(&store, payload).unwrap();
    }
    // What is in the last block is in memory, too.
    append(&store, &"x".repeat(5000)).unwrap();
    let damage = |payload: &str| {
        disk.rot("00000000000000000001.segment", |content| {
            let is_there = |window: &[u8]| window == payload.as_bytes();
            let place = content.windows(payload.len()).position(is_there).unwrap();
            content[place] ^= 1;
        });
        payloads(&store).len()
    };
    assert_eq!((damage("two"), store.lost().len()), (4, 1));
    disk.replace("damage", None);
    assert_eq!((payloads(&store).len(), payloads(&store).len()), (4, 4));
    assert!(!disk.contents().contains_key("damage"));
    assert_eq!((damage("four"), store.lost().len()), (3, 2));
    let report = String::from_utf8(disk.contents()["damage"].clone()).unwrap();
    assert!(report.starts_with("events 4 to 4 of epoch 77") && report.lines().count() == 1, "{report}");
}

/// Without a clock, ages would be measured from the wall clock, which may have been set by 56 years.
#[test]
fn the_clock_of_a_log_goes_on_from_the_newest_batch_that_is_left() {
    for destroyed in 1..4 {
        let disk = SimDisk::new(1, true);
        let store = open(&disk, &small()).unwrap();
        let clocks = |number: u64| Clocks {
            log: Duration::from_secs(number),
            wall: Duration::from_secs(1_700_000_000 + number),
        };
        while disk.contents().keys().filter(|name| name.ends_with(".segment")).count() < 5 {
            let first = store.extent().next;
            let event = StoredEvent { payload: vec![7; 1000].into(), published: clocks(first).log };
            store.append(&Batch { first, events: vec![event], clocks: clocks(first) }).unwrap();
        }
        store.close().unwrap();
        let names: Vec<String> =
            disk.contents().into_keys().filter(|name| name.ends_with(".segment")).collect();
        for name in names.iter().rev().take(destroyed) {
            disk.rot(name, |content| content[8192..].fill(1));
        }
        let store = open(&disk, &small()).unwrap();
        let newest = names[names.len() - 1 - destroyed].trim_end_matches(".segment").parse().unwrap();
        let second = names[names.len() - destroyed].trim_end_matches(".segment").parse::<u64>().unwrap();
        // The newest two segments are read completely, and of the others only the first batch.
        let expected = if destroyed == 1 { second - 1 } else { newest };
        assert_eq!(store.last_clocks(), Some(clocks(expected)), "{destroyed} of {names:?}");
    }
}
