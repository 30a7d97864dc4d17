//! The header of a segment, which is written twice.

use std::io;

use super::{
    checksum::{SALT_LEN, matches},
    disk::{DiskFile, read_full, write_all},
    layout::{BLOCK, BLOCK_LEN},
};
use crate::events::event_store::MAX_NUMBER;

pub(super) const MAGIC: [u8; 8] = *b"palyra\x00\xE5";
pub(super) const VERSION: u32 = 2;
pub(super) const HEADER_LEN: usize = 84;
/// Where the two copies are. They are in different blocks, which one fault of a disk rarely hits together.
pub(super) const COPIES: [u64; 2] = [0, BLOCK];

/// More than any file system allows.
const MAX_CAPACITY: u64 = u64::MAX / 4;

const FLAG_FILLED: u32 = 1;
const FLAG_FRESH_BLOCKS: u32 = 2;
const FLAG_CLOSED: u32 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) epoch: u64,
    /// Events from this number on are in this segment or in newer ones, whatever older segments contain.
    pub(super) first: u64,
    /// Events below this number were discarded.
    pub(super) floor: u64,
    /// All events up to this number were durable when the header was written.
    pub(super) durable: u64,
    /// Of the events behind this number and up to `durable`, it is not known whether they were published.
    pub(super) certain: u64,
    /// The length that the file may reach.
    pub(super) capacity: u64,
    pub(super) salt: [u8; SALT_LEN],
    /// Whether the file had its full length, with stamps in all sectors, before the first batch.
    pub(super) filled: bool,
    /// Whether each batch begins in a block of its own.
    pub(super) fresh_blocks: bool,
    /// Whether nothing was appended since `durable` was written.
    pub(super) closed: bool,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let Self { epoch, first, floor, durable, certain, capacity, salt, filled, fresh_blocks, closed } =
            self;
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags =
            flag(*filled, FLAG_FILLED) | flag(*fresh_blocks, FLAG_FRESH_BLOCKS) | flag(*closed, FLAG_CLOSED);
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        for number in [epoch, first, floor, durable, certain, capacity] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(salt);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let mut header = [0; HEADER_LEN];
        header.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        header
    }

    /// A copy with the zeros behind it: a block that cannot be read can be written only as a whole.
    fn block(&self) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        block.iter_mut().zip(self.encode()).for_each(|(to, from)| *to = from);
        block
    }

    /// `Ok(None)` if this is no header, or a damaged one.
    ///
    /// # Errors
    ///
    /// If the segment was written by a later version of the format.
    fn decode(bytes: &[u8]) -> io::Result<Option<Self>> {
        let bytes = bytes.get(..HEADER_LEN);
        let Some((content, crc)) = bytes.and_then(|bytes| bytes.split_last_chunk::<4>()) else {
            return Ok(None);
        };
        let (Some(crc), Some(version), Some(flags)) =
            (u32_at(crc, 0), u32_at(content, 8), u32_at(content, 12))
        else {
            return Ok(None);
        };
        // Of every version, the first twelve bytes have this meaning.
        if !content.starts_with(&MAGIC) {
            return Ok(None);
        }
        if !matches(crc, crc32fast::hash(content)) {
            return Ok(None);
        }
        if version != VERSION {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("a segment is of format {version}, and this version of palyra-quic reads {VERSION}"),
            ));
        }
        let number = |at| u64_at(content, at).unwrap_or_default();
        let mut salt = [0; SALT_LEN];
        salt.iter_mut().zip(content.iter().skip(64)).for_each(|(to, from)| *to = *from);
        Ok(Some(Self {
            epoch: number(16),
            first: number(24),
            floor: number(32),
            durable: number(40),
            certain: number(48),
            capacity: number(56),
            salt,
            filled: flags & FLAG_FILLED != 0,
            fresh_blocks: flags & FLAG_FRESH_BLOCKS != 0,
            closed: flags & FLAG_CLOSED != 0,
        }))
    }

    /// Reads both copies, and returns the newer valid one; `None` if both are damaged, or belong to a
    /// segment that begins with another number than `first`.
    ///
    /// # Errors
    ///
    /// If a copy cannot be read, and the other one is not valid; if a later version of the format wrote one.
    pub(super) fn read(file: &dyn DiskFile, first: u64) -> io::Result<Option<Self>> {
        let [one, other] = COPIES;
        let mut copies = vec![Self::read_copy(file, one), Self::read_copy(file, other)];
        if !copies.iter().any(|copy| matches!(copy, Ok(Some(_)))) {
            // A writer that replaces them one after the other may have been at each when it was read. Then
            // the first one is finished.
            copies.push(Self::read_copy(file, one));
        }
        // The copies differ if power was lost between the writes. No event is appended before both are on
        // disk, so that both are true, and the newer one says more.
        let mut newest: Option<Self> = None;
        let mut failure = None;
        for copy in copies {
            match copy {
                Ok(copy) => {
                    let copy = copy.filter(|header| header.is_of(first));
                    newest = newest.into_iter().chain(copy).max_by_key(Self::age);
                }
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return Err(error),
                Err(error) => failure = Some(error),
            }
        }
        match (newest, failure) {
            (None, Some(error)) => Err(error),
            (newest, _) => Ok(newest),
        }
    }

    /// The greater one is of the newer copy.
    fn age(&self) -> (u64, bool, u64) {
        (self.durable, self.closed, self.floor)
    }

    /// Whether this header makes sense in the segment with this first number. Then its numbers and its
    /// capacity can be added to without overflow.
    fn is_of(&self, first: u64) -> bool {
        let Self { floor, durable, certain, capacity, .. } = *self;
        self.first == first
            && [first, floor, durable, certain].iter().all(|number| *number <= MAX_NUMBER)
            && (2 * BLOCK..=MAX_CAPACITY).contains(&capacity)
    }

    fn read_copy(file: &dyn DiskFile, offset: u64) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEADER_LEN];
        let len = read_full(file, offset, &mut bytes)?;
        Self::decode(bytes.get(..len).unwrap_or_default())
    }

    /// The first number of those that may never have been used, although they are below the end of the
    /// segment.
    pub(super) fn uncertain_from(&self) -> u64 {
        if self.certain < self.durable { self.certain.saturating_add(1) } else { u64::MAX }
    }

    /// Writes both copies of the header of a new file. The caller makes them durable.
    pub(super) fn write(&self, file: &dyn DiskFile) -> io::Result<()> {
        let bytes = self.block();
        COPIES.iter().try_for_each(|offset| write_all(file, *offset, &bytes))
    }

    /// Replaces both copies, one after the other, so that one of them is valid at any time.
    pub(super) fn replace(&self, file: &dyn DiskFile) -> io::Result<()> {
        let bytes = self.block();
        let [one, other] = COPIES;
        let order = match Self::read_copy(file, other) {
            Ok(Some(_)) => [one, other],
            Ok(None) => [other, one],
            // It is not replaced unless the first one is known to be valid.
            Err(error) => match Self::read_copy(file, one) {
                Ok(Some(_)) => [other, one],
                Ok(None) | Err(_) => return Err(error),
            },
        };
        order.iter().try_for_each(|offset| {
            write_all(file, *offset, &bytes)?;
            file.sync_data()
        })
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
