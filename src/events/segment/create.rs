//! Makes new segments.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io, slice,
    sync::Arc,
};

use super::{
    batch::{EncodedBatch, batch_start, encode, encoded_len},
    checksum::{Checksum, SALT_LEN},
    disk::{Disk, DiskFile, write_all},
    header::Header,
    layout::{BLOCK, DATA_START, SECTOR, SECTOR_BYTES, SECTOR_STREAM},
    names::{SEGMENT_NEW, segment_name},
    number::{to_u64, to_usize},
    survey::Recent,
    unwritten::Unwritten,
};
use crate::events::event_store::{Batch, Clocks};

/// What a new segment is to be.
pub(super) struct NewSegment<'a> {
    pub(super) epoch: u64,
    /// The next number, if there is nothing to rewrite.
    pub(super) next: u64,
    pub(super) floor: u64,
    /// The least length of the file.
    pub(super) bytes: u64,
    /// What the batch that is about to be appended takes in the stream.
    pub(super) batch_len: u64,
    pub(super) fresh_blocks: bool,
    /// Events of the segment before, which are in this one from its beginning.
    pub(super) rewritten: &'a [Recent],
    pub(super) clocks: Clocks,
}

/// A segment that is open for writing.
pub(super) struct Active {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) header: Header,
    pub(super) checksum: Checksum,
    /// The position of the stream behind the last batch.
    pub(super) end: u64,
}

/// Sectors are filled in pieces of this size.
const FILL_BYTES: u64 = 256 * 1024;

impl NewSegment<'_> {
    /// Makes the segment under a temporary name, makes it durable, and gives it its name. It is the newest
    /// segment from then on; the caller makes the name durable.
    ///
    /// Also returns the rewritten events with their new places.
    pub(super) fn create(&self, disk: &dyn Disk) -> io::Result<(Active, Vec<Recent>)> {
        let created = self.write(disk).and_then(|created| {
            disk.rename(SEGMENT_NEW, &segment_name(created.0.header.first))?;
            Ok(created)
        });
        if created.is_err() {
            // A full disk needs the space. If this fails, the next segment takes the name.
            let _ = disk.unlink(SEGMENT_NEW);
        }
        created
    }

    /// The length that the file may reach.
    pub(super) fn capacity(&self) -> io::Result<u64> {
        // As if each were a batch of its own, which is more than enough.
        let lens = self.rewritten.iter().map(|recent| encoded_len(slice::from_ref(&recent.event)));
        let rewritten = lens.sum::<io::Result<u64>>()?;
        // Two more blocks for padding.
        let sectors = (rewritten + self.batch_len).div_ceil(SECTOR_STREAM);
        let needed = DATA_START + sectors * SECTOR + 2 * BLOCK;
        Ok(self.bytes.max(needed).next_multiple_of(BLOCK))
    }

    fn write(&self, disk: &dyn Disk) -> io::Result<(Active, Vec<Recent>)> {
        let header = self.header(disk.prefers_filled_files())?;
        let file = disk.create(SEGMENT_NEW)?;
        if header.filled {
            fill(&*file, &header)?;
        }
        header.write(&*file)?;
        let checksum = Checksum::new(&header.salt);
        let mut active = Active { file, header, checksum, end: 0 };
        let mut places = Vec::with_capacity(self.rewritten.len());
        for run in self.runs() {
            let events = run.iter().map(|recent| recent.event.clone()).collect();
            let first = run.first().map_or(0, |recent| recent.number);
            let batch = Batch { first, events, clocks: self.clocks };
            let encoded = active.write(&batch, active.header.durable)?;
            places.extend(
                run.iter().zip(encoded.record_ends).map(|(recent, end)| Recent { end, ..recent.clone() }),
            );
        }
        #[cfg(test)]
        if super::sabotage::is(super::sabotage::Sabotage::RenameEarly) {
            return Ok((active, places));
        }
        active.file.sync_data()?;
        Ok((active, places))
    }

    fn header(&self, filled: bool) -> io::Result<Header> {
        Ok(Header {
            epoch: self.epoch,
            first: self.rewritten.first().map_or(self.next, |recent| recent.number),
            floor: self.floor,
            durable: self.next.saturating_sub(1),
            certain: self.next.saturating_sub(1),
            capacity: self.capacity()?,
            salt: random_salt(),
            filled,
            fresh_blocks: self.fresh_blocks,
            closed: false,
        })
    }

    /// The rewritten events, cut where numbers are missing.
    fn runs(&self) -> impl Iterator<Item = &[Recent]> {
        self.rewritten.chunk_by(|before, after| before.number + 1 == after.number)
    }
}

impl Active {
    /// Writes a batch behind the last one, in one call. It is not durable yet.
    pub(super) fn write(&mut self, batch: &Batch, durable: u64) -> io::Result<EncodedBatch> {
        let start = batch_start(self.end, self.header.fresh_blocks);
        let encoded = encode(batch, durable, start, &self.checksum)?;
        write_all(&*self.file, encoded.offset, &encoded.bytes)?;
        self.end = encoded.end;
        Ok(encoded)
    }
}

/// Gives the file its full length, with the stamps of sectors that are not written yet.
fn fill(file: &dyn DiskFile, header: &Header) -> io::Result<()> {
    let unwritten = Unwritten::of(header);
    write_all(file, 0, &vec![0; to_usize(DATA_START)])?;
    let mut offset = DATA_START;
    while offset < header.capacity {
        let end = header.capacity.min(offset + FILL_BYTES);
        let mut piece = Vec::with_capacity(to_usize(FILL_BYTES));
        let sectors = (offset..end).step_by(SECTOR_BYTES);
        sectors.for_each(|sector| piece.extend_from_slice(&unwritten.sector(sector)));
        write_all(file, offset, &piece)?;
        offset += to_u64(piece.len());
    }
    Ok(())
}

pub(super) fn random_salt() -> [u8; SALT_LEN] {
    // The standard library seeds its hashers from the operating system.
    let random = || RandomState::new().build_hasher().finish().to_le_bytes();
    let (low, high) = (random(), random());
    let mut salt = [0; SALT_LEN];
    salt.iter_mut().zip(low.into_iter().chain(high)).for_each(|(to, from)| *to = from);
    salt
}
