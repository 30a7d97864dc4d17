//! Whether a certificate can do what it is configured for: what never can is refused when it is loaded, and
//! not in handshakes.

use der::asn1::ObjectIdentifier;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::{
    certificate::{
        BASIC_CONSTRAINTS, CertificateFields, Details, Version, algorithm_of_key, canonical, sole_element,
    },
    describe::{self, EXPLAINS},
    error_text,
    names::ALTERNATIVE_NAMES,
    provider::{check_built_in, provider},
};
use crate::error::{Error, Result};

/// `id-ce-keyUsage` ([RFC 5280, section 4.2.1.3](https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.3)).
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// `id-ce-extKeyUsage` ([RFC 5280, section
/// 4.2.1.12](https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.12)).
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");

/// Moduli of RSA keys that *ring* takes, in bytes: 2048 bits to 8192 to verify, and half of that to sign.
const MIN_RSA_BYTES: usize = 256;
const MAX_RSA_BYTES: usize = 1024;
const MAX_RSA_BYTES_TO_SIGN: usize = 512;

pub(super) const SUPPORTED: &str = if cfg!(feature = "rsa") {
    "use one of Ed25519, of ECDSA on P-256 or P-384, or of RSA with 2048 bits or more"
} else if cfg!(feature = "ecdsa") {
    "use one of Ed25519, or of ECDSA on P-256 or P-384"
} else {
    "use one of Ed25519"
};

/// Refuses a certificate that this node cannot show.
pub(super) fn check_own(certificate: &CertificateDer<'_>) -> Result<()> {
    let Ok(details) = Details::read(certificate) else {
        let found = describe::kind_of_der(certificate).map_or("no certificate", |kind| kind.name());
        return Err(refused(certificate, &format!("malformed: it is {found}")));
    };
    check_built_in(details.public_key)?;
    let fault = match details.version {
        Version::Old => Some(error_text::OLD_CERTIFICATE.to_owned()),
        Version::Current => key_fault(details.public_key, MAX_RSA_BYTES_TO_SIGN),
    };
    fault.map_or(Ok(()), |fault| Err(refused(certificate, &fault)))
}

/// Why peers with the verifiers of this crate will refuse a certificate that this node can show. Others may
/// take it, so that this is no error.
pub(super) fn likely_refusal(certificate: &CertificateDer<'_>, now: Option<UnixTime>) -> Option<String> {
    let (details, facts) = (Details::read(certificate).ok()?, CertificateFields::of(certificate)?);
    let fault = if details.is_authority() {
        error_text::AUTHORITY_AS_NODE.to_owned()
    } else if describe::is_broken(details.signature_algorithm) {
        error_text::unsupported_signature(details.signature_algorithm)
    } else if now.is_some_and(|now| facts.not_after < now.as_secs()) {
        format!("it has expired: it was valid until {}", describe::seconds(facts.not_after))
    } else {
        return None;
    };
    Some(format!("{}: {fault}", describe::distinguished_name(details.subject)))
}

fn refused(certificate: &CertificateDer<'_>, fault: &str) -> Error {
    Error::invalid_config(match Details::read(certificate) {
        Ok(_) => {
            format!("this node's own certificate {} is not usable: {fault}", describe::subject(certificate))
        }
        Err(_) => format!("this node's own certificate is not usable: {fault}"),
    })
}

/// What a certificate is that is to be trusted.
pub(super) enum Role {
    Authority,
    /// A node, which is no authority, in these words.
    Node(String),
}

/// Refuses a certificate that nothing can be verified with.
pub(super) fn check_authority(certificate: &CertificateDer<'_>) -> Result<Role> {
    let Ok(details) = Details::read(certificate) else {
        let found = describe::kind_of_der(certificate).map_or("no certificate", |kind| kind.name());
        return Err(no_authority(&format!("malformed: it is {found}")));
    };
    check_built_in(details.public_key)?;
    let subject = describe::distinguished_name(details.subject);
    if let Some(fault) = key_fault(details.public_key, MAX_RSA_BYTES) {
        return Err(no_authority(&format!("{subject}: {fault}")));
    }
    if is_of_a_node(&details) {
        return Ok(Role::Node(format!(
            "{subject} is the certificate of a node: trust its issuer {}, and pin it if only this node is \
             meant",
            describe::distinguished_name(details.issuer)
        )));
    }
    Ok(Role::Authority)
}

pub(super) fn no_authority(fault: &str) -> Error {
    Error::invalid_config(format!("not usable as a certificate authority: {fault}"))
}

/// Whether a certificate says of itself that it is no authority's, and was issued by another.
///
/// A self-signed one is fine, whatever it says: a node that shows that same certificate is believed. So is
/// one that says nothing, as those of version 1 do: webpki takes the word of the user who trusts it.
fn is_of_a_node(details: &Details<'_>) -> bool {
    if details.is_self_issued() || details.is_authority() {
        return false;
    }
    let may_sign = |usage| {
        let bits = sole_element(usage, der::Tag::BitString).ok().and_then(|bits| bits.get(1));
        bits.is_none_or(|bits| bits & KEY_CERT_SIGN != 0)
    };
    let has = |id| details.extension(id).is_some();
    has(BASIC_CONSTRAINTS)
        || has(EXTENDED_KEY_USAGE)
        || has(ALTERNATIVE_NAMES)
        || details.extension(KEY_USAGE).is_some_and(|usage| !may_sign(usage))
}

/// Bit 5, counted from the highest.
const KEY_CERT_SIGN: u8 = 0x04;

/// Why no signature by the key of a certificate can be verified. Always `None` where errors are short.
pub(super) fn unverifiable(certificate: &CertificateDer<'_>) -> Option<String> {
    if !EXPLAINS {
        return None;
    }
    key_fault(Details::read(certificate).ok()?.public_key, MAX_RSA_BYTES)
}

/// Why no signature by this key can be made or verified. The key is as in a certificate, without tag and
/// length.
fn key_fault(public_key: &[u8], max_rsa_bytes: usize) -> Option<String> {
    let key = describe::public_key(public_key);
    let Ok(algorithm) = algorithm_of_key(public_key) else { return Some(format!("it has {key}")) };
    let verified = provider().signature_verification_algorithms;
    if !verified.all.iter().any(|known| *known.public_key_alg_id() == *algorithm) {
        return Some(format!("it has {key}, which is not supported: {SUPPORTED}"));
    }
    if !describe::is_rsa(algorithm) {
        return None;
    }
    let length = describe::modulus(public_key).map_or(0, |modulus| canonical(modulus).len());
    let range = MIN_RSA_BYTES..=max_rsa_bytes;
    (!range.contains(&length))
        .then(|| format!("it has {key}, and {} to {} are supported", 8 * MIN_RSA_BYTES, 8 * max_rsa_bytes))
}
