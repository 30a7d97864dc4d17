//! Hostile peers made of quinn and rustls alone, each with a certificate and an address of its own.

use std::{net::UdpSocket, sync::Arc};

use palyra_quic::{
    ALPN, Code, Codec, IssuedCertificate, Request,
    quinn::{
        self, ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, SmolRuntime,
        TransportConfig, crypto::rustls::QuicClientConfig,
    },
    rustls::{
        self, RootCertStore,
        client::Resumption,
        crypto::ring,
        pki_types::{PrivateKeyDer, pem::PemObject},
        version::TLS13,
    },
};

use super::{
    Result, Stage, source,
    victim::Victim,
    weapon::{Armed, Weapon},
};

/// The name in the node's certificate.
pub(super) const NAME: &str = "localhost";

/// rustls as a client that keeps everything a server gives it.
pub(super) fn tls(stage: &Stage, issued: &IssuedCertificate) -> Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(stage.authority.certificate().clone())?;
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem().as_bytes())?;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(issued.chain().to_vec(), key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::in_memory_sessions(256);
    tls.enable_early_data = true;
    Ok(tls)
}

pub(super) fn crypto(tls: rustls::ClientConfig) -> Result<Arc<QuicClientConfig>> {
    Ok(Arc::new(QuicClientConfig::try_from(tls)?))
}

/// An endpoint at an attacker's address.
pub(super) fn endpoint(n: u16) -> Result<Endpoint> {
    let socket = UdpSocket::bind(source(n))?;
    Ok(Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(SmolRuntime))?)
}

/// A connected peer.
pub(crate) struct Peer {
    pub(crate) connection: Connection,
    _endpoint: Endpoint,
}

impl Peer {
    pub(crate) async fn connect(stage: &Stage, victim: &Victim, n: u16) -> Result<Self> {
        Self::connect_with(stage, victim, n, TransportConfig::default()).await
    }

    pub(super) async fn connect_with(
        stage: &Stage,
        victim: &Victim,
        n: u16,
        transport: TransportConfig,
    ) -> Result<Self> {
        let issued = stage.authority.issue_client(&format!("hostile-{n}"))?;
        let config = ClientConfig::new(crypto(tls(stage, &issued)?)?);
        Self::dial(config, victim, n, transport).await
    }

    /// With packets that say what the attacker loads them with.
    pub(super) async fn armed(stage: &Stage, victim: &Victim, n: u16) -> Result<(Self, Weapon)> {
        let issued = stage.authority.issue_client(&format!("hostile-{n}"))?;
        let weapon = Weapon::default();
        let armed = Armed { inner: crypto(tls(stage, &issued)?)?, weapon: weapon.clone() };
        let config = ClientConfig::new(Arc::new(armed));
        Ok((Self::dial(config, victim, n, TransportConfig::default()).await?, weapon))
    }

    async fn dial(
        mut config: ClientConfig,
        victim: &Victim,
        n: u16,
        transport: TransportConfig,
    ) -> Result<Self> {
        config.transport_config(Arc::new(transport));
        let endpoint = endpoint(n)?;
        let connection = endpoint.connect_with(config, victim.address, NAME)?.await?;
        Ok(Self { connection, _endpoint: endpoint })
    }

    /// With what code the node has closed the connection; `None` while it has not.
    pub(crate) fn closed(&self) -> Option<Code> {
        code(&self.connection.close_reason()?)
    }
}

pub(super) fn code(error: &ConnectionError) -> Option<Code> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some(Code::from(close.error_code)),
        _ => None,
    }
}

/// As many peers as that, connected one after the other, from address `first` on.
pub(crate) async fn crowd(stage: &Stage, victim: &Victim, first: u16, count: u16) -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for n in first..first + count {
        peers.push(Peer::connect(stage, victim, n).await?);
    }
    Ok(peers)
}

pub(super) fn varint(code: Code) -> quinn::VarInt {
    quinn::VarInt::from_u64(code.as_u64()).unwrap_or_default()
}

/// A request as a frame.
pub(super) fn request(method: &str, params: Vec<u8>) -> Result<Vec<u8>> {
    let request = Request::new(method).with_params(params);
    let mut body = Vec::new();
    request.encode(Codec::Cbor, &mut body)?;
    frame(&body)
}

pub(super) fn frame(body: &[u8]) -> Result<Vec<u8>> {
    let mut frame = u32::try_from(body.len())?.to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    Ok(frame)
}
