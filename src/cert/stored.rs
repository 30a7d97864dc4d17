//! An authority out of what was stored of it.

use rustls::pki_types::CertificateDer;
use x509_cert::{
    Certificate,
    der::{Decode, Encode, Tag, Tagged, asn1::Utf8StringRef, oid::db::rfc4519::COMMON_NAME},
    ext::pkix,
};

/// What has to be known of a stored authority to go on issuing in its name.
pub(super) struct StoredAuthority {
    pub(super) name: String,
    /// The SubjectPublicKeyInfo, DER.
    pub(super) public_key: Vec<u8>,
}

impl StoredAuthority {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let subject = Certificate::from_der(certificate).ok()?.tbs_certificate;
        let (_critical, constraints) = subject.get::<pkix::BasicConstraints>().ok()??;
        // Names of issuer and subject are compared byte by byte: what is issued has to be signed in
        // exactly this name, and `params::authority` can write no other form.
        let [relative] = subject.subject.0.as_slice() else { return None };
        let [name] = relative.0.as_slice() else { return None };
        if !constraints.ca || name.oid != COMMON_NAME || name.value.tag() != Tag::Utf8String {
            return None;
        }
        Some(Self {
            name: name.value.decode_as::<Utf8StringRef<'_>>().ok()?.as_str().to_owned(),
            public_key: subject.subject_public_key_info.to_der().ok()?,
        })
    }
}

/// The first certificate's section as it stands: a private key next to it must not come along.
pub(super) fn first_certificate(pem: &[u8]) -> Option<&str> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = std::str::from_utf8(pem).ok()?;
    let (_, after_begin) = text.split_once(BEGIN)?;
    let (body, _) = after_begin.split_once(END)?;
    let begin = text.len() - after_begin.len() - BEGIN.len();
    text.get(begin..begin + BEGIN.len() + body.len() + END.len())
}
