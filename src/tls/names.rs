//! The names in a certificate: its subject's common name and alternative names.

use std::net::IpAddr;

use der::{
    Decode, Reader, SliceReader, Tag, TagNumber, Tagged,
    asn1::{AnyRef, Ia5StringRef, ObjectIdentifier, PrintableStringRef, TeletexStringRef, Utf8StringRef},
};

use super::certificate::{Details, element, extension, sole_element};

/// `id-at-commonName` ([RFC 5280, appendix A.1](https://www.rfc-editor.org/rfc/rfc5280#appendix-A.1)).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// `id-ce-subjectAltName` ([RFC 5280, section
/// 4.2.1.6](https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.6)).
pub(super) const ALTERNATIVE_NAMES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) common_name: Option<Box<str>>,
    pub(super) dns_names: Vec<Box<str>>,
    pub(super) uris: Vec<Box<str>>,
    pub(super) ip_addresses: Vec<IpAddr>,
}

impl Names {
    pub(super) fn read(certificate: &[u8]) -> der::Result<Self> {
        let Details { subject, extensions, .. } = Details::read(certificate)?;
        let mut names = Self { common_name: common_name(subject)?, ..Self::default() };
        let alternatives =
            extensions.map(|extensions| extension(extensions, ALTERNATIVE_NAMES)).transpose()?;
        if let Some(alternatives) = alternatives.flatten() {
            names.read_alternatives(alternatives)?;
        }
        Ok(names)
    }

    fn read_alternatives(&mut self, alternatives: &[u8]) -> der::Result<()> {
        let mut reader = SliceReader::new(sole_element(alternatives, Tag::Sequence)?)?;
        while !reader.is_finished() {
            let name = AnyRef::decode(&mut reader)?;
            let ia5 = || Ia5StringRef::new(name.value()).map(|name| name.as_str().into());
            match name.tag() {
                DNS_NAME => self.dns_names.push(ia5()?),
                URI => self.uris.push(ia5()?),
                IP_ADDRESS => self.ip_addresses.extend(ip_address(name.value())),
                _ => {}
            }
        }
        Ok(())
    }
}

const DNS_NAME: Tag = Tag::ContextSpecific { constructed: false, number: TagNumber::N2 };
const URI: Tag = Tag::ContextSpecific { constructed: false, number: TagNumber::N6 };
const IP_ADDRESS: Tag = Tag::ContextSpecific { constructed: false, number: TagNumber::N7 };

/// X.501 puts the most specific attribute last.
fn common_name(subject: &[u8]) -> der::Result<Option<Box<str>>> {
    let mut last = None;
    let mut subject = SliceReader::new(subject)?;
    while !subject.is_finished() {
        let mut relative = SliceReader::new(element(&mut subject, Tag::Set)?)?;
        while !relative.is_finished() {
            let mut attribute = SliceReader::new(element(&mut relative, Tag::Sequence)?)?;
            let kind = ObjectIdentifier::decode(&mut attribute)?;
            let value = AnyRef::decode(&mut attribute)?;
            if kind == COMMON_NAME {
                last = Some(value);
            }
        }
    }
    Ok(last.and_then(text))
}

pub(super) fn text(value: AnyRef<'_>) -> Option<Box<str>> {
    let text = match value.tag() {
        Tag::Utf8String => value.decode_as::<Utf8StringRef<'_>>().ok()?.as_str(),
        Tag::PrintableString => value.decode_as::<PrintableStringRef<'_>>().ok()?.as_str(),
        Tag::TeletexString => value.decode_as::<TeletexStringRef<'_>>().ok()?.as_str(),
        _ => return None,
    };
    Some(text.into())
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(octets).map(IpAddr::from);
    v4().or_else(|_| v6()).ok()
}

#[cfg(feature = "cert")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::CertificateAuthority;

    /// Against another reader, which takes only certificates that have no flaw anywhere.
    #[test]
    fn names_are_those_that_another_reader_finds() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let mut compared = 0;
        for issued in [ca.issue_server(&["node.example"]).unwrap(), ca.issue_client("7f3a").unwrap()] {
            let der = issued.chain()[0].to_vec();
            for (at, flip) in (0..der.len()).flat_map(|at| [0, 0x01, 0x20, 0xff].map(|flip| (at, flip))) {
                let mut changed = der.clone();
                changed[at] ^= flip;
                if let Some(expected) = names_by_x509_cert(&changed) {
                    compared += 1;
                    assert_eq!(Names::read(&changed).ok(), Some(expected), "{at} {flip:#x}");
                }
            }
        }
        assert!(compared > 1_000, "{compared}");
    }

    fn names_by_x509_cert(certificate: &[u8]) -> Option<Names> {
        use x509_cert::{
            Certificate,
            ext::pkix::{SubjectAltName, name::GeneralName},
        };

        let tbs = Certificate::from_der(certificate).ok()?.tbs_certificate;
        let alternatives = tbs.get::<SubjectAltName>().ok()?;
        let mut attributes = tbs.subject.0.iter().flat_map(|relative| relative.0.iter());
        let common_name = attributes.rfind(|attribute| attribute.oid == COMMON_NAME).map(|last| &last.value);
        let mut names =
            Names { common_name: common_name.and_then(|value| text(value.into())), ..Names::default() };
        for name in alternatives.into_iter().flat_map(|(_critical, alternatives)| alternatives.0) {
            match name {
                GeneralName::DnsName(name) => names.dns_names.push(name.as_str().into()),
                GeneralName::UniformResourceIdentifier(uri) => names.uris.push(uri.as_str().into()),
                GeneralName::IpAddress(octets) => names.ip_addresses.extend(ip_address(octets.as_bytes())),
                _ => {}
            }
        }
        Some(names)
    }

    #[test]
    fn no_cut_or_changed_certificate_makes_the_parser_panic() {
        let issued = CertificateAuthority::new("ca").unwrap().issue_server(&["node.example"]).unwrap();
        let der = issued.chain()[0].to_vec();
        for at in 0..der.len() {
            drop(Names::read(&der[..at]));
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = der.clone();
                changed[at] ^= flip;
                drop(Names::read(&changed));
            }
        }
    }
}
