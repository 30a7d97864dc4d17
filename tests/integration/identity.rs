//! Who gets in, who is believed, and what a refusal is called: handshakes over real sockets, good ones and
//! bad ones.

use std::{
    any::Any,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_lite::future;
use palyra_quic::{
    CertificateAuthority, ClientTls, Context, Endpoint, Error, ErrorKind, Fingerprint, Identity, Pin, Result,
    Router, ServerTls, Trust,
    quinn::{
        self, ConnectionError, ConnectionId, EndpointConfig, Side, SmolRuntime, TransportConfig,
        TransportErrorCode,
        crypto::{
            self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
            UnsupportedVersion,
            rustls::{QuicClientConfig, QuicServerConfig},
        },
    },
    rustls::{
        self, AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, NamedGroup,
        RootCertStore, SignatureScheme,
        client::{
            ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
            Tls13ClientSessionValue, danger::HandshakeSignatureValid,
        },
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
        server::{
            WebPkiClientVerifier,
            danger::{ClientCertVerified, ClientCertVerifier},
        },
    },
};
use quinn_proto::{TransportError, transport_parameters::TransportParameters};

use crate::common::{ALPN, Pki, RawPeer, RawServer, attempt, frame, loopback, provider, request, run, serve};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn expired(authority: &CertificateAuthority) -> CertificateAuthority {
    let now = SystemTime::now();
    authority.clone().valid(now - 2 * DAY, now - DAY).unwrap()
}

fn self_signed() -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate =
        rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

/// A node with these credentials; `demo.peer` tells the caller what the node knows of it.
fn node(tls: ServerTls) -> (Endpoint, SocketAddr) {
    let router = Router::new().serve_raw("demo.peer", |context: Context, _| async move {
        Ok(context.peer().map_or_else(Default::default, |peer| peer.fingerprint().as_bytes().to_vec().into()))
    });
    let endpoint = Endpoint::builder().server(tls).router(router).bind(loopback()).unwrap();
    let address = endpoint.local_addr().unwrap();
    (endpoint, address)
}

/// What the node behind `address` calls a client with these credentials.
async fn called(tls: &ClientTls, address: SocketAddr) -> Result<Option<Fingerprint>> {
    let fingerprint = attempt(tls, address).await?.call_raw("demo.peer", "").await?;
    Ok(fingerprint.as_ref().try_into().ok().map(Fingerprint::from_bytes))
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T>, kind: &ErrorKind, case: &str) {
    let error = result.expect_err(case);
    assert_eq!(error.kind(), kind, "{case}: {error:?}");
    assert!(error.is_authentication() && !error.is_retryable(), "{case}");
}

/// Clients that no node with this authority should let in.
fn strangers(authority: &CertificateAuthority) -> [(&'static str, Identity); 5] {
    [
        ("expired", expired(authority).issue_client("a").unwrap().identity()),
        ("self-signed", self_signed()),
        (
            "of another authority",
            CertificateAuthority::new("x").unwrap().issue_client("a").unwrap().identity(),
        ),
        (
            "of a namesake",
            CertificateAuthority::new("Test CA").unwrap().issue_client("a").unwrap().identity(),
        ),
        ("made for servers", authority.issue_server(&[]).unwrap().identity()),
    ]
}

#[test]
fn strangers_are_told_that_their_certificate_was_refused_while_others_are_served() {
    run(async {
        let pki = Pki::new();
        let (_node, address) = node(pki.server_tls());
        let good = attempt(&pki.client_tls(), address).await.unwrap();

        let mut refusals = Vec::new();
        for _ in 0..3 {
            for (case, identity) in strangers(&pki.authority) {
                let tls = pki.client_tls_as(identity);
                refusals.push((case, smol::spawn(async move { attempt(&tls, address).await })));
            }
            let tls = ClientTls::new(pki.authority.trust());
            refusals.push(("without", smol::spawn(async move { attempt(&tls, address).await })));
        }
        for (case, refusal) in refusals {
            let (refusal, served) = future::zip(refusal, good.call_raw("demo.peer", "")).await;
            assert_refused(refusal, &ErrorKind::CertificateRefused, case);
            assert_eq!(served.unwrap(), pki.client.fingerprint().as_bytes()[..]);
        }
        assert_eq!(called(&pki.client_tls(), address).await.unwrap(), Some(pki.client.fingerprint()));
    });
}

#[test]
fn who_does_not_wait_to_be_confirmed_learns_from_the_first_call_that_it_was_refused() {
    run(async {
        let pki = Pki::new();
        let (node, address) = node(pki.server_tls());
        let connect = async |tls: ClientTls| {
            let endpoint = Endpoint::builder().client(tls).bind(loopback()).unwrap();
            endpoint.connect_unconfirmed(address).await
        };
        for (case, identity) in strangers(&pki.authority) {
            let connection = connect(pki.client_tls_as(identity)).await.unwrap();
            assert_eq!(connection.peer().unwrap().fingerprint(), pki.server.fingerprint(), "{case}");
            let error = connection.call_raw("demo.peer", "").await.unwrap_err();
            assert!(!error.may_have_run(), "{case}: {error:?}");
            assert_refused(Err::<(), _>(error), &ErrorKind::CertificateRefused, case);
            assert_eq!(*connection.closed().await.kind(), ErrorKind::CertificateRefused, "{case}");
        }
        assert_eq!(node.stats().requests, 0, "a stranger was read");
        let own = connect(pki.client_tls()).await.unwrap().call_raw("demo.peer", "").await.unwrap();
        assert_eq!(own, pki.client.fingerprint().as_bytes()[..]);
        // The other side is verified before anything is sent.
        let wrong = connect(ClientTls::new(CertificateAuthority::new("x").unwrap().trust())).await;
        assert_refused(wrong, &ErrorKind::PeerCertificate, "another authority's server");
    });
}

#[test]
fn optional_certificates_may_be_missing_but_not_bad() {
    run(async {
        let pki = Pki::new();
        let tls = ServerTls::new(pki.server.identity()).offer_client_certificates(pki.authority.trust());
        let (_node, address) = node(tls);
        assert_eq!(called(&ClientTls::new(pki.authority.trust()), address).await.unwrap(), None);
        assert_eq!(called(&pki.client_tls(), address).await.unwrap(), Some(pki.client.fingerprint()));
        for (case, identity) in strangers(&pki.authority) {
            let refusal = called(&pki.client_tls_as(identity), address).await;
            assert_refused(refusal, &ErrorKind::CertificateRefused, case);
        }
    });
}

#[test]
fn a_node_that_asks_for_no_certificate_looks_at_none() {
    run(async {
        let pki = Pki::new();
        let (_node, address) = node(ServerTls::new(pki.server.identity()));
        for (case, identity) in strangers(&pki.authority) {
            assert_eq!(called(&pki.client_tls_as(identity), address).await.unwrap(), None, "{case}");
        }
    });
}

#[test]
fn a_client_believes_no_server_without_a_valid_certificate() {
    run(async {
        let pki = Pki::new();
        let authority = &pki.authority;
        let other = CertificateAuthority::new("other").unwrap();
        let as_a_node = Identity::from_pem(authority.cert_pem().as_bytes(), authority.key_pem().as_bytes());
        for (case, identity) in [
            ("expired", expired(authority).issue_server(&[]).unwrap().identity()),
            ("self-signed", self_signed()),
            ("of another authority", other.issue_server(&[]).unwrap().identity()),
            ("made for clients", pki.client.identity()),
            ("the authority itself", as_a_node.unwrap()),
        ] {
            let (_node, address) = node(ServerTls::new(identity));
            assert_refused(called(&pki.client_tls(), address).await, &ErrorKind::PeerCertificate, case);
        }
        let (_node, address) = node(ServerTls::new(pki.server.identity()));
        assert_eq!(called(&pki.client_tls(), address).await.unwrap(), None);
    });
}

#[test]
fn the_server_must_have_the_name_that_was_asked_for() {
    run(async {
        let pki = Pki::new();
        let (_node, address) = node(pki.server_tls());
        for name in ["gateway.example", "localhost", "127.0.0.1", "::1"] {
            attempt(&pki.client_tls(), (address, name)).await.unwrap();
        }
        for name in ["other.example", "x.gateway.example", "192.0.2.7", "2001:db8::7"] {
            let refused = attempt(&pki.client_tls(), (address, name)).await;
            assert_refused(refused, &ErrorKind::PeerCertificate, name);
        }
    });
}

#[test]
fn a_wrong_pin_or_authority_ends_the_handshake_before_the_client_shows_its_certificate() {
    run(async {
        let pki = Pki::new();
        let gate = Arc::new(Gate::of(&pki.authority));
        let server = raw_server(pki, |_| {}, &gate);
        let _welcome = server.welcome();
        let pki = &server.pki;
        let (right, wrong) = (Pin::from(pki.server.fingerprint()), Pin::from(pki.client.fingerprint()));

        for pins in [vec![wrong], vec![wrong, Pin::of(pki.authority.certificate())]] {
            let refusal = attempt(&pki.client_tls().pins(pins), server.address()).await;
            assert_refused(refusal, &ErrorKind::PinMismatch, "wrong pin");
            assert_eq!(gate.asked(), 0, "the server has seen the client's certificate");
        }
        let stranger = CertificateAuthority::new("Another CA").unwrap();
        let elsewhere = ClientTls::new(stranger.trust()).identity(pki.client.identity());
        let refusal = attempt(&elsewhere, server.address()).await;
        assert_refused(refusal, &ErrorKind::PeerCertificate, "another authority");
        assert_eq!(gate.asked(), 0, "the server has seen the client's certificate");
        attempt(&pki.client_tls().pins([wrong, right]), server.address()).await.unwrap();
        assert_eq!(gate.asked(), 1, "the server would not have noticed");
        attempt(&pki.client_tls().pin(right), server.address()).await.unwrap();
    });
}

#[test]
fn a_pinned_key_is_enough_and_another_is_not() {
    run(async {
        let server = serve(Router::new());
        let pki = &server.pki;
        let (right, wrong) = (pki.server.chain(), pki.client.chain());
        let [right, wrong] = [right, wrong].map(|chain| Pin::of_public_key(&chain[0]).unwrap());
        let refusal = attempt(&pki.client_tls().pin(wrong), server.address()).await;
        assert_refused(refusal, &ErrorKind::PinMismatch, "another key");
        attempt(&pki.client_tls().pins([wrong, right]), server.address()).await.unwrap();
    });
}

#[test]
fn a_pin_does_not_replace_the_chain() {
    run(async {
        let pki = Pki::new();
        let identity = self_signed();
        let pinned = pki.client_tls().pin(identity.fingerprint());
        let (_node, address) = node(ServerTls::new(identity));
        assert_refused(called(&pinned, address).await, &ErrorKind::PeerCertificate, "self-signed");
    });
}

#[test]
fn the_callers_own_verifier_has_the_last_word() {
    run(async {
        let pki = Pki::new();
        let revoked = pki.authority.issue_client("revoked").unwrap();
        let gate = Gate { revoked: Some(revoked.fingerprint()), ..Gate::of(&pki.authority) };
        let tls = ServerTls::new(pki.server.identity()).client_cert_verifier(Arc::new(gate));
        let (_node, address) = node(tls);
        let refusal = called(&pki.client_tls_as(revoked.identity()), address).await;
        assert_refused(refusal, &ErrorKind::CertificateRefused, "revoked");
        assert_eq!(called(&pki.client_tls(), address).await.unwrap(), Some(pki.client.fingerprint()));
    });
}

#[test]
fn handlers_and_callers_see_who_the_other_side_is() {
    use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params, KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
    };
    let (root, root_key) = authority("root");
    let trust = Trust::from_der([root.self_signed(&root_key).unwrap().der().clone()]).unwrap();
    let root = Issuer::new(root, root_key);
    let (middle, middle_key) = authority("middle");
    let middle_cert = middle.signed_by(&middle_key, &root).unwrap().der().clone();
    let middle = Issuer::new(middle, middle_key);

    let mut params = CertificateParams::new(["pump.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Pump 4");
    params.subject_alt_names.push(SanType::URI("palyra:device:pump-4".try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 4].into()));
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let leaf = params.signed_by(&key, &middle).unwrap().der().clone();
    let chain = vec![leaf.clone(), middle_cert];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let identity = Identity::from_der(chain.clone(), key).unwrap();

    run(async {
        let router = Router::new().serve_raw("demo.look", move |context: Context, _| {
            let chain = chain.clone();
            async move {
                let peer = context.peer().unwrap();
                assert_eq!((peer.chain(), peer.fingerprint()), (&*chain, Fingerprint::of(&chain[0])));
                assert_eq!(peer.common_name(), Some("Pump 4"));
                assert!(peer.dns_names().eq(["pump.example"]) && peer.uris().eq(["palyra:device:pump-4"]));
                assert_eq!(peer.ip_addresses(), ["192.0.2.4".parse::<std::net::IpAddr>().unwrap()]);
                assert_eq!(context.connection().peer().unwrap().fingerprint(), peer.fingerprint());
                Ok("seen".into())
            }
        });
        let pki = Pki::new();
        let tls = ServerTls::new(pki.server.identity()).require_client_certificates(trust);
        let node = Endpoint::builder().server(tls).router(router).bind(loopback()).unwrap();
        let connection = attempt(&pki.client_tls_as(identity), node.local_addr().unwrap()).await.unwrap();
        assert_eq!(connection.call_raw("demo.look", "").await.unwrap(), "seen");
        let server = connection.peer().unwrap();
        assert_eq!(server.fingerprint(), pki.server.fingerprint());
        assert!(server.dns_names().any(|name| name == "gateway.example"));
    });
}

#[test]
fn what_cannot_be_an_identity_is_refused_before_anything_is_bound() {
    /// The kind of section that `openssl pkcs8 -topk8` writes; there is nothing to ask a passphrase.
    const ENCRYPTED: &str =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAo=\n-----END ENCRYPTED PRIVATE KEY-----\n";

    let pki = Pki::new();
    let (cert, key) = (pki.server.cert_pem(), pki.server.key_pem());
    let torn = |pem: &str| pem[..pem.len() / 2].to_owned();
    let garbled = |pem: &str| pem.replace(&pem[40..44], "!!!!");
    let blank = String::new();
    for (case, cert, key) in [
        ("no certificate", &blank, key),
        ("no key", &cert.to_owned(), ""),
        ("an encrypted key", &cert.to_owned(), ENCRYPTED),
        ("a torn certificate", &torn(cert), key),
        ("a torn key", &cert.to_owned(), &torn(key)),
        ("a garbled certificate", &garbled(cert), key),
        ("a garbled key", &cert.to_owned(), &garbled(key)),
        ("the key of another", &cert.to_owned(), pki.client.key_pem()),
        ("both the wrong way round", &key.to_owned(), cert),
    ] {
        let error = Identity::from_pem(cert.as_bytes(), key.as_bytes()).expect_err(case);
        assert_eq!(*error.kind(), ErrorKind::InvalidConfig, "{case}");
        assert!(!leaks(&format!("{error} {error:?}"), key), "{case}: {error:?}");
    }
    for pem in [String::new(), torn(cert), key.to_owned(), "certainly".into()] {
        assert_eq!(*Trust::from_pem(pem.as_bytes()).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    assert!(Identity::from_pem(cert.as_bytes(), key.as_bytes()).is_ok());
    assert!(Trust::from_pem(pki.authority.cert_pem().as_bytes()).is_ok());
}

/// Whether `text` shows the key of this PEM, as text or as a list of bytes.
fn leaks(text: &str, key_pem: &str) -> bool {
    let base64: String = key_pem.lines().filter(|line| !line.starts_with('-')).collect();
    let bytes = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map(|key| key.secret_der().iter().map(u8::to_string).collect::<Vec<_>>())
        .unwrap_or_default();
    // The header of a PKCS #8 key is no secret, and the secret is in the middle.
    let shows = |part: &str| !part.is_empty() && text.contains(part);
    shows(base64.get(60..76).unwrap_or_default()) || shows(&bytes.get(45..55).unwrap_or_default().join(", "))
}

#[test]
fn debug_shows_no_key() {
    run(async {
        let server = serve(Router::new());
        let connection = server.connect().await;
        let pki = &server.pki;
        let builder = Endpoint::builder().server(pki.server_tls()).client(pki.client_tls());
        let shown = [
            format!("{:?} {:?} {:?}", pki.server, pki.server.identity(), pki.client),
            format!("{:#?} {:#?}", pki.server_tls(), pki.client_tls()),
            format!("{:?} {builder:?} {:?} {connection:?}", pki.authority, server.endpoint),
        ];
        for key_pem in [pki.server.key_pem(), pki.client.key_pem(), pki.authority.key_pem()] {
            assert!(shown.iter().all(|shown| !leaks(shown, key_pem)), "{shown:?}");
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
            assert!(
                leaks(&key_pem.replace('\n', ""), key_pem)
                    && leaks(&format!("{:?}", key.secret_der()), key_pem)
            );
        }
    });
}

fn told(error: &ConnectionError) -> TransportErrorCode {
    match error {
        ConnectionError::ConnectionClosed(close) => close.error_code,
        other => panic!("{other:?} instead of a refusal by the peer"),
    }
}

fn alert(alert: AlertDescription) -> TransportErrorCode {
    TransportErrorCode::crypto(alert.into())
}

#[test]
fn peers_without_our_alpn_do_not_get_in() {
    run(async {
        let server = serve(Router::new());
        for (alpn, served) in [(&[ALPN][..], true), (&[b"h3", ALPN], true), (&[b"h3"], false), (&[], false)] {
            let mut tls = server.pki.raw_client_tls();
            tls.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
            match RawPeer::connect(tls, TransportConfig::default(), server.address()).await {
                Ok(peer) if served => peer.assert_is_served().await,
                Ok(_) => panic!("let in with {alpn:?}"),
                Err(error) => {
                    assert!(!served, "{alpn:?}: {error}");
                    assert_eq!(told(&error), alert(AlertDescription::NoApplicationProtocol));
                }
            }
        }
        server.assert_serves_others().await;
    });
}

#[test]
fn a_server_with_another_alpn_is_a_mismatch() {
    run(async {
        for (alpn, kind) in [
            (vec![ALPN.to_vec()], None),
            (vec![b"h3".to_vec()], Some(ErrorKind::AlpnMismatch)),
            (vec![], Some(ErrorKind::AlpnMismatch)),
        ] {
            let pki = Pki::new();
            let gate = Arc::new(Gate::of(&pki.authority));
            let server = raw_server(pki, |tls| tls.alpn_protocols = alpn, &gate);
            let _welcome = server.welcome();
            let result = attempt(&server.pki.client_tls(), server.address()).await;
            assert_eq!(result.err().as_ref().map(Error::kind), kind.as_ref());
        }
    });
}

#[test]
fn peers_with_another_quic_version_are_a_mismatch() {
    const DRAFT_29: u32 = 0xff00_001d;

    run(async {
        let server = serve(Router::new());
        let crypto = QuicClientConfig::try_from(server.pki.raw_client_tls()).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        RawPeer::connect_as(config.clone(), server.address()).await.unwrap().assert_is_served().await;
        config.version(DRAFT_29);
        let refused = RawPeer::connect_as(config, server.address()).await;
        assert_eq!(refused.err(), Some(ConnectionError::VersionMismatch));

        let crypto = QuicServerConfig::try_from(server.pki.raw_server_tls()).unwrap();
        let mut config = EndpointConfig::default();
        config.supported_versions(vec![DRAFT_29]);
        let draft_29 = quinn::Endpoint::new(
            config,
            Some(quinn::ServerConfig::with_crypto(Arc::new(crypto))),
            std::net::UdpSocket::bind(loopback()).unwrap(),
            Arc::new(SmolRuntime),
        );
        let result = attempt(&server.pki.client_tls(), draft_29.unwrap().local_addr().unwrap()).await;
        assert_eq!(*result.unwrap_err().kind(), ErrorKind::VersionMismatch);
    });
}

/// rustls is built without TLS 1.2 here, and quinn would not take such a configuration; so a peer of this
/// kind is one whose hello is changed on its way out.
#[test]
fn peers_with_an_older_tls_do_not_get_in() {
    run(async {
        let server = serve(Router::new());
        for downgraded in [false, true] {
            let crypto = Arc::new(QuicClientConfig::try_from(server.pki.raw_client_tls()).unwrap());
            let config = quinn::ClientConfig::new(Arc::new(Downgrade { crypto, downgraded }));
            match RawPeer::connect_as(config, server.address()).await {
                Ok(peer) => {
                    assert!(!downgraded, "TLS 1.2 got in");
                    peer.assert_is_served().await;
                }
                Err(error) => {
                    assert!(downgraded, "{error}");
                    assert_eq!(told(&error), alert(AlertDescription::ProtocolVersion));
                }
            }

            let pki = Pki::new();
            let crypto = Arc::new(QuicServerConfig::try_from(pki.raw_server_tls()).unwrap());
            let older = RawServer::with(pki, Arc::new(Downgrade { crypto, downgraded }));
            let _welcome = older.welcome();
            let result = attempt(&older.pki.client_tls(), older.address()).await;
            let expected = downgraded.then_some(&ErrorKind::VersionMismatch);
            assert_eq!(result.err().as_ref().map(Error::kind), expected);
        }
        server.assert_serves_others().await;
    });
}

/// Connects twice, as a client that resumes where it can. Gives its tickets, how often the gate was asked,
/// and whether it could send 0-RTT data with a third attempt.
async fn comes_back(server: SocketAddr, pki: &Pki, gate: &Gate) -> (Arc<Tickets>, usize, bool) {
    let tickets = Arc::new(Tickets::default());
    let mut tls = pki.raw_client_tls();
    tls.resumption = Resumption::store(tickets.clone());
    tls.enable_early_data = true;
    for _ in 0..2 {
        let peer = RawPeer::connect(tls.clone(), TransportConfig::default(), server).await.unwrap();
        let mut stream = peer.send(&frame(&request("node.health"))).await;
        stream.finish();
        // Tickets come with the end of the handshake, so no later than the acknowledgement of what follows
        // it.
        assert_eq!(stream.stopped().await, None);
    }
    // The attempt that follows may get as far as the gate, or not.
    let asked = gate.asked();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let socket = std::net::UdpSocket::bind(loopback()).unwrap();
    let endpoint = quinn::Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(SmolRuntime));
    let early = endpoint.unwrap().connect_with(config, server, "localhost").unwrap().into_0rtt().is_ok();
    (tickets, asked, early)
}

#[test]
fn a_node_gives_no_tickets_and_looks_at_the_certificate_every_time() {
    run(async {
        let pki = Pki::new();
        let gate = Arc::new(Gate::of(&pki.authority));
        let (_node, address) = node(ServerTls::new(pki.server.identity()).client_cert_verifier(gate.clone()));
        let (tickets, asked, early) = comes_back(address, &pki, &gate).await;
        assert_eq!((tickets.given(), asked, early), (0, 2, false));

        let generous = Arc::new(Gate::of(&pki.authority));
        let server = raw_server(pki, resuming, &generous);
        let _welcome = server.welcome();
        let (tickets, asked, early) = comes_back(server.address(), &server.pki, &generous).await;
        assert!(tickets.given() > 0 && early, "the test would not see a ticket");
        assert_eq!(asked, 1, "the test would not see a resumption");
    });
}

#[test]
fn a_client_resumes_nothing() {
    run(async {
        let pki = Pki::new();
        let gate = Arc::new(Gate::of(&pki.authority));
        let server = raw_server(pki, resuming, &gate);
        let _welcome = server.welcome();
        let client = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
        for connections in 1..=3 {
            client.connect(server.address()).await.unwrap();
            assert_eq!(gate.asked(), connections, "the server was not shown a certificate");
        }
    });
}

/// A raw server with this verifier, and with other changes.
fn raw_server(pki: Pki, change: impl FnOnce(&mut rustls::ServerConfig), gate: &Arc<Gate>) -> RawServer {
    let (chain, key) = crate::common::chain_and_key(&pki.server);
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(gate.clone())
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    change(&mut tls);
    RawServer::with(pki, Arc::new(QuicServerConfig::try_from(tls).unwrap()))
}

/// What rustls does unless it is told otherwise, and 0-RTT besides.
fn resuming(tls: &mut rustls::ServerConfig) {
    assert!(tls.send_tls13_tickets > 0);
    tls.max_early_data_size = u32::MAX;
}

/// Verifies chains, refuses one certificate besides, and counts how often it was asked.
#[derive(Debug)]
struct Gate {
    chain: Arc<dyn ClientCertVerifier>,
    revoked: Option<Fingerprint>,
    asked: AtomicUsize,
}

impl Gate {
    fn of(authority: &CertificateAuthority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        Self { chain, revoked: None, asked: AtomicUsize::new(0) }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl ClientCertVerifier for Gate {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.revoked == Some(Fingerprint::of(end_entity)) {
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

/// Keeps and counts tickets.
#[derive(Debug)]
struct Tickets {
    kept: ClientSessionMemoryCache,
    given: AtomicUsize,
}

impl Default for Tickets {
    fn default() -> Self {
        Self { kept: ClientSessionMemoryCache::new(8), given: AtomicUsize::new(0) }
    }
}

impl Tickets {
    fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(server_name)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.given.fetch_add(1, Ordering::SeqCst);
        self.kept.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.take_tls13_ticket(server_name)
    }
}

/// TLS whose first message names TLS 1.2 where it named TLS 1.3, or is left alone.
struct Downgrade<C> {
    crypto: Arc<C>,
    downgraded: bool,
}

struct DowngradedSession {
    session: Box<dyn Session>,
    downgraded: bool,
}

impl<C> Downgrade<C> {
    fn session(&self, session: Box<dyn Session>) -> Box<dyn Session> {
        Box::new(DowngradedSession { session, downgraded: self.downgraded })
    }
}

impl<C: crypto::ClientConfig> crypto::ClientConfig for Downgrade<C> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, quinn::ConnectError> {
        let session = Arc::clone(&self.crypto).start_session(version, server_name, params)?;
        Ok(self.session(session))
    }
}

impl<C: crypto::ServerConfig> crypto::ServerConfig for Downgrade<C> {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.crypto.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.crypto.retry_tag(version, id, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let session = Arc::clone(&self.crypto).start_session(version, params);
        self.session(session)
    }
}

impl Session for DowngradedSession {
    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        /// `supported_versions` of a client and of a server, each with TLS 1.3 alone
        /// ([RFC 8446, section 4.2.1](https://www.rfc-editor.org/rfc/rfc8446#section-4.2.1)).
        const TLS_1_3: [&[u8]; 2] = [&[0, 43, 0, 3, 2, 3, 4], &[0, 43, 0, 2, 3, 4]];

        let start = out.len();
        let keys = self.session.write_handshake(out);
        for extension in TLS_1_3.into_iter().filter(|_| self.downgraded) {
            let found = out[start..].windows(extension.len()).position(|bytes| bytes == extension);
            if let Some(found) = found {
                out[start + found + extension.len() - 1] = 3;
            }
        }
        keys
    }

    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        self.session.initial_keys(id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.session.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.session.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.session.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.session.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.session.read_handshake(bytes)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.session.transport_parameters()
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.session.next_1rtt_keys()
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.session.is_valid_retry(id, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.session.export_keying_material(output, label, context)
    }
}
