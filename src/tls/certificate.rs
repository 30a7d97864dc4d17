//! What this crate needs to know of a certificate: to revoke it, to see it expire, and whose it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::{
    Decode, Reader, SliceReader, Tag, TagNumber, Tagged,
    asn1::{AnyRef, GeneralizedTime, ObjectIdentifier, OctetStringRef, UtcTime},
};
use rustls::pki_types::CertificateDer;

/// The parts of a certificate, as bytes of it. Names are without their tag and length, as rustls has them.
///
/// Read from the bytes and not by a parser of everything, which may refuse what the verifier of chains takes:
/// a certificate that is in use must not get past these checks for a flaw elsewhere in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CertificateFields<'a> {
    pub(crate) issuer: &'a [u8],
    pub(crate) serial: &'a [u8],
    /// The first second in which it is valid, since 1970.
    pub(crate) not_before: u64,
    /// The last second in which it is valid, since 1970.
    pub(crate) not_after: u64,
    pub(crate) subject: &'a [u8],
}

impl<'a> CertificateFields<'a> {
    /// `None` for what is no certificate.
    pub(crate) fn of(certificate: &'a CertificateDer<'_>) -> Option<Self> {
        Self::next(&mut signed_part(certificate).ok()?).ok()
    }

    /// As in [RFC 5280, section 4.1](https://www.rfc-editor.org/rfc/rfc5280#section-4.1).
    fn next(tbs: &mut SliceReader<'a>) -> der::Result<Self> {
        if tbs.peek_tag()?.is_context_specific() {
            let _version = AnyRef::decode(tbs)?;
        }
        let serial = canonical(element(tbs, Tag::Integer)?);
        let _algorithm = element(tbs, Tag::Sequence)?;
        let issuer = element(tbs, Tag::Sequence)?;
        let mut validity = SliceReader::new(element(tbs, Tag::Sequence)?)?;
        let not_before = unix_time(&mut validity)?;
        let not_after = unix_time(&mut validity)?;
        let subject = element(tbs, Tag::Sequence)?;
        Ok(Self { issuer, serial, not_before, not_after, subject })
    }
}

/// The last second in which all of these certificates are valid. `None` where none of them can be read.
pub(crate) fn not_after(path: &[CertificateDer<'_>]) -> Option<SystemTime> {
    let seconds =
        path.iter().filter_map(|certificate| Some(CertificateFields::of(certificate)?.not_after)).min()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Names, key and algorithm of the signature, without tags and lengths.
pub(super) struct Details<'a> {
    pub(super) version: Version,
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    pub(super) public_key: &'a [u8],
    pub(super) signature_algorithm: &'a [u8],
    pub(super) extensions: Option<&'a [u8]>,
}

/// [RFC 5280, section 4.1.2.1](https://www.rfc-editor.org/rfc/rfc5280#section-4.1.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Without extensions: 1, or 2.
    Old,
    /// With extensions: 3.
    Current,
}

impl Version {
    const CURRENT: [u8; 3] = [2, 1, 2];
}

impl<'a> Details<'a> {
    pub(super) fn read(certificate: &'a [u8]) -> der::Result<Self> {
        let mut tbs = signed_part(certificate)?;
        let (version, signature_algorithm) = head(tbs.clone())?;
        let CertificateFields { issuer, subject, .. } = CertificateFields::next(&mut tbs)?;
        let public_key = element(&mut tbs, Tag::Sequence)?;
        let mut extensions = None;
        while !tbs.is_finished() {
            // In front of them there may be identifiers that X.509 has given up.
            let field = AnyRef::decode(&mut tbs)?;
            if field.tag() == (Tag::ContextSpecific { constructed: true, number: TagNumber::N3 }) {
                extensions = Some(field.value());
            }
        }
        Ok(Self { version, issuer, subject, public_key, signature_algorithm, extensions })
    }

    /// Whether the authority has signed its own certificate, or a node its own.
    pub(super) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// What the extension with this identifier holds, if it is there once and can be read.
    pub(super) fn extension(&self, id: ObjectIdentifier) -> Option<&'a [u8]> {
        extension(self.extensions?, id).ok().flatten()
    }

    /// Whether it says of itself that it is an authority's ([RFC 5280, section
    /// 4.2.1.9](https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.9)).
    pub(super) fn is_authority(&self) -> bool {
        let claims = |constraints| {
            let mut constraints = SliceReader::new(sole_element(constraints, Tag::Sequence)?)?;
            bool::decode(&mut constraints)
        };
        self.extension(BASIC_CONSTRAINTS).is_some_and(|constraints| claims(constraints) == Ok(true))
    }
}

/// `id-ce-basicConstraints`.
pub(super) const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");

/// The version, and the algorithm of the signature.
fn head<'a>(mut tbs: SliceReader<'a>) -> der::Result<(Version, &'a [u8])> {
    let mut version = Version::Old;
    if tbs.peek_tag()?.is_context_specific() && AnyRef::decode(&mut tbs)?.value() == Version::CURRENT {
        version = Version::Current;
    }
    let _serial = element(&mut tbs, Tag::Integer)?;
    Ok((version, element(&mut tbs, Tag::Sequence)?))
}

/// What the authority has signed, with its tag and length: all but the signature.
pub(super) fn signed_content(certificate: &[u8]) -> der::Result<&[u8]> {
    SliceReader::new(sole_element(certificate, Tag::Sequence)?)?.tlv_bytes()
}

fn signed_part(certificate: &[u8]) -> der::Result<SliceReader<'_>> {
    let mut reader = SliceReader::new(certificate)?;
    let mut reader = SliceReader::new(element(&mut reader, Tag::Sequence)?)?;
    SliceReader::new(element(&mut reader, Tag::Sequence)?)
}

/// The algorithm in a SubjectPublicKeyInfo, both without tag and length.
pub(super) fn algorithm_of_key(public_key: &[u8]) -> der::Result<&[u8]> {
    element(&mut SliceReader::new(public_key)?, Tag::Sequence)
}

/// The value of the extension with this identifier, out of the extensions as they stand in their
/// context-specific tag.
///
/// An error if it is there twice ([RFC 5280, section
/// 4.2](https://www.rfc-editor.org/rfc/rfc5280#section-4.2)).
pub(super) fn extension(extensions: &[u8], id: ObjectIdentifier) -> der::Result<Option<&[u8]>> {
    let mut found = None;
    let mut reader = SliceReader::new(extensions)?;
    let mut reader = SliceReader::new(element(&mut reader, Tag::Sequence)?)?;
    while !reader.is_finished() {
        let mut extension = SliceReader::new(element(&mut reader, Tag::Sequence)?)?;
        if ObjectIdentifier::decode(&mut extension)? != id {
            continue;
        }
        if extension.peek_tag()? == Tag::Boolean {
            let _critical = AnyRef::decode(&mut extension)?;
        }
        let value = OctetStringRef::decode(&mut extension)?.as_bytes();
        if found.replace(value).is_some() {
            return Err(Tag::Sequence.value_error());
        }
    }
    Ok(found)
}

/// The value of the one element that this is, which must have this tag.
pub(super) fn sole_element(der: &[u8], tag: Tag) -> der::Result<&[u8]> {
    let any = AnyRef::from_der(der)?;
    any.tag().assert_eq(tag)?;
    Ok(any.value())
}

/// The value of the next element, which must have this tag.
pub(super) fn element<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<&'a [u8]> {
    let any = AnyRef::decode(reader)?;
    any.tag().assert_eq(tag)?;
    Ok(any.value())
}

/// The next element, which must be a time, in seconds since 1970.
pub(super) fn unix_time(reader: &mut SliceReader<'_>) -> der::Result<u64> {
    let since_1970 = match reader.peek_tag()? {
        Tag::UtcTime => UtcTime::decode(reader)?.to_unix_duration(),
        _ => GeneralizedTime::decode(reader)?.to_unix_duration(),
    };
    Ok(since_1970.as_secs())
}

/// An integer without the zeros in front, which some write and some do not.
pub(super) fn canonical(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    integer.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_in_front_do_not_count() {
        for integer in [&[0x80][..], &[0, 0x80], &[0, 0, 0x80]] {
            assert_eq!(canonical(integer), [0x80]);
        }
        assert_eq!(canonical(&[0]), canonical(&[]));
        assert_eq!(canonical(&[1, 0]), [1, 0]);
    }

    #[cfg(feature = "cert")]
    mod issued {
        use std::time::{Duration, UNIX_EPOCH};

        use x509_cert::{Certificate, der::Encode};

        use super::*;
        use crate::cert::CertificateAuthority;

        /// Against another reader of certificates.
        #[test]
        fn facts_are_what_the_certificate_says() {
            let (from, until) = (Duration::from_secs(1_000), Duration::from_secs(2_000_000_000));
            let ca = CertificateAuthority::new("ca").unwrap();
            let issued =
                ca.clone().valid(UNIX_EPOCH + from, UNIX_EPOCH + until).unwrap().issue_client("a").unwrap();
            let certificate = &issued.chain()[0];
            let facts = CertificateFields::of(certificate).unwrap();
            let parsed = Certificate::from_der(certificate).unwrap().tbs_certificate;
            assert_eq!(facts.serial, canonical(parsed.serial_number.as_bytes()));
            assert_eq!(facts.not_after, until.as_secs());
            assert!(parsed.issuer.to_der().unwrap().ends_with(facts.issuer));
            assert!(parsed.subject.to_der().unwrap().ends_with(facts.subject));
            assert_eq!(facts.issuer, CertificateFields::of(ca.certificate()).unwrap().subject);
        }

        #[test]
        fn no_cut_or_changed_certificate_makes_the_reader_panic() {
            let issued = CertificateAuthority::new("ca").unwrap().issue_client("a").unwrap();
            let der = issued.chain()[0].to_vec();
            for at in 0..der.len() {
                assert_eq!(CertificateFields::of(&CertificateDer::from_slice(&der[..at])), None);
                for flip in [0x01, 0x80, 0xff] {
                    let mut changed = der.clone();
                    changed[at] ^= flip;
                    let _ = CertificateFields::of(&CertificateDer::from(changed)).is_some();
                }
            }
        }
    }
}
