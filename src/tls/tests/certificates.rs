//! Which certificates either side refuses, and with which error.

use super::*;

#[test]
fn a_client_refuses_servers_without_a_valid_certificate() {
    let ca = authority();
    let sensor = ca.issue_client("sensor").unwrap();
    let client = ClientTls::new(ca.trust()).identity(sensor.identity());
    for (server, explanation) in [
        (expired(&ca).issue_server(&[]).unwrap().identity(), "expired"),
        (
            not_yet_valid(&ca).issue_server(&[]).unwrap().identity(),
            "not valid yet (or this node's clock is behind)",
        ),
        (self_signed(), "not issued by a trusted authority: it is self-signed"),
        (
            CertificateAuthority::new("other").unwrap().issue_server(&[]).unwrap().identity(),
            "not issued by a trusted authority: its issuer `CN=other` is neither trusted nor among the \
             certificates that were sent (is an intermediate one missing?)",
        ),
        (
            authority().issue_server(&[]).unwrap().identity(),
            "a signature does not verify (another authority of the same name?)",
        ),
        (ca.issue_client("not-a-server").unwrap().identity(), "not made for servers, but for clients"),
        (
            authority_as_a_node(&ca),
            "it is self-signed: it is the certificate of an authority: give the node one of its own, \
             with `basicConstraints=CA:FALSE`",
        ),
    ] {
        let server = ServerTls::new(server).require_client_certificates(ca.trust());
        let outcome = handshake(&client, &server);
        outcome.assert_kinds(ErrorKind::PeerCertificate, ErrorKind::CertificateRefused, explanation);
        assert!(!outcome.client_showed(&sensor.chain()[0]), "{explanation}");
        let error = outcome.client.unwrap_err();
        assert!(error.explanation().unwrap().starts_with(explanation), "{error}");
    }
    let server = ServerTls::new(ca.issue_server(&[]).unwrap().identity());
    handshake(&client, &server.require_client_certificates(ca.trust())).assert_done();
}

#[test]
fn a_client_refuses_a_certificate_for_other_names() {
    let ca = authority();
    let server = ServerTls::new(ca.issue_server(&["a.example", "192.0.2.1"]).unwrap().identity());
    let outcome = |name| handshake_with(name, &ClientTls::new(ca.trust()), &server);
    for name in ["a.example", "A.Example", "192.0.2.1", "localhost", "127.0.0.1", "::1"] {
        outcome(name).assert_done();
    }
    for name in ["b.example", "x.a.example", "example", "192.0.2.2", "2001:db8::1"] {
        let outcome = outcome(name);
        outcome.assert_kinds(ErrorKind::PeerCertificate, ErrorKind::CertificateRefused, name);
        let error = outcome.client.unwrap_err();
        let names = "`a.example`, `localhost`, `192.0.2.1`, `127.0.0.1`, `::1`";
        assert_eq!(error.explanation(), Some(format!("not valid for `{name}`, but for {names}").as_str()));
    }
}

#[test]
fn a_server_refuses_clients_without_a_valid_certificate() {
    let ca = authority();
    let server = ServerTls::new(ca.issue_server(&[]).unwrap().identity());
    let required = server.clone().require_client_certificates(ca.trust());
    let offered = server.offer_client_certificates(ca.trust());
    for (client, case, explanation) in [
        (expired(&ca).issue_client("a").unwrap().identity(), "certificate_expired", "expired: it was valid"),
        (self_signed(), "unknown_ca", "it is self-signed"),
        (
            CertificateAuthority::new("other").unwrap().issue_client("a").unwrap().identity(),
            "unknown_ca",
            "its issuer `CN=other` is neither trusted",
        ),
        (authority().issue_client("a").unwrap().identity(), "decrypt_error", "a signature does not verify"),
        (
            ca.issue_server(&[]).unwrap().identity(),
            "unsupported_certificate",
            "not made for clients, but for servers",
        ),
    ] {
        let client = ClientTls::new(ca.trust()).identity(client);
        for server in [&required, &offered] {
            let outcome = handshake(&client, server);
            outcome.assert_kinds(ErrorKind::CertificateRefused, ErrorKind::PeerCertificate, case);
            let (there, here) = (outcome.client.unwrap_err(), outcome.server.unwrap_err());
            assert!(there.explanation().unwrap().starts_with(case), "{there}");
            assert!(here.explanation().unwrap().contains(explanation), "{here}");
        }
    }
    let client = ClientTls::new(ca.trust()).identity(ca.issue_client("a").unwrap().identity());
    handshake(&client, &required).assert_done();
    handshake(&client, &offered).assert_done();
    // The server's clock may be behind, which an alert does not say; so the connection does, once the
    // handshake is over.
    let early = not_yet_valid(&ca).issue_client("a").unwrap().identity();
    handshake(&ClientTls::new(ca.trust()).identity(early), &required).assert_done();
}

#[test]
fn only_a_server_that_requires_certificates_refuses_a_client_without() {
    let ca = authority();
    let client = ClientTls::new(ca.trust());
    let server = ServerTls::new(ca.issue_server(&[]).unwrap().identity());
    handshake(&client, &server).assert_done();
    handshake(&client, &server.clone().offer_client_certificates(ca.trust())).assert_done();

    let outcome = handshake(&client, &server.require_client_certificates(ca.trust()));
    outcome.assert_kinds(ErrorKind::CertificateRefused, ErrorKind::PeerCertificate, "none");
    let explanation = "certificate_required: none was shown";
    let advice = format!("{explanation} (give this node an identity)");
    assert_eq!(outcome.client.unwrap_err().explanation(), Some(&*advice));
    assert_eq!(outcome.server.unwrap_err().explanation(), Some(explanation));
}

#[test]
fn a_custom_verifier_has_the_last_word() {
    let ca = authority();
    let (kept, revoked) = (ca.issue_client("kept").unwrap(), ca.issue_client("revoked").unwrap());
    let chain = WebPkiClientVerifier::builder_with_provider(ca.trust().roots(), provider()).build().unwrap();
    let verifier = Revocations { chain, revoked: revoked.chain()[0].clone() };
    let server =
        ServerTls::new(ca.issue_server(&[]).unwrap().identity()).client_cert_verifier(Arc::new(verifier));
    let client = |identity| ClientTls::new(ca.trust()).identity(identity);

    handshake(&client(kept.identity()), &server).assert_done();
    let outcome = handshake(&client(revoked.identity()), &server);
    outcome.assert_kinds(ErrorKind::CertificateRefused, ErrorKind::PeerCertificate, "revoked");
    assert_eq!(outcome.client.unwrap_err().explanation(), Some("certificate_revoked: revoked"));
}

#[derive(Debug)]
struct Revocations {
    chain: Arc<dyn ClientCertVerifier>,
    revoked: CertificateDer<'static>,
}

impl ClientCertVerifier for Revocations {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if *end_entity == self.revoked {
            return Err(CertificateError::Revoked.into());
        }
        self.chain.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
