//! Why this side failed a handshake, and the error that says so.

use std::io;

use rustls::CertificateError;

use super::fingerprint::Fingerprint;
use crate::{
    error::{Error, ErrorKind},
    limits::Oversized,
};

#[derive(Debug)]
pub(super) enum HandshakeFailure {
    /// The chain is valid, and its first certificate is this one instead of a pinned one.
    PinMismatch(Fingerprint),
    /// A server's, with what is wrong with it in plain words.
    ServerCertificate { error: rustls::Error, words: String },
    /// A client's, in plain words.
    ClientCertificate(String),
    /// The chain is larger than this side takes.
    Oversized(Oversized),
    /// The wall clock has failed since the attempt began, which is nobody's fault but ours.
    NoTime,
}

impl HandshakeFailure {
    pub(super) fn to_error(&self) -> Error {
        match self {
            Self::PinMismatch(presented) => Error::new(ErrorKind::PinMismatch).detail(format!(
                "the server presented {presented}, which is not pinned: pin it, if this is the right server"
            )),
            Self::ServerCertificate { error: rustls::Error::InvalidCertificate(error), words } => {
                invalid_certificate(error, words.clone())
            }
            Self::ServerCertificate { words, .. } | Self::ClientCertificate(words) => {
                Error::new(ErrorKind::PeerCertificate).detail(words.clone())
            }
            Self::Oversized(oversized) => oversized_peer(*oversized),
            Self::NoTime => no_time(),
        }
    }
}

pub(super) fn oversized_peer(oversized: Oversized) -> Error {
    Error::new(ErrorKind::PeerCertificate).detail(oversized.to_string())
}

/// A certificate that was not acceptable, or that this side could not judge; in these words.
pub(super) fn invalid_certificate(error: &CertificateError, words: String) -> Error {
    use CertificateError as E;
    let unacceptable = Error::new(ErrorKind::PeerCertificate).detail(words);
    match error {
        E::NotValidYet
        | E::NotValidYetContext { .. }
        | E::ExpiredRevocationList
        | E::ExpiredRevocationListContext { .. } => unacceptable.temporary(),
        _ => unacceptable,
    }
}

/// Without a time, no certificate can be judged: the wall clock has failed.
pub(crate) fn no_time() -> Error {
    io::Error::other("the wall clock has failed, and certificates cannot be judged").into()
}
