//! The sectors of a segment as they are in the file.

use std::{io, ops::Range};

use super::{
    buffers::READ_BYTES,
    disk::{DiskFile, read_full},
    header::Header,
    layout::{SECTOR, SECTOR_BYTES, sector_start},
    number::{to_u64, to_usize},
    unwritten::Unwritten,
};

/// A `sector` is the offset at which it begins.
pub(super) struct Sectors<'f> {
    window: Window<'f>,
    unwritten: Unwritten,
}

/// A part of the file that is in memory.
struct Window<'f> {
    file: &'f dyn DiskFile,
    len: u64,
    bytes: Vec<u8>,
    start: u64,
}

impl<'f> Sectors<'f> {
    pub(super) fn new(file: &'f dyn DiskFile, header: &Header) -> io::Result<Self> {
        let len = file.len()?.min(header.capacity);
        let window = Window { file, len, bytes: Vec::new(), start: 0 };
        Ok(Self { window, unwritten: Unwritten::of(header) })
    }

    /// The length of the file as far as the segment uses it.
    pub(super) fn len(&self) -> u64 {
        self.window.len
    }

    /// The bytes of a sector: fewer than its length if the file ends before.
    pub(super) fn get(&mut self, sector: u64) -> io::Result<&[u8]> {
        self.window.get(sector)
    }

    /// Whether nothing was written to this sector.
    pub(super) fn is_unwritten(&mut self, sector: u64) -> io::Result<bool> {
        Ok(self.unwritten.is_all_of(self.window.get(sector)?, sector))
    }

    /// The last byte of a sector, from byte `from` on, that was written.
    pub(super) fn last_written(&mut self, sector: u64, from: usize) -> io::Result<Option<usize>> {
        Ok(self.unwritten.last_written(self.window.get(sector)?, from, sector))
    }

    /// Whether nothing was written to a sector of which a part is in this range of offsets.
    pub(super) fn any_unwritten(&mut self, range: Range<u64>) -> io::Result<bool> {
        let mut sector = sector_start(range.start);
        // Behind the end of the file, one is like all others.
        let end = range.end.min(self.len().saturating_add(SECTOR));
        while sector < end {
            if self.is_unwritten(sector)? {
                return Ok(true);
            }
            sector += SECTOR;
        }
        Ok(false)
    }

    /// Whether nothing was written to all sectors in this range of offsets.
    pub(super) fn all_unwritten(&mut self, range: Range<u64>) -> io::Result<bool> {
        let mut sector = range.start;
        while sector < range.end {
            if !self.is_unwritten(sector)? {
                return Ok(false);
            }
            sector += SECTOR;
        }
        Ok(true)
    }
}

impl Window<'_> {
    fn get(&mut self, sector: u64) -> io::Result<&[u8]> {
        let end = sector.saturating_add(SECTOR).min(self.len);
        if sector >= end {
            return Ok(&[]);
        }
        if sector < self.start || end > self.start.saturating_add(to_u64(self.bytes.len())) {
            self.bytes.resize(to_usize(READ_BYTES.min(self.len - sector)), 0);
            let read = read_full(self.file, sector, &mut self.bytes)?;
            self.bytes.truncate(read);
            self.start = sector;
        }
        let rest = self.bytes.get(to_usize(sector - self.start)..).unwrap_or_default();
        Ok(rest.get(..SECTOR_BYTES).unwrap_or(rest))
    }
}
