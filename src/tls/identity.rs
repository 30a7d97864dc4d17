//! What this node shows, and which authorities it believes.

use std::{fmt, net::SocketAddr, sync::Arc, time::SystemTime};

use der::Tag;
use quinn::EndpointConfig;
use rustls::{
    InconsistentKeys, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    certificate::{self, Details, sole_element},
    certificate_check::{self, Role},
    describe::{self, EXPLAINS},
    error_text::{self, ReadableError},
    fingerprint::Fingerprint,
    pem,
    provider::provider,
    restart_key::RestartSecret,
};
use crate::{
    error::{Error, Result},
    limits::ChainLimit,
};

/// A certificate chain and the private key of its first certificate: what this node shows to a peer.
///
/// Cloning is cheap. Neither [`Debug`] nor any error shows the key.
///
/// ```
/// # #[cfg(feature = "cert")] {
/// use palyra_quic::{CertificateAuthority, ErrorKind, Identity};
///
/// let ca = CertificateAuthority::new("Example CA")?;
/// let (gateway, sensor) = (ca.issue_server(&["gateway.example"])?, ca.issue_client("sensor")?);
///
/// let identity = Identity::from_pem(gateway.cert_pem().as_bytes(), gateway.key_pem().as_bytes())?;
/// assert_eq!(identity.fingerprint(), gateway.fingerprint());
///
/// let mixed = Identity::from_pem(gateway.cert_pem().as_bytes(), sensor.key_pem().as_bytes());
/// assert_eq!(*mixed.unwrap_err().kind(), ErrorKind::InvalidConfig);
/// # }
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone)]
pub struct Identity {
    certified_key: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
    not_after: SystemTime,
    restart_secret: Option<RestartSecret>,
}

impl Identity {
    /// An identity from DER: the node's own certificate first, then the intermediate ones in order.
    ///
    /// The root may be left out; peers have it already. The key is PKCS #8, SEC 1 or PKCS #1.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), which says why: if the chain is empty, the
    /// first certificate is malformed or older than X.509 version 3, the key does not parse, its kind is
    /// not supported (P-521, Ed448, RSA of less than 2048 or more than 4096 bits) or takes a feature that
    /// is switched off (`ecdsa`, `rsa`), or the key does not belong to the certificate.
    ///
    /// A certificate that peers with this crate's verifiers refuse, because it is an authority's, signed with
    /// SHA-1 or expired, is taken: others may accept it. An endpoint that shows it warns in the log.
    pub fn from_der(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self> {
        let Some(leaf) = chain.first() else {
            return Err(Error::invalid_config("the certificate chain is empty"));
        };
        let fingerprint = Fingerprint::of(leaf);
        certificate_check::check_own(leaf)?;
        let not_after = certificate::not_after(&chain)
            .ok_or_else(|| Error::invalid_config("the certificate says no time at which it expires"))?;
        let restart_secret = RestartSecret::of(&key);
        let described = describe::private_key(&key);
        let key = provider().key_provider.load_private_key(key).map_err(|error| {
            Error::invalid_config(format!(
                "the private key is not usable ({described}): it is damaged or not supported; {}",
                certificate_check::SUPPORTED
            ))
            .caused_by(ReadableError::Tls(error))
        })?;
        let certified_key = CertifiedKey::new(chain, key);
        check_key(&certified_key)?;
        Ok(Self { certified_key: Arc::new(certified_key), fingerprint, not_after, restart_secret })
    }

    /// An identity from PEM; sections of other kinds are skipped, so both arguments may be the
    /// same file. The first private key counts; it must not be encrypted. Byte order marks are ignored.
    ///
    /// # Errors
    ///
    /// As for [`from_der`](Self::from_der), and
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for malformed PEM or PEM without a
    /// certificate or key: it says what was found instead, such as DER or an encrypted key, and how to
    /// convert it.
    pub fn from_pem(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self> {
        Self::from_der(pem::certificates(cert_pem)?, pem::private_key(key_pem)?)
    }

    /// The certificates, this node's own first. Never empty.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified_key.cert
    }

    /// The fingerprint of this node's own certificate: what a peer would pin or revoke.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// When the first certificate of the chain expires: the last second in which all of them are valid. Renew
    /// the identity before, and give it to a running endpoint with a [`Rotation`](crate::Rotation).
    ///
    /// Intermediate certificates that cannot be read are left out.
    ///
    /// ```
    /// # #[cfg(feature = "cert")] {
    /// use std::time::{Duration, SystemTime};
    ///
    /// use palyra_quic::CertificateAuthority;
    ///
    /// let ca = CertificateAuthority::new("Example CA")?;
    /// let identity = ca.issue_server(&["gateway.example"])?.identity();
    ///
    /// let month = Duration::from_secs(30 * 24 * 60 * 60);
    /// let renew_at = identity.not_after() - month;
    /// assert!(renew_at > SystemTime::now());
    /// # }
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether peers with the same limit would take this chain.
    pub(super) fn check_size(&self, limit: ChainLimit) -> Result<()> {
        limit.check(self.chain()).map_err(|oversized| {
            let fingerprint = self.fingerprint;
            Error::invalid_config(format!("this node's own certificate {fingerprint}: {oversized}"))
        })
    }

    /// quinn's configuration for an endpoint of this identity at this address.
    pub(super) fn endpoint_config(&self, address: SocketAddr) -> Option<EndpointConfig> {
        self.restart_secret.as_ref()?.endpoint_config(address)
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified_key)))
    }
}

/// Refuses a key that is not the one of the first certificate.
fn check_key(certified_key: &CertifiedKey) -> Result<()> {
    let error = match certified_key.keys_match() {
        // What cannot be compared may be right.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => return Ok(()),
        Err(error) => error,
    };
    let CertifiedKey { cert: chain, key, .. } = certified_key;
    let is_of_key = |certificate: &CertificateDer<'_>| {
        let Ok(Details { public_key, .. }) = Details::read(certificate) else { return false };
        key.public_key().is_some_and(|key| sole_element(&key, Tag::Sequence) == Ok(public_key))
    };
    // Where errors are short, nothing is looked for.
    let position = if EXPLAINS { chain.iter().position(is_of_key) } else { None };
    let own = position.and_then(|position| Some((position + 1, chain.get(position)?)));
    let first = chain.first().map_or_else(String::new, |first| describe::subject(first));
    let mismatch = match (&error, own) {
        (rustls::Error::InconsistentKeys(_), Some((number, own))) => format!(
            "the private key belongs to certificate {number} of the chain, {}, and not to the first, \
             {first}: put the node's own certificate first",
            describe::subject(own)
        ),
        (rustls::Error::InconsistentKeys(_), None) => {
            format!(
                "the private key does not belong to the certificate {first}: which key was it issued for?"
            )
        }
        _ => {
            return Err(
                Error::invalid_config("the certificate is not usable").caused_by(ReadableError::Tls(error))
            );
        }
    };
    Err(Error::invalid_config(mismatch))
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certified_key, fingerprint, not_after: _, restart_secret: _ } = self;
        f.debug_struct("Identity")
            .field("fingerprint", fingerprint)
            .field("chain_length", &certified_key.cert.len())
            .finish_non_exhaustive()
    }
}

/// The certificate authorities that a peer's chain may end in. At least one.
///
/// Only what is named here counts: the operating system's roots are never consulted. Cloning is
/// cheap.
///
/// ```
/// # #[cfg(feature = "cert")] {
/// use palyra_quic::{CertificateAuthority, Trust};
///
/// let (old, new) = (CertificateAuthority::new("2025")?, CertificateAuthority::new("2026")?);
/// let both = Trust::from_pem(format!("{}{}", old.cert_pem(), new.cert_pem()).as_bytes())?;
/// assert_eq!(both.len(), 2);
/// assert!(Trust::from_pem(b"no certificate in here").is_err());
/// # }
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
}

impl Trust {
    /// Trust in the authorities with these certificates.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), which says why: if there is none, or if any
    /// does not parse, or has a key that no signature can be verified with (P-521, Ed448, RSA of less than
    /// 2048 bits) or that takes a feature that is switched off (`ecdsa`, `rsa`). An authority that is
    /// silently missing shows up much later, as a refused peer.
    ///
    /// The certificate of a node that an authority has issued cannot stand in for that authority. It is an
    /// error where there are no others, and passed over otherwise, with a warning in the log. A self-signed
    /// certificate can be trusted; a node may show it itself, unless it is an authority's.
    pub fn from_der<'a>(certificates: impl IntoIterator<Item = CertificateDer<'a>>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let mut of_a_node = None;
        for certificate in certificates {
            match certificate_check::check_authority(&certificate)? {
                Role::Authority => {
                    let added = roots.add(certificate);
                    added.map_err(|error| certificate_check::no_authority(&error_text::tls(&error)))?;
                }
                Role::Node(why) => of_a_node = Some(why),
            }
        }
        match of_a_node {
            Some(why) if roots.is_empty() => return Err(certificate_check::no_authority(&why)),
            // A file with a whole chain in it is as good as one with its authorities.
            Some(why) => tracing::warn!("passed over among the authorities to trust: {why}"),
            None => {}
        }
        if roots.is_empty() {
            return Err(Error::invalid_config("no certificate authority to trust"));
        }
        Ok(Self { roots: Arc::new(roots) })
    }

    /// Trust in every certificate of this PEM; sections of other kinds are skipped.
    ///
    /// # Errors
    ///
    /// As for [`from_der`](Self::from_der), and
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for malformed PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        Self::from_der(pem::certificates(pem)?)
    }

    /// How many authorities are trusted; at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.roots.len()
    }

    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { roots } = self;
        f.debug_struct("Trust").field("authorities", &roots.len()).finish()
    }
}

#[cfg(feature = "cert")]
#[cfg(test)]
mod tests {
    use std::{error::Error as _, time::Duration};

    use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

    use super::*;
    use crate::{
        cert::{CertificateAuthority, IssuedCertificate},
        error::ErrorKind,
    };

    fn assert_invalid<T: fmt::Debug>(result: Result<T>, explanation: &str) {
        let error = result.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
        assert!(error.explanation().unwrap().contains(explanation), "{error}");
    }

    #[test]
    fn pem_and_der_give_the_same_identity() {
        let issued = CertificateAuthority::new("ca").unwrap().issue_client("a").unwrap();
        let (cert, key) = (issued.cert_pem().as_bytes(), issued.key_pem().as_bytes());
        let from_pem = Identity::from_pem(cert, key).unwrap();
        let from_der =
            Identity::from_der(issued.chain().to_vec(), PrivateKeyDer::from_pem_slice(key).unwrap()).unwrap();
        assert_eq!(from_pem.fingerprint(), from_der.fingerprint());
        assert_eq!(from_pem.chain(), from_der.chain());

        let one_file = [key, cert].concat();
        assert!(Identity::from_pem(&one_file, &one_file).is_ok());
    }

    #[test]
    fn an_identity_expires_with_the_first_certificate_of_its_chain() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let ca = CertificateAuthority::new("ca").unwrap();
        let until = |seconds| ca.clone().valid(at(0), at(seconds)).unwrap().issue_client("a").unwrap();
        let (sooner, later) = (until(2_000_000_000), until(2_000_000_001));
        assert_eq!(sooner.identity().not_after(), at(2_000_000_000));
        assert_eq!(later.identity().not_after(), at(2_000_000_001));

        let chained = |leaf: &IssuedCertificate, intermediate: &[u8]| {
            let chain = vec![leaf.chain()[0].clone(), CertificateDer::from(intermediate.to_vec())];
            let key = PrivateKeyDer::from_pem_slice(leaf.key_pem().as_bytes()).unwrap();
            Identity::from_der(chain, key).unwrap().not_after()
        };
        assert_eq!(chained(&later, &sooner.chain()[0]), at(2_000_000_000));
        assert_eq!(chained(&sooner, &later.chain()[0]), at(2_000_000_000));
        assert_eq!(chained(&later, b"garbage"), at(2_000_000_001));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let (a, b) = (ca.issue_client("a").unwrap(), ca.issue_client("b").unwrap());
        let mixed = Identity::from_pem(a.cert_pem().as_bytes(), b.key_pem().as_bytes());
        assert_invalid(
            mixed,
            "the private key does not belong to the certificate `O=Palyra, CN=Palyra Device a`",
        );

        let key = PrivateKeyDer::from_pem_slice(b.key_pem().as_bytes()).unwrap();
        let wrong_order = [a.chain()[0].clone(), b.chain()[0].clone()].to_vec();
        assert_invalid(Identity::from_der(wrong_order, key), "put the node's own certificate first");
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let issued = CertificateAuthority::new("ca").unwrap().issue_client("a").unwrap();
        let (cert, key) = (issued.cert_pem().as_bytes(), issued.key_pem().as_bytes());
        let der_key = || PrivateKeyDer::from_pem_slice(key).unwrap();
        let torn = |pem: &[u8]| pem[..pem.len() / 2].to_vec();

        assert_invalid(Identity::from_der(Vec::new(), der_key()), "the certificate chain is empty");
        assert_invalid(Identity::from_pem(b"", key), "no certificate in the PEM");
        assert_invalid(Identity::from_pem(key, key), "no certificate in the PEM");
        assert_invalid(Identity::from_pem(&torn(cert), key), "the PEM of the certificates is malformed");
        assert_invalid(Identity::from_pem(cert, cert), "no private key in the PEM");
        assert_invalid(Identity::from_pem(cert, &torn(key)), "the PEM of the private key is malformed");
        let garbage = vec![CertificateDer::from_slice(b"garbage").into_owned()];
        assert_invalid(Identity::from_der(garbage, der_key()), "malformed: it is no certificate");
        let garbage = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(b"garbage".to_vec()));
        let identity = Identity::from_der(issued.chain().to_vec(), garbage);
        assert_invalid(identity, "the private key is not usable (PKCS #8, unreadable)");
    }

    /// With the features that are on, whichever they are.
    #[test]
    fn a_key_that_takes_a_feature_is_refused_by_its_name() {
        const RSA: &[u8] = include_bytes!("../../tests/common/rsa.pem");

        let assert_checked = |result: Result<()>, built_in: bool, key: &str, feature: &str| match result {
            Ok(()) => assert!(built_in, "{key} was taken"),
            refused => {
                assert!(!built_in, "{key} was refused");
                let reason = format!(
                    "a certificate has {key}, and palyra-quic was built without its feature `{feature}`"
                );
                assert_invalid(refused, &reason);
            }
        };
        for (algorithm, built_in, key) in [
            (&rcgen::PKCS_ED25519, true, "an Ed25519 key"),
            (&rcgen::PKCS_ECDSA_P256_SHA256, cfg!(feature = "ecdsa"), "an ECDSA key on P-256"),
            (&rcgen::PKCS_ECDSA_P384_SHA384, cfg!(feature = "ecdsa"), "an ECDSA key on P-384"),
        ] {
            let private = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let certificate = rcgen::CertificateParams::default().self_signed(&private).unwrap().pem();
            let identity =
                Identity::from_pem(certificate.as_bytes(), private.serialize_pem().as_bytes()).map(drop);
            assert_checked(identity, built_in, key, "ecdsa");
            assert_checked(Trust::from_pem(certificate.as_bytes()).map(drop), built_in, key, "ecdsa");
        }
        let built_in = cfg!(feature = "rsa");
        assert_checked(Trust::from_pem(RSA).map(drop), built_in, "an RSA key", "rsa");
        assert_checked(Identity::from_pem(RSA, RSA).map(drop), built_in, "an RSA key", "rsa");
    }

    #[test]
    fn trust_is_never_empty_and_never_partial() {
        let ca = CertificateAuthority::new("ca").unwrap();
        assert_eq!(ca.trust().len(), 1);
        assert_invalid(Trust::from_der([]), "no certificate authority to trust");
        assert_invalid(Trust::from_pem(b""), "no certificate in the PEM");
        let partial = [ca.certificate().clone(), CertificateDer::from_slice(b"garbage")];
        assert_invalid(Trust::from_der(partial), "not usable as a certificate authority");
    }

    #[test]
    fn neither_debug_nor_errors_show_the_key() {
        let issued = CertificateAuthority::new("ca").unwrap().issue_client("a").unwrap();
        let debug = format!("{:?}", issued.identity());
        assert!(debug.contains(&issued.fingerprint().to_string()), "{debug}");
        assert!(debug.len() < 150, "more than a fingerprint and a length: {debug}");

        let base64: String = issued.key_pem().lines().filter(|line| !line.starts_with('-')).collect();
        let broken = [
            format!("-----BEGIN {base64}"),
            format!("-----BEGIN PRIVATE KEY-----\n{base64}\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{base64}!\n-----END PRIVATE KEY-----\n"),
        ];
        for pem in broken {
            let error = Identity::from_pem(issued.cert_pem().as_bytes(), pem.as_bytes()).unwrap_err();
            assert!(error.source().is_none());
            assert!(!format!("{error} {error:?}").contains(&base64[..8]), "{error:?}");
            let swapped = Identity::from_pem(pem.as_bytes(), pem.as_bytes()).unwrap_err();
            assert!(!format!("{swapped} {swapped:?}").contains(&base64[..8]), "{swapped:?}");
        }
    }
}
