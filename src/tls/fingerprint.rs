//! SHA-256 of certificates: as a name for one, and as the pin that one has to match.

use std::{fmt, str::FromStr};

use rustls::{
    SupportedCipherSuite,
    crypto::{hash::Hash, ring::cipher_suite::TLS13_AES_128_GCM_SHA256},
    pki_types::CertificateDer,
    server::ParsedCertificate,
};

use super::error_text::ReadableError;
use crate::error::{Error, Result};

/// SHA-256 of the crypto provider that is linked anyway, found while compiling.
static SHA256: &dyn Hash = match &TLS13_AES_128_GCM_SHA256 {
    SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
    // There are other variants only where something else in the build enables TLS 1.2.
    #[allow(unreachable_patterns)]
    _ => panic!("a TLS 1.3 cipher suite"),
};

/// SHA-256 of a certificate's DER encoding: its name in logs, allow lists and revocation lists.
///
/// Shown as 64 lower-case hexadecimal digits; read in either case, and also with colons between the bytes, as
/// `openssl x509 -noout -fingerprint -sha256` writes it.
///
/// ```
/// use palyra_quic::Fingerprint;
///
/// let text = "00ff".repeat(16);
/// let fingerprint: Fingerprint = text.to_uppercase().parse()?;
/// assert_eq!(fingerprint.to_string(), text);
/// assert_eq!(fingerprint.as_bytes()[..2], [0x00, 0xff]);
///
/// let with_colons = ["00:FF"; 16].join(":");
/// assert_eq!(with_colons.parse::<Fingerprint>()?, fingerprint);
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; Self::LEN]);

impl Fingerprint {
    /// Bytes in a fingerprint.
    pub const LEN: usize = 32;

    /// The fingerprint of this certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = SHA256.hash(certificate);
        let mut bytes = [0; Self::LEN];
        for (byte, digested) in bytes.iter_mut().zip(digest.as_ref()) {
            *byte = *digested;
        }
        Self(bytes)
    }

    /// The fingerprint with these bytes, for instance out of a database.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl From<[u8; Self::LEN]> for Fingerprint {
    fn from(bytes: [u8; Self::LEN]) -> Self {
        Self::from_bytes(bytes)
    }
}

impl From<&CertificateDer<'_>> for Fingerprint {
    /// The fingerprint of this certificate.
    fn from(certificate: &CertificateDer<'_>) -> Self {
        Self::of(certificate)
    }
}

impl AsRef<[u8]> for Fingerprint {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    /// Reads exactly 64 hexadecimal digits in either case: without separators, or with a colon between any
    /// two bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for anything else.
    fn from_str(text: &str) -> Result<Self> {
        let malformed = || malformed(text);
        let has_colons = text.len() == 3 * Self::LEN - 1;
        if !has_colons && text.len() != 2 * Self::LEN {
            return Err(malformed());
        }
        let mut bytes = [0; Self::LEN];
        let mut rest = text.as_bytes();
        for (place, byte) in bytes.iter_mut().enumerate() {
            if has_colons && place > 0 {
                rest = rest.strip_prefix(b":").ok_or_else(malformed)?;
            }
            let (&[high, low], after) = rest.split_first_chunk().ok_or_else(malformed)?;
            *byte = nibble(high).zip(nibble(low)).map(|(high, low)| high << 4 | low).ok_or_else(malformed)?;
            rest = after;
        }
        Ok(Self(bytes))
    }
}

/// Bytes of a SHA-1 digest, which is what openssl prints unless it is told otherwise.
const SHA_1_LEN: usize = 20;

fn malformed(text: &str) -> Error {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let advice = match (text.is_empty(), digits == 2 * SHA_1_LEN) {
        (true, _) => ": this is empty",
        (_, true) => ": this one is of SHA-1 (openssl takes `-sha256`)",
        _ => "",
    };
    Error::invalid_config(format!(
        "a SHA-256 fingerprint is 64 hexadecimal digits, without separators or with a colon after every \
         second{advice}"
    ))
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// What a server's own certificate must be, on top of a valid chain: one certificate, by its [`Fingerprint`],
/// or any with one public key, which may be renewed without a word to its clients.
///
/// Parsing is made for configuration files: 64 hexadecimal digits in either case, with or without colons
/// between the bytes, with `spki:` in front for a public key, and with blanks around them ignored.
///
/// ```
/// use palyra_quic::{ErrorKind, Pin};
///
/// let pin: Pin = format!("  {}\n", "AB".repeat(32)).parse()?;
/// assert_eq!(pin.to_string(), "ab".repeat(32));
///
/// let as_openssl_writes_it: Pin = ["AB"; 32].join(":").parse()?;
/// assert_eq!(as_openssl_writes_it, pin);
///
/// let key: Pin = format!("spki:{pin}").parse()?;
/// assert_ne!(key, pin);
///
/// let error = "  ".parse::<Pin>().unwrap_err();
/// assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin {
    pinned: Pinned,
    digest: Fingerprint,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Pinned {
    Certificate,
    PublicKey,
}

const PUBLIC_KEY_PREFIX: &str = "spki:";

impl Pin {
    /// The pin that only this certificate matches.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self { pinned: Pinned::Certificate, digest: Fingerprint::of(certificate) }
    }

    /// The pin that every certificate with the public key of this one matches: SHA-256 of its
    /// SubjectPublicKeyInfo, as in [RFC 7469, section
    /// 2.4](https://www.rfc-editor.org/rfc/rfc7469#section-2.4).
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where the certificate cannot be parsed.
    pub fn of_public_key(certificate: &CertificateDer<'_>) -> Result<Self> {
        let parsed = ParsedCertificate::try_from(certificate).map_err(|error| {
            Error::invalid_config("the certificate cannot be parsed").caused_by(ReadableError::Tls(error))
        })?;
        let key = parsed.subject_public_key_info();
        Ok(Self { pinned: Pinned::PublicKey, digest: Fingerprint::of(&CertificateDer::from_slice(&key)) })
    }

    /// SHA-256 of what is pinned.
    #[must_use]
    pub const fn fingerprint(self) -> Fingerprint {
        self.digest
    }
}

impl From<Fingerprint> for Pin {
    /// The pin of the certificate with this fingerprint.
    fn from(fingerprint: Fingerprint) -> Self {
        Self { pinned: Pinned::Certificate, digest: fingerprint }
    }
}

impl FromStr for Pin {
    type Err = Error;

    /// Reads what a [`Fingerprint`] is read from, with `spki:` in front for a public key, ignoring blanks
    /// around it.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for anything else. An empty text is an
    /// error too: an unset variable must not pass for "no pin".
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::invalid_config("the pin is empty"));
        }
        let (pinned, digits) = match text.strip_prefix(PUBLIC_KEY_PREFIX) {
            Some(digits) => (Pinned::PublicKey, digits),
            None => (Pinned::Certificate, text),
        };
        Ok(Self { pinned, digest: digits.parse()? })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pinned == Pinned::PublicKey {
            f.write_str(PUBLIC_KEY_PREFIX)?;
        }
        fmt::Display::fmt(&self.digest, f)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// SHA-256 of "abc", from FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_fingerprint_is_sha256_of_the_der() {
        let fingerprint = Fingerprint::of(&CertificateDer::from_slice(b"abc"));
        assert_eq!(fingerprint.to_string(), ABC);
        assert_eq!(ABC.parse::<Fingerprint>().unwrap(), fingerprint);
        assert_eq!(Fingerprint::from_bytes(*fingerprint.as_bytes()), fingerprint);
        assert_eq!(Fingerprint::from(&CertificateDer::from_slice(b"abc")), fingerprint);
        assert_eq!(Fingerprint::from(*fingerprint.as_bytes()), fingerprint);
        assert_eq!(fingerprint.as_ref(), fingerprint.as_bytes());
    }

    #[test]
    fn pins_ignore_case_and_the_blanks_around() {
        let pin: Pin = format!("\t {} \r\n", ABC.to_uppercase()).parse().unwrap();
        assert_eq!(pin.fingerprint().to_string(), ABC);
    }

    #[test]
    fn a_pin_of_a_key_and_one_of_a_certificate_are_told_apart() {
        let (certificate, key): (Pin, Pin) = (ABC.parse().unwrap(), format!(" spki:{ABC}").parse().unwrap());
        assert_ne!(certificate, key);
        assert_eq!(certificate.fingerprint(), key.fingerprint());
        assert_eq!(key.to_string(), format!("spki:{ABC}"));
        for text in ["spki:", "spki: ", "SPKI:ab", &format!("spki:spki:{ABC}")] {
            assert!(text.parse::<Pin>().is_err(), "{text:?}");
        }
        assert!(Pin::of_public_key(&CertificateDer::from_slice(b"abc")).is_err());
    }

    /// Against another reader of certificates.
    #[test]
    #[cfg(feature = "cert")]
    fn the_pin_of_a_key_is_sha256_of_its_subject_public_key_info() {
        use x509_cert::der::{Decode, Encode};

        let issued = crate::CertificateAuthority::new("ca").unwrap().issue_server(&[]).unwrap();
        let certificate = &issued.chain()[0];
        let parsed = x509_cert::Certificate::from_der(certificate).unwrap();
        let key = parsed.tbs_certificate.subject_public_key_info.to_der().unwrap();
        let expected = Fingerprint::of(&CertificateDer::from_slice(&key));
        assert_eq!(Pin::of_public_key(certificate).unwrap().fingerprint(), expected);
    }

    /// With a colon between any two bytes, as openssl writes it.
    fn with_colons(digits: &str) -> String {
        let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.collect::<Vec<_>>().join(":")
    }

    #[test]
    fn colons_between_bytes_are_read_in_either_case() {
        let plain: Fingerprint = ABC.parse().unwrap();
        let mixed_case = format!("{}{}", ABC[..32].to_uppercase(), &ABC[32..]);
        for digits in [ABC.to_owned(), ABC.to_uppercase(), mixed_case] {
            let colons = with_colons(&digits);
            assert_eq!(colons.len(), 95);
            assert_eq!(colons.parse::<Fingerprint>().unwrap(), plain);
            assert_eq!(colons.parse::<Pin>().unwrap(), Pin::from(plain));
            let key: Pin = format!(" spki:{colons}\n").parse().unwrap();
            assert_eq!(key.to_string(), format!("spki:{ABC}"));
            // What is shown can be read again.
            assert_eq!(key.to_string().parse::<Pin>().unwrap(), key);
            assert_eq!(plain.to_string().parse::<Fingerprint>().unwrap(), plain);
        }
    }

    #[test]
    fn a_fingerprint_of_sha_1_is_recognised() {
        let error = with_colons(&ABC[..40]).parse::<Pin>().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
        assert!(error.explanation().unwrap().contains("SHA-1"), "{error}");
    }

    #[test]
    fn anything_but_64_digits_is_refused() {
        let colons = with_colons(ABC);
        for text in [
            String::new(),
            " ".into(),
            ABC[1..].into(),
            format!("{ABC}0"),
            format!("0x{}", &ABC[2..]),
            format!("{}g", &ABC[1..]),
            format!("{}+", &ABC[1..]),
            format!("{}é", &ABC[2..]),
            format!("{} {}", &ABC[..32], &ABC[33..]),
            colons.replacen(':', "", 1),
            colons.replacen(':', "-", 1),
            colons.replacen(':', " ", 1),
            colons.replace(':', "-"),
            format!("{colons}:"),
            format!(":{colons}"),
            format!(":{}", &colons[..94]),
            format!("{}::{}", &colons[..47], &colons[49..]),
            format!("{}:{}", &ABC[..31], &ABC[32..]),
            format!("{}:{}", with_colons(&ABC[..32]), &ABC[32..]),
            format!("{}é{}", &colons[..1], &colons[3..]),
            colons.replacen("ba", "bg", 1),
        ] {
            let error = text.parse::<Pin>().unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::InvalidConfig, "{text:?}");
            assert!(text.parse::<Fingerprint>().is_err(), "{text:?}");
        }
        assert!(format!(" {ABC}").parse::<Fingerprint>().is_err(), "only pins forgive blanks");
    }
}
