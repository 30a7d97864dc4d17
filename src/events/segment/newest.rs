//! The header of the newest segment once more, in a file of its own, which has two copies, too.
//!
//! If the newest segment is emptied, or both copies in it are damaged, this file still says which epoch it
//! has and which numbers were used. The headers of older segments are not missed as much: the names of the
//! segments say which numbers they had.

use std::io;

use super::{disk::Disk, header::Header, names::NEWEST};

/// The header, if a copy is valid and of the segment with this first number.
pub(super) fn load(disk: &dyn Disk, first: u64) -> io::Result<Option<Header>> {
    match disk.open(NEWEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => Header::read(&*file?, first),
    }
}

/// Replaces the copies. They are durable when this returns.
pub(super) fn save(disk: &dyn Disk, header: &Header) -> io::Result<()> {
    match disk.open(NEWEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            header.replace(&*disk.create(NEWEST)?)?;
            disk.sync_dir()
        }
        file => header.replace(&*file?),
    }
}
