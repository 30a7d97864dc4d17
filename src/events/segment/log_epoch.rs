//! The epoch of the log, where it is another one than that of the segments.
//!
//! An origin whose mirror is ahead of it begins a new epoch with all that it holds. The segments stay as they
//! are: a small file says how their epoch is called from then on. It is replaced as a whole, so that the
//! change takes effect with one name.

use std::io;

use super::{
    checksum::matches,
    disk::{Disk, read_full, write_all},
    header::{u32_at, u64_at},
    names::{EPOCH, EPOCH_NEW},
};
use crate::events::event_store::MAX_NUMBER;

const MAGIC: [u8; 8] = *b"palyra\x00\xE9";
const LEN: usize = 28;

/// The epoch of a log whose segments have the epoch `of_segments`. If the file is damaged, it is a new one:
/// with the epoch of the segments, numbers could come twice.
pub(super) fn load(disk: &dyn Disk, of_segments: u64, new_epoch: &dyn Fn() -> u64) -> io::Result<u64> {
    let file = match disk.open(EPOCH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(of_segments),
        file => file?,
    };
    let mut bytes = [0; LEN];
    let read = read_full(&*file, 0, &mut bytes)?;
    match decode(bytes.get(..read).unwrap_or_default()) {
        Some((segments, epoch)) if segments == of_segments => Ok(epoch),
        // What it says is of segments that are gone.
        Some(_) => Ok(of_segments),
        None => {
            let epoch = new_epoch();
            tracing::warn!(epoch, "the epoch of an event log is lost to damage: another one begins");
            save(disk, of_segments, epoch)?;
            Ok(epoch)
        }
    }
}

/// Calls the epoch of the segments by another number. Durable when this returns.
pub(super) fn save(disk: &dyn Disk, of_segments: u64, epoch: u64) -> io::Result<()> {
    let file = disk.create(EPOCH_NEW)?;
    write_all(&*file, 0, &encode(of_segments, epoch))?;
    file.sync_data()?;
    disk.rename(EPOCH_NEW, EPOCH)?;
    disk.sync_dir()
}

fn encode(of_segments: u64, epoch: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&of_segments.to_le_bytes());
    bytes.extend_from_slice(&epoch.to_le_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u64, u64)> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    let is_sound = bytes.len() == LEN && content.starts_with(&MAGIC);
    let is_sound = is_sound && matches(u32_at(crc, 0)?, crc32fast::hash(content));
    let (segments, epoch) = (u64_at(content, 8)?, u64_at(content, 16)?);
    (is_sound && (1..=MAX_NUMBER).contains(&epoch)).then_some((segments, epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_other_bit_is_noticed() {
        let mut bytes = encode(5, 6);
        assert_eq!(decode(&bytes), Some((5, 6)));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert_eq!(decode(&bytes), None, "bit {bit} of byte {at}");
                bytes[at] ^= 1 << bit;
            }
        }
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), None, "{len} bytes");
        }
        assert_eq!(decode(&encode(5, 0)), None);
        assert_eq!(decode(&encode(5, MAX_NUMBER + 1)), None);
    }
}
