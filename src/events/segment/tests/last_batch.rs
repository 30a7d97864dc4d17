//! The last batch after an unclean end: torn when power was lost, or acknowledged and damaged later.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use super::{
    super::{
        SegmentOptions, SegmentStore,
        header::HEADER_LEN,
        sabotage::{Sabotage, with},
        sim_disk::SimDisk,
    },
    EPOCH, open, trials,
};
use crate::events::event_store::{Batch, Clocks, EventStore, StoredEvent};

const SECTOR: usize = 512;
const SEGMENT: &str = "00000000000000000001.segment";

type Files = BTreeMap<String, Vec<u8>>;

/// A log before and after its last batch was written.
struct Images {
    filled: bool,
    fresh_blocks: bool,
    before: Files,
    after: Files,
    /// The numbers of the last batch.
    last: Range<u64>,
}

impl Images {
    fn options(&self) -> SegmentOptions {
        let options = SegmentOptions::default().segment_bytes(24 * 1024).epochs_from(|| EPOCH);
        if self.fresh_blocks { options.fresh_block_for_each_commit() } else { options }
    }

    /// Small batches, and a last one of events of these lengths.
    fn new(filled: bool, fresh_blocks: bool, before: usize, lens: &[usize]) -> Self {
        let mut images = Self { filled, fresh_blocks, before: Files::new(), after: Files::new(), last: 0..0 };
        let disk = SimDisk::new(1, filled);
        let store = open(&disk, &images.options()).unwrap();
        for len in [30, before] {
            append(&store, &[len]);
        }
        images.before = disk.contents();
        let first = store.extent().next;
        append(&store, lens);
        images.last = first..store.extent().next;
        images.after = disk.contents();
        images
    }

    /// All kinds of segments, and last batches that are in one sector, share sectors and fill several.
    fn all() -> impl Iterator<Item = Self> {
        const LENS: [&[usize]; 5] = [&[40], &[3, 0, 700, 20], &[100, 200, 900], &[600], &[1, 2, 3]];
        let kinds = [(true, false), (false, false), (true, true)];
        let places = (200..720).step_by(13);
        kinds.into_iter().flat_map(move |(filled, fresh_blocks)| {
            places
                .clone()
                .zip(LENS.into_iter().cycle())
                .map(move |(before, lens)| Self::new(filled, fresh_blocks, before, lens))
        })
    }

    /// The sectors of the segment that the last batch changed, also where it made the file longer.
    fn sectors(&self) -> Vec<usize> {
        let (before, after) = (&self.before[SEGMENT], &self.after[SEGMENT]);
        let is_changed = |sector: &usize| {
            let range = |file: &Vec<u8>| {
                file.get(sector * SECTOR..).map(|rest| rest[..rest.len().min(SECTOR)].to_vec())
            };
            range(before) != range(after)
        };
        (0..after.len().div_ceil(SECTOR)).filter(is_changed).collect()
    }

    /// The bytes of the last batch.
    fn bytes(&self) -> Range<usize> {
        let (before, after) = (&self.before[SEGMENT], &self.after[SEGMENT]);
        let is_changed = |at: &usize| before.get(*at) != after.get(*at);
        let first = (0..after.len()).find(is_changed).unwrap();
        first..(0..after.len()).rev().find(is_changed).unwrap() + 1
    }

    fn open(&self, segment: Vec<u8>) -> SegmentStore {
        self.open_with(segment, &self.options())
    }

    fn open_with(&self, segment: Vec<u8>, options: &SegmentOptions) -> SegmentStore {
        let disk = SimDisk::new(1, self.filled);
        for (name, content) in &self.after {
            disk.replace(name, Some(content.clone()));
        }
        disk.replace(SEGMENT, Some(segment));
        open(&disk, options).unwrap()
    }

    /// The image of a segment of which only some of the last sectors were written.
    fn torn(&self, is_written: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut torn = self.before[SEGMENT].clone();
        let after = &self.after[SEGMENT];
        torn.resize(after.len(), 0);
        for (_, sector) in self.sectors().into_iter().enumerate().filter(|(at, _)| is_written(*at)) {
            let end = ((sector + 1) * SECTOR).min(after.len());
            torn[sector * SECTOR..end].copy_from_slice(&after[sector * SECTOR..end]);
        }
        torn
    }

    /// The last batch was acknowledged: its events are there or reported, and its numbers are not used again.
    fn check_acknowledged(&self, store: &SegmentStore, what: &str) {
        let Self { filled, fresh_blocks, ref last, .. } = *self;
        let context = format!("{what}, filled: {filled}, fresh: {fresh_blocks}, last: {last:?}");
        let extent = store.extent();
        assert!(extent.next >= last.end, "{context}: number {} is used again", extent.next);
        let read = numbers(store);
        let lost = store.lost();
        let is_listed = |number| lost.iter().any(|lost| (lost.first..=lost.last).contains(&number));
        for number in 1..last.end {
            assert!(read.contains(&number) || is_listed(number), "{context}: {number} is lost silently");
        }
        for lost in lost.iter().filter(|lost| lost.exact) {
            assert!(lost.last < last.end, "{context}: {lost:?} is not true");
        }
    }
}

fn append(store: &SegmentStore, lens: &[usize]) {
    let event = |len: &usize| StoredEvent { payload: vec![0; *len].into(), published: Duration::ZERO };
    let events = lens.iter().map(event).collect();
    store.append(&Batch { first: store.extent().next, events, clocks: Clocks::default() }).unwrap();
}

fn numbers(store: &SegmentStore) -> Vec<u64> {
    let mut events = Vec::new();
    store.read(0, usize::MAX, &mut events).unwrap();
    events.into_iter().map(|(number, _)| number).collect()
}

/// One of `step` images, unless all are asked for.
fn few(step: u64) -> impl Iterator<Item = Images> {
    Images::all().step_by(usize::try_from(trials(step, 1)).unwrap())
}

#[test]
fn a_torn_batch_is_truncated_and_no_damage_is_reported() {
    for images in Images::all() {
        let sectors = images.sectors();
        assert!((1..8).contains(&sectors.len()), "{sectors:?}");
        for written in 0..1_usize << sectors.len() {
            let store = images.open(images.torn(|at| written & (1 << at) != 0));
            let (next, lost) = (store.extent().next, store.lost());
            let is_complete = written + 1 == 1 << sectors.len();
            if images.filled {
                let expected = if is_complete { images.last.end } else { images.last.start };
                // The last sector may have nothing but the end of the batch.
                assert!(next == expected || next == images.last.end, "{written:b} of {sectors:?}");
                assert_eq!(lost, [], "{written:b} of {sectors:?}");
            } else {
                // It looks like one that was zeroed.
                assert!(lost.iter().all(|lost| !lost.exact && lost.first >= images.last.start), "{lost:?}");
                assert!(lost.is_empty() || next >= images.last.end);
            }
            assert!(numbers(&store).starts_with(&[1, 2]));
        }
    }
}

/// The origin has its events, and no others under their numbers.
#[test]
fn a_mirror_goes_on_with_the_first_number_of_a_torn_batch() {
    for images in Images::all() {
        let sectors = images.sectors();
        for written in 0..1_usize << sectors.len() {
            let segment = images.torn(|at| written & (1 << at) != 0);
            let store = images.open_with(segment, &images.options().repeat_numbers());
            let context = format!("{written:b} of {sectors:?}, filled: {}", images.filled);
            let (next, lost) = (store.extent().next, store.lost());
            assert!((images.last.start..=images.last.end).contains(&next), "{context}: {next}");
            assert_eq!(lost, [], "{context}");
            assert!(numbers(&store).into_iter().eq(1..next), "{context}");
            append(&store, &[10]);
            assert_eq!(numbers(&store).last(), Some(&next), "{context}");
        }
    }
}

#[test]
fn the_numbers_of_a_batch_that_was_cut_off_in_a_sector_are_in_doubt() {
    for images in few(11) {
        let bytes = images.bytes();
        for end in bytes.clone() {
            let mut segment = images.before[SEGMENT].clone();
            segment.resize(segment.len().max(end), 0);
            segment[..end].copy_from_slice(&images.after[SEGMENT][..end]);
            let store = images.open(segment);
            let (lost, context) = (store.lost(), format!("{end} of {bytes:?}"));
            assert!(lost.iter().all(|lost| !lost.exact && lost.first >= images.last.start), "{context}");
            assert!(store.extent().next >= images.last.start, "{context}");
        }
    }
}

/// Everything that happens to sectors of an acknowledged batch.
fn damage_sectors() {
    for images in few(5) {
        let sectors = images.sectors();
        let blocks = |sector: usize| sector / 8 * 8..(sector / 8 + 1) * 8;
        let ranges =
            sectors.iter().flat_map(|sector| [*sector..sector + 1, *sector..sector + 2, blocks(*sector)]);
        for range in ranges {
            let damage = |change: &dyn Fn(&mut [u8])| {
                let mut segment = images.after[SEGMENT].clone();
                let end = (range.end * SECTOR).min(segment.len());
                change(&mut segment[range.start * SECTOR..end]);
                segment
            };
            let mut other = images.after[SEGMENT][8192..].to_vec();
            other.resize(SECTOR, 0);
            let zeroed = images.open(damage(&|bytes| bytes.fill(0)));
            images.check_acknowledged(&zeroed, &format!("{range:?} of {sectors:?} are zero"));
            let filled = images.open(damage(&|bytes| bytes.fill(0x77)));
            images.check_acknowledged(&filled, &format!("{range:?} of {sectors:?} are no zeros"));
            let copied = images.open(damage(&|bytes| {
                bytes.chunks_mut(SECTOR).for_each(|sector| sector.copy_from_slice(&other[..sector.len()]));
            }));
            images.check_acknowledged(&copied, &format!("{range:?} of {sectors:?} are a copy of another"));
        }
    }
}

#[test]
fn an_acknowledged_batch_of_which_sectors_are_damaged_keeps_its_numbers() {
    damage_sectors();
}

#[test]
#[should_panic(expected = "is used again")]
fn a_store_that_takes_zeros_for_unwritten_is_found() {
    with(Sabotage::TakeZerosForUnwritten, damage_sectors);
}

#[test]
fn an_acknowledged_batch_with_a_damaged_byte_keeps_its_numbers() {
    for images in few(37) {
        for at in images.bytes().step_by(usize::try_from(trials(5, 1)).unwrap()) {
            for byte in [0, images.after[SEGMENT][at] ^ 1, images.after[SEGMENT][at] ^ 0x80] {
                let mut segment = images.after[SEGMENT].clone();
                segment[at] = byte;
                images.check_acknowledged(&images.open(segment), &format!("byte {at} is {byte}"));
            }
        }
    }
}

#[test]
fn a_truncated_segment_keeps_the_numbers_that_it_may_have_had() {
    for images in few(17) {
        let [before, after] = [&images.before, &images.after].map(|files| files[SEGMENT].len());
        // Nothing says that a segment was longer which ends with a batch, or with its header.
        let ends = [before, 4096 + HEADER_LEN];
        let lens = (0..after).filter(|len| images.filled || !ends.contains(len));
        for len in lens.step_by(31) {
            let store = images.open(images.after[SEGMENT][..len].to_vec());
            images.check_acknowledged(&store, &format!("truncated to {len}"));
        }
    }
}

#[test]
fn unused_space_that_is_damaged_loses_nothing() {
    for images in Images::all().filter(|images| images.filled) {
        let mut segment = images.after[SEGMENT].clone();
        let unused = images.bytes().end.next_multiple_of(4096) + 4096;
        segment[unused..].fill(0);
        let store = images.open(segment);
        assert_eq!((store.lost(), store.extent().next), (vec![], images.last.end));
        append(&store, &[10]);
        assert_eq!(numbers(&store).last(), Some(&images.last.end));
    }
}
