//! How large datagrams may be, by a number or by the interface.

use std::net::SocketAddr;

use super::{
    interface_fit::InterfaceFit,
    transport::{TransportLimits, TransportLimitsBuilder},
};
use crate::socket::{DatagramSize, largest_of_interface, largest_of_socket};

impl TransportLimitsBuilder {
    /// Lowers [`max_datagram_bytes`](TransportLimits::max_datagram_bytes) to what the network interface takes
    /// that the endpoint is bound to. Default: it is as it was set. With a `max_datagram_bytes` of 65,527,
    /// the interface alone decides: 65,507 bytes on Linux's loopback over IPv4 and 65,488 over IPv6, and
    /// 8,972 on an IPv4 network with jumbo frames of 9,000 bytes. 32,768 is faster on loopback, because few
    /// larger datagrams fit the receive buffer that Linux gives a socket by default (208 KiB).
    ///
    /// The limit is the interface's MTU when the endpoint is bound, less the headers of UDP and of IPv4 (28
    /// bytes), or of IPv6 if the socket is for both (48 bytes), and at least 1,200. An endpoint that is bound
    /// to all addresses (`0.0.0.0`, `[::]`) takes the largest MTU of all interfaces that are up, without
    /// loopback unless that is all there is; its connections find out what narrower paths take. On Linux, the
    /// system is asked by `getifaddrs` and `/sys/class/net`; where it does not say, and on other systems, the
    /// limit is 1,452.
    ///
    /// [`worst_case_bytes`](TransportLimits::worst_case_bytes) counts `max_datagram_bytes` as it was set,
    /// since the interface is not known yet.
    ///
    /// ```
    /// use palyra_quic::TransportLimits;
    ///
    /// let limits = TransportLimits::builder().max_datagram_bytes(32_768);
    /// let limits = limits.fit_datagrams_to_interface().build()?;
    /// assert_eq!(limits.max_datagram_bytes(), 32_768);
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    #[must_use]
    pub fn fit_datagrams_to_interface(mut self) -> Self {
        self.0.interface_fit = Some(InterfaceFit::by(largest_of_interface));
        self
    }
}

impl TransportLimits {
    /// With datagrams that a socket with this local address can send.
    pub(crate) fn fitted_to(mut self, local: SocketAddr) -> Self {
        let largest = match self.interface_fit {
            Some(fit) => fit.largest_datagram(local),
            None => largest_of_socket(local),
        };
        self.max_datagram_bytes = self.max_datagram_bytes.min(largest);
        self
    }

    pub(crate) fn datagram_size(&self) -> DatagramSize {
        DatagramSize::new(self.max_datagram_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(limits: TransportLimitsBuilder, local: &str) -> u16 {
        limits.build().unwrap().fitted_to(local.parse().unwrap()).max_datagram_bytes()
    }

    #[test]
    fn a_datagram_is_no_larger_than_its_socket_can_send() {
        let largest = || TransportLimits::builder().max_datagram_bytes(65_527);
        assert_eq!(fitted(largest(), "127.0.0.1:7443"), 65_507);
        assert_eq!(fitted(largest(), "[::1]:7443"), 65_527);
        assert_eq!(fitted(TransportLimits::builder(), "127.0.0.1:7443"), 1452);
    }

    #[test]
    fn an_interface_only_lowers_the_limit() {
        let mtu = |bytes| TransportLimits::builder().max_datagram_bytes(bytes).fit_datagrams_to_interface();
        assert_eq!(fitted(mtu(1200), "127.0.0.1:7443"), 1200);
        // Of a network for documentation (RFC 5737), which no interface has: what most networks take.
        assert_eq!(fitted(mtu(65_527), "192.0.2.77:7443"), 1452);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn loopback_takes_what_its_mtu_says() {
        let shown = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
        let mtu: u16 = shown.trim().parse().unwrap_or(u16::MAX);
        let limits = || TransportLimits::builder().max_datagram_bytes(65_527).fit_datagrams_to_interface();
        assert_eq!(fitted(limits(), "127.0.0.1:7443"), mtu - 28);
        assert!((mtu - 48..=mtu - 47).contains(&fitted(limits(), "[::1]:7443")));
    }
}
