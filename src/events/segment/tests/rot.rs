//! Content that changes on its own, while the store is closed and while it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use super::{
    super::{
        disk::Disk,
        header::{HEADER_LEN, Header},
        layout::{end_offset_of, offset_of},
        names::{segment_name, segment_number},
        number::to_u64,
        retrying::RetryingDisk,
        sabotage::Sabotage,
        scan::{Found, Scanner},
        sim_disk::{Call, Fault, FaultKind, SimDisk},
    },
    model::{Model, is_listed, read_all},
    must_find, open, options, run,
};
use crate::events::{event_store::EventStore, segment::SegmentStore};

#[test]
fn rot_at_rest_costs_the_damaged_events_and_no_epoch() {
    run(200, 2_000, at_rest);
}

#[test]
fn rot_in_a_running_store_costs_the_damaged_events_and_no_epoch() {
    run(200, 2_000, running);
}

#[test]
fn a_store_that_ignores_checksums_is_found() {
    must_find(Sabotage::IgnoreChecksums, at_rest);
}

#[test]
fn a_store_that_uses_damaged_numbers_again_is_found() {
    must_find(Sabotage::ReuseDamagedNumbers, at_rest);
}

#[test]
fn a_store_that_takes_zeros_for_unwritten_is_found() {
    must_find(Sabotage::TakeZerosForUnwritten, at_rest);
}

#[test]
fn a_store_that_hides_damage_is_found() {
    must_find(Sabotage::HideDamage, running);
}

fn at_rest(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let filled = random.bool();
    let disk = SimDisk::new(seed, filled);
    let options = options(&mut random);
    let mut model = Model::default();
    for _ in 0..random.u8(1..3) {
        let store = open(&disk, &options).map_err(|error| format!("open: {error}"))?;
        if random.u8(..3) == 0 {
            // Power is lost in a write or a sync.
            let after = random.u64(..100);
            disk.inject(Fault { call: Call::Any, after, times: u64::MAX, kind: FaultKind::Io });
        }
        for _ in 0..random.u8(1..60) {
            if model.append(&store, &mut random)?.is_err() {
                break;
            }
        }
        disk.heal();
        let _ = (random.u8(..3) > 0).then(|| store.close());
        drop(store);
        disk.lose_power();
    }
    let before = Content::of(&disk);
    let rots = random.u8(1..4);
    for _ in 0..rots {
        rot(&disk, &mut random);
    }
    let after = Content::of(&disk);
    let mut damage = before.damage(&after);
    damage.events.retain(|number| model.acknowledged.contains_key(number));
    let vanished = if filled { None } else { before.vanished(&after, rots) };
    if let Some(from) = vanished {
        model.forgive(from);
    }
    model.may_be_damaged = true;
    for _ in 0..2 {
        let store = open(&disk, &options).map_err(|error| format!("open: {error}"))?;
        model.check(&store, &mut random)?;
        if vanished.is_none() {
            check_loss(&store, &damage, &model, &mut random)?;
        }
        for _ in 0..random.u8(1..20) {
            model.append(&store, &mut random)?.map_err(|error| format!("append: {error}"))?;
        }
        model.check(&store, &mut random)?;
        let _ = store.close();
    }
    Ok(())
}

fn running(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::new(seed, random.bool());
    let options = options(&mut random);
    let mut model = Model::default();
    model.may_be_damaged = true;
    let store = open(&disk, &options).map_err(|error| format!("open: {error}"))?;
    let mut damaged = BTreeSet::new();
    for _ in 0..random.u8(1..6) {
        for _ in 0..random.u8(1..30) {
            // Nothing can be written into a part of a block that cannot be read. The next segment has others.
            if model.append(&store, &mut random)?.is_err() {
                model.append(&store, &mut random)?.map_err(|error| format!("append: {error}"))?;
            }
        }
        if random.bool() {
            // What was read before must not be remembered as sound.
            read_all(&store, &mut random)?;
        }
        let before = Content::of(&disk);
        rot(&disk, &mut random);
        let after = Content::of(&disk);
        damaged.extend(before.damage(&after).events);
        model.check(&store, &mut random)?;
        let read = read_all(&store, &mut random)?;
        let mut acknowledged = model.acknowledged.keys();
        let is_missed = |number: &&u64| {
            !read.contains_key(number) && !damaged.contains(*number) && !after.lacks_header(**number)
        };
        let missing = acknowledged.find(is_missed);
        if let Some(missing) = missing {
            return Err(format!("event {missing} is lost, and was not damaged"));
        }
    }
    let closed = store.close();
    closed.map_err(|error| format!("close: {error}"))?;
    drop(store);
    let store = open(&disk, &options).map_err(|error| format!("open: {error}"))?;
    model.check(&store, &mut random)
}

/// Exactly the damaged events are lost, and the report says so.
fn check_loss(
    store: &SegmentStore,
    damage: &Damage,
    model: &Model,
    random: &mut fastrand::Rng,
) -> Result<(), String> {
    let read = read_all(store, random)?;
    let (first, lost) = (store.extent().first, store.lost());
    for number in model.acknowledged.range(first..).map(|(number, _)| number) {
        if read.contains_key(number) == damage.events.contains(number) {
            return Err(format!(
                "event {number} is {} lost, against {damage:?}",
                if read.contains_key(number) { "not" } else { "" }
            ));
        }
    }
    // An event that failed may have been written in part, and been damaged as well.
    let known = |number: &u64| damage.events.contains(number) || model.failed.contains_key(number);
    // Without a mark that the log was closed, any damage behind the last event may have been events.
    for lost in lost.iter().filter(|lost| lost.exact || damage.is_exact) {
        if !lost.exact || !(lost.first..=lost.last).all(|number| known(&number)) {
            return Err(format!("{lost:?} is reported, but lost are {damage:?}"));
        }
    }
    match damage.events.range(first..).find(|number| !is_listed(&lost, **number)) {
        Some(number) => Err(format!("{number} is not in {lost:?}")),
        None => Ok(()),
    }
}

/// One thing that disks, file systems and people do to files.
fn rot(disk: &SimDisk, random: &mut fastrand::Rng) {
    const BLOCK: usize = 4096;
    let contents = disk.contents();
    let segments: Vec<&String> = contents.keys().filter(|name| segment_number(name).is_some()).collect();
    let name = segments[random.usize(..segments.len())];
    let len = contents[name].len();
    if len < BLOCK {
        return;
    }
    let blocks = len / BLOCK;
    let (one, other) = (random.usize(..blocks) * BLOCK, random.usize(..blocks) * BLOCK);
    match random.u8(..16) {
        0..5 => disk.rot(name, |content| content[random.usize(..len)] ^= 1 << random.u8(..8)),
        5..7 => disk.rot(name, |content| content[one..one + BLOCK].fill(0)),
        7..9 => {
            disk.rot(name, |content| random.fill(&mut content[one..one + BLOCK]));
            if random.bool() {
                disk.make_unreadable(name, one..one + BLOCK);
            }
        }
        9..11 => disk.rot(name, |content| {
            let block = content[one..one + BLOCK].to_vec();
            content.copy_within(other..other + BLOCK, one);
            content[other..other + BLOCK].copy_from_slice(&block);
        }),
        11..13 => disk.rot(name, |content| content.copy_within(other..other + BLOCK, one)),
        13 => disk.rot(name, |content| content.truncate(random.usize(..len))),
        14 => disk.rot(name, |content| content.extend((0..random.usize(..9000)).map(|_| random.u8(..)))),
        _ if random.bool() => disk.rot(name, Vec::clear),
        // The newest is the only one that says that it was there.
        _ if segments.last() != Some(&name) => disk.replace(name, None),
        _ => {}
    }
}

/// What is in the segments of a disk.
struct Content {
    files: BTreeMap<String, Vec<u8>>,
    events: Vec<(u64, String, Range<u64>)>,
    /// The batches of the newest segment: the number behind them, and where header and records are.
    batches: Vec<(u64, Range<u64>)>,
    /// The segments that have a header.
    headers: BTreeMap<String, Header>,
}

#[derive(Debug, Default)]
struct Damage {
    events: BTreeSet<u64>,
    /// Whether it is known how many events there were.
    is_exact: bool,
}

impl Content {
    fn of(disk: &SimDisk) -> Self {
        let files = disk.contents();
        let disk = RetryingDisk(Arc::new(disk.clone()));
        let mut content = Self { files, events: Vec::new(), batches: Vec::new(), headers: BTreeMap::new() };
        let firsts: Vec<u64> = content.files.keys().filter_map(|name| segment_number(name)).collect();
        for (at, first) in firsts.iter().enumerate() {
            let name = segment_name(*first);
            let file = disk.open(&name).unwrap();
            let Some(header) = Header::read(&*file, *first).unwrap() else { continue };
            content.headers.insert(name.clone(), header.clone());
            let end = firsts.get(at + 1).copied().unwrap_or(u64::MAX);
            content.batches.clear();
            let buffers = Arc::default();
            let mut scanner = Scanner::new(&*file, &header, &buffers, 0, *first..end).unwrap();
            while let Some(found) = scanner.next().unwrap() {
                match found {
                    Found::Batch { header, start, end } => {
                        content.batches.push((header.end(), offset_of(start)..end_offset_of(end)));
                    }
                    Found::Record { number, place, .. } => {
                        let place = offset_of(place.start)..end_offset_of(place.end);
                        content.events.push((number, name.clone(), place));
                    }
                }
            }
        }
        content
    }

    /// Whether the segment of this number has no header: what is appended to it is lost, too.
    fn lacks_header(&self, number: u64) -> bool {
        let firsts = self.files.keys().filter_map(|name| segment_number(name));
        let segment = firsts.filter(|first| *first <= number).max();
        segment.is_none_or(|first| !self.headers.contains_key(&segment_name(first)))
    }

    fn damage(&self, after: &Self) -> Damage {
        let changed = |name: &str, range: &Range<u64>| {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            let at = |content: &Self| {
                content.files.get(name).and_then(|file| file.get(range.clone())).map(<[u8]>::to_vec)
            };
            let (Some(before), Some(after)) = (at(self), at(after)) else { return true };
            // The marks carry nothing.
            (range.clone())
                .zip(before.iter().zip(&after))
                .any(|(at, (before, after))| at % 512 > 0 && before != after)
        };
        let Some((newest, header)) = self.headers.last_key_value() else { return Damage::default() };
        // The header of the newest segment is in another file, too.
        let lost = |(_, name, place): &&(u64, String, Range<u64>)| {
            name != newest && !after.headers.contains_key(name) || changed(name, place)
        };
        let events = self.events.iter().filter(lost).map(|(number, ..)| *number).collect();
        // The other copies say that the log is closed a little later, or that it is open a little earlier.
        let is_closed = header.closed && after.headers.contains_key(newest);
        Damage { events, is_exact: is_closed && header.filled }
    }

    /// The number from which on the last events are gone without a trace: in a segment that grows and was
    /// not closed, nothing says how long the file was.
    fn vanished(&self, after: &Self, rots: u8) -> Option<u64> {
        let (newest, header) = self.headers.last_key_value().filter(|(_, header)| !header.closed)?;
        let [before, after] = [self, after].map(|content| to_u64(content.files[newest].len()));
        let ends = self.batches.iter().map(|(_, place)| place.end);
        let ends_with_batch = ends.chain([4096 + to_u64(HEADER_LEN)]).any(|end| end == after);
        // Something else may have been put behind what is left.
        let is_truncated = after != before && (ends_with_batch || rots > 1);
        let is_left = |(_, place): &&(u64, Range<u64>)| place.end <= after;
        let left = self.batches.iter().rfind(is_left).map_or(header.first, |(end, _)| *end);
        is_truncated.then_some(left)
    }
}
