//! Where a record is.

use super::checksum::SALT_LEN;

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    /// Of the segment: another one of the same name has another salt.
    pub(super) salt: [u8; SALT_LEN],
    pub(super) number: u64,
    pub(super) position: u64,
}
