//! What nodes and connections count, and how it is shown.

use std::time::Duration;

use crate::{
    admission::Full,
    code::Code,
    counter::Counter,
    error::{Error, ErrorKind},
    wire_error::WireError,
};

/// Counters of one kind of event by its reasons, and the numbers that are shown of them. One line adds a
/// reason.
macro_rules! reasons {
    ($(#[$doc:meta])* $shown:ident, $counters:ident, { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $shown {
            $($(#[$field_doc])* pub $field: u64,)*
        }

        impl $shown {
            /// For all reasons together.
            #[must_use]
            pub fn total(&self) -> u64 {
                let Self { $($field,)* } = *self;
                [$($field,)*].iter().sum()
            }
        }

        #[derive(Debug, Default)]
        pub(crate) struct $counters {
            $(pub(crate) $field: Counter,)*
        }

        impl $counters {
            pub(crate) fn read(&self) -> $shown {
                let Self { $($field,)* } = self;
                $shown { $($field: $field.value(),)* }
            }
        }
    };
}

reasons! {
    /// Connections that a node turned away, by reason. Part of [`EndpointStats`].
    ConnectionsRefused, RefusedCounters, {
        /// There was no slot: `max_connections` or `max_handshakes` was reached.
        full,
        /// There were `max_connections_per_address` already from the peer's address.
        address,
        /// There were `max_connections_per_identity` already with the peer's certificate.
        identity,
        /// Connections came more often than `connection_rate` allows.
        rate,
        /// The node was shutting down, or its wall clock had failed.
        shutting_down,
        /// [`Router::authorize`](crate::Router::authorize) did not let the peer in. The handshake was over
        /// by then.
        not_authorized,
    }
}

reasons! {
    /// Handshakes that failed, by reason. Part of [`EndpointStats`].
    HandshakesFailed, FailureCounters, {
        /// `handshake_timeout` passed.
        timeout,
        /// This side did not accept the peer's certificate, or its pin.
        peer_certificate,
        /// This side could not tell whether the peer's certificate is good: its own revocation list is out
        /// of date, or the certificate is not valid yet by this side's clock.
        not_judged,
        /// The peer did not accept this side's certificate, or missed one.
        certificate_refused,
        /// The two sides have no application protocol in common.
        alpn,
        /// The two sides have no version of QUIC or TLS in common, or one found that the other broke the
        /// protocol.
        protocol,
        /// The peer refused the connection before the handshake, or closed it during it.
        refused,
        /// The peer fell silent or gave up.
        lost,
        /// The handshake did not get on, and another needed its place.
        gave_way,
        /// All others: the socket, the configuration, or this side closed.
        other,
    }
}

reasons! {
    /// Requests that were answered with an error, by the error. Part of [`EndpointStats`].
    RequestsFailed, ErrorCounters, {
        /// `invalid_request`
        invalid_request,
        /// `protocol_mismatch`
        protocol_mismatch,
        /// `unsupported_method`
        unsupported_method,
        /// `permission_denied`
        permission_denied,
        /// `resource_exhausted`
        resource_exhausted,
        /// `unavailable`
        unavailable,
        /// `deadline_exceeded`
        deadline_exceeded,
        /// `stream_failure`
        stream_failure,
        /// `internal`
        internal,
        /// Errors of the application's own.
        other,
    }
}

reasons! {
    /// Streams of requests and notifications that this side reset or stopped, by reason. Part of
    /// [`EndpointStats`].
    StreamsReset, ResetCounters, {
        /// What had to arrive or to be taken was not in time: DEADLINE_EXCEEDED.
        deadline_exceeded,
        /// A frame above `max_frame_bytes`: FRAME_TOO_LARGE.
        frame_too_large,
        /// The peer broke the protocol: PROTOCOL_VIOLATION.
        violation,
        /// A notification that the peer may not send: IDENTITY_REJECTED.
        denied,
        /// A handler panicked or failed: INTERNAL.
        internal,
        /// The node is going away: SHUTTING_DOWN.
        shutting_down,
        /// All other codes.
        other,
    }
}

impl RefusedCounters {
    pub(crate) fn count(&self, full: Full) {
        let counter = match full {
            Full::Slots | Full::Draining => &self.full,
            Full::Address => &self.address,
            Full::Identity => &self.identity,
            Full::Rate(_) => &self.rate,
        };
        counter.add();
    }
}

impl FailureCounters {
    pub(crate) fn count(&self, error: &Error) {
        let counter = match error.kind() {
            _ if error.is_temporary() => &self.not_judged,
            ErrorKind::HandshakeTimeout | ErrorKind::DeadlineExceeded => &self.timeout,
            ErrorKind::PeerCertificate | ErrorKind::PinMismatch => &self.peer_certificate,
            ErrorKind::CertificateRefused => &self.certificate_refused,
            ErrorKind::AlpnMismatch => &self.alpn,
            ErrorKind::VersionMismatch | ErrorKind::Protocol => &self.protocol,
            ErrorKind::Refused | ErrorKind::ConnectionClosed(_) => &self.refused,
            ErrorKind::ConnectionLost => &self.lost,
            ErrorKind::Exhausted => &self.gave_way,
            _ => &self.other,
        };
        counter.add();
    }
}

impl ErrorCounters {
    pub(crate) fn count(&self, error: &WireError) {
        let counter = match error {
            WireError::InvalidRequest => &self.invalid_request,
            WireError::ProtocolMismatch => &self.protocol_mismatch,
            WireError::UnsupportedMethod => &self.unsupported_method,
            WireError::PermissionDenied => &self.permission_denied,
            WireError::ResourceExhausted => &self.resource_exhausted,
            WireError::Unavailable => &self.unavailable,
            WireError::DeadlineExceeded => &self.deadline_exceeded,
            WireError::StreamFailure => &self.stream_failure,
            WireError::Internal => &self.internal,
            WireError::Other(_) => &self.other,
        };
        counter.add();
    }
}

impl ResetCounters {
    pub(crate) fn count(&self, code: Code) {
        let counter = match code {
            Code::DEADLINE_EXCEEDED => &self.deadline_exceeded,
            Code::FRAME_TOO_LARGE => &self.frame_too_large,
            Code::PROTOCOL_VIOLATION => &self.violation,
            Code::IDENTITY_REJECTED => &self.denied,
            Code::INTERNAL => &self.internal,
            Code::SHUTTING_DOWN => &self.shutting_down,
            _ => &self.other,
        };
        counter.add();
    }
}

/// What an endpoint counts, since it was bound.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) open: Counter,
    pub(crate) accepted: Counter,
    pub(crate) dialled: Counter,
    pub(crate) retries: Counter,
    pub(crate) revoked: Counter,
    pub(crate) expired: Counter,
    pub(crate) excessive: Counter,
    pub(crate) refused: RefusedCounters,
    pub(crate) handshakes_failed: FailureCounters,
    pub(crate) dials_failed: FailureCounters,
    pub(crate) requests: Counter,
    pub(crate) requests_failed: ErrorCounters,
    pub(crate) notifications: Counter,
    pub(crate) notifications_denied: Counter,
    pub(crate) notifications_unhandled: Counter,
    pub(crate) streams_reset: ResetCounters,
    pub(crate) streams_reset_by_peers: Counter,
    pub(crate) events_sent: Counter,
    pub(crate) gaps_sent: Counter,
}

impl Counters {
    /// Counts a connection that was closed because its peer's certificate is no longer valid.
    pub(crate) fn closed_for(&self, code: Option<Code>) {
        match code {
            Some(Code::IDENTITY_REJECTED) => self.revoked.add(),
            Some(Code::IDENTITY_EXPIRED) => self.expired.add(),
            _ => {}
        }
    }

    /// Counts a stream that could not be read; `code` is what the peer was told about it.
    pub(crate) fn unread(&self, error: &Error, code: Code) {
        match (error.kind(), code) {
            (ErrorKind::StreamReset(_), _) => self.streams_reset_by_peers.add(),
            // The connection is gone.
            (_, Code::CANCELLED) => {}
            (_, code) => self.streams_reset.count(code),
        }
    }

    pub(crate) fn read(&self) -> EndpointStats {
        EndpointStats {
            connections_open: self.open.value(),
            connections_accepted: self.accepted.value(),
            connections_dialled: self.dialled.value(),
            retries: self.retries.value(),
            connections_revoked: self.revoked.value(),
            connections_expired: self.expired.value(),
            connections_excessive: self.excessive.value(),
            connections_refused: self.refused.read(),
            handshakes_failed: self.handshakes_failed.read(),
            dials_failed: self.dials_failed.read(),
            requests: self.requests.value(),
            requests_failed: self.requests_failed.read(),
            notifications: self.notifications.value(),
            notifications_denied: self.notifications_denied.value(),
            notifications_unhandled: self.notifications_unhandled.value(),
            streams_reset: self.streams_reset.read(),
            streams_reset_by_peers: self.streams_reset_by_peers.value(),
            events_sent: self.events_sent.value(),
            gaps_sent: self.gaps_sent.value(),
            // The socket counts these.
            datagrams_not_sent: 0,
            receive_errors: 0,
            receive_buffer_bytes: 0,
        }
    }
}

/// What an [`Endpoint`](crate::Endpoint) has seen since it was bound. Nothing in here goes down, but for
/// `connections_open`; `receive_buffer_bytes` never changes. See [`Endpoint::stats`](crate::Endpoint::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Accepted connections that are open now.
    pub connections_open: u64,
    /// Connections that were accepted: the handshake succeeded, and the peer was let in.
    pub connections_accepted: u64,
    /// Connections that this side dialled and that came up.
    pub connections_dialled: u64,
    /// Retries sent to clients that had to show first that they are at their address, since slots were
    /// scarce.
    pub retries: u64,
    /// Connections closed because the peer's certificate was revoked.
    pub connections_revoked: u64,
    /// Connections closed because a certificate of the peer expired.
    pub connections_expired: u64,
    /// Connections closed with EXCESSIVE_LOAD or, after the handshake, RATE_LIMITED for what their peers
    /// did.
    pub connections_excessive: u64,
    /// Connections that were turned away, before the handshake or after it.
    pub connections_refused: ConnectionsRefused,
    /// Handshakes of clients that began and failed.
    pub handshakes_failed: HandshakesFailed,
    /// Attempts of this side to dial that failed.
    pub dials_failed: HandshakesFailed,
    /// Requests that arrived whole, from accepted and from dialled peers.
    pub requests: u64,
    /// Those of them that were answered with an error.
    pub requests_failed: RequestsFailed,
    /// Notifications that arrived whole and are valid.
    pub notifications: u64,
    /// Those of them that their peer was not allowed to send.
    pub notifications_denied: u64,
    /// Those of them whose method the router has no handler for, so that they were dropped.
    pub notifications_unhandled: u64,
    /// Streams of peers that this side reset or stopped.
    pub streams_reset: StreamsReset,
    /// Streams that their peers reset before they were read, or stopped before they were answered.
    pub streams_reset_by_peers: u64,
    /// Events sent to subscribers of all logs, one for each event and subscriber. Of a single log, see
    /// [`EventLog::stats`](crate::EventLog::stats).
    pub events_sent: u64,
    /// Gaps that subscribers of all logs were told of.
    pub gaps_sent: u64,
    /// UDP datagrams that the system did not take, which QUIC treats as lost: no route, no interface, a
    /// firewall, or larger than the interface allows, as a few are that look for the largest.
    pub datagrams_not_sent: u64,
    /// Attempts to receive that failed with an error of the system.
    pub receive_errors: u64,
    /// The size of the socket's receive buffer after [`socket_receive_buffer_bytes`] were asked for, in
    /// bytes as the system reports it; 0 for a socket that is not the system's. Linux includes its overhead
    /// for each datagram, and reports twice the size asked for.
    ///
    /// [`socket_receive_buffer_bytes`]: crate::TransportLimits::socket_receive_buffer_bytes
    pub receive_buffer_bytes: u64,
}

/// What a connection counts beside what quinn does.
#[derive(Debug, Default)]
pub(crate) struct LinkCounters {
    pub(crate) requests: Counter,
    pub(crate) notifications: Counter,
    pub(crate) calls: Counter,
    pub(crate) notifications_sent: Counter,
    pub(crate) events_received: Counter,
    pub(crate) gaps_received: Counter,
}

impl LinkCounters {
    pub(crate) fn read(&self, quinn: &quinn::ConnectionStats) -> ConnectionStats {
        let (path, sent, received) = (&quinn.path, &quinn.udp_tx, &quinn.udp_rx);
        ConnectionStats {
            rtt: path.rtt,
            min_rtt: path.min_rtt,
            congestion_window: path.cwnd,
            mtu: u64::from(path.current_mtu),
            bytes_sent: sent.bytes,
            bytes_received: received.bytes,
            datagrams_sent: sent.datagrams,
            datagrams_received: received.datagrams,
            packets_sent: path.sent_packets,
            packets_lost: path.lost_packets,
            congestion_events: path.congestion_events,
            requests: self.requests.value(),
            notifications: self.notifications.value(),
            calls: self.calls.value(),
            notifications_sent: self.notifications_sent.value(),
            events_received: self.events_received.value(),
            gaps_received: self.gaps_received.value(),
        }
    }
}

/// What a [`Connection`](crate::Connection) has seen since it was begun. The first four are of the moment;
/// nothing else in here goes down, but for packets and congestion, which begin anew when the connection moves
/// to another path. See [`Connection::stats`](crate::Connection::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// The present estimate of the round-trip time.
    pub rtt: Duration,
    /// The shortest round-trip time seen on this path.
    pub min_rtt: Duration,
    /// How many bytes may be in flight, by the congestion controller.
    pub congestion_window: u64,
    /// The largest UDP payload that the path takes, in bytes, as far as is known.
    pub mtu: u64,
    /// Bytes in UDP datagrams that were sent, packets sent again included.
    pub bytes_sent: u64,
    /// Bytes in UDP datagrams that were received.
    pub bytes_received: u64,
    /// UDP datagrams sent.
    pub datagrams_sent: u64,
    /// UDP datagrams received.
    pub datagrams_received: u64,
    /// QUIC packets sent on this path.
    pub packets_sent: u64,
    /// Those of them that count as lost.
    pub packets_lost: u64,
    /// How often the congestion window was reduced.
    pub congestion_events: u64,
    /// Requests of the peer that arrived whole.
    pub requests: u64,
    /// Notifications of the peer that arrived whole and are valid.
    pub notifications: u64,
    /// Requests that this side sent, subscriptions among them.
    pub calls: u64,
    /// Notifications that this side sent.
    pub notifications_sent: u64,
    /// Events of the peer that arrived.
    pub events_received: u64,
    /// Gaps that the peer told of.
    pub gaps_received: u64,
}
