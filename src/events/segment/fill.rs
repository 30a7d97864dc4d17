//! Fills holes of segments with events that another holder of the history still has.

use std::{io, ops::Range};

use super::{
    batch::{batch_start, encode, encoded_len},
    checksum::Checksum,
    create::random_salt,
    disk::{Disk, write_all},
    header::Header,
    layout::{BLOCK, end_offset_of},
    names::{FILL_NEW, fill_name},
    writer::{Target, make_room},
};
use crate::{
    events::event_store::{Batch, MAX_NUMBER},
    sync::lock,
};

/// The numbers of a batch that can fill a hole.
///
/// # Errors
///
/// If these are not numbers of one segment, below its newest event. Whether events are held there, the caller
/// finds out.
pub(super) fn numbers_to_fill(target: Target<'_>, batch: &Batch) -> io::Result<Range<u64>> {
    let numbers = batch.first..batch.end(batch.first)?;
    let index = lock(target.index);
    if index.is_closed {
        return Err(io::Error::other("the store is closed"));
    }
    if index.fillable(&numbers) == [numbers.clone()] {
        return Ok(numbers);
    }
    let Range { start, end } = numbers;
    let text = format!("events {start} to {} are not in one hole of a log", end.saturating_sub(1));
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// Removes old segments if a file with this batch would be too much.
///
/// # Errors
///
/// [`StorageFull`](io::ErrorKind::StorageFull) if the segment of the hole itself would have to go.
pub(super) fn make_room_for(target: Target<'_>, batch: &Batch) -> io::Result<()> {
    let bytes = file_len(batch)?;
    if !lock(target.index).has_space(batch.first, bytes, target.layout.max_bytes) {
        let text = format!("event {} is older than what fits into the log", batch.first);
        return Err(io::Error::new(io::ErrorKind::StorageFull, text));
    }
    make_room(target, bytes)
}

/// Writes a file with this batch under a temporary name, and makes it durable.
pub(super) fn write(disk: &dyn Disk, epoch: u64, batch: &Batch) -> io::Result<()> {
    let written = write_new(disk, epoch, batch);
    if written.is_err() {
        // A full disk needs the space.
        let _ = disk.unlink(FILL_NEW);
    }
    written
}

/// Gives the file that was written its name, and makes that durable.
pub(super) fn publish(target: Target<'_>, batch: &Batch, numbers: &Range<u64>) -> io::Result<()> {
    let Target { disk, index, .. } = target;
    // The segment may be gone meanwhile.
    if lock(index).fillable(numbers) != [numbers.clone()] {
        let _ = disk.unlink(FILL_NEW);
        let text = format!("event {} was discarded meanwhile", numbers.start);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let name = fill_name(numbers);
    disk.rename(FILL_NEW, &name)?;
    if let Err(error) = disk.sync_dir() {
        // It counts only if it is certain to stay. Otherwise what a reader gets may be a hole again later.
        let _ = disk.unlink(&name);
        return Err(error);
    }
    lock(index).add_fill(numbers.clone(), file_len(batch)?);
    Ok(())
}

fn write_new(disk: &dyn Disk, epoch: u64, batch: &Batch) -> io::Result<()> {
    let last = batch.end(batch.first)?.saturating_sub(1).min(MAX_NUMBER);
    let header = Header {
        epoch,
        first: batch.first,
        floor: batch.first,
        durable: last,
        certain: last,
        capacity: file_len(batch)?.next_multiple_of(BLOCK),
        salt: random_salt(),
        filled: false,
        fresh_blocks: false,
        closed: true,
    };
    let file = disk.create(FILL_NEW)?;
    header.write(&*file)?;
    let position = batch_start(0, header.fresh_blocks);
    let encoded = encode(batch, batch.first.saturating_sub(1), position, &Checksum::new(&header.salt))?;
    write_all(&*file, encoded.offset, &encoded.bytes)?;
    #[cfg(test)]
    if super::sabotage::is(super::sabotage::Sabotage::NameFillEarly) {
        return Ok(());
    }
    file.sync_data()
}

/// The length of a file that has only this batch.
fn file_len(batch: &Batch) -> io::Result<u64> {
    Ok(end_offset_of(encoded_len(&batch.events)?))
}
