//! Where a server is, and which name its certificate must be valid for.

use std::{fmt, net::SocketAddr, str::FromStr};

use rustls::pki_types::{DnsName, ServerName};

use crate::{
    error::{Error, Result},
    text::{MAX_HOST_BYTES, printable},
    tls::server_name,
};

/// Where to reach a server, and the name that its certificate must be valid for: what
/// [`Endpoint::connect`](crate::Endpoint::connect) dials.
///
/// | made from | connects to | the certificate must be valid for |
/// |---|---|---|
/// | `(host, port)` | the first address of the host that answers | the host |
/// | `(address, name)` | the address | the name |
/// | `address` | the address | the IP address |
///
/// A name, and a host, is a DNS name or an IP address (without brackets). A DNS name is also sent to the
/// server, in the clear ([RFC 6066, section 3](https://www.rfc-editor.org/rfc/rfc6066#section-3)). One that
/// is neither is reported where the address is used, before a resolver is asked. A host that is an IP address
/// needs no resolver.
///
/// Nodes of the tokio implementation have certificates for `localhost` alone: dial those with
/// `(address, "localhost")`, and pin their certificates.
///
/// ```
/// use std::net::SocketAddr;
/// use palyra_quic::ServerAddress;
///
/// let by_name = ServerAddress::from(("gateway.example", 7443));
/// let by_address = ServerAddress::from((SocketAddr::from(([192, 0, 2, 1], 7443)), "gateway.example"));
/// // Another name than that of the host: by a port that is forwarded, for instance.
/// let forwarded = ServerAddress::from(("localhost", 9443)).server_name("gateway.example");
/// // As it is written in a configuration.
/// assert_eq!("gateway.example:7443".parse::<ServerAddress>()?, by_name);
/// assert!("gateway.example".parse::<ServerAddress>().is_err());
/// # drop((by_address, forwarded));
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    location: Location,
    /// Where it differs from what the location says.
    server_name: Option<Box<str>>,
}

/// Where packets to the server go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Location {
    Address(SocketAddr),
    Host { name: Box<str>, port: u16 },
}

impl ServerAddress {
    /// The name that the server's certificate must be valid for, whatever the host is called: a DNS name or
    /// an IP address. Default: the host, or the IP address.
    #[must_use]
    pub fn server_name(self, name: impl Into<Box<str>>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    /// The socket address, where no resolver is needed for it.
    pub(crate) fn socket_addr(&self) -> Option<SocketAddr> {
        match self.location {
            Location::Address(address) => Some(address),
            Location::Host { .. } => None,
        }
    }

    /// The name to verify.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for one that no certificate can have, and for a host that no resolver is to be asked
    /// for.
    pub(crate) fn verified_name(&self) -> Result<ServerName<'static>> {
        match (&self.server_name, &self.location) {
            (Some(name), Location::Host { name: host, .. }) => {
                check_host(host)?;
                server_name(name)
            }
            (Some(name), Location::Address(_)) | (None, Location::Host { name, .. }) => server_name(name),
            (None, Location::Address(address)) => {
                Ok(ServerName::IpAddress(address.ip().to_canonical().into()))
            }
        }
    }

    /// The name to verify, of a server that can be dialled as far as can be told without a resolver and a
    /// socket.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` as for [`verified_name`](Self::verified_name), and for port 0 of a host.
    pub(crate) fn dialled_name(&self) -> Result<ServerName<'static>> {
        let name = self.verified_name()?;
        match &self.location {
            Location::Host { name: host, port: 0 } => Err(Error::invalid_config(format!(
                "cannot connect to {host}:0: nobody can be reached at port 0"
            ))),
            _ => Ok(name),
        }
    }

    fn at_host(host: &str, port: u16) -> Self {
        let location = match parse_ip(host, port) {
            Some(address) => Location::Address(address),
            None => Location::Host { name: host.into(), port },
        };
        Self { location, server_name: None }
    }
}

/// The system's resolver would cut a host at a NUL, and takes `127.1` for an IP address.
fn check_host(host: &str) -> Result<()> {
    DnsName::try_from(host).map(drop).map_err(|_says_no_more| {
        let host = printable(host, MAX_HOST_BYTES);
        Error::invalid_config(format!("the host `{host}` is neither a DNS name nor an IP address"))
    })
}

/// An IP address, with its scope if it has one: `fe80::1%2`.
fn parse_ip(host: &str, port: u16) -> Option<SocketAddr> {
    match host.parse() {
        Ok(ip) => Some(SocketAddr::new(ip, port)),
        Err(_not_an_ip) => format!("[{host}]:{port}").parse().ok(),
    }
}

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> Self {
        Self { location: Location::Address(address), server_name: None }
    }
}

impl From<(SocketAddr, &str)> for ServerAddress {
    fn from((address, name): (SocketAddr, &str)) -> Self {
        Self::from(address).server_name(name)
    }
}

impl From<(SocketAddr, String)> for ServerAddress {
    fn from((address, name): (SocketAddr, String)) -> Self {
        Self::from(address).server_name(name)
    }
}

impl From<(&str, u16)> for ServerAddress {
    fn from((host, port): (&str, u16)) -> Self {
        Self::at_host(host, port)
    }
}

impl From<(String, u16)> for ServerAddress {
    fn from((host, port): (String, u16)) -> Self {
        Self::at_host(&host, port)
    }
}

impl FromStr for ServerAddress {
    type Err = Error;

    /// Parses `host:port`, with brackets around an IPv6 address.
    fn from_str(text: &str) -> Result<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let no_port =
            || Error::invalid_config(format!("{text:?} is not a server's address: write it as host:port"));
        let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
        let port = port.parse().map_err(|_says_no_more| no_port())?;
        let address = Self::at_host(host, port);
        // An IPv6 address without brackets would leave open where the port begins.
        if address.socket_addr().is_some_and(|address| address.is_ipv6()) {
            return Err(no_port());
        }
        address.verified_name()?;
        Ok(address)
    }
}

/// As [`FromStr`] parses it, without a server name that differs.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Location::Address(address) => fmt::Display::fmt(address, f),
            Location::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn name(address: impl Into<ServerAddress>) -> String {
        address.into().verified_name().unwrap().to_str().into_owned()
    }

    fn v4() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 7443))
    }

    #[test]
    fn the_name_is_the_explicit_one_or_the_host_or_the_ip_address() {
        assert_eq!(name(v4()), "192.0.2.1");
        assert_eq!(name("[::ffff:192.0.2.1]:1".parse::<SocketAddr>().unwrap()), "192.0.2.1");
        assert_eq!(name("[fe80::1%3]:1".parse::<SocketAddr>().unwrap()), "fe80::1");
        assert_eq!(name((v4(), "localhost")), "localhost");
        assert_eq!(name((v4(), "2001:db8::7".to_owned())), "2001:db8::7");
        assert_eq!(name(("gateway.example", 7443)), "gateway.example");
        assert_eq!(name(ServerAddress::from(("gateway.example", 1)).server_name("a")), "a");
    }

    #[test]
    fn a_host_as_long_as_a_dns_name_can_be_is_shown_whole() {
        let host = ["a"; 126].join(".") + "!?";
        let text = check_host(&host).unwrap_err().to_string();
        assert_eq!(host.len(), MAX_HOST_BYTES);
        assert!(text.contains(&host), "{text}");
    }

    #[test]
    fn a_host_that_is_an_ip_address_needs_no_resolver() {
        for (host, address) in
            [("192.0.2.1", "192.0.2.1:1"), ("2001:db8::7", "[2001:db8::7]:1"), ("fe80::1%3", "[fe80::1%3]:1")]
        {
            let address = address.parse::<SocketAddr>().unwrap();
            assert_eq!(ServerAddress::from((host, 1)), ServerAddress::from(address));
        }
        assert_eq!(ServerAddress::from(("gateway.example", 1)).socket_addr(), None);
    }

    #[test]
    fn a_name_that_is_none_is_refused_where_it_is_used() {
        for wrong in ["", "a b", "[::1]", "localhost:443", "bücher.example"] {
            for address in [ServerAddress::from((wrong, 1)), ServerAddress::from((v4(), wrong))] {
                let error = address.verified_name().unwrap_err();
                assert_eq!(*error.kind(), ErrorKind::InvalidConfig, "{wrong:?}");
            }
        }
    }

    #[test]
    fn a_host_is_checked_whatever_the_server_name_is() {
        for wrong in ["", "[::1]", "a b", "no\0where", "a\u{1b}[2Jb", "a\nb", "localhost:443", "127.1"] {
            let error =
                ServerAddress::from((wrong, 1)).server_name("gateway.example").verified_name().unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::InvalidConfig, "{wrong:?}");
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
        for right in ["gateway.example", "gateway.example.", "a_b", "192.0.2.1", "::1"] {
            ServerAddress::from((right, 1)).server_name("gateway.example").verified_name().unwrap();
        }
    }

    #[test]
    fn what_is_displayed_parses_as_the_same() {
        for text in ["192.0.2.1:7443", "[2001:db8::7]:1", "[fe80::1%3]:1", "gateway.example:7443"] {
            let address = text.parse::<ServerAddress>().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in ["", "gateway.example", "192.0.2.1", "::1:7443", "[::1]", ":1", "a:65536", "a b:1"] {
            let error = text.parse::<ServerAddress>().unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::InvalidConfig, "{text:?}");
        }
    }
}
