//! What the tests over real sockets share: an authority, a node, a client, and peers made of quinn and rustls
//! alone, which can say anything.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::{
    collections::BTreeMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use futures_lite::future;
use palyra_quic::{
    Bytes, CertificateAuthority, Client, ClientTls, Code, Codec, Connection, Endpoint, Identity,
    IssuedCertificate, Request, Response, Router, ServerAddress, ServerTls, TransportLimits, WireError,
    minicbor,
    quinn::{
        self, EndpointConfig, ReadError, RecvStream, SendStream, SmolRuntime, StoppedError, TransportConfig,
        VarInt,
        crypto::rustls::{QuicClientConfig, QuicServerConfig},
    },
    rustls::{
        self, RootCertStore,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
        version::TLS13,
    },
};

/// A test that takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest answer that a raw peer takes.
const ENOUGH: usize = 64 * 1024 * 1024;

pub(crate) const ALPN: &[u8] = b"palyra-quic-v1";

/// Runs a test, which fails if it hangs.
pub(crate) fn run(test: impl Future<Output = ()>) {
    smol::block_on(in_time(test));
}

/// A test for other executors, which fails if it hangs.
pub(crate) async fn in_time(test: impl Future<Output = ()>) {
    let hung = async {
        smol::Timer::after(PATIENCE).await;
        panic!("still not done after {PATIENCE:?}");
    };
    future::or(test, hung).await;
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// An authority, and what it issued for a server and a client.
pub(crate) struct Pki {
    pub(crate) authority: CertificateAuthority,
    pub(crate) server: IssuedCertificate,
    pub(crate) client: IssuedCertificate,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let authority = CertificateAuthority::new("Test CA").unwrap();
        let server = authority.issue_server(&["gateway.example"]).unwrap();
        let client = authority.issue_client("sensor-7").unwrap();
        Self { authority, server, client }
    }

    /// The server's side of mutual TLS.
    pub(crate) fn server_tls(&self) -> ServerTls {
        ServerTls::new(self.server.identity()).require_client_certificates(self.authority.trust())
    }

    /// The client's side of mutual TLS.
    pub(crate) fn client_tls(&self) -> ClientTls {
        self.client_tls_as(self.client.identity())
    }

    pub(crate) fn client_tls_as(&self, identity: Identity) -> ClientTls {
        ClientTls::new(self.authority.trust()).identity(identity)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate().clone()).unwrap();
        roots
    }

    /// rustls as a client, without anything of this crate.
    pub(crate) fn raw_client_tls(&self) -> rustls::ClientConfig {
        let (chain, key) = chain_and_key(&self.client);
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls
    }

    /// rustls as a server that demands client certificates, without anything of this crate.
    pub(crate) fn raw_server_tls(&self) -> rustls::ServerConfig {
        let (chain, key) = chain_and_key(&self.server);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider()).build().unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

pub(crate) fn chain_and_key(
    issued: &IssuedCertificate,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem().as_bytes()).unwrap();
    (issued.chain().to_vec(), key)
}

/// A node that demands client certificates.
pub(crate) struct Server {
    pub(crate) pki: Pki,
    pub(crate) endpoint: Endpoint,
}

pub(crate) fn serve(router: Router) -> Server {
    serve_within(TransportLimits::default(), router)
}

pub(crate) fn serve_within(limits: TransportLimits, router: Router) -> Server {
    let pki = Pki::new();
    let endpoint =
        Endpoint::builder().server(pki.server_tls()).limits(limits).router(router).bind(loopback()).unwrap();
    Server { pki, endpoint }
}

impl Server {
    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    /// A client of this crate on a socket of its own, connected.
    pub(crate) async fn connect(&self) -> Connection {
        self.connect_within(TransportLimits::default()).await
    }

    pub(crate) async fn connect_within(&self, limits: TransportLimits) -> Connection {
        let client =
            Endpoint::builder().client(self.pki.client_tls()).limits(limits).bind(loopback()).unwrap();
        client.connect(self.address()).await.unwrap()
    }

    /// A peer that can say anything, connected.
    pub(crate) async fn raw(&self) -> RawPeer {
        self.raw_with(TransportConfig::default()).await
    }

    pub(crate) async fn raw_with(&self, transport: TransportConfig) -> RawPeer {
        RawPeer::connect(self.pki.raw_client_tls(), transport, self.address()).await.unwrap()
    }

    /// Asks for health on a connection of its own, as anybody else would.
    pub(crate) async fn assert_serves_others(&self) {
        assert!(self.connect().await.health().await.unwrap().ok);
    }
}

/// One attempt to connect, with a client of this crate on a socket of its own.
pub(crate) async fn attempt(
    tls: &ClientTls,
    server: impl Into<ServerAddress>,
) -> palyra_quic::Result<Connection> {
    Endpoint::builder().bind(loopback()).unwrap().connect_with(tls, server).await
}

fn raw_endpoint(server: Option<quinn::ServerConfig>) -> quinn::Endpoint {
    let socket = UdpSocket::bind(loopback()).unwrap();
    quinn::Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(SmolRuntime)).unwrap()
}

/// A client made of quinn and rustls alone.
pub(crate) struct RawPeer {
    pub(crate) connection: quinn::Connection,
    pub(crate) endpoint: quinn::Endpoint,
}

impl RawPeer {
    pub(crate) async fn connect(
        tls: rustls::ClientConfig,
        transport: TransportConfig,
        address: SocketAddr,
    ) -> Result<Self, quinn::ConnectionError> {
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        config.transport_config(Arc::new(transport));
        Self::connect_as(config, address).await
    }

    /// With a configuration that is the test's own from end to end.
    pub(crate) async fn connect_as(
        config: quinn::ClientConfig,
        address: SocketAddr,
    ) -> Result<Self, quinn::ConnectionError> {
        let endpoint = raw_endpoint(None);
        let connection = endpoint.connect_with(config, address, "localhost").unwrap().await?;
        Ok(Self { connection, endpoint })
    }

    /// Sends these bytes and FIN on a stream of their own, and reads what comes back.
    pub(crate) async fn exchange(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.send(bytes).await;
        stream.finish();
        stream.answer().await
    }

    /// As [`exchange`](Self::exchange), with the bytes as one frame.
    pub(crate) async fn request(&self, body: &[u8]) -> Answer {
        self.exchange(&frame(body)).await
    }

    /// Sends these bytes on a stream of their own, without FIN.
    pub(crate) async fn send(&self, bytes: &[u8]) -> RawStream {
        let (send, recv) = self.connection.open_bi().await.unwrap();
        let mut stream = RawStream { send, recv };
        stream.send(bytes).await;
        stream
    }

    /// Sends these bytes and FIN on a unidirectional stream.
    pub(crate) async fn notify(&self, bytes: &[u8]) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        // The other side may have stopped it already.
        let _ = stream.write_all(bytes).await;
        let _ = stream.finish();
        stream
    }

    /// Asks for health on this connection, which must go on after whatever happened on one of its streams.
    pub(crate) async fn assert_is_served(&self) {
        let answer = self.request(&request("node.health")).await;
        assert!(matches!(answer.only(), Response::Health { ok: true, .. }));
    }
}

/// A server made of quinn and rustls alone, which does with streams whatever a test wants.
pub(crate) struct RawServer {
    pub(crate) pki: Pki,
    pub(crate) endpoint: quinn::Endpoint,
}

impl RawServer {
    pub(crate) fn new() -> Self {
        let pki = Pki::new();
        let tls = pki.raw_server_tls();
        Self::with(pki, Arc::new(QuicServerConfig::try_from(tls).unwrap()))
    }

    /// With limits that are the test's own.
    pub(crate) fn within(transport: TransportConfig) -> Self {
        let pki = Pki::new();
        let crypto = QuicServerConfig::try_from(pki.raw_server_tls()).unwrap();
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        Self { pki, endpoint: raw_endpoint(Some(config)) }
    }

    /// With TLS that is the test's own.
    pub(crate) fn with(pki: Pki, crypto: Arc<dyn quinn::crypto::ServerConfig>) -> Self {
        let endpoint = raw_endpoint(Some(quinn::ServerConfig::with_crypto(crypto)));
        Self { pki, endpoint }
    }

    /// Takes whoever comes and keeps the connections open, for as long as the task is held.
    pub(crate) fn welcome(&self) -> smol::Task<()> {
        let endpoint = self.endpoint.clone();
        smol::spawn(async move {
            let mut open = Vec::new();
            while let Some(incoming) = endpoint.accept().await {
                open.extend(incoming.await.ok());
            }
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    /// The connection of whoever dials next.
    pub(crate) async fn accept(&self) -> quinn::Connection {
        self.endpoint.accept().await.unwrap().await.unwrap()
    }

    /// A client of this crate that has yet to dial.
    pub(crate) fn client(&self) -> Client {
        let dialler = Endpoint::builder().client(self.pki.client_tls()).bind(loopback()).unwrap();
        Client::builder(dialler).address(self.address()).build().unwrap()
    }

    /// A client of this crate, and the server's end of its connection.
    pub(crate) async fn connect(&self) -> (Connection, quinn::Connection) {
        self.connect_from(Endpoint::builder()).await
    }

    /// The same, of an endpoint that is something besides a client.
    pub(crate) async fn connect_from(
        &self,
        builder: palyra_quic::EndpointBuilder,
    ) -> (Connection, quinn::Connection) {
        let client = builder.client(self.pki.client_tls()).bind(loopback()).unwrap();
        let accepting = self.accept();
        let dialling = async { client.connect(self.address()).await.unwrap() };
        future::zip(dialling, accepting).await
    }
}

/// Both directions of a stream, raw.
pub(crate) struct RawStream {
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
}

impl RawStream {
    /// The next stream that the peer opens.
    pub(crate) async fn accept(connection: &quinn::Connection) -> Self {
        let (send, recv) = connection.accept_bi().await.unwrap();
        Self { send, recv }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The other side may have refused before it read everything; its answer tells.
        let _ = self.send.write_all(bytes).await;
    }

    pub(crate) fn finish(&mut self) {
        let _ = self.send.finish();
    }

    pub(crate) fn reset(&mut self, code: Code) {
        self.send.reset(varint(code)).unwrap();
    }

    pub(crate) fn stop(&mut self, code: Code) {
        self.recv.stop(varint(code)).unwrap();
    }

    /// The body of the next frame.
    pub(crate) async fn next(&mut self) -> Vec<u8> {
        let mut prefix = [0; 4];
        self.recv.read_exact(&mut prefix).await.unwrap();
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(prefix)).unwrap()];
        self.recv.read_exact(&mut body).await.unwrap();
        body
    }

    /// What comes until FIN or reset.
    pub(crate) async fn answer(&mut self) -> Answer {
        read_answer(&mut self.recv).await
    }

    /// With what code the other side stops reading; `None` where it reads everything.
    pub(crate) async fn stopped(&mut self) -> Option<Code> {
        stopped(&mut self.send).await
    }
}

pub(crate) async fn read_answer(recv: &mut RecvStream) -> Answer {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match recv.read(&mut chunk).await {
            Ok(Some(count)) => bytes.extend_from_slice(&chunk[..count]),
            Ok(None) => return Answer::Whole(bytes),
            Err(ReadError::Reset(code)) => return Answer::Reset(code.into()),
            Err(error) => panic!("the connection did not survive: {error}"),
        }
        assert!(bytes.len() < ENOUGH, "no end of the answer");
    }
}

/// With what code the other side stops reading; `None` where it reads everything.
pub(crate) async fn stopped(send: &mut SendStream) -> Option<Code> {
    match send.stopped().await {
        Ok(code) => code.map(Code::from),
        Err(StoppedError::ConnectionLost(error)) => panic!("the connection did not survive: {error}"),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn varint(code: Code) -> VarInt {
    VarInt::from_u64(code.as_u64()).unwrap()
}

/// What came back on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Bytes, then FIN.
    Whole(Vec<u8>),
    /// A reset; whatever came before may be lost.
    Reset(Code),
}

impl Answer {
    /// The bodies of the frames, of an answer that is whole.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Whole(bytes) => split(bytes),
            Self::Reset(code) => panic!("reset with {code} instead of an answer"),
        }
    }

    /// The one frame of the answer, and that it is in `codec`.
    pub(crate) fn only_in(&self, codec: Codec) -> Response {
        let frames = self.frames();
        let [body] = &*frames else { panic!("{} frames instead of one", frames.len()) };
        assert_eq!(Codec::of(body), codec);
        decode(body)
    }

    pub(crate) fn only(&self) -> Response {
        self.only_in(Codec::Cbor)
    }

    /// The error that is the one frame of the answer.
    pub(crate) fn error_in(&self, codec: Codec) -> WireError {
        match self.only_in(codec) {
            Response::Error { error, .. } => error,
            other => panic!("{other:?} instead of an error"),
        }
    }

    pub(crate) fn error(&self) -> WireError {
        self.error_in(Codec::Cbor)
    }

    /// The payload of the one result of the answer.
    pub(crate) fn result(&self) -> Bytes {
        result(self.only())
    }
}

pub(crate) fn result(response: Response) -> Bytes {
    match response {
        Response::Result { payload, .. } => payload.unwrap_or_default(),
        other => panic!("{other:?} instead of a result"),
    }
}

pub(crate) fn decode(body: &[u8]) -> Response {
    Response::decode(&Bytes::copy_from_slice(body)).unwrap()
}

/// Puts the length in front.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// Cuts bytes into the bodies of frames.
pub(crate) fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while let Some((prefix, rest)) = bytes.split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap();
        let (body, rest) = rest.split_at_checked(length).expect("the answer ends within a frame");
        bodies.push(body.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "the answer ends within a frame");
    bodies
}

/// The body of a request in CBOR.
pub(crate) fn request(method: &str) -> Vec<u8> {
    encode(&Request::new(method), Codec::Cbor)
}

/// The body of a request in JSON, as nodes of the tokio implementation send it.
pub(crate) fn json_request(method: &str) -> Vec<u8> {
    format!(r#"{{"protocol_version":1,"method":"{method}","resume_from":null}}"#).into_bytes()
}

pub(crate) fn encode(request: &Request, codec: Codec) -> Vec<u8> {
    let mut body = Vec::new();
    request.encode(codec, &mut body).unwrap();
    body
}

/// The numbers in the peer's health.
pub(crate) async fn counters(connection: &Connection) -> BTreeMap<String, u64> {
    let payload = connection.health().await.unwrap().payload.unwrap();
    let mut decoder = minicbor::Decoder::new(&payload);
    let entries = decoder.map().unwrap().unwrap();
    let mut counters = BTreeMap::new();
    for _ in 0..entries {
        let name = decoder.str().unwrap().to_owned();
        if decoder.datatype().unwrap() == minicbor::data::Type::String {
            decoder.skip().unwrap();
        } else {
            counters.insert(name, decoder.u64().unwrap());
        }
    }
    counters
}

/// A channel to tell a test that something happened in a handler.
pub(crate) fn signal() -> (smol::channel::Sender<()>, smol::channel::Receiver<()>) {
    smol::channel::unbounded()
}

/// Sends when it is dropped: put into a handler, it tells that the handler is gone.
pub(crate) struct DropGuard(pub(crate) smol::channel::Sender<()>);

impl Drop for DropGuard {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

/// A map of CBOR with these entries, each a key with its value, in bytes of the test's own.
pub(crate) fn map(entries: &[&[u8]]) -> Vec<u8> {
    let mut map = vec![0xa0 + u8::try_from(entries.len()).unwrap()];
    assert!(entries.len() < 24, "more entries than the head counts");
    map.extend(entries.concat());
    map
}

/// An entry of such a map.
pub(crate) fn entry(key: i64, value: impl minicbor::Encode<()>) -> Vec<u8> {
    minicbor::to_vec(key).unwrap().into_iter().chain(minicbor::to_vec(value).unwrap()).collect()
}
