//! The limits, what each is for, and their defaults.

use std::time::Duration;

use super::{
    chain::{ChainLimit, MAX_CERTIFICATE_CHAIN_BYTES},
    interface_fit::InterfaceFit,
    rate::Rate,
};
use crate::socket::DEFAULT_DATAGRAM_BYTES;

/// Deadlines and bounds of an endpoint and of every connection on it.
///
/// Both sides of a link keep their own limits; the lower idle timeout of the two applies. The
/// defaults are those of the protocol. On a small machine with peers that may be hostile, start
/// [`within`](Self::within) the memory that there is.
///
/// ```
/// use std::time::Duration;
/// use palyra_quic::TransportLimits;
///
/// let limits = TransportLimits::builder()
///     .max_connections(16)
///     .idle_timeout(Duration::from_secs(60))
///     .build()?;
/// assert_eq!(limits.max_connections(), 16);
/// assert_eq!(limits.max_frame_bytes(), 524_288);
///
/// // Contradictions are found when the limits are built, not when they bite.
/// assert!(TransportLimits::builder().keep_alive_interval(Duration::from_secs(90)).build().is_err());
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportLimits {
    pub(super) handshake_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) keep_alive_interval: Duration,
    pub(super) request_read_timeout: Duration,
    pub(super) handler_timeout: Duration,
    pub(super) heartbeat_interval: Duration,
    pub(super) max_concurrent_bidi_streams: u32,
    pub(super) max_concurrent_uni_streams: u32,
    #[cfg(feature = "streams")]
    pub(super) max_concurrent_item_exchanges: Option<u32>,
    pub(super) max_frame_bytes: u32,
    pub(super) max_connections: u32,
    pub(super) max_handshakes: u32,
    pub(super) max_certificate_chain_bytes: u32,
    pub(super) stream_receive_window: u32,
    pub(super) receive_window: u32,
    pub(super) send_window: u32,
    pub(super) max_datagram_bytes: u16,
    pub(super) interface_fit: Option<InterfaceFit>,
    pub(super) frame_budget_bytes: u32,
    pub(super) event_log_bytes: u32,
    pub(super) socket_receive_buffer_bytes: u32,
    pub(super) max_connections_per_address: u32,
    pub(super) max_connections_per_identity: u32,
    pub(super) connection_rate: Rate,
    pub(super) request_rate: Rate,
    pub(super) fault_rate: Rate,
    pub(super) address_validation: AddressValidation,
}

/// Long enough for a slow ARM core to verify a chain over a link that loses packets.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Five losses in a row still leave the connection alive.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const REQUEST_READ_TIMEOUT: Duration = Duration::from_secs(10);
const HANDLER_TIMEOUT: Duration = Duration::from_secs(30);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
pub(super) const MAX_CONCURRENT_STREAMS: u32 = 32;
const MAX_FRAME_BYTES: u32 = 512 * 1024;
const MAX_CONNECTIONS: u32 = 256;
const MAX_HANDSHAKES: u32 = 64;
/// Frames are read as they arrive, so a window may be smaller than a frame.
const STREAM_RECEIVE_WINDOW: u32 = 128 * 1024;
const RECEIVE_WINDOW: u32 = 256 * 1024;
const SEND_WINDOW: u32 = 256 * 1024;
/// Two peers that send as much as they may at a time do not notice each other.
const FRAME_BUDGET_BYTES: u32 = 32 * 1024 * 1024;
const EVENT_LOG_BYTES: u32 = 1024 * 1024;
/// Requests of a thousand peers that send at the same moment, with the system's overhead for small datagrams.
pub(super) const SOCKET_RECEIVE_BUFFER_BYTES: u32 = 4 * 1024 * 1024;
/// A client that gives up a hundred calls a second is broken, if it is not hostile.
const FAULT_RATE: Rate = Rate::per_second(100).burst(1000);
impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: HANDSHAKE_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            keep_alive_interval: KEEP_ALIVE_INTERVAL,
            request_read_timeout: REQUEST_READ_TIMEOUT,
            handler_timeout: HANDLER_TIMEOUT,
            heartbeat_interval: HEARTBEAT_INTERVAL,
            max_concurrent_bidi_streams: MAX_CONCURRENT_STREAMS,
            max_concurrent_uni_streams: MAX_CONCURRENT_STREAMS,
            #[cfg(feature = "streams")]
            max_concurrent_item_exchanges: None,
            max_frame_bytes: MAX_FRAME_BYTES,
            max_connections: MAX_CONNECTIONS,
            max_handshakes: MAX_HANDSHAKES,
            max_certificate_chain_bytes: MAX_CERTIFICATE_CHAIN_BYTES,
            stream_receive_window: STREAM_RECEIVE_WINDOW,
            receive_window: RECEIVE_WINDOW,
            send_window: SEND_WINDOW,
            max_datagram_bytes: DEFAULT_DATAGRAM_BYTES,
            interface_fit: None,
            frame_budget_bytes: FRAME_BUDGET_BYTES,
            event_log_bytes: EVENT_LOG_BYTES,
            socket_receive_buffer_bytes: SOCKET_RECEIVE_BUFFER_BYTES,
            max_connections_per_address: u32::MAX,
            max_connections_per_identity: u32::MAX,
            connection_rate: Rate::UNLIMITED,
            request_rate: Rate::UNLIMITED,
            fault_rate: FAULT_RATE,
            address_validation: AddressValidation::WhenBusy,
        }
    }
}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        impl TransportLimits {
            $($(#[$doc])* #[must_use] pub fn $name(&self) -> $type { self.$name })*
        }

        impl TransportLimitsBuilder {
            $($(#[$doc])* #[must_use] pub fn $name(mut self, $name: $type) -> Self {
                self.0.$name = $name;
                self
            })*
        }
    };
}

limits! {
    /// How long a handshake may take, on either side. Default: 10 s. A peer that is not done by then is
    /// dropped, and its slot is free again.
    handshake_timeout: Duration,
    /// How long a connection may stay silent before it counts as lost. Default: 30 s.
    idle_timeout: Duration,
    /// How often an otherwise silent connection sends a PING. Default: 5 s; must be below `idle_timeout`.
    keep_alive_interval: Duration,
    /// How long a peer may take to send a whole request, from the opening of its stream. Default: 10 s.
    /// Then the stream is reset with DEADLINE_EXCEEDED. A notification that was begun has as long to be
    /// complete.
    request_read_timeout: Duration,
    /// How long a handler may run. Default: 30 s; a caller's lower `timeout_ms` wins. Then the handler is
    /// dropped and the caller is answered `deadline_exceeded`. Handlers of notifications and streaming ones
    /// are included, waiting for a slow reader too; `node.stream_events` is exempt. Where items are sent to a
    /// method, this is how long nothing may be received and nothing answered. Writing the last answer may
    /// take as long again.
    handler_timeout: Duration,
    /// How often a followed event stream that has nothing to say sends a heartbeat. Default: 10 s.
    heartbeat_interval: Duration,
    /// Exchanges that one peer may have open at a time. Default: 32; at most 65,536. Further ones wait
    /// at the peer. One that is answered does not count, whether the answer has arrived or not.
    max_concurrent_bidi_streams: u32,
    /// Notification streams that one peer may have open at a time. Default: 32; at most 65,536. Further
    /// ones wait at the peer.
    max_concurrent_uni_streams: u32,
    /// The largest frame body, in bytes, in either direction. Default: 524,288; at least 1,024. A frame
    /// that announces more is refused before any of it is buffered.
    max_frame_bytes: u32,
    /// Accepted connections that may be open at a time. Default: 256. Further ones are refused with
    /// CONNECTION_REFUSED.
    max_connections: u32,
    /// Accepted connections that may be in their handshake at a time. Default: 64. From half of them on,
    /// clients first show by a Retry that they are at their address; and also while many connections are
    /// closed and not forgotten yet, from half of the free `max_connections` on, less one for each of
    /// these; at that number itself, clients are not answered until some are forgotten, or refused if
    /// handshakes were left unfinished of late. A further one takes the place of one that has not got on
    /// for half a second, or whose address has more of them or left more unfinished; if there is no such
    /// handshake, it is refused with CONNECTION_REFUSED.
    max_handshakes: u32,
    /// Bytes of certificates that a peer may show, and that this side may: all that are sent, each as it is
    /// in DER, whether or not the path to an authority needs it. Default: 16,384; at least 1,024 and at most
    /// 61,440. The handshake with a peer that shows more fails with
    /// [`PeerCertificate`](crate::ErrorKind::PeerCertificate), and the peer is told so. A chain of this
    /// side's own is held against the limit where it is configured, since peers are likely to have the same.
    /// A connection may hold 3 1/16 times as much and 3 KiB: the certificates of the peer twice, and
    /// handshake messages that wait for a packet that was lost.
    max_certificate_chain_bytes: u32,
    /// Bytes that a peer may send on one stream beyond what was read. Default: 131,072; at least 2,048. May
    /// be smaller than a frame.
    stream_receive_window: u32,
    /// The same for all streams of a connection together. Default: 262,144; at least
    /// `stream_receive_window`. Streams that are not read hold back the others once they fill it: two of
    /// them do, with the defaults.
    receive_window: u32,
    /// Bytes of a connection that may wait for acknowledgement. Default: 262,144; at least 2,048. Writers
    /// wait for room beyond.
    send_window: u32,
    /// The largest UDP payload that this endpoint sends, in bytes. Default: 1,452, which fits Ethernet; at
    /// least 1,200 and at most 65,527. A connection begins with 1,200, and searches for what its path takes
    /// up to this ([RFC 8899](https://www.rfc-editor.org/rfc/rfc8899)); where larger datagrams are lost
    /// later, it goes back to 1,200 and searches again after a minute. An IPv4 socket sends up to 65,507.
    ///
    /// The peer learns the same number, and 1,472 where it is lower, as the largest that this endpoint
    /// receives (`max_udp_payload_size`,
    /// [RFC 9000, section 18.2](https://www.rfc-editor.org/rfc/rfc9000#section-18.2)), so that both sides
    /// need the larger limit. It pays on loopback and on networks with jumbo frames. Batches for
    /// segmentation offload (GSO) stay within 64 KiB: from 32,744 on, each datagram is a batch of its own.
    /// The receive buffer grows: see [`worst_case_bytes`](TransportLimits::worst_case_bytes).
    max_datagram_bytes: u16,
    /// Bytes of frames that all peers of the endpoint together may make it hold: those that are not whole
    /// yet, those of requests and notifications being served, and answers that wait to be sent. Default:
    /// 33,554,432; at least `max_frame_bytes`. At the limit, streams are not read, so that peers wait; 8
    /// KiB a connection are exempt, and one connection at a time is.
    frame_budget_bytes: u32,
    /// What [`EventLogBuilder::within`](crate::EventLogBuilder::within) makes of the event log's
    /// `memory_bytes`, and [`within_one_of`](crate::EventLogBuilder::within_one_of) divides among several
    /// logs. Default: 1,048,576.
    event_log_bytes: u32,
    /// Bytes of datagrams that the system is asked to keep for the endpoint until it receives them
    /// (`SO_RCVBUF`). Default: 4,194,304; 0 leaves the socket as it is. What does not fit is lost, and QUIC
    /// sends it again after a timeout: 4 MiB hold the requests of about a thousand peers that all send at
    /// once. A buffer that is as large already stays as it is.
    ///
    /// The system may allow less, which is no error: Linux at most `net.core.rmem_max`, 208 KiB unless it was
    /// raised. The privilege to go beyond that (`SO_RCVBUFFORCE`) is not used, as the limit is the
    /// administrator's to set. [`EndpointStats::receive_buffer_bytes`] is what was obtained. If it is less
    /// than this, the log says so once, at level info.
    ///
    /// The memory is the system's, and is not part of
    /// [`worst_case_bytes`](TransportLimits::worst_case_bytes). It is taken only while datagrams wait, of
    /// Linux up to twice this, including its own overhead.
    ///
    /// [`EndpointStats::receive_buffer_bytes`]: crate::EndpointStats::receive_buffer_bytes
    socket_receive_buffer_bytes: u32,
    /// Accepted connections that may be open at a time from one IPv4 address, or one IPv6 network of 64
    /// bits. A connection counts for the address that it was accepted from until it ends, also after it has
    /// moved to another ([RFC 9000, section 9](https://www.rfc-editor.org/rfc/rfc9000#section-9)): to move
    /// frees no place, and takes none. Default: no cap of its own. Further ones are refused with
    /// CONNECTION_REFUSED. With a cap below `max_connections`, every client shows by a Retry that it is at
    /// its address, since otherwise anyone could use up another's share.
    max_connections_per_address: u32,
    /// Accepted connections that may be open at a time of peers with one certificate. Default: no cap of
    /// its own. Further ones are closed with CAPACITY after their handshake.
    max_connections_per_identity: u32,
    /// How often new connections are accepted from one address, and how often from peers with one
    /// certificate. Default: [`Rate::UNLIMITED`]. An address that is above it is refused with
    /// CONNECTION_REFUSED, after a Retry as with `max_connections_per_address`; a certificate with
    /// RATE_LIMITED after the handshake, and `retry-after-ms` in the reason.
    connection_rate: Rate,
    /// How often requests are served of peers with one certificate, or from one address where there is
    /// none. Default: [`Rate::UNLIMITED`]. Requests above it are answered `resource_exhausted` with
    /// `retry_after_ms`; a peer that goes on sending more than twice as many is closed with RATE_LIMITED.
    /// Notifications count too, and wait for their turn instead.
    request_rate: Rate,
    /// How often a peer may do what costs it nothing and this side work: streams that are
    /// reset before they said anything, or are empty, requests that are invalid, and calls that are given
    /// up. Default: 100 a second, in bursts of up to 1,000. Above it the connection is closed with
    /// EXCESSIVE_LOAD.
    fault_rate: Rate,
    /// When clients have to show that they are at their address before they get a slot. Default: when half
    /// of `max_handshakes` are taken.
    address_validation: AddressValidation,
}

#[cfg(feature = "streams")]
impl TransportLimits {
    /// How many of the `max_concurrent_bidi_streams` of one peer may be requests with items at a time.
    /// Default: half of them, rounded down, and at least 1. A further one is answered `resource_exhausted`
    /// before its method begins, so that uploads which take long leave room for other requests.
    #[must_use]
    pub fn max_concurrent_item_exchanges(&self) -> u32 {
        let streams = self.max_concurrent_bidi_streams;
        self.max_concurrent_item_exchanges.unwrap_or((streams / 2).max(1)).min(streams)
    }
}

#[cfg(feature = "streams")]
impl TransportLimitsBuilder {
    /// How many of the `max_concurrent_bidi_streams` of one peer may be requests with items at a time. See
    /// [`TransportLimits::max_concurrent_item_exchanges`].
    #[must_use]
    pub fn max_concurrent_item_exchanges(mut self, max_concurrent_item_exchanges: u32) -> Self {
        self.0.max_concurrent_item_exchanges = Some(max_concurrent_item_exchanges);
        self
    }
}

impl TransportLimits {
    /// Starts from the defaults.
    #[must_use]
    pub fn builder() -> TransportLimitsBuilder {
        TransportLimitsBuilder(Self::default())
    }

    /// Starts from these.
    #[must_use]
    pub fn to_builder(&self) -> TransportLimitsBuilder {
        TransportLimitsBuilder(self.clone())
    }

    /// `max_frame_bytes` in the type of lengths in memory.
    pub(crate) fn max_frame_len(&self) -> usize {
        usize::try_from(self.max_frame_bytes).unwrap_or(usize::MAX)
    }

    /// `max_certificate_chain_bytes`, and what follows from it.
    pub(crate) const fn chain_limit(&self) -> ChainLimit {
        ChainLimit::new(self.max_certificate_chain_bytes)
    }
}

/// When a server answers a client's first packet with a Retry, which only who is at the address that the
/// packet claims can follow ([RFC 9000, section 8.1](https://www.rfc-editor.org/rfc/rfc9000#section-8.1)).
/// It costs the client a round trip, and the server neither memory nor a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressValidation {
    /// While half of the slots for handshakes are taken, or more.
    WhenBusy,
    /// Always.
    Always,
}

/// Collects limits and checks them together; see [`TransportLimits::builder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportLimitsBuilder(pub(super) TransportLimits);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_protocol_and_valid() {
        let limits = TransportLimits::builder().build().unwrap();
        assert_eq!(limits, TransportLimits::default());
        assert_eq!(limits.handshake_timeout(), Duration::from_secs(10));
        assert_eq!(limits.idle_timeout(), Duration::from_secs(30));
        assert_eq!(limits.keep_alive_interval(), Duration::from_secs(5));
        assert_eq!(limits.request_read_timeout(), Duration::from_secs(10));
        assert_eq!(limits.max_concurrent_bidi_streams(), 32);
        assert_eq!(limits.max_concurrent_uni_streams(), 32);
        assert_eq!(limits.max_frame_bytes(), 524_288);
        assert_eq!(limits.max_connections(), 256);
        assert_eq!(limits.max_handshakes(), 64);
        assert_eq!(limits.max_certificate_chain_bytes(), 16_384);
        assert_eq!(limits.socket_receive_buffer_bytes(), 4_194_304);
    }

    #[cfg(feature = "streams")]
    #[test]
    fn requests_with_items_are_half_of_the_streams_unless_the_limit_says_otherwise() {
        let items = |streams: u32, items: Option<u32>| {
            let builder = TransportLimits::builder().max_concurrent_bidi_streams(streams);
            let builder = match items {
                Some(items) => builder.max_concurrent_item_exchanges(items),
                None => builder,
            };
            builder.build().map(|limits| limits.max_concurrent_item_exchanges())
        };
        for (streams, set, expected) in
            [(32, None, 16), (5, None, 2), (1, None, 1), (8, Some(8), 8), (8, Some(9), 8), (8, Some(1), 1)]
        {
            assert_eq!(items(streams, set).unwrap(), expected, "{streams} {set:?}");
        }
        assert!(items(8, Some(0)).unwrap_err().to_string().contains("max_concurrent_item_exchanges"));
    }
}
