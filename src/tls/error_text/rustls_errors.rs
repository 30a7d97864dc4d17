//! What rustls reports. Its errors may hold errors of webpki and of verifiers, and these may hold some of
//! rustls again.

use std::error::Error as StdError;

use rustls::{CertRevocationListError, CertificateError, ExtendedKeyPurpose, InconsistentKeys};

use super::{
    alert::alert_name,
    phrases,
    variant_names::{spelled_out, variant},
    webpki_errors::webpki,
};
use crate::tls::describe::{self, EXPLAINS};

/// What rustls reports, of a handshake or of what it was configured with.
pub(crate) fn tls(error: &rustls::Error) -> String {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(error) => certificate(error),
        E::Other(error) => foreign(&*error.0),
        other if !EXPLAINS => variant(other),
        E::InvalidCertRevocationList(error) => revocation_list(error),
        E::PeerIncompatible(why) => format!("the peer is not compatible: {}", variant(why)),
        E::PeerMisbehaved(why) => format!("the peer broke the rules of TLS: {}", variant(why)),
        E::InvalidMessage(why) => format!("a TLS message of the peer is malformed: {}", variant(why)),
        E::InappropriateMessage { got_type, .. } => {
            format!("the peer sent a TLS message out of turn: {}", variant(got_type))
        }
        E::InappropriateHandshakeMessage { got_type, .. } => {
            format!("the peer sent a TLS message out of turn: {}", variant(got_type))
        }
        E::AlertReceived(received) => format!("the peer sent TLS alert {}", alert_name(*received)),
        E::NoCertificatesPresented => "the peer showed no certificate".into(),
        E::UnsupportedNameType => "names of this kind cannot be verified".into(),
        E::DecryptError => "a message of the peer cannot be decrypted".into(),
        E::EncryptError => "a message cannot be encrypted".into(),
        E::InvalidEncryptedClientHello(why) => format!("encrypted client hello: {}", variant(why)),
        E::FailedToGetCurrentTime => "the wall clock has failed".into(),
        E::FailedToGetRandomBytes => "the system gives no random numbers".into(),
        E::HandshakeNotComplete => "the handshake is not complete".into(),
        E::PeerSentOversizedRecord => "the peer sent a TLS record that is too large".into(),
        E::NoApplicationProtocol => "no application protocol (ALPN) in common".into(),
        E::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the private key does not belong to the certificate".into()
        }
        E::InconsistentKeys(_) => "the private key does not tell its public key".into(),
        E::General(text) => spelled_out(text),
        other => spelled_out(&other.to_string()),
    }
}

/// Why a certificate is not acceptable.
pub(crate) fn certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::Other(error) => foreign(&*error.0),
        other if !EXPLAINS => variant(other),
        E::Expired => "expired".into(),
        E::ExpiredContext { time, not_after } => phrases::expired(*time, *not_after),
        E::NotValidYet => phrases::NOT_VALID_YET.into(),
        E::NotValidYetContext { time, not_before } => phrases::not_valid_yet(*time, *not_before),
        E::Revoked => phrases::REVOKED.into(),
        E::ExpiredRevocationList => "the revocation list of its authority is out of date".into(),
        E::ExpiredRevocationListContext { next_update, .. } => format!(
            "the revocation list of its authority is out of date since {}",
            describe::time(*next_update)
        ),
        E::UnknownRevocationStatus => "no revocation list says whether it is revoked".into(),
        E::UnknownIssuer => phrases::UNKNOWN_ISSUER.into(),
        E::NotValidForName => phrases::NOT_VALID_FOR_NAME.into(),
        E::NotValidForNameContext { expected, presented } => {
            let names = describe::list_of_names(presented.iter().map(|name| bare_name(name)));
            phrases::not_valid_for(&expected.to_str(), names)
        }
        E::InvalidPurpose => phrases::WRONG_PURPOSE.into(),
        E::InvalidPurposeContext { required, presented } => wrong_purpose(required, presented),
        E::BadEncoding => "malformed".into(),
        E::BadSignature => phrases::BAD_SIGNATURE.into(),
        #[allow(deprecated, reason = "older verifiers may return it")]
        E::UnsupportedSignatureAlgorithm => "signed with an algorithm that is not supported".into(),
        E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            phrases::unsupported_signature(signature_algorithm_id)
        }
        E::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id,
            public_key_algorithm_id,
        } => phrases::unsupported_key(signature_algorithm_id, public_key_algorithm_id),
        E::UnhandledCriticalExtension => phrases::UNKNOWN_EXTENSION.into(),
        E::InvalidOcspResponse => "the proof of its status (OCSP) is not valid".into(),
        E::ApplicationVerificationFailure => "refused by the application".into(),
        other => format!("not acceptable, for another reason: {}", variant(other)),
    }
}

/// webpki shows names as `DnsName("gateway.example")` and `IpAddress(192.0.2.1)`.
fn bare_name(shown: &str) -> &str {
    let bare = shown.split_once('(').and_then(|(_kind, name)| name.strip_suffix(')'));
    bare.unwrap_or(shown).trim_matches('"')
}

fn wrong_purpose(required: &ExtendedKeyPurpose, presented: &[ExtendedKeyPurpose]) -> String {
    let required = purpose(required);
    match presented.iter().map(purpose).find(|other| *other != required && *other != OTHER_PURPOSE) {
        Some(other) => format!("not made for {required}, but for {other}"),
        None => format!("not made for {required}"),
    }
}

fn purpose(purpose: &ExtendedKeyPurpose) -> &'static str {
    match purpose {
        ExtendedKeyPurpose::ClientAuth => "clients",
        ExtendedKeyPurpose::ServerAuth => "servers",
        ExtendedKeyPurpose::Other(_) => OTHER_PURPOSE,
    }
}

const OTHER_PURPOSE: &str = "this use";

/// Why a revocation list is not acceptable.
fn revocation_list(error: &CertRevocationListError) -> String {
    use CertRevocationListError as E;
    match error {
        E::BadSignature => phrases::BAD_LIST_SIGNATURE.into(),
        E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            phrases::unsupported_signature(signature_algorithm_id)
        }
        E::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id,
            public_key_algorithm_id,
        } => phrases::unsupported_key(signature_algorithm_id, public_key_algorithm_id),
        E::InvalidCrlNumber => phrases::BAD_LIST_NUMBER.into(),
        E::InvalidRevokedCertSerialNumber => "the serial number of an entry is malformed".into(),
        E::IssuerInvalidForCrl => phrases::BAD_LIST_ISSUER.into(),
        E::ParseError => "it is malformed".into(),
        E::UnsupportedCrlVersion => phrases::OLD_LIST.into(),
        E::Other(error) => foreign(&*error.0),
        other => spelled_out(&variant(other)),
    }
}

/// An error of somebody else's.
pub(super) fn foreign(error: &(dyn StdError + Send + Sync + 'static)) -> String {
    if let Some(error) = error.downcast_ref::<webpki::Error>() {
        return webpki(error);
    }
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return tls(error);
    }
    spelled_out(&error.to_string())
}
