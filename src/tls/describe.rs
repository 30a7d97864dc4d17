//! Certificates and keys in a few plain words, for errors.
//!
//! A peer writes much of what is read here: all of it comes out on one line, and not too long.

use der::{
    Decode, Reader, SliceReader, Tag, Tagged,
    asn1::{AnyRef, BitStringRef, ObjectIdentifier},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::{
    certificate::{Details, algorithm_of_key, canonical, element},
    names::{Names, text},
};
use crate::message::printable;

/// The longest name that is shown whole, in characters.
const MAX_NAME_CHARS: usize = 64;
/// A peer may have thousands of names.
const MAX_NAMES: usize = 8;
/// A subject has one or two that tell it apart, and may have any number.
const MAX_ATTRIBUTES: usize = 6;

/// A name of a peer's choice.
pub(super) fn name(name: &str) -> String {
    format!("`{}`", shortened(name))
}

fn shortened(name: &str) -> String {
    let shown = printable(name, MAX_NAME_CHARS);
    let cut = if name.chars().nth(MAX_NAME_CHARS).is_some() { "..." } else { "" };
    format!("{shown}{cut}")
}

/// A few names of a peer's choice, and how many more there are. `None` without any.
pub(super) fn list_of_names<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut names = names.peekable();
    names.peek()?;
    let shown = names.by_ref().take(MAX_NAMES).map(name).collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => Some(shown),
        more => Some(format!("{shown} and {more} more")),
    }
}

/// The names that a certificate is valid for, of those that servers have.
pub(super) fn names_of_server(certificate: &CertificateDer<'_>) -> Option<String> {
    let Names { dns_names, ip_addresses, .. } = Names::read(certificate).ok()?;
    let addresses: Vec<_> = ip_addresses.iter().map(ToString::to_string).collect();
    list_of_names(dns_names.iter().map(AsRef::as_ref).chain(addresses.iter().map(String::as_str)))
}

/// Whom a certificate is for, or by.
pub(super) fn subject(certificate: &[u8]) -> String {
    Details::read(certificate)
        .map_or_else(|_| "an unreadable name".to_owned(), |details| distinguished_name(details.subject))
}

/// A name as [RFC 4514](https://www.rfc-editor.org/rfc/rfc4514) writes it, nearly: in the order of the
/// certificate. It comes without its tag and length.
pub(super) fn distinguished_name(encoded: &[u8]) -> String {
    match attributes(encoded) {
        Ok(attributes) if attributes.is_empty() => "an empty name".to_owned(),
        Ok(attributes) => format!("`{}`", attributes.join(", ")),
        Err(_) => "an unreadable name".to_owned(),
    }
}

fn attributes(encoded: &[u8]) -> der::Result<Vec<String>> {
    let mut attributes = Vec::new();
    let mut reader = SliceReader::new(encoded)?;
    while !reader.is_finished() && attributes.len() < MAX_ATTRIBUTES {
        let mut relative = SliceReader::new(element(&mut reader, Tag::Set)?)?;
        while !relative.is_finished() && attributes.len() < MAX_ATTRIBUTES {
            let mut attribute = SliceReader::new(element(&mut relative, Tag::Sequence)?)?;
            let kind = ObjectIdentifier::decode(&mut attribute)?;
            let value = AnyRef::decode(&mut attribute)?;
            let value = match value.tag() {
                Tag::Ia5String => std::str::from_utf8(value.value()).ok().map(Into::into),
                _ => text(value),
            };
            let value = value.as_deref().map_or_else(|| "?".to_owned(), shortened);
            attributes.push(match ATTRIBUTES.iter().find(|(known, _)| *known == kind) {
                Some((_, short)) => format!("{short}={value}"),
                None => format!("{kind}={value}"),
            });
        }
    }
    Ok(attributes)
}

/// [RFC 4519](https://www.rfc-editor.org/rfc/rfc4519), and what authorities write besides.
const ATTRIBUTES: [(ObjectIdentifier, &str); 9] = [
    (oid("2.5.4.3"), "CN"),
    (oid("2.5.4.5"), "serial number"),
    (oid("2.5.4.6"), "C"),
    (oid("2.5.4.7"), "L"),
    (oid("2.5.4.8"), "ST"),
    (oid("2.5.4.10"), "O"),
    (oid("2.5.4.11"), "OU"),
    (oid("0.9.2342.19200300.100.1.25"), "DC"),
    (oid("1.2.840.113549.1.9.1"), "email"),
];

const fn oid(dotted: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(dotted)
}

/// A time, in UTC.
pub(super) fn time(time: UnixTime) -> String {
    seconds(time.as_secs())
}

/// A time in seconds since 1970, in UTC.
pub(super) fn seconds(since_1970: u64) -> String {
    der::DateTime::from_unix_duration(std::time::Duration::from_secs(since_1970))
        .map_or_else(|_| "a time that cannot be written".to_owned(), |time| time.to_string())
}

/// A public key, as in a certificate, without tag and length.
pub(super) fn public_key(key: &[u8]) -> String {
    let Ok(algorithm) = algorithm_of_key(key) else { return "an unreadable key".to_owned() };
    match modulus(key) {
        Some(modulus) if is_rsa(algorithm) => format!("an RSA key of {} bits", bits(modulus)),
        _ => key_of(algorithm),
    }
}

/// Whether keys with this algorithm are of RSA, for any kind of signature.
pub(super) fn is_rsa(algorithm: &[u8]) -> bool {
    leading_oid(algorithm) == Some(RSA)
}

/// The modulus of the RSA key that a public key would be.
pub(super) fn modulus(key: &[u8]) -> Option<&[u8]> {
    let mut key = SliceReader::new(key).ok()?;
    let _algorithm = element(&mut key, Tag::Sequence).ok()?;
    let key = BitStringRef::decode(&mut key).ok()?.raw_bytes();
    first_integer(key)
}

fn first_integer(sequence: &[u8]) -> Option<&[u8]> {
    let mut reader = SliceReader::new(sequence).ok()?;
    let mut reader = SliceReader::new(element(&mut reader, Tag::Sequence).ok()?).ok()?;
    element(&mut reader, Tag::Integer).ok().map(canonical)
}

fn bits(integer: &[u8]) -> usize {
    let Some(first) = integer.first() else { return 0 };
    let unused = usize::try_from(first.leading_zeros()).unwrap_or_default();
    (8 * integer.len()).saturating_sub(unused)
}

/// A private key, which is not shown.
pub(super) fn private_key(key: &PrivateKeyDer<'_>) -> String {
    match key {
        PrivateKeyDer::Pkcs1(key) => {
            format!("PKCS #1, {}", rsa_private_key(key.secret_pkcs1_der()))
        }
        PrivateKeyDer::Sec1(key) => {
            let curve = curve_of_sec1(key.secret_sec1_der());
            format!("SEC 1, {}", curve.map_or("an elliptic curve that is not named", curve_name))
        }
        PrivateKeyDer::Pkcs8(key) => match algorithm_of_pkcs8(key.secret_pkcs8_der()) {
            Some((algorithm, key)) if is_rsa(algorithm) => format!("PKCS #8, {}", rsa_private_key(key)),
            Some((algorithm, _)) => format!("PKCS #8, {}", key_of(algorithm)),
            None => "PKCS #8, unreadable".to_owned(),
        },
        _ => "of a format that is not known here".to_owned(),
    }
}

fn rsa_private_key(der: &[u8]) -> String {
    let modulus = || {
        let mut reader = SliceReader::new(der).ok()?;
        let mut reader = SliceReader::new(element(&mut reader, Tag::Sequence).ok()?).ok()?;
        let _version = element(&mut reader, Tag::Integer).ok()?;
        element(&mut reader, Tag::Integer).ok().map(canonical)
    };
    match modulus() {
        Some(modulus) => format!("an RSA key of {} bits", bits(modulus)),
        None => "an unreadable RSA key".to_owned(),
    }
}

/// [RFC 5915, section 3](https://www.rfc-editor.org/rfc/rfc5915#section-3).
fn curve_of_sec1(der: &[u8]) -> Option<ObjectIdentifier> {
    let mut reader = SliceReader::new(der).ok()?;
    let mut reader = SliceReader::new(element(&mut reader, Tag::Sequence).ok()?).ok()?;
    let _version = element(&mut reader, Tag::Integer).ok()?;
    let _key = element(&mut reader, Tag::OctetString).ok()?;
    let parameters = AnyRef::decode(&mut reader).ok()?;
    ObjectIdentifier::from_der(parameters.value()).ok()
}

/// [RFC 5958, section 2](https://www.rfc-editor.org/rfc/rfc5958#section-2): the algorithm without tag and
/// length, and the key.
fn algorithm_of_pkcs8(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = SliceReader::new(der).ok()?;
    let mut reader = SliceReader::new(element(&mut reader, Tag::Sequence).ok()?).ok()?;
    let _version = element(&mut reader, Tag::Integer).ok()?;
    let algorithm = element(&mut reader, Tag::Sequence).ok()?;
    Some((algorithm, element(&mut reader, Tag::OctetString).ok()?))
}

/// The kind of key that an algorithm takes, which comes without tag and length.
pub(super) fn key_of(algorithm: &[u8]) -> String {
    let Some(kind) = leading_oid(algorithm) else { return "an unreadable key".to_owned() };
    if kind == ELLIPTIC_CURVE {
        let curve = curve_of(algorithm);
        return format!("an ECDSA key on {}", curve.map_or("a curve that is not named", curve_name));
    }
    match KEYS.iter().find(|(known, _)| *known == kind) {
        Some((_, key)) => (*key).to_owned(),
        None => format!("a key of a kind that is not known here ({kind})"),
    }
}

const RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.1");
const ELLIPTIC_CURVE: ObjectIdentifier = oid("1.2.840.10045.2.1");

const KEYS: [(ObjectIdentifier, &str); 11] = [
    (RSA, "an RSA key"),
    (oid("1.2.840.113549.1.1.10"), "an RSA key for PSS alone"),
    (oid("1.2.840.10040.4.1"), "a DSA key"),
    (oid("1.3.101.110"), "an X25519 key, which cannot sign"),
    (oid("1.3.101.111"), "an X448 key, which cannot sign"),
    (oid("1.3.101.112"), "an Ed25519 key"),
    (oid("1.3.101.113"), "an Ed448 key"),
    (oid("2.16.840.1.101.3.4.3.17"), "an ML-DSA-44 key"),
    (oid("2.16.840.1.101.3.4.3.18"), "an ML-DSA-65 key"),
    (oid("2.16.840.1.101.3.4.3.19"), "an ML-DSA-87 key"),
    (oid("1.2.156.10197.1.301"), "an SM2 key"),
];

fn curve_of(algorithm: &[u8]) -> Option<ObjectIdentifier> {
    let mut reader = SliceReader::new(algorithm).ok()?;
    let _kind = ObjectIdentifier::decode(&mut reader).ok()?;
    ObjectIdentifier::decode(&mut reader).ok()
}

fn curve_name(curve: ObjectIdentifier) -> &'static str {
    CURVES
        .iter()
        .find(|(known, _)| *known == curve)
        .map_or("a curve that is not known here", |(_, name)| name)
}

const CURVES: [(ObjectIdentifier, &str); 8] = [
    (oid("1.2.840.10045.3.1.7"), "P-256"),
    (oid("1.3.132.0.33"), "P-224"),
    (oid("1.3.132.0.34"), "P-384"),
    (oid("1.3.132.0.35"), "P-521"),
    (oid("1.3.132.0.10"), "secp256k1"),
    (oid("1.3.36.3.3.2.8.1.1.7"), "Brainpool P256r1"),
    (oid("1.3.36.3.3.2.8.1.1.11"), "Brainpool P384r1"),
    (oid("1.3.36.3.3.2.8.1.1.13"), "Brainpool P512r1"),
];

/// An algorithm of signatures, without tag and length.
pub(super) fn signature(algorithm: &[u8]) -> String {
    let Some(kind) = leading_oid(algorithm) else { return "an unreadable algorithm".to_owned() };
    match SIGNATURES.iter().find(|(known, _)| *known == kind) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("an algorithm that is not known here ({kind})"),
    }
}

/// Whether a signature is made by this algorithm with a hash for which others can be forged.
pub(super) fn is_broken(algorithm: &[u8]) -> bool {
    leading_oid(algorithm).is_some_and(|kind| BROKEN.contains(&kind))
}

const BROKEN: [ObjectIdentifier; 5] = [
    oid("1.2.840.113549.1.1.4"),
    oid("1.2.840.113549.1.1.5"),
    oid("1.3.14.3.2.29"),
    oid("1.2.840.10045.4.1"),
    oid("1.2.840.10040.4.3"),
];

const SIGNATURES: [(ObjectIdentifier, &str); 20] = [
    (oid("1.2.840.113549.1.1.4"), "RSA and MD5"),
    (oid("1.2.840.113549.1.1.5"), "RSA and SHA-1"),
    (oid("1.3.14.3.2.29"), "RSA and SHA-1"),
    (oid("1.2.840.113549.1.1.10"), "RSA-PSS"),
    (oid("1.2.840.113549.1.1.11"), "RSA and SHA-256"),
    (oid("1.2.840.113549.1.1.12"), "RSA and SHA-384"),
    (oid("1.2.840.113549.1.1.13"), "RSA and SHA-512"),
    (oid("1.2.840.113549.1.1.14"), "RSA and SHA-224"),
    (oid("1.2.840.10045.4.1"), "ECDSA and SHA-1"),
    (oid("1.2.840.10045.4.3.1"), "ECDSA and SHA-224"),
    (oid("1.2.840.10045.4.3.2"), "ECDSA and SHA-256"),
    (oid("1.2.840.10045.4.3.3"), "ECDSA and SHA-384"),
    (oid("1.2.840.10045.4.3.4"), "ECDSA and SHA-512"),
    (oid("1.2.840.10040.4.3"), "DSA and SHA-1"),
    (oid("2.16.840.1.101.3.4.3.2"), "DSA and SHA-256"),
    (oid("1.3.101.112"), "Ed25519"),
    (oid("1.3.101.113"), "Ed448"),
    (oid("2.16.840.1.101.3.4.3.17"), "ML-DSA-44"),
    (oid("2.16.840.1.101.3.4.3.18"), "ML-DSA-65"),
    (oid("2.16.840.1.101.3.4.3.19"), "ML-DSA-87"),
];

fn leading_oid(algorithm: &[u8]) -> Option<ObjectIdentifier> {
    ObjectIdentifier::decode(&mut SliceReader::new(algorithm).ok()?).ok()
}

/// What a section of PEM, or some DER, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Certificate,
    TrustedCertificate,
    OldCertificate,
    Request,
    PrivateKey,
    EncryptedKey,
    SshKey,
    DsaKey,
    PublicKey,
    Parameters,
    RevocationList,
    Pkcs7,
    Pkcs12,
    JavaKeystore,
    Unknown,
}

impl Kind {
    /// By the label of a section in PEM ([RFC 7468](https://www.rfc-editor.org/rfc/rfc7468)).
    pub(super) fn of_label(label: &[u8]) -> Self {
        match label {
            b"CERTIFICATE" => Self::Certificate,
            b"TRUSTED CERTIFICATE" => Self::TrustedCertificate,
            b"X509 CERTIFICATE" => Self::OldCertificate,
            b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => Self::Request,
            b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"EC PRIVATE KEY" => Self::PrivateKey,
            b"ENCRYPTED PRIVATE KEY" => Self::EncryptedKey,
            b"OPENSSH PRIVATE KEY" | b"SSH2 ENCRYPTED PRIVATE KEY" => Self::SshKey,
            b"DSA PRIVATE KEY" => Self::DsaKey,
            b"PUBLIC KEY" | b"RSA PUBLIC KEY" | b"SSH2 PUBLIC KEY" => Self::PublicKey,
            b"EC PARAMETERS" | b"DH PARAMETERS" | b"DSA PARAMETERS" | b"X9.42 DH PARAMETERS" => {
                Self::Parameters
            }
            b"X509 CRL" => Self::RevocationList,
            b"PKCS7" | b"CMS" | b"PKCS #7 SIGNED DATA" => Self::Pkcs7,
            _ => Self::Unknown,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Certificate => "a certificate",
            Self::TrustedCertificate => "one in a format of openssl's own (TRUSTED CERTIFICATE)",
            Self::OldCertificate => "one with an old label (X509 CERTIFICATE)",
            Self::Request => "a certificate request (CSR)",
            Self::PrivateKey => "a private key",
            Self::EncryptedKey => "an encrypted private key",
            Self::SshKey => "a key in the format of ssh",
            Self::DsaKey => "a DSA key",
            Self::PublicKey => "a public key",
            Self::Parameters => "parameters of keys alone",
            Self::RevocationList => "a certificate revocation list (CRL)",
            Self::Pkcs7 => "PKCS #7",
            Self::Pkcs12 => "PKCS #12",
            Self::JavaKeystore => "a Java keystore",
            Self::Unknown => "a section of a kind that is not known here",
        }
    }
}

/// What some DER is, by its beginning.
pub(super) fn kind_of_der(der: &[u8]) -> Option<Kind> {
    if der.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) {
        return Some(Kind::JavaKeystore);
    }
    if Details::read(der).is_ok() {
        return Some(Kind::Certificate);
    }
    let inside = |der| SliceReader::new(element(&mut SliceReader::new(der).ok()?, Tag::Sequence).ok()?).ok();
    let mut fields = inside(der)?;
    let first = AnyRef::decode(&mut fields).ok()?;
    let second = AnyRef::decode(&mut fields).ok()?;
    match (first.tag(), second.tag()) {
        (Tag::Integer, Tag::Sequence) if first.value() == [3] => Some(Kind::Pkcs12),
        (Tag::Integer, Tag::Sequence | Tag::Integer | Tag::OctetString) => Some(Kind::PrivateKey),
        (Tag::ObjectIdentifier, _) => Some(Kind::Pkcs7),
        (Tag::Sequence, Tag::OctetString) => Some(Kind::EncryptedKey),
        (Tag::Sequence, Tag::BitString) => Some(Kind::PublicKey),
        (Tag::Sequence, Tag::Sequence) => kind_of_signed(first.value()),
        _ => None,
    }
}

/// Requests and revocation lists are signed as certificates are.
fn kind_of_signed(signed: &[u8]) -> Option<Kind> {
    let mut reader = SliceReader::new(signed).ok()?;
    let mut tags = Vec::new();
    while !reader.is_finished() && tags.len() < 4 {
        tags.push(AnyRef::decode(&mut reader).ok()?.tag());
    }
    let is_time = |tag: &Tag| matches!(tag, Tag::UtcTime | Tag::GeneralizedTime);
    if tags.iter().any(is_time) {
        return Some(Kind::RevocationList);
    }
    tags.starts_with(&[Tag::Integer, Tag::Sequence, Tag::Sequence]).then_some(Kind::Request)
}

#[cfg(all(test, feature = "cert"))]
mod tests {
    use rcgen::{
        CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, string::Ia5String,
    };

    use super::*;

    fn certificate_of(subject: DistinguishedName) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn subjects_are_short_and_on_one_line_whatever_they_are() {
        let mut long = DistinguishedName::new();
        long.push(DnType::OrganizationName, "o".repeat(1_000));
        long.push(DnType::CommonName, "a\u{1b}[2J\n\u{202e}b");
        for number in 0..100 {
            long.push(DnType::CustomDnType(vec![1, 2, 3, number]), "x");
        }
        let shown = subject(&certificate_of(long));
        let rest = "CN=a\u{fffd}[2J\u{fffd}\u{fffd}b, 1.2.3.0=x, 1.2.3.1=x, 1.2.3.2=x, 1.2.3.3=x";
        assert_eq!(shown, format!("`O={}..., {rest}`", "o".repeat(MAX_NAME_CHARS)));

        assert_eq!(subject(&certificate_of(DistinguishedName::new())), "an empty name");
        assert_eq!(subject(b"garbage"), "an unreadable name");
        let mut domain = DistinguishedName::new();
        let example = Ia5String::try_from("example").unwrap();
        let component = DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]);
        domain.push(component, DnValue::Ia5String(example));
        assert_eq!(subject(&certificate_of(domain)), "`DC=example`");
    }

    /// Nor do those that look for more than is there.
    #[test]
    fn no_cut_or_changed_certificate_makes_the_descriptions_panic() {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3]));
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let described = |der: &[u8]| {
            let certificate = CertificateDer::from_slice(der);
            drop((subject(der), names_of_server(&certificate), kind_of_der(der)));
            let key = PrivateKeyDer::Pkcs8(rustls::pki_types::PrivatePkcs8KeyDer::from(der));
            drop((private_key(&key), public_key(der), key_of(der), signature(der), distinguished_name(der)));
        };
        for at in 0..der.len() {
            described(&der[..at]);
            described(&der[at..]);
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = der.clone();
                changed[at] ^= flip;
                described(&changed);
            }
        }
        let key = key.serialize_der();
        for at in 0..key.len() {
            described(&key[..at]);
        }
    }
}
