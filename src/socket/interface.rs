//! The MTU of the network interface that a socket is bound to.

use std::net::SocketAddr;

use super::size::{DEFAULT_DATAGRAM_BYTES, largest_of_mtu};

/// The largest datagram, in bytes, that the interface with this local address takes, without the headers. Of
/// a socket that is bound to all addresses: the largest that any interface takes, and loopback only if there
/// is no other. What most networks take where the system does not say.
pub(crate) fn largest_of_interface(local: SocketAddr) -> u16 {
    match mtu(local.ip()) {
        Some(mtu) => largest_of_mtu(mtu, local),
        None => {
            tracing::debug!(%local, "the MTU of the interface is unknown");
            DEFAULT_DATAGRAM_BYTES
        }
    }
}

#[cfg(target_os = "linux")]
use linux::mtu;

#[cfg(not(target_os = "linux"))]
fn mtu(_: std::net::IpAddr) -> Option<u32> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{fs, net::IpAddr};

    use nix::{
        ifaddrs::{InterfaceAddress, getifaddrs},
        net::if_::InterfaceFlags,
    };

    pub(super) fn mtu(local: IpAddr) -> Option<u32> {
        let local = local.to_canonical();
        let interfaces =
            getifaddrs().ok()?.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
        if !local.is_unspecified() {
            return interfaces.filter(|interface| has_address(interface, local)).find_map(mtu_of);
        }
        let is_loopback =
            |interface: &InterfaceAddress| interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let (loopback, others): (Vec<_>, Vec<_>) = interfaces.partition(is_loopback);
        let largest = |interfaces: Vec<_>| interfaces.into_iter().filter_map(mtu_of).max();
        largest(others).or_else(|| largest(loopback))
    }

    fn has_address(interface: &InterfaceAddress, ip: IpAddr) -> bool {
        let Some(address) = &interface.address else { return false };
        let ipv4 = || address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let ipv6 = || address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        // Every address of 127.0.0.0/8 is local, and the interface lists one of them.
        let is_loopback = ip.is_loopback() && interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        is_loopback || ipv4().or_else(ipv6) == Some(ip)
    }

    /// From the file in which the system shows it, because all other ways need unsafe code.
    fn mtu_of(interface: InterfaceAddress) -> Option<u32> {
        let name = interface.interface_name;
        fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
    }

    #[cfg(test)]
    mod tests {
        use std::net::{Ipv4Addr, Ipv6Addr};

        use super::*;

        /// What the system shows of its interfaces: name and MTU, without loopback, which is last.
        fn shown() -> (Vec<u32>, u32) {
            let mtu = |name: &str| -> u32 {
                fs::read_to_string(format!("/sys/class/net/{name}/mtu")).unwrap().trim().parse().unwrap()
            };
            let names = getifaddrs().unwrap().filter(|i| i.flags.contains(InterfaceFlags::IFF_UP));
            let names = names.map(|interface| interface.interface_name).filter(|name| name != "lo");
            (names.map(|name| mtu(&name)).collect(), mtu("lo"))
        }

        #[test]
        fn every_loopback_address_has_the_mtu_of_loopback() {
            let (_, loopback) = shown();
            for ip in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
                assert_eq!(mtu(ip.parse().unwrap()), Some(loopback), "{ip}");
            }
        }

        #[test]
        fn a_socket_for_all_addresses_takes_the_largest_mtu_that_is_not_of_loopback() {
            let (others, loopback) = shown();
            let expected = others.into_iter().max().unwrap_or(loopback);
            for ip in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
                assert_eq!(mtu(ip), Some(expected));
            }
        }

        #[test]
        fn an_address_of_no_interface_has_no_mtu() {
            // Of a network for documentation (RFC 5737).
            assert_eq!(mtu(Ipv4Addr::new(192, 0, 2, 77).into()), None);
        }
    }
}
