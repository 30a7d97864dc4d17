//! quinn's default congestion control, with a window that lets a handshake complete.

use std::{any::Any, fmt, sync::Arc, time::Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// Cubic, whose window does not fall below the initial one (RFC 9002, section 7.2) before the peer has
/// acknowledged as many bytes as handshakes take.
///
/// A client may send 1-RTT packets when it has seen the server's flight. The server cannot read them before
/// it has the client's, so that they stay in flight, and quinn's probe timeouts add more of them, against
/// RFC 9002, section 6.2.1. With the smallest window they would fill it, and what is left of the client's
/// flight would never be sent.
#[derive(Debug)]
pub(crate) struct HandshakeWindow {
    cubic: Arc<CubicConfig>,
    handshake_bytes: u64,
}

impl HandshakeWindow {
    /// For handshakes in which a side sends up to `flight_bytes` of messages: with the headers of packets,
    /// and what is received twice, no more than twice that is acknowledged before the handshake is over.
    pub(crate) fn new(flight_bytes: u32) -> Self {
        Self { cubic: Arc::default(), handshake_bytes: 2 * u64::from(flight_bytes) }
    }
}

impl ControllerFactory for HandshakeWindow {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::clone(&self.cubic).build(now, current_mtu);
        Box::new(FlooredCubic { cubic, left: self.handshake_bytes })
    }
}

struct FlooredCubic {
    cubic: Box<dyn Controller>,
    /// Bytes still to be acknowledged before the floor goes.
    left: u64,
}

impl Controller for FlooredCubic {
    fn window(&self) -> u64 {
        let floor = if self.left > 0 { self.cubic.initial_window() } else { 0 };
        self.cubic.window().max(floor)
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.left = self.left.saturating_sub(bytes);
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.cubic.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { cubic: self.cubic.clone_box(), left: self.left })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.cubic.into_any()
    }
}

impl fmt::Debug for FlooredCubic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cubic: _, left } = self;
        f.debug_struct("FlooredCubic").field("window", &self.window()).field("left", left).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The window after heavy loss, with `handshake_bytes` still to be acknowledged.
    fn shrunk(handshake_bytes: u64) -> (u64, u64) {
        let start = Instant::now();
        let factory = HandshakeWindow { cubic: Arc::default(), handshake_bytes };
        let mut controller = Arc::new(factory).build(start, 1200);
        for round in 1..10 {
            let now = start + Duration::from_secs(round);
            controller.on_congestion_event(now, now, false, 1200);
        }
        assert_eq!(controller.clone_box().window(), controller.window());
        (controller.initial_window(), controller.window())
    }

    #[test]
    fn loss_does_not_shrink_the_window_in_a_handshake() {
        let (initial, window) = shrunk(1);
        assert_eq!(window, initial);
        let (initial, window) = shrunk(0);
        assert!(window < initial / 2, "{window}, after the handshake");
    }
}
