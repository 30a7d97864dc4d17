//! Batches and records as bytes.

use std::{io, time::Duration};

use super::{
    checksum::{Checksum, Sum, matches},
    header::{u32_at, u64_at},
    layout::{BATCH_END, MARK, SECTOR, end_offset_of, next_block, offset_of, unbroken},
    number::{to_u64, to_usize},
};
use crate::events::event_store::{Batch, Clocks, StoredEvent};

pub(super) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"\xB5btc");
pub(super) const BATCH_HEADER_LEN: usize = 48;
/// What is behind the records of a batch: [`BATCH_END`].
pub(super) const BATCH_END_LEN: u64 = 1;
/// A record without its payload and the checksum behind it.
pub(super) const RECORD_HEAD_LEN: usize = 24;
const CRC_LEN: usize = 4;
/// The bytes of a record beside its payload.
pub(super) const RECORD_OVERHEAD: usize = RECORD_HEAD_LEN + CRC_LEN;

/// What precedes the records of a batch. It is in one sector, and so written completely or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    /// The length of all records in the stream.
    pub(super) body: u32,
    pub(super) first: u64,
    pub(super) count: u32,
    /// The number of the last event that was durable before this batch.
    pub(super) durable: u64,
    pub(super) clocks: Clocks,
}

/// What precedes the payload of a record. It has a checksum of its own, so that a search for records need
/// not trust a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) len: u32,
    pub(super) number: u64,
    pub(super) published: Duration,
}

impl BatchHeader {
    /// The number behind the last event.
    pub(super) fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }

    /// The position behind the batch, if this header is at `start`.
    pub(super) fn end_position(&self, start: u64) -> u64 {
        start + to_u64(BATCH_HEADER_LEN) + u64::from(self.body) + BATCH_END_LEN
    }

    fn encode(&self, checksum: &Checksum, offset: u64) -> Vec<u8> {
        let Self { body, first, count, durable, clocks } = self;
        let mut bytes = Vec::with_capacity(BATCH_HEADER_LEN);
        bytes.extend_from_slice(&BATCH_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&body.to_le_bytes());
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&durable.to_le_bytes());
        bytes.extend_from_slice(&millis(clocks.log).to_le_bytes());
        bytes.extend_from_slice(&millis(clocks.wall).to_le_bytes());
        let crc = checksum.of(offset, &[&bytes]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if these bytes, which are at `offset` in the file, are no valid header of a batch.
    pub(super) fn decode(bytes: &[u8], checksum: &Checksum, offset: u64) -> Option<Self> {
        let (content, crc) = bytes.split_at_checked(BATCH_HEADER_LEN - CRC_LEN)?;
        if u32_at(content, 0)? != BATCH_MAGIC || !matches(u32_at(crc, 0)?, checksum.of(offset, &[content])) {
            return None;
        }
        Some(Self {
            body: u32_at(content, 4)?,
            first: u64_at(content, 8)?,
            count: u32_at(content, 16)?,
            durable: u64_at(content, 20)?,
            clocks: Clocks {
                log: Duration::from_millis(u64_at(content, 28)?),
                wall: Duration::from_millis(u64_at(content, 36)?),
            },
        })
    }
}

impl RecordHead {
    fn encode(&self) -> [u8; RECORD_HEAD_LEN - CRC_LEN] {
        let mut bytes = [0; RECORD_HEAD_LEN - CRC_LEN];
        let (len, number) = (self.len.to_le_bytes(), self.number.to_le_bytes());
        let fields = len.into_iter().chain(number).chain(millis(self.published).to_le_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// With the checksum so far, for the payload. `None` if these bytes, which are at `offset` in the file,
    /// are no valid head of a record.
    pub(super) fn decode(bytes: &[u8], checksum: &Checksum, offset: u64) -> Option<(Self, Sum)> {
        let (content, crc) = bytes.split_at_checked(RECORD_HEAD_LEN - CRC_LEN)?;
        let mut sum = checksum.begin(offset);
        sum.add(content);
        if !matches(u32_at(crc, 0)?, sum.clone().finish()) {
            return None;
        }
        let (len, number) = (u32_at(content, 0)?, u64_at(content, 4)?);
        Some((Self { len, number, published: Duration::from_millis(u64_at(content, 12)?) }, sum))
    }

    /// The length of the payload and the checksum behind it.
    pub(super) fn rest_len(&self) -> u64 {
        u64::from(self.len) + to_u64(CRC_LEN)
    }

    /// The payload, if `rest`, the bytes behind this head, has the right checksum. `sum` is that of the head.
    pub(super) fn payload<'r>(&self, rest: &'r [u8], mut sum: Sum) -> Option<&'r [u8]> {
        let (payload, crc) = rest.split_at_checked(to_usize(u64::from(self.len)))?;
        sum.add(payload);
        matches(u32_at(crc, 0)?, sum.finish()).then_some(payload)
    }
}

/// Where the header of the next batch is, if the stream ends at `position`.
pub(super) fn batch_start(position: u64, fresh_blocks: bool) -> u64 {
    if fresh_blocks { next_block(position) } else { unbroken(position, to_u64(BATCH_HEADER_LEN)) }
}

/// The bytes that a batch takes in the stream.
///
/// # Errors
///
/// If it does not fit the lengths of the format.
pub(super) fn encoded_len(events: &[StoredEvent]) -> io::Result<u64> {
    let body = events.iter().map(|event| to_u64(event.payload.len()) + to_u64(RECORD_OVERHEAD)).sum::<u64>();
    u32::try_from(body)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a batch of 4 GiB or more"))?;
    Ok(to_u64(BATCH_HEADER_LEN) + body + BATCH_END_LEN)
}

/// A batch as it is written to a file.
pub(super) struct EncodedBatch {
    /// Where `bytes` begins in the file.
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// The position of the stream behind the batch.
    pub(super) end: u64,
    /// For each event, the position of the stream behind its record.
    pub(super) record_ends: Vec<u64>,
}

/// Encodes a batch whose header is at `position`, as [`batch_start`] gives it.
pub(super) fn encode(
    batch: &Batch,
    durable: u64,
    position: u64,
    checksum: &Checksum,
) -> io::Result<EncodedBatch> {
    let len = encoded_len(&batch.events)?;
    let header = BatchHeader {
        body: u32::try_from(len - to_u64(BATCH_HEADER_LEN) - BATCH_END_LEN).unwrap_or(u32::MAX),
        first: batch.first,
        count: u32::try_from(batch.events.len()).unwrap_or(u32::MAX),
        durable,
        clocks: batch.clocks,
    };
    let mut stream = MarkedStream::new(position, len);
    stream.push(&header.encode(checksum, offset_of(position)));
    let mut record_ends = Vec::with_capacity(batch.events.len());
    for (number, event) in (batch.first..).zip(&batch.events) {
        let len = u32::try_from(event.payload.len()).unwrap_or(u32::MAX);
        let head = RecordHead { len, number, published: event.published }.encode();
        let offset = offset_of(stream.position);
        stream.push(&head);
        stream.push(&checksum.of(offset, &[&head]).to_le_bytes());
        stream.push(&event.payload);
        stream.push(&checksum.of(offset, &[&head, &event.payload]).to_le_bytes());
        record_ends.push(stream.position);
    }
    stream.push(&[BATCH_END]);
    Ok(EncodedBatch { offset: stream.offset, bytes: stream.bytes, end: stream.position, record_ends })
}

/// A part of the stream with the marks of its sectors.
struct MarkedStream {
    offset: u64,
    bytes: Vec<u8>,
    position: u64,
}

impl MarkedStream {
    fn new(position: u64, len: u64) -> Self {
        // With the mark, if this is the first byte of a sector.
        let byte = offset_of(position);
        let offset = if byte % SECTOR == 1 { byte - 1 } else { byte };
        let end = end_offset_of(position.saturating_add(len));
        Self { offset, bytes: Vec::with_capacity(to_usize(end.saturating_sub(offset))), position }
    }

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let in_sector = offset_of(self.position) % SECTOR;
            if in_sector == 1 {
                self.bytes.push(MARK);
            }
            let room = to_usize(SECTOR - in_sector).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.bytes.extend_from_slice(now);
            self.position += to_u64(room);
            bytes = later;
        }
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::events::segment::layout::{DATA_START, SECTOR_STREAM};

    fn batch(first: u64, payloads: &[Vec<u8>]) -> Batch {
        let event = |payload: &Vec<u8>| StoredEvent {
            payload: payload.clone().into(),
            published: Duration::from_millis(7),
        };
        Batch { first, events: payloads.iter().map(event).collect(), clocks: Clocks::default() }
    }

    proptest! {
        #[test]
        fn an_encoded_batch_has_the_lengths_that_it_announces(
            position in 0..3000_u64,
            payloads in vec(vec(any::<u8>(), 0..1500), 1..5),
        ) {
            let checksum = Checksum::new(&[1; 16]);
            let position = batch_start(position, false);
            let batch = batch(9, &payloads);
            let encoded = encode(&batch, 8, position, &checksum).unwrap();
            prop_assert_eq!(encoded.end, position + encoded_len(&batch.events).unwrap());
            prop_assert_eq!(encoded.offset + to_u64(encoded.bytes.len()), end_offset_of(encoded.end));
            prop_assert_eq!(encoded.record_ends.last(), Some(&(encoded.end - 1)));
            // Every sector that begins in here has its mark, and without the marks it is the stream.
            let (mut stream, mut offset) = (Vec::new(), encoded.offset);
            for byte in &encoded.bytes {
                if (offset - DATA_START).is_multiple_of(SECTOR) {
                    prop_assert_eq!(*byte, MARK);
                } else {
                    stream.push(*byte);
                }
                offset += 1;
            }
            let header = BatchHeader::decode(&stream, &checksum, offset_of(position)).unwrap();
            prop_assert_eq!((header.first, header.end(), header.durable), (9, 9 + to_u64(payloads.len()), 8));
            prop_assert_eq!(header.end_position(position), encoded.end);
            let mut rest = &stream[BATCH_HEADER_LEN..];
            let mut at = position + to_u64(BATCH_HEADER_LEN);
            for payload in &payloads {
                let (head, sum) = RecordHead::decode(&rest[..24], &checksum, offset_of(at)).unwrap();
                prop_assert!(RecordHead::decode(&rest[..24], &checksum, offset_of(at) + SECTOR).is_none());
                let (record, others) = rest.split_at(payload.len() + RECORD_OVERHEAD);
                let found = head.payload(&record[24..], sum);
                prop_assert_eq!(found, Some(&payload[..]));
                at += to_u64(record.len());
                rest = others;
            }
            prop_assert_eq!(rest, [BATCH_END]);
        }
    }

    #[test]
    fn the_header_of_a_batch_is_in_one_sector() {
        for position in 0..2000 {
            let start = batch_start(position, false);
            assert_eq!(start / SECTOR_STREAM, (start + to_u64(BATCH_HEADER_LEN) - 1) / SECTOR_STREAM);
            assert!(start - position < to_u64(BATCH_HEADER_LEN));
        }
    }
}
