//! The path from a peer's certificate to an authority that this side trusts.
//!
//! A peer may send certificates that no path needs: cross certificates, or the root itself. What they say,
//! and when they expire, is of no account. So revocation is checked while a path is looked for, and what is
//! kept of a peer is the path that was found.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    CertificateError, RootCertStore,
    pki_types::{CertificateDer, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::{
    certificate::{CertificateFields, Details, Version},
    certificate_check::unverifiable,
    describe::{self, EXPLAINS},
    error_text, path_count,
    provider::provider,
    revocation::{PathCertificate, RevocationCheck},
};

/// Looks for paths of servers, or of clients, to some authorities.
#[derive(Clone, Debug)]
pub(crate) struct PathFinder {
    roots: Arc<RootCertStore>,
    purpose: Purpose,
}

/// What the certificate at the beginning of a path has to be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Server,
    Client,
}

/// Why there is no path.
#[derive(Debug)]
pub(super) enum NoPath {
    /// Not to any of the authorities, whatever is revoked.
    Invalid,
    /// There is one or more, and revocation lists speak against each; or the certificates fit together in too
    /// many ways to try them.
    Refused(CertificateError),
}

/// The time at which a path is checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) certificates: UnixTime,
    /// By which revocation lists are out of date.
    pub(super) lists: UnixTime,
}

impl Times {
    pub(super) const fn now(now: UnixTime) -> Self {
        Self { certificates: now, lists: now }
    }

    /// For a connection that is open: a list that is out of date is no reason to close it.
    pub(super) fn of_an_open_connection(certificates: UnixTime) -> Self {
        Self { certificates, lists: UnixTime::since_unix_epoch(Duration::ZERO) }
    }
}

impl PathFinder {
    pub(super) const fn new(roots: Arc<RootCertStore>, purpose: Purpose) -> Self {
        Self { roots, purpose }
    }

    /// Another path for a peer that has shown these certificates, at this time. Revocation lists that are out
    /// of date do not count: they are no reason to close a connection.
    pub(crate) fn find_again(
        &self,
        presented: &[CertificateDer<'_>],
        revocations: Option<&dyn RevocationCheck>,
        at: SystemTime,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let (end_entity, intermediates) = presented.split_first()?;
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).ok()?);
        self.find(end_entity, intermediates, revocations, Times::of_an_open_connection(at)).ok()
    }

    /// Whether there will be a path when all of these certificates have become valid: then a clock that is
    /// behind may be why there is none now.
    pub(super) fn will_be_found(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        revocations: Option<&dyn RevocationCheck>,
        now: UnixTime,
    ) -> bool {
        let presented = std::iter::once(end_entity).chain(intermediates);
        let latest =
            presented.filter_map(|certificate| Some(CertificateFields::of(certificate)?.not_before)).max();
        let Some(latest) = latest.filter(|latest| *latest > now.as_secs()) else { return false };
        let then = UnixTime::since_unix_epoch(Duration::from_secs(latest));
        let times = Times { certificates: then, lists: now };
        self.find(end_entity, intermediates, revocations, times).is_ok()
    }

    /// A path from the first certificate, through any of the others, on which nothing is revoked: without the
    /// authority, of which there need not be a certificate.
    pub(super) fn find(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        revocations: Option<&dyn RevocationCheck>,
        times: Times,
    ) -> Result<Vec<CertificateDer<'static>>, NoPath> {
        path_count::check(end_entity, intermediates).map_err(NoPath::Refused)?;
        let certificate = EndEntityCert::try_from(end_entity).map_err(|_| NoPath::Invalid)?;
        let usage = match self.purpose {
            Purpose::Server => KeyUsage::server_auth(),
            Purpose::Client => KeyUsage::client_auth(),
        };
        let objection = RefCell::new(None);
        let check = |path: &VerifiedPath<'_>| {
            let Some(list) = revocations else { return Ok(()) };
            let Err(error) = check_revocation(path, list, times.lists) else { return Ok(()) };
            let mut objection = objection.borrow_mut();
            // That a certificate is revoked says more than that nobody knows what became of another.
            if *objection != Some(CertificateError::Revoked) {
                *objection = Some(error);
            }
            // webpki then tries the next path.
            Err(webpki::Error::CertRevoked)
        };
        let found = certificate.verify_for_usage(
            provider().signature_verification_algorithms.all,
            &self.roots.roots,
            intermediates,
            times.certificates,
            usage,
            None,
            Some(&check),
        );
        match found {
            Ok(path) => Ok(certificates(&path).into_iter().map(CertificateDer::into_owned).collect()),
            Err(_) => Err(objection.take().map_or(NoPath::Invalid, NoPath::Refused)),
        }
    }
}

/// How far the search for a missing issuer goes: webpki follows no longer path.
const MAX_STEPS: usize = 8;

impl PathFinder {
    /// Why a peer that has shown these certificates was refused, with what they say about it.
    pub(super) fn explain(
        &self,
        error: &CertificateError,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> String {
        use CertificateError as E;
        let because = error_text::certificate(error);
        if !EXPLAINS {
            return because;
        }
        let of_culprit = |is_culprit: &dyn Fn(&CertificateDer<'_>) -> bool| {
            let culprit = std::iter::once(end_entity).chain(intermediates).position(is_culprit);
            let issuer = culprit.and_then(|position| intermediates.get(position.checked_sub(1)?));
            match issuer {
                Some(issuer) => format!("its issuer {}: {because}", describe::subject(issuer)),
                None => because.clone(),
            }
        };
        match error {
            E::UnknownIssuer => format!("{because}: {}", self.end_of_path(end_entity, intermediates)),
            // So rustls calls one that ends before it begins, too.
            E::Expired => match CertificateFields::of(end_entity) {
                Some(CertificateFields { not_before, not_after, .. }) => format!(
                    "{because}: it is valid from {} until {}",
                    describe::seconds(not_before),
                    describe::seconds(not_after)
                ),
                None => because,
            },
            // *ring* does not tell keys that it does not take from signatures that are wrong.
            E::BadSignature => {
                match intermediates.iter().find_map(|issuer| Some((issuer, unverifiable(issuer)?))) {
                    Some((issuer, fault)) => format!("its issuer {}: {fault}", describe::subject(issuer)),
                    None => because,
                }
            }
            E::Other(error) if is_of_version(&*error.0) => of_culprit(&|certificate| {
                Details::read(certificate).is_ok_and(|details| details.version == Version::Old)
            }),
            E::Other(_) if Details::read(end_entity).is_ok_and(|details| details.is_self_issued()) => {
                format!("it is self-signed: {because}")
            }
            E::ExpiredContext { not_after, .. } => of_culprit(&|certificate| {
                CertificateFields::of(certificate).is_some_and(|facts| facts.not_after == not_after.as_secs())
            }),
            E::NotValidYetContext { not_before, .. } => of_culprit(&|certificate| {
                CertificateFields::of(certificate)
                    .is_some_and(|facts| facts.not_before == not_before.as_secs())
            }),
            E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
                of_culprit(&|certificate| {
                    Details::read(certificate)
                        .is_ok_and(|details| details.signature_algorithm == signature_algorithm_id)
                })
            }
            _ => because,
        }
    }

    /// Where the issuers of a certificate end that leads to no authority.
    fn end_of_path(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> String {
        let mut certificate = end_entity;
        for _ in 0..MAX_STEPS {
            let Some(CertificateFields { issuer, subject, .. }) = CertificateFields::of(certificate) else {
                break;
            };
            if issuer == subject {
                return if certificate == end_entity {
                    "it is self-signed".into()
                } else {
                    format!(
                        "its path ends in {}, which is not trusted",
                        describe::distinguished_name(subject)
                    )
                };
            }
            let is_issuer = |other: &&CertificateDer<'_>| {
                CertificateFields::of(other).is_some_and(|facts| facts.subject == issuer)
            };
            match intermediates.iter().find(is_issuer) {
                Some(found) => certificate = found,
                None if self.roots.roots.iter().any(|root| *root.subject == *issuer) => break,
                None => return missing(issuer, subject, certificate == end_entity),
            }
        }
        "no path leads to one".into()
    }
}

fn is_of_version(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref() == Some(&webpki::Error::UnsupportedCertVersion)
}

fn missing(issuer: &[u8], subject: &[u8], is_end_entity: bool) -> String {
    let issued = if is_end_entity {
        "its issuer".to_owned()
    } else {
        format!("the issuer of {},", describe::distinguished_name(subject))
    };
    format!(
        "{issued} {} is neither trusted nor among the certificates that were sent (is an intermediate one \
         missing?)",
        describe::distinguished_name(issuer)
    )
}

fn certificates<'a>(path: &'a VerifiedPath<'_>) -> Vec<CertificateDer<'a>> {
    let intermediates = path.intermediate_certificates().map(|certificate| certificate.der());
    std::iter::once(path.end_entity().der()).chain(intermediates).collect()
}

fn check_revocation(
    path: &VerifiedPath<'_>,
    list: &dyn RevocationCheck,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let path_certificates = certificates(path);
    let issuers = path_certificates.iter().skip(1).map(|issuer| {
        Details::read(issuer).map(|details| details.public_key).map_err(|_| CertificateError::BadEncoding)
    });
    let anchor = path.anchor().subject_public_key_info.as_ref();
    let keys = issuers.chain([Ok(anchor)]).collect::<Result<Vec<_>, _>>()?;
    let signed = path_certificates
        .iter()
        .zip(keys)
        .map(|(certificate, key)| PathCertificate { certificate, issuer_key: Some(key) });
    list.check(&signed.collect::<Vec<_>>(), now)
}
