//! Which segment has which numbers, and where in a segment to begin to read.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use super::{
    checksum::SALT_LEN,
    fills::{Fills, Part},
    hint::Hint,
    names::{fill_name, segment_name},
    open_segments::{OpenSegment, OpenSegments, ReadStart},
    survey::Recent,
};
use crate::events::event_store::Clocks;

/// The numbers of a store, in memory. A few bytes for each segment.
#[derive(Debug)]
pub(super) struct Index {
    /// Oldest first. A segment ends where the next one begins, and the newest one at `next`.
    segments: VecDeque<Entry>,
    /// Files that fill holes of the segments, each in the numbers of one segment.
    fills: Fills,
    /// Events below were discarded.
    pub(super) floor: u64,
    pub(super) next: u64,
    /// Whatever happens, no event that is appended gets a number below.
    pub(super) settled: u64,
    pub(super) clocks: Option<Clocks>,
    /// The events in the block that the next batch shares. A write that fails may destroy them on the disk,
    /// until they are written again.
    pub(super) recent: Vec<Recent>,
    /// How many segments were begun and holes filled. What a reader missed before may be in a later one.
    pub(super) generation: u64,
    /// Whether the directory may have another owner.
    pub(super) is_closed: bool,
    /// Each with how many readers are there.
    hints: VecDeque<(Hint, usize)>,
    open: OpenSegments,
}

/// A segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) first: u64,
    /// What it takes on the disk, or may take.
    pub(super) bytes: u64,
    /// The log's clock when its first batch was made: the events before are older. `None` if that is not
    /// known.
    pub(super) began: Option<Duration>,
}

/// A file, and which numbers are read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) name: String,
    /// The first number of the file.
    pub(super) first: u64,
    /// Other files may fill holes in between if this is a segment.
    pub(super) numbers: Range<u64>,
    pub(super) is_segment: bool,
}

/// One for each subscriber that replays, and some to spare.
const MAX_HINTS: usize = 64;

impl Index {
    pub(super) fn new(segments: Vec<Entry>, floor: u64, next: u64, clocks: Option<Clocks>) -> Self {
        Self {
            segments: segments.into(),
            fills: Fills::default(),
            floor,
            next,
            settled: next,
            clocks,
            recent: Vec::new(),
            generation: 0,
            is_closed: false,
            hints: VecDeque::new(),
            open: OpenSegments::default(),
        }
    }

    /// The oldest number that may be held.
    pub(super) fn first(&self) -> u64 {
        self.segments.front().map_or(self.next, |oldest| self.floor.max(oldest.first)).min(self.next)
    }

    /// The numbers of the segment that has this one. `None` if no segment does.
    pub(super) fn segment_of(&self, number: u64) -> Option<Range<u64>> {
        let behind = self.segments.partition_point(|segment| segment.first <= number);
        let first = self.segments.get(behind.checked_sub(1)?)?.first;
        let end = self.segments.get(behind).map_or(self.next, |segment| segment.first);
        (number < end).then_some(first..end)
    }

    /// The file that is to have this number. `None` if none is.
    pub(super) fn source_of(&self, number: u64) -> Option<Source> {
        if let Some(Part { numbers, file }) = self.fills.part_of(number) {
            let (name, numbers) = (fill_name(file), numbers.clone());
            return Some(Source { name, first: file.start, numbers, is_segment: false });
        }
        let numbers = self.segment_of(number)?;
        let first = numbers.start;
        Some(Source { name: segment_name(first), first, numbers, is_segment: true })
    }

    /// The first of these numbers with which a filled hole begins.
    pub(super) fn filled_in(&self, numbers: &Range<u64>) -> Option<u64> {
        self.fills.first_in(numbers)
    }

    /// These numbers, which a reader did not find in the file of this name, without those that were filled
    /// since.
    pub(super) fn not_filled(&self, numbers: Range<u64>, name: &str) -> Vec<Range<u64>> {
        let mut rest = Vec::new();
        let mut start = numbers.start;
        while start < numbers.end {
            let source = self.source_of(start);
            let is_filled = source.as_ref().is_some_and(|source| !source.is_segment && source.name != name);
            let end = match source {
                Some(source) if !source.is_segment => source.numbers.end.min(numbers.end),
                _ => self.filled_in(&(start..numbers.end)).unwrap_or(numbers.end),
            };
            if !is_filled {
                rest.push(start..end);
            }
            start = end;
        }
        rest
    }

    /// The parts of these numbers that can be filled, each with one file.
    pub(super) fn fillable(&self, numbers: &Range<u64>) -> Vec<Range<u64>> {
        let all = numbers.start.max(self.first())..numbers.end.min(self.settled);
        let mut borders = self.fills.borders_in(&all);
        borders.extend(self.segments.iter().map(|segment| segment.first).filter(|first| all.contains(first)));
        borders.push(all.end);
        borders.sort_unstable();
        let mut start = all.start;
        borders
            .into_iter()
            .filter_map(|end| {
                let part = start..end;
                start = end.max(start);
                (part.start < part.end).then_some(part)
            })
            .collect()
    }

    /// Adds a file of this many bytes, which fills a hole of a segment.
    pub(super) fn add_fill(&mut self, numbers: Range<u64>, bytes: u64) {
        let behind = self.segments.partition_point(|segment| segment.first <= numbers.start);
        let more = self.fills.add(numbers, bytes);
        if let Some(segment) = behind.checked_sub(1).and_then(|at| self.segments.get_mut(at)) {
            segment.bytes = segment.bytes.saturating_add(more);
        }
        self.generation += 1;
    }

    /// Whether a file of this many bytes in the segment that has this number fits into `max_bytes` with that
    /// segment and the newer ones. Otherwise it would be the next to be removed.
    pub(super) fn has_space(&self, number: u64, bytes: u64, max_bytes: u64) -> bool {
        let Some(segment) = self.segment_of(number) else { return false };
        let kept = self.segments.iter().filter(|entry| entry.first >= segment.start);
        kept.map(|entry| entry.bytes).fold(bytes, u64::saturating_add) <= max_bytes
    }

    /// Adds the newest segment. What others have from this number on is void.
    pub(super) fn add_segment(&mut self, mut entry: Entry) {
        while self.segments.back().is_some_and(|newest| newest.first >= entry.first) {
            self.segments.pop_back();
        }
        // Holes between the events that were written again are in this one now.
        let fills = self.fills.bytes_from(entry.first);
        entry.bytes = entry.bytes.saturating_add(fills);
        if let Some(before) = self.segments.back_mut() {
            before.bytes = before.bytes.saturating_sub(fills);
        }
        self.segments.push_back(entry);
        self.open.retain(|first| first < entry.first);
        self.generation += 1;
    }

    /// Goes on with this number, which is above the next one.
    pub(super) fn skip(&mut self, to: u64) {
        if self.first() == self.next {
            // Nothing is held, and so nothing is missing.
            self.floor = to;
        }
        self.next = to;
    }

    /// The oldest segment, if it has only discarded events, and is not the newest.
    pub(super) fn discarded_segment(&self) -> Option<u64> {
        let second = self.segments.get(1)?;
        self.segments.front().filter(|_| second.first <= self.floor).map(|oldest| oldest.first)
    }

    /// A number below which every event was published before this time.
    pub(super) fn expired(&self, before: Duration) -> u64 {
        let old = |segment: &&Entry| segment.began.is_some_and(|began| began < before);
        self.segments.iter().rev().find(old).map_or(0, |segment| segment.first).max(self.first())
    }

    /// The number below which events must go, so that a segment of this size fits with the others into
    /// `max_bytes`. The newest segment stays in any case.
    pub(super) fn room_for(&self, bytes: u64, max_bytes: u64) -> u64 {
        let mut total = self.segments.iter().map(|segment| segment.bytes).fold(bytes, u64::saturating_add);
        let mut segments = self.segments.iter().peekable();
        while let (Some(oldest), Some(second)) = (segments.next(), segments.peek()) {
            if total <= max_bytes {
                return oldest.first;
            }
            total = total.saturating_sub(oldest.bytes);
            if total <= max_bytes {
                return second.first;
            }
        }
        self.segments.back().map_or(0, |newest| newest.first)
    }

    /// Returns the names of the files that filled its holes, which are to be removed, too.
    pub(super) fn remove_oldest(&mut self) -> Vec<String> {
        self.segments.pop_front();
        let oldest = self.segments.front().map_or(self.next, |segment| segment.first);
        // The space of a file is free when nobody has it open.
        self.open.retain(|first| first >= oldest);
        self.fills.remove_below(oldest)
    }

    /// The place of exactly this number, in a segment that is open. `None` if a read that may wait has to
    /// look for it.
    pub(super) fn place_of(&self, number: u64) -> Option<ReadStart> {
        if self.is_closed || number < self.first() {
            return None;
        }
        let Source { first, numbers, .. } = self.source_of(number)?;
        self.hints.iter().filter(|(hint, _)| hint.number == number).find_map(|(hint, _)| {
            let segment = Arc::clone(self.open.get(&hint.salt, first)?);
            Some(ReadStart { segment, hint: *hint, end: numbers.end })
        })
    }

    /// The place of the nearest record that is not behind this number.
    pub(super) fn hint(&self, salt: &[u8; SALT_LEN], number: u64) -> Option<Hint> {
        let hints = self.hints.iter().map(|(hint, _)| *hint);
        hints.filter(|hint| hint.salt == *salt && hint.number <= number).max_by_key(|hint| hint.number)
    }

    /// Remembers a place in a segment, which stays open, for the reader that is there. `used` is the place
    /// where it was before.
    pub(super) fn remember(&mut self, hint: Hint, used: Option<Hint>, segment: &Arc<OpenSegment>) {
        let first = segment.header.first;
        let is_segment = self.segments.binary_search_by_key(&first, |entry| entry.first).is_ok();
        if (is_segment || self.fills.has_file(first)) && !self.is_closed {
            self.open.keep(segment);
        }
        if let Some((_, readers)) = self.hints.iter_mut().find(|(known, _)| Some(*known) == used) {
            *readers -= 1;
        }
        self.hints.retain(|(_, readers)| *readers > 0);
        if let Some((_, readers)) = self.hints.iter_mut().find(|(known, _)| *known == hint) {
            *readers += 1;
            return;
        }
        if self.hints.len() >= MAX_HINTS {
            self.hints.pop_front();
        }
        self.hints.push_back((hint, 1));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::open_segments::tests::segment, *};

    /// Segments of 100 bytes, of which each began at the second of its number.
    fn segments(firsts: &[u64]) -> Vec<Entry> {
        firsts.iter().map(|first| entry(*first)).collect()
    }

    fn entry(first: u64) -> Entry {
        Entry { first, bytes: 100, began: Some(Duration::from_secs(first)) }
    }

    #[test]
    fn a_segment_is_old_when_the_next_one_began_long_ago() {
        let mut index = Index::new(segments(&[1, 10, 20]), 1, 30, None);
        for (before, expired) in [(0, 1), (1, 1), (10, 1), (11, 10), (20, 10), (21, 20), (100, 20)] {
            assert_eq!(index.expired(Duration::from_secs(before)), expired, "{before}");
        }
        index.add_segment(Entry { began: None, ..entry(25) });
        assert_eq!(index.expired(Duration::MAX), 20, "nothing is known of the newest");
    }

    #[test]
    fn the_oldest_segments_make_room() {
        let index = Index::new(segments(&[1, 10, 20]), 1, 30, None);
        for (max, below) in [(1000, 1), (400, 1), (399, 10), (300, 10), (299, 20), (0, 20)] {
            assert_eq!(index.room_for(100, max), below, "{max}");
        }
        assert_eq!(Index::new(Vec::new(), 1, 1, None).room_for(100, 0), 0);
    }

    #[test]
    fn a_segment_ends_where_the_next_begins() {
        let mut index = Index::new(segments(&[1, 10, 20]), 5, 20, None);
        assert_eq!((index.first(), index.segment_of(0)), (5, None));
        assert_eq!((index.segment_of(9), index.segment_of(10)), (Some(1..10), Some(10..20)));
        assert_eq!(index.segment_of(20), None, "the newest is empty");
        index.next = 25;
        assert_eq!(index.segment_of(24), Some(20..25));
        index.add_segment(entry(8));
        assert_eq!((index.segment_of(7), index.segment_of(24)), (Some(1..8), Some(8..25)));
        assert_eq!(index.discarded_segment(), None);
        index.floor = 8;
        assert_eq!(index.discarded_segment(), Some(1));
        index.remove_oldest();
        assert_eq!((index.discarded_segment(), index.first()), (None, 8));
    }

    /// A place in the segment that begins with number `first`.
    fn hint(first: u8, number: u64) -> Hint {
        Hint { salt: [first; 16], number, position: number }
    }

    #[test]
    fn hints_are_of_one_segment_and_bounded() {
        let mut index = Index::new(segments(&[1]), 1, 1, None);
        for number in 0..1000 {
            index.remember(hint(1, number), None, &segment(1));
        }
        assert_eq!(index.hints.len(), MAX_HINTS);
        let number = |salt, number| index.hint(&[salt; 16], number).map(|hint| hint.number);
        assert_eq!((number(1, 990), number(1, 5), number(8, 990)), (Some(990), None, None));
    }

    #[test]
    fn a_hint_stays_until_the_last_reader_has_gone_on() {
        let mut index = Index::new(segments(&[1]), 1, 100, None);
        let at = |index: &Index| [10, 20, 30].map(|number| index.place_of(number).is_some());
        index.remember(hint(1, 10), None, &segment(1));
        index.remember(hint(1, 10), None, &segment(1));
        index.remember(hint(1, 20), Some(hint(1, 10)), &segment(1));
        assert_eq!(at(&index), [true, true, false]);
        index.remember(hint(1, 30), Some(hint(1, 10)), &segment(1));
        assert_eq!(at(&index), [false, true, true]);
    }

    #[test]
    fn a_place_is_in_the_segment_that_has_the_number_now() {
        let mut index = Index::new(segments(&[1, 50]), 1, 100, None);
        let has = |index: &Index, numbers: [u64; 3]| numbers.map(|number| index.place_of(number).is_some());
        for number in [10, 49, 50] {
            index.remember(hint(1, number), None, &segment(1));
        }
        index.remember(hint(50, 60), None, &segment(50));
        assert_eq!(has(&index, [10, 11, 49]), [true, false, true]);
        assert_eq!(has(&index, [50, 60, 100]), [false, true, false], "50 begins the second segment");
        assert_eq!(index.place_of(49).unwrap().end, 50);
        index.floor = 20;
        assert_eq!(has(&index, [10, 49, 60]), [false, true, true], "discarded");
        index.add_segment(entry(55));
        assert_eq!(has(&index, [49, 54, 60]), [true, false, false], "60 is in the new segment");
        index.is_closed = true;
        assert_eq!(has(&index, [10, 49, 60]), [false; 3]);
    }

    #[test]
    fn a_segment_that_was_removed_is_not_kept_open() {
        let mut index = Index::new(segments(&[1, 50]), 1, 100, None);
        let (first, second) = (segment(1), segment(50));
        index.remember(hint(1, 10), None, &first);
        index.remember(hint(50, 60), None, &second);
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (2, 2));
        index.remove_oldest();
        index.remember(hint(1, 11), None, &first);
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2));
    }
}
