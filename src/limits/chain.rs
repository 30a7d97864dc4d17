//! How large certificate chains may be, and what follows for the messages that carry them.

use std::fmt;

use rustls::pki_types::CertificateDer;

/// Bytes of the other handshake messages that a side may send: EncryptedExtensions,
/// CertificateRequest, CertificateVerify and Finished take less than 1 KiB with RSA keys of 4,096 bits, and a
/// peer that is no node of this crate may staple an OCSP response or name some authorities.
const OTHER_MESSAGES: u32 = 3 * 1024;
/// A certificate has at least 80 bytes, of which its signature alone is 64, and five more in its message
/// ([RFC 8446, section 4.4.2](https://www.rfc-editor.org/rfc/rfc8446#section-4.4.2)).
const CERTIFICATES_BY_FRAMING: u32 = 16;
/// The default. Three times what three certificates with RSA keys of 4,096 bits take.
pub(super) const MAX_CERTIFICATE_CHAIN_BYTES: u32 = 16 * 1024;
/// One certificate alone has several hundred.
pub(super) const SMALLEST_CHAIN_BYTES: u32 = 1024;
/// rustls takes no handshake message of more than 65,535 bytes.
pub(super) const LARGEST_CHAIN_BYTES: u32 = 60 * 1024;

/// The limit `max_certificate_chain_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainLimit(u32);

impl ChainLimit {
    pub(super) const fn new(bytes: u32) -> Self {
        Self(bytes)
    }

    /// Bytes of all handshake messages that a side may send one after another: what quinn has to hold where
    /// the first packet of them is lost.
    pub(crate) const fn flight_bytes(self) -> u32 {
        self.0 + self.0 / CERTIFICATES_BY_FRAMING + OTHER_MESSAGES
    }

    /// Adds up the certificates as they are in DER, whether or not any path needs them.
    pub(crate) fn check<'a>(
        self,
        chain: impl IntoIterator<Item = &'a CertificateDer<'a>>,
    ) -> Result<(), Oversized> {
        let bytes = chain.into_iter().map(|certificate| certificate.len()).sum();
        if u32::try_from(bytes).is_ok_and(|bytes| bytes <= self.0) {
            return Ok(());
        }
        Err(Oversized::Chain { bytes, limit: self })
    }
}

impl Default for ChainLimit {
    fn default() -> Self {
        Self(MAX_CERTIFICATE_CHAIN_BYTES)
    }
}

impl fmt::Display for ChainLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "max_certificate_chain_bytes ({})", self.0)
    }
}

/// A certificate chain, or what carries it, is larger than this side takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Oversized {
    #[error("a certificate chain of {bytes} bytes is larger than {limit}")]
    Chain { bytes: usize, limit: ChainLimit },
    /// Refused by what it announces, before it was received.
    #[error("a handshake message of {bytes} bytes is larger than {limit} allows")]
    Message { bytes: u32, limit: ChainLimit },
    /// Packets were lost, and what came behind them was more than could be held.
    #[error("the handshake messages, the certificate chain among them, are larger than {limit} allows")]
    Flight { limit: ChainLimit },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(sizes: &[usize]) -> Vec<CertificateDer<'static>> {
        sizes.iter().map(|size| CertificateDer::from(vec![0; *size])).collect()
    }

    #[test]
    fn all_certificates_of_a_chain_count() {
        let limit = ChainLimit::new(1024);
        assert_eq!(limit.check(&chain(&[])), Ok(()));
        assert_eq!(limit.check(&chain(&[1024])), Ok(()));
        assert_eq!(limit.check(&chain(&[1000, 24])), Ok(()));
        assert_eq!(limit.check(&chain(&[1000, 25])), Err(Oversized::Chain { bytes: 1025, limit }));
        assert_eq!(limit.check(&chain(&[80; 13])), Err(Oversized::Chain { bytes: 1040, limit }));
    }

    #[test]
    fn what_an_allowed_chain_takes_in_its_message_is_in_the_flight() {
        for limit in [SMALLEST_CHAIN_BYTES, 4096, MAX_CERTIFICATE_CHAIN_BYTES] {
            let smallest_certificates = limit / 80;
            let message = limit + 5 * smallest_certificates + 8;
            assert!(message + 1024 <= ChainLimit::new(limit).flight_bytes(), "{limit}");
        }
        let largest = LARGEST_CHAIN_BYTES + LARGEST_CHAIN_BYTES / CERTIFICATES_BY_FRAMING + 8;
        assert!(largest <= 0xffff, "rustls would refuse it");
    }
}
