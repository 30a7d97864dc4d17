//! Memory for what is read from segments, which is used again.

use std::sync::Arc;

use bytes::Bytes;

use super::number::to_usize;
use crate::sync::{Mutex, lock};

/// Buffers that nobody uses at the moment.
///
/// Events are read on threads that come and go, and an allocator may keep memory for each of them: with these
/// buffers, it need not, because hardly anything is allocated there.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// At most [`MAX_FREE`], all of [`READ_BYTES`].
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer that goes back to where it came from.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// How many of the bytes are used.
    len: usize,
    home: Arc<Buffers>,
}

/// What is read in one call unless a record is larger: about what a subscriber is sent together. The rest
/// would be read again, or stay in memory for a subscriber that does not read.
pub(super) const READ_BYTES: u64 = 20 * 1024;
/// A log reads for this many subscribers at a time.
const MAX_FREE: usize = 4;

impl Buffers {
    /// A buffer of this length, with any content.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let usual = to_usize(READ_BYTES);
        let free = if len <= usual { lock(&self.free).pop() } else { None };
        let bytes = free.unwrap_or_else(|| vec![0; len.max(usual)]);
        Buffer { bytes, len, home: Arc::clone(self) }
    }
}

impl Buffer {
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }

    /// The first `len` bytes. The buffer is free again with the last part of them.
    pub(super) fn into_bytes(mut self, len: usize) -> Bytes {
        self.len = len.min(self.len);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = lock(&self.home.free);
        if bytes.len() == to_usize(READ_BYTES) && free.len() < MAX_FREE {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_the_last_part_of_it_is_dropped() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take(10);
        buffer.as_mut().fill(7);
        let bytes = buffer.into_bytes(8);
        assert_eq!(bytes, vec![7; 8]);
        let (start, part) = (bytes.as_ptr(), bytes.slice(2..3));
        drop(bytes);
        assert_ne!(buffers.take(10).into_bytes(10).as_ptr(), start, "a part of it is in use");
        drop(part);
        assert_eq!(buffers.take(10).into_bytes(10).as_ptr(), start);
    }

    #[test]
    fn few_buffers_are_kept_and_no_large_one() {
        let buffers = Arc::new(Buffers::default());
        let usual: Vec<_> = (0..MAX_FREE + 5).map(|_| buffers.take(1)).collect();
        drop((usual, buffers.take(to_usize(READ_BYTES) + 1)));
        let free = lock(&buffers.free);
        assert_eq!(free.len(), MAX_FREE);
        assert!(free.iter().all(|bytes| bytes.len() == to_usize(READ_BYTES)));
    }
}
