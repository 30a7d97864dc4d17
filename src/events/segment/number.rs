//! Lengths in memory and lengths in files.

/// Lossless on all machines that this crate runs on.
pub(super) fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Saturates where memory is addressed with 32 bits: more than that is never in memory.
pub(super) fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
