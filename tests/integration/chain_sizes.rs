//! How large a chain of certificates may be: whatever is allowed gets through on a bad link, and what is
//! larger is an error that says so, on both sides.

use std::{sync::Arc, time::Duration};

use crate::simulation::{PORT, Pair, SECOND, for_each_seed, patient};
use futures_lite::future::zip;
use palyra_quic::{
    ALPN, Client, ClientTls, Connection, Endpoint, Error, ErrorKind, Identity, Result, Rotation, Router,
    ServerTls, TransportLimits, Trust,
    quinn::{
        self, AsyncUdpSocket, ConnectionError, TransportConfig, TransportErrorCode,
        crypto::rustls::{QuicClientConfig, QuicServerConfig},
    },
    rustls::{
        self, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::WebPkiClientVerifier,
        version::TLS13,
    },
    sim::Link,
};
use rcgen::{CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

const MILLI: Duration = Duration::from_millis(1);
const DEFAULT: usize = 16 * 1024;
/// A private enterprise number for documentation (RFC 5612).
const PADDING: &[u64] = &[1, 3, 6, 1, 4, 1, 32473, 1];

type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(7.into());
    params
}

impl Authority {
    fn new() -> Self {
        let mut params = params("Authority");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self { params, key: key() }
    }

    fn certificate(&self) -> CertificateDer<'static> {
        self.params.self_signed(&self.key).unwrap().der().clone()
    }

    fn trust(&self) -> Trust {
        Trust::from_der([self.certificate()]).unwrap()
    }

    /// A certificate for servers and clients alike, with this number of bytes of no meaning in it.
    fn leaf(&self, key: &KeyPair, padding: usize) -> CertificateDer<'static> {
        let mut params = params("node");
        params.subject_alt_names = vec![rcgen::SanType::IpAddress([10, 0, 0, 1].into())];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.custom_extensions = vec![CustomExtension::from_oid_content(PADDING, vec![0; padding])];
        params.signed_by(key, &Issuer::from_params(&self.params, &self.key)).unwrap().der().clone()
    }

    /// A chain of exactly this size in bytes: a certificate that is good, and others that no path needs.
    fn chain_and_key(&self, bytes: usize, others: usize) -> ChainAndKey {
        let node_key = key();
        let others = (0..others)
            .map(|n| params(&format!("Another authority {n}")).self_signed(&key()).unwrap().der().clone());
        let others: Vec<_> = others.collect();
        let rest = bytes - others.iter().map(|certificate| certificate.len()).sum::<usize>();
        let mut padding = rest / 2;
        let leaf = loop {
            let leaf = self.leaf(&node_key, padding);
            match rest.cmp(&leaf.len()) {
                std::cmp::Ordering::Equal => break leaf,
                _ => padding = padding + rest - leaf.len(),
            }
        };
        let chain: Vec<_> = [leaf].into_iter().chain(others).collect();
        assert_eq!(chain.iter().map(|certificate| certificate.len()).sum::<usize>(), bytes);
        (chain, PrivateKeyDer::try_from(node_key.serialize_der()).unwrap())
    }

    fn identity(&self, bytes: usize) -> Identity {
        self.identity_among(bytes, 0)
    }

    fn identity_among(&self, bytes: usize, others: usize) -> Identity {
        let (chain, key) = self.chain_and_key(bytes, others);
        Identity::from_der(chain, key).unwrap()
    }

    fn server(&self, bytes: usize) -> ServerTls {
        ServerTls::new(self.identity(bytes)).require_client_certificates(self.trust())
    }

    fn client(&self, bytes: usize) -> ClientTls {
        self.client_as(self.identity(bytes))
    }

    fn client_as(&self, identity: Identity) -> ClientTls {
        ClientTls::new(self.trust()).identity(identity)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate()).unwrap();
        Arc::new(roots)
    }
}

fn limits(chain: usize) -> TransportLimits {
    patient().to_builder().max_certificate_chain_bytes(u32::try_from(chain).unwrap()).build().unwrap()
}

fn bad_link() -> Link {
    Link::new().delay(15 * MILLI).loss(0.1).reordering(0.1, 30 * MILLI)
}

/// A node and a client, each with its chain and its limit.
struct Meeting {
    pair: Pair,
    node: Endpoint,
    dialler: Endpoint,
}

impl Meeting {
    fn new(pair: Pair, server: (ServerTls, usize), client: (ClientTls, usize)) -> Self {
        let builder = Endpoint::builder().server(server.0).router(Router::new()).limits(limits(server.1));
        let node = pair.gateway.bind(builder, PORT).unwrap();
        let builder = Endpoint::builder().client(client.0).limits(limits(client.1));
        let dialler = pair.sensor.bind(builder, 0).unwrap();
        Self { pair, node, dialler }
    }

    fn connect(&self) -> Result<Connection> {
        self.pair.sim.run(self.dialler.connect(self.node.local_addr().unwrap()))
    }
}

fn assert_invalid<T>(result: Result<T>, bytes: usize, limit: usize) {
    let error = result.err().expect("the chain was taken");
    assert_eq!(*error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert_says(&error, bytes, limit);
}

#[track_caller]
fn assert_says(error: &Error, bytes: usize, limit: usize) {
    let text = error.explanation().unwrap();
    assert!(text.contains(&format!("{bytes} bytes")), "{text}");
    assert!(text.contains(&format!("max_certificate_chain_bytes ({limit})")), "{text}");
}

#[test]
fn a_chain_of_the_nodes_own_that_is_too_large_is_refused_wherever_it_is_configured() {
    let authority = Authority::new();
    let pair = Pair::new(1, Link::new());
    let (sim, host) = (&pair.sim, &pair.sensor);
    let server = |bytes| Endpoint::builder().server(authority.server(bytes));
    let client = |bytes| Endpoint::builder().client(authority.client(bytes));
    assert_invalid(host.bind(server(DEFAULT + 1), 0), DEFAULT + 1, DEFAULT);
    assert_invalid(host.bind(client(DEFAULT + 1), 0), DEFAULT + 1, DEFAULT);
    let small = limits(1024);
    assert_invalid(host.bind(client(1025).limits(small.clone()), 0), 1025, 1024);
    let others = ServerTls::new(authority.identity_among(DEFAULT + 1, 20));
    assert_invalid(host.bind(Endpoint::builder().server(others), 0), DEFAULT + 1, DEFAULT);

    let builder = server(DEFAULT).client(authority.client(DEFAULT));
    let endpoint = pair.gateway.bind(builder, PORT).unwrap();
    let rotate = |rotation| endpoint.rotate(rotation);
    assert_invalid(rotate(Rotation::new().server(authority.server(DEFAULT + 1))), DEFAULT + 1, DEFAULT);
    let half = Rotation::new().server(authority.server(DEFAULT));
    assert_invalid(rotate(half.client(authority.client(20_000))), 20_000, DEFAULT);
    let address = endpoint.local_addr().unwrap();
    let connected = sim.run(endpoint.connect_with(&authority.client(DEFAULT + 1), address));
    assert_invalid(connected, DEFAULT + 1, DEFAULT);
    let dialling = |bytes| Client::builder(endpoint.clone()).address(address).tls(authority.client(bytes));
    assert_invalid(dialling(DEFAULT + 1).build(), DEFAULT + 1, DEFAULT);

    // The twins: one byte less.
    rotate(Rotation::new().server(authority.server(DEFAULT)).client(authority.client(DEFAULT))).unwrap();
    sim.run(endpoint.connect_with(&authority.client(DEFAULT), address)).unwrap();
    sim.run(dialling(DEFAULT).build().unwrap().connection()).unwrap();
    host.bind(client(1024).limits(small), 0).unwrap();
}

/// Chains just above the limit, in one certificate and in many, and so far above that they are refused before
/// they are whole.
const TOO_LARGE: [(usize, usize, usize); 5] = [
    (DEFAULT, DEFAULT + 1, 0),
    (DEFAULT, DEFAULT + 1, 20),
    (DEFAULT, 27_000, 0),
    (1024, 60 * 1024, 0),
    (1024, 60 * 1024, 40),
];

#[test]
fn a_servers_chain_that_is_too_large_is_an_error_that_says_so_on_both_sides() {
    let authority = Authority::new();
    for (limit, bytes, others) in TOO_LARGE {
        let server = ServerTls::new(authority.identity_among(bytes, others));
        let (server, client) = ((server, 60 * 1024), (authority.client(1000), limit));
        let meeting = Meeting::new(Pair::new(1, Link::new().delay(15 * MILLI)), server, client);
        let error = meeting.connect().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::PeerCertificate, "{error}");
        assert!(error.is_authentication() && !error.is_retryable());
        assert!(error.to_string().contains(&format!("max_certificate_chain_bytes ({limit})")), "{error}");
        if bytes == DEFAULT + 1 {
            assert_says(&error, bytes, limit);
        }
        meeting.pair.sim.run(meeting.pair.sim.sleep(SECOND));
        let failed = meeting.node.stats().handshakes_failed;
        assert_eq!((failed.certificate_refused, failed.total()), (1, 1), "{failed:?}");
    }
}

#[test]
fn a_clients_chain_that_is_too_large_is_an_error_that_says_so_on_both_sides() {
    let authority = Authority::new();
    for (limit, bytes, others) in TOO_LARGE {
        let client = authority.client_as(authority.identity_among(bytes, others));
        let (server, client) = ((authority.server(1000), limit), (client, 60 * 1024));
        let meeting = Meeting::new(Pair::new(1, Link::new().delay(15 * MILLI)), server, client);
        let error = meeting.connect().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::CertificateRefused, "{error}");
        assert!(error.is_authentication() && !error.is_retryable());
        assert!(error.to_string().contains(&format!("max_certificate_chain_bytes ({limit})")), "{error}");
        if bytes == DEFAULT + 1 {
            assert_says(&error, bytes, limit);
        }
        let failed = meeting.node.stats().handshakes_failed;
        assert_eq!((failed.peer_certificate, failed.total()), (1, 1), "{failed:?}");
    }
}

/// It makes no difference which packets are lost, and so whether the size is seen in the chain, in what its
/// message announces, or in what arrives behind a gap.
#[test]
fn a_chain_that_is_too_large_is_the_same_error_on_a_bad_link() {
    let authority = Authority::new();
    let (small, large) = (authority.identity(1000), authority.identity(60 * 1024));
    for_each_seed(|seed| {
        let (shows, limit) = if seed % 2 == 0 { (&large, &small) } else { (&small, &large) };
        let server = ServerTls::new(shows.clone()).require_client_certificates(authority.trust());
        let client = authority.client_as(limit.clone());
        let of = |identity: &Identity| if identity.chain()[0].len() > 1024 { 60 * 1024 } else { 1024 };
        let meeting = Meeting::new(Pair::new(seed, bad_link()), (server, of(shows)), (client, of(limit)));
        let error = meeting.connect().unwrap_err();
        let expected = if seed % 2 == 0 { ErrorKind::PeerCertificate } else { ErrorKind::CertificateRefused };
        // What the peer says of it may be lost, too.
        if *error.kind() != ErrorKind::HandshakeTimeout || seed % 2 == 0 {
            assert_eq!(*error.kind(), expected, "{error}");
            assert!(error.to_string().contains("max_certificate_chain_bytes"), "{error}");
        }
    });
}

#[test]
fn a_client_does_not_repeat_what_a_chain_that_is_too_large_ended() {
    let authority = Authority::new();
    for (server, client) in [((20_000, 20_000), (1000, DEFAULT)), ((1000, DEFAULT), (20_000, 20_000))] {
        let server = (authority.server(server.0), server.1);
        let meeting = Meeting::new(
            Pair::new(1, Link::new().delay(15 * MILLI)),
            server,
            (authority.client(client.0), client.1),
        );
        let address = meeting.node.local_addr().unwrap();
        let client = Client::builder(meeting.dialler.clone()).address(address).build().unwrap();
        let error = meeting.pair.sim.run(client.call_raw("demo.echo", "hello")).unwrap_err();
        assert!(error.is_authentication() && !error.may_have_run(), "{error}");
        assert!(meeting.pair.sim.elapsed() < SECOND, "{:?}", meeting.pair.sim.elapsed());
        assert_eq!(meeting.dialler.stats().dials_failed.total(), 1);
    }
}

#[test]
fn the_largest_chains_get_through_on_a_bad_link() {
    let authority = Authority::new();
    for limit in [1024, 4096, DEFAULT, 60 * 1024] {
        // A chain of many certificates that fits the limit.
        let others = limit / 500;
        let (server, client) = (authority.identity_among(limit, others), authority.identity(limit));
        for_each_seed(|seed| {
            let server = ServerTls::new(server.clone()).require_client_certificates(authority.trust());
            let client = authority.client_as(client.clone());
            let meeting = Meeting::new(Pair::new(seed, bad_link()), (server, limit), (client, limit));
            meeting.connect().unwrap();
        });
    }
}

/// The twin: with quinn's own buffer, the largest chain by default fails at some seeds, whichever side shows
/// it.
#[test]
fn the_largest_chain_does_not_always_get_through_to_a_buffer_of_quinns_default() {
    let authority = Authority::new();
    let (large, small) = (authority.chain_and_key(DEFAULT, 0), authority.chain_and_key(1000, 0));
    let exceeded = |server, client| {
        (0..200).any(|seed| {
            let failures = raw_failures(&authority, server, client, DEFAULT, seed);
            failures.iter().any(|failure| {
                matches!(failure, ConnectionError::TransportError(error)
                    if error.code == TransportErrorCode::CRYPTO_BUFFER_EXCEEDED)
            })
        })
    };
    assert!(exceeded(&large, &small), "a server's");
    assert!(exceeded(&small, &large), "a client's");
    assert!(!exceeded(&small, &small), "neither");
}

/// The twin: with quinn's own congestion control, a client's flight of many packets gets stuck at some seeds.
#[test]
fn a_large_flight_does_not_always_get_through_with_the_window_of_quinns_default() {
    let authority = Authority::new();
    let (small, large) = (authority.chain_and_key(1000, 0), authority.chain_and_key(60 * 1024, 0));
    let stuck = |client| {
        (0..200).any(|seed| {
            let failures = raw_failures(&authority, &small, client, 128 * 1024, seed);
            failures.contains(&ConnectionError::TimedOut)
        })
    };
    assert!(stuck(&large));
    assert!(!stuck(&small));
}

/// quinn and rustls alone, as they are by default, with these chains.
struct Raw<'a> {
    pair: &'a Pair,
    authority: &'a Authority,
    /// For handshake messages that arrive out of order.
    room: usize,
}

impl Raw<'_> {
    fn transport(&self) -> Arc<TransportConfig> {
        let mut config = TransportConfig::default();
        config.crypto_buffer_size(self.room);
        Arc::new(config)
    }

    fn endpoint(
        &self,
        server: Option<quinn::ServerConfig>,
        socket: Arc<dyn AsyncUdpSocket>,
    ) -> quinn::Endpoint {
        let config = quinn::EndpointConfig::default();
        quinn::Endpoint::new_with_abstract_socket(config, server, socket, self.pair.sim.runtime()).unwrap()
    }

    fn server(&self, (chain, key): &ChainAndKey) -> quinn::Endpoint {
        let provider = || Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.authority.roots(), provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain.clone(), key.clone_key())
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        server.transport_config(self.transport());
        self.endpoint(Some(server), self.pair.gateway.socket(PORT).unwrap())
    }

    fn dial(&self, (chain, key): &ChainAndKey) -> quinn::Connecting {
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(self.authority.roots())
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        client.transport_config(self.transport());
        let endpoint = self.endpoint(None, self.pair.sensor.socket(0).unwrap());
        endpoint.connect_with(client, self.pair.gateway.address(PORT), "10.0.0.1").unwrap()
    }
}

/// How quinn fails, with so much room for handshake messages and what else it has by default.
fn raw_failures(
    authority: &Authority,
    server: &ChainAndKey,
    client: &ChainAndKey,
    room: usize,
    seed: u64,
) -> Vec<ConnectionError> {
    let pair = Pair::new(seed, bad_link());
    let raw = Raw { pair: &pair, authority, room };
    let node = raw.server(server);
    pair.sim.run(async {
        let accepting = async { node.accept().await.unwrap().await };
        let (accepted, dialled) = zip(accepting, raw.dial(client)).await;
        [accepted.err(), dialled.err()].into_iter().flatten().collect()
    })
}

/// More than a node can be configured to show, or rustls to read.
const HUGE: usize = 200_000;

#[test]
fn a_chain_of_any_size_is_refused_by_what_its_message_announces() {
    let authority = Authority::new();
    let small = authority.chain_and_key(1000, 0);
    let (leaf, key) = authority.chain_and_key(HUGE / 10, 0);
    let huge = (vec![leaf[0].clone(); 10], key);
    let says = |text: &str| {
        let size = text.split_once("a handshake message of ").unwrap().1.split_once(" bytes").unwrap().0;
        assert!((HUGE..HUGE + 100).contains(&size.parse().unwrap()), "{text}");
        assert!(text.contains("max_certificate_chain_bytes (16384)"), "{text}");
    };
    let pair = Pair::new(1, Link::new().delay(15 * MILLI));
    let raw = Raw { pair: &pair, authority: &authority, room: DEFAULT };
    let node = raw.server(&huge);
    let client = Endpoint::builder().client(authority.client(1000));
    let client = pair.sensor.bind(client, 0).unwrap();
    let (accepted, dialled) = pair
        .sim
        .run(zip(async { node.accept().await.unwrap().await }, client.connect(pair.gateway.address(PORT))));
    let error = dialled.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::PeerCertificate, "{error}");
    says(error.explanation().unwrap());
    says(&assert_told(accepted.unwrap_err()));

    let pair = Pair::new(1, Link::new().delay(15 * MILLI));
    let raw = Raw { pair: &pair, authority: &authority, room: DEFAULT };
    let builder = Endpoint::builder().server(authority.server(1000)).router(Router::new());
    let node = pair.gateway.bind(builder, PORT).unwrap();
    let told = pair.sim.run(async { raw.dial(&huge).await.unwrap().closed().await });
    says(&assert_told(told));
    assert_eq!(node.stats().handshakes_failed.peer_certificate, 1);
    // The twin: it is not for anything else that the two do not get on.
    pair.sim.run(async { raw.dial(&small).await.unwrap() });
}

/// What a peer is told of a chain that is too large.
fn assert_told(error: ConnectionError) -> String {
    let ConnectionError::ConnectionClosed(close) = error else { panic!("{error}") };
    assert_eq!(close.error_code, TransportErrorCode::CRYPTO_BUFFER_EXCEEDED);
    String::from_utf8(close.reason.to_vec()).unwrap()
}
