//! Certificates that are no longer believed, whoever signed them.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use event_listener::{Event, EventListener};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::Fingerprint;

/// Fingerprints of revoked certificates, which may change while endpoints run.
///
/// Handed to [`ServerTls::revocations`](super::ServerTls::revocations) and
/// [`ClientTls::revocations`](super::ClientTls::revocations), it is consulted in every handshake, about each certificate of the
/// chain that the peer shows. When it changes, open connections of peers that are on it now are closed with
/// IDENTITY_REJECTED. Cloning gives another handle to the same list.
///
/// ```
/// # #[cfg(feature = "cert")] {
/// use palyra_quic::{CertificateAuthority, RevocationList, ServerTls};
///
/// let ca = CertificateAuthority::new("Example CA")?;
/// let stolen = ca.issue_client("sensor-7")?;
///
/// let list = RevocationList::new();
/// let tls = ServerTls::new(ca.issue_server(&[])?.identity())
///     .require_client_certificates(ca.trust())
///     .revocations(&list);
/// # drop(tls);
/// // Later, with the endpoint running:
/// list.revoke(stolen.fingerprint());
/// assert!(list.contains(stolen.fingerprint()));
/// # }
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct RevocationList {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    revoked: RwLock<HashSet<Fingerprint>>,
    changed: Event,
}

impl RevocationList {
    /// A list of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one certificate.
    pub fn revoke(&self, fingerprint: Fingerprint) {
        self.change(|revoked| _ = revoked.insert(fingerprint));
    }

    /// Puts these certificates in the place of all that were on the list, in one step.
    pub fn replace(&self, fingerprints: impl IntoIterator<Item = Fingerprint>) {
        let fingerprints = fingerprints.into_iter().collect();
        self.change(|revoked| *revoked = fingerprints);
    }

    /// Whether this certificate is on the list.
    #[must_use]
    pub fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.shared.revoked.read().unwrap_or_else(PoisonError::into_inner).contains(&fingerprint)
    }

    /// How many certificates are on the list.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.revoked.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no certificate is on the list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<Fingerprint>)) {
        change(&mut self.shared.revoked.write().unwrap_or_else(PoisonError::into_inner));
        self.shared.changed.notify(usize::MAX);
    }

    /// Whether one of these certificates is on the list.
    pub(super) fn covers<'a>(&self, mut chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> bool {
        // Hashing certificates for an empty list would be for nothing.
        !self.is_empty() && chain.any(|certificate| self.contains(Fingerprint::of(certificate)))
    }

    /// Resolves once one of these certificates is on the list.
    pub(crate) async fn wait_for(&self, chain: &[CertificateDer<'_>]) {
        loop {
            let changed: EventListener = self.shared.changed.listen();
            if self.covers(chain.iter()) {
                return;
            }
            changed.await;
        }
    }
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationList").field("len", &self.len()).finish()
    }
}

/// Asks another verifier, and then the list.
#[derive(Debug)]
pub(super) struct RevokingVerifier {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) list: RevocationList,
}

impl ClientCertVerifier for RevokingVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        if self.list.covers(std::iter::once(end_entity).chain(intermediates)) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
