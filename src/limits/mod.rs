//! What a node allows its peers: time, streams, connections, memory.

mod chain;
mod memory;

use std::{sync::Arc, time::Duration};

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

pub(crate) use self::chain::{ChainLimit, Oversized};
use self::chain::{LARGEST_CHAIN_BYTES, SMALLEST_CHAIN_BYTES};
use crate::{
    admission::Rate,
    congestion::HandshakeWindow,
    error::{Error, Result},
};

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
    handshake_timeout: Duration,
    idle_timeout: Duration,
    keep_alive_interval: Duration,
    request_read_timeout: Duration,
    handler_timeout: Duration,
    heartbeat_interval: Duration,
    max_concurrent_bidi_streams: u32,
    max_concurrent_uni_streams: u32,
    max_frame_bytes: u32,
    max_connections: u32,
    max_handshakes: u32,
    max_certificate_chain_bytes: u32,
    stream_receive_window: u32,
    receive_window: u32,
    send_window: u32,
    frame_budget_bytes: u32,
    event_log_bytes: u32,
    max_connections_per_address: u32,
    max_connections_per_identity: u32,
    connection_rate: Rate,
    request_rate: Rate,
    fault_rate: Rate,
    address_validation: AddressValidation,
}

/// Long enough for a slow ARM core to verify a chain over a link that loses packets.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Five losses in a row still leave the connection alive.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const REQUEST_READ_TIMEOUT: Duration = Duration::from_secs(10);
const HANDLER_TIMEOUT: Duration = Duration::from_secs(30);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
const MAX_CONCURRENT_STREAMS: u32 = 32;
const MAX_FRAME_BYTES: u32 = 512 * 1024;
const MAX_CONNECTIONS: u32 = 256;
const MAX_HANDSHAKES: u32 = 64;
/// Three times what three certificates with RSA keys of 4,096 bits take.
const MAX_CERTIFICATE_CHAIN_BYTES: u32 = 16 * 1024;
/// Frames are read as they arrive, so a window may be smaller than a frame.
const STREAM_RECEIVE_WINDOW: u32 = 128 * 1024;
const RECEIVE_WINDOW: u32 = 256 * 1024;
const SEND_WINDOW: u32 = 256 * 1024;
/// Two peers that send as much as they may at a time do not notice each other.
const FRAME_BUDGET_BYTES: u32 = 32 * 1024 * 1024;
const EVENT_LOG_BYTES: u32 = 1024 * 1024;
/// A client that gives up a hundred calls a second is broken, if it is not hostile.
const FAULT_RATE: Rate = Rate::per_second(100).burst(1000);
/// More than half of the way from the 1,200 bytes that every path takes to the 1,452 that most do, so that
/// quinn's search begins at the end, with one probe in place of four, and is over there but on narrower
/// paths.
const MTU_STEP: u16 = 127;
/// How many packets a peer may receive before it has to acknowledge them, in place of one:
/// acknowledgements were a sixth of all packets where calls are made one after another. For peers that know
/// the [ACK frequency extension](https://datatracker.ietf.org/doc/html/draft-ietf-quic-ack-frequency-04),
/// as quinn does.
const UNACKNOWLEDGED_PACKETS: u32 = 4;
/// What one unaccepted handshake may buffer: a few Initial packets.
const INCOMING_BUFFER_BYTES: u64 = 8 * 1024;
/// Room for an error or a health answer, whatever else the limits say.
const SMALLEST_FRAME_BYTES: u32 = 1024;
/// Below this, acknowledgements and window updates crowd out the data (RFC 9000, section 4.2).
const SMALLEST_WINDOW: u32 = 2 * 1024;

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
            max_frame_bytes: MAX_FRAME_BYTES,
            max_connections: MAX_CONNECTIONS,
            max_handshakes: MAX_HANDSHAKES,
            max_certificate_chain_bytes: MAX_CERTIFICATE_CHAIN_BYTES,
            stream_receive_window: STREAM_RECEIVE_WINDOW,
            receive_window: RECEIVE_WINDOW,
            send_window: SEND_WINDOW,
            frame_budget_bytes: FRAME_BUDGET_BYTES,
            event_log_bytes: EVENT_LOG_BYTES,
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
    /// are included, waiting for a slow reader too; `node.stream_events` is exempt. Writing the last answer
    /// may take as long again.
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
    /// Bytes of frames that all peers of the endpoint together may make it hold: those that are not whole
    /// yet, those of requests and notifications being served, and answers that wait to be sent. Default:
    /// 33,554,432; at least `max_frame_bytes`. At the limit, streams are not read, so that peers wait; 8
    /// KiB a connection are exempt, and one connection at a time is.
    frame_budget_bytes: u32,
    /// What [`EventLogBuilder::within`](crate::EventLogBuilder::within) makes of the event log's
    /// `max_bytes`. Default: 1,048,576.
    event_log_bytes: u32,
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
    /// How often a connection is forgiven what costs its peer nothing and this side work: streams that are
    /// reset before they said anything, or are empty, requests that are invalid, and calls that are given
    /// up. Default: 100 a second, in bursts of up to 1,000. Above it the connection is closed with
    /// EXCESSIVE_LOAD.
    fault_rate: Rate,
    /// When clients have to show that they are at their address before they get a slot. Default: when half
    /// of `max_handshakes` are taken.
    address_validation: AddressValidation,
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

    /// quinn's configuration for connections that serve streams of the peer, or take none.
    pub(crate) fn transport_config(&self, serves: Serves) -> Arc<TransportConfig> {
        let (bidi, uni) = match serves {
            Serves::Requests => (self.max_concurrent_bidi_streams, self.max_concurrent_uni_streams),
            Serves::Nothing => (0, 0),
        };
        let mut mtu_discovery = MtuDiscoveryConfig::default();
        mtu_discovery.minimum_change(MTU_STEP);
        let mut ack_frequency = AckFrequencyConfig::default();
        ack_frequency.ack_eliciting_threshold(VarInt::from_u32(UNACKNOWLEDGED_PACKETS));
        let flight_bytes = self.chain_limit().flight_bytes();
        let mut config = TransportConfig::default();
        config
            .ack_frequency_config(Some(ack_frequency))
            .mtu_discovery_config(Some(mtu_discovery))
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .keep_alive_interval(Some(self.keep_alive_interval))
            .max_concurrent_bidi_streams(VarInt::from_u32(bidi))
            .max_concurrent_uni_streams(VarInt::from_u32(uni))
            .stream_receive_window(VarInt::from_u32(self.stream_receive_window))
            .receive_window(VarInt::from_u32(self.receive_window))
            .send_window(u64::from(self.send_window))
            .congestion_controller_factory(Arc::new(HandshakeWindow::new(flight_bytes)))
            // quinn's default is below what the largest chain takes with the messages beside it: where the
            // first packet of them is lost, the last would end the connection.
            .crypto_buffer_size(flight_bytes.try_into().unwrap_or(usize::MAX))
            // The protocol has no datagrams; quinn would reserve 2.3 MB a connection for them.
            .datagram_receive_buffer_size(None)
            .datagram_send_buffer_size(0);
        Arc::new(config)
    }

    /// Bounds what packets of unaccepted handshakes may hold: `max_handshakes` × 8 KiB.
    pub(crate) fn bound_incoming(&self, config: &mut quinn::ServerConfig) {
        config
            .max_incoming(usize::try_from(self.max_handshakes).unwrap_or(usize::MAX))
            .incoming_buffer_size(INCOMING_BUFFER_BYTES)
            .incoming_buffer_size_total(INCOMING_BUFFER_BYTES * u64::from(self.max_handshakes));
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

/// Whether a connection takes streams of its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serves {
    Requests,
    Nothing,
}

/// Collects limits and checks them together; see [`TransportLimits::builder`].
#[derive(Clone, Debug)]
pub struct TransportLimitsBuilder(TransportLimits);

impl TransportLimitsBuilder {
    /// Checks the limits against each other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) where a limit is zero, too small or too
    /// large to work, or contradicts another; the text names it.
    pub fn build(self) -> Result<TransportLimits> {
        let limits = self.0;
        let durations = [
            ("handshake_timeout", limits.handshake_timeout),
            ("idle_timeout", limits.idle_timeout),
            ("keep_alive_interval", limits.keep_alive_interval),
            ("request_read_timeout", limits.request_read_timeout),
            ("handler_timeout", limits.handler_timeout),
            ("heartbeat_interval", limits.heartbeat_interval),
        ];
        let counts = [
            ("max_concurrent_bidi_streams", limits.max_concurrent_bidi_streams),
            ("max_concurrent_uni_streams", limits.max_concurrent_uni_streams),
            ("max_connections", limits.max_connections),
            ("max_handshakes", limits.max_handshakes),
            ("max_connections_per_address", limits.max_connections_per_address),
            ("max_connections_per_identity", limits.max_connections_per_identity),
            ("event_log_bytes", limits.event_log_bytes),
        ];
        let rates = [
            ("connection_rate", limits.connection_rate),
            ("request_rate", limits.request_rate),
            ("fault_rate", limits.fault_rate),
        ];
        for (name, rate) in rates {
            check(!rate.is_never() && rate.period() <= LONGEST, || {
                format!("{name} is zero, or once in more than a year")
            })?;
        }
        for (name, duration) in durations {
            check(!duration.is_zero(), || format!("{name} is zero"))?;
            check(duration <= LONGEST, || format!("{name} is longer than a year"))?;
        }
        for (name, count) in counts {
            check(count > 0, || format!("{name} is zero"))?;
        }
        for (name, streams) in [
            ("max_concurrent_bidi_streams", limits.max_concurrent_bidi_streams),
            ("max_concurrent_uni_streams", limits.max_concurrent_uni_streams),
        ] {
            check(streams <= MOST_STREAMS, || format!("{name} is above {MOST_STREAMS}"))?;
        }
        check(limits.idle_timeout >= Duration::from_millis(1), || {
            "idle_timeout is below the millisecond that QUIC counts in".into()
        })?;
        check(limits.keep_alive_interval < limits.idle_timeout, || {
            "keep_alive_interval is not below idle_timeout, so an idle connection would be lost".into()
        })?;
        check(limits.max_frame_bytes >= SMALLEST_FRAME_BYTES, || {
            format!("max_frame_bytes is below {SMALLEST_FRAME_BYTES}")
        })?;
        let chains = SMALLEST_CHAIN_BYTES..=LARGEST_CHAIN_BYTES;
        check(chains.contains(&limits.max_certificate_chain_bytes), || {
            format!("max_certificate_chain_bytes is not in {SMALLEST_CHAIN_BYTES} to {LARGEST_CHAIN_BYTES}")
        })?;
        check(limits.frame_budget_bytes >= limits.max_frame_bytes, || {
            "frame_budget_bytes is below max_frame_bytes".into()
        })?;
        for (name, window) in
            [("stream_receive_window", limits.stream_receive_window), ("send_window", limits.send_window)]
        {
            check(window >= SMALLEST_WINDOW, || format!("{name} is below {SMALLEST_WINDOW}"))?;
        }
        check(limits.stream_receive_window <= limits.receive_window, || {
            "stream_receive_window is above receive_window".into()
        })?;
        Ok(limits)
    }
}

/// quinn makes room for every stream that a peer may open when the connection begins.
const MOST_STREAMS: u32 = 65_536;
/// Longer ones are mistakes, and would overflow arithmetic on instants.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

fn check(holds: bool, complaint: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid_config(complaint())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

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
    }

    #[test]
    fn zero_and_contradictory_limits_are_refused_by_name() {
        let builder = TransportLimits::builder;
        for (limits, name) in [
            (builder().handshake_timeout(Duration::ZERO), "handshake_timeout"),
            (builder().idle_timeout(Duration::ZERO), "idle_timeout"),
            (builder().idle_timeout(Duration::MAX), "idle_timeout"),
            (builder().idle_timeout(Duration::from_secs(5)), "keep_alive_interval"),
            (builder().request_read_timeout(Duration::ZERO), "request_read_timeout"),
            (builder().handler_timeout(Duration::ZERO), "handler_timeout"),
            (builder().heartbeat_interval(Duration::ZERO), "heartbeat_interval"),
            (builder().max_concurrent_bidi_streams(0), "max_concurrent_bidi_streams"),
            (builder().max_concurrent_uni_streams(0), "max_concurrent_uni_streams"),
            (builder().max_frame_bytes(0), "max_frame_bytes"),
            (builder().max_connections(0), "max_connections"),
            (builder().max_handshakes(0), "max_handshakes"),
            (builder().max_certificate_chain_bytes(1023), "max_certificate_chain_bytes"),
            (builder().max_certificate_chain_bytes(61_441), "max_certificate_chain_bytes"),
            (builder().stream_receive_window(0), "stream_receive_window"),
            (builder().receive_window(64 * 1024), "stream_receive_window"),
            (builder().send_window(0), "send_window"),
            (builder().frame_budget_bytes(1024), "frame_budget_bytes"),
            (builder().event_log_bytes(0), "event_log_bytes"),
            (builder().max_connections_per_address(0), "max_connections_per_address"),
            (builder().max_connections_per_identity(0), "max_connections_per_identity"),
            (builder().connection_rate(Rate::per_second(0)), "connection_rate"),
            (builder().request_rate(Rate::per_second(0)), "request_rate"),
            (builder().request_rate(Rate::every(Duration::MAX)), "request_rate"),
            (builder().fault_rate(Rate::per_second(9).burst(0)), "fault_rate"),
        ] {
            let error = limits.build().unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(name), "{error} does not name {name}");
        }
    }
}
