//! Peers whose certificates can be put together in very many ways, none of which leads to an authority: to
//! try them all would keep a node busy. In virtual time.

use std::time::Duration;

use crate::simulation::{PORT, Pair};
use palyra_quic::{
    CertificateAuthority, ClientTls, Endpoint, ErrorKind, Identity, Router, ServerTls,
    rustls::pki_types::{PrivateKeyDer, pem::PemObject},
    sim::Link,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}

/// A node's certificate and those of this many authorities, all of one name.
fn identity(authorities: usize) -> Identity {
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())];
    let (leaf_key, key_of_issuer) = (key(), key());
    let leaf = leaf.signed_by(&leaf_key, &Issuer::from_params(&params(), &key_of_issuer)).unwrap();
    let authorities = (0..authorities).map(|_| params().self_signed(&key()).unwrap().der().clone());
    let chain = std::iter::once(leaf.der().clone()).chain(authorities).collect();
    Identity::from_der(chain, PrivateKeyDer::from_pem_slice(leaf_key.serialize_pem().as_bytes()).unwrap())
        .unwrap()
}

/// What this becomes of: a dialler whose server has such certificates, and a server whose client has them.
fn refusals(authorities: usize) -> (String, ErrorKind) {
    let (ours, odd) = (CertificateAuthority::new("ca").unwrap(), identity(authorities));
    let pair = Pair::new(1, Link::new().delay(Duration::from_millis(5)));
    let serve = |host: &palyra_quic::sim::Host, tls| {
        host.bind(Endpoint::builder().server(tls).router(Router::new()), PORT).unwrap()
    };
    let _odd_node = serve(&pair.gateway, ServerTls::new(odd.clone()));
    let server = ServerTls::new(ours.issue_server(&["10.0.0.2"]).unwrap().identity());
    let node = serve(&pair.sensor, server.require_client_certificates(ours.trust()));
    let client = |host: &palyra_quic::sim::Host, tls| host.bind(Endpoint::builder().client(tls), 0).unwrap();
    pair.sim.run(async {
        let dialler = client(&pair.sensor, ClientTls::new(ours.trust()));
        let error = dialler.connect(pair.gateway.address(PORT)).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::PeerCertificate);
        let odd_dialler = client(&pair.gateway, ClientTls::new(ours.trust()).identity(odd));
        let refused = odd_dialler.connect(pair.sensor.address(PORT)).await.unwrap_err();
        assert_eq!(node.stats().handshakes_failed.peer_certificate, 1);
        (error.explanation().unwrap().to_owned(), refused.kind().clone())
    })
}

#[test]
fn certificates_that_fit_together_in_too_many_ways_are_refused_before_they_are_tried() {
    let (explanation, refused) = refusals(40);
    assert!(explanation.contains("too many ways"), "{explanation}");
    assert_eq!(refused, ErrorKind::CertificateRefused);
    // The twin: a few are tried.
    let (explanation, refused) = refusals(3);
    assert!(explanation.contains("not trusted"), "{explanation}");
    assert_eq!(refused, ErrorKind::CertificateRefused);
}
