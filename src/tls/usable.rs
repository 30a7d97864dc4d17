//! Whether a certificate can do what it is made for.

use rustls::pki_types::CertificateDer;

use super::{
    certificate::{Details, algorithm_of_key, canonical},
    describe,
    provider::provider,
};

/// Moduli of RSA keys that *ring* takes, in bytes: 2048 bits to 8192.
const MIN_RSA_BYTES: usize = 256;
const MAX_RSA_BYTES: usize = 1024;

const SUPPORTED: &str = if cfg!(feature = "rsa") {
    "use one of Ed25519, of ECDSA on P-256 or P-384, or of RSA with 2048 bits or more"
} else if cfg!(feature = "ecdsa") {
    "use one of Ed25519, or of ECDSA on P-256 or P-384"
} else {
    "use one of Ed25519"
};

/// Why no signature by the key of a certificate can be verified.
pub(super) fn unverifiable(certificate: &CertificateDer<'_>) -> Option<String> {
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
