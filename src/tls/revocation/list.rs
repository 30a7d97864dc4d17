//! Certificates that are no longer believed, whatever signed them.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use event_listener::{Event, EventListener};
use rustls::{
    CertificateError,
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
};

#[cfg(feature = "ecdsa")]
use super::other_signature::with_other_signatures;
use super::{
    check::{PathCertificate, RevocationCheck},
    crl::Crl,
    revoked::{Revoked, RevokedBy},
};
use crate::{
    error::{Error, Result},
    tls::{certificate::CertificateFields, clock::WallClock, fingerprint::Fingerprint, identity::Trust, pem},
};

/// Revoked certificates, one by one and by the lists of their authorities (CRLs), which may change while
/// endpoints run.
///
/// Handed to [`ServerTls::revocations`](crate::ServerTls::revocations) and
/// [`ClientTls::revocations`](crate::ClientTls::revocations), it is consulted in every handshake, about each
/// certificate of the path to a trusted authority: where there are several, one on which nothing is revoked
/// is enough. With a verifier of the caller's own, it is asked about the peer's own certificate alone. When
/// it changes, open connections of peers that have no other path left are closed with IDENTITY_REJECTED.
/// Cloning gives another handle to the same list.
///
/// If an authority has signed a certificate with ECDSA, its owner can give it another signature, and so
/// another fingerprint: with one of them on the list, both are refused.
///
/// Certificates of an authority whose CRL is held but out of date (its `nextUpdate` has passed) are refused
/// until there is a newer one; connections that are open stay. Those of an authority of which no CRL is held
/// are looked for among the single ones alone. An authority that was given a new key and kept its name has a
/// CRL for each key: a new one replaces that of its key, and a certificate is revoked if any CRL of its
/// issuer's name lists it.
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

type Crls = HashMap<Box<[u8]>, Vec<Crl>>;

/// Serial numbers by the names of their issuers.
type Serials = HashMap<Box<[u8]>, HashSet<Box<[u8]>>>;

#[derive(Clone, Default)]
struct Contents {
    fingerprints: HashSet<Fingerprint>,
    serials: Serials,
    /// By the names of their issuers. Those of one name are of different keys.
    crls: Crls,
}

impl RevocationList {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty list that asks this clock whether a CRL is out of date when it is loaded. Default:
    /// the system's clock. In handshakes, the clock of the endpoint counts.
    #[must_use]
    pub fn with_clock(clock: WallClock) -> Self {
        Self { shared: Arc::new(Shared { clock, ..Shared::default() }) }
    }

    /// A separate list with the same contents and the same clock: a change of either leaves the other as it
    /// is. A fork that is changed, and put in the place of this list by a [`Rotation`](crate::Rotation),
    /// takes effect in one step with the new identities and authorities, or, if the rotation fails, not at
    /// all.
    ///
    /// ```
    /// # #[cfg(feature = "cert")] {
    /// use palyra_quic::{CertificateAuthority, RevocationList};
    ///
    /// let ca = CertificateAuthority::new("Example CA")?;
    /// let (lost, stolen) = (ca.issue_client("sensor-6")?, ca.issue_client("sensor-7")?);
    /// let list = RevocationList::new();
    /// list.revoke(lost.fingerprint());
    ///
    /// let next = list.fork();
    /// next.revoke(stolen.fingerprint());
    /// assert_eq!((list.len(), next.len()), (1, 2));
    /// # }
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    #[must_use]
    pub fn fork(&self) -> Self {
        let (contents, clock) = (self.contents().clone(), self.shared.clock.clone());
        let shared = Shared { contents: RwLock::new(contents), changed: Event::new(), clock };
        Self { shared: Arc::new(shared) }
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

    /// Puts these CRLs in the place of all that are held, in one step; or, where one of them is no good,
    /// changes nothing. CRLs of other keys under the name of one of them stay, so that nothing which an
    /// authority revoked before it got a new key becomes valid again.
    ///
    /// `issuers` are the authorities whose CRLs are believed, by their certificates; those of intermediate
    /// ones may be among them. Only complete lists are taken: neither delta nor indirect ones, nor any
    /// with an issuing distribution point. A revoked certificate costs about 80 bytes of memory.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), which says why: a list is malformed, not
    /// supported, not issued by one of `issuers`, badly signed, out of date, more than a minute from its
    /// beginning, older than the one that is held of the same authority (by `cRLNumber` or `thisUpdate`),
    /// or the second one of an authority; or the clock has failed. It is logged as well, at `warn`.
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
    /// As for [`replace_crls`](Self::replace_crls), and [`InvalidConfig`](crate::ErrorKind::InvalidConfig)
    /// for malformed PEM or PEM without a CRL.
    pub fn replace_crls_pem(&self, issuers: &Trust, pem: &[u8]) -> Result<()> {
        let crls = pem::revocation_lists(pem)?;
        self.replace_crls(issuers, crls)
    }

    fn try_replace_crls<'a>(
        &self,
        issuers: &Trust,
        crls: impl IntoIterator<Item = CertificateRevocationListDer<'a>>,
    ) -> Result<()> {
        let now = self.shared.clock.unix_time();
        let now = now.ok_or_else(|| Error::invalid_config("the wall clock has failed"))?;
        let mut next = Crls::new();
        for crl in crls {
            let crl = Crl::verified(&crl, issuers, now)?;
            let namesakes = next.entry(crl.issuer.clone()).or_default();
            if namesakes.iter().any(|other| other.has_issuer_of(&crl)) {
                return Err(Error::invalid_config("two certificate revocation lists of one authority"));
            }
            namesakes.push(crl);
        }
        let mut contents = self.shared.contents.write().unwrap_or_else(PoisonError::into_inner);
        for (issuer, crls) in &mut next {
            for held in contents.crls.get(issuer).into_iter().flatten() {
                match crls.iter().find(|crl| crl.has_issuer_of(held)) {
                    Some(crl) => crl.check_follows(held)?,
                    // The list of an earlier key. What it revokes must not become valid again.
                    None => crls.push(held.clone()),
                }
            }
        }
        contents.crls = next;
        drop(contents);
        self.shared.changed.notify(usize::MAX);
        Ok(())
    }

    /// Whether this certificate is on the list, as it is named here: a fingerprint is not looked for among
    /// the serial numbers.
    #[must_use]
    pub fn contains(&self, revoked: impl Into<Revoked>) -> bool {
        let contents = self.contents();
        match revoked.into().0 {
            RevokedBy::Fingerprint(fingerprint) => contents.fingerprints.contains(&fingerprint),
            RevokedBy::Serial { issuer, serial } => contents.has_serial(&issuer, &serial),
        }
    }

    /// How many certificates are on the list; one that is there twice, for instance by its fingerprint and in
    /// a CRL, counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        let contents = self.contents();
        let in_crls = contents.crls.values().flatten().map(|crl| crl.serials.len());
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
}

impl RevocationCheck for RevocationList {
    fn check(&self, path: &[PathCertificate<'_>], now: UnixTime) -> Result<(), CertificateError> {
        self.contents().check(path, now)
    }

    fn changed(&self) -> EventListener {
        self.shared.changed.listen()
    }
}

impl Contents {
    fn add(&mut self, Revoked(by): Revoked) {
        match by {
            RevokedBy::Fingerprint(fingerprint) => _ = self.fingerprints.insert(fingerprint),
            RevokedBy::Serial { issuer, serial } => {
                _ = self.serials.entry(issuer).or_default().insert(serial)
            }
        }
    }

    fn has_serial(&self, issuer: &[u8], serial: &[u8]) -> bool {
        self.serials.get(issuer).is_some_and(|serials| serials.contains(serial))
            || self.crls.get(issuer).into_iter().flatten().any(|crl| crl.serials.contains(serial))
    }

    /// A certificate that is signed with ECDSA has two fingerprints.
    fn has_fingerprint_of(&self, certificate: &CertificateDer<'_>) -> bool {
        let is_listed =
            |certificate: &CertificateDer<'_>| self.fingerprints.contains(&Fingerprint::of(certificate));
        #[cfg(feature = "ecdsa")]
        if with_other_signatures(certificate).any(|other| is_listed(&other)) {
            return true;
        }
        is_listed(certificate)
    }

    /// That a certificate is revoked counts for more than that nobody knows what became of another.
    fn check(&self, path: &[PathCertificate<'_>], now: UnixTime) -> Result<(), CertificateError> {
        let mut verdict = Ok(());
        for PathCertificate { certificate, issuer_key } in path {
            // Hashing certificates for an empty list would be for nothing.
            if !self.fingerprints.is_empty() && self.has_fingerprint_of(certificate) {
                return Err(CertificateError::Revoked);
            }
            if self.serials.is_empty() && self.crls.is_empty() {
                continue;
            }
            let Some(CertificateFields { issuer, serial, .. }) = CertificateFields::of(certificate) else {
                verdict = Err(CertificateError::BadEncoding);
                continue;
            };
            if self.has_serial(issuer, serial) {
                return Err(CertificateError::Revoked);
            }
            let by_issuer = self.crls.get(issuer).into_iter().flatten();
            let of_key = by_issuer.filter(|crl| issuer_key.is_none_or(|key| crl.is_of_key(key)));
            // Where nobody has told which key it was, the list of any will do.
            let latest = of_key.map(|crl| crl.next_update).max();
            if let Some(next_update) = latest.filter(|next_update| now >= *next_update) {
                verdict = Err(CertificateError::ExpiredRevocationListContext { time: now, next_update });
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
