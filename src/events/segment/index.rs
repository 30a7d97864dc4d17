//! Which segment has which numbers, and where in a segment to begin to read.

use std::{collections::VecDeque, ops::Range, time::Duration};

use super::{checksum::SALT_LEN, survey::Recent};
use crate::events::event_store::Clocks;

/// The numbers of a store, in memory. A few bytes for each segment.
#[derive(Debug)]
pub(super) struct Index {
    /// Oldest first. A segment ends where the next one begins, and the newest one at `next`.
    segments: VecDeque<Entry>,
    /// Events below were discarded.
    pub(super) floor: u64,
    pub(super) next: u64,
    pub(super) clocks: Option<Clocks>,
    /// The events in the block that the next batch shares. A write that fails may destroy them on the disk,
    /// until they are written again.
    pub(super) recent: Vec<Recent>,
    /// How many segments were begun. What a reader missed before may be in a later one.
    pub(super) generation: u64,
    /// Whether the directory may have another owner.
    pub(super) is_closed: bool,
    hints: VecDeque<Hint>,
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

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    /// Of the segment: another one of the same name has another salt.
    pub(super) salt: [u8; SALT_LEN],
    pub(super) number: u64,
    pub(super) position: u64,
}

/// One for each subscriber that replays, and some to spare.
const MAX_HINTS: usize = 64;

impl Index {
    pub(super) fn new(segments: Vec<Entry>, floor: u64, next: u64, clocks: Option<Clocks>) -> Self {
        Self {
            segments: segments.into(),
            floor,
            next,
            clocks,
            recent: Vec::new(),
            generation: 0,
            is_closed: false,
            hints: VecDeque::new(),
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

    /// Adds the newest segment. What others have from this number on is void.
    pub(super) fn add_segment(&mut self, entry: Entry) {
        while self.segments.back().is_some_and(|newest| newest.first >= entry.first) {
            self.segments.pop_back();
        }
        self.segments.push_back(entry);
        self.generation += 1;
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

    pub(super) fn remove_oldest(&mut self) {
        self.segments.pop_front();
    }

    /// The place of the nearest record that is not behind this number.
    pub(super) fn hint(&self, salt: &[u8; SALT_LEN], number: u64) -> Option<Hint> {
        let usable = self.hints.iter().filter(|hint| hint.salt == *salt && hint.number <= number);
        usable.max_by_key(|hint| hint.number).copied()
    }

    /// Remembers a place. `used` is the place where that read began.
    pub(super) fn remember(&mut self, hint: Hint, used: Option<Hint>) {
        self.hints.retain(|other| *other != hint && Some(*other) != used);
        if self.hints.len() >= MAX_HINTS {
            self.hints.pop_front();
        }
        self.hints.push_back(hint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn hints_are_of_one_segment_and_bounded() {
        let mut index = Index::new(segments(&[1]), 1, 1, None);
        for number in 0..1000 {
            index.remember(Hint { salt: [7; 16], number, position: number }, None);
        }
        assert_eq!(index.hints.len(), MAX_HINTS);
        let number = |salt, number| index.hint(&[salt; 16], number).map(|hint| hint.number);
        assert_eq!((number(7, 990), number(7, 5), number(8, 990)), (Some(990), None, None));
    }
}
