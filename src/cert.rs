//! A small certificate authority for development, tests and trying things out.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName,
    DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevokedCertParams, SanType, SerialNumber, string::Ia5String,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use x509_cert::{
    Certificate,
    der::{Decode, Encode, Tag, Tagged, asn1::Utf8StringRef, oid::db::rfc4519::COMMON_NAME},
    ext::pkix,
};

use crate::{
    error::{Error, Result},
    tls::{Cause, Facts, Fingerprint, Identity, Trust, pem},
};

/// `ub-common-name` ([RFC 5280, appendix A.1](https://www.rfc-editor.org/rfc/rfc5280#appendix-A.1)).
const MAX_COMMON_NAME_CHARS: usize = 64;

/// What a device's id is put behind to give its common name, as in the tokio implementation.
const DEVICE_PREFIX: &str = "Palyra Device ";

const MAX_DEVICE_ID_CHARS: usize = MAX_COMMON_NAME_CHARS - DEVICE_PREFIX.len();

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority is trusted until somebody replaces it, and here nobody is paid to do that often.
const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(3650);

const DEFAULT_LIFETIME: Duration = DAY.saturating_mul(365);

/// Small boards wake up with clocks that are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

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

/// A certificate that a [`CertificateAuthority`] signed, with its private key.
///
/// [`Debug`] does not show the key.
#[derive(Clone)]
pub struct Issued {
    identity: Identity,
    cert_pem: Arc<str>,
    key_pem: Arc<str>,
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
        let mut params = authority(name)?;
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

        let Authority { name, public_key } = Authority::of(&certificate)
            .ok_or_else(|| Error::invalid_config("not a certificate of an authority made here"))?;
        if public_key != key.subject_public_key_info() {
            return Err(Error::invalid_config("certificate and private key do not belong together"));
        }
        Self::assemble(authority(&name)?, key, certificate, section)
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
    pub fn issue_server(&self, names: &[&str]) -> Result<Issued> {
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
    pub fn issue_client(&self, id: &str) -> Result<Issued> {
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
    ) -> Result<Issued> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.subject_alt_names = alternatives;
        params.is_ca = IsCa::NoCa;
        params.custom_extensions = vec![no_authority()];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        // RFC 5280, section 4.2.1.1, demands it, and stricter verifiers than ours insist.
        params.use_authority_key_identifier_extension = true;
        self.window.map_or_else(|| Window::starting_now(DEFAULT_LIFETIME), Ok)?.apply_to(&mut params);

        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(unusable)?;
        let key_der = PrivateKeyDer::try_from(key.serialize_der()).map_err(Error::invalid_config)?;
        Ok(Issued {
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
        revoked: impl IntoIterator<Item = &'a Issued>,
    ) -> Result<CertificateRevocationListDer<'static>> {
        let Window { from, until } =
            self.window.map_or_else(|| Window::starting_now(DEFAULT_LIFETIME), Ok)?;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let revoked_certs = revoked.into_iter().filter_map(|issued| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(Facts::of(issued.chain().first()?)?.serial),
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

impl Issued {
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

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { issuer: _, certificate, cert_pem: _, key_pem: _, trust: _, window } = self;
        f.debug_struct("CertificateAuthority")
            .field("fingerprint", &Fingerprint::of(certificate))
            .field("window", window)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, cert_pem: _, key_pem: _ } = self;
        f.debug_struct("Issued").field("identity", identity).finish_non_exhaustive()
    }
}

fn new_key() -> Result<KeyPair> {
    let algorithm =
        if cfg!(feature = "ecdsa") { &rcgen::PKCS_ECDSA_P256_SHA256 } else { &rcgen::PKCS_ED25519 };
    KeyPair::generate_for(algorithm).map_err(unusable)
}

/// When a certificate is valid, as times since 1970 that X.509 can write down.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Duration,
    until: Duration,
}

impl Window {
    /// The last second of the year 9999; a year has four digits in X.509
    /// ([RFC 5280, section 4.1.2.5.2](https://www.rfc-editor.org/rfc/rfc5280#section-4.1.2.5.2)).
    const LAST: Duration = Duration::from_secs(253_402_300_799);

    fn new(from: SystemTime, until: SystemTime) -> Result<Self> {
        let since_1970 = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .map_err(|error| Error::invalid_config("a certificate from before 1970").caused_by(error))
        };
        let (from, until) = (since_1970(from)?, since_1970(until)?);
        if until < from {
            return Err(Error::invalid_config("the certificate would end before it begins"));
        }
        if until > Self::LAST {
            return Err(Error::invalid_config("a certificate until after the year 9999"));
        }
        Ok(Self { from, until })
    }

    fn starting_now(lifetime: Duration) -> Result<Self> {
        let now = SystemTime::now();
        // A clock that starts at 1970 has no hour before.
        Self::new(now.checked_sub(CLOCK_SKEW).unwrap_or(now).max(SystemTime::UNIX_EPOCH), now + lifetime)
    }

    fn apply_to(self, params: &mut CertificateParams) {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + self.from;
        params.not_after = epoch + self.until;
    }
}

/// Says that a certificate is not an authority's.
///
/// The `cA` field is left out, because FALSE is its default, and DER forbids encoding a default ([X.690,
/// section 11.5](https://www.itu.int/rec/T-REC-X.690)). rcgen would encode it, and strict parsers refuse
/// that.
fn no_authority() -> CustomExtension {
    let mut constraints = CustomExtension::from_oid_content(BASIC_CONSTRAINTS, EMPTY_SEQUENCE.to_vec());
    constraints.set_criticality(true);
    constraints
}

/// `id-ce-basicConstraints` ([RFC 5280, section
/// 4.2.1.9](https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.9)).
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const EMPTY_SEQUENCE: [u8; 2] = [0x30, 0x00];

/// Without a window, which only a new one needs.
fn authority(name: &str) -> Result<CertificateParams> {
    let chars = name.chars().count();
    if chars == 0 || chars > MAX_COMMON_NAME_CHARS || name.contains(char::is_control) {
        return Err(Error::invalid_config("the name of an authority is 1 to 64 printable characters"));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name.to_owned()));
    // It signs certificates of nodes, and makes nobody else an authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// What has to be known of a stored authority to go on issuing in its name.
struct Authority {
    name: String,
    /// The SubjectPublicKeyInfo, DER.
    public_key: Vec<u8>,
}

impl Authority {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let subject = Certificate::from_der(certificate).ok()?.tbs_certificate;
        let (_critical, constraints) = subject.get::<pkix::BasicConstraints>().ok()??;
        // Names of issuer and subject are compared byte by byte: what is issued has to be signed in
        // exactly this name, and `authority` can write no other form.
        let [relative] = subject.subject.0.as_slice() else { return None };
        let [name] = relative.0.as_slice() else { return None };
        if !constraints.ca || name.oid != COMMON_NAME || name.value.tag() != Tag::Utf8String {
            return None;
        }
        Some(Self {
            name: name.value.decode_as::<Utf8StringRef<'_>>().ok()?.as_str().to_owned(),
            public_key: subject.subject_public_key_info.to_der().ok()?,
        })
    }
}

/// The first certificate's section as it stands: a private key next to it must not come along.
fn first_certificate(pem: &[u8]) -> Option<&str> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = std::str::from_utf8(pem).ok()?;
    let (_, after_begin) = text.split_once(BEGIN)?;
    let (body, _) = after_begin.split_once(END)?;
    let begin = text.len() - after_begin.len() - BEGIN.len();
    text.get(begin..begin + BEGIN.len() + body.len() + END.len())
}

fn server_name(name: &str) -> Result<SanType> {
    match ServerName::try_from(name) {
        Ok(ServerName::IpAddress(address)) => Ok(SanType::IpAddress(address.into())),
        Ok(ServerName::DnsName(_)) if !name.ends_with('.') => {
            Ia5String::try_from(name).map(SanType::DnsName).map_err(unusable)
        }
        _ => Err(Error::invalid_config(format!("{name:?} is neither a DNS name nor an IP address"))),
    }
}

fn without_repetition(names: Vec<SanType>) -> Vec<SanType> {
    let mut unique = Vec::with_capacity(names.len());
    for name in names {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    unique
}

fn unusable(error: rcgen::Error) -> Error {
    Error::invalid_config("no certificate can be made").caused_by(Cause::other(error))
}

#[cfg(test)]
mod tests {
    use x509_cert::der::oid::db::rfc5280;

    use super::*;
    use crate::{error::ErrorKind, tls::PeerIdentity};

    fn peer(issued: &Issued) -> PeerIdentity {
        PeerIdentity::from_chain(issued.chain().to_vec()).unwrap()
    }

    fn certificate(der: &CertificateDer<'_>) -> Certificate {
        Certificate::from_der(der).unwrap()
    }

    fn validity(issued: &Issued) -> (SystemTime, SystemTime) {
        let validity = certificate(&issued.chain()[0]).tbs_certificate.validity;
        let at = |time: x509_cert::time::Time| SystemTime::UNIX_EPOCH + time.to_unix_duration();
        (at(validity.not_before), at(validity.not_after))
    }

    fn assert_invalid<T: fmt::Debug>(result: Result<T>, explanation: &str) {
        let error = result.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
        assert!(error.explanation().unwrap().starts_with(explanation), "{error}");
    }

    #[test]
    fn a_reloaded_authority_goes_on_issuing_in_the_same_name() {
        let ca = CertificateAuthority::new("Zentrale für Köche").unwrap();
        let one_file = format!("# stored\n{}{}", ca.key_pem(), ca.cert_pem());
        for (cert, key) in [(ca.cert_pem(), ca.key_pem()), (one_file.as_str(), one_file.as_str())] {
            let reloaded = CertificateAuthority::from_pem(cert.as_bytes(), key.as_bytes()).unwrap();
            assert_eq!(reloaded.certificate(), ca.certificate());
            assert_eq!(reloaded.key_pem(), ca.key_pem());
            assert_eq!(reloaded.cert_pem().trim(), ca.cert_pem().trim());

            let issued = certificate(&reloaded.issue_client("a").unwrap().chain()[0]).tbs_certificate;
            let authority = certificate(ca.certificate()).tbs_certificate;
            assert_eq!(issued.issuer.to_der().unwrap(), authority.subject.to_der().unwrap());
            let (_, named) = issued.get::<pkix::AuthorityKeyIdentifier>().unwrap().unwrap();
            let (_, own) = authority.get::<pkix::SubjectKeyIdentifier>().unwrap().unwrap();
            assert_eq!(named.key_identifier, Some(own.0));
        }
    }

    #[test]
    fn only_an_authority_with_its_own_key_is_reloaded() {
        let (a, b) = (CertificateAuthority::new("a").unwrap(), CertificateAuthority::new("b").unwrap());
        let leaf = a.issue_client("leaf").unwrap();
        let reload = |cert: &str, key: &str| CertificateAuthority::from_pem(cert.as_bytes(), key.as_bytes());
        assert!(reload(a.cert_pem(), a.key_pem()).is_ok());
        assert_invalid(
            reload(a.cert_pem(), b.key_pem()),
            "certificate and private key do not belong together",
        );
        assert_invalid(
            reload(leaf.cert_pem(), leaf.key_pem()),
            "not a certificate of an authority made here",
        );
        assert_invalid(reload(a.key_pem(), a.key_pem()), "no certificate in the PEM");
        assert_invalid(reload(a.cert_pem(), a.cert_pem()), "no private key in the PEM");
        let damaged = a.cert_pem().replacen("-----\n", "-----\n!", 1);
        assert_invalid(reload(&damaged, a.key_pem()), "the PEM of the certificates is malformed: line 2");
        let torn = &a.cert_pem()[..a.cert_pem().len() / 2];
        assert_invalid(reload(torn, a.key_pem()), "the PEM of the certificates is malformed: the section");
    }

    #[test]
    fn a_server_is_named_once_for_each_name() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let plain = peer(&ca.issue_server(&[]).unwrap());
        assert_eq!(plain.common_name(), Some("localhost"));
        assert!(plain.dns_names().eq(["localhost"]));

        let repeated = peer(&ca.issue_server(&["::1", "localhost", "a.example", "a.example"]).unwrap());
        assert_eq!(repeated.common_name(), Some("::1"));
        assert!(repeated.dns_names().eq(["localhost", "a.example"]));
        assert_eq!(repeated.ip_addresses().len(), 2);

        let long = format!("{}.example", "a".repeat(60));
        let long_named = peer(&ca.issue_server(&[&long]).unwrap());
        assert_eq!(long_named.common_name(), Some("localhost"));
        assert!(long_named.dns_names().eq([long.as_str(), "localhost"]));
    }

    #[test]
    fn certificates_say_what_they_are_for() {
        let ca = CertificateAuthority::new("ca").unwrap();
        for (issued, purpose) in [
            (ca.issue_server(&[]).unwrap(), "1.3.6.1.5.5.7.3.1"),
            (ca.issue_client("a").unwrap(), "1.3.6.1.5.5.7.3.2"),
        ] {
            let subject = certificate(&issued.chain()[0]).tbs_certificate;
            let (_, usage) = subject.get::<pkix::ExtendedKeyUsage>().unwrap().unwrap();
            assert_eq!(usage.0.iter().map(ToString::to_string).collect::<Vec<_>>(), [purpose]);
            let (_, constraints) = subject.get::<pkix::BasicConstraints>().unwrap().unwrap();
            assert!(!constraints.ca);
        }
        let subject = certificate(&ca.issue_client("a").unwrap().chain()[0]).tbs_certificate.subject;
        assert_eq!(subject.to_string(), "CN=Palyra Device a,O=Palyra");
    }

    /// Every part that this crate has a type for is the same when it is encoded again, and so is the whole.
    fn assert_is_der(certificate: &CertificateDer<'_>) {
        fn assert_reencodes<'a, T: Decode<'a> + Encode>(encoded: &'a [u8]) {
            assert_eq!(T::from_der(encoded).unwrap().to_der().unwrap(), encoded);
        }
        assert_reencodes::<Certificate>(certificate);
        let parsed = Certificate::from_der(certificate).unwrap().tbs_certificate;
        for extension in parsed.extensions.unwrap() {
            let value = extension.extn_value.as_bytes();
            match extension.extn_id {
                rfc5280::ID_CE_BASIC_CONSTRAINTS => assert_reencodes::<pkix::BasicConstraints>(value),
                rfc5280::ID_CE_KEY_USAGE => assert_reencodes::<pkix::KeyUsage>(value),
                rfc5280::ID_CE_EXT_KEY_USAGE => assert_reencodes::<pkix::ExtendedKeyUsage>(value),
                rfc5280::ID_CE_SUBJECT_ALT_NAME => assert_reencodes::<pkix::SubjectAltName>(value),
                rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER => {
                    assert_reencodes::<pkix::SubjectKeyIdentifier>(value)
                }
                rfc5280::ID_CE_AUTHORITY_KEY_IDENTIFIER => {
                    assert_reencodes::<pkix::AuthorityKeyIdentifier>(value);
                }
                other => panic!("an extension that nobody looks at: {other}"),
            }
        }
    }

    #[test]
    fn certificates_are_encoded_as_der_demands() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let server = ca.issue_server(&["node.example", "192.0.2.7"]).unwrap();
        let client = ca.issue_client("a").unwrap();
        for certificate in [ca.certificate(), &server.chain()[0], &client.chain()[0]] {
            assert_is_der(certificate);
        }
    }

    /// The twin: what rcgen writes by itself.
    #[test]
    #[should_panic(expected = "assertion `left == right` failed")]
    fn a_default_that_is_encoded_is_noticed() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        assert_is_der(params.self_signed(&new_key().unwrap()).unwrap().der());
    }

    #[test]
    fn the_window_is_kept_to_the_second() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (from, until) in [
            (0, 0),
            (1_000_000_000, 1_000_000_001),
            (2_524_607_999, 2_524_608_000), // from UTCTime to GeneralizedTime
            (0, 253_402_300_799),
        ] {
            let ca = ca.clone().valid(at(from), at(until)).unwrap();
            assert_eq!(validity(&ca.issue_client("a").unwrap()), (at(from), at(until)));
            assert_eq!(validity(&ca.issue_server(&[]).unwrap()), (at(from), at(until)));
        }
        let valid = |from, until| ca.clone().valid(from, until);
        assert_invalid(valid(at(2), at(1)), "the certificate would end before it begins");
        assert_invalid(valid(at(0), at(253_402_300_800)), "a certificate until after the year 9999");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_invalid(valid(before, at(1)), "a certificate from before 1970");
    }

    #[test]
    fn the_default_window_allows_for_slow_clocks() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let before = SystemTime::now();
        let (from, until) = validity(&ca.issue_client("a").unwrap());
        let after = SystemTime::now();
        let second = Duration::from_secs(1);
        assert!(before - CLOCK_SKEW - second <= from && from <= after - CLOCK_SKEW);
        assert!(before + DEFAULT_LIFETIME - second <= until && until <= after + DEFAULT_LIFETIME);
    }

    #[test]
    fn names_that_cannot_be_written_are_refused() {
        let ca = CertificateAuthority::new("ca").unwrap();
        for name in ["", " ", "a b", "*.example", "a.example.", "[::1]", "127.0.0.1:443", "bücher.example"] {
            assert_invalid(
                ca.issue_server(&["good.example", name]),
                &format!("{name:?} is neither a DNS name nor an IP address"),
            );
        }
        assert!(ca.issue_client(&"x".repeat(50)).is_ok());
        for id in ["", "a b", "a/b", "a:b", "a%20", "é", "a\n", &"x".repeat(51)] {
            assert_invalid(
                ca.issue_client(id),
                "a client id is 1 to 50 letters, digits, `-`, `.`, `_` and `~`",
            );
        }
        assert!(CertificateAuthority::new(&"é".repeat(64)).is_ok());
        for name in ["", "a\nb", &"x".repeat(65)] {
            assert_invalid(
                CertificateAuthority::new(name),
                "the name of an authority is 1 to 64 printable characters",
            );
        }
    }

    #[test]
    fn debug_shows_fingerprints_and_no_key() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let issued = ca.issue_server(&[]).unwrap();
        for (debug, fingerprint) in [
            (format!("{ca:?}"), Fingerprint::of(ca.certificate())),
            (format!("{issued:?}"), issued.fingerprint()),
        ] {
            assert!(debug.contains(&fingerprint.to_string()), "{debug}");
            assert!(debug.len() < 200, "more than names: {debug}");
        }
    }
}
