//! Addresses of nodes, as the command line has them.

use std::{
    fmt, io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs},
    str::FromStr,
};

use crate::failure::Failure;

/// A host and a port, not resolved yet: a name without a typing error may still be impossible to resolve.
#[derive(Clone)]
pub(crate) struct Address {
    text: String,
    port: u16,
    host: Host,
}

#[derive(Clone)]
enum Host {
    Ip(SocketAddr),
    /// An IPv6 address, and the name of the interface that leads to it.
    Behind(Ipv6Addr, String),
    Name,
}

impl Address {
    /// The name of the host, or its IP address.
    pub(crate) fn host(&self) -> String {
        match &self.host {
            Host::Ip(address) => address.ip().to_string(),
            Host::Behind(ip, _interface) => ip.to_string(),
            Host::Name => self.text.rsplit_once(':').map_or(&*self.text, |(host, _port)| host).into(),
        }
    }

    /// Asks the system for the addresses. Returns at least one.
    pub(crate) fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        let cannot_find = |failure: Failure| failure.during(format_args!("cannot find {}", self.text));
        let unresolved = |error: io::Error| cannot_find(Failure::new(error));
        let no_interface = |name: &dyn fmt::Display| {
            cannot_find(Failure::new(format_args!("there is no network interface {name}")))
        };
        match &self.host {
            Host::Ip(SocketAddr::V6(address)) if !is_interface(address) => {
                return Err(no_interface(&format_args!("with number {}", address.scope_id())));
            }
            Host::Ip(address) => return Ok(vec![*address]),
            Host::Behind(ip, name) => {
                let scope_id = interface(name).ok_or_else(|| no_interface(name))?;
                return Ok(vec![SocketAddrV6::new(*ip, self.port, 0, scope_id).into()]);
            }
            Host::Name => {}
        }
        let mut addresses: Vec<_> = self.text.to_socket_addrs().map_err(unresolved)?.collect();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(unresolved(io::ErrorKind::NotFound.into()));
        }
        Ok(addresses)
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "neither IP:PORT, with brackets around IPv6, nor HOST:PORT";
        let address = |port, host| Self { text: text.into(), port, host };
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(address(socket.port(), Host::Ip(socket)));
        }
        let (host, port) = text.rsplit_once(':').ok_or(wrong)?;
        let port = port.parse().map_err(|_| wrong)?;
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Some((ip, interface)) = in_brackets.and_then(|host| host.split_once('%')) {
            let ip = ip.parse().map_err(|_| wrong)?;
            // RFC 4007, section 11.2: the zone must not be empty.
            return if interface.is_empty() {
                Err(wrong)
            } else {
                Ok(address(port, Host::Behind(ip, interface.into())))
            };
        }
        if host.is_empty() || host.contains([':', '[', ']', '%']) {
            Err(wrong)
        } else {
            Ok(address(port, Host::Name))
        }
    }
}

/// The number of the interface with this name. The system resolves the name as part of any link-local
/// address.
fn interface(name: &str) -> Option<u32> {
    (format!("fe80::1%{name}"), 0).to_socket_addrs().ok()?.find_map(|address| match address {
        SocketAddr::V6(address) => Some(address.scope_id()).filter(|scope_id| *scope_id != 0),
        SocketAddr::V4(_) => None,
    })
}

/// Whether the interface of a link-local address exists. `true` if the system cannot list its interfaces.
fn is_interface(address: &SocketAddrV6) -> bool {
    if !address.ip().is_unicast_link_local() || address.scope_id() == 0 {
        return true;
    }
    #[cfg(target_os = "linux")]
    return nix::net::if_::if_nameindex().map_or(true, |interfaces| {
        interfaces.iter().any(|interface| interface.index() == address.scope_id())
    });
    #[cfg(not(target_os = "linux"))]
    true
}

pub(crate) fn peer_address(text: &str) -> Result<Address, &'static str> {
    match text.parse::<Address>()? {
        Address { port: 0, .. } => Err("nobody can be reached at port 0"),
        address => Ok(address),
    }
}
