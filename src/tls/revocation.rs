//! Certificates that are no longer believed, whoever signed them.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use event_listener::{Event, EventListener};
use rustls::{
    CertificateError,
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject},
};

use super::{Facts, Fingerprint, Revoked, Trust, WallClock, crl::Crl, revoked::By};
use crate::error::{Error, Result};

/// Revoked certificates, one by one and by the lists of their authorities (CRLs), which may change while endpoints run.
///
/// Handed to [`ServerTls::revocations`](super::ServerTls::revocations) and
/// [`ClientTls::revocations`](super::ClientTls::revocations), it is consulted in every handshake, about each certificate of the
/// chain that the peer shows. When it changes, open connections of peers that are on it now are closed with
/// IDENTITY_REJECTED. Cloning gives another handle to the same list.
///
/// Certificates of an authority whose CRL is held but out of date (its `nextUpdate` has passed) are refused until there is a
/// newer one; connections that are open stay. Those of an authority of which no CRL is held are looked for among the single
/// ones alone. Authorities are told apart by name.
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
///
/// // What the authority publishes, fetched by the embedder:
/// let crl = ca.crl(1, [&stolen])?;
/// list.replace_crls(&ca.trust(), [crl])?;
/// assert_eq!(list.len(), 2);
/// # }
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct RevocationList {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    contents: RwLock<Contents>,
    changed: Event,
    clock: WallClock,
}

/// Serial numbers by the names of their issuers.
type Serials = HashMap<Box<[u8]>, HashSet<Box<[u8]>>>;

#[derive(Default)]
struct Contents {
    fingerprints: HashSet<Fingerprint>,
    serials: Serials,
    crls: HashMap<Box<[u8]>, Crl>,
}

impl RevocationList {
    /// A list of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A list of nothing that judges by this clock whether a CRL is out of date when it is loaded. Default: the system's clock.
    /// In handshakes, the clock of the endpoint counts.
    #[must_use]
    pub fn with_clock(clock: WallClock) -> Self {
        Self { shared: Arc::new(Shared { clock, ..Shared::default() }) }
    }

    /// Adds one certificate.
    pub fn revoke(&self, revoked: impl Into<Revoked>) {
        let revoked = revoked.into();
        self.change(|contents| contents.add(revoked));
    }

    /// Puts these certificates in the place of all that were added one by one, in one step. CRLs stay.
    pub fn replace(&self, revoked: impl IntoIterator<Item = impl Into<Revoked>>) {
        let mut next = Contents::default();
        revoked.into_iter().for_each(|revoked| next.add(revoked.into()));
        let Contents { fingerprints, serials, crls: _ } = next;
        self.change(|contents| {
            contents.fingerprints = fingerprints;
            contents.serials = serials;
        });
    }

    /// Puts these CRLs in the place of all that are held, in one step; or, where one of them is no good, changes nothing.
    ///
    /// `issuers` are the authorities whose CRLs are believed, by their certificates; those of intermediate ones may be among
    /// them. Only complete lists are taken: neither delta nor indirect ones, nor any with an issuing distribution point. A
    /// revoked certificate costs about 80 bytes of memory.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), which says why: a list is malformed, not supported, not issued by
    /// one of `issuers`, badly signed, out of date, older than the one that is held of the same authority (by `cRLNumber` or
    /// `thisUpdate`), or the second one of an authority; or the clock has failed. It is logged as well, at `warn`.
    pub fn replace_crls<'a>(
        &self,
        issuers: &Trust,
        crls: impl IntoIterator<Item = CertificateRevocationListDer<'a>>,
    ) -> Result<()> {
        self.try_replace_crls(issuers, crls).inspect_err(|error| {
            tracing::warn!(%error, "the certificate revocation lists stay as they are");
        })
    }

    /// The same with every CRL of this PEM; sections of other kinds are skipped.
    ///
    /// # Errors
    ///
    /// As for [`replace_crls`](Self::replace_crls), and [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for malformed PEM or
    /// PEM without a CRL.
    pub fn replace_crls_pem(&self, issuers: &Trust, pem: &[u8]) -> Result<()> {
        let crls: Vec<_> =
            CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(
                |_quotes_its_input| Error::invalid_config("the PEM of the revocation lists is malformed"),
            )?;
        if crls.is_empty() {
            return Err(Error::invalid_config("no certificate revocation list in the PEM"));
        }
        self.replace_crls(issuers, crls)
    }

    fn try_replace_crls<'a>(
        &self,
        issuers: &Trust,
        crls: impl IntoIterator<Item = CertificateRevocationListDer<'a>>,
    ) -> Result<()> {
        let now = self.shared.clock.unix_time();
        let now = now.ok_or_else(|| Error::invalid_config("the wall clock has failed"))?;
        let mut next = HashMap::new();
        for crl in crls {
            let crl = Crl::verified(&crl, issuers, now)?;
            match next.entry(crl.issuer.clone()) {
                Entry::Vacant(entry) => _ = entry.insert(crl),
                Entry::Occupied(_) => {
                    return Err(Error::invalid_config("two certificate revocation lists of one authority"));
                }
            }
        }
        let mut contents = self.shared.contents.write().unwrap_or_else(PoisonError::into_inner);
        for (issuer, crl) in &next {
            contents.crls.get(issuer).map_or(Ok(()), |held| crl.check_follows(held))?;
        }
        contents.crls = next;
        drop(contents);
        self.shared.changed.notify(usize::MAX);
        Ok(())
    }

    /// Whether this certificate is on the list, as it is named here: a fingerprint is not looked for among the serial numbers.
    #[must_use]
    pub fn contains(&self, revoked: impl Into<Revoked>) -> bool {
        let contents = self.contents();
        match revoked.into().0 {
            By::Fingerprint(fingerprint) => contents.fingerprints.contains(&fingerprint),
            By::Serial { issuer, serial } => contents.has_serial(&issuer, &serial),
        }
    }

    /// How many certificates are on the list; one that is there twice, for instance by its fingerprint and in a CRL, counts
    /// twice.
    #[must_use]
    pub fn len(&self) -> usize {
        let contents = self.contents();
        let in_crls = contents.crls.values().map(|crl| crl.serials.len());
        contents.fingerprints.len()
            + contents.serials.values().map(HashSet::len).chain(in_crls).sum::<usize>()
    }

    /// Whether no certificate is on the list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn contents(&self) -> RwLockReadGuard<'_, Contents> {
        self.shared.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Contents)) {
        change(&mut self.shared.contents.write().unwrap_or_else(PoisonError::into_inner));
        self.shared.changed.notify(usize::MAX);
    }

    /// What the list says of a peer that shows these certificates in a handshake.
    pub(super) fn judge<'a>(
        &self,
        chain: impl Iterator<Item = &'a CertificateDer<'a>>,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        self.contents().judge(chain, now)
    }

    /// Resolves once one of these certificates is revoked. CRLs that are out of date do not count.
    pub(crate) async fn wait_for(&self, chain: &[CertificateDer<'_>]) {
        // Before any list is out of date.
        let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
        loop {
            let changed: EventListener = self.shared.changed.listen();
            if self.judge(chain.iter(), now) == Err(CertificateError::Revoked) {
                return;
            }
            changed.await;
        }
    }
}

impl Contents {
    fn add(&mut self, Revoked(by): Revoked) {
        match by {
            By::Fingerprint(fingerprint) => _ = self.fingerprints.insert(fingerprint),
            By::Serial { issuer, serial } => _ = self.serials.entry(issuer).or_default().insert(serial),
        }
    }

    fn has_serial(&self, issuer: &[u8], serial: &[u8]) -> bool {
        self.serials.get(issuer).is_some_and(|serials| serials.contains(serial))
            || self.crls.get(issuer).is_some_and(|crl| crl.serials.contains(serial))
    }

    /// That a certificate is revoked counts for more than that nobody knows what became of another.
    fn judge<'a>(
        &self,
        chain: impl Iterator<Item = &'a CertificateDer<'a>>,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let mut verdict = Ok(());
        for certificate in chain {
            // Hashing certificates for an empty list would be for nothing.
            if !self.fingerprints.is_empty() && self.fingerprints.contains(&Fingerprint::of(certificate)) {
                return Err(CertificateError::Revoked);
            }
            if self.serials.is_empty() && self.crls.is_empty() {
                continue;
            }
            let Some(Facts { issuer, serial, .. }) = Facts::of(certificate) else {
                verdict = Err(CertificateError::BadEncoding);
                continue;
            };
            if self.has_serial(issuer, serial) {
                return Err(CertificateError::Revoked);
            }
            match self.crls.get(issuer) {
                Some(crl) if now >= crl.next_update => {
                    verdict = Err(CertificateError::ExpiredRevocationListContext {
                        time: now,
                        next_update: crl.next_update,
                    });
                }
                _ => {}
            }
        }
        verdict
    }
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationList").field("len", &self.len()).finish()
    }
}
