//! The stream of a segment, read in large pieces.

use std::io;

use super::{
    disk::{DiskFile, read_full},
    header::Header,
    layout::{DATA_START, SECTOR, SECTOR_BYTES, SECTOR_STREAM, offset_of, stream_len},
    number::{to_u64, to_usize},
    unwritten::Unwritten,
};

/// What is read in one call unless a record is larger: large enough that the calls cost little.
pub(super) const READ_BYTES: u64 = 128 * 1024;

/// A window on the stream, in which sectors that were never written are zeros. Its memory is bounded by what
/// is asked for in one call and by [`READ_BYTES`].
pub(super) struct Stream<'f> {
    file: &'f dyn DiskFile,
    unwritten: Unwritten,
    /// The position behind the last byte.
    len: u64,
    /// The position of the first byte of `window`. A sector begins here.
    start: u64,
    window: Vec<u8>,
}

impl<'f> Stream<'f> {
    /// The stream of a file with this header.
    pub(super) fn new(file: &'f dyn DiskFile, header: &Header) -> io::Result<Self> {
        let len = stream_len(file.len()?.min(header.capacity));
        Ok(Self { file, unwritten: Unwritten::of(header), len, start: 0, window: Vec::new() })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// `len` bytes from this position on; `None` if the stream ends before.
    pub(super) fn get(&mut self, position: u64, len: u64) -> io::Result<Option<&[u8]>> {
        match position.checked_add(len) {
            Some(end) if end <= self.len => {}
            _ => return Ok(None),
        }
        if !self.has(position, len) {
            self.load(position, len)?;
        }
        // Shorter than asked for only if the file was truncated meanwhile.
        let at = to_usize(position - self.start);
        Ok(self.window.get(at..).and_then(|rest| rest.get(..to_usize(len))))
    }

    /// What is in memory from this position on, at least `least` bytes unless the stream ends before.
    pub(super) fn window(&mut self, position: u64, least: u64) -> io::Result<&[u8]> {
        let least = least.min(self.len.saturating_sub(position));
        if !self.has(position, least) {
            self.load(position, least)?;
        }
        let at = to_usize(position.saturating_sub(self.start));
        Ok(self.window.get(at..).unwrap_or_default())
    }

    fn has(&self, position: u64, len: u64) -> bool {
        let end = self.start.saturating_add(to_u64(self.window.len()));
        self.start <= position && position.saturating_add(len) <= end
    }

    fn load(&mut self, position: u64, len: u64) -> io::Result<()> {
        let first = position / SECTOR_STREAM;
        let last = position.saturating_add(len).div_ceil(SECTOR_STREAM);
        let sectors = (last - first).max(READ_BYTES / SECTOR);
        let offset = DATA_START + first * SECTOR;
        let end = (offset + sectors * SECTOR).min(offset_of(self.len));
        let mut raw = vec![0; to_usize(end.saturating_sub(offset))];
        let read = read_full(self.file, offset, &mut raw)?;
        raw.truncate(read);
        self.window.clear();
        self.window.shrink_to(to_usize(READ_BYTES));
        self.window.reserve_exact(raw.len());
        for (sector, offset) in raw.chunks(SECTOR_BYTES).zip((offset..).step_by(SECTOR_BYTES)) {
            if self.unwritten.is_all_of(sector, offset) {
                self.window.resize(self.window.len() + sector.len().saturating_sub(1), 0);
            } else {
                self.window.extend_from_slice(sector.get(1..).unwrap_or_default());
            }
        }
        self.start = first * SECTOR_STREAM;
        Ok(())
    }
}
