//! The names of the files in the directory of a store.

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
/// A segment that is being made.
pub(super) const SEGMENT_NEW: &str = "segment.new";
const DAMAGED: &str = ".damaged";
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

/// The name for a damaged segment that is in the way of others.
pub(super) fn damaged_name(first: u64) -> String {
    format!("{}{DAMAGED}", segment_name(first))
}

/// A name in the directory that neither this store nor a file system makes.
pub(super) fn is_foreign(name: &str) -> bool {
    segment_number(name.strip_suffix(DAMAGED).unwrap_or(name)).is_none()
        && ![LOCK, CONSUMERS, DAMAGE, DAMAGE_KNOWN, DAMAGE_NEW, NEWEST, SEGMENT_NEW, "lost+found"]
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
}
