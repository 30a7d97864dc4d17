//! What identifies the content of a file.

use std::fmt;

use palyra_quic::minicbor::{Decode, Encode};
use ring::digest::{Context, SHA256};

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

/// The SHA-256 of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Hash(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Computes a [`Hash`] piece by piece.
pub(crate) struct Hasher(Box<Context>);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(Box::new(Context::new(&SHA256)))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Hash {
        let digest = self.0.finish();
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        Hash(hash)
    }
}
