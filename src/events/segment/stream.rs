//! The stream of a segment, read in large pieces.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    buffers::{Buffers, READ_BYTES},
    disk::{DiskFile, read_full},
    header::Header,
    layout::{DATA_START, SECTOR, SECTOR_BYTES, SECTOR_STREAM, offset_of, stream_len},
    number::{to_u64, to_usize},
    unwritten::Unwritten,
};

/// A window on the stream, in which sectors that were never written are zeros. Its memory is bounded by what
/// is asked for in one call and by [`READ_BYTES`].
pub(super) struct Stream<'f> {
    file: &'f dyn DiskFile,
    buffers: &'f Arc<Buffers>,
    unwritten: Unwritten,
    /// The position behind the last byte.
    len: u64,
    /// The position of the first byte of `window`. A sector begins here.
    start: u64,
    window: Bytes,
    reads: Reads,
}

/// How to get what is not in the window.
#[derive(Clone, Copy)]
enum Reads {
    /// From the file.
    All,
    /// From the file, if it is in memory, and this many times at most.
    Cached(u32),
}

/// Once for small events, and again for a record that does not fit the first window.
const MAX_CACHED_READS: u32 = 2;

impl<'f> Stream<'f> {
    /// The stream of a file with this header.
    pub(super) fn new(
        file: &'f dyn DiskFile,
        header: &Header,
        buffers: &'f Arc<Buffers>,
    ) -> io::Result<Self> {
        let len = stream_len(file.len()?.min(header.capacity));
        let (unwritten, window) = (Unwritten::of(header), Bytes::new());
        Ok(Self { file, buffers, unwritten, len, start: 0, window, reads: Reads::All })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What is not in memory now is an error of the kind [`WouldBlock`](io::ErrorKind::WouldBlock) from now
    /// on.
    pub(super) fn stay(&mut self) {
        self.reads = Reads::Cached(0);
    }

    /// What is neither in memory nor in that of the operating system is an error from now on, and so is what
    /// takes many reads.
    pub(super) fn only_cached(&mut self) {
        self.reads = Reads::Cached(MAX_CACHED_READS);
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
        Ok(self.loaded(position, len).and_then(|range| self.window.get(range)))
    }

    /// The same, to keep: with it stays in memory what was read together with it.
    pub(super) fn get_bytes(&mut self, position: u64, len: u64) -> io::Result<Option<Bytes>> {
        if self.get(position, len)?.is_none() {
            return Ok(None);
        }
        Ok(self.loaded(position, len).map(|range| self.window.slice(range)))
    }

    /// Where this is in the window. `None` if the file was truncated before it was read.
    fn loaded(&self, position: u64, len: u64) -> Option<Range<usize>> {
        let start = to_usize(position.checked_sub(self.start)?);
        let end = start.checked_add(to_usize(len))?;
        (end <= self.window.len()).then_some(start..end)
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
        if let Reads::Cached(left) = &mut self.reads {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
        }
        let first = position / SECTOR_STREAM;
        let last = position.saturating_add(len).div_ceil(SECTOR_STREAM);
        let sectors = (last - first).max(READ_BYTES / SECTOR);
        let offset = DATA_START + first * SECTOR;
        let end = (offset + sectors * SECTOR).min(offset_of(self.len));
        // Before the next one is taken, so that it can be the same.
        self.window = Bytes::new();
        let mut buffer = self.buffers.take(to_usize(end.saturating_sub(offset)));
        let read = match self.reads {
            Reads::All => read_full(self.file, offset, buffer.as_mut())?,
            Reads::Cached(_) => self.file.read_cached_at(offset, buffer.as_mut())?,
        };
        let raw = buffer.as_mut().get_mut(..read).unwrap_or_default();
        let len = self.remove_marks(raw, offset);
        self.window = buffer.into_bytes(len);
        self.start = first * SECTOR_STREAM;
        Ok(())
    }

    /// Turns sectors, of which the first is at this offset, into the stream. Returns the length of that.
    fn remove_marks(&self, raw: &mut [u8], offset: u64) -> usize {
        let mut end = 0;
        for (at, offset) in (0..raw.len()).step_by(SECTOR_BYTES).zip((offset..).step_by(SECTOR_BYTES)) {
            let sector_end = raw.len().min(at + SECTOR_BYTES);
            let is_unwritten = self.unwritten.is_all_of(raw.get(at..sector_end).unwrap_or_default(), offset);
            raw.copy_within(at + 1..sector_end, end);
            let new_end = end + (sector_end - at - 1);
            if is_unwritten {
                raw.get_mut(end..new_end).unwrap_or_default().fill(0);
            }
            end = new_end;
        }
        end
    }
}
