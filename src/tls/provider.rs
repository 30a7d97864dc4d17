//! The cryptography that TLS is given: what rustls takes from *ring* by default, in another order, less what
//! features leave out.
//!
//! Nothing here names what is left out, nor anything that names it, as rustls's own provider does: what the
//! linker finds no way to is not in the program.

use std::sync::{Arc, LazyLock};

use ::ring::rand::{SecureRandom as _, SystemRandom};
use rustls::{
    SignatureScheme, SupportedCipherSuite,
    crypto::{
        CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, SupportedKxGroup,
        WebPkiSupportedAlgorithms,
        ring::{cipher_suite, kx_group, sign},
    },
    pki_types::{AlgorithmIdentifier, PrivateKeyDer, alg_id},
    sign::SigningKey,
};
use webpki::ring as signature;
use zeroize::Zeroizing;

use super::certificate::algorithm_of_key;
use crate::error::{Error, Result};

/// Passed to every builder: a process-wide default provider may be another one, or missing.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: CIPHER_SUITES.to_vec(),
        kx_groups: KEY_EXCHANGE.to_vec(),
        signature_verification_algorithms: SIGNATURES,
        secure_random: &Ring,
        key_provider: &Ring,
    })
});

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Refuses a key that takes a feature to make or check signatures with, so that it comes out while the node
/// is configured, and not in handshakes. The key is as in a certificate, without tag and length.
pub(super) fn check_built_in(public_key: &[u8]) -> Result<()> {
    // What cannot be read is for others to complain of.
    let Ok(algorithm) = algorithm_of_key(public_key) else { return Ok(()) };
    let is_built_in = SIGNATURES.all.iter().any(|built_in| *built_in.public_key_alg_id() == *algorithm);
    match OPTIONAL.iter().find(|(optional, ..)| **optional == *algorithm) {
        Some((_, key, feature)) if !is_built_in => Err(Error::invalid_config(format!(
            "a certificate has {key}, and palyra-quic was built without its feature `{feature}`"
        ))),
        _ => Ok(()),
    }
}

/// Keys that certificates may have, and the features that they take.
const OPTIONAL: [(AlgorithmIdentifier, &str, &str); 3] = [
    (alg_id::ECDSA_P256, "an ECDSA key on P-256", "ecdsa"),
    (alg_id::ECDSA_P384, "an ECDSA key on P-384", "ecdsa"),
    (alg_id::RSA_ENCRYPTION, "an RSA key", "rsa"),
];

/// In the order in which a client prefers them, which counts. All TLS 1.3 knows AES-128-GCM ([RFC 8446,
/// section 9.1](https://www.rfc-editor.org/rfc/rfc8446#section-9.1)), nobody breaks it, and its SHA-256 has
/// instructions on most processors, where the SHA-384 of AES-256-GCM took a tenth of a handshake.
static CIPHER_SUITES: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    #[cfg(feature = "chacha20poly1305")]
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

static KEY_EXCHANGE: &[&dyn SupportedKxGroup] = &[
    kx_group::X25519,
    #[cfg(feature = "ecdsa")]
    kx_group::SECP256R1,
    #[cfg(feature = "ecdsa")]
    kx_group::SECP384R1,
];

static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        #[cfg(feature = "ecdsa")]
        signature::ECDSA_P256_SHA256,
        #[cfg(feature = "ecdsa")]
        signature::ECDSA_P256_SHA384,
        #[cfg(feature = "ecdsa")]
        signature::ECDSA_P384_SHA256,
        #[cfg(feature = "ecdsa")]
        signature::ECDSA_P384_SHA384,
        signature::ED25519,
        #[cfg(feature = "rsa")]
        signature::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        #[cfg(feature = "rsa")]
        signature::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        #[cfg(feature = "rsa")]
        signature::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        #[cfg(feature = "rsa")]
        signature::RSA_PKCS1_2048_8192_SHA256,
        #[cfg(feature = "rsa")]
        signature::RSA_PKCS1_2048_8192_SHA384,
        #[cfg(feature = "rsa")]
        signature::RSA_PKCS1_2048_8192_SHA512,
        #[cfg(feature = "rsa")]
        signature::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
        #[cfg(feature = "rsa")]
        signature::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
        #[cfg(feature = "rsa")]
        signature::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
    ],
    mapping: &[
        #[cfg(feature = "ecdsa")]
        (
            SignatureScheme::ECDSA_NISTP384_SHA384,
            &[signature::ECDSA_P384_SHA384, signature::ECDSA_P256_SHA384],
        ),
        #[cfg(feature = "ecdsa")]
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &[signature::ECDSA_P256_SHA256, signature::ECDSA_P384_SHA256],
        ),
        (SignatureScheme::ED25519, &[signature::ED25519]),
        #[cfg(feature = "rsa")]
        (SignatureScheme::RSA_PSS_SHA512, &[signature::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
        #[cfg(feature = "rsa")]
        (SignatureScheme::RSA_PSS_SHA384, &[signature::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
        #[cfg(feature = "rsa")]
        (SignatureScheme::RSA_PSS_SHA256, &[signature::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
        #[cfg(feature = "rsa")]
        (SignatureScheme::RSA_PKCS1_SHA512, &[signature::RSA_PKCS1_2048_8192_SHA512]),
        #[cfg(feature = "rsa")]
        (SignatureScheme::RSA_PKCS1_SHA384, &[signature::RSA_PKCS1_2048_8192_SHA384]),
        #[cfg(feature = "rsa")]
        (SignatureScheme::RSA_PKCS1_SHA256, &[signature::RSA_PKCS1_2048_8192_SHA256]),
    ],
};

#[derive(Debug)]
struct Ring;

impl SecureRandom for Ring {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        SystemRandom::new().fill(buffer).map_err(|_| GetRandomFailed)
    }
}

impl KeyProvider for Ring {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        let key = Zeroizing::new(key);
        if cfg!(feature = "rsa") {
            return sign::any_supported_type(&key);
        }
        if cfg!(feature = "ecdsa")
            && let Ok(key) = sign::any_ecdsa_type(&key)
        {
            return Ok(key);
        }
        match &*key {
            PrivateKeyDer::Pkcs8(key) => sign::any_eddsa_type(key),
            _ => Err(rustls::Error::General("an Ed25519 key comes as PKCS #8".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// So that an update of rustls with more to choose from, or in another order, does not go unnoticed. The
    /// order of cipher suites is our own.
    #[test]
    #[cfg(all(feature = "rsa", feature = "chacha20poly1305"))]
    fn with_all_features_it_is_what_rustls_has() {
        let (ours, theirs) = (provider(), rustls::crypto::ring::default_provider());
        let suites = |provider: &CryptoProvider| -> BTreeSet<u16> {
            provider.cipher_suites.iter().map(|suite| suite.suite().into()).collect()
        };
        assert_eq!(suites(&ours), suites(&theirs));
        let names = |provider: &CryptoProvider| -> Vec<_> {
            provider.kx_groups.iter().map(|group| group.name()).collect()
        };
        assert_eq!(names(&ours), names(&theirs));
        let WebPkiSupportedAlgorithms { all, mapping } = ours.signature_verification_algorithms;
        let theirs = theirs.signature_verification_algorithms;
        let described = |algorithms: &[_]| format!("{algorithms:?}");
        assert_eq!(described(all), described(theirs.all));
        let mapped = |mapping: &[(SignatureScheme, &[_])]| -> Vec<_> {
            mapping.iter().map(|(scheme, algorithms)| (*scheme, described(algorithms))).collect()
        };
        assert_eq!(mapped(mapping), mapped(theirs.mapping));
    }

    #[test]
    fn what_is_left_out_is_not_offered() {
        let provider = provider();
        let verifies = |key: AlgorithmIdentifier| {
            let mut all = provider.signature_verification_algorithms.all.iter();
            all.any(|signature| signature.public_key_alg_id() == key)
        };
        assert!(verifies(alg_id::ED25519));
        assert_eq!(verifies(alg_id::ECDSA_P256), cfg!(feature = "ecdsa"));
        assert_eq!(verifies(alg_id::ECDSA_P384), cfg!(feature = "ecdsa"));
        assert_eq!(verifies(alg_id::RSA_ENCRYPTION), cfg!(feature = "rsa"));
        assert_eq!(provider.kx_groups.len(), if cfg!(feature = "ecdsa") { 3 } else { 1 });
        assert_eq!(provider.cipher_suites[0], cipher_suite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(provider.cipher_suites.len(), if cfg!(feature = "chacha20poly1305") { 3 } else { 2 });
    }
}
