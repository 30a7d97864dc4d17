//! rustls for those who bring none of their own: TLS 1.3, both sides with a certificate, and a full
//! handshake each time.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};

use crate::{Result, setup::Credentials};

struct Parsed {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn parse(credentials: &Credentials) -> Result<Parsed> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&credentials.authority)?)?;
    Ok(Parsed {
        provider: Arc::new(ring::default_provider()),
        roots: Arc::new(roots),
        chain: vec![CertificateDer::from_pem_slice(&credentials.certificate)?],
        key: PrivateKeyDer::from_pem_slice(&credentials.key)?,
    })
}

/// With tickets as rustls has them by default.
pub fn server(credentials: &Credentials, alpn: &[u8]) -> Result<ServerConfig> {
    let Parsed { provider, roots, chain, key } = parse(credentials)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    Ok(config)
}

/// Resumes nothing: a resumed session would spare both sides what is to be measured.
pub fn client(credentials: &Credentials, alpn: &[u8]) -> Result<ClientConfig> {
    let Parsed { provider, roots, chain, key } = parse(credentials)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    config.resumption = Resumption::disabled();
    Ok(config)
}
