//! Certificates that are no longer believed, whoever signed them.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use event_listener::{Event, EventListener};
use rustls::{CertificateError, pki_types::CertificateDer};

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
    fn covers<'a>(&self, mut chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> bool {
        // Hashing certificates for an empty list would be for nothing.
        !self.is_empty() && chain.any(|certificate| self.contains(Fingerprint::of(certificate)))
    }

    /// What the list says of a peer that shows these certificates in a handshake.
    pub(super) fn judge<'a>(
        &self,
        chain: impl Iterator<Item = &'a CertificateDer<'a>>,
    ) -> Result<(), CertificateError> {
        if self.covers(chain) { Err(CertificateError::Revoked) } else { Ok(()) }
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
