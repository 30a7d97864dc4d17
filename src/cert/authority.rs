//! The authority: made, stored, and issuing certificates and revocation lists.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::SystemTime,
};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    Issuer, KeyIdMethod, KeyPair, PublicKeyData, RevokedCertParams, SanType, SerialNumber, string::Ia5String,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::{
    issued::IssuedCertificate,
    params::{self, MAX_COMMON_NAME_CHARS, new_key, server_name, unusable, without_repetition},
    stored::{StoredAuthority, first_certificate},
    window::{AUTHORITY_LIFETIME, DEFAULT_LIFETIME, Window},
};
use crate::{
    error::{Error, Result},
    tls::{CertificateFields, Fingerprint, Identity, Trust, pem},
};

/// What a device's id is put behind to give its common name, as in the tokio implementation.
const DEVICE_PREFIX: &str = "Palyra Device ";

const MAX_DEVICE_ID_CHARS: usize = MAX_COMMON_NAME_CHARS - DEVICE_PREFIX.len();

/// A certificate authority that signs certificates for servers and clients.
///
/// For development, tests and trying things out: its key lies in memory and in whatever file it is
/// written to, and it keeps no record of what it signed. Keys are ECDSA on P-256, or
/// Ed25519 without feature `ecdsa`. The authority itself is valid for ten years.
///
/// Cloning is cheap and does not make a second authority.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use palyra_quic::{CertificateAuthority, ClientTls, ServerTls};
///
/// let ca = CertificateAuthority::new("Example CA")?;
/// let server = ServerTls::new(ca.issue_server(&["gateway.example"])?.identity())
///     .require_client_certificates(ca.trust());
/// let client = ClientTls::new(ca.trust()).identity(ca.issue_client("sensor")?.identity());
///
/// // Kept for the next start, the key where nobody else can read it.
/// let stored = (ca.cert_pem().to_owned(), ca.key_pem().to_owned());
/// let reloaded = CertificateAuthority::from_pem(stored.0.as_bytes(), stored.1.as_bytes())?;
/// assert_eq!(reloaded.certificate(), ca.certificate());
///
/// let now = SystemTime::now();
/// let for_a_minute = ca.valid(now, now + Duration::from_secs(60))?.issue_client("visitor")?;
/// # drop((server, client, for_a_minute));
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone)]
pub struct CertificateAuthority {
    issuer: Arc<Issuer<'static, KeyPair>>,
    certificate: CertificateDer<'static>,
    cert_pem: Arc<str>,
    key_pem: Arc<str>,
    trust: Trust,
    window: Option<Window>,
}

impl CertificateAuthority {
    /// A new authority with a new key and this common name.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if the name is empty, longer than 64
    /// characters, or contains control characters.
    pub fn new(name: &str) -> Result<Self> {
        let key = new_key()?;
        let mut params = params::authority(name)?;
        Window::starting_now(AUTHORITY_LIFETIME)?.apply_to(&mut params);
        let certificate = params.self_signed(&key).map_err(unusable)?;
        Self::assemble(params, key, certificate.der().clone(), &certificate.pem())
    }

    /// The authority that was stored as [`cert_pem`](Self::cert_pem) and
    /// [`key_pem`](Self::key_pem); sections of other kinds are skipped, so both may be the same file.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if either is missing or malformed, they do
    /// not belong together, or the certificate is not an authority's as [`new`](Self::new) makes
    /// them: other authorities have policies that would be lost here.
    pub fn from_pem(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self> {
        let section = first_certificate(cert_pem);
        // Where there is no whole section, this tells what there is.
        let certificates = pem::certificates(section.map_or(cert_pem, str::as_bytes))?;
        let (Some(section), Some(certificate)) = (section, certificates.into_iter().next()) else {
            return Err(Error::invalid_config("no certificate in the PEM"));
        };
        let key = pem::private_key(key_pem)?;
        let key = KeyPair::try_from(&key).map_err(unusable)?;

        let StoredAuthority { name, public_key } = StoredAuthority::of(&certificate)
            .ok_or_else(|| Error::invalid_config("not a certificate of an authority made here"))?;
        if public_key != key.subject_public_key_info() {
            return Err(Error::invalid_config("certificate and private key do not belong together"));
        }
        Self::assemble(params::authority(&name)?, key, certificate, section)
    }

    fn assemble(
        params: CertificateParams,
        key: KeyPair,
        certificate: CertificateDer<'static>,
        cert_pem: &str,
    ) -> Result<Self> {
        Ok(Self {
            trust: Trust::from_der([certificate.clone()])?,
            certificate,
            cert_pem: cert_pem.into(),
            key_pem: key.serialize_pem().into(),
            issuer: Arc::new(Issuer::new(params, key)),
            window: None,
        })
    }

    /// Has what is issued from now on be valid from `from` until `until`, in whole seconds.
    /// Default: from one hour before it is issued (for clocks that are behind) until 365 days after.
    ///
    /// The window may lie in the past, to try what an expired certificate does.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if the window ends before it begins, begins
    /// before 1970, or ends after the year 9999.
    pub fn valid(self, from: SystemTime, until: SystemTime) -> Result<Self> {
        Ok(Self { window: Some(Window::new(from, until)?), ..self })
    }

    /// A certificate for a server with these DNS names and IP addresses (without brackets).
    ///
    /// It is valid for `localhost`, `127.0.0.1` and `::1` too, and for servers only. Its common name
    /// is the first of `names`, or `localhost` if there is none or it has more than 64 characters.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if one of the names is neither a DNS name
    /// nor an IP address. Wildcards and a dot at the end are not supported.
    pub fn issue_server(&self, names: &[&str]) -> Result<IssuedCertificate> {
        let common_name = names.first().copied().filter(|name| name.len() <= MAX_COMMON_NAME_CHARS);
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, common_name.unwrap_or("localhost"));

        let mut alternatives = names.iter().map(|name| server_name(name)).collect::<Result<Vec<_>>>()?;
        alternatives.extend([
            server_name("localhost")?,
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ]);
        self.issue(subject, without_repetition(alternatives), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for the client `id`: common name `Palyra Device {id}`, organisation `Palyra`,
    /// URI `palyra:device:{id}`, valid for clients only.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) unless `id` is 1 to 50 characters out of
    /// ASCII letters, digits, `-`, `.`, `_` and `~`: what needs no escaping in a URI.
    pub fn issue_client(&self, id: &str) -> Result<IssuedCertificate> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if id.is_empty() || id.len() > MAX_DEVICE_ID_CHARS || !id.bytes().all(plain) {
            return Err(Error::invalid_config(
                "a client id is 1 to 50 letters, digits, `-`, `.`, `_` and `~`",
            ));
        }
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "Palyra");
        subject.push(DnType::CommonName, format!("{DEVICE_PREFIX}{id}"));
        let uri = Ia5String::try_from(format!("palyra:device:{id}")).map_err(unusable)?;
        self.issue(subject, vec![SanType::URI(uri)], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        subject: DistinguishedName,
        alternatives: Vec<SanType>,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<IssuedCertificate> {
        let mut params = params::node(subject, alternatives, purpose);
        self.window.map_or_else(|| Window::starting_now(DEFAULT_LIFETIME), Ok)?.apply_to(&mut params);

        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(unusable)?;
        let key_der = PrivateKeyDer::try_from(key.serialize_der()).map_err(Error::invalid_config)?;
        Ok(IssuedCertificate {
            identity: Identity::from_der(vec![certificate.der().clone()], key_der)?,
            cert_pem: certificate.pem().into(),
            key_pem: key.serialize_pem().into(),
        })
    }

    /// The list of what this authority has revoked (CRL), with this number: these certificates. It is in
    /// force as long as a certificate that was issued now would be valid; see [`valid`](Self::valid).
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if it would end when it begins, or earlier.
    pub fn crl<'a>(
        &self,
        number: u64,
        revoked: impl IntoIterator<Item = &'a IssuedCertificate>,
    ) -> Result<CertificateRevocationListDer<'static>> {
        let Window { from, until } =
            self.window.map_or_else(|| Window::starting_now(DEFAULT_LIFETIME), Ok)?;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let revoked_certs = revoked.into_iter().filter_map(|issued| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(
                    CertificateFields::of(issued.chain().first()?)?.serial,
                ),
                revocation_time: epoch + from,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let params = CertificateRevocationListParams {
            this_update: epoch + from,
            next_update: epoch + until,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).map(Into::into).map_err(unusable)
    }

    /// Trust in this authority, and in no other.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.trust.clone()
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's own certificate, as PEM: what peers need.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's private key, as PEM (PKCS #8). It lets its holder issue certificates.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { issuer: _, certificate, cert_pem: _, key_pem: _, trust: _, window } = self;
        f.debug_struct("CertificateAuthority")
            .field("fingerprint", &Fingerprint::of(certificate))
            .field("window", window)
            .finish_non_exhaustive()
    }
}
