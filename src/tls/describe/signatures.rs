//! Algorithms of signatures.

use der::asn1::ObjectIdentifier;

use super::{
    EXPLAINS,
    oid::{leading_oid, oid},
};

/// An algorithm of signatures, without tag and length.
pub(crate) fn signature(algorithm: &[u8]) -> String {
    let Some(kind) = leading_oid(algorithm) else { return "an unreadable algorithm".to_owned() };
    if !EXPLAINS {
        return format!("an algorithm of kind {kind}");
    }
    match SIGNATURES.iter().find(|(known, _)| *known == kind) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("an algorithm that is not known here ({kind})"),
    }
}

/// Whether a signature is made by this algorithm with a hash for which others can be forged.
pub(crate) fn is_broken(algorithm: &[u8]) -> bool {
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
