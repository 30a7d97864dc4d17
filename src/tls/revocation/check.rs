//! What verifiers and open connections ask of a revocation list.

use std::{fmt, time::Duration};

use event_listener::EventListener;
use rustls::{
    CertificateError,
    pki_types::{CertificateDer, UnixTime},
};

/// Implemented by [`RevocationList`](super::RevocationList) alone. A trait, so that a program that never
/// hands out a list does not contain its code.
pub(crate) trait RevocationCheck: fmt::Debug + Send + Sync {
    /// What the list says of these certificates.
    fn check(&self, path: &[PathCertificate<'_>], now: UnixTime) -> Result<(), CertificateError>;

    /// Resolves with the next change of the list.
    fn changed(&self) -> EventListener;

    /// Whether one of these certificates is revoked. CRLs that are out of date do not count.
    fn has_revoked(&self, chain: &[CertificateDer<'_>]) -> bool {
        // Before any list is out of date.
        let now = UnixTime::since_unix_epoch(Duration::ZERO);
        let chain: Vec<_> = chain.iter().map(PathCertificate::of_unknown_issuer).collect();
        self.check(&chain, now) == Err(CertificateError::Revoked)
    }
}

/// A certificate of a path, and the public key that has signed it, where that is known.
#[derive(Clone, Copy)]
pub(crate) struct PathCertificate<'a> {
    pub(crate) certificate: &'a CertificateDer<'a>,
    /// Without its tag and length.
    pub(crate) issuer_key: Option<&'a [u8]>,
}

impl<'a> PathCertificate<'a> {
    /// A certificate whose issuer nobody has told.
    pub(crate) const fn of_unknown_issuer(certificate: &'a CertificateDer<'a>) -> Self {
        Self { certificate, issuer_key: None }
    }
}
