//! What the store needs from a file system, so that tests can put a disk that fails in its place.

use std::{io, sync::Arc};

/// One directory, open and locked.
pub(in crate::events) trait Disk: Send + Sync + 'static {
    /// The names of all entries, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes an empty file, in the place of one that has this name already.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file to read and write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, in the place of one that has this name already.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn unlink(&self, name: &str) -> io::Result<()>;

    /// Makes the names durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Whether files are to be filled before use, because writing into allocated and initialized
    /// space changes no metadata on this file system.
    fn prefers_filled_files(&self) -> bool;

    /// Lets another process, or another store in this one, open the directory.
    fn unlock(&self);
}

pub(in crate::events) trait DiskFile: Send + Sync {
    /// Reads up to this many bytes; 0 at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// As [`read_at`](Self::read_at), but only what is in memory: an error if this would have to wait for the
    /// medium.
    fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let _ = (offset, buffer);
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// As [`read_at`](Self::read_at), for bytes that are to be written again: an error if one of them cannot
    /// be read, even where `read_at` has something else for it.
    fn read_intact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_at(offset, buffer)
    }

    /// Writes at least one byte and up to all of them.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Makes content and length durable. After an error, bytes that were written may be lost later even if
    /// they can be read now, and another sync does not help.
    fn sync_data(&self) -> io::Result<()>;

    fn len(&self) -> io::Result<u64>;

    /// The length of a file that still has a name. `None` for one that was unlinked or replaced, which is
    /// lost with its last handle.
    fn linked_len(&self) -> io::Result<Option<u64>>;
}

/// Whether content cannot be read, or not now. Other errors say nothing about the content.
pub(in crate::events) fn is_medium_error(error: &io::Error) -> bool {
    let error = rustix::io::Errno::from_io_error(error);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if error == Some(rustix::io::Errno::UCLEAN) {
        return true;
    }
    // The second one, where a checksum of the file system is wrong.
    [Some(rustix::io::Errno::IO), Some(rustix::io::Errno::BADMSG)].contains(&error)
}

/// Writes all bytes, in several calls if need be.
pub(in crate::events) fn write_all(file: &dyn DiskFile, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(offset, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset = offset.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills the buffer from this offset on, as far as the file goes. Returns how many bytes were read.
pub(in crate::events) fn read_full(
    file: &dyn DiskFile,
    mut offset: u64,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(offset, rest) {
            Ok(0) => break,
            Ok(read) => {
                filled += read;
                offset = offset.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
