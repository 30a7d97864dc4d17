//! Certificates with Ed25519 keys: their signatures all have the same length, and with them the packets of a
//! handshake. Those of ECDSA keys vary by some bytes from run to run, and so would what follows from a seed.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::OnceLock,
};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};

use crate::{Identity, Trust};

/// Made once: they take longer than a trial.
pub(super) struct Certificates {
    pub(super) trust: Trust,
    pub(super) server: Identity,
    pub(super) client: Identity,
}

pub(super) fn certificates() -> &'static Certificates {
    static CERTIFICATES: OnceLock<Certificates> = OnceLock::new();
    CERTIFICATES.get_or_init(|| {
        let mut params = params(1);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = new_key();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        Certificates {
            trust: Trust::from_der([authority.der().clone()]).unwrap(),
            server: issue(&issuer, 2, ExtendedKeyUsagePurpose::ServerAuth),
            client: issue(&issuer, 3, ExtendedKeyUsagePurpose::ClientAuth),
        }
    })
}

fn issue(issuer: &Issuer<'_, KeyPair>, serial: u64, purpose: ExtendedKeyUsagePurpose) -> Identity {
    let (mut params, key) = (params(serial), new_key());
    let hosts = [1, 2, 3].map(|last| SanType::IpAddress(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))));
    params.subject_alt_names = hosts.to_vec();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    let certificate = params.signed_by(&key, issuer).unwrap();
    Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

/// With a serial number of one length, too.
fn params(serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}
