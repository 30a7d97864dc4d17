//! Which segment has which numbers, and where in a segment to begin to read.

use std::{collections::VecDeque, ops::Range};

use super::checksum::SALT_LEN;
use crate::events::event_store::Clocks;

/// The numbers of a store, in memory. A few bytes for each segment.
#[derive(Debug)]
pub(super) struct Index {
    /// The first number of each segment, oldest first. A segment ends where the next one begins, and the
    /// newest one at `next`.
    segments: VecDeque<u64>,
    /// Events below were discarded.
    pub(super) floor: u64,
    pub(super) next: u64,
    pub(super) clocks: Option<Clocks>,
    hints: VecDeque<Hint>,
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
    pub(super) fn new(segments: Vec<u64>, floor: u64, next: u64, clocks: Option<Clocks>) -> Self {
        Self { segments: segments.into(), floor, next, clocks, hints: VecDeque::new() }
    }

    /// The oldest number that may be held.
    pub(super) fn first(&self) -> u64 {
        self.segments.front().map_or(self.next, |first| self.floor.max(*first)).min(self.next)
    }

    /// The numbers of the segment that has this one. `None` if no segment does.
    pub(super) fn segment_of(&self, number: u64) -> Option<Range<u64>> {
        let behind = self.segments.partition_point(|first| *first <= number);
        let first = *self.segments.get(behind.checked_sub(1)?)?;
        let end = self.segments.get(behind).copied().unwrap_or(self.next);
        (number < end).then_some(first..end)
    }

    /// Adds the newest segment. What others have from this number on is void.
    pub(super) fn add_segment(&mut self, first: u64) {
        while self.segments.back().is_some_and(|newest| *newest >= first) {
            self.segments.pop_back();
        }
        self.segments.push_back(first);
    }

    /// The oldest segment, if it has only discarded events, and is not the newest.
    pub(super) fn discarded_segment(&self) -> Option<u64> {
        let second = self.segments.get(1)?;
        self.segments.front().copied().filter(|_| *second <= self.floor)
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

    #[test]
    fn a_segment_ends_where_the_next_begins() {
        let mut index = Index::new(vec![1, 10, 20], 5, 20, None);
        assert_eq!((index.first(), index.segment_of(0)), (5, None));
        assert_eq!((index.segment_of(9), index.segment_of(10)), (Some(1..10), Some(10..20)));
        assert_eq!(index.segment_of(20), None, "the newest is empty");
        index.next = 25;
        assert_eq!(index.segment_of(24), Some(20..25));
        index.add_segment(8);
        assert_eq!((index.segment_of(7), index.segment_of(24)), (Some(1..8), Some(8..25)));
        assert_eq!(index.discarded_segment(), None);
        index.floor = 8;
        assert_eq!(index.discarded_segment(), Some(1));
        index.remove_oldest();
        assert_eq!((index.discarded_segment(), index.first()), (None, 8));
    }

    #[test]
    fn hints_are_of_one_segment_and_bounded() {
        let mut index = Index::new(vec![1], 1, 1, None);
        for number in 0..1000 {
            index.remember(Hint { salt: [7; 16], number, position: number }, None);
        }
        assert_eq!(index.hints.len(), MAX_HINTS);
        let number = |salt, number| index.hint(&[salt; 16], number).map(|hint| hint.number);
        assert_eq!((number(7, 990), number(7, 5), number(8, 990)), (Some(990), None, None));
    }
}
