//! Peers that have all that rustls has, whatever this build has.

use rustls::{crypto::CryptoProvider, pki_types::PrivateKeyDer};

use super::*;

fn everything() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client_with_everything(ca: &CertificateAuthority, identity: &IssuedCertificate) -> ClientConfig {
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
    let ours = tls.config(&TlsContext::default(), &HandshakeReport::default()).unwrap();
    let theirs = client_with_everything(&ca, &sensor);
    handshake_between(theirs, "localhost", &report, ours).assert_done();

    let ours = ClientTls::new(ca.trust()).config(&TlsContext::default(), &report).unwrap();
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
    let ours = ClientTls::new(authority().trust()).config(&TlsContext::default(), &report).unwrap();
    let outcome = handshake_between(ours, "localhost", &report, theirs);
    if cfg!(feature = "ecdsa") {
        outcome.assert_kinds(ErrorKind::PeerCertificate, ErrorKind::CertificateRefused, "a stranger");
    } else {
        outcome.assert_kinds(ErrorKind::Protocol, ErrorKind::Protocol, "nothing in common");
        let error = outcome.client.unwrap_err();
        assert!(error.explanation().unwrap().contains("no algorithm in common"), "{error}");
    }
}
