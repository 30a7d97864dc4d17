//! What is at the end of a segment: whether its last batch was written completely, and what is behind.

use std::{io, ops::Range};

use super::{
    batch::{BATCH_HEADER_LEN, batch_start},
    disk::DiskFile,
    header::{COPIES, HEADER_LEN, Header},
    layout::{BATCH_END, BLOCK, DATA_START, MARK, SECTOR, end_offset_of, offset_of, sector_start},
    number::{to_u64, to_usize},
    recovery::{Rest, Written},
    sectors::Sectors,
};

/// The end of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) last_batch: Written,
    pub(super) rest: Rest,
}

/// What was found in the stream of a segment.
pub(super) struct Known {
    /// Where the last batch is in the stream. Empty if there is none.
    pub(super) last_batch: Range<u64>,
    /// The position behind the last valid record.
    pub(super) records_end: u64,
}

pub(super) fn inspect(file: &dyn DiskFile, header: &Header, known: &Known) -> io::Result<Tail> {
    let sectors = Sectors::new(file, header)?;
    let Range { start, end } = known.last_batch;
    let next = batch_start(end, header.fresh_blocks);
    let mut inspection = Inspection {
        sectors,
        capacity: header.capacity,
        batch: if start < end { offset_of(start)..end_offset_of(end) } else { DATA_START..DATA_START },
        // If the header begins its sector, with the mark.
        next: end_offset_of(next)..end_offset_of(next + to_u64(BATCH_HEADER_LEN)),
        boundaries: if header.fresh_blocks { BLOCK } else { SECTOR },
        known,
    };
    if header.filled { inspection.of_filled() } else { inspection.of_growing() }
}

/// All ranges are of offsets in the file.
struct Inspection<'f> {
    sectors: Sectors<'f>,
    capacity: u64,
    batch: Range<u64>,
    /// The place of the next batch header.
    next: Range<u64>,
    /// What the places are multiples of where nothing but the start of a batch, or a part of one, can be.
    boundaries: u64,
    known: &'f Known,
}

/// The sector in which the last batch ends.
struct LastSector {
    /// Whether it is sound up to the end of the batch. Then what is behind is sound, too, because damage
    /// hits whole sectors, or makes no zeros.
    is_sound: bool,
    /// Whether the last byte of the batch is there.
    has_end: bool,
    /// Whether nothing from that byte on was written.
    is_cut_off: bool,
}

impl Inspection<'_> {
    /// In a segment that grows, a batch that was zeroed or cut off looks like one that was never written
    /// completely. So everything that may have been acknowledged counts as if it had been.
    fn of_growing(&mut self) -> io::Result<Tail> {
        let len = self.sectors.len();
        let has_batch = !self.batch.is_empty();
        // The file of a new segment ends with its header.
        let end = if has_batch { self.batch.end } else { COPIES[1] + to_u64(HEADER_LEN) };
        let is_in_doubt = has_batch && (len < end || self.sectors.any_unwritten(self.batch.clone())?);
        let rest = if len == end {
            Rest::Unwritten
        } else if len < self.next.end {
            // No write ends there: the file was truncated, and may have had any number of batches.
            Rest::InDoubt { bytes: self.capacity.saturating_sub(end) }
        } else {
            Rest::InDoubt { bytes: len.saturating_sub(self.known_end()?) }
        };
        Ok(Tail { last_batch: if is_in_doubt { Written::InDoubt } else { Written::Completely }, rest })
    }

    /// In a filled segment, an unwritten sector is known by its stamp. Each batch was durable before the
    /// next one was written, so that a batch with an unwritten sector was not acknowledged, and nothing
    /// behind an unwritten sector was.
    fn of_filled(&mut self) -> io::Result<Tail> {
        let last = self.last_sector()?;
        if self.sectors.any_unwritten(self.batch.clone())? {
            return Ok(Tail { last_batch: Written::InPart, rest: Rest::Abandoned });
        }
        let rest = match self.damage_behind(last.is_sound)? {
            Some(bytes) => Rest::Damaged { bytes },
            None if last.has_end && self.is_unwritten_behind()? => Rest::Unwritten,
            None => Rest::Abandoned,
        };
        // No disk writes a part of a sector, but a system may, and then fail.
        let last_batch = if last.is_cut_off { Written::InDoubt } else { Written::Completely };
        Ok(Tail { last_batch, rest })
    }

    fn last_sector(&mut self) -> io::Result<LastSector> {
        if self.batch.is_empty() {
            return Ok(LastSector { is_sound: true, has_end: true, is_cut_off: false });
        }
        let last_byte = self.batch.end - 1;
        let sector = sector_start(last_byte);
        let at = to_usize(last_byte - sector);
        let bytes = self.sectors.get(sector)?;
        let is_written = bytes.first() == Some(&MARK);
        let has_end = is_written && bytes.get(at) == Some(&BATCH_END);
        // The last record ends before that byte, in the same sector unless that byte is the first of it.
        let has_record = is_written && self.known.records_end + 1 == self.known.last_batch.end && at > 1;
        let is_cut_off = is_written && self.sectors.last_written(sector, at)?.is_none();
        Ok(LastSector { is_sound: has_end || has_record, has_end, is_cut_off })
    }

    /// How many bytes of records may have been behind the last batch. `None` if nothing behind it was
    /// acknowledged.
    fn damage_behind(&mut self, is_sound: bool) -> io::Result<Option<u64>> {
        let next_sector = sector_start(self.next.start);
        let next_at = to_usize(self.next.start - next_sector);
        let from = if is_sound { next_sector } else { sector_start(self.batch.end - 1) };
        if from >= self.capacity
            || self.sectors.is_unwritten(from)?
            || is_sound && next_at > 0 && self.sectors.last_written(next_sector, next_at)?.is_none()
        {
            return Ok(None);
        }
        let mut boundary = (from + 1).next_multiple_of(self.boundaries);
        while boundary < self.sectors.len() && !self.sectors.is_unwritten(boundary)? {
            boundary += self.boundaries;
        }
        let known_end = self.known_end()?;
        if boundary >= self.sectors.len() && boundary != self.capacity {
            // The file was truncated.
            return Ok(Some(self.capacity.saturating_sub(known_end)));
        }
        let mut written_end = self.written_end(from..boundary)?;
        let (sector, is_shared) = (sector_start(known_end), !known_end.is_multiple_of(SECTOR));
        let is_sound = is_sound || self.known.records_end > self.known.last_batch.end;
        if is_shared && is_sound && written_end == sector + SECTOR {
            let last = self.sectors.last_written(sector, to_usize(known_end - sector))?;
            written_end = last.map_or(known_end, |at| sector + to_u64(at) + 1);
        }
        Ok(Some(written_end.saturating_sub(known_end)))
    }

    fn is_unwritten_behind(&mut self) -> io::Result<bool> {
        self.sectors.all_unwritten(self.batch.end.next_multiple_of(SECTOR)..self.capacity)
    }

    /// The offset behind what is known to have been written: a batch or a record.
    fn known_end(&mut self) -> io::Result<u64> {
        let Known { last_batch, records_end } = self.known;
        if *records_end < last_batch.end {
            return Ok(self.batch.end);
        }
        let end = offset_of(*records_end);
        let at = to_usize(end - sector_start(end));
        let has_end = self.sectors.get(sector_start(end))?.get(at) == Some(&BATCH_END);
        Ok(end_offset_of(if has_end { *records_end + 1 } else { *records_end }).max(self.batch.end))
    }

    /// The offset behind the last sector in this range that is not unwritten.
    fn written_end(&mut self, range: Range<u64>) -> io::Result<u64> {
        let mut sector = range.end;
        while sector > range.start {
            sector -= SECTOR;
            if !self.sectors.is_unwritten(sector)? {
                return Ok(sector + SECTOR);
            }
        }
        Ok(range.start)
    }
}
