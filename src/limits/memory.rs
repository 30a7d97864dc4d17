//! What limits cost in memory, and limits that cost no more than there is.

use super::{
    chain::MAX_CERTIFICATE_CHAIN_BYTES,
    quinn_config::INCOMING_BUFFER_BYTES,
    transport::{MAX_CONCURRENT_STREAMS, SOCKET_RECEIVE_BUFFER_BYTES, TransportLimits},
};
use crate::{
    error::{Error, Result},
    socket::{DEFAULT_DATAGRAM_BYTES, DatagramSize},
};

/// What frames of a connection may hold whatever the others do: enough for small requests.
pub(crate) const CONNECTION_RESERVE_BYTES: usize = 8 * 1024;
/// The mean length of the pieces of unread streams that may fill `receive_window`: smaller ones than an
/// honest sender's.
pub(crate) const MEAN_PIECE_BYTES: usize = 32;
/// How many unread pieces a connection may have however small its window is.
const MIN_UNREAD_PIECES: usize = 256;

/// What quinn, rustls and this crate keep for a connection beside its streams and windows, with what the
/// allocator adds.
const CONNECTION_BYTES: u64 = 40 * 1024;
/// What an open stream costs beside its data: the state of both ends, a task, a batch of events.
const STREAM_BYTES: u64 = 4 * 1024;
/// What one costs whose answer waits to be acknowledged.
const ANSWERED_STREAM_BYTES: u64 = 1024;
/// What quinn keeps with a piece of a stream that cannot be read yet, and the packet that it came in.
const PIECE_BYTES: u64 = 96;
/// The receive buffer of an endpoint without GRO and with the default `max_datagram_bytes`.
const ENDPOINT_BYTES: u64 = 64 * 1024;

/// The part of the memory that one peer is reckoned at.
const PEER_BYTES: u64 = 256 * 1024;
/// The most peers that memory is divided among: the protocol's default.
const MOST_PEERS: u64 = 256;
const KIB: u64 = 1024;

impl TransportLimits {
    /// Limits that keep an endpoint within this many bytes, whatever its peers do.
    ///
    /// | of `bytes` | for | with 16 MiB |
    /// |---|---|---|
    /// | 1 in 256 KiB | `max_connections`, at most 256 | 64 |
    /// | a quarter of those, 4 to 64 | `max_handshakes`, with 8 KiB of packets each | 16 |
    /// | 5/128 of a connection's part | `receive_window` and `send_window`, up to 256 KiB each | 10 KiB |
    /// | half of that | `stream_receive_window` | 5 KiB |
    /// | 1/64 of that part | `max_certificate_chain_bytes`, up to 16 KiB | 4 KiB |
    /// | 5 for each 256 KiB of that part | `max_concurrent_bidi_streams`, up to 32 | 5 |
    /// | 2 for each 256 KiB of that part | `max_concurrent_uni_streams`, up to 32 | 2 |
    /// | 1/512, and at most 1/8 of a connection's part | `max_frame_bytes`, 8 to 512 KiB | 32 KiB |
    /// | 1/16 | `frame_budget_bytes` | 1 MiB |
    /// | 1/32 | `event_log_bytes`, for [`EventLogBuilder::within`] or [several logs] | 512 KiB |
    /// | as much as 1/32, but not of `bytes` | `socket_receive_buffer_bytes`, up to 4 MiB | 512 KiB |
    ///
    /// [`EventLogBuilder::within`]: crate::EventLogBuilder::within
    /// [several logs]: crate::EventLogBuilder::within_one_of
    ///
    /// [`worst_case_bytes`](Self::worst_case_bytes) is then at most `bytes`. It takes an
    /// [`AsyncIoRuntime::without_gro`](crate::AsyncIoRuntime::without_gro): with GRO, the receive buffer adds
    /// 2 MiB. The buffer of the socket is memory of the system and not of the process, so it comes on top;
    /// Linux takes up to twice as much while datagrams wait. Everything else is as by default, and may be
    /// changed [from here](Self::to_builder).
    ///
    /// ```
    /// use palyra_quic::{EventLog, TransportLimits};
    ///
    /// let limits = TransportLimits::within(16 * 1024 * 1024)?;
    /// assert_eq!(limits.max_connections(), 64);
    /// assert!(limits.worst_case_bytes() <= 16 * 1024 * 1024);
    /// let log = EventLog::builder().within(&limits).build()?;
    /// assert!(TransportLimits::within(1024 * 1024).is_err());
    /// # drop(log);
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where that is too little: below about 1.9 MiB.
    pub fn within(bytes: u64) -> Result<Self> {
        let peers = (bytes / PEER_BYTES).clamp(1, MOST_PEERS);
        let part = bytes / peers;
        let window = (part / 128 * 5).clamp(4 * KIB, 256 * KIB);
        let streams = |each: u64| (each * part / PEER_BYTES).clamp(1, u64::from(MAX_CONCURRENT_STREAMS));
        let frame = (part / 8).min(bytes / 512).clamp(8 * KIB, 512 * KIB);
        let chain = (part / 64).clamp(KIB, u64::from(MAX_CERTIFICATE_CHAIN_BYTES));
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let limits = Self::builder()
            .max_connections(narrow(peers))
            .max_handshakes(narrow((peers / 4).clamp(4, 64)))
            .max_certificate_chain_bytes(narrow(chain))
            .receive_window(narrow(window))
            .stream_receive_window(narrow(window / 2))
            .send_window(narrow(window))
            .max_concurrent_bidi_streams(narrow(streams(5)))
            .max_concurrent_uni_streams(narrow(streams(2)))
            .max_frame_bytes(narrow(frame))
            .frame_budget_bytes(narrow((bytes / 16).max(frame)))
            .event_log_bytes(narrow((bytes / 32).max(KIB)))
            .socket_receive_buffer_bytes(narrow(bytes / 32).min(SOCKET_RECEIVE_BUFFER_BYTES))
            .build()?;
        let needed = limits.worst_case_bytes();
        if needed > bytes {
            return Err(Error::invalid_config(format!(
                "{bytes} bytes are too few for a node: {peers} peers may need {needed}"
            )));
        }
        Ok(limits)
    }

    /// The bytes that an endpoint with these limits may hold at worst, all connections hostile and as busy as
    /// they can be.
    ///
    /// For each connection: 40 KiB for itself; 3 1/16 times `max_certificate_chain_bytes` and 3 KiB, for
    /// the peer's certificates twice and for handshake messages that wait for a packet that was lost; 4 KiB
    /// for each stream; 1 KiB for each of as many exchanges again whose answers the peer has not
    /// acknowledged; twice `receive_window` (what has not been read, and what has been since);
    /// `send_window`; the 8 KiB and one answer that are exempt from the budget; and 96 bytes for each of as
    /// many unread pieces of streams as are reckoned: one for every 32 bytes of `receive_window`, and 256
    /// at least. When all connections together have more than an eighth of them may have, each with a
    /// packet of its own, those with the most are closed with EXCESSIVE_LOAD. For all together: twice
    /// `frame_budget_bytes`, since what grows has room to grow and what is answered is copied; the frames
    /// of one connection that may go beyond it; `event_log_bytes`, for the events of all logs, which a log
    /// with a store exceeds unless it [counts as three]; for each of `max_handshakes` 8 KiB and a
    /// connection that was closed and is not forgotten yet, with its certificates; and the receive buffer
    /// without GRO.
    ///
    /// With a `max_datagram_bytes` above 1,452, also: for each connection, and each of `max_handshakes`,
    /// what its send buffer has beyond 14 KiB: a batch of up to 10 datagrams, and 64 KiB; for each of
    /// `max_handshakes` a first datagram as large as that; and a receive buffer of 32 such datagrams, 2 MiB
    /// at most.
    ///
    /// What handlers themselves hold is theirs to count. An answer counts when it is returned, and before
    /// that as much as its method answered at most of late; what handlers that run at the same time answer
    /// beyond that is not in the sum. Nor are the pieces beyond that of a peer that has half as many read
    /// as it leaves unread, or that takes many minutes: their number is an estimate; nor what quinn keeps
    /// of a handshake that comes in single bytes, 32 KiB. Connections that this side dials have a frame
    /// budget of their own. Limits of single methods come on top: see `MethodLimits::worst_case_bytes`.
    ///
    /// [counts as three]: crate::EventLogBuilder::within_one_of
    #[must_use]
    pub fn worst_case_bytes(&self) -> u64 {
        let streams =
            u64::from(self.max_concurrent_bidi_streams) + u64::from(self.max_concurrent_uni_streams);
        let answered = u64::from(self.max_concurrent_bidi_streams) * ANSWERED_STREAM_BYTES;
        let windows = 2 * u64::from(self.receive_window) + u64::from(self.send_window);
        let reserve = u64::try_from(CONNECTION_RESERVE_BYTES).unwrap_or(u64::MAX);
        let answer = u64::from(self.max_frame_bytes);
        let pieces = u64::try_from(max_unread_pieces(self.receive_window)).unwrap_or(u64::MAX) * PIECE_BYTES;
        let itself = self.connection_bytes();
        let connection = itself + streams * STREAM_BYTES + answered + windows + reserve + answer + pieces;
        let budget = 2 * u64::from(self.frame_budget_bytes);
        let shared = budget + self.frames_of_a_connection() + u64::from(self.event_log_bytes);
        let incoming = INCOMING_BUFFER_BYTES + self.more_than_by_default(|size| size.max_received().into());
        let handshakes = u64::from(self.max_handshakes) * (incoming + itself);
        let endpoint = ENDPOINT_BYTES + self.more_than_by_default(DatagramSize::receive_buffer_bytes);
        let connections = u64::from(self.max_connections).saturating_mul(connection);
        connections.saturating_add(shared + handshakes + endpoint)
    }

    /// The bytes of payload that the busiest, most hostile peer can make one connection hold, as long as the
    /// others leave it room in `frame_budget_bytes`: both windows full, on every
    /// unidirectional stream a frame, and on every bidirectional one two: the request's, whose parameters the
    /// handler may keep, and the answer's. JSON takes half as much again, and what handlers themselves
    /// hold is theirs to count.
    ///
    /// With the defaults: 256 KiB + 256 KiB + (32 + 2 × 32) × 512 KiB. Memory follows bytes that arrived, so
    /// an honest peer costs what it has sent and no more.
    #[must_use]
    pub fn worst_case_connection_bytes(&self) -> u64 {
        let windows = u64::from(self.receive_window) + u64::from(self.send_window);
        windows.saturating_add(self.frames_of_a_connection())
    }

    /// What a connection may take beside its streams and windows, when it is open and when it is closed and
    /// not forgotten yet.
    fn connection_bytes(&self) -> u64 {
        let certificates = 2 * u64::from(self.max_certificate_chain_bytes);
        let send_buffer = self.more_than_by_default(DatagramSize::send_buffer_bytes);
        CONNECTION_BYTES + certificates + u64::from(self.chain_limit().flight_bytes()) + send_buffer
    }

    /// By how many bytes a buffer is larger than with the default `max_datagram_bytes`.
    fn more_than_by_default(&self, buffer: impl Fn(DatagramSize) -> usize) -> u64 {
        let by_default = buffer(DatagramSize::new(DEFAULT_DATAGRAM_BYTES));
        u64::try_from(buffer(self.datagram_size()).saturating_sub(by_default)).unwrap_or(u64::MAX)
    }

    fn frames_of_a_connection(&self) -> u64 {
        let frames =
            2 * u64::from(self.max_concurrent_bidi_streams) + u64::from(self.max_concurrent_uni_streams);
        frames.saturating_mul(u64::from(self.max_frame_bytes))
    }
}

/// The most unread pieces that a connection with this `receive_window` may have.
pub(crate) fn max_unread_pieces(receive_window: u32) -> usize {
    (usize::try_from(receive_window).unwrap_or(usize::MAX) / MEAN_PIECE_BYTES).max(MIN_UNREAD_PIECES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const MIB: u64 = 1024 * KIB;

    #[test]
    fn the_worst_case_is_the_sum_that_the_documentation_states() {
        let expected = (256 + 256 + (32 + 2 * 32) * 512) * KIB;
        assert_eq!(TransportLimits::default().worst_case_connection_bytes(), expected);
        let itself = 40 + 3 * 16 + 1 + 3;
        let connection = (itself + 4 * 64 + 32 + 3 * 256 + 8 + 512) * KIB + 8192 * 96;
        let shared = (64 + 48 + 1) * MIB + 64 * (8 + itself) * KIB + 64 * KIB;
        assert_eq!(TransportLimits::default().worst_case_bytes(), 256 * connection + shared);
    }

    #[test]
    fn larger_datagrams_cost_what_the_documentation_states() {
        let worst = |bytes| {
            let limits = TransportLimits::within(16 * MIB).unwrap().to_builder().max_datagram_bytes(bytes);
            limits.build().unwrap().worst_case_bytes()
        };
        // 64 connections and 16 handshakes.
        let more = |batch: u64, datagram: u64| {
            80 * (batch - 14_520) + 16 * (datagram - 1472) + 32 * (datagram - 1472)
        };
        assert_eq!(worst(8972) - worst(1452), more(7 * 8972, 8972));
        assert_eq!(worst(65_527) - worst(1452), more(65_527, 65_527));
        assert_eq!(worst(1200), worst(1452));
    }

    #[test]
    fn sixteen_mebibytes_serve_sixty_four_peers() {
        let limits = TransportLimits::within(16 * MIB).unwrap();
        assert_eq!((limits.max_connections(), limits.max_handshakes()), (64, 16));
        assert_eq!((limits.receive_window(), limits.stream_receive_window()), (10 * 1024, 5 * 1024));
        assert_eq!((limits.max_concurrent_bidi_streams(), limits.max_concurrent_uni_streams()), (5, 2));
        assert_eq!((limits.max_frame_bytes(), limits.frame_budget_bytes()), (32 * 1024, 1024 * 1024));
        assert_eq!(limits.event_log_bytes(), 512 * 1024);
        assert_eq!(limits.socket_receive_buffer_bytes(), 512 * 1024);
        assert_eq!(limits.max_certificate_chain_bytes(), 4 * 1024);
    }

    #[test]
    fn whatever_is_granted_fits_and_what_cannot_fit_is_refused() {
        let granted = |bytes| TransportLimits::within(bytes).map(|limits| limits.worst_case_bytes());
        for tenths in 22..40_000 {
            let bytes = tenths * MIB / 10;
            assert!(granted(bytes).unwrap() <= bytes, "{bytes}");
        }
        for bytes in [0, 1, 4096, MIB] {
            assert_eq!(granted(bytes).unwrap_err().kind(), &ErrorKind::InvalidConfig);
        }
        assert!(granted(u64::MAX).is_ok());
        let plenty = TransportLimits::within(4096 * MIB).unwrap();
        assert_eq!(plenty.max_frame_bytes(), TransportLimits::default().max_frame_bytes());
        assert_eq!(plenty.socket_receive_buffer_bytes(), 4 * 1024 * 1024);
    }

    #[test]
    fn limits_can_be_changed_from_where_they_are() {
        let limits =
            TransportLimits::within(16 * MIB).unwrap().to_builder().max_connections(8).build().unwrap();
        assert_eq!((limits.max_connections(), limits.max_frame_bytes()), (8, 32 * 1024));
    }

    #[test]
    fn a_window_may_be_full_of_small_pieces() {
        assert_eq!(max_unread_pieces(256 * 1024), 8192);
        assert_eq!(max_unread_pieces(2048), MIN_UNREAD_PIECES);
    }
}
