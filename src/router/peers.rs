//! Who may call a method.

use std::{collections::BTreeSet, fmt};

use crate::tls::{Fingerprint, PeerIdentity};

/// A description of peers, for [`Router::allow`](super::Router::allow): those that any of its entries is
/// about.
///
/// Only what a verified certificate says counts, so a peer that showed none is described by
/// [`anybody`](Self::anybody) alone. Common names and URIs are compared byte by byte, DNS names without
/// regard to ASCII case; a `*` in any of them, here or in a certificate, stands for itself.
///
/// A fingerprint is one certificate. **A name is only as good as the authorities that are trusted**: each of
/// them can issue any name to anybody, so names are for authorities that check them and never give one name
/// to two. A certificate that is renewed keeps its names, and not its fingerprint.
///
/// ```
/// use palyra_quic::Peers;
///
/// let operators = Peers::nobody().common_name("Palyra Operator").uri("palyra:device:7f3a");
/// # drop(operators);
/// ```
///
/// Two descriptions are equal if they have the same entries, in any order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Peers {
    everybody: Option<Everybody>,
    fingerprints: BTreeSet<Fingerprint>,
    common_names: BTreeSet<Box<str>>,
    /// In lower case and in order.
    dns_names: Vec<Box<str>>,
    uris: BTreeSet<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Everybody {
    WithCertificate,
    WithOrWithout,
}

impl Peers {
    /// Nobody, to begin a description with, or to close a method.
    #[must_use]
    pub fn nobody() -> Self {
        Self::default()
    }

    /// All that showed a certificate, which TLS found good.
    #[must_use]
    pub fn identified() -> Self {
        Self { everybody: Some(Everybody::WithCertificate), ..Self::default() }
    }

    /// All, those without a certificate too: to make an exception from
    /// [`Router::allow_by_default`](super::Router::allow_by_default).
    #[must_use]
    pub fn anybody() -> Self {
        Self { everybody: Some(Everybody::WithOrWithout), ..Self::default() }
    }

    /// And the owner of this certificate.
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprints.insert(fingerprint);
        self
    }

    /// And those whose certificate's subject has this common name.
    #[must_use]
    pub fn common_name(mut self, name: impl Into<Box<str>>) -> Self {
        self.common_names.insert(name.into());
        self
    }

    /// And those whose certificate has this DNS name among its alternative names.
    #[must_use]
    pub fn dns_name(mut self, name: impl AsRef<str>) -> Self {
        let name = name.as_ref().to_ascii_lowercase().into_boxed_str();
        if let Err(place) = self.dns_names.binary_search(&name) {
            self.dns_names.insert(place, name);
        }
        self
    }

    /// And those whose certificate has this URI among its alternative names.
    #[must_use]
    pub fn uri(mut self, uri: impl Into<Box<str>>) -> Self {
        self.uris.insert(uri.into());
        self
    }

    /// Whether this peer is among them.
    #[must_use]
    pub fn contains(&self, peer: Option<&PeerIdentity>) -> bool {
        match (self.everybody, peer) {
            (Some(Everybody::WithOrWithout), _) | (Some(Everybody::WithCertificate), Some(_)) => true,
            (_, Some(peer)) => self.names(peer),
            (_, None) => false,
        }
    }

    fn names(&self, peer: &PeerIdentity) -> bool {
        self.fingerprints.contains(&peer.fingerprint())
            || peer.common_name().is_some_and(|name| self.common_names.contains(name))
            || peer.uris().any(|uri| self.uris.contains(uri))
            || peer.dns_names().any(|name| self.has_dns_name(name))
    }

    fn has_dns_name(&self, name: &str) -> bool {
        // A certificate may have many names, and is asked about in each request: no copy in lower case is
        // made of them.
        let name = || name.bytes().map(|byte| byte.to_ascii_lowercase());
        self.dns_names.binary_search_by(|listed| listed.bytes().cmp(name())).is_ok()
    }

    /// Whether a name is empty: one that came out of a configuration that lacks it, and would describe
    /// every peer whose certificate has that name empty.
    pub(super) fn has_empty_name(&self) -> bool {
        let mut names = self.common_names.iter().chain(&self.dns_names).chain(&self.uris);
        names.any(|name| name.is_empty())
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { everybody, fingerprints, common_names, dns_names, uris } = self;
        f.debug_struct("Peers")
            .field("everybody", everybody)
            .field("fingerprints", fingerprints)
            .field("common_names", common_names)
            .field("dns_names", dns_names)
            .field("uris", uris)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_certificate_only_anybody_is_enough() {
        assert!(Peers::anybody().contains(None));
        assert!(!Peers::identified().contains(None));
        assert!(!Peers::nobody().common_name("").dns_name("").uri("").contains(None));
    }

    #[test]
    fn the_same_entries_are_equal_in_any_order() {
        let peers = || Peers::nobody().common_name("a").dns_name("b.example");
        assert_eq!(peers().uri("c"), Peers::nobody().uri("c").dns_name("B.example").common_name("a"));
        for other in [peers().uri("d"), peers().uri("c").uri("d"), Peers::anybody(), Peers::identified()] {
            assert_ne!(peers().uri("c"), other);
        }
        assert_ne!(Peers::anybody(), Peers::identified());
    }

    #[test]
    fn an_empty_name_is_found() {
        assert!(Peers::nobody().uri("x").dns_name("").has_empty_name());
        assert!(!Peers::nobody().uri("x").dns_name("y").common_name("z").has_empty_name());
    }

    #[cfg(feature = "cert")]
    #[test]
    fn names_are_compared_whole() {
        use crate::cert::CertificateAuthority;

        let ca = CertificateAuthority::new("ca").unwrap();
        let names = ["a.Example".to_owned(), "*.wild.example".to_owned()];
        let server = rcgen::generate_simple_self_signed(names).unwrap().cert;
        let server = PeerIdentity::from_chain(vec![server.der().clone()]).unwrap();
        let client = PeerIdentity::from_chain(ca.issue_client("7").unwrap().chain().to_vec()).unwrap();
        let is = |peers: Peers, peer: &PeerIdentity| peers.contains(Some(peer));

        for name in ["A.EXAMPLE", "a.example", "*.wild.example"] {
            assert!(is(Peers::nobody().dns_name("b").dns_name(name).dns_name("zz"), &server), "{name}");
            assert!(!is(Peers::nobody().dns_name(name), &client), "{name}");
        }
        for name in ["x.wild.example", "*.example", ".example", "example", "a.example.", "a.exampl", ""] {
            assert!(!is(Peers::nobody().dns_name(name), &server), "{name}");
        }
        assert!(is(Peers::nobody().common_name("Palyra Device 7"), &client));
        assert!(!is(Peers::nobody().common_name("palyra device 7").common_name("Palyra Device"), &client));
        assert!(is(Peers::nobody().uri("palyra:device:7"), &client));
        assert!(!is(Peers::nobody().uri("PALYRA:device:7").uri("palyra:device:"), &client));
        assert!(!is(Peers::nobody().dns_name("palyra:device:7").common_name("palyra:device:7"), &client));
        assert!(is(Peers::nobody().fingerprint(client.fingerprint()), &client));
        assert!(!is(Peers::nobody().fingerprint(client.fingerprint()), &server));
        assert!(is(Peers::identified(), &client) && !is(Peers::nobody(), &client));
    }
}
