//! Finds the batches and records of a segment, also behind damage.

use std::{io, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    batch::{
        BATCH_END_LEN, BATCH_HEADER_LEN, BATCH_MAGIC, BatchHeader, RECORD_HEAD_LEN, RecordHead, batch_start,
    },
    buffers::Buffers,
    checksum::{Checksum, Sum},
    disk::{DiskFile, read_full},
    header::{Header, u32_at, u64_at},
    layout::{BATCH_END, offset_of, unbroken},
    number::to_u64,
    stream::Stream,
};

/// Goes through a segment from a position on. Reads what is at that position if it is valid, and otherwise
/// searches for the next thing that is.
pub(super) struct Scanner<'f> {
    stream: Stream<'f>,
    checksum: Checksum,
    fresh_blocks: bool,
    position: u64,
    /// Numbers outside are of no interest: those below were found before, and those above are void.
    numbers: Range<u64>,
}

pub(super) enum Found {
    Batch {
        header: BatchHeader,
        /// Where the header begins.
        start: u64,
        /// The position behind the batch.
        end: u64,
    },
    Record {
        number: u64,
        published: Duration,
        payload: Bytes,
        /// Where the record begins and ends.
        place: Range<u64>,
    },
}

/// What is at a position, without its bytes.
enum Piece {
    Batch(BatchHeader),
    /// With the checksum of its head.
    Record(RecordHead, Sum),
}

const HEAD: u64 = 24;
const BATCH_HEADER: u64 = 48;
const _: () = assert!(RECORD_HEAD_LEN == 24 && BATCH_HEADER_LEN == 48);
/// The bytes of a search that are looked at together.
const SEARCH: u64 = 16 * 1024;

/// The header of a segment's first batch. `None` if it has none, or a damaged one.
pub(super) fn first_batch(file: &dyn DiskFile, header: &Header) -> io::Result<Option<BatchHeader>> {
    let mut bytes = [0; BATCH_HEADER_LEN];
    let offset = offset_of(batch_start(0, header.fresh_blocks));
    let read = read_full(file, offset, &mut bytes)?;
    Ok(BatchHeader::decode(bytes.get(..read).unwrap_or_default(), &Checksum::new(&header.salt), offset))
}

impl<'f> Scanner<'f> {
    /// `numbers` are the numbers that the segment may have from this position on.
    pub(super) fn new(
        file: &'f dyn DiskFile,
        header: &Header,
        buffers: &'f Arc<Buffers>,
        position: u64,
        numbers: Range<u64>,
    ) -> io::Result<Self> {
        Ok(Self {
            stream: Stream::new(file, header, buffers)?,
            checksum: Checksum::new(&header.salt),
            fresh_blocks: header.fresh_blocks,
            position,
            numbers,
        })
    }

    /// From now on, only what is in memory is found, and what would have to be read is an error of the kind
    /// [`WouldBlock`](io::ErrorKind::WouldBlock).
    pub(super) fn stay(&mut self) {
        self.stream.stay();
    }

    /// From now on, only what takes no access to the medium is found, and a little of it.
    pub(super) fn only_cached(&mut self) {
        self.stream.only_cached();
    }

    /// The next valid batch header or record. `None` at the end, and before numbers that are void.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        loop {
            let start = self.position;
            match self.piece(start)? {
                Some((start, Piece::Batch(header))) => {
                    if header.first >= self.numbers.end {
                        return Ok(None);
                    }
                    let end = header.end_position(start);
                    self.position = start + BATCH_HEADER;
                    return Ok(Some(Found::Batch { header, start, end }));
                }
                Some((start, Piece::Record(head, sum))) => {
                    if head.number >= self.numbers.end {
                        return Ok(None);
                    }
                    let end = start + HEAD + head.rest_len();
                    self.position = end;
                    // Its own checksum vouches for the length, even if the payload is damaged.
                    if head.number >= self.numbers.start && self.payload_is_valid(start, &head, sum)? {
                        self.numbers.start = head.number + 1;
                        return self.record(start..end, head);
                    }
                }
                None => match self.search(start + 1)? {
                    Some(found) => self.position = found,
                    None => return Ok(None),
                },
            }
        }
    }

    fn record(&mut self, place: Range<u64>, head: RecordHead) -> io::Result<Option<Found>> {
        let RecordHead { len, number, published } = head;
        let payload = self.stream.get_bytes(place.start + HEAD, u64::from(len))?;
        Ok(payload.map(|payload| Found::Record { number, published, payload, place }))
    }

    fn payload_is_valid(&mut self, start: u64, head: &RecordHead, sum: Sum) -> io::Result<bool> {
        // The head, too, so that a search that goes back finds both in memory.
        let record = self.stream.get(start, HEAD + head.rest_len())?;
        let rest = record.and_then(|record| record.get(RECORD_HEAD_LEN..));
        Ok(rest.and_then(|rest| head.payload(rest, sum)).is_some())
    }

    /// What begins at this position, or behind the end of a batch and the padding at this position.
    fn piece(&mut self, position: u64) -> io::Result<Option<(u64, Piece)>> {
        if let Some((head, sum)) = self.record_head(position)? {
            return Ok(Some((position, Piece::Record(head, sum))));
        }
        let ends = self.stream.get(position, BATCH_END_LEN)?.is_some_and(|end| end == [BATCH_END]);
        let position = if ends { position + BATCH_END_LEN } else { position };
        let start = batch_start(position, self.fresh_blocks);
        let padding = self.stream.get(position, start - position)?;
        if padding.is_none_or(|padding| padding.iter().any(|byte| *byte != 0)) {
            // There may be records in between.
            return Ok(None);
        }
        let header = self.stream.get(start, BATCH_HEADER)?;
        let header = header.and_then(|bytes| BatchHeader::decode(bytes, &self.checksum, offset_of(start)));
        Ok(header.map(|header| (start, Piece::Batch(header))))
    }

    fn record_head(&mut self, position: u64) -> io::Result<Option<(RecordHead, Sum)>> {
        let Some(bytes) = self.stream.get(position, HEAD)? else { return Ok(None) };
        Ok(RecordHead::decode(bytes, &self.checksum, offset_of(position)))
    }

    /// The first position at or behind this one where a batch header or the head of a record is valid.
    fn search(&mut self, mut position: u64) -> io::Result<Option<u64>> {
        let (numbers, checksum) = (self.numbers.clone(), self.checksum.clone());
        while position < self.stream.len() {
            let end = self.stream.len();
            let window = self.stream.window(position, SEARCH)?;
            let is_last = position + to_u64(window.len()) >= end;
            // What does not fit the window is looked at in the next one.
            let longest = if is_last { RECORD_HEAD_LEN } else { BATCH_HEADER_LEN };
            if window.len() < longest {
                return Ok(None);
            }
            let mut at = 0;
            while at + longest <= window.len() {
                let rest = window.get(at..).unwrap_or_default();
                if valid_at(rest, position + to_u64(at), &numbers, &checksum) {
                    return Ok(Some(position + to_u64(at)));
                }
                at += 1 + skippable(rest);
            }
            position += to_u64(at);
        }
        Ok(None)
    }
}

/// Whether these bytes begin with a batch header or the head of a record.
fn valid_at(bytes: &[u8], position: u64, numbers: &Range<u64>, checksum: &Checksum) -> bool {
    // The number first: it is compared in no time, and a checksum takes a while.
    let record = u64_at(bytes, 4).is_some_and(|number| numbers.contains(&number))
        && bytes
            .get(..RECORD_HEAD_LEN)
            .and_then(|bytes| RecordHead::decode(bytes, checksum, offset_of(position)))
            .is_some();
    record
        || u32_at(bytes, 0) == Some(BATCH_MAGIC)
            && unbroken(position, BATCH_HEADER) == position
            && bytes
                .get(..BATCH_HEADER_LEN)
                .and_then(|bytes| BatchHeader::decode(bytes, checksum, offset_of(position)))
                .is_some()
}

/// How many positions behind the first need no look, because everything from the first on is zero: a batch
/// header begins with its magic, and the head of a record has a checksum and a number.
fn skippable(bytes: &[u8]) -> usize {
    const STEP: usize = 256;
    match bytes.first_chunk::<STEP>() {
        Some(zeros) if zeros.iter().all(|byte| *byte == 0) => STEP - RECORD_HEAD_LEN,
        _ => 0,
    }
}
