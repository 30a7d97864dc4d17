//! What identifies the content of a file.

use std::fmt;

use palyra_quic::minicbor::{Decode, Encode};

use super::name::FileName;

/// A file with exactly these bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Content {
    #[n(0)]
    pub(crate) name: FileName,
    /// In bytes.
    #[n(1)]
    pub(crate) size: u64,
    #[n(2)]
    pub(crate) hash: Hash,
}

/// The BLAKE3 hash of a content, of the usual 32 bytes.
///
/// Both sides hash each byte, and have no time to spare: BLAKE3 takes a fraction of the time of SHA-256, most
/// of all on processors without instructions for SHA-256, and finds a changed byte as surely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Hash(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Computes a [`Hash`] piece by piece.
pub(crate) struct Hasher(Box<blake3::Hasher>);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(Box::new(blake3::Hasher::new()))
    }

    /// Fastest for pieces of 16 KiB and more, of which several parts are hashed at once.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}
