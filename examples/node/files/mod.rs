//! Files of one folder, sent and fetched in pieces: the methods, their messages, and both sides of them.
//!
//! An upload asks `file.offer` how much the node has of this content, and sends the rest behind `file.put`. A
//! download asks `file.stat` for the size and the hash, and gets what it lacks from `file.get`. Both write
//! into a partial file ([`partial`]), which gets its name when the hash is right.
//!
//! Nothing here depends on the command line, so that tests and benchmarks use it as well.

pub(crate) mod client;
pub(crate) mod content;
pub(crate) mod copy;
pub(crate) mod disk;
pub(crate) mod error;
pub(crate) mod folder;
pub(crate) mod methods;
pub(crate) mod name;
mod name_lock;
pub(crate) mod partial;
pub(crate) mod transfers;

use palyra_quic::{
    BidiMethod, ItemsMethod, Method, Raw,
    minicbor::{Decode, Encode},
};

use self::{content::Content, name::FileName};

/// How much of a content the node has.
pub(crate) const OFFER: Method<Content, Offer> = Method::new("file.offer");
/// Takes the rest of a content as items of bytes, and answers when the file has its name.
pub(crate) const PUT: ItemsMethod<From, Raw, ()> = ItemsMethod::new("file.put");
/// The size and the hash of a file.
pub(crate) const STAT: Method<FileName, Content> = Method::new("file.stat");
/// Answers with the rest of a content, in bytes, and takes no items. It is a method with items because the
/// time limit of such a handler is one for silence, and not one for the whole transfer.
pub(crate) const GET: BidiMethod<From, Raw, Raw> = BidiMethod::new("file.get");

/// The answer of [`OFFER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Offer {
    /// How many bytes the node has already.
    #[n(0)]
    pub(crate) offset: u64,
    /// Whether the file has its name already.
    #[n(1)]
    pub(crate) complete: bool,
    /// The longest item that the node takes, in bytes.
    #[n(2)]
    pub(crate) max_piece: u32,
}

/// A content, from this offset on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct From {
    #[n(0)]
    pub(crate) content: Content,
    #[n(1)]
    pub(crate) offset: u64,
}
