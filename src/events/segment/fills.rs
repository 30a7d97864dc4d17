//! The files that fill holes of segments.

use std::{collections::BTreeMap, ops::Range};

use super::names::fill_name;

/// Which numbers are read from files that were written later than what is around them. A few bytes for each
/// file.
#[derive(Debug, Default)]
pub(super) struct Fills {
    /// What is read from each file, by the first number. Neither empty nor overlapping.
    parts: BTreeMap<u64, Part>,
    /// The bytes of each file, by its numbers.
    files: BTreeMap<(u64, u64), u64>,
}

/// Numbers that are read from one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) numbers: Range<u64>,
    /// All numbers that the file was written with.
    pub(super) file: Range<u64>,
}

impl Fills {
    /// Adds a file. It fills a hole: what other files have of these numbers is damaged. Returns how many more
    /// bytes the files take.
    pub(super) fn add(&mut self, file: Range<u64>, bytes: u64) -> u64 {
        let last_before = self.parts.range(..file.end).next_back();
        let mut overlapping = Vec::new();
        let mut next = last_before.map(|(start, _)| *start);
        while let Some(start) = next.take() {
            if let Some(part) = self.parts.get(&start).filter(|part| part.numbers.end > file.start) {
                overlapping.push(part.clone());
                next = self.parts.range(..start).next_back().map(|(start, _)| *start);
            }
        }
        for Part { numbers, file: outer } in overlapping {
            self.parts.remove(&numbers.start);
            for rest in [numbers.start..file.start.min(numbers.end), file.end.max(numbers.start)..numbers.end]
            {
                if rest.start < rest.end {
                    self.parts.insert(rest.start, Part { numbers: rest, file: outer.clone() });
                }
            }
        }
        let replaced = self.files.insert((file.start, file.end), bytes).unwrap_or(0);
        self.parts.insert(file.start, Part { numbers: file.clone(), file });
        bytes.saturating_sub(replaced)
    }

    /// What this number is read from.
    pub(super) fn part_of(&self, number: u64) -> Option<&Part> {
        let (_, part) = self.parts.range(..=number).next_back()?;
        Some(part).filter(|part| number < part.numbers.end)
    }

    /// The first of these numbers that begins a part.
    pub(super) fn first_in(&self, numbers: &Range<u64>) -> Option<u64> {
        self.starts_in(numbers).next()
    }

    /// Those of these numbers at which another file begins or ends.
    pub(super) fn borders_in(&self, numbers: &Range<u64>) -> Vec<u64> {
        let ends = self.parts.range(..numbers.end).map(|(_, part)| part.numbers.end);
        self.starts_in(numbers).chain(ends.filter(|end| numbers.contains(end))).collect()
    }

    /// The parts of this range that are in no file.
    pub(super) fn without(&self, numbers: Range<u64>) -> Vec<Range<u64>> {
        let mut rest = Vec::new();
        let mut start = numbers.start;
        for Part { numbers: filled, .. } in self.parts.range(..numbers.end).map(|(_, part)| part) {
            if filled.end > start {
                rest.push(start..filled.start.max(start));
                start = filled.end;
            }
        }
        rest.push(start..numbers.end);
        rest.retain(|range| range.start < range.end);
        rest
    }

    /// Whether a file begins with this number.
    pub(super) fn has_file(&self, first: u64) -> bool {
        self.files.range((first, 0)..).next().is_some_and(|((start, _), _)| *start == first)
    }

    /// How many bytes the files take that begin at this number or behind it.
    pub(super) fn bytes_from(&self, first: u64) -> u64 {
        self.files.range((first, 0)..).map(|(_, bytes)| *bytes).fold(0, u64::saturating_add)
    }

    /// Removes the files that begin below this number. Returns their names.
    pub(super) fn remove_below(&mut self, number: u64) -> Vec<String> {
        let kept = self.files.split_off(&(number, 0));
        let removed = std::mem::replace(&mut self.files, kept);
        self.parts.retain(|_, part| part.file.start >= number);
        removed.into_keys().map(|(start, end)| fill_name(&(start..end))).collect()
    }

    fn starts_in(&self, numbers: &Range<u64>) -> impl Iterator<Item = u64> {
        let empty = numbers.start >= numbers.end;
        let range = if empty { 0..0 } else { numbers.clone() };
        self.parts.range(range).map(|(start, _)| *start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn fills(files: &[Range<u64>]) -> Fills {
        let mut fills = Fills::default();
        files.iter().for_each(|file| {
            fills.add(file.clone(), 100);
        });
        fills
    }

    proptest! {
        /// The newest file with a number has it.
        #[test]
        fn each_number_is_read_from_the_newest_file(files in vec((1..60_u64, 1..12_u64), 0..12)) {
            let files: Vec<_> = files.iter().map(|(start, len)| *start..start + len).collect();
            let fills = fills(&files);
            for number in 0..80 {
                let newest = files.iter().rev().find(|file| file.contains(&number));
                prop_assert_eq!(fills.part_of(number).map(|part| &part.file), newest);
            }
            let parts: Vec<_> = fills.parts.values().collect();
            prop_assert!(parts.windows(2).all(|pair| pair[0].numbers.end <= pair[1].numbers.start));
            let unfilled: Vec<u64> = fills.without(3..70).into_iter().flatten().collect();
            let expected = (3..70).filter(|number| !files.iter().any(|file| file.contains(number)));
            prop_assert_eq!(unfilled, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_file_in_the_middle_of_another_divides_it() {
        let fills = fills(&[10..20, 13..15]);
        let part = |number| fills.part_of(number).map(|part| (part.numbers.clone(), part.file.clone()));
        assert_eq!(part(12), Some((10..13, 10..20)));
        assert_eq!(part(13), Some((13..15, 13..15)));
        assert_eq!(part(19), Some((15..20, 10..20)));
        assert_eq!((part(9), part(20)), (None, None));
        assert_eq!((fills.first_in(&(0..30)), fills.first_in(&(14..15))), (Some(10), None));
        let mut borders = fills.borders_in(&(11..30));
        borders.sort_unstable();
        borders.dedup();
        assert_eq!(borders, [13, 15, 20]);
    }

    #[test]
    fn files_go_with_the_numbers_below_them() {
        let mut fills = fills(&[1..5, 10..20, 13..15]);
        assert_eq!((fills.bytes_from(2), fills.has_file(13), fills.has_file(14)), (200, true, false));
        assert_eq!(fills.add(10..20, 300), 200, "in the place of the one with the same numbers");
        assert_eq!(fills.remove_below(10), [fill_name(&(1..5))]);
        assert_eq!((fills.part_of(3), fills.bytes_from(0)), (None, 400));
        assert_eq!(fills.remove_below(u64::MAX).len(), 2);
        assert_eq!(fills.first_in(&(0..100)), None);
    }
}
