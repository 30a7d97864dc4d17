use std::{fmt, sync::Arc};

use quinn::{ApplicationClose, ConnectionClose, ConnectionError, TransportErrorCode};
use quinn_proto::TransportError;
use rustls::{AlertDescription as Alert, CertificateError, OtherError, pki_types::UnixTime};

use self::samples::tls_errors;
use super::{
    variant_names::{is_name_of_variant, spelled_out, variant},
    *,
};
use crate::tls::describe;

mod samples;

/// Words of several capitals, as programs name things: of two capitals that stand before small letters.
fn name_of_variant(text: &str) -> Option<&str> {
    text.split(|char: char| !char.is_ascii_alphanumeric()).find(|word| is_name_of_variant(word))
}

#[test]
fn names_of_variants_are_seen() {
    for seen in ["UnknownIssuer", "a CaUsedAsEndEntity", "OtherError(BadDer)"] {
        assert!(name_of_variant(seen).is_some(), "{seen}");
    }
    for passed_over in ["PKCS #8", "SHA-256", "unknown_ca", "CN=ca", "Ed25519 and X25519", "TLS alert"] {
        assert_eq!(name_of_variant(passed_over), None);
    }
}

fn assert_plain(words: &str, what: &dyn fmt::Debug) {
    assert_eq!(name_of_variant(words), None, "{what:?}: {words}");
    assert!(words.len() > 4, "{what:?}: {words}");
    assert!(!words.contains(['{', '[', '"']), "{what:?}: {words}");
}

#[test]
fn what_rustls_reports_is_put_in_plain_words() {
    for error in tls_errors() {
        assert_plain(&tls(&error), &error);
        assert_plain(&ReadableError::Tls(error.clone()).to_string(), &error);
        assert_plain(&ReadableError::other(error.clone()).to_string(), &error);
    }
}

#[test]
fn what_webpki_reports_is_put_in_plain_words() {
    use webpki::Error::*;
    let all = [
        BadDer,
        BadDerTime,
        CaUsedAsEndEntity,
        CertRevoked,
        EmptyEkuExtension,
        EndEntityUsedAsCa,
        ExtensionValueInvalid,
        InvalidCertValidity,
        InvalidCrlNumber,
        InvalidNetworkMaskConstraint,
        InvalidSerialNumber,
        InvalidCrlSignatureForPublicKey,
        InvalidSignatureForPublicKey,
        IssuerNotCrlSigner,
        MalformedDnsIdentifier,
        MalformedExtensions,
        MalformedNameConstraint,
        MaximumNameConstraintComparisonsExceeded,
        MaximumPathBuildCallsExceeded,
        MaximumPathDepthExceeded,
        MaximumSignatureChecksExceeded,
        NameConstraintViolation,
        PathLenConstraintViolated,
        SignatureAlgorithmMismatch,
        UnknownIssuer,
        UnknownRevocationStatus,
        UnsupportedCertVersion,
        UnsupportedCriticalExtension,
        UnsupportedCrlIssuingDistributionPoint,
        UnsupportedCrlVersion,
        UnsupportedDeltaCrl,
        UnsupportedIndirectCrl,
        UnsupportedNameType,
        UnsupportedRevocationReason,
        UnsupportedRevocationReasonsPartitioning,
        TrailingData(webpki::DerTypeId::CertificateExtensions),
        CertExpired { time: UnixTime::now(), not_after: UnixTime::now() },
        CertNotValidYet { time: UnixTime::now(), not_before: UnixTime::now() },
        CrlExpired { time: UnixTime::now(), next_update: UnixTime::now() },
    ];
    for error in all {
        assert_plain(&webpki(&error), &error);
        let other = CertificateError::Other(OtherError(Arc::new(error.clone())));
        assert_plain(&certificate(&other), &error);
    }
}

/// As quinn makes them of rustls's errors, here and at the peer.
#[test]
fn ends_of_connections_are_put_in_plain_words() {
    let alerts = (0..=u8::MAX).map(TransportErrorCode::crypto);
    for code in alerts.chain([TransportErrorCode::PROTOCOL_VIOLATION, TransportErrorCode::NO_ERROR]) {
        for error in tls_errors().into_iter().take(30) {
            let here = TransportError { code, frame: None, reason: error.to_string() };
            let there =
                ConnectionClose { error_code: code, frame_type: None, reason: error.to_string().into() };
            for end in [ConnectionError::from(here), ConnectionError::ConnectionClosed(there)] {
                for cause in [ReadableError::Connection(end.clone()), ReadableError::Refused(end)] {
                    assert_eq!(name_of_variant(&cause.to_string()), None, "{cause}");
                }
            }
        }
    }
    let closed = ApplicationClose { error_code: 7_u32.into(), reason: "a\u{202e}\u{1b}UnknownIssuer".into() };
    let closed = ReadableError::Connection(ConnectionError::ApplicationClosed(closed));
    assert_eq!(closed.to_string(), "closed by the peer with code 0x7: a\u{fffd}\u{fffd}unknown issuer");
}

#[test]
fn variants_that_are_not_known_are_spelled_out() {
    #[derive(Debug)]
    #[expect(dead_code, reason = "shown")]
    enum Later {
        SomeTLSThing { of: u8 },
        UnknownCA,
        Plain,
    }
    assert_eq!(variant(&Later::SomeTLSThing { of: 1 }), "some tls thing");
    assert_eq!(variant(&Later::UnknownCA), "unknown ca");
    assert_eq!(variant(&Later::Plain), "plain");
    assert_eq!(spelled_out("é: BadDer(CaUsedAs), TLS"), "é: bad der(ca used as), TLS");
}

#[test]
fn a_peers_names_are_few_short_and_harmless() {
    let many: Vec<_> = (0..5_000).map(|n| format!("{n}.example")).collect();
    let shown = not_valid_for("a.example", describe::list_of_names(many.iter().map(String::as_str)));
    assert!(shown.ends_with("`7.example` and 4992 more") && shown.len() < 200, "{shown}");
    let long = "x".repeat(10_000);
    let shown = describe::list_of_names([&*long, "a\u{1b}[2J\u{202e}b"].into_iter()).unwrap();
    assert!(shown.ends_with("...`, `a\u{fffd}[2J\u{fffd}b`") && shown.len() < 100, "{shown}");
}

/// Names as the RFC has them.
#[test]
fn alerts_have_the_names_of_the_standard() {
    for (number, name) in [
        (0, "close_notify"),
        (10, "unexpected_message"),
        (20, "bad_record_mac"),
        (22, "record_overflow"),
        (40, "handshake_failure"),
        (48, "unknown_ca"),
        (70, "protocol_version"),
        (80, "internal_error"),
        (112, "unrecognized_name"),
        (113, "bad_certificate_status_response"),
        (115, "unknown_psk_identity"),
        (116, "certificate_required"),
        (120, "no_application_protocol"),
        (200, "200"),
    ] {
        assert_eq!(alert_name(Alert::from(number)), name);
    }
}
