use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, IsCa};
use rustls::pki_types::CertificateDer;
use x509_cert::{
    Certificate,
    der::{Decode, Encode, oid::db::rfc5280},
    ext::pkix,
};

use super::{
    params::new_key,
    window::{CLOCK_SKEW, DEFAULT_LIFETIME},
    *,
};
use crate::{
    error::{ErrorKind, Result},
    tls::{Fingerprint, PeerIdentity},
};

fn peer(issued: &IssuedCertificate) -> PeerIdentity {
    PeerIdentity::from_chain(issued.chain().to_vec()).unwrap()
}

fn certificate(der: &CertificateDer<'_>) -> Certificate {
    Certificate::from_der(der).unwrap()
}

fn validity(issued: &IssuedCertificate) -> (SystemTime, SystemTime) {
    let validity = certificate(&issued.chain()[0]).tbs_certificate.validity;
    let at = |time: x509_cert::time::Time| SystemTime::UNIX_EPOCH + time.to_unix_duration();
    (at(validity.not_before), at(validity.not_after))
}

fn assert_invalid<T: fmt::Debug>(result: Result<T>, explanation: &str) {
    let error = result.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
    assert!(error.explanation().unwrap().starts_with(explanation), "{error}");
}

#[test]
fn a_reloaded_authority_goes_on_issuing_in_the_same_name() {
    let ca = CertificateAuthority::new("Zentrale für Köche").unwrap();
    let one_file = format!("# stored\n{}{}", ca.key_pem(), ca.cert_pem());
    for (cert, key) in [(ca.cert_pem(), ca.key_pem()), (one_file.as_str(), one_file.as_str())] {
        let reloaded = CertificateAuthority::from_pem(cert.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(reloaded.certificate(), ca.certificate());
        assert_eq!(reloaded.key_pem(), ca.key_pem());
        assert_eq!(reloaded.cert_pem().trim(), ca.cert_pem().trim());

        let issued = certificate(&reloaded.issue_client("a").unwrap().chain()[0]).tbs_certificate;
        let authority = certificate(ca.certificate()).tbs_certificate;
        assert_eq!(issued.issuer.to_der().unwrap(), authority.subject.to_der().unwrap());
        let (_, named) = issued.get::<pkix::AuthorityKeyIdentifier>().unwrap().unwrap();
        let (_, own) = authority.get::<pkix::SubjectKeyIdentifier>().unwrap().unwrap();
        assert_eq!(named.key_identifier, Some(own.0));
    }
}

#[test]
fn only_an_authority_with_its_own_key_is_reloaded() {
    let (a, b) = (CertificateAuthority::new("a").unwrap(), CertificateAuthority::new("b").unwrap());
    let leaf = a.issue_client("leaf").unwrap();
    let reload = |cert: &str, key: &str| CertificateAuthority::from_pem(cert.as_bytes(), key.as_bytes());
    assert!(reload(a.cert_pem(), a.key_pem()).is_ok());
    assert_invalid(reload(a.cert_pem(), b.key_pem()), "certificate and private key do not belong together");
    assert_invalid(reload(leaf.cert_pem(), leaf.key_pem()), "not a certificate of an authority made here");
    assert_invalid(reload(a.key_pem(), a.key_pem()), "no certificate in the PEM");
    assert_invalid(reload(a.cert_pem(), a.cert_pem()), "no private key in the PEM");
    let damaged = a.cert_pem().replacen("-----\n", "-----\n!", 1);
    assert_invalid(reload(&damaged, a.key_pem()), "the PEM of the certificates is malformed: line 2");
    let torn = &a.cert_pem()[..a.cert_pem().len() / 2];
    assert_invalid(reload(torn, a.key_pem()), "the PEM of the certificates is malformed: the section");
}

#[test]
fn a_server_is_named_once_for_each_name() {
    let ca = CertificateAuthority::new("ca").unwrap();
    let plain = peer(&ca.issue_server(&[]).unwrap());
    assert_eq!(plain.common_name(), Some("localhost"));
    assert!(plain.dns_names().eq(["localhost"]));

    let repeated = peer(&ca.issue_server(&["::1", "localhost", "a.example", "a.example"]).unwrap());
    assert_eq!(repeated.common_name(), Some("::1"));
    assert!(repeated.dns_names().eq(["localhost", "a.example"]));
    assert_eq!(repeated.ip_addresses().len(), 2);

    let long = format!("{}.example", "a".repeat(60));
    let long_named = peer(&ca.issue_server(&[&long]).unwrap());
    assert_eq!(long_named.common_name(), Some("localhost"));
    assert!(long_named.dns_names().eq([long.as_str(), "localhost"]));
}

#[test]
fn certificates_say_what_they_are_for() {
    let ca = CertificateAuthority::new("ca").unwrap();
    for (issued, purpose) in [
        (ca.issue_server(&[]).unwrap(), "1.3.6.1.5.5.7.3.1"),
        (ca.issue_client("a").unwrap(), "1.3.6.1.5.5.7.3.2"),
    ] {
        let subject = certificate(&issued.chain()[0]).tbs_certificate;
        let (_, usage) = subject.get::<pkix::ExtendedKeyUsage>().unwrap().unwrap();
        assert_eq!(usage.0.iter().map(ToString::to_string).collect::<Vec<_>>(), [purpose]);
        let (_, constraints) = subject.get::<pkix::BasicConstraints>().unwrap().unwrap();
        assert!(!constraints.ca);
    }
    let subject = certificate(&ca.issue_client("a").unwrap().chain()[0]).tbs_certificate.subject;
    assert_eq!(subject.to_string(), "CN=Palyra Device a,O=Palyra");
}

/// Every part that this crate has a type for is the same when it is encoded again, and so is the whole.
fn assert_is_der(certificate: &CertificateDer<'_>) {
    fn assert_reencodes<'a, T: Decode<'a> + Encode>(encoded: &'a [u8]) {
        assert_eq!(T::from_der(encoded).unwrap().to_der().unwrap(), encoded);
    }
    assert_reencodes::<Certificate>(certificate);
    let parsed = Certificate::from_der(certificate).unwrap().tbs_certificate;
    for extension in parsed.extensions.unwrap() {
        let value = extension.extn_value.as_bytes();
        match extension.extn_id {
            rfc5280::ID_CE_BASIC_CONSTRAINTS => assert_reencodes::<pkix::BasicConstraints>(value),
            rfc5280::ID_CE_KEY_USAGE => assert_reencodes::<pkix::KeyUsage>(value),
            rfc5280::ID_CE_EXT_KEY_USAGE => assert_reencodes::<pkix::ExtendedKeyUsage>(value),
            rfc5280::ID_CE_SUBJECT_ALT_NAME => assert_reencodes::<pkix::SubjectAltName>(value),
            rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER => assert_reencodes::<pkix::SubjectKeyIdentifier>(value),
            rfc5280::ID_CE_AUTHORITY_KEY_IDENTIFIER => {
                assert_reencodes::<pkix::AuthorityKeyIdentifier>(value);
            }
            other => panic!("an extension that nobody looks at: {other}"),
        }
    }
}

#[test]
fn certificates_are_encoded_as_der_demands() {
    let ca = CertificateAuthority::new("ca").unwrap();
    let server = ca.issue_server(&["node.example", "192.0.2.7"]).unwrap();
    let client = ca.issue_client("a").unwrap();
    for certificate in [ca.certificate(), &server.chain()[0], &client.chain()[0]] {
        assert_is_der(certificate);
    }
}

/// The twin: what rcgen writes by itself.
#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn a_default_that_is_encoded_is_noticed() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    assert_is_der(params.self_signed(&new_key().unwrap()).unwrap().der());
}

#[test]
fn the_window_is_kept_to_the_second() {
    let ca = CertificateAuthority::new("ca").unwrap();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    for (from, until) in [
        (0, 0),
        (1_000_000_000, 1_000_000_001),
        (2_524_607_999, 2_524_608_000), // from UTCTime to GeneralizedTime
        (0, 253_402_300_799),
    ] {
        let ca = ca.clone().valid(at(from), at(until)).unwrap();
        assert_eq!(validity(&ca.issue_client("a").unwrap()), (at(from), at(until)));
        assert_eq!(validity(&ca.issue_server(&[]).unwrap()), (at(from), at(until)));
    }
    let valid = |from, until| ca.clone().valid(from, until);
    assert_invalid(valid(at(2), at(1)), "the certificate would end before it begins");
    assert_invalid(valid(at(0), at(253_402_300_800)), "a certificate until after the year 9999");
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    assert_invalid(valid(before, at(1)), "a certificate from before 1970");
}

#[test]
fn the_default_window_allows_for_slow_clocks() {
    let ca = CertificateAuthority::new("ca").unwrap();
    let before = SystemTime::now();
    let (from, until) = validity(&ca.issue_client("a").unwrap());
    let after = SystemTime::now();
    let second = Duration::from_secs(1);
    assert!(before - CLOCK_SKEW - second <= from && from <= after - CLOCK_SKEW);
    assert!(before + DEFAULT_LIFETIME - second <= until && until <= after + DEFAULT_LIFETIME);
}

#[test]
fn names_that_cannot_be_written_are_refused() {
    let ca = CertificateAuthority::new("ca").unwrap();
    for name in ["", " ", "a b", "*.example", "a.example.", "[::1]", "127.0.0.1:443", "bücher.example"] {
        assert_invalid(
            ca.issue_server(&["good.example", name]),
            &format!("{name:?} is neither a DNS name nor an IP address"),
        );
    }
    assert!(ca.issue_client(&"x".repeat(50)).is_ok());
    for id in ["", "a b", "a/b", "a:b", "a%20", "é", "a\n", &"x".repeat(51)] {
        assert_invalid(ca.issue_client(id), "a client id is 1 to 50 letters, digits, `-`, `.`, `_` and `~`");
    }
    assert!(CertificateAuthority::new(&"é".repeat(64)).is_ok());
    for name in ["", "a\nb", &"x".repeat(65)] {
        assert_invalid(
            CertificateAuthority::new(name),
            "the name of an authority is 1 to 64 printable characters",
        );
    }
}

#[test]
fn debug_shows_fingerprints_and_no_key() {
    let ca = CertificateAuthority::new("ca").unwrap();
    let issued = ca.issue_server(&[]).unwrap();
    for (debug, fingerprint) in [
        (format!("{ca:?}"), Fingerprint::of(ca.certificate())),
        (format!("{issued:?}"), issued.fingerprint()),
    ] {
        assert!(debug.contains(&fingerprint.to_string()), "{debug}");
        assert!(debug.len() < 200, "more than names: {debug}");
    }
}
