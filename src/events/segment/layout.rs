//! Where the bytes of the stream of batches are in a segment.
//!
//! The stream is cut into pieces of 511 bytes. Each piece is in a sector of 512 bytes, behind a mark that is
//! not zero, so that a sector which was written is never as it was before, even if payloads are zeros.

/// The first byte of every sector that was written.
pub(super) const MARK: u8 = 0xA5;
/// The last byte of every batch. It is not zero, so that a batch of which the end is missing is known by it.
pub(super) const BATCH_END: u8 = 0xE5;
/// The unit that a disk writes completely or not at all.
pub(super) const SECTOR: u64 = 512;
pub(super) const SECTOR_BYTES: usize = 512;
/// The unit in which file systems write to a disk.
pub(super) const BLOCK: u64 = 4096;
/// The same, of memory.
pub(super) const BLOCK_LEN: usize = 4096;
/// The header and its copy are in the two blocks before.
pub(super) const DATA_START: u64 = 2 * BLOCK;

/// The bytes of the stream in one sector.
pub(super) const SECTOR_STREAM: u64 = SECTOR - 1;
const BLOCK_STREAM: u64 = BLOCK / SECTOR * SECTOR_STREAM;

/// The offset in the file of this position in the stream.
pub(super) fn offset_of(position: u64) -> u64 {
    DATA_START + position / SECTOR_STREAM * SECTOR + 1 + position % SECTOR_STREAM
}

/// The offset in the file behind the byte before this position: the same as [`offset_of`], but never behind a
/// mark that belongs to a sector that begins here.
pub(super) fn end_offset_of(position: u64) -> u64 {
    position.checked_sub(1).map_or(DATA_START, |last| offset_of(last) + 1)
}

/// The offset at which the sector of this offset begins.
pub(super) fn sector_start(offset: u64) -> u64 {
    offset / SECTOR * SECTOR
}

/// The length of the stream in a file of this length.
pub(super) fn stream_len(file_len: u64) -> u64 {
    let data = file_len.saturating_sub(DATA_START);
    data / SECTOR * SECTOR_STREAM + (data % SECTOR).saturating_sub(1)
}

/// The first position at or behind this one where `len` bytes are in one sector.
pub(super) fn unbroken(position: u64, len: u64) -> u64 {
    if position % SECTOR_STREAM + len <= SECTOR_STREAM {
        position
    } else {
        position.next_multiple_of(SECTOR_STREAM)
    }
}

/// The first position at or behind this one with which a block begins.
pub(super) fn next_block(position: u64) -> u64 {
    position.next_multiple_of(BLOCK_STREAM)
}

/// The position with which the block of this position begins.
pub(super) fn block_start(position: u64) -> u64 {
    position / BLOCK_STREAM * BLOCK_STREAM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_leave_out_the_marks() {
        assert_eq!([offset_of(0), offset_of(510), offset_of(511)], [8193, 8703, 8705]);
        assert_eq!([end_offset_of(0), end_offset_of(511), end_offset_of(512)], [8192, 8704, 8706]);
        for position in 0..5000 {
            assert_ne!(offset_of(position) % SECTOR, 0);
            assert_eq!(stream_len(offset_of(position)), position, "the byte itself is not in the file");
            assert_eq!(stream_len(offset_of(position) + 1), position + 1);
        }
        assert_eq!([stream_len(0), stream_len(8192), stream_len(8193), stream_len(8194)], [0, 0, 0, 1]);
    }

    #[test]
    fn batches_begin_where_their_header_is_in_one_sector() {
        assert_eq!([unbroken(0, 48), unbroken(463, 48), unbroken(464, 48)], [0, 463, 511]);
        assert_eq!([next_block(0), next_block(1), next_block(4088)], [0, 4088, 4088]);
        assert_eq!([block_start(4087), block_start(4088)], [0, 4088]);
    }

    #[test]
    fn offsets_beyond_4_gib_are_exact() {
        let position = 5 * 1024 * 1024 * 1024 * SECTOR_STREAM + 7;
        assert_eq!(offset_of(position), 5 * 1024 * 1024 * 1024 * SECTOR + DATA_START + 8);
    }
}
