//! The numbers of lost events that were reported, so that nothing is reported again once somebody has
//! removed the report.

use std::{io, ops::Range};

use super::{
    disk::{Disk, read_full, write_all},
    header::u32_at,
    names::{DAMAGE_KNOWN, DAMAGE_NEW},
    number::{leading_number, to_usize},
};

/// Ranges of numbers in one epoch.
#[derive(Debug)]
pub(super) struct KnownLosses {
    epoch: u64,
    /// In order, and neither empty nor adjacent.
    ranges: Vec<Range<u64>>,
    is_saved: bool,
}

/// So that the file takes at most 24 KiB, and an insertion no time.
const MAX_RANGES: usize = 512;
const MAX_BYTES: u64 = 24 * 1024;

impl KnownLosses {
    /// None of this epoch.
    pub(super) fn none(epoch: u64) -> Self {
        Self { epoch, ranges: Vec::new(), is_saved: true }
    }

    /// What was saved in this epoch, from number `floor` on. Nothing is known if the file is damaged.
    pub(super) fn load(disk: &dyn Disk, epoch: u64, floor: u64) -> io::Result<Self> {
        let file = match disk.open(DAMAGE_KNOWN) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::none(epoch)),
            file => file?,
        };
        let mut bytes = vec![0; to_usize(MAX_BYTES.min(file.len()?))];
        let len = read_full(&*file, 0, &mut bytes)?;
        let known = decode(bytes.get(..len).unwrap_or_default()).filter(|(of, _)| *of == epoch);
        let mut losses = Self::none(epoch);
        let ranges = known.into_iter().flat_map(|(_, ranges)| ranges);
        ranges.for_each(|range| losses.insert(range.start.max(floor)..range.end));
        losses.is_saved = true;
        Ok(losses)
    }

    /// Whether further ranges are taken for known.
    pub(super) fn is_full(&self) -> bool {
        self.ranges.len() >= MAX_RANGES
    }

    /// If the list is full, forgets what is below `floor`: those events were discarded, and nobody reads
    /// them again.
    pub(super) fn make_space(&mut self, floor: u64) {
        if self.is_full() {
            self.forget(self.ranges.partition_point(|known| known.end <= floor));
        }
    }

    /// Adds a range even if the list is full, in the place of the oldest one: that is discarded first.
    pub(super) fn insert_in_any_case(&mut self, numbers: Range<u64>) {
        if self.is_full() {
            self.forget(1);
        }
        self.insert(numbers);
    }

    /// Forgets this many of the oldest ranges.
    fn forget(&mut self, count: usize) {
        if count > 0 {
            self.ranges.drain(..count.min(self.ranges.len()));
            self.is_saved = false;
        }
    }

    /// The parts of this range that are not known.
    pub(super) fn unknown_in(&self, numbers: Range<u64>) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        let mut start = numbers.start;
        for known in self.ranges.iter().filter(|known| known.end > numbers.start) {
            if known.start >= numbers.end {
                break;
            }
            parts.push(start..known.start);
            start = known.end;
        }
        parts.push(start..numbers.end);
        parts.retain(|part| part.start < part.end);
        parts
    }

    pub(super) fn insert(&mut self, numbers: Range<u64>) {
        if numbers.start >= numbers.end {
            return;
        }
        let first = self.ranges.partition_point(|known| known.end < numbers.start);
        let behind = self.ranges.partition_point(|known| known.start <= numbers.end);
        let merged = self.ranges.get(first..behind).unwrap_or_default();
        let start = merged.first().map_or(numbers.start, |known| known.start.min(numbers.start));
        let end = merged.last().map_or(numbers.end, |known| known.end.max(numbers.end));
        let all = start..end;
        if merged != std::slice::from_ref(&all) {
            self.ranges.splice(first..behind, std::iter::once(all));
            self.is_saved = false;
        }
    }

    /// These numbers are no longer lost. Keeps what would make the list too long.
    pub(super) fn remove(&mut self, numbers: &Range<u64>) {
        if numbers.start >= numbers.end {
            return;
        }
        let first = self.ranges.partition_point(|known| known.end <= numbers.start);
        let behind = self.ranges.partition_point(|known| known.start < numbers.end);
        let Some(removed) = self.ranges.get(first..behind).filter(|removed| !removed.is_empty()) else {
            return;
        };
        let start = removed.first().map_or(0, |known| known.start);
        let end = removed.last().map_or(0, |known| known.end);
        let rest = [start..numbers.start, numbers.end..end].into_iter().filter(|rest| rest.start < rest.end);
        let rest: Vec<_> = rest.collect();
        if rest.len() <= removed.len() || !self.is_full() {
            self.ranges.splice(first..behind, rest);
            self.is_saved = false;
        }
    }

    /// All of them, oldest first.
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    pub(super) fn save(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.is_saved {
            return Ok(());
        }
        let file = disk.create(DAMAGE_NEW)?;
        write_all(&*file, 0, &self.encode())?;
        file.sync_data()?;
        disk.rename(DAMAGE_NEW, DAMAGE_KNOWN)?;
        disk.sync_dir()?;
        self.is_saved = true;
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut text = format!("epoch {}\n", self.epoch);
        for Range { start, end } in &self.ranges {
            text.push_str(&format!("{start} to {}\n", end.saturating_sub(1)));
        }
        let checksum = crc32fast::hash(text.as_bytes());
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// The epoch and the ranges; `None` if these bytes are damaged.
fn decode(bytes: &[u8]) -> Option<(u64, Vec<Range<u64>>)> {
    let (text, checksum) = bytes.split_last_chunk::<4>()?;
    if u32_at(checksum, 0) != Some(crc32fast::hash(text)) {
        return None;
    }
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    let (epoch, "") = leading_number(lines.next()?.strip_prefix("epoch ")?)? else { return None };
    let mut ranges = Vec::new();
    for line in lines {
        let (first, rest) = leading_number(line)?;
        let (last, "") = leading_number(rest.strip_prefix(" to ")?)? else { return None };
        ranges.push(first..last.checked_add(1)?);
    }
    Some((epoch, ranges))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::events::segment::sim_disk::SimDisk;

    proptest! {
        #[test]
        fn what_was_inserted_is_known_and_nothing_else(
            ranges in vec((0..60_u64, 0..9_u64), 0..20),
            (start, len) in (0..60_u64, 0..30_u64),
        ) {
            let mut known = KnownLosses::none(1);
            ranges.iter().for_each(|(start, len)| known.insert(*start..start + len));
            let is_known = |number: &u64| ranges.iter().any(|(start, len)| (*start..start + len).contains(number));
            let unknown: Vec<u64> = known.unknown_in(start..start + len).into_iter().flatten().collect();
            let expected: Vec<u64> = (start..start + len).filter(|number| !is_known(number)).collect();
            prop_assert_eq!(unknown, expected);
            known.remove(&(start..start + len));
            let left: Vec<u64> = known.ranges.iter().cloned().flatten().collect();
            let expected: Vec<u64> =
                (0..80).filter(|number| is_known(number) && !(start..start + len).contains(number)).collect();
            prop_assert_eq!(left, expected);
            prop_assert!(known.ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert!(known.ranges.iter().all(|range| range.start < range.end));
        }
    }

    #[test]
    fn what_was_saved_is_known_in_its_epoch_above_the_floor() {
        let disk = SimDisk::new(1, true);
        let mut known = KnownLosses::load(&disk, 7, 1).unwrap();
        for range in [2..4, 9..10, 20..30] {
            known.insert(range);
        }
        known.save(&disk).unwrap();
        let calls = disk.calls();
        known.insert(21..22);
        known.save(&disk).unwrap();
        assert_eq!(disk.calls(), calls, "nothing is new");
        let above = KnownLosses::load(&disk, 7, 22).unwrap();
        assert_eq!(above.ranges.into_iter().flatten().collect::<Vec<_>>(), [22, 23, 24, 25, 26, 27, 28, 29]);
        assert_eq!(KnownLosses::load(&disk, 8, 1).unwrap().ranges, []);
        disk.rot(DAMAGE_KNOWN, |bytes| bytes[9] ^= 1);
        assert_eq!(KnownLosses::load(&disk, 7, 1).unwrap().ranges, []);
    }

    #[test]
    fn the_longest_list_fits_its_file() {
        let mut known = KnownLosses::none(u64::MAX >> 11);
        let mut number = u64::MAX >> 11;
        while !known.is_full() {
            known.insert(number - 1..number);
            number -= 3;
        }
        let bytes = known.encode();
        assert!(bytes.len() <= to_usize(MAX_BYTES), "{}", bytes.len());
        assert_eq!(decode(&bytes), Some((known.epoch, known.ranges)));
    }
}
