//! Public and private keys: of which kind and size they are. No private key is shown.

use der::{
    Decode, SliceReader, Tag,
    asn1::{AnyRef, BitStringRef, ObjectIdentifier},
};
use rustls::pki_types::PrivateKeyDer;

use super::{
    EXPLAINS,
    oid::{leading_oid, oid},
};
use crate::tls::certificate::{algorithm_of_key, canonical, element};

/// A public key, as in a certificate, without tag and length.
pub(crate) fn public_key(key: &[u8]) -> String {
    let Ok(algorithm) = algorithm_of_key(key) else { return UNREADABLE_KEY.to_owned() };
    match modulus(key) {
        Some(modulus) if is_rsa(algorithm) => format!("an RSA key of {} bits", bits(modulus)),
        _ => key_of(algorithm),
    }
}

/// Whether keys with this algorithm are of RSA, for any kind of signature.
pub(crate) fn is_rsa(algorithm: &[u8]) -> bool {
    leading_oid(algorithm) == Some(RSA)
}

/// The modulus of the RSA key that a public key would be.
pub(crate) fn modulus(key: &[u8]) -> Option<&[u8]> {
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
pub(crate) fn private_key(key: &PrivateKeyDer<'_>) -> String {
    match key {
        PrivateKeyDer::Pkcs1(_) if !EXPLAINS => "PKCS #1".to_owned(),
        PrivateKeyDer::Sec1(_) if !EXPLAINS => "SEC 1".to_owned(),
        PrivateKeyDer::Pkcs8(_) if !EXPLAINS => "PKCS #8".to_owned(),
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
pub(crate) fn key_of(algorithm: &[u8]) -> String {
    let Some(kind) = leading_oid(algorithm) else { return UNREADABLE_KEY.to_owned() };
    if !EXPLAINS {
        return format!("a key of kind {kind}");
    }
    if kind == ELLIPTIC_CURVE {
        let curve = curve_of(algorithm);
        return format!("an ECDSA key on {}", curve.map_or("a curve that is not named", curve_name));
    }
    match KEYS.iter().find(|(known, _)| *known == kind) {
        Some((_, key)) => (*key).to_owned(),
        None => format!("a key of a kind that is not known here ({kind})"),
    }
}

const UNREADABLE_KEY: &str = "an unreadable key";

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
