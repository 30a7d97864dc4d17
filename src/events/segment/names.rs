//! The names of the files in the directory of a store.

pub(super) const LOCK: &str = "lock";
pub(super) const DAMAGE: &str = "damage";
/// What was ever in the report of damage.
pub(super) const DAMAGE_KNOWN: &str = "damage.known";
pub(super) const DAMAGE_NEW: &str = "damage.new";
/// A copy of the header of the newest segment.
pub(super) const NEWEST: &str = "newest";
/// A segment that is being made.
pub(super) const SEGMENT_NEW: &str = "segment.new";
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
    is_number.then(|| digits.parse().ok()).flatten()
}

/// A name in the directory that neither this store nor a file system makes.
pub(super) fn is_foreign(name: &str) -> bool {
    segment_number(name).is_none()
        && ![LOCK, DAMAGE, DAMAGE_KNOWN, DAMAGE_NEW, NEWEST, SEGMENT_NEW, "lost+found"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_number_and_others_have_none() {
        for number in [1, 12, u64::MAX] {
            assert_eq!(segment_number(&segment_name(number)), Some(number));
        }
        for other in ["1.segment", "99999999999999999999.segment", "+0000000000000000001.segment", "lock"] {
            assert_eq!(segment_number(other), None, "{other}");
        }
        assert!(is_foreign("events.redb") && !is_foreign(LOCK));
    }
}
