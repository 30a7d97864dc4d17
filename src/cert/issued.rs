//! A certificate with its private key.

use std::{fmt, sync::Arc};

use rustls::pki_types::CertificateDer;

use crate::tls::{Fingerprint, Identity};

/// A certificate that a [`CertificateAuthority`](super::CertificateAuthority) signed, with its private key.
///
/// [`Debug`] does not show the key.
#[derive(Clone)]
pub struct IssuedCertificate {
    pub(super) identity: Identity,
    pub(super) cert_pem: Arc<str>,
    pub(super) key_pem: Arc<str>,
}

impl IssuedCertificate {
    /// The certificate and its key, ready to be shown to peers.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// The certificate alone: the authority's own is what peers have already.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        self.identity.chain()
    }

    /// The certificate, as PEM.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The private key, as PEM (PKCS #8).
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The fingerprint of the certificate: what a peer would pin or revoke.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }
}

impl fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, cert_pem: _, key_pem: _ } = self;
        f.debug_struct("IssuedCertificate").field("identity", identity).finish_non_exhaustive()
    }
}
