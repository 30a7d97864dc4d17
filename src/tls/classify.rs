//! Why a connection failed, in the terms of this crate.

use quinn::{ConnectionError, TransportErrorCode};
use rustls::AlertDescription as Alert;

use super::{
    error_text::{self, ReadableError, alert_of},
    handshake_failure::{HandshakeFailure, oversized_peer},
    report::HandshakeReport,
};
use crate::{
    code::{Code, CodeClass},
    error::{Error, ErrorKind},
    retry_after,
};

/// The longest part of a peer's closing words that is kept, in characters: enough for a sentence,
/// too little to flood a log.
const MAX_REASON_CHARS: usize = 256;

/// Puts a failed connection under the [`ErrorKind`] that names who is at fault.
///
/// `report` is that of the connection attempt, for the side that dialled. The same TLS alert says
/// that we refused the peer's certificate or that the peer refused ours, depending on who raised it;
/// quinn tells the two apart by variant, and so does this.
pub(crate) fn classify(error: &ConnectionError, report: Option<&HandshakeReport>) -> Error {
    let failure = report.and_then(HandshakeReport::failure);
    // Whatever ended the attempt: a server that was not believed is the reason to tell.
    let classified = match (failure, error) {
        (Some(failure), _) => failure.to_error(),
        (None, ConnectionError::TransportError(error)) => match report.and_then(HandshakeReport::overflow) {
            Some(overflow) if error.code == TransportErrorCode::CRYPTO_BUFFER_EXCEEDED => {
                oversized_peer(overflow)
            }
            _ => transport(error.code, FoundBy::ThisSide),
        },
        (None, ConnectionError::ConnectionClosed(close)) => match close.error_code {
            TransportErrorCode::CRYPTO_BUFFER_EXCEEDED => too_large_for_the_peer(&close.reason),
            code => transport(code, FoundBy::Peer),
        },
        (None, ConnectionError::ApplicationClosed(close)) => closed(close),
        (None, ConnectionError::VersionMismatch) => Error::new(ErrorKind::VersionMismatch),
        (None, ConnectionError::LocallyClosed) => Error::new(ErrorKind::Closed),
        (None, ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::CidsExhausted) => {
            Error::new(ErrorKind::ConnectionLost)
        }
    };
    match failure {
        // It has a cause, which says more.
        Some(HandshakeFailure::NoTime) => classified,
        Some(_) => classified.caused_by(ReadableError::Refused(error.clone())),
        None => classified.caused_by(ReadableError::Connection(error.clone())),
    }
}

/// Who found the error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FoundBy {
    ThisSide,
    Peer,
}

/// A peer closes with this code over nothing but handshake messages, of which the certificate chain is the
/// only one whose size varies much. A node of this crate says why.
fn too_large_for_the_peer(reason: &[u8]) -> Error {
    let reason = match printable(reason) {
        reason if reason.is_empty() => "its limit on certificate chains (max_certificate_chain_bytes)".into(),
        reason => reason,
    };
    Error::new(ErrorKind::CertificateRefused)
        .detail(format!("this node's certificate chain is too large for the peer: {reason}"))
}

fn transport(code: TransportErrorCode, found_by: FoundBy) -> Error {
    if let Some(alert) = alert_of(code) {
        return tls(alert, found_by);
    }
    match code {
        TransportErrorCode::CONNECTION_REFUSED => Error::new(ErrorKind::Refused),
        // Nobody broke a rule. An application that closes before the handshake ends is among them
        // because its own code is withheld until then (RFC 9000, section 10.2.3).
        TransportErrorCode::NO_ERROR
        | TransportErrorCode::INTERNAL_ERROR
        | TransportErrorCode::APPLICATION_ERROR
        | TransportErrorCode::AEAD_LIMIT_REACHED
        | TransportErrorCode::NO_VIABLE_PATH => Error::new(ErrorKind::ConnectionLost),
        _ => broken_protocol(found_by),
    }
}

fn tls(alert: Alert, found_by: FoundBy) -> Error {
    match (alert, about_a_certificate(alert, found_by), found_by) {
        (Alert::NoApplicationProtocol, ..) => Error::new(ErrorKind::AlpnMismatch),
        (Alert::ProtocolVersion, ..) => Error::new(ErrorKind::VersionMismatch),
        (_, Some(complaint), FoundBy::ThisSide) => Error::new(ErrorKind::PeerCertificate).detail(complaint),
        (_, Some(complaint), FoundBy::Peer) => Error::new(ErrorKind::CertificateRefused).detail(complaint),
        // It has many meanings, of which this is nearly always the one.
        (Alert::HandshakeFailure, _, FoundBy::Peer) => {
            Error::protocol("TLS alert handshake_failure raised by the peer (no algorithm in common?)")
        }
        (_, None, FoundBy::ThisSide) => {
            Error::protocol(format!("TLS alert {} raised by this side", error_text::alert_name(alert)))
        }
        (_, None, FoundBy::Peer) => {
            Error::protocol(format!("TLS alert {} raised by the peer", error_text::alert_name(alert)))
        }
    }
}

/// What an alert complains of, if that is a certificate
/// ([RFC 8446, section 6.2](https://www.rfc-editor.org/rfc/rfc8446#section-6.2)).
fn about_a_certificate(alert: Alert, found_by: FoundBy) -> Option<&'static str> {
    Some(match alert {
        Alert::UnknownCA if found_by == FoundBy::Peer => {
            "unknown_ca: not issued by an authority that the peer trusts, or an intermediate certificate is \
             missing"
        }
        Alert::CertificateRequired if found_by == FoundBy::Peer => {
            "certificate_required: none was shown (give this node an identity)"
        }
        Alert::BadCertificate => "bad_certificate: malformed, or not valid for the name",
        Alert::UnsupportedCertificate => "unsupported_certificate: not made for this use",
        Alert::CertificateRevoked => "certificate_revoked: revoked",
        Alert::CertificateExpired => "certificate_expired: expired, or not valid yet",
        Alert::CertificateUnknown => "certificate_unknown: not acceptable, for a reason that was not given",
        Alert::UnknownCA => "unknown_ca: not issued by a trusted authority",
        Alert::AccessDenied => "access_denied: valid, but not allowed",
        Alert::DecryptError => {
            "decrypt_error: a signature does not verify (another authority of the same name?)"
        }
        Alert::BadCertificateStatusResponse => {
            "bad_certificate_status_response: no valid proof of its status"
        }
        Alert::CertificateRequired => "certificate_required: none was shown",
        _ => return None,
    })
}

fn broken_protocol(found_by: FoundBy) -> Error {
    match found_by {
        FoundBy::ThisSide => Error::new(ErrorKind::Protocol),
        // The kind blames the peer, which sees it the other way round.
        FoundBy::Peer => Error::protocol("the peer closed the connection over an error that it found"),
    }
}

fn closed(close: &quinn::ApplicationClose) -> Error {
    let code = Code::from(close.error_code);
    let error = Error::new(ErrorKind::ConnectionClosed(code));
    match printable(&close.reason) {
        reason if reason.is_empty() => error,
        reason if code.class() == CodeClass::Retry => {
            let delay = retry_after::parse(&reason);
            error.detail(reason).after(delay)
        }
        reason => error.detail(reason),
    }
}

fn printable(reason: &[u8]) -> String {
    crate::message::printable(&String::from_utf8_lossy(reason), MAX_REASON_CHARS).into_owned()
}

#[cfg(test)]
mod tests {
    use std::{error::Error as _, time::Duration};

    use quinn::{ApplicationClose, ConnectionClose};
    use quinn_proto::TransportError;
    use rustls::{CertificateError, pki_types::CertificateDer};

    use super::*;
    use crate::{
        limits::{ChainLimit, Oversized},
        tls::Fingerprint,
    };

    fn found_here(code: TransportErrorCode) -> ConnectionError {
        TransportError { code, frame: None, reason: "for the source".into() }.into()
    }

    fn told_by_the_peer(code: TransportErrorCode) -> ConnectionError {
        ConnectionError::ConnectionClosed(ConnectionClose {
            error_code: code,
            frame_type: None,
            reason: "for the source".into(),
        })
    }

    fn kind(error: &ConnectionError) -> ErrorKind {
        let classified = classify(error, None);
        let source = classified.source().and_then(|source| source.downcast_ref());
        assert!(
            matches!(source, Some(ReadableError::Connection(cause)) if cause == error),
            "the cause is lost"
        );
        classified.kind().clone()
    }

    #[test]
    fn certificate_alerts_blame_the_side_that_showed_the_certificate() {
        for alert in [42, 43, 44, 45, 46, 48, 49, 51, 113, 116] {
            let code = TransportErrorCode::crypto(alert);
            assert_eq!(kind(&found_here(code)), ErrorKind::PeerCertificate, "{alert}");
            assert_eq!(kind(&told_by_the_peer(code)), ErrorKind::CertificateRefused, "{alert}");
            let refused = classify(&told_by_the_peer(code), None);
            assert!(refused.is_authentication() && refused.explanation().is_some());
        }
        let missing = classify(&told_by_the_peer(TransportErrorCode::crypto(116)), None);
        let explanation = "certificate_required: none was shown (give this node an identity)";
        assert_eq!(missing.explanation(), Some(explanation));
    }

    #[test]
    fn the_other_alerts_mean_the_same_from_either_side() {
        for (alert, expected) in [
            (120, ErrorKind::AlpnMismatch),
            (70, ErrorKind::VersionMismatch),
            (0, ErrorKind::Protocol),
            (10, ErrorKind::Protocol),
            (40, ErrorKind::Protocol),
            (50, ErrorKind::Protocol),
            (80, ErrorKind::Protocol),
            (112, ErrorKind::Protocol),
            (255, ErrorKind::Protocol),
        ] {
            let code = TransportErrorCode::crypto(alert);
            assert_eq!(kind(&found_here(code)), expected, "{alert}");
            assert_eq!(kind(&told_by_the_peer(code)), expected, "{alert}");
        }
    }

    #[test]
    fn transport_codes_outside_tls_are_sorted_by_fault() {
        for (code, expected) in [
            (TransportErrorCode::CONNECTION_REFUSED, ErrorKind::Refused),
            (TransportErrorCode::NO_ERROR, ErrorKind::ConnectionLost),
            (TransportErrorCode::INTERNAL_ERROR, ErrorKind::ConnectionLost),
            (TransportErrorCode::APPLICATION_ERROR, ErrorKind::ConnectionLost),
            (TransportErrorCode::AEAD_LIMIT_REACHED, ErrorKind::ConnectionLost),
            (TransportErrorCode::NO_VIABLE_PATH, ErrorKind::ConnectionLost),
            (TransportErrorCode::FLOW_CONTROL_ERROR, ErrorKind::Protocol),
            (TransportErrorCode::PROTOCOL_VIOLATION, ErrorKind::Protocol),
            (TransportErrorCode::TRANSPORT_PARAMETER_ERROR, ErrorKind::Protocol),
            (TransportErrorCode::INVALID_TOKEN, ErrorKind::Protocol),
        ] {
            assert_eq!(kind(&found_here(code)), expected, "{code}");
            assert_eq!(kind(&told_by_the_peer(code)), expected, "{code}");
        }
    }

    #[test]
    fn a_chain_that_is_too_large_is_told_from_either_side() {
        let code = TransportErrorCode::CRYPTO_BUFFER_EXCEEDED;
        let limit = ChainLimit::default();
        let report = HandshakeReport::default();
        report.set_chain_limit(limit);
        let overflow = classify(&found_here(code), Some(&report));
        assert_eq!(*overflow.kind(), ErrorKind::PeerCertificate);
        assert!(overflow.explanation().unwrap().contains("max_certificate_chain_bytes (16384)"));
        report.record_oversized(Oversized::Chain { bytes: 20_000, limit });
        let chain = classify(&found_here(code), Some(&report));
        assert_eq!(*chain.kind(), ErrorKind::PeerCertificate);
        assert!(chain.explanation().unwrap().contains("20000 bytes"));

        let told = classify(&told_by_the_peer(code), None);
        assert_eq!(*told.kind(), ErrorKind::CertificateRefused);
        assert!(told.explanation().unwrap().ends_with("for the source"), "{told}");
        assert!(told.is_terminal() && told.is_authentication());
        let silent = ConnectionClose { error_code: code, frame_type: None, reason: Default::default() };
        let silent = classify(&ConnectionError::ConnectionClosed(silent), None);
        assert_eq!(*silent.kind(), ErrorKind::CertificateRefused);
        assert!(silent.explanation().unwrap().contains("max_certificate_chain_bytes"), "{silent}");

        // The twins: a peer whose certificate was good already, and one on an open connection.
        let verified = HandshakeReport::default();
        verified.set_chain_limit(limit);
        verified.record_verified(Vec::new());
        for report in [Some(&verified), None] {
            assert_eq!(*classify(&found_here(code), report).kind(), ErrorKind::Protocol);
        }
    }

    #[test]
    fn ends_without_a_code_are_told_apart() {
        assert_eq!(kind(&ConnectionError::VersionMismatch), ErrorKind::VersionMismatch);
        assert_eq!(kind(&ConnectionError::LocallyClosed), ErrorKind::Closed);
        assert_eq!(kind(&ConnectionError::TimedOut), ErrorKind::ConnectionLost);
        assert_eq!(kind(&ConnectionError::Reset), ErrorKind::ConnectionLost);
        assert_eq!(kind(&ConnectionError::CidsExhausted), ErrorKind::ConnectionLost);
    }

    #[test]
    fn the_peers_application_code_survives_with_its_reason() {
        for code in [Code::NO_ERROR, Code::CAPACITY, Code::IDENTITY_REJECTED, Code::from_u64(0x2ab)] {
            let close = |reason: &'static [u8]| {
                ConnectionError::ApplicationClosed(ApplicationClose {
                    error_code: code.to_varint(),
                    reason: reason.into(),
                })
            };
            assert_eq!(kind(&close(b"")), ErrorKind::ConnectionClosed(code));
            assert_eq!(classify(&close(b""), None).explanation(), None);
            assert_eq!(classify(&close(b"too many"), None).explanation(), Some("too many"));
            let one_line = classify(&close(b"a\r\nb\xff"), None);
            assert_eq!(one_line.explanation(), Some("a\u{fffd}\u{fffd}b\u{fffd}"));
            let long = classify(&close("é".repeat(1000).leak().as_bytes()), None);
            assert_eq!(long.explanation().unwrap().chars().count(), MAX_REASON_CHARS);
        }
    }

    #[test]
    fn only_a_retry_code_says_when_to_come_back() {
        let after = |code: Code, reason: &'static str| {
            let close = ApplicationClose { error_code: code.to_varint(), reason: reason.into() };
            classify(&ConnectionError::ApplicationClosed(close), None).retry_after()
        };
        let two_seconds = Some(Duration::from_secs(2));
        assert_eq!(after(Code::SHUTTING_DOWN, "retry-after-ms=2000"), two_seconds);
        assert_eq!(after(Code::from_u64(0x1fe), "retry-after-ms=2000"), two_seconds);
        assert_eq!(after(Code::IDENTITY_REJECTED, "retry-after-ms=2000"), None);
        assert_eq!(after(Code::CAPACITY, "later"), None);
    }

    #[test]
    fn an_application_code_is_not_taken_for_a_transport_code() {
        let close = ConnectionError::ApplicationClosed(ApplicationClose {
            error_code: Code::from_u64(0x100 + 42).to_varint(),
            reason: Default::default(),
        });
        assert_eq!(kind(&close), ErrorKind::ConnectionClosed(Code::from_u64(0x12a)));
    }

    #[test]
    fn a_recorded_failure_explains_more_than_the_alert() {
        let classified = |failure| {
            let report = HandshakeReport::default();
            report.record(failure);
            classify(&found_here(TransportErrorCode::crypto(49)), Some(&report))
        };
        let presented = Fingerprint::of(&CertificateDer::from_slice(b"impostor"));
        let pin = classified(HandshakeFailure::PinMismatch(presented));
        assert_eq!(*pin.kind(), ErrorKind::PinMismatch);
        assert!(pin.explanation().unwrap().contains(&presented.to_string()));
        assert!(pin.source().is_some());

        for error in [CertificateError::UnknownIssuer, CertificateError::NotValidYet] {
            let failure =
                HandshakeFailure::ServerCertificate { error: error.clone().into(), words: "in words".into() };
            let certificate = classified(failure);
            assert_eq!(*certificate.kind(), ErrorKind::PeerCertificate);
            assert_eq!(certificate.explanation(), Some("in words"));
            assert_eq!(certificate.is_retryable(), error == CertificateError::NotValidYet);
            let source = certificate.source().map(ToString::to_string);
            assert_eq!(source.as_deref(), Some("TLS alert access_denied"));
        }
        let client = classified(HandshakeFailure::ClientCertificate("in words".into()));
        assert_eq!(*client.kind(), ErrorKind::PeerCertificate);
        assert_eq!(client.explanation(), Some("in words"));
        let empty = classify(&found_here(TransportErrorCode::crypto(49)), Some(&HandshakeReport::default()));
        assert_eq!(*empty.kind(), ErrorKind::PeerCertificate, "without a failure, the alert counts");
    }
}
