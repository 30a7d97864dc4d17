//! Refuses certificates of a peer that can be put together in too many ways to try them all.
//!
//! webpki follows the issuers of a certificate by their names, and checks signatures when it has reached an
//! authority. With certificates of one name and different keys, which anyone can make, it tries up to
//! 200,000 ways before it gives up: tens of milliseconds of a fast processor, for a chain of 1 KiB.

use std::sync::Arc;

use rustls::{
    CertificateError, OtherError,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
};
use webpki::EndEntityCert;

/// Steps from a certificate to one of an issuer of that name, on all ways together. A chain takes as many as
/// it has certificates. Where authorities have two certificates each, and everything is signed twice, those
/// of four levels take 30.
const MAX_STEPS: usize = 32;
/// The most intermediate certificates on a path that webpki follows.
const MAX_INTERMEDIATES: usize = 6;
/// Three certificates or fewer cannot take more steps than that.
const FEW: usize = 3;

#[derive(Debug, thiserror::Error)]
#[error("its certificates can be put together in too many ways")]
struct TooManyPaths;

/// A certificate as webpki reads it.
struct Certificate<'a> {
    parsed: EndEntityCert<'a>,
    key: SubjectPublicKeyInfoDer<'static>,
}

impl<'a> Certificate<'a> {
    /// `None` for what webpki cannot read, and passes over.
    fn read(certificate: &'a CertificateDer<'_>) -> Option<Self> {
        let parsed = EndEntityCert::try_from(certificate).ok()?;
        let key = parsed.subject_public_key_info();
        Some(Self { parsed, key })
    }

    fn has_name_and_key_of(&self, other: &Self) -> bool {
        self.parsed.subject() == other.parsed.subject() && self.key == other.key
    }
}

/// Refuses certificates that take too many steps.
pub(super) fn check(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), CertificateError> {
    if intermediates.len() <= FEW {
        return Ok(());
    }
    let Some(end_entity) = Certificate::read(end_entity) else { return Ok(()) };
    let issuers: Vec<_> = intermediates.iter().filter_map(Certificate::read).collect();
    let mut steps = 0;
    walk(&mut vec![&end_entity], &issuers, &mut steps)
        .ok_or_else(|| CertificateError::Other(OtherError(Arc::new(TooManyPaths))))
}

/// Takes all steps from the last certificate of a path on, as webpki does. `None` if they are too many.
fn walk<'c, 'd>(
    path: &mut Vec<&'c Certificate<'d>>,
    issuers: &'c [Certificate<'d>],
    steps: &mut usize,
) -> Option<()> {
    if path.len() > MAX_INTERMEDIATES {
        return Some(());
    }
    let issued = *path.last()?;
    for issuer in issuers.iter().filter(|issuer| issuer.parsed.subject() == issued.parsed.issuer()) {
        // Not in a circle.
        if path.iter().any(|before| before.has_name_and_key_of(issuer)) {
            continue;
        }
        *steps += 1;
        if *steps > MAX_STEPS {
            return None;
        }
        path.push(issuer);
        walk(path, issuers, steps)?;
        path.pop();
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element of DER.
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = u8::try_from(content.len()).unwrap();
        let head = if len < 128 { vec![tag, len] } else { vec![tag, 0x81, len] };
        [&head, content].concat()
    }

    /// A name of one attribute.
    fn name(name: &str) -> Vec<u8> {
        let attribute = [element(6, &[0x55, 4, 3]), element(0x0c, name.as_bytes())].concat();
        element(0x30, &element(0x31, &element(0x30, &attribute)))
    }

    /// A certificate of 100 bytes or so, whose key and signature are nothing but a number.
    fn certificate(subject: &str, issuer: &str, key: u8, is_authority: bool) -> CertificateDer<'static> {
        let algorithm = element(0x30, &element(6, &[0x2b, 0x65, 0x70]));
        let validity =
            element(0x30, &[element(0x17, b"200101000000Z"), element(0x17, b"491231235959Z")].concat());
        let signed = [
            element(0xa0, &[2, 1, 2]),
            element(2, &[1]),
            algorithm.clone(),
            name(issuer),
            validity,
            name(subject),
            element(0x30, &[2, 1, key]),
        ];
        let mut signed = signed.concat();
        if is_authority {
            let constraints = element(4, &element(0x30, &[1, 1, 0xff]));
            let extension = [element(6, &[0x55, 0x1d, 0x13]), constraints].concat();
            signed.extend(element(0xa3, &element(0x30, &element(0x30, &extension))));
        }
        let signature = element(3, &[0, 0]);
        element(0x30, &[element(0x30, &signed), algorithm, signature].concat()).into()
    }

    fn leaf(issuer: &str) -> CertificateDer<'static> {
        certificate("node", issuer, 0, false)
    }

    #[test]
    fn issuers_of_one_name_and_many_keys_are_too_many_paths() {
        let circle = |count| (1..=count).map(|key| certificate("a", "a", key, true)).collect::<Vec<_>>();
        for (count, refused) in [(1, false), (3, false), (4, true), (10, true), (100, true)] {
            assert_eq!(check(&leaf("a"), &circle(count)).is_err(), refused, "{count}");
        }
        assert!(check(&leaf("b"), &circle(100)).is_ok(), "no way leads to them");
    }

    #[test]
    fn copies_of_one_certificate_and_long_chains_are_few_paths() {
        let copies = vec![certificate("a", "a", 1, true); 30];
        assert!(check(&leaf("a"), &copies).is_ok());
        let names: Vec<String> = (0..40).map(|level| level.to_string()).collect();
        let chain: Vec<_> = names.windows(2).map(|pair| certificate(&pair[0], &pair[1], 1, true)).collect();
        assert!(check(&leaf("0"), &chain).is_ok());
    }

    #[test]
    fn two_certificates_for_each_of_four_levels_are_few_paths_and_for_five_too_many() {
        for (levels, refused) in [(4, false), (5, true)] {
            let names: Vec<String> = (0..=levels).map(|level| level.to_string()).collect();
            let both = |pair: &[String]| [1, 2].map(|key| certificate(&pair[0], &pair[1], key, true));
            let all: Vec<_> = names.windows(2).flat_map(both).collect();
            assert_eq!(check(&leaf("0"), &all).is_err(), refused, "{levels}");
        }
    }
}
