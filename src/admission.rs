//! Which incoming connections get in: a slot for each connection, and one more while it is in its handshake.

use std::sync::Arc;

use async_lock::{Semaphore, SemaphoreGuardArc};

use crate::limits::TransportLimits;

/// The slots of an endpoint.
///
/// Nobody waits for a slot: a peer that gets none is refused before its handshake costs anything, and knows at once that
/// it should try elsewhere or later.
#[derive(Debug)]
pub(crate) struct Admission {
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    max_handshakes: usize,
}

/// Held by a connection for as long as it is open, or served.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    _permit: SemaphoreGuardArc,
}

/// Held by a connection until its handshake is over.
#[derive(Debug)]
pub(crate) struct HandshakeSlot {
    _permit: SemaphoreGuardArc,
}

impl Admission {
    pub(crate) fn new(limits: &TransportLimits) -> Self {
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let max_handshakes = size(limits.max_handshakes());
        Self {
            connections: Arc::new(Semaphore::new(size(limits.max_connections()))),
            handshakes: Arc::new(Semaphore::new(max_handshakes)),
            max_handshakes,
        }
    }

    /// Whether half of the slots for handshakes are taken.
    pub(crate) fn handshakes_are_scarce(&self) -> bool {
        // Each slot that is taken holds the semaphore, and this holds it once.
        let taken = Arc::strong_count(&self.handshakes) - 1;
        taken >= self.max_handshakes.div_ceil(2)
    }

    /// Both slots, or none.
    pub(crate) fn admit(&self) -> Option<(ConnectionSlot, HandshakeSlot)> {
        let handshake = self.handshakes.try_acquire_arc()?;
        let connection = self.connections.try_acquire_arc()?;
        Some((ConnectionSlot { _permit: connection }, HandshakeSlot { _permit: handshake }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections: u32, handshakes: u32) -> Admission {
        let limits = TransportLimits::builder().max_connections(connections).max_handshakes(handshakes);
        Admission::new(&limits.build().unwrap())
    }

    #[test]
    fn slots_run_out_and_come_back() {
        let admission = admission(2, 10);
        let first = admission.admit().unwrap();
        let _second = admission.admit().unwrap();
        assert!(admission.admit().is_none());
        drop(first);
        assert!(admission.admit().is_some());
    }

    #[test]
    fn handshakes_are_bounded_apart_from_connections() {
        let admission = admission(10, 1);
        let (_connection, handshake) = admission.admit().unwrap();
        assert!(admission.admit().is_none());
        drop(handshake);
        assert!(admission.admit().is_some());
    }

    #[test]
    fn handshakes_are_scarce_from_half_of_the_slots_on() {
        let admission = admission(10, 3);
        let (_one, first) = admission.admit().unwrap();
        assert!(!admission.handshakes_are_scarce());
        let _two = admission.admit().unwrap();
        assert!(admission.handshakes_are_scarce());
        drop(first);
        assert!(!admission.handshakes_are_scarce());
    }

    #[test]
    fn a_refusal_keeps_no_slot() {
        let admission = admission(1, 2);
        let (connection, _handshake) = admission.admit().unwrap();
        assert!(admission.admit().is_none());
        drop(connection);
        assert!(admission.admit().is_some(), "the refusal must have given back its handshake slot");
    }
}
