//! Reads all of a segment, to find its end and its damage.

use std::{io, ops::Range};

use bytes::Bytes;

use super::{
    batch::{BATCH_HEADER_LEN, batch_start},
    disk::{DiskFile, read_full},
    header::Header,
    layout::{BLOCK, DATA_START, SECTOR, block_start, end_offset_of, offset_of},
    number::{to_u64, to_usize},
    recovery::{Findings, LastBatch, Rest},
    scan::{Found, Scanner},
    stream::READ_BYTES,
};
use crate::events::event_store::{Clocks, StoredEvent};

/// What a segment contains.
pub(super) struct Survey {
    pub(super) findings: Findings,
    /// The numbers between the first and the last valid record that were not found, oldest first.
    pub(super) missing: Vec<Range<u64>>,
    pub(super) clocks: Option<Clocks>,
    /// The position of the stream behind the last batch.
    pub(super) end: u64,
    /// Where the last batch is in the file.
    pub(super) last_batch_bytes: Range<u64>,
    /// The records in the block in which the last batch ends.
    pub(super) recent: Vec<Recent>,
}

/// An event whose record is in the block that the next batch will share.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    pub(super) number: u64,
    pub(super) event: StoredEvent,
    /// The position of the stream behind the record.
    pub(super) end: u64,
}

/// A segment with more damaged places than this is reported as if the further ones were sound.
const MAX_MISSING: usize = 4096;

/// `end` is the number with which the next segment begins.
pub(super) fn survey(file: &dyn DiskFile, header: &Header, end: u64) -> io::Result<Survey> {
    let mut scanner = Scanner::new(file, header, 0, header.first..end)?;
    let mut missing = Vec::new();
    let mut recent = Vec::<Recent>::new();
    let mut clocks = None;
    let mut found_end = header.first;
    let mut last: Option<(LastBatch, Range<u64>)> = None;
    let mut records_end = 0;
    while let Some(found) = scanner.next()? {
        match found {
            Found::Batch { header, start, end } => {
                let batch = LastBatch {
                    first: header.first,
                    end: header.end(),
                    durable: header.durable,
                    is_complete: header.count == 0,
                    is_cut_off: false,
                };
                clocks = Some(header.clocks);
                last = Some((batch, start..end));
            }
            Found::Record { number, published, payload, place } => {
                if number > found_end && missing.len() < MAX_MISSING {
                    missing.push(found_end..number);
                }
                if let Some((batch, batch_place)) = &mut last
                    && number + 1 == batch.end
                {
                    let first_missing = missing.last().map_or(0, |missing: &Range<u64>| missing.end);
                    batch.is_complete = first_missing <= batch.first && place.end == batch_place.end;
                }
                found_end = number + 1;
                records_end = place.end;
                recent.retain(|recent| recent.end > block_start(place.end));
                let event = StoredEvent { payload: Bytes::copy_from_slice(payload), published };
                recent.push(Recent { number, event, end: place.end });
            }
        }
    }
    let place = last.as_ref().map_or(0..0, |(_, place)| place.clone());
    let last_batch_bytes = match &last {
        Some((_, place)) => offset_of(place.start)..end_offset_of(place.end),
        None => DATA_START..DATA_START,
    };
    if let Some((batch, _)) = &mut last {
        // The second, if the write itself was cut off. The last byte is zero in one of 256 batches, too.
        batch.is_cut_off = has_unwritten_sector(file, header, last_batch_bytes.clone())?
            || last_nonzero(file, last_batch_bytes.end - 1..last_batch_bytes.end)?.is_none();
    }
    recent.retain(|recent| recent.end > block_start(place.end));
    let rest = rest(file, header, place.end, records_end.max(place.end))?;
    let Header { first, durable, closed, .. } = *header;
    let last_batch = last.map(|(batch, _)| batch);
    let findings = Findings { first, durable, closed, last_batch, found_end, rest };
    Ok(Survey { findings, missing, clocks, end: place.end, last_batch_bytes, recent })
}

/// What is behind the last batch, which ends at this position. Valid records end at `found`.
fn rest(file: &dyn DiskFile, header: &Header, end: u64, found: u64) -> io::Result<Rest> {
    let len = file.len()?;
    let limit = len.min(header.capacity);
    let found = end_offset_of(found);
    if header.filled && len < header.capacity {
        return Ok(Rest::Damaged { bytes: header.capacity.saturating_sub(len.max(found)) });
    }
    let Some(last) = last_nonzero(file, end_offset_of(end)..limit)? else { return Ok(Rest::Unwritten) };
    // If the header would begin its sector, the mark belongs to it.
    let start = end_offset_of(batch_start(end, header.fresh_blocks));
    let place = start..end_offset_of(batch_start(end, header.fresh_blocks) + to_u64(BATCH_HEADER_LEN));
    match last_nonzero(file, place.start..place.end.min(limit))? {
        None => Ok(Rest::WithoutHeader),
        Some(_) if last < place.end => Ok(Rest::CutOffHeader),
        Some(_) => Ok(Rest::Damaged { bytes: (last + 1).saturating_sub(found) }),
    }
}

/// The offset of the last byte in this range that is not zero.
fn last_nonzero(file: &dyn DiskFile, range: Range<u64>) -> io::Result<Option<u64>> {
    let mut last = None;
    let mut buffer = vec![0; to_usize(READ_BYTES.min(range.end.saturating_sub(range.start)))];
    let mut offset = range.start;
    while offset < range.end {
        let len = to_usize(range.end - offset).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..len) else { break };
        let read = read_full(file, offset, buffer)?;
        let nonzero = buffer.iter().take(read).rposition(|byte| *byte != 0);
        last = nonzero.map(|at| offset + to_u64(at)).or(last);
        if read < len {
            break;
        }
        offset += to_u64(len);
    }
    Ok(last)
}

/// Whether one of the sectors of this range is all zero, without even a mark.
fn has_unwritten_sector(file: &dyn DiskFile, header: &Header, range: Range<u64>) -> io::Result<bool> {
    let len = file.len()?;
    let mut block = [0; 4096];
    let mut offset = range.start / BLOCK * BLOCK;
    while offset < range.end {
        let read = read_full(file, offset, &mut block)?;
        if read == 0 {
            return Ok(!header.filled);
        }
        let sectors = block.chunks(to_usize(SECTOR)).zip((offset..).step_by(to_usize(SECTOR)));
        for (sector, start) in sectors {
            let is_inside = start + SECTOR > range.start && start < range.end;
            // A file that is as long as it was made cannot end here because power was lost.
            let is_beyond = start >= len.min(offset + to_u64(read));
            if is_inside && (if is_beyond { !header.filled } else { sector.iter().all(|byte| *byte == 0) }) {
                return Ok(true);
            }
        }
        block.fill(0);
        offset += BLOCK;
    }
    Ok(false)
}
