//! What a node that has lost its state can still say to peers that do not know it yet.
//!
//! A peer of a process that was killed goes on sending to its successor, and would find out by its idle
//! timeout alone. A stateless reset ([RFC 9000, section
//! 10.3](https://www.rfc-editor.org/rfc/rfc9000#section-10.3)) tells it immediately, if the successor derives
//! the same tokens: from the private key, or a key of the embedder's, which survives, and the address,
//! which tells apart the endpoints that share a key (section 21.11).

use std::{fmt, net::SocketAddr, sync::Arc};

use quinn::{EndpointConfig, crypto::HmacKey};
use quinn_proto::{HashedConnectionIdGenerator, crypto::CryptoError};
use rustls::{
    crypto::{
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        tls13::{Hkdf, OkmBlock},
    },
    pki_types::PrivateKeyDer,
};
use zeroize::Zeroize as _;

use super::provider::provider;
use crate::error::{Error, Result};

/// What lets a node that starts again tell the peers of its predecessor so, whatever its identity is by then;
/// see [`EndpointBuilder::restart_key`](crate::EndpointBuilder::restart_key).
///
/// A secret: with it, anyone can end the node's connections, though neither read them nor take part.
/// [`Debug`] does not show it, and it is wiped from memory when it is dropped. The bytes that go in by
/// [`from_bytes`](Self::from_bytes) or come out by [`as_bytes`](Self::as_bytes) are the caller's to wipe.
///
/// ```
/// use palyra_quic::RestartKey;
///
/// let key = RestartKey::generate()?;
/// let stored = *key.as_bytes(); // Where nobody else can read it, for the next start.
/// assert_eq!(RestartKey::from_bytes(stored).as_bytes(), key.as_bytes());
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone)]
pub struct RestartKey([u8; Self::LEN]);

impl RestartKey {
    /// Bytes in a key.
    pub const LEN: usize = 32;

    /// A new key, out of the system's source of randomness.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) where that has none to give.
    pub fn generate() -> Result<Self> {
        // Filled in place, so that no copy stays behind.
        let mut key = Self([0; Self::LEN]);
        let filled = provider().secure_random.fill(&mut key.0);
        filled.map_err(|_| Error::from(std::io::Error::other("the system gives no random numbers")))?;
        Ok(key)
    }

    /// The key with these bytes, which nobody must be able to guess.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key, to be stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// quinn's configuration for an endpoint at this address.
    pub(crate) fn endpoint_config(&self, address: SocketAddr) -> Option<EndpointConfig> {
        RestartSecret::derived_from(&self.0)?.endpoint_config(address)
    }

    fn wipe(&mut self) {
        self.0.zeroize();
    }
}

impl Drop for RestartKey {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl From<[u8; Self::LEN]> for RestartKey {
    fn from(bytes: [u8; Self::LEN]) -> Self {
        Self::from_bytes(bytes)
    }
}

impl fmt::Debug for RestartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(_secret) = self;
        f.debug_struct("RestartKey").finish_non_exhaustive()
    }
}

/// The secret of an identity that everything here follows from. It does not give the private key away.
#[derive(Clone)]
pub(super) struct RestartSecret(OkmBlock);

const SALT: &[u8] = b"palyra-quic restart";

impl RestartSecret {
    /// `None` without HKDF, which the cipher suite in question has.
    pub(super) fn of(key: &PrivateKeyDer<'_>) -> Option<Self> {
        Self::derived_from(key.secret_der())
    }

    fn derived_from(secret: &[u8]) -> Option<Self> {
        let expander = hkdf()?.extract_from_secret(Some(SALT), secret);
        Some(Self(expander.expand_block(&[b"secret"])))
    }

    /// quinn's configuration for an endpoint at this address.
    pub(super) fn endpoint_config(&self, address: SocketAddr) -> Option<EndpointConfig> {
        let expander = hkdf()?.expander_for_okm(&self.0);
        let address = address.to_string();
        let key = expander.expand_block(&[b"stateless reset ", address.as_bytes()]);
        let mut seed = [0; size_of::<u64>()];
        expander.expand_slice(&[b"connection IDs ", address.as_bytes()], &mut seed).ok()?;
        let mut config = EndpointConfig::new(Arc::new(ResetKey(key)));
        // quinn answers to connection IDs that it recognises, and so must recognise those of the process
        // before.
        let seed = u64::from_be_bytes(seed);
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(seed)));
        Some(config)
    }
}

fn hkdf() -> Option<&'static dyn Hkdf> {
    Some(TLS13_AES_128_GCM_SHA256.tls13()?.hkdf_provider)
}

/// HMAC with SHA-256.
struct ResetKey(OkmBlock);

const SIGNATURE_LEN: usize = 32;

impl ResetKey {
    fn tag(&self, data: &[u8]) -> [u8; SIGNATURE_LEN] {
        let mut tag = [0; SIGNATURE_LEN];
        if let Some(hkdf) = hkdf() {
            let signed = hkdf.hmac_sign(&self.0, data);
            tag.iter_mut().zip(signed.as_ref()).for_each(|(to, from)| *to = *from);
        }
        tag
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.iter_mut().zip(self.tag(data)).for_each(|(to, from)| *to = from);
    }

    fn signature_len(&self) -> usize {
        SIGNATURE_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let tag = self.tag(data);
        let differing =
            tag.iter().zip(signature).fold(0, |differing, (ours, theirs)| differing | (ours ^ theirs));
        if differing == 0 && signature.len() == tag.len() { Ok(()) } else { Err(CryptoError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: u8, address: &str) -> ResetKey {
        let key = PrivateKeyDer::Pkcs8(vec![secret; 64].into());
        let secret = RestartSecret::of(&key).unwrap();
        assert!(secret.endpoint_config(address.parse().unwrap()).is_some());
        ResetKey(hkdf().unwrap().expander_for_okm(&secret.0).expand_block(&[b"test", address.as_bytes()]))
    }

    #[test]
    fn tokens_follow_from_key_and_address_and_nothing_else() {
        let tag = |secret, address| key(secret, address).tag(b"a connection ID");
        assert_eq!(tag(1, "10.0.0.1:7443"), tag(1, "10.0.0.1:7443"));
        assert_ne!(tag(1, "10.0.0.1:7443"), tag(2, "10.0.0.1:7443"));
        assert_ne!(tag(1, "10.0.0.1:7443"), tag(1, "10.0.0.1:7444"));
        assert_ne!(tag(1, "10.0.0.1:7443"), [0; SIGNATURE_LEN]);
    }

    #[test]
    fn keys_are_new_and_stay_secret() {
        let [one, other] = [RestartKey::generate().unwrap(), RestartKey::generate().unwrap()];
        assert_ne!(one.as_bytes(), other.as_bytes());
        assert_ne!(one.as_bytes(), &[0; RestartKey::LEN]);
        assert_eq!(format!("{one:?}"), "RestartKey { .. }");
    }

    #[test]
    fn a_key_is_wiped_when_it_is_dropped() {
        assert!(std::mem::needs_drop::<RestartKey>());
        let mut key = RestartKey::from([7; RestartKey::LEN]);
        assert_eq!(key.as_bytes(), &[7; RestartKey::LEN]);
        key.wipe();
        assert_eq!(key.as_bytes(), &[0; RestartKey::LEN]);
    }

    #[test]
    fn a_signature_is_verified_to_the_last_bit() {
        let key = key(1, "10.0.0.1:7443");
        let mut signature = vec![0; key.signature_len()];
        key.sign(b"data", &mut signature);
        assert!(key.verify(b"data", &signature).is_ok());
        assert!(key.verify(b"date", &signature).is_err());
        assert!(key.verify(b"data", &signature[1..]).is_err());
        signature[31] ^= 1;
        assert!(key.verify(b"data", &signature).is_err());
    }
}
