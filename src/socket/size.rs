//! How large the datagrams of an endpoint may be, and what follows for batches and buffers.

use std::net::SocketAddr;

use quinn::udp::BATCH_SIZE;

/// What every path must take ([RFC 9000, section 14](https://www.rfc-editor.org/rfc/rfc9000#section-14)).
pub(crate) const SMALLEST_DATAGRAM_BYTES: u16 = 1200;
/// The largest payload that the length field of UDP can state.
pub(crate) const LARGEST_DATAGRAM_BYTES: u16 = 65_527;
/// The payload that fits Ethernet's 1,500 bytes with the headers of IPv6 and UDP, and 20 bytes to spare.
pub(crate) const DEFAULT_DATAGRAM_BYTES: u16 = 1452;

/// The largest that a peer may begin with: what Ethernet takes with the headers of IPv4 and UDP. Peers learn
/// in the handshake what this endpoint receives, so that their first packets must fit without that.
const SMALLEST_RECEIVED_BYTES: u16 = 1472;
/// The length field of IPv4 counts the headers of IPv4 and UDP too.
const LARGEST_IPV4_BYTES: u16 = u16::MAX - IPV4_HEADERS;
const IPV4_HEADERS: u16 = 20 + 8;
const IPV6_HEADERS: u16 = 40 + 8;
/// Linux takes no batch of datagrams that, joined, would not fit one packet of IPv4 or IPv6.
const LARGEST_BATCH_BYTES: u16 = u16::MAX - IPV6_HEADERS;
/// The most datagrams that quinn makes a batch of.
const MOST_SEGMENTS: u16 = 10;

/// How large the datagrams of an endpoint may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DatagramSize {
    max_sent: u16,
}

impl DatagramSize {
    /// Of an endpoint that sends up to this many bytes a datagram.
    pub(crate) const fn new(max_sent: u16) -> Self {
        Self { max_sent }
    }

    /// The largest datagram that is received, in bytes.
    pub(crate) fn max_received(self) -> u16 {
        self.max_sent.max(SMALLEST_RECEIVED_BYTES)
    }

    /// How many datagrams of the default size are as large as the largest that is received.
    pub(crate) fn times_the_usual(self) -> usize {
        usize::from(self.max_received().div_ceil(SMALLEST_RECEIVED_BYTES))
    }

    /// How many datagrams a batch may have, of those that the socket takes: no more than fit 64 KiB.
    pub(crate) fn transmit_segments(self, of_socket: usize) -> usize {
        of_socket.min(usize::from((LARGEST_BATCH_BYTES / self.max_sent.max(1)).max(1)))
    }

    /// How many of the largest datagrams a receive buffer needs room for, if the system joins up to
    /// `of_socket` datagrams: the joined ones are no longer than the longest single one.
    pub(crate) fn receive_segments(self, of_socket: usize) -> usize {
        of_socket.min(usize::from(LARGEST_DATAGRAM_BYTES.div_ceil(self.max_received())))
    }

    /// What an endpoint keeps to receive into, where the system joins no datagrams.
    pub(crate) fn receive_buffer_bytes(self) -> usize {
        usize::from(self.max_received()) * BATCH_SIZE
    }

    /// What a connection keeps to send from.
    pub(crate) fn send_buffer_bytes(self) -> usize {
        usize::from(self.max_sent) * self.transmit_segments(MOST_SEGMENTS.into())
    }
}

/// The largest datagram, in bytes, that a socket with this local address can send.
pub(crate) fn largest_of_socket(local: SocketAddr) -> u16 {
    if local.is_ipv4() { LARGEST_IPV4_BYTES } else { LARGEST_DATAGRAM_BYTES }
}

/// The largest datagram, in bytes, that fits an interface with this MTU, from a socket with this local
/// address. Sockets for both families count the header of IPv6.
pub(super) fn largest_of_mtu(mtu: u32, local: SocketAddr) -> u16 {
    let headers = if local.is_ipv4() { IPV4_HEADERS } else { IPV6_HEADERS };
    let payload = u16::try_from(mtu.saturating_sub(headers.into())).unwrap_or(u16::MAX);
    payload.clamp(SMALLEST_DATAGRAM_BYTES, largest_of_socket(local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_fits_one_packet_and_every_datagram_can_be_sent_alone() {
        let segments = |bytes| DatagramSize::new(bytes).transmit_segments(10);
        assert_eq!([1200, 1452, 6548].map(segments), [10; 3]);
        assert_eq!([6549, 8972, 16_384, 21_829, 21_830].map(segments), [9, 7, 3, 3, 2]);
        assert_eq!([32_743, 32_744, 65_487, 65_527].map(segments), [2, 1, 1, 1]);
        for bytes in SMALLEST_DATAGRAM_BYTES..=LARGEST_DATAGRAM_BYTES {
            let segments = segments(bytes);
            assert!(segments == 1 || segments * usize::from(bytes) <= 65_535 - 48, "{bytes}");
        }
        assert_eq!(DatagramSize::new(1452).transmit_segments(1), 1);
    }

    #[test]
    fn a_receive_buffer_holds_what_the_system_joins_and_little_more() {
        for bytes in SMALLEST_DATAGRAM_BYTES..=LARGEST_DATAGRAM_BYTES {
            let size = DatagramSize::new(bytes);
            let buffer = size.receive_segments(64) * usize::from(size.max_received());
            assert!((65_527..2 * 65_527).contains(&buffer), "{buffer} for {bytes}");
        }
        // Where nothing is joined, the longest is all that there is.
        assert_eq!(DatagramSize::new(1452).receive_segments(1), 1);
        assert_eq!(DatagramSize::new(1452).receive_buffer_bytes(), 1472 * BATCH_SIZE);
    }

    #[test]
    fn the_headers_of_an_interface_leave_room_for_the_payload() {
        let largest = |mtu, local: &str| largest_of_mtu(mtu, format!("{local}:1").parse().unwrap());
        assert_eq!((largest(1500, "192.0.2.1"), largest(1500, "[2001:db8::1]")), (1472, 1452));
        assert_eq!((largest(65_536, "127.0.0.1"), largest(65_536, "[::1]")), (65_507, 65_488));
        assert_eq!((largest(9000, "0.0.0.0"), largest(9000, "[::]")), (8972, 8952));
        // QUIC needs no less, and IP can state no more.
        assert_eq!((largest(576, "192.0.2.1"), largest(0, "[::]")), (1200, 1200));
        assert_eq!((largest(u32::MAX, "192.0.2.1"), largest(u32::MAX, "[::]")), (65_507, 65_527));
    }
}
