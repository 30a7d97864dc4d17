//! Who the peer proved to be.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use rustls::pki_types::CertificateDer;

use super::{
    certificate::{not_after, signed_content},
    fingerprint::Fingerprint,
    names::Names,
};

/// The certificates that the peer proved to hold the key of, checked against the trusted
/// authorities, and the names in them.
///
/// Cloning is cheap, and names are found in the certificate when they are asked for. Names are as the
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
    /// Made when it is asked for.
    content_fingerprint: OnceLock<Fingerprint>,
}

impl PeerIdentity {
    /// `None` for an empty chain: the peer showed nothing.
    pub(crate) fn from_chain(chain: Vec<CertificateDer<'static>>) -> Option<Self> {
        let leaf = chain.first()?;
        let fingerprint = Fingerprint::of(leaf);
        let names = Names::read(leaf).unwrap_or_default();
        let not_after = not_after(&chain);
        let content_fingerprint = OnceLock::new();
        Some(Self(Arc::new(Inner { chain, fingerprint, not_after, names, content_fingerprint })))
    }

    /// The path to a trusted authority that was found in the handshake: the peer's own certificate first,
    /// then intermediate ones, without the authority. Whatever else the peer sent is not among them. With
    /// a verifier of the caller's own, the peer's own certificate alone. Never empty.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.chain
    }

    /// The fingerprint of the peer's own certificate. To keep a peer out by it, use a
    /// [`RevocationList`](super::RevocationList): if the certificate is signed with ECDSA, its owner can give
    /// it a second fingerprint, which the list knows.
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
        self.0.names.common_name(self.leaf())
    }

    /// The DNS names among the subject's alternative names.
    pub fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.0.names.dns_names(self.leaf())
    }

    /// The URIs among the subject's alternative names, for instance `palyra:device:7f3a`.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.0.names.uris(self.leaf())
    }

    /// Whether the certificate has this name: as its common name, a DNS name or a URI.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        self.common_name() == Some(name)
            || self.dns_names().any(|dns| dns == name)
            || self.uris().any(|uri| uri == name)
    }

    /// The IP addresses among the subject's alternative names.
    #[must_use]
    pub fn ip_addresses(&self) -> &[IpAddr] {
        &self.0.names.ip_addresses
    }

    /// SHA-256 of what is signed of the peer's own certificate: the same whichever signature it has.
    pub(crate) fn content_fingerprint(&self) -> Fingerprint {
        *self.0.content_fingerprint.get_or_init(|| {
            let leaf = self.leaf();
            Fingerprint::of(&CertificateDer::from_slice(signed_content(leaf).unwrap_or(leaf)))
        })
    }

    /// The peer's own certificate.
    fn leaf(&self) -> &[u8] {
        self.0.chain.first().map_or(&[], |leaf| leaf)
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { chain: _, fingerprint, not_after: _, names: _, content_fingerprint: _ } = &*self.0;
        f.debug_struct("PeerIdentity")
            .field("fingerprint", fingerprint)
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
        use crate::cert::{CertificateAuthority, IssuedCertificate};

        fn peer(issued: &IssuedCertificate) -> PeerIdentity {
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

        /// Of one byte each, copies would take many times the memory of the certificate.
        #[test]
        fn names_take_no_memory_beside_the_certificate() {
            let ca = CertificateAuthority::new("ca").unwrap();
            let peer = peer(&ca.issue_server(&["node.example"]).unwrap());
            let certificate = peer.chain()[0].as_ref().as_ptr_range();
            let is_within = |name: &str| certificate.contains(&name.as_ptr());
            assert!(peer.dns_names().count() == 2 && peer.dns_names().all(is_within));
            assert!(peer.common_name().is_some_and(is_within));
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
    }
}
