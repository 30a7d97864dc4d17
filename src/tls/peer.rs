//! Who the peer proved to be.

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use der::{
    Decode, Reader, SliceReader, Tag, TagNumber, Tagged,
    asn1::{AnyRef, Ia5StringRef, ObjectIdentifier, PrintableStringRef, TeletexStringRef, Utf8StringRef},
};
use rustls::pki_types::CertificateDer;

use super::{
    Facts, Fingerprint,
    certificate::{Details, element, extension, sole_element},
};

/// `id-at-commonName` ([RFC 5280, appendix A.1](https://www.rfc-editor.org/rfc/rfc5280#appendix-A.1)).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// `id-ce-subjectAltName` ([RFC 5280, section
/// 4.2.1.6](https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.6)).
pub(super) const ALTERNATIVE_NAMES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

/// The certificates that the peer proved to hold the key of, checked against the trusted
/// authorities, and the names in them.
///
/// Cloning is cheap, and the names were read once, when the connection came up. Names are as the
/// authority wrote them, without any change of case; a certificate whose names cannot be read has
/// none. To tell peers apart, compare [`fingerprint`](Self::fingerprint)s, or names from an
/// authority that never gives one name to two.
#[derive(Clone)]
pub struct PeerIdentity(Arc<Inner>);

struct Inner {
    chain: Vec<CertificateDer<'static>>,
    fingerprint: Fingerprint,
    not_after: Option<SystemTime>,
    names: Names,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    common_name: Option<Box<str>>,
    pub(super) dns_names: Vec<Box<str>>,
    uris: Vec<Box<str>>,
    pub(super) ip_addresses: Vec<IpAddr>,
}

impl PeerIdentity {
    /// `None` for an empty chain: the peer showed nothing.
    pub(crate) fn from_chain(chain: Vec<CertificateDer<'static>>) -> Option<Self> {
        let leaf = chain.first()?;
        let fingerprint = Fingerprint::of(leaf);
        let names = Names::read(leaf).unwrap_or_default();
        let not_after = not_after(&chain);
        Some(Self(Arc::new(Inner { chain, fingerprint, not_after, names })))
    }

    /// The path to a trusted authority that was found in the handshake: the peer's own certificate first,
    /// then intermediate ones, without the authority. Whatever else the peer sent is not among them. With
    /// a verifier of the caller's own, the peer's own certificate alone. Never empty.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.chain
    }

    /// The fingerprint of the peer's own certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    /// The last second in which all certificates of the chain are valid. `None` where none of them can be
    /// read.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        self.0.not_after
    }

    /// The subject's common name, for instance `Palyra Device 7f3a`; the most specific one if
    /// there are several.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.0.names.common_name.as_deref()
    }

    /// The DNS names among the subject's alternative names.
    pub fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.0.names.dns_names.iter().map(AsRef::as_ref)
    }

    /// The URIs among the subject's alternative names, for instance `palyra:device:7f3a`.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.0.names.uris.iter().map(AsRef::as_ref)
    }

    /// The IP addresses among the subject's alternative names.
    #[must_use]
    pub fn ip_addresses(&self) -> &[IpAddr] {
        &self.0.names.ip_addresses
    }
}

/// The last second in which all of these certificates are valid. `None` where none of them can be read.
pub(crate) fn not_after(path: &[CertificateDer<'_>]) -> Option<SystemTime> {
    let seconds = path.iter().filter_map(|certificate| Some(Facts::of(certificate)?.not_after)).min()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
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

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerIdentity")
            .field("fingerprint", &self.fingerprint())
            .field("common_name", &self.common_name())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_certificate_is_no_identity() {
        assert!(PeerIdentity::from_chain(Vec::new()).is_none());
    }

    #[test]
    fn an_unreadable_certificate_has_a_fingerprint_but_no_names() {
        let garbage = CertificateDer::from_slice(b"garbage");
        let peer = PeerIdentity::from_chain(vec![garbage.clone()]).unwrap();
        assert_eq!(peer.fingerprint(), Fingerprint::of(&garbage));
        assert_eq!(peer.common_name(), None);
        assert_eq!(peer.dns_names().count() + peer.uris().count() + peer.ip_addresses().len(), 0);
    }

    #[cfg(feature = "cert")]
    mod issued {
        use super::*;
        use crate::cert::{CertificateAuthority, Issued};

        fn peer(issued: &Issued) -> PeerIdentity {
            PeerIdentity::from_chain(issued.chain().to_vec()).unwrap()
        }

        #[test]
        fn names_of_a_server_are_read() {
            let ca = CertificateAuthority::new("ca").unwrap();
            let peer = peer(&ca.issue_server(&["node.example", "192.0.2.7", "2001:db8::7"]).unwrap());
            assert_eq!(peer.common_name(), Some("node.example"));
            assert!(peer.dns_names().eq(["node.example", "localhost"]));
            let addresses = ["192.0.2.7", "2001:db8::7", "127.0.0.1", "::1"];
            assert_eq!(peer.ip_addresses(), addresses.map(|address| address.parse::<IpAddr>().unwrap()));
            assert_eq!(peer.uris().count(), 0);
        }

        #[test]
        fn names_of_a_client_are_read() {
            let issued = CertificateAuthority::new("ca").unwrap().issue_client("7f3a").unwrap();
            let peer = peer(&issued);
            assert_eq!(peer.common_name(), Some("Palyra Device 7f3a"));
            assert!(peer.uris().eq(["palyra:device:7f3a"]));
            assert_eq!(peer.fingerprint(), issued.fingerprint());
            let debug = format!("{peer:?}");
            assert!(debug.contains("Palyra Device 7f3a") && debug.len() < 200, "{debug}");
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
            let common_name =
                attributes.rfind(|attribute| attribute.oid == COMMON_NAME).map(|last| &last.value);
            let mut names =
                Names { common_name: common_name.and_then(|value| text(value.into())), ..Names::default() };
            for name in alternatives.into_iter().flat_map(|(_critical, alternatives)| alternatives.0) {
                match name {
                    GeneralName::DnsName(name) => names.dns_names.push(name.as_str().into()),
                    GeneralName::UniformResourceIdentifier(uri) => names.uris.push(uri.as_str().into()),
                    GeneralName::IpAddress(octets) => {
                        names.ip_addresses.extend(ip_address(octets.as_bytes()))
                    }
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
}
