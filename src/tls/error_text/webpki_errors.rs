//! What webpki reports of certificates, of paths to authorities, and of revocation lists.

use super::{phrases, variant_names::variant};
use crate::tls::describe::EXPLAINS;

/// What webpki finds in certificates and revocation lists.
pub(crate) fn webpki(error: &webpki::Error) -> String {
    if !EXPLAINS {
        return variant(error);
    }
    let text = certificate(error).or_else(|| path(error)).or_else(|| revocation_list(error));
    text.or_else(|| signature(error)).unwrap_or_else(|| variant(error))
}

/// What is wrong with one certificate.
fn certificate(error: &webpki::Error) -> Option<String> {
    use webpki::Error as E;
    Some(match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => "malformed: no valid DER".into(),
        E::CertExpired { time, not_after } => phrases::expired(*time, *not_after),
        E::CertNotValidYet { time, not_before } => phrases::not_valid_yet(*time, *not_before),
        E::CertRevoked => phrases::REVOKED.into(),
        E::CertNotValidForName(_) => phrases::NOT_VALID_FOR_NAME.into(),
        E::RequiredEkuNotFoundContext(_) => phrases::WRONG_PURPOSE.into(),
        E::CaUsedAsEndEntity => phrases::AUTHORITY_AS_NODE.into(),
        E::InvalidCertValidity => "malformed: it ends before it begins".into(),
        E::UnsupportedCertVersion => phrases::OLD_CERTIFICATE.into(),
        E::UnsupportedCriticalExtension => phrases::UNKNOWN_EXTENSION.into(),
        E::MalformedExtensions | E::ExtensionValueInvalid => "an extension is malformed".into(),
        E::EmptyEkuExtension => "made for no use at all: its extended key usage is empty".into(),
        E::SignatureAlgorithmMismatch => "malformed: it names two algorithms of its signature".into(),
        E::InvalidSerialNumber => "a serial number is malformed".into(),
        _ => return None,
    })
}

/// Why there is no path to an authority.
fn path(error: &webpki::Error) -> Option<String> {
    use webpki::Error as E;
    let text = match error {
        E::UnknownIssuer => phrases::UNKNOWN_ISSUER,
        E::EndEntityUsedAsCa => {
            "issued by a certificate that is not an authority's (its basic constraints do not say so)"
        }
        E::NameConstraintViolation => {
            "an authority on its path may not issue certificates for such names (name constraints)"
        }
        E::PathLenConstraintViolated => {
            "an authority on its path may not make others authorities (path length)"
        }
        E::MaximumPathDepthExceeded => "the path to the authority is too long",
        E::MaximumSignatureChecksExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumNameConstraintComparisonsExceeded => {
            "the search for a path to an authority was given up: too many certificates, or names"
        }
        _ => return None,
    };
    Some(text.into())
}

/// What is wrong with a revocation list.
fn revocation_list(error: &webpki::Error) -> Option<String> {
    use webpki::Error as E;
    let text = match error {
        E::InvalidCrlSignatureForPublicKey => phrases::BAD_LIST_SIGNATURE,
        E::InvalidCrlNumber => phrases::BAD_LIST_NUMBER,
        E::IssuerNotCrlSigner => phrases::BAD_LIST_ISSUER,
        E::UnsupportedCrlVersion => phrases::OLD_LIST,
        E::UnsupportedDeltaCrl => "a delta list, and only complete ones are supported",
        E::UnsupportedIndirectCrl => {
            "an indirect list, with entries of other authorities, which is not supported"
        }
        E::UnsupportedRevocationReason => "an entry has a reason that is not known here",
        E::UnsupportedRevocationReasonsPartitioning => {
            "a list for certain reasons only, and only complete ones are supported"
        }
        E::UnsupportedCrlIssuingDistributionPoint => {
            "its issuing distribution point is of a kind that is not supported"
        }
        _ => return None,
    };
    Some(text.into())
}

/// What is wrong with a signature.
fn signature(error: &webpki::Error) -> Option<String> {
    use webpki::Error as E;
    Some(match error {
        E::InvalidSignatureForPublicKey => phrases::BAD_SIGNATURE.into(),
        E::UnsupportedSignatureAlgorithmContext(context)
        | E::UnsupportedCrlSignatureAlgorithmContext(context) => {
            phrases::unsupported_signature(&context.signature_algorithm_id)
        }
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(context)
        | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(context) => {
            phrases::unsupported_key(&context.signature_algorithm_id, &context.public_key_algorithm_id)
        }
        _ => return None,
    })
}
