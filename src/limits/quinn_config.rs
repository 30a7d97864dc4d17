//! What limits mean to quinn.

use std::sync::Arc;

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::transport::TransportLimits;
use crate::{
    congestion::HandshakeWindow,
    socket::{DEFAULT_DATAGRAM_BYTES, SMALLEST_DATAGRAM_BYTES},
};

/// Whether a connection takes streams of its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerStreams {
    Accepted,
    Refused,
}

impl TransportLimits {
    /// quinn's configuration for connections that serve streams of the peer, or take none.
    pub(crate) fn transport_config(&self, peer_streams: PeerStreams) -> Arc<TransportConfig> {
        let (bidi, uni) = match peer_streams {
            PeerStreams::Accepted => (self.max_concurrent_bidi_streams, self.max_concurrent_uni_streams),
            PeerStreams::Refused => (0, 0),
        };
        let mut mtu_discovery = MtuDiscoveryConfig::default();
        mtu_discovery.upper_bound(self.max_datagram_bytes).minimum_change(mtu_step(self.max_datagram_bytes));
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

/// How near quinn's search for the MTU of a path comes to it. With more than half of the way from the 1,200
/// bytes that every path takes to the largest datagram, the search begins at the end, with one probe in place
/// of four, and is over there but on narrower paths. A longer way is halved until the rest is no more than
/// the default's half, because such a search would find nothing on narrower paths.
fn mtu_step(max_datagram_bytes: u16) -> u16 {
    let way = max_datagram_bytes.min(DEFAULT_DATAGRAM_BYTES).saturating_sub(SMALLEST_DATAGRAM_BYTES);
    way / 2 + 1
}

/// How many packets a peer may receive before it has to acknowledge them, in place of one:
/// acknowledgements were a sixth of all packets where calls are made one after another. For peers that know
/// the [ACK frequency extension](https://datatracker.ietf.org/doc/html/draft-ietf-quic-ack-frequency-04),
/// as quinn does.
const UNACKNOWLEDGED_PACKETS: u32 = 4;
/// What one unaccepted handshake may buffer: a few Initial packets.
pub(super) const INCOMING_BUFFER_BYTES: u64 = 8 * 1024;
