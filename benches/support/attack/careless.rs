//! A server of quinn and rustls alone, as a first attempt might be: everything by default, no deadlines, no
//! counting, and room for whatever is announced.

use std::{net::SocketAddr, net::UdpSocket, sync::Arc};

use async_lock::Semaphore;
use palyra_quic::{
    ALPN, Bytes, Codec, Request, Response,
    quinn::{
        Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig, SmolRuntime, TransportConfig, VarInt,
        crypto::rustls::QuicServerConfig,
    },
    rustls::{
        self, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
        version::TLS13,
    },
};

use super::Result;

pub(super) struct Careless {
    endpoint: Endpoint,
    tls: rustls::ServerConfig,
    certificate: String,
    key: String,
}

impl Careless {
    pub(super) fn start(authority: &str, certificate: &str, key: &str, handshakes: usize) -> Result<Self> {
        let tls = tls(authority, certificate, key)?;
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        let config = Some(config(tls.clone())?);
        let endpoint = Endpoint::new(EndpointConfig::default(), config, socket, Arc::new(SmolRuntime))?;
        smol::spawn(accept(endpoint.clone(), handshakes)).detach();
        Ok(Self { endpoint, tls, certificate: certificate.to_owned(), key: key.to_owned() })
    }

    pub(super) fn address(&self) -> Result<SocketAddr> {
        Ok(self.endpoint.local_addr()?)
    }

    /// Believes in another authority from now on. Sessions that were begun under the old one are still
    /// remembered.
    pub(super) fn trust_nobody_any_more(&self) -> Result<()> {
        let other = palyra_quic::CertificateAuthority::new("Another CA")?;
        let mut tls = tls(other.cert_pem(), &self.certificate, &self.key)?;
        tls.session_storage = Arc::clone(&self.tls.session_storage);
        self.endpoint.set_server_config(Some(config(tls)?));
        Ok(())
    }
}

fn tls(authority: &str, certificate: &str, key: &str) -> Result<rustls::ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.max_early_data_size = u32::MAX;
    Ok(tls)
}

fn config(tls: rustls::ServerConfig) -> Result<ServerConfig> {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1000));
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

async fn accept(endpoint: Endpoint, handshakes: usize) {
    let slots = Arc::new(Semaphore::new(handshakes));
    while let Some(incoming) = endpoint.accept().await {
        let Some(slot) = slots.try_acquire_arc() else {
            incoming.refuse();
            continue;
        };
        smol::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            drop(slot);
            let uni = connection.clone();
            smol::spawn(async move {
                while let Ok(mut recv) = uni.accept_uni().await {
                    smol::spawn(async move { _ = read(&mut recv).await }).detach();
                }
            })
            .detach();
            while let Ok((send, recv)) = connection.accept_bi().await {
                smol::spawn(async move { _ = answer(send, recv).await }).detach();
            }
        })
        .detach();
    }
}

async fn answer(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let request = Request::decode(&Bytes::from(read(&mut recv).await?))?;
    let mut body = Vec::new();
    Response::result(request.params).encode(Codec::Cbor, &mut body)?;
    send.write_all(&u32::try_from(body.len())?.to_be_bytes()).await?;
    send.write_all(&body).await?;
    send.finish()?;
    send.stopped().await?;
    Ok(())
}

async fn read(recv: &mut RecvStream) -> Result<Vec<u8>> {
    let mut prefix = [0; 4];
    recv.read_exact(&mut prefix).await?;
    // Not zero, which the system would not have to find memory for.
    let mut body = vec![1; usize::try_from(u32::from_be_bytes(prefix))?];
    recv.read_exact(&mut body).await?;
    Ok(body)
}
