//! What a segment contains where nothing was written.
//!
//! A filled segment has a stamp in each of its sectors, which its first batches replace. A sector that was
//! zeroed or replaced has no valid stamp, so that damage cannot be taken for space that was never written:
//! the events in it may have been acknowledged. In a segment that grows, zeros and the end of the file are
//! all that unwritten space can be told by.

use super::{
    checksum::Checksum,
    header::Header,
    layout::{SECTOR, SECTOR_BYTES},
};

/// The first byte of a stamp.
const STAMP_MARK: u8 = 0x5A;
/// The bytes of a stamp's checksum have no top bit, so that none of them is taken for the end of a batch.
const STAMP_BITS: u32 = 0x7F7F_7F7F;
/// A fuzzer cannot guess the right one.
const ANY_STAMP: [u8; 4] = STAMP_BITS.to_le_bytes();

/// The initial content of one segment.
pub(super) struct Unwritten {
    checksum: Checksum,
    is_filled: bool,
}

impl Unwritten {
    pub(super) fn of(header: &Header) -> Self {
        Self { checksum: Checksum::new(&header.salt), is_filled: header.filled }
    }

    /// The initial content of the sector at this offset.
    pub(super) fn sector(&self, offset: u64) -> [u8; SECTOR_BYTES] {
        debug_assert!(offset.is_multiple_of(SECTOR));
        let mut sector = [0; SECTOR_BYTES];
        if self.is_filled {
            let stamp = (self.checksum.of(offset, &[]) & STAMP_BITS).to_le_bytes();
            sector.iter_mut().zip([STAMP_MARK].into_iter().chain(stamp)).for_each(|(to, from)| *to = from);
        }
        sector
    }

    /// Whether nothing was written to the sector that begins with these bytes, which are fewer than a sector
    /// if the file ends there.
    pub(super) fn is_all_of(&self, sector: &[u8], offset: u64) -> bool {
        #[cfg(test)]
        if super::sabotage::is(super::sabotage::Sabotage::TakeZerosForUnwritten)
            && sector.iter().all(|byte| *byte == 0)
        {
            return true;
        }
        if !self.is_filled {
            return sector.iter().all(|byte| *byte == 0);
        }
        sector.first() == Some(&STAMP_MARK) && self.last_written(sector, 0, offset).is_none()
    }

    /// The last byte of the sector, from byte `from` on, that is not as it was initially.
    pub(super) fn last_written(&self, sector: &[u8], from: usize, offset: u64) -> Option<usize> {
        let mut initial = self.sector(offset);
        if cfg!(fuzzing) && sector.get(1..5) == Some(&ANY_STAMP[..]) {
            initial.iter_mut().skip(1).zip(ANY_STAMP).for_each(|(to, from)| *to = from);
        }
        if self.is_filled && sector.len() < SECTOR_BYTES {
            // The file was truncated: what was there is not known.
            return Some(SECTOR_BYTES - 1);
        }
        let mut written = sector.iter().zip(&initial).skip(from);
        written.rposition(|(byte, initial)| byte != initial).map(|at| from + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::segment::tests::header;

    #[test]
    fn only_the_stamp_of_the_place_says_that_a_sector_is_unwritten() {
        let unwritten = Unwritten::of(&header(true));
        let sector = unwritten.sector(8192);
        assert!(unwritten.is_all_of(&sector, 8192));
        assert!(!unwritten.is_all_of(&sector, 8192 + 512), "of another place");
        assert!(!unwritten.is_all_of(&[0; 512], 8192), "zeroed");
        assert!(!unwritten.is_all_of(&sector[..100], 8192), "truncated");
        for bit in 0..512 * 8 {
            let mut damaged = sector;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(!unwritten.is_all_of(&damaged, 8192), "bit {bit}");
        }
        assert_eq!(sector[1..5].iter().find(|byte| **byte > 0x7F), None);
    }

    #[test]
    fn a_segment_that_grows_is_unwritten_where_it_is_zero_or_ends() {
        let unwritten = Unwritten::of(&header(false));
        assert!(unwritten.is_all_of(&[0; 512], 8192) && unwritten.is_all_of(&[], 8192));
        assert!(!unwritten.is_all_of(&[0, 1], 8192));
    }

    #[test]
    fn a_sector_is_written_up_to_its_last_changed_byte() {
        let unwritten = Unwritten::of(&header(true));
        let mut sector = unwritten.sector(8192);
        sector[..3].copy_from_slice(&[0xA5, 0xFF, 0xFF]);
        assert_eq!(unwritten.last_written(&sector, 0, 8192), Some(2));
        assert_eq!(unwritten.last_written(&sector, 2, 8192), Some(2));
        assert_eq!(unwritten.last_written(&sector, 3, 8192), None);
        assert!(!unwritten.is_all_of(&sector, 8192));
        assert_eq!(unwritten.last_written(&sector[..3], 3, 8192), Some(511), "truncated");
    }
}
