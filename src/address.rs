//! Which addresses a socket can send to, and in which form, so that quinn recognises the answers.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
};

use crate::error::{Error, Result};

/// Where an endpoint's socket can send to.
///
/// quinn takes a datagram for an answer only if its sender equals the dialled address in every bit. The
/// kernel reports senders without a flow label, and with a scope only if they are link-local; so
/// destinations are converted into that form here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketReach {
    ipv4: bool,
    ipv6: bool,
    /// The interface of a socket that is bound to a link-local address; 0 for others.
    scope_id: u32,
}

/// Which families a socket takes whose address is IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    /// IPv6 and IPv4, unless the system says otherwise.
    Both,
    /// Its option IPV6_V6ONLY is set.
    Ipv6Alone,
}

/// Why an address cannot be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreachable {
    PortZero,
    Unspecified,
    Multicast,
    Broadcast,
    NoScope,
    /// The socket cannot send to IPv4 addresses.
    NoIpv4,
    /// The socket cannot send to IPv6 addresses.
    NoIpv6,
}

impl Families {
    pub(crate) fn of(socket: &UdpSocket) -> Self {
        if is_ipv6_only(socket) { Self::Ipv6Alone } else { Self::Both }
    }
}

/// `false` if the system does not say; then sending shows it.
#[cfg(target_os = "linux")]
fn is_ipv6_only(socket: &UdpSocket) -> bool {
    use nix::sys::socket::{getsockopt, sockopt::Ipv6V6Only};
    getsockopt(socket, Ipv6V6Only).unwrap_or(false)
}

#[cfg(not(target_os = "linux"))]
fn is_ipv6_only(_: &UdpSocket) -> bool {
    false
}

impl SocketReach {
    /// Of a socket that is bound to this address.
    pub(crate) fn of(local: SocketAddr, families: Families) -> Self {
        match local {
            SocketAddr::V4(_) => Self { ipv4: true, ipv6: false, scope_id: 0 },
            SocketAddr::V6(local) => {
                let (ip, any) = (local.ip(), local.ip().is_unspecified());
                let mapped = ip.to_ipv4_mapped().is_some();
                Self {
                    ipv4: families == Families::Both && (any || mapped),
                    ipv6: !mapped,
                    scope_id: if ip.is_unicast_link_local() { local.scope_id() } else { 0 },
                }
            }
        }
    }

    /// The address to dial.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for an address from which no answer can come.
    pub(crate) fn destination(self, address: SocketAddr) -> Result<SocketAddr> {
        self.find(address).map_err(|reason| unreachable(address, reason))
    }

    /// The candidates whose address can be dialled, without those of a family that this socket cannot send
    /// to. A candidate without an address stays.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for an address that no socket can send to, and where none is left.
    pub(crate) fn retain<T>(
        self,
        candidates: Vec<T>,
        address: impl Fn(&T) -> Option<SocketAddr>,
    ) -> Result<Vec<T>> {
        let mut skipped = None;
        let mut retained = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let Some(address) = address(&candidate) else {
                retained.push(candidate);
                continue;
            };
            match self.find(address) {
                Ok(_) => retained.push(candidate),
                Err(reason @ (Unreachable::NoIpv4 | Unreachable::NoIpv6)) => {
                    skipped.get_or_insert_with(|| unreachable(address, reason));
                }
                Err(reason) => return Err(unreachable(address, reason)),
            }
        }
        match skipped {
            Some(error) if retained.is_empty() => Err(error),
            _ => Ok(retained),
        }
    }

    fn find(self, address: SocketAddr) -> std::result::Result<SocketAddr, Unreachable> {
        let port = address.port();
        // An IPv4 address in the form that sockets for both families have for it. quinn brings it into the
        // form that the socket wants.
        let ip = address.ip().to_canonical();
        if port == 0 {
            return Err(Unreachable::PortZero);
        }
        if ip.is_unspecified() {
            return Err(Unreachable::Unspecified);
        }
        if ip.is_multicast() {
            return Err(Unreachable::Multicast);
        }
        match (ip, address) {
            (IpAddr::V4(ip), _) if ip.is_broadcast() => Err(Unreachable::Broadcast),
            (IpAddr::V4(_), _) if !self.ipv4 => Err(Unreachable::NoIpv4),
            (IpAddr::V6(_), _) if !self.ipv6 => Err(Unreachable::NoIpv6),
            (IpAddr::V6(ip), SocketAddr::V6(address)) => {
                let scope_id = self.scope(ip, address.scope_id())?;
                Ok(SocketAddrV6::new(ip, port, 0, scope_id).into())
            }
            (ip, _) => Ok(SocketAddr::new(ip, port)),
        }
    }

    fn scope(self, ip: Ipv6Addr, scope_id: u32) -> std::result::Result<u32, Unreachable> {
        match (ip.is_unicast_link_local(), scope_id, self.scope_id) {
            (false, ..) => Ok(0),
            (true, 0, 0) => Err(Unreachable::NoScope),
            // The socket is bound to an interface, which is that of its neighbours.
            (true, 0, own) => Ok(own),
            (true, scope_id, _) => Ok(scope_id),
        }
    }
}

fn unreachable(address: SocketAddr, reason: Unreachable) -> Error {
    Error::invalid_config(format!("cannot connect to {address}: {reason}"))
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PortZero => "nobody can be reached at port 0",
            Self::Unspecified => "the unspecified address is no host's",
            Self::Multicast => "a multicast address is no host's",
            Self::Broadcast => "the broadcast address is no host's",
            Self::NoScope => "a link-local address needs the interface, as in [fe80::1%2]:7443",
            Self::NoIpv4 => "the socket of this endpoint cannot send to IPv4 addresses",
            Self::NoIpv6 => "the socket of this endpoint cannot send to IPv6 addresses",
        })
    }
}

/// A socket for both families sees IPv4 peers as IPv4-mapped IPv6 addresses.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn v6(ip: &str, flowinfo: u32, scope_id: u32) -> SocketAddr {
        SocketAddrV6::new(ip.parse().unwrap(), 7443, flowinfo, scope_id).into()
    }

    fn v4(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 7443)
    }

    fn bound_to(local: &str) -> SocketReach {
        SocketReach::of(local.parse().unwrap(), Families::Both)
    }

    fn any_v4() -> SocketReach {
        bound_to("0.0.0.0:1")
    }

    fn any_v6() -> SocketReach {
        bound_to("[::]:1")
    }

    fn v6_alone() -> SocketReach {
        SocketReach::of("[::]:1".parse().unwrap(), Families::Ipv6Alone)
    }

    #[test]
    fn a_destination_has_the_form_in_which_its_answers_come() {
        for (reach, address, expected) in [
            (any_v6(), v6("::1", 0, 0), v6("::1", 0, 0)),
            (any_v6(), v6("::1", 0, 1), v6("::1", 0, 0)),
            (any_v6(), v6("::1", 5, 0), v6("::1", 0, 0)),
            (any_v6(), v6("2001:db8::1", 0xf_ffff, 7), v6("2001:db8::1", 0, 0)),
            (any_v6(), v6("fd00::1", 1, 3), v6("fd00::1", 0, 0)),
            (any_v6(), v6("fec0::1", 0, 3), v6("fec0::1", 0, 0)),
            (any_v6(), v6("fe80::1", 9, 3), v6("fe80::1", 0, 3)),
            (any_v6(), v6("febf::1", 0, 3), v6("febf::1", 0, 3)),
            (v6_alone(), v6("fe80::1", 0, 3), v6("fe80::1", 0, 3)),
            (bound_to("[fe80::2%4]:1"), v6("fe80::1", 0, 0), v6("fe80::1", 0, 4)),
            (bound_to("[fe80::2%4]:1"), v6("fe80::1", 0, 3), v6("fe80::1", 0, 3)),
            (bound_to("[::1]:1"), v6("::1", 0, 1), v6("::1", 0, 0)),
            (any_v6(), v4("192.0.2.1"), v4("192.0.2.1")),
            (any_v6(), v6("::ffff:192.0.2.1", 3, 3), v4("192.0.2.1")),
            (any_v4(), v6("::ffff:192.0.2.1", 0, 0), v4("192.0.2.1")),
            (any_v4(), v4("192.0.2.1"), v4("192.0.2.1")),
            (bound_to("127.0.0.1:1"), v4("127.0.0.1"), v4("127.0.0.1")),
            (bound_to("[::ffff:127.0.0.1]:1"), v4("127.0.0.1"), v4("127.0.0.1")),
        ] {
            assert_eq!(reach.find(address), Ok(expected), "{address} from {reach:?}");
        }
    }

    #[test]
    fn an_address_that_cannot_answer_is_refused() {
        let port_0 = |address: &str| address.parse::<SocketAddr>().unwrap();
        for (reach, address, expected) in [
            (any_v4(), port_0("192.0.2.1:0"), Unreachable::PortZero),
            (any_v6(), port_0("[2001:db8::1]:0"), Unreachable::PortZero),
            (any_v6(), port_0("[::ffff:192.0.2.1]:0"), Unreachable::PortZero),
            (any_v4(), v4("0.0.0.0"), Unreachable::Unspecified),
            (any_v6(), v4("0.0.0.0"), Unreachable::Unspecified),
            (any_v6(), v6("::", 0, 0), Unreachable::Unspecified),
            (any_v6(), v6("::ffff:0.0.0.0", 0, 0), Unreachable::Unspecified),
            (any_v4(), v4("224.0.0.1"), Unreachable::Multicast),
            (any_v6(), v6("ff02::1", 0, 2), Unreachable::Multicast),
            (any_v6(), v6("::ffff:239.1.2.3", 0, 0), Unreachable::Multicast),
            (any_v4(), v4("255.255.255.255"), Unreachable::Broadcast),
            (any_v6(), v6("::ffff:255.255.255.255", 0, 0), Unreachable::Broadcast),
            (any_v6(), v6("fe80::1", 0, 0), Unreachable::NoScope),
            (any_v6(), v6("febf::1", 7, 0), Unreachable::NoScope),
            (bound_to("[::1]:1"), v6("fe80::1", 0, 0), Unreachable::NoScope),
            (any_v4(), v6("2001:db8::1", 0, 0), Unreachable::NoIpv6),
            (any_v4(), v6("fe80::1", 0, 2), Unreachable::NoIpv6),
            (bound_to("[::ffff:127.0.0.1]:1"), v6("::1", 0, 0), Unreachable::NoIpv6),
            (v6_alone(), v4("192.0.2.1"), Unreachable::NoIpv4),
            (v6_alone(), v6("::ffff:192.0.2.1", 0, 0), Unreachable::NoIpv4),
            (bound_to("[::1]:1"), v4("127.0.0.1"), Unreachable::NoIpv4),
        ] {
            assert_eq!(reach.find(address), Err(expected), "{address} from {reach:?}");
            let error = reach.destination(address).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
            let text = error.to_string();
            assert!(text.contains(&address.to_string()) && text.contains(&expected.to_string()), "{text}");
        }
    }

    #[test]
    fn of_several_addresses_those_of_the_other_family_are_skipped() {
        let (ipv6, ipv4) = (v6("2001:db8::1", 1, 1), v4("192.0.2.1"));
        let retain = |reach: SocketReach, addresses: &[SocketAddr]| {
            reach.retain(addresses.to_vec(), |address| Some(*address)).map_err(|error| error.kind().clone())
        };
        assert_eq!(retain(any_v4(), &[ipv6, ipv4]), Ok(vec![ipv4]));
        assert_eq!(retain(v6_alone(), &[ipv6, ipv4]), Ok(vec![ipv6]));
        assert_eq!(retain(any_v6(), &[ipv6, ipv4]), Ok(vec![ipv6, ipv4]));
        assert_eq!(retain(any_v4(), &[ipv6]), Err(ErrorKind::InvalidConfig));
        let unreachable = retain(any_v4(), &[ipv4, v4("0.0.0.0")]);
        assert_eq!(unreachable, Err(ErrorKind::InvalidConfig), "no socket reaches the second");
        let named = any_v4().retain(vec![None, Some(ipv6)], |address| *address).unwrap();
        assert_eq!(named, [None], "the addresses of a host are not known yet");
    }
}
