//! The names in a certificate: its subject's common name and alternative names.

use std::{net::IpAddr, ops::Range};

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

/// Where the names are in a certificate. They stay there: a peer that has thousands of them, of a byte each,
/// must not make this side hold more than the certificate.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    common_name: Option<Range<usize>>,
    /// The content of the alternative names, of which each can be read.
    alternatives: Range<usize>,
    /// At most three times as long as in the certificate.
    pub(super) ip_addresses: Box<[IpAddr]>,
}

impl Names {
    pub(super) fn read(certificate: &[u8]) -> der::Result<Self> {
        let Details { subject, extensions, .. } = Details::read(certificate)?;
        let common_name = common_name(subject)?.map(|name| range_in(certificate, name.as_bytes()));
        let alternatives =
            extensions.map(|extensions| extension(extensions, ALTERNATIVE_NAMES)).transpose()?.flatten();
        let Some(alternatives) = alternatives else { return Ok(Self { common_name, ..Self::default() }) };
        let alternatives = sole_element(alternatives, Tag::Sequence)?;
        let mut reader = SliceReader::new(alternatives)?;
        let mut ip_addresses = Vec::new();
        while !reader.is_finished() {
            let name = AnyRef::decode(&mut reader)?;
            match name.tag() {
                DNS_NAME | URI => {
                    Ia5StringRef::new(name.value())?;
                }
                IP_ADDRESS => ip_addresses.extend(ip_address(name.value())),
                _ => {}
            }
        }
        let alternatives = range_in(certificate, alternatives);
        Ok(Self { common_name, alternatives, ip_addresses: ip_addresses.into() })
    }

    /// The common name in the certificate that this was read from.
    pub(super) fn common_name<'a>(&self, certificate: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(certificate.get(self.common_name.clone()?)?).ok()
    }

    /// The DNS names in the certificate that this was read from.
    pub(super) fn dns_names<'a>(&self, certificate: &'a [u8]) -> impl Iterator<Item = &'a str> + use<'a> {
        self.alternatives(certificate).filter_map(|name| ia5_text(name, DNS_NAME))
    }

    /// The URIs in the certificate that this was read from.
    pub(super) fn uris<'a>(&self, certificate: &'a [u8]) -> impl Iterator<Item = &'a str> + use<'a> {
        self.alternatives(certificate).filter_map(|name| ia5_text(name, URI))
    }

    fn alternatives<'a>(&self, certificate: &'a [u8]) -> impl Iterator<Item = AnyRef<'a>> + use<'a> {
        let content = certificate.get(self.alternatives.clone()).unwrap_or_default();
        let mut reader = SliceReader::new(content).ok();
        std::iter::from_fn(move || {
            let reader = reader.as_mut().filter(|reader| !reader.is_finished())?;
            AnyRef::decode(reader).ok()
        })
    }
}

/// Where a part of these bytes is.
fn range_in(bytes: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(bytes.as_ptr().addr());
    start..start.saturating_add(part.len())
}

fn ia5_text<'a>(name: AnyRef<'a>, tag: Tag) -> Option<&'a str> {
    (name.tag() == tag).then(|| std::str::from_utf8(name.value()).ok()).flatten()
}

const DNS_NAME: Tag = Tag::ContextSpecific { constructed: false, number: TagNumber::N2 };
const URI: Tag = Tag::ContextSpecific { constructed: false, number: TagNumber::N6 };
const IP_ADDRESS: Tag = Tag::ContextSpecific { constructed: false, number: TagNumber::N7 };

/// X.501 puts the most specific attribute last.
fn common_name(subject: &[u8]) -> der::Result<Option<&str>> {
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

pub(super) fn text(value: AnyRef<'_>) -> Option<&str> {
    let is_text = match value.tag() {
        Tag::Utf8String => value.decode_as::<Utf8StringRef<'_>>().is_ok(),
        Tag::PrintableString => value.decode_as::<PrintableStringRef<'_>>().is_ok(),
        Tag::TeletexString => value.decode_as::<TeletexStringRef<'_>>().is_ok(),
        _ => false,
    };
    is_text.then(|| std::str::from_utf8(value.value()).ok()).flatten()
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

    /// Copies of all names.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Listed {
        common_name: Option<Box<str>>,
        dns_names: Vec<Box<str>>,
        uris: Vec<Box<str>>,
        ip_addresses: Vec<IpAddr>,
    }

    impl Listed {
        fn by_names(certificate: &[u8]) -> Option<Self> {
            let names = Names::read(certificate).ok()?;
            Some(Self {
                dns_names: names.dns_names(certificate).map(Into::into).collect(),
                uris: names.uris(certificate).map(Into::into).collect(),
                ip_addresses: names.ip_addresses.to_vec(),
                common_name: names.common_name(certificate).map(Into::into),
            })
        }
    }

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
                    assert_eq!(Listed::by_names(&changed), Some(expected), "{at} {flip:#x}");
                }
            }
        }
        assert!(compared > 1_000, "{compared}");
    }

    fn names_by_x509_cert(certificate: &[u8]) -> Option<Listed> {
        use x509_cert::{
            Certificate,
            ext::pkix::{SubjectAltName, name::GeneralName},
        };

        let tbs = Certificate::from_der(certificate).ok()?.tbs_certificate;
        let alternatives = tbs.get::<SubjectAltName>().ok()?;
        let mut attributes = tbs.subject.0.iter().flat_map(|relative| relative.0.iter());
        let common_name = attributes.rfind(|attribute| attribute.oid == COMMON_NAME).map(|last| &last.value);
        let mut names = Listed {
            common_name: common_name.and_then(|value| text(value.into())).map(Into::into),
            ..Listed::default()
        };
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
