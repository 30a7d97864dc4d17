//! Reads from a disk that fails: what can be read at another attempt, and around what cannot be read at all.
//!
//! All reads of a store go through here, those of headers, of events and of the report of damage, so that a
//! part of a file that stays unreadable costs what a part with changed bits costs: itself.

use std::{io, ops::Range, sync::Arc};

use super::{
    disk::{Disk, DiskFile, is_medium_error, read_full},
    header::COPIES,
    layout::BLOCK,
    names::NEWEST,
    number::{to_u64, to_usize},
};

/// A disk whose files contain [`UNREADABLE`] where they cannot be read.
///
/// A read that fails is repeated block by block. A block counts as unreadable after [`ATTEMPTS`] attempts,
/// and only if the disk answered between any two of them: the file `newest` could be read, and the directory
/// be synced, which needs the disk itself even if `newest` is in the memory of the operating system.
/// Otherwise the read fails, as it does while the whole disk is gone, and nothing counts as damaged.
pub(super) struct RetryingDisk(pub(super) Arc<dyn Disk>);

struct RetryingFile {
    disk: Arc<dyn Disk>,
    name: String,
    file: Arc<dyn DiskFile>,
}

/// A file that cannot be opened has no content. Nothing is written to it.
struct NoContent;

/// In the place of bytes that cannot be read. Neither zero, because a sector of zeros counts as one that was
/// never written, nor a mark or a part of any valid structure.
const UNREADABLE: u8 = 0xEE;
/// Of a medium error that comes and goes, all but one in 10,000 are survived if every tenth read fails.
const ATTEMPTS: u32 = 4;

impl Disk for RetryingDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(name).map(|file| self.retrying(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let Self(disk) = self;
        for attempt in 1.. {
            match disk.open(name) {
                Ok(file) => return Ok(self.retrying(name, file)),
                Err(error) if !is_medium_error(&error) || !answers(&**disk) => return Err(error),
                Err(error) if attempt == ATTEMPTS => {
                    tracing::warn!(file = name, %error, "a file of an event log cannot be opened");
                    break;
                }
                Err(_) => {}
            }
        }
        Ok(Arc::new(NoContent))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.0.unlink(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn prefers_filled_files(&self) -> bool {
        self.0.prefers_filled_files()
    }

    fn unlock(&self) {
        self.0.unlock();
    }
}

impl RetryingDisk {
    fn retrying(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(RetryingFile { disk: Arc::clone(&self.0), name: name.to_owned(), file })
    }
}

/// Whether the disk works, apart from the places that were just tried.
fn answers(disk: &dyn Disk) -> bool {
    #[cfg(test)]
    if super::sabotage::is(super::sabotage::Sabotage::TakeErrorsForDamage) {
        return true;
    }
    let Ok(newest) = disk.open(NEWEST) else { return false };
    let is_readable = |offset: &u64| newest.read_at(*offset, &mut [0]).is_ok_and(|read| read > 0);
    COPIES.iter().any(is_readable) && disk.sync_dir().is_ok()
}

impl DiskFile for RetryingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read_at(offset, buffer) {
            Err(error) if is_medium_error(&error) => self.read_blocks(offset, buffer, error),
            read => read,
        }
    }

    fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_cached_at(offset, buffer)
    }

    fn read_intact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_intact_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn linked_len(&self) -> io::Result<Option<u64>> {
        self.file.linked_len()
    }
}

impl RetryingFile {
    /// Fills the buffer, as far as the file goes. `error` is what the read of all of it at once gave.
    fn read_blocks(&self, offset: u64, buffer: &mut [u8], mut error: io::Error) -> io::Result<usize> {
        let mut end = buffer.len();
        let mut failed = blocks(offset, buffer.len());
        for attempt in 0..ATTEMPTS {
            if attempt > 0 && !answers(&*self.disk) {
                return Err(error);
            }
            let mut failed_again = Vec::new();
            for block in failed {
                let Some(part) = buffer.get_mut(block.clone()) else { continue };
                match read_full(&*self.file, offset.saturating_add(to_u64(block.start)), part) {
                    Ok(read) if read < part.len() => end = end.min(block.start + read),
                    Ok(_) => {}
                    Err(again) if is_medium_error(&again) => {
                        error = again;
                        failed_again.push(block);
                    }
                    Err(other) => return Err(other),
                }
            }
            failed = failed_again;
            if failed.is_empty() {
                return Ok(end);
            }
        }
        for block in failed {
            let at = offset.saturating_add(to_u64(block.start));
            tracing::warn!(file = self.name, offset = at, %error, "a part of an event log cannot be read");
            buffer.get_mut(block).unwrap_or_default().fill(UNREADABLE);
        }
        Ok(end)
    }
}

/// The parts of a buffer that are in one block each, if the buffer is for the content at this offset.
fn blocks(offset: u64, len: usize) -> Vec<Range<usize>> {
    let to_next = |at: usize| BLOCK - offset.saturating_add(to_u64(at)) % BLOCK;
    let mut blocks = Vec::new();
    let mut start = 0;
    while start < len {
        let end = start.saturating_add(to_usize(to_next(start))).min(len);
        blocks.push(start..end);
        start = end;
    }
    blocks
}

impl DiskFile for NoContent {
    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("the file cannot be opened"))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn linked_len(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
}
