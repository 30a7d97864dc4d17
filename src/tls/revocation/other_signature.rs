//! The certificate with the other signature that ECDSA allows.
//!
//! If (*r*, *s*) is a signature by a key on a curve of order *n*, so is (*r*, *n* - *s*), for the same
//! content. The owner of a certificate with the one can so make one with the other, which has another
//! fingerprint, and is as valid. Signatures by Ed25519 and RSA have one form alone.

use der::{Decode, Reader, SliceReader, Tag, asn1::BitStringRef};
use rustls::pki_types::CertificateDer;

use crate::tls::certificate::{canonical, element, sole_element};

/// Those of P-256 and P-384, big-endian ([NIST SP 800-186, sections 3.2.1.3 and
/// 3.2.1.4](https://doi.org/10.6028/NIST.SP.800-186)).
const ORDERS: [&[u8]; 2] = [
    &[
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ],
    &[
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81, 0xf4, 0x37, 0x2d, 0xdf, 0x58, 0x1a,
        0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec, 0x19, 0x6a, 0xcc, 0xc5, 0x29, 0x73,
    ],
];

/// For each curve on which the signature may be, the certificate with the other one. None if it is no
/// signature by ECDSA.
pub(super) fn with_other_signatures(
    certificate: &CertificateDer<'_>,
) -> impl Iterator<Item = CertificateDer<'static>> {
    let parts = Parts::read(certificate).ok();
    ORDERS.into_iter().filter_map(move |order| parts.as_ref()?.with_other_signature(order))
}

struct Parts<'a> {
    signed: &'a [u8],
    algorithm: &'a [u8],
    /// With its tag and length.
    r: &'a [u8],
    /// Without zeros in front.
    s: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(certificate: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(sole_element(certificate, Tag::Sequence)?)?;
        let (signed, algorithm) = (reader.tlv_bytes()?, reader.tlv_bytes()?);
        let signature = BitStringRef::decode(&mut reader)?.raw_bytes();
        let mut reader = SliceReader::new(sole_element(signature, Tag::Sequence)?)?;
        let (r, s) = (reader.tlv_bytes()?, canonical(element(&mut reader, Tag::Integer)?));
        Ok(Self { signed, algorithm, r, s })
    }

    /// `None` if *s* is not less than the order.
    fn with_other_signature(&self, order: &[u8]) -> Option<CertificateDer<'static>> {
        let Self { signed, algorithm, r, s } = self;
        let other = difference(order, s)?;
        // A number that begins with a bit would be negative.
        let sign: &[u8] = if other.first().is_some_and(|first| first & 0x80 != 0) { &[0] } else { &[] };
        let other = encoded(INTEGER, &[sign, &other])?;
        let signature = encoded(SEQUENCE, &[r, &other])?;
        let bits = encoded(BIT_STRING, &[&[NO_UNUSED_BITS], &signature])?;
        encoded(SEQUENCE, &[signed, algorithm, &bits]).map(Into::into)
    }
}

/// The difference of two numbers without zeros in front, big-endian, which has none either. `None` if it is
/// not positive.
fn difference(greater: &[u8], less: &[u8]) -> Option<Vec<u8>> {
    let zeros = greater.len().checked_sub(less.len())?;
    let less = std::iter::repeat_n(&0, zeros).chain(less).collect::<Vec<_>>();
    let mut borrows = false;
    let mut digits = vec![0; greater.len()];
    for ((digit, greater), less) in digits.iter_mut().zip(greater).zip(less).rev() {
        let (without_borrow, first) = greater.overflowing_sub(*less);
        let (left, second) = without_borrow.overflowing_sub(u8::from(borrows));
        (*digit, borrows) = (left, first || second);
    }
    let digits = canonical(&digits);
    (!borrows && !digits.is_empty()).then(|| digits.to_vec())
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
const NO_UNUSED_BITS: u8 = 0;
/// The first byte of a length that is in as many bytes as its lower bits say.
const LONG_LENGTH: u8 = 0x80;

/// An element of DER.
fn encoded(tag: u8, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let len = u32::try_from(parts.iter().map(|part| part.len()).sum::<usize>()).ok()?;
    let bytes = len.to_be_bytes();
    let len_bytes = canonical(&bytes);
    let mut element = vec![tag];
    match len_bytes {
        [] => element.push(0),
        [len] if *len < LONG_LENGTH => element.push(*len),
        _ => {
            element.push(LONG_LENGTH | u8::try_from(len_bytes.len()).ok()?);
            element.extend_from_slice(len_bytes);
        }
    }
    parts.iter().for_each(|part| element.extend_from_slice(part));
    Some(element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_borrow_from_the_left_and_are_positive() {
        assert_eq!(difference(&[1, 0, 0], &[1]), Some(vec![0xff, 0xff]));
        assert_eq!(difference(&[1, 0, 5], &[1, 0, 4]), Some(vec![1]));
        assert_eq!(difference(&[2, 0], &[]), Some(vec![2, 0]));
        assert_eq!(difference(&[5, 0], &[5, 0]), None);
        assert_eq!(difference(&[5, 0], &[5, 1]), None);
        assert_eq!(difference(&[5], &[1, 0]), None);
    }

    #[test]
    fn lengths_are_in_their_shortest_form() {
        let head = |len| encoded(SEQUENCE, &[&vec![0; len]]).unwrap()[..4].to_vec();
        assert_eq!(encoded(SEQUENCE, &[]), Some(vec![0x30, 0]));
        assert_eq!(head(127)[..2], [0x30, 127]);
        assert_eq!(head(128)[..3], [0x30, 0x81, 128]);
        assert_eq!(head(256), [0x30, 0x82, 1, 0]);
    }

    #[test]
    fn what_is_no_certificate_or_has_no_such_signature_has_no_other() {
        for bytes in [&b""[..], b"garbage", &[0x30, 0], &[0x30, 4, 0x30, 0, 0x30, 0]] {
            assert_eq!(with_other_signatures(&CertificateDer::from_slice(bytes)).count(), 0);
        }
        #[cfg(feature = "cert")]
        {
            let issued = crate::cert::CertificateAuthority::new("ca").unwrap().issue_client("a").unwrap();
            let of_ed25519 = rcgen_certificate(&rcgen::PKCS_ED25519);
            assert_eq!(with_other_signatures(&of_ed25519).count(), 0);
            let der = issued.chain()[0].to_vec();
            for at in 0..der.len() {
                assert_eq!(with_other_signatures(&CertificateDer::from_slice(&der[..at])).count(), 0);
            }
        }
    }

    #[cfg(feature = "cert")]
    fn rcgen_certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        rcgen::CertificateParams::default().self_signed(&key).unwrap().der().clone()
    }
}
