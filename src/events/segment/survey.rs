//! Reads all of a segment, to find its end and its damage.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    batch::BATCH_END_LEN,
    buffers::Buffers,
    disk::DiskFile,
    header::Header,
    layout::{DATA_START, block_start, end_offset_of, offset_of},
    recovery::{Findings, LastBatch, Written},
    scan::{Found, Scanner},
    tail::{Known, inspect},
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
    let buffers = Arc::new(Buffers::default());
    let mut scanner = Scanner::new(file, header, &buffers, 0, header.first..end)?;
    let mut missing = Vec::new();
    let mut recent = Vec::<Recent>::new();
    let mut clocks = None;
    let mut found_end = header.first;
    let mut last_missing_end = 0;
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
                    written: Written::Completely,
                };
                clocks = Some(header.clocks);
                last = Some((batch, start..end));
            }
            Found::Record { number, published, payload, place } => {
                if number > found_end {
                    last_missing_end = number;
                    if missing.len() < MAX_MISSING {
                        missing.push(found_end..number);
                    }
                }
                if let Some((batch, batch_place)) = &mut last
                    && number + 1 == batch.end
                {
                    batch.is_complete =
                        last_missing_end <= batch.first && place.end + BATCH_END_LEN == batch_place.end;
                }
                found_end = number + 1;
                records_end = place.end;
                recent.retain(|recent| recent.end > block_start(place.end));
                let event = StoredEvent { payload: Bytes::copy_from_slice(&payload), published };
                recent.push(Recent { number, event, end: place.end });
            }
        }
    }
    let place = last.as_ref().map_or(0..0, |(_, place)| place.clone());
    let tail = inspect(file, header, &Known { last_batch: place.clone(), records_end })?;
    let last_batch = last.map(|(batch, _)| LastBatch { written: tail.last_batch, ..batch });
    let last_batch_bytes = match &last_batch {
        Some(_) => offset_of(place.start)..end_offset_of(place.end),
        None => DATA_START..DATA_START,
    };
    recent.retain(|recent| recent.end > block_start(place.end));
    let Header { first, durable, closed, .. } = *header;
    let uncertain_from = header.uncertain_from();
    let findings =
        Findings { first, durable, uncertain_from, closed, last_batch, found_end, rest: tail.rest };
    Ok(Survey { findings, missing, clocks, end: place.end, last_batch_bytes, recent })
}
