//! What a file holds that was given for a certificate, a key or a revocation list.

use der::{Decode, Reader, SliceReader, Tag, Tagged, asn1::AnyRef};

use super::EXPLAINS;
use crate::tls::certificate::{Details, element};

/// What a section of PEM, or some DER, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
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
    pub(crate) fn of_label(label: &[u8]) -> Self {
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

    pub(crate) fn name(self) -> &'static str {
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

/// What some DER is, by its beginning. Always `None` where errors are short.
pub(crate) fn kind_of_der(der: &[u8]) -> Option<Kind> {
    if !EXPLAINS {
        return None;
    }
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
