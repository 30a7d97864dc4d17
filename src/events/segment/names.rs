//! The names of the files in the directory of a store.

use std::ops::Range;

use crate::events::event_store::MAX_NUMBER;

pub(super) const LOCK: &str = "lock";
pub(super) const DAMAGE: &str = "damage";
/// What was ever in the report of damage.
pub(super) const DAMAGE_KNOWN: &str = "damage.known";
pub(super) const DAMAGE_NEW: &str = "damage.new";
/// The consumers of a log, which the log itself keeps beside the segments.
pub(in crate::events) const CONSUMERS: &str = "consumers";
/// A copy of the header of the newest segment.
pub(super) const NEWEST: &str = "newest";
/// The epoch of the log, if it is not that of the segments.
pub(super) const EPOCH: &str = "epoch";
pub(super) const EPOCH_NEW: &str = "epoch.new";
/// A segment that is being made.
pub(super) const SEGMENT_NEW: &str = "segment.new";
/// A filled hole that is being written.
pub(super) const FILL_NEW: &str = "filled.new";
const DAMAGED: &str = ".damaged";
const FILLED: &str = ".filled";
const SUFFIX: &str = ".segment";
/// Enough for all numbers of 64 bits, so that the order of names is the order of numbers.
const DIGITS: usize = 20;

/// The name of the segment that begins with this number.
pub(super) fn segment_name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

/// The first number of the segment with this name; `None` if it is no name of a segment.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let is_number = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| digits.parse().ok()).flatten();
    number.filter(|number| (1..=MAX_NUMBER).contains(number))
}

/// The name of the file with these numbers, which fills a hole.
pub(super) fn fill_name(numbers: &Range<u64>) -> String {
    format!("{:020}-{:020}{FILLED}", numbers.start, numbers.end.saturating_sub(1))
}

/// The numbers of the file with this name; `None` if it fills no hole.
pub(super) fn fill_numbers(name: &str) -> Option<Range<u64>> {
    let (first, last) = name.strip_suffix(FILLED)?.split_once('-')?;
    let (first, last) =
        (segment_number(&format!("{first}{SUFFIX}"))?, segment_number(&format!("{last}{SUFFIX}"))?);
    (first <= last).then_some(first..last + 1)
}

/// The name for a damaged segment that is in the way of others.
pub(super) fn damaged_name(first: u64) -> String {
    format!("{}{DAMAGED}", segment_name(first))
}

/// A name in the directory that neither this store nor a file system makes.
pub(super) fn is_foreign(name: &str) -> bool {
    segment_number(name.strip_suffix(DAMAGED).unwrap_or(name)).is_none()
        && fill_numbers(name).is_none()
        && ![
            LOCK,
            CONSUMERS,
            DAMAGE,
            DAMAGE_KNOWN,
            DAMAGE_NEW,
            NEWEST,
            EPOCH,
            EPOCH_NEW,
            SEGMENT_NEW,
            FILL_NEW,
            "lost+found",
        ]
        .contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_number_and_others_have_none() {
        for number in [1, 12, MAX_NUMBER] {
            assert_eq!(segment_number(&segment_name(number)), Some(number));
        }
        let others = [
            "1.segment",
            "00000000000000000000.segment",
            "00009007199254740992.segment",
            "18446744073709551615.segment",
            "99999999999999999999.segment",
            "+0000000000000000001.segment",
        ];
        for other in others {
            assert!(segment_number(other).is_none() && is_foreign(other), "{other}");
        }
        assert_eq!(segment_number(LOCK), None);
        assert!(is_foreign("events.redb") && !is_foreign(LOCK));
        assert!(is_foreign("x.damaged") && !is_foreign(&damaged_name(7)));
    }

    #[test]
    fn a_filled_hole_has_its_numbers_and_is_no_segment() {
        for numbers in [1..2, 7..1000, MAX_NUMBER..MAX_NUMBER + 1] {
            let name = fill_name(&numbers);
            assert_eq!((fill_numbers(&name), segment_number(&name)), (Some(numbers), None));
            assert!(!is_foreign(&name));
        }
        let others = [
            "00000000000000000007.filled",
            "00000000000000000007-00000000000000000006.filled",
            "00000000000000000000-00000000000000000006.filled",
            "7-8.filled",
            "00000000000000000007-00000000000000000008.segment",
        ];
        for other in others {
            assert!(fill_numbers(other).is_none() && is_foreign(other), "{other}");
        }
    }
}
