//! What an authority says of its own certificates: certificate revocation lists
//! ([RFC 5280, section 5](https://www.rfc-editor.org/rfc/rfc5280#section-5)).

use std::{collections::HashSet, time::Duration};

use der::{
    Decode, Reader, SliceReader, Tag,
    asn1::{AnyRef, BitStringRef, ObjectIdentifier},
};
use rustls::pki_types::{CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{BorrowedCertRevocationList, CertRevocationList};

use crate::{
    error::{Error, Result},
    tls::{
        certificate::{canonical, element, extension, sole_element, unix_time},
        describe::{self, Kind},
        error_text,
        identity::Trust,
        provider::provider,
    },
};

/// `id-ce-cRLNumber` ([RFC 5280, section 5.2.3](https://www.rfc-editor.org/rfc/rfc5280#section-5.2.3)).
const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");

/// A list may come from an authority whose clock is ahead of this node's by as much: two clocks are seldom
/// the same.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// A complete list of the revoked certificates of one authority, whose signature was right.
#[derive(Clone, Debug)]
pub(super) struct Crl {
    /// The authority's name.
    pub(super) issuer: Box<[u8]>,
    /// The authority's public key (SubjectPublicKeyInfo, without its tag and length), which tells
    /// authorities of one name apart.
    key: Box<[u8]>,
    pub(super) serials: HashSet<Box<[u8]>>,
    /// The time from which it says nothing any more.
    pub(super) next_update: UnixTime,
    this_update: u64,
    number: Option<Box<[u8]>>,
}

impl Crl {
    /// Reads a list, and believes it if one of these authorities has signed it and it is not out of date.
    pub(super) fn verified(
        der: &CertificateRevocationListDer<'_>,
        issuers: &Trust,
        now: UnixTime,
    ) -> Result<Self> {
        // webpki checks the form, and takes neither delta nor indirect lists, nor those for certain reasons
        // only.
        let list =
            BorrowedCertRevocationList::from_der(der).map_err(|error| refused(&unreadable(der, &error)))?;
        let serials = list
            .into_iter()
            .map(|entry| entry.map(|entry| canonical(entry.serial_number).into()))
            .collect::<Result<_, _>>()
            .map_err(|error| refused(&format!("an entry is malformed: {}", error_text::webpki(&error))))?;
        if CertRevocationList::from(list).issuing_distribution_point().is_some() {
            return Err(refused("it is not complete: it has an issuing distribution point"));
        }
        let parts = Parts::read(der).map_err(|error| refused(&format!("malformed ({error})")))?;
        let roots = issuers.roots();
        let mut authorities =
            roots.roots.iter().filter(|authority| *authority.subject == *parts.issuer).peekable();
        if authorities.peek().is_none() {
            return Err(refused(&format!(
                "none of the given authorities has issued it: its issuer is {}",
                describe::distinguished_name(parts.issuer)
            )));
        }
        // An authority that was given a new key keeps its name.
        let signer = authorities.find(|authority| parts.are_signed_by(authority).unwrap_or(false));
        let Some(signer) = signer else { return Err(refused(&parts.unverified())) };
        // RFC 5280, section 6.3.3, uses a list only when the time lies between `thisUpdate` and `nextUpdate`.
        // One from the future would keep out every right one until its time has come.
        if parts.this_update > now.as_secs().saturating_add(CLOCK_SKEW.as_secs()) {
            return Err(refused(&format!(
                "it is not valid yet (is this node's clock behind?): it begins at {}, and the clock says {}",
                describe::seconds(parts.this_update),
                describe::time(now)
            )));
        }
        let next_update = UnixTime::since_unix_epoch(Duration::from_secs(parts.next_update));
        if now >= next_update {
            return Err(refused(&format!(
                "it has expired: the next one was due at {}, and the clock says {}",
                describe::time(next_update),
                describe::time(now)
            )));
        }
        Ok(Self {
            issuer: parts.issuer.into(),
            key: (*signer.subject_public_key_info).into(),
            serials,
            next_update,
            this_update: parts.this_update,
            number: parts.number.map(|number| canonical(number).into()),
        })
    }

    /// Whether both are of one authority: of one name and one key.
    pub(super) fn has_issuer_of(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.key == other.key
    }

    /// Whether it is the list of the authority with this key.
    pub(super) fn is_of_key(&self, public_key: &[u8]) -> bool {
        *self.key == *public_key
    }

    /// Refuses to go back to what an authority has said before.
    pub(super) fn check_follows(&self, held: &Self) -> Result<()> {
        let lower = match (&self.number, &held.number) {
            // Of integers without zeros in front, the shorter one is the lower.
            (Some(number), Some(held)) => (number.len(), number) < (held.len(), held),
            _ => false,
        };
        if lower || self.this_update < held.this_update {
            return Err(refused("it is older than the one that is held"));
        }
        Ok(())
    }
}

/// Why webpki does not take a list.
fn unreadable(der: &[u8], error: &webpki::Error) -> String {
    match describe::kind_of_der(der) {
        Some(Kind::RevocationList) if has_no_version(der) == Ok(true) => error_text::OLD_LIST.into(),
        Some(Kind::RevocationList) | None => error_text::webpki(error),
        Some(kind) => format!("malformed: it is {}", kind.name()),
    }
}

/// Lists of version 1 do not tell their version.
fn has_no_version(der: &[u8]) -> der::Result<bool> {
    let mut reader = SliceReader::new(der)?;
    let mut reader = SliceReader::new(element(&mut reader, Tag::Sequence)?)?;
    let reader = SliceReader::new(element(&mut reader, Tag::Sequence)?)?;
    Ok(reader.peek_tag()? != Tag::Integer)
}

fn refused(reason: &str) -> Error {
    Error::invalid_config(format!("a certificate revocation list is refused: {reason}"))
}

/// What webpki keeps to itself.
struct Parts<'a> {
    signed: &'a [u8],
    issuer: &'a [u8],
    this_update: u64,
    next_update: u64,
    number: Option<&'a [u8]>,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    /// As in [RFC 5280, section 5.1](https://www.rfc-editor.org/rfc/rfc5280#section-5.1).
    fn read(der: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(der)?;
        let mut reader = SliceReader::new(element(&mut reader, Tag::Sequence)?)?;
        let signed = reader.tlv_bytes()?;
        let algorithm = element(&mut reader, Tag::Sequence)?;
        let signature = BitStringRef::decode(&mut reader)?.raw_bytes();

        let mut list = SliceReader::new(sole_element(signed, Tag::Sequence)?)?;
        let _version = element(&mut list, Tag::Integer)?;
        let _algorithm = element(&mut list, Tag::Sequence)?;
        let issuer = element(&mut list, Tag::Sequence)?;
        let this_update = unix_time(&mut list)?;
        let next_update = unix_time(&mut list)?;
        let mut number = None;
        while !list.is_finished() {
            // The entries, which webpki reads, and then the extensions.
            if list.peek_tag()?.is_context_specific() {
                number = crl_number(AnyRef::decode(&mut list)?.value())?;
            } else {
                let _entries = element(&mut list, Tag::Sequence)?;
            }
        }
        Ok(Self { signed, issuer, this_update, next_update, number, algorithm, signature })
    }

    /// Why none of the authorities with its issuer's name has signed it.
    fn unverified(&self) -> String {
        let verified = provider().signature_verification_algorithms.all;
        if verified.iter().any(|algorithm| *algorithm.signature_alg_id() == *self.algorithm) {
            "its signature does not verify (another authority of the same name?)".into()
        } else {
            format!("it is {}", error_text::unsupported_signature(self.algorithm))
        }
    }

    fn are_signed_by(&self, authority: &TrustAnchor<'_>) -> der::Result<bool> {
        let mut key = SliceReader::new(&authority.subject_public_key_info)?;
        let key_algorithm = element(&mut key, Tag::Sequence)?;
        let key = BitStringRef::decode(&mut key)?.raw_bytes();
        Ok(provider().signature_verification_algorithms.all.iter().any(|algorithm| {
            *algorithm.public_key_alg_id() == *key_algorithm
                && *algorithm.signature_alg_id() == *self.algorithm
                && algorithm.verify_signature(key, self.signed, self.signature).is_ok()
        }))
    }
}

fn crl_number(extensions: &[u8]) -> der::Result<Option<&[u8]>> {
    let value = extension(extensions, CRL_NUMBER)?;
    value.map(|value| element(&mut SliceReader::new(value)?, Tag::Integer)).transpose()
}

#[cfg(feature = "cert")]
#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use rcgen::{CertificateRevocationListParams, CrlDistributionPoint, KeyIdMethod, SerialNumber};
    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::{
        cert::CertificateAuthority,
        error::ErrorKind,
        tls::{
            RevocationList, Revoked,
            certificate::{CertificateFields, Details},
            revocation::{PathCertificate, RevocationCheck},
        },
    };

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn authority() -> CertificateAuthority {
        CertificateAuthority::new("ca").unwrap()
    }

    /// An authority whose lists are in force between these times.
    fn during(ca: &CertificateAuthority, from: SystemTime, until: SystemTime) -> CertificateAuthority {
        ca.clone().valid(from, until).unwrap()
    }

    fn assert_refused(result: Result<()>, reason: &str) {
        let error = result.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
        assert!(error.explanation().unwrap().contains(reason), "{error}");
    }

    #[test]
    fn a_list_that_cannot_be_believed_changes_nothing() {
        let (ca, other, namesake) = (authority(), CertificateAuthority::new("other").unwrap(), authority());
        let (stolen, kept) = (ca.issue_client("a").unwrap(), ca.issue_client("b").unwrap());
        let now = SystemTime::now();
        let list = RevocationList::new();
        let present = during(&ca, now - DAY, now + DAY);
        list.replace_crls(&ca.trust(), [present.crl(0x0101, [&stolen]).unwrap()]).unwrap();

        let load = |crl| list.replace_crls(&ca.trust(), [crl]);
        let both = [&stolen, &kept];
        let past = during(&ca, now - 2 * DAY, now - DAY);
        assert_refused(load(past.crl(0x0102, both).unwrap()), "expired");
        assert_refused(load(present.crl(0xff, both).unwrap()), "older");
        let earlier = during(&ca, now - 2 * DAY, now + DAY);
        assert_refused(load(earlier.crl(0x0102, both).unwrap()), "older");
        assert_refused(load(other.crl(0x0102, both).unwrap()), "none of the given authorities");
        assert_refused(load(namesake.crl(0x0102, both).unwrap()), "signature");
        assert_refused(load(CertificateRevocationListDer::from(vec![0x30, 0])), "malformed");
        let next = present.crl(0x0102, both).unwrap();
        assert_refused(list.replace_crls(&ca.trust(), [next.clone(), next.clone()]), "two");
        assert_refused(
            list.replace_crls_pem(&ca.trust(), ca.cert_pem().as_bytes()),
            "no certificate revocation",
        );
        let unread = RevocationList::with_clock(crate::WallClock::from_fn(|| None));
        assert_refused(unread.replace_crls(&ca.trust(), [next.clone()]), "clock");
        assert_eq!(list.len(), 1, "one that is refused must change nothing");

        // The same one again is no step back, and both authorities of one name are tried.
        load(present.crl(0x0101, [&stolen]).unwrap()).unwrap();
        let trust = Trust::from_der([namesake.certificate().clone(), ca.certificate().clone()]).unwrap();
        list.replace_crls(&trust, [next]).unwrap();
        assert_eq!(list.len(), 2);
        assert!(list.contains(Revoked::certificate(&kept.chain()[0]).unwrap()));
        list.replace_crls(&ca.trust(), []).unwrap();
        assert!(list.is_empty());
    }

    #[test]
    fn a_list_from_the_future_does_not_keep_the_present_one_out() {
        let ca = authority();
        let stolen = ca.issue_client("stolen").unwrap();
        let now = SystemTime::now();
        let list = RevocationList::new();
        for (from, until) in [(now + 365 * DAY, now + 372 * DAY), (now + DAY / 24, now + DAY)] {
            let ahead = during(&ca, from, until).crl(9, std::iter::empty()).unwrap();
            assert_refused(list.replace_crls(&ca.trust(), [ahead]), "not valid yet");
        }
        let right = during(&ca, now - DAY, now + DAY).crl(2, [&stolen]).unwrap();
        list.replace_crls(&ca.trust(), [right]).unwrap();
        assert_eq!(list.len(), 1);

        // A clock with a floor is never behind that.
        let floor = crate::WallClock::system().floor(now + DAY);
        let floored = RevocationList::with_clock(floor);
        let ahead = during(&ca, now + DAY / 2, now + 2 * DAY).crl(9, [&stolen]).unwrap();
        floored.replace_crls(&ca.trust(), [ahead]).unwrap();
    }

    #[test]
    fn the_lists_of_an_authority_that_got_a_new_key_are_held_side_by_side() {
        let (old, new) = (authority(), authority());
        let (stolen, lost) = (old.issue_client("stolen").unwrap(), new.issue_client("lost").unwrap());
        let trust = Trust::from_der([old.certificate().clone(), new.certificate().clone()]).unwrap();
        let list = RevocationList::new();
        let revoked = |issued: &crate::cert::IssuedCertificate| {
            list.contains(Revoked::certificate(&issued.chain()[0]).unwrap())
        };
        list.replace_crls(&trust, [old.crl(5, [&stolen]).unwrap()]).unwrap();
        // The new key counts its lists from 1, and knows nothing of what the old one revoked.
        list.replace_crls(&trust, [new.crl(1, std::iter::empty()).unwrap()]).unwrap();
        assert!(revoked(&stolen), "it must not become valid again");
        list.replace_crls(&trust, [new.crl(2, [&lost]).unwrap()]).unwrap();
        assert!(revoked(&stolen) && revoked(&lost));
        assert_refused(list.replace_crls(&trust, [new.crl(1, [&lost]).unwrap()]), "older");
        assert_refused(list.replace_crls(&trust, [old.crl(4, [&stolen]).unwrap()]), "older");

        let both = [old.crl(6, std::iter::empty()).unwrap(), new.crl(3, [&lost]).unwrap()];
        list.replace_crls(&trust, both).unwrap();
        assert!(!revoked(&stolen) && revoked(&lost), "the old key has said so itself");
        let twice = [new.crl(4, [&lost]).unwrap(), new.crl(5, [&lost]).unwrap()];
        assert_refused(list.replace_crls(&trust, twice), "two");
        list.replace_crls(&trust, []).unwrap();
        assert!(list.is_empty());
    }

    #[test]
    fn a_list_out_of_date_counts_for_the_key_that_it_is_of() {
        let (old, new) = (authority(), authority());
        let now = SystemTime::now();
        let trust = Trust::from_der([old.certificate().clone(), new.certificate().clone()]).unwrap();
        let list = RevocationList::new();
        let empty = || std::iter::empty::<&crate::cert::IssuedCertificate>();
        let short = during(&old, now - DAY, now + DAY).crl(1, empty()).unwrap();
        let long = during(&new, now - DAY, now + 3 * DAY).crl(1, empty()).unwrap();
        list.replace_crls(&trust, [short, long]).unwrap();
        let later = UnixTime::since_unix_epoch((now + 2 * DAY).duration_since(UNIX_EPOCH).unwrap());
        let checked = |by: Option<&CertificateAuthority>| {
            let issued = new.issue_client("a").unwrap();
            let key = by.map(|ca| Details::read(ca.certificate()).unwrap().public_key);
            let signed = PathCertificate { certificate: &issued.chain()[0], issuer_key: key };
            list.check(&[signed], later)
        };
        assert_eq!(checked(Some(&new)), Ok(()));
        assert!(checked(Some(&old)).is_err());
        assert_eq!(checked(None), Ok(()), "of some key of that name there is a list");
    }

    #[test]
    fn a_list_of_a_part_of_the_certificates_is_refused() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let trust = Trust::from_der([params.self_signed(&key).unwrap().der().clone()]).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let load = |issuing_distribution_point| {
            let params = CertificateRevocationListParams {
                this_update: rcgen::date_time_ymd(2025, 1, 1),
                next_update: rcgen::date_time_ymd(9999, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            let crl = params.signed_by(&issuer).unwrap();
            RevocationList::new().replace_crls_pem(&trust, crl.pem().unwrap().as_bytes())
        };
        let point = rcgen::CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris: vec!["http://ca.example/part".into()] },
            scope: None,
        };
        assert_refused(load(Some(point)), "not complete");
        load(None).unwrap();
    }

    /// And none of them is believed.
    #[test]
    fn no_cut_or_changed_list_makes_the_reader_panic() {
        let ca = authority();
        let issued = ["a", "b"].map(|id| ca.issue_client(id).unwrap());
        let der = ca.crl(7, &issued).unwrap().to_vec();
        let list = RevocationList::new();
        list.replace_crls(&ca.trust(), [ca.crl(6, &issued[..1]).unwrap()]).unwrap();
        let refused = |der: Vec<u8>| {
            let _ = Parts::read(&der).is_ok();
            assert!(list.replace_crls(&ca.trust(), [der.into()]).is_err());
            assert_eq!(list.len(), 1);
        };
        for at in 0..der.len() {
            refused(der[..at].to_vec());
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = der.clone();
                changed[at] ^= flip;
                refused(changed);
            }
        }
        list.replace_crls(&ca.trust(), [der.into()]).unwrap();
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn a_serial_number_counts_by_its_value() {
        let ca = authority();
        let issued = ca.issue_client("a").unwrap();
        let der = &issued.chain()[0];
        let serial = CertificateFields::of(der).unwrap().serial.to_vec();
        let padded = [&[0, 0][..], &serial].concat();
        let by_number = Revoked::issued_by(ca.certificate(), &padded).unwrap();
        assert_eq!(by_number, Revoked::certificate(der).unwrap());
        let name = rcgen_name(&ca);
        assert_eq!(Revoked::serial(&name, &serial).unwrap(), by_number);
        assert_ne!(Revoked::serial(&name, &[1]).unwrap(), by_number);
        for bad in
            [Revoked::serial(&name, &[]), Revoked::serial(&[5, 0], &[1]), Revoked::serial(&name[1..], &[1])]
        {
            assert_eq!(*bad.unwrap_err().kind(), ErrorKind::InvalidConfig);
        }

        let list = RevocationList::new();
        let checked = || {
            let path: Vec<_> = issued.chain().iter().map(PathCertificate::of_unknown_issuer).collect();
            list.check(&path, UnixTime::since_unix_epoch(Duration::ZERO))
        };
        list.revoke(
            Revoked::issued_by(CertificateAuthority::new("other").unwrap().certificate(), &serial).unwrap(),
        );
        assert_eq!(checked(), Ok(()), "the number of another authority");
        list.revoke(by_number);
        assert_eq!(checked(), Err(rustls::CertificateError::Revoked));
    }

    fn rcgen_name(ca: &CertificateAuthority) -> Vec<u8> {
        use x509_cert::der::Encode;

        let parsed = x509_cert::Certificate::from_der(ca.certificate()).unwrap();
        parsed.tbs_certificate.subject.to_der().unwrap()
    }

    #[test]
    fn that_a_certificate_is_revoked_counts_for_more_than_a_list_out_of_date() {
        let ca = authority();
        let (stolen, kept) = (ca.issue_client("a").unwrap(), ca.issue_client("b").unwrap());
        let now = SystemTime::now();
        let list = RevocationList::new();
        list.replace_crls(&ca.trust(), [during(&ca, now, now + DAY).crl(1, [&stolen]).unwrap()]).unwrap();
        let at = |time: SystemTime| UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap());
        let (before, after) = (at(now), at(now + 2 * DAY));
        let checked = |chain: &[_], time| {
            let path: Vec<_> = chain.iter().map(PathCertificate::of_unknown_issuer).collect();
            list.check(&path, time)
        };
        assert_eq!(checked(kept.chain(), before), Ok(()));
        let expired = checked(kept.chain(), after).unwrap_err();
        assert!(matches!(expired, rustls::CertificateError::ExpiredRevocationListContext { .. }));
        for chain in [[kept.chain(), stolen.chain()].concat(), [stolen.chain(), kept.chain()].concat()] {
            assert_eq!(checked(&chain, before), Err(rustls::CertificateError::Revoked));
            assert_eq!(checked(&chain, after), Err(rustls::CertificateError::Revoked));
        }
        let garbage = [CertificateDer::from_slice(b"garbage")];
        assert_eq!(checked(&garbage, before), Err(rustls::CertificateError::BadEncoding));
    }
}
