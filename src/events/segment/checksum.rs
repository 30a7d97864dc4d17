//! CRC-32 keyed by the salt of a segment and the place in it.
//!
//! Payloads come from parties that nobody vouches for. Without the salt, one could send a payload that
//! contains a valid record, which a search behind damage would then find.

use crc32fast::Hasher;

pub(super) const SALT_LEN: usize = 16;

/// CRC-32 of structures in one segment.
#[derive(Clone)]
pub(super) struct Checksum {
    salted: Hasher,
}

impl Checksum {
    pub(super) fn new(salt: &[u8; SALT_LEN]) -> Self {
        let mut salted = Hasher::new();
        salted.update(salt);
        Self { salted }
    }

    /// The checksum of these bytes if the structure that they belong to begins at `offset` in the file.
    pub(super) fn of(&self, offset: u64, parts: &[&[u8]]) -> u32 {
        let mut sum = self.begin(offset);
        parts.iter().for_each(|part| sum.add(part));
        sum.finish()
    }

    /// The same, for bytes that come later.
    pub(super) fn begin(&self, offset: u64) -> Sum {
        let mut sum = Sum(self.salted.clone());
        sum.add(&offset.to_le_bytes());
        sum
    }
}

/// The checksum of bytes that may be followed by more.
#[derive(Clone)]
pub(super) struct Sum(Hasher);

impl Sum {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// Whether a stored checksum is right. A fuzzer cannot guess the right one, and may write [`ANY`] instead.
pub(super) fn matches(stored: u32, computed: u32) -> bool {
    #[cfg(test)]
    if super::sabotage::is(super::sabotage::Sabotage::IgnoreChecksums) {
        return true;
    }
    stored == computed || cfg!(fuzzing) && stored == ANY
}

const ANY: u32 = u32::MAX;
