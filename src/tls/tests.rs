//! Whole handshakes between the two configurations, in memory and without encryption, so that what
//! each side writes can be looked at.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use quinn::{ConnectionClose, ConnectionError, TransportErrorCode};
use quinn_proto::TransportError;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    quic::{ClientConnection, Connection, ServerConnection, Version},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    ALPN, ClientTls, HandshakeReport, Identity, Pin, ServerTls, Surroundings, classify, protocol::VERSIONS,
    provider::provider,
};
use crate::{
    cert::{CertificateAuthority, Issued},
    error::{Error, ErrorKind, Result},
};

/// How a handshake went, for either side.
struct Outcome {
    client: Result<()>,
    server: Result<()>,
    /// All that the client wrote: a certificate shows up in here as it is.
    from_client: Vec<u8>,
    from_server_afterwards: Vec<u8>,
    connections: (Connection, Connection),
}

impl Outcome {
    fn assert_done(&self) {
        assert!(self.client.is_ok() && self.server.is_ok(), "{:?}, {:?}", self.client, self.server);
        let (client, server) = &self.connections;
        for side in [client, server] {
            assert!(!side.is_handshaking());
            assert_eq!(side.alpn_protocol(), Some(ALPN));
        }
    }

    fn kinds(&self) -> (Option<&ErrorKind>, Option<&ErrorKind>) {
        (self.client.as_ref().err().map(Error::kind), self.server.as_ref().err().map(Error::kind))
    }

    fn assert_kinds(&self, client: ErrorKind, server: ErrorKind, case: &str) {
        assert_eq!(self.kinds(), (Some(&client), Some(&server)), "{case}");
    }

    fn client_showed(&self, certificate: &CertificateDer<'_>) -> bool {
        self.from_client.windows(certificate.len()).any(|bytes| bytes == certificate.as_ref())
    }
}

fn handshake(client: &ClientTls, server: &ServerTls) -> Outcome {
    handshake_with("localhost", client, server)
}

/// With the server of this name.
fn handshake_with(name: &str, client: &ClientTls, server: &ServerTls) -> Outcome {
    let report = HandshakeReport::default();
    let server_report = HandshakeReport::default();
    let client = client.config(&Surroundings::default(), &report).unwrap();
    let server = server.config(&Surroundings::default(), &server_report).unwrap();
    handshake_reporting(client, name, [&report, &server_report], server)
}

fn handshake_between(
    client: ClientConfig,
    name: &str,
    report: &HandshakeReport,
    server: ServerConfig,
) -> Outcome {
    handshake_reporting(client, name, [report, &HandshakeReport::default()], server)
}

fn handshake_reporting(
    client: ClientConfig,
    name: &str,
    [report, server_report]: [&HandshakeReport; 2],
    server: ServerConfig,
) -> Outcome {
    let name = ServerName::try_from(name).unwrap().to_owned();
    let client = ClientConnection::new(Arc::new(client), Version::V1, name, Vec::new()).unwrap();
    let server = ServerConnection::new(Arc::new(server), Version::V1, Vec::new()).unwrap();
    let (mut client, mut server) = (Connection::Client(client), Connection::Server(server));
    let (mut from_client, mut from_server_afterwards) = (Vec::new(), Vec::new());
    let (client_result, server_result) = loop {
        let to_server = written(&mut client);
        from_client.extend(to_server.concat());
        if let Err((here, there)) = read(&mut server, &to_server) {
            break (Err(classify(&there, Some(report))), Err(classify(&here, Some(server_report))));
        }
        let to_client = written(&mut server);
        if !server.is_handshaking() {
            from_server_afterwards.extend(to_client.concat());
        }
        if let Err((here, there)) = read(&mut client, &to_client) {
            break (Err(classify(&here, Some(report))), Err(classify(&there, Some(server_report))));
        }
        if to_server.concat().is_empty() && to_client.concat().is_empty() {
            break (Ok(()), Ok(()));
        }
    };
    from_client.extend(written(&mut client).concat());
    Outcome {
        client: client_result,
        server: server_result,
        from_client,
        from_server_afterwards,
        connections: (client, server),
    }
}

/// What a side has to send, cut where the keys change, as the packets would be.
fn written(side: &mut Connection) -> Vec<Vec<u8>> {
    let mut flights = Vec::new();
    loop {
        let mut flight = Vec::new();
        let key_change = side.write_hs(&mut flight);
        flights.push(flight);
        if key_change.is_none() {
            return flights;
        }
    }
}

/// A failure comes back as quinn would report it here and at the other end.
fn read(side: &mut Connection, flights: &[Vec<u8>]) -> Result<(), (ConnectionError, ConnectionError)> {
    for flight in flights {
        side.read_hs(flight).map_err(|error| {
            let alert = side.alert().expect("every refusal has an alert");
            let code = TransportErrorCode::crypto(alert.into());
            let here = TransportError { code, frame: None, reason: error.to_string() };
            let there =
                ConnectionClose { error_code: code, frame_type: None, reason: error.to_string().into() };
            (here.into(), ConnectionError::ConnectionClosed(there))
        })?;
    }
    Ok(())
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::new("ca").unwrap()
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn expired(ca: &CertificateAuthority) -> CertificateAuthority {
    let now = SystemTime::now();
    ca.clone().valid(now - 2 * DAY, now - DAY).unwrap()
}

fn not_yet_valid(ca: &CertificateAuthority) -> CertificateAuthority {
    let now = SystemTime::now();
    ca.clone().valid(now + DAY, now + 2 * DAY).unwrap()
}

fn self_signed() -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

fn authority_as_a_node(ca: &CertificateAuthority) -> Identity {
    Identity::from_pem(ca.cert_pem().as_bytes(), ca.key_pem().as_bytes()).unwrap()
}

/// Peers that have all that rustls has, whatever this build has.
mod algorithms {
    use rustls::{crypto::CryptoProvider, pki_types::PrivateKeyDer};

    use super::*;

    fn everything() -> Arc<CryptoProvider> {
        Arc::new(rustls::crypto::ring::default_provider())
    }

    fn client_with_everything(ca: &CertificateAuthority, identity: &Issued) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(everything())
            .with_protocol_versions(VERSIONS)
            .unwrap()
            .with_root_certificates(ca.trust().roots())
            .with_client_auth_cert(identity.chain().to_vec(), private_key(identity.key_pem()))
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    }

    fn server_with_everything(chain: Vec<CertificateDer<'static>>, key_pem: &str) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(everything())
            .with_protocol_versions(VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, private_key(key_pem))
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    }

    fn private_key(pem: &str) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn peers_with_everything_agree_with_what_is_left() {
        let ca = authority();
        let (server, sensor) = (ca.issue_server(&[]).unwrap(), ca.issue_client("sensor").unwrap());
        let report = HandshakeReport::default();

        let tls = ServerTls::new(server.identity()).require_client_certificates(ca.trust());
        let ours = tls.config(&Surroundings::default(), &HandshakeReport::default()).unwrap();
        let theirs = client_with_everything(&ca, &sensor);
        handshake_between(theirs, "localhost", &report, ours).assert_done();

        let ours = ClientTls::new(ca.trust()).config(&Surroundings::default(), &report).unwrap();
        let theirs = server_with_everything(server.chain().to_vec(), server.key_pem());
        handshake_between(ours, "localhost", &report, theirs).assert_done();
    }

    /// The twin is refused for its issuer.
    #[test]
    fn a_server_whose_key_takes_a_feature_fails_to_agree() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let theirs = server_with_everything(vec![certificate], &key.serialize_pem());
        let report = HandshakeReport::default();
        let ours = ClientTls::new(authority().trust()).config(&Surroundings::default(), &report).unwrap();
        let outcome = handshake_between(ours, "localhost", &report, theirs);
        if cfg!(feature = "ecdsa") {
            outcome.assert_kinds(ErrorKind::PeerCertificate, ErrorKind::CertificateRefused, "a stranger");
        } else {
            outcome.assert_kinds(ErrorKind::Protocol, ErrorKind::Protocol, "nothing in common");
            let error = outcome.client.unwrap_err();
            assert!(error.explanation().unwrap().contains("no algorithm in common"), "{error}");
        }
    }
}

mod pins {
    use super::*;

    #[test]
    fn a_wrong_pin_ends_the_handshake_before_the_client_shows_its_certificate() {
        let ca = authority();
        let (server, sensor) = (ca.issue_server(&[]).unwrap(), ca.issue_client("sensor").unwrap());
        let tls = ServerTls::new(server.identity()).require_client_certificates(ca.trust());
        let client = ClientTls::new(ca.trust()).identity(sensor.identity());

        let wrong = handshake(&client.clone().pin(Pin::of(ca.certificate())), &tls);
        wrong.assert_kinds(ErrorKind::PinMismatch, ErrorKind::CertificateRefused, "wrong pin");
        assert!(!wrong.client_showed(&sensor.chain()[0]));
        assert!(wrong.connections.1.peer_certificates().is_none());
        let error = wrong.client.unwrap_err();
        assert!(error.explanation().unwrap().contains(&server.fingerprint().to_string()), "{error}");

        let right = handshake(&client.pin(server.fingerprint()), &tls);
        right.assert_done();
        assert!(right.client_showed(&sensor.chain()[0]));
        assert_eq!(right.connections.1.peer_certificates(), Some(sensor.chain()));
    }

    #[test]
    fn pins_of_the_present_and_the_next_certificate_overlap() {
        let ca = authority();
        let (present, next, other) =
            (ca.issue_server(&[]).unwrap(), ca.issue_server(&[]).unwrap(), ca.issue_server(&[]).unwrap());
        let client =
            ClientTls::new(ca.trust()).pins([present.fingerprint(), next.fingerprint()].map(Pin::from));
        for server in [&present, &next] {
            handshake(&client, &ServerTls::new(server.identity())).assert_done();
        }
        let outcome = handshake(&client, &ServerTls::new(other.identity()));
        outcome.assert_kinds(ErrorKind::PinMismatch, ErrorKind::CertificateRefused, "neither");
    }

    #[test]
    fn a_pin_does_not_stand_in_for_a_valid_chain() {
        let server = self_signed();
        let client = ClientTls::new(authority().trust()).pin(server.fingerprint());
        let outcome = handshake(&client, &ServerTls::new(server));
        outcome.assert_kinds(ErrorKind::PeerCertificate, ErrorKind::CertificateRefused, "self-signed");
    }
}

mod certificates {
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
            assert_eq!(
                error.explanation(),
                Some(format!("not valid for `{name}`, but for {names}").as_str())
            );
        }
    }

    #[test]
    fn a_server_refuses_clients_without_a_valid_certificate() {
        let ca = authority();
        let server = ServerTls::new(ca.issue_server(&[]).unwrap().identity());
        let required = server.clone().require_client_certificates(ca.trust());
        let offered = server.offer_client_certificates(ca.trust());
        for (client, case, explanation) in [
            (
                expired(&ca).issue_client("a").unwrap().identity(),
                "certificate_expired",
                "expired: it was valid",
            ),
            (self_signed(), "unknown_ca", "it is self-signed"),
            (
                CertificateAuthority::new("other").unwrap().issue_client("a").unwrap().identity(),
                "unknown_ca",
                "its issuer `CN=other` is neither trusted",
            ),
            (
                authority().issue_client("a").unwrap().identity(),
                "decrypt_error",
                "a signature does not verify",
            ),
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
        let chain =
            WebPkiClientVerifier::builder_with_provider(ca.trust().roots(), provider()).build().unwrap();
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
}

mod versions {
    use super::*;

    fn pair() -> (ClientConfig, HandshakeReport, ServerConfig) {
        let ca = authority();
        let report = HandshakeReport::default();
        let client = ClientTls::new(ca.trust()).config(&Surroundings::default(), &report).unwrap();
        let server = ServerTls::new(ca.issue_server(&[]).unwrap().identity())
            .config(&Surroundings::default(), &HandshakeReport::default())
            .unwrap();
        (client, report, server)
    }

    #[test]
    fn another_alpn_or_none_is_a_mismatch_on_both_sides() {
        let with = |client_alpn: &[&str], server_alpn: &[&str]| {
            let (mut client, report, mut server) = pair();
            client.alpn_protocols = client_alpn.iter().map(|&alpn| alpn.into()).collect();
            server.alpn_protocols = server_alpn.iter().map(|&alpn| alpn.into()).collect();
            handshake_between(client, "localhost", &report, server)
        };
        let ours = std::str::from_utf8(ALPN).unwrap();
        with(&[ours], &[ours]).assert_done();
        with(&["h3", ours], &[ours]).assert_done();
        for outcome in
            [with(&["h3"], &[ours]), with(&[], &[ours]), with(&[ours], &["h3"]), with(&[ours], &[])]
        {
            outcome.assert_kinds(ErrorKind::AlpnMismatch, ErrorKind::AlpnMismatch, "ALPN");
        }
    }

    #[test]
    fn a_server_refuses_a_client_that_offers_tls_1_2_only() {
        /// `supported_versions` of a ClientHello, naming TLS 1.3
        /// ([RFC 8446, section 4.2.1](https://www.rfc-editor.org/rfc/rfc8446#section-4.2.1)).
        const TLS_1_3: [u8; 7] = [0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x04];
        const TLS_1_2: [u8; 7] = [0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x03];

        let (client, _report, server) = pair();
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::new(client), Version::V1, name, Vec::new()).unwrap();
        let mut hello = written(&mut Connection::Client(client)).concat();
        let server = Arc::new(server);
        let read_hello = |hello: &[u8]| {
            let server = ServerConnection::new(Arc::clone(&server), Version::V1, Vec::new()).unwrap();
            read(&mut Connection::Server(server), &[hello.to_vec()])
        };
        assert!(read_hello(&hello).is_ok());

        let at = hello.windows(TLS_1_3.len()).position(|bytes| bytes == TLS_1_3).unwrap();
        hello[at..at + TLS_1_2.len()].copy_from_slice(&TLS_1_2);
        let (here, there) = read_hello(&hello).unwrap_err();
        assert_eq!(*classify(&here, None).kind(), ErrorKind::VersionMismatch);
        assert_eq!(*classify(&there, None).kind(), ErrorKind::VersionMismatch);
    }

    #[test]
    fn a_client_refuses_a_server_that_answers_with_tls_1_2() {
        let (client, report, _server) = pair();
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::new(client), Version::V1, name, Vec::new()).unwrap();
        let mut client = Connection::Client(client);
        written(&mut client);

        // A ServerHello as RFC 5246, section 7.4.1.3, has it: version 1.2, random, no session,
        // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression, no extensions.
        let mut hello = vec![2, 0, 0, 38, 3, 3];
        hello.extend([0x11; 32]);
        hello.extend([0, 0xc0, 0x2b, 0]);
        let (here, there) = read(&mut client, &[hello]).unwrap_err();
        assert_eq!(*classify(&here, Some(&report)).kind(), ErrorKind::VersionMismatch);
        assert_eq!(*classify(&there, None).kind(), ErrorKind::VersionMismatch);
    }

    /// The twin has a server that resumes, as nothing here does.
    #[test]
    fn a_handshake_that_is_not_full_is_noticed() {
        let ca = authority();
        let tls = ServerTls::new(ca.issue_server(&[]).unwrap().identity());
        let tls = tls.require_client_certificates(ca.trust());
        let sessions = rustls::server::ServerSessionMemoryCache::new(8);
        let checked = |client: &ClientConfig, tickets| {
            let report = HandshakeReport::default();
            let mut server = tls.config(&Surroundings::default(), &report).unwrap();
            if tickets > 0 {
                server.send_tls13_tickets = tickets;
                server.session_storage = sessions.clone();
            }
            let outcome = handshake_between(client.clone(), "localhost", &HandshakeReport::default(), server);
            outcome.assert_done();
            assert!(outcome.connections.1.peer_certificates().is_some());
            report.check_full_handshake()
        };
        let identity = ca.issue_client("sensor").unwrap().identity();
        let client = ClientTls::new(ca.trust()).identity(identity);
        let report = HandshakeReport::default();
        let mut client = client.config(&Surroundings::default(), &report).unwrap();
        client.resumption = rustls::client::Resumption::in_memory_sessions(8);
        assert!(report.check_full_handshake().is_err(), "there was none");
        for _ in 0..3 {
            checked(&client, 0).unwrap();
        }
        report.check_full_handshake().unwrap();
        checked(&client, 2).unwrap();
        assert_eq!(*checked(&client, 2).unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn no_ticket_follows_a_handshake() {
        let (client, report, server) = pair();
        let outcome = handshake_between(client.clone(), "localhost", &report, server.clone());
        outcome.assert_done();
        assert!(outcome.from_server_afterwards.is_empty());

        let mut with_tickets = server;
        with_tickets.send_tls13_tickets = 1;
        with_tickets.session_storage = rustls::server::ServerSessionMemoryCache::new(1);
        let outcome = handshake_between(client, "localhost", &report, with_tickets);
        outcome.assert_done();
        assert!(!outcome.from_server_afterwards.is_empty(), "the test would not see a ticket");
    }
}
