//! What is written into a certificate: for an authority, and for a node.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use rustls::pki_types::ServerName;

use crate::{
    error::{Error, Result},
    tls::ReadableError,
};

/// `ub-common-name` ([RFC 5280, appendix A.1](https://www.rfc-editor.org/rfc/rfc5280#appendix-A.1)).
pub(super) const MAX_COMMON_NAME_CHARS: usize = 64;

/// Without a window, which only a new one needs.
pub(super) fn authority(name: &str) -> Result<CertificateParams> {
    let chars = name.chars().count();
    if chars == 0 || chars > MAX_COMMON_NAME_CHARS || name.contains(char::is_control) {
        return Err(Error::invalid_config("the name of an authority is 1 to 64 printable characters"));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name.to_owned()));
    // It signs certificates of nodes, and makes nobody else an authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Without a window, and with the names and the use of one node.
pub(super) fn node(
    subject: DistinguishedName,
    alternatives: Vec<SanType>,
    purpose: ExtendedKeyUsagePurpose,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.subject_alt_names = alternatives;
    params.is_ca = IsCa::NoCa;
    params.custom_extensions = vec![no_authority()];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    // RFC 5280, section 4.2.1.1, demands it, and stricter verifiers than ours insist.
    params.use_authority_key_identifier_extension = true;
    params
}

/// Says that a certificate is not an authority's.
///
/// The `cA` field is left out, because FALSE is its default, and DER forbids encoding a default ([X.690,
/// section 11.5](https://www.itu.int/rec/T-REC-X.690)). rcgen would encode it, and strict parsers refuse
/// that.
fn no_authority() -> CustomExtension {
    let mut constraints = CustomExtension::from_oid_content(BASIC_CONSTRAINTS, EMPTY_SEQUENCE.to_vec());
    constraints.set_criticality(true);
    constraints
}

/// `id-ce-basicConstraints` ([RFC 5280, section
/// 4.2.1.9](https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.9)).
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const EMPTY_SEQUENCE: [u8; 2] = [0x30, 0x00];

pub(super) fn new_key() -> Result<KeyPair> {
    let algorithm =
        if cfg!(feature = "ecdsa") { &rcgen::PKCS_ECDSA_P256_SHA256 } else { &rcgen::PKCS_ED25519 };
    KeyPair::generate_for(algorithm).map_err(unusable)
}

pub(super) fn server_name(name: &str) -> Result<SanType> {
    match ServerName::try_from(name) {
        Ok(ServerName::IpAddress(address)) => Ok(SanType::IpAddress(address.into())),
        Ok(ServerName::DnsName(_)) if !name.ends_with('.') => {
            Ia5String::try_from(name).map(SanType::DnsName).map_err(unusable)
        }
        _ => Err(Error::invalid_config(format!("{name:?} is neither a DNS name nor an IP address"))),
    }
}

pub(super) fn without_repetition(names: Vec<SanType>) -> Vec<SanType> {
    let mut unique = Vec::with_capacity(names.len());
    for name in names {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    unique
}

pub(super) fn unusable(error: rcgen::Error) -> Error {
    Error::invalid_config("no certificate can be made").caused_by(ReadableError::other(error))
}
