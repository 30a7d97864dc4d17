//! Which incoming connections get in: a slot for each connection, and one more while it is in its handshake.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

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
    /// How many handshakes are under way, of how many.
    under_way: Arc<AtomicU32>,
    max_handshakes: u32,
}

/// Held by a connection for as long as it is open, or served.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    _permit: SemaphoreGuardArc,
}

/// Held by a connection until its handshake is over.
#[derive(Debug)]
pub(crate) struct HandshakeSlot {
    under_way: Arc<AtomicU32>,
    _permit: SemaphoreGuardArc,
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(crate) fn new(limits: &TransportLimits) -> Self {
        let slots = |count: u32| Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(usize::MAX)));
        Self {
            connections: slots(limits.max_connections()),
            handshakes: slots(limits.max_handshakes()),
            under_way: Arc::default(),
            max_handshakes: limits.max_handshakes(),
        }
    }

    /// Whether half of the slots for handshakes are taken.
    pub(crate) fn handshakes_are_scarce(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) >= self.max_handshakes.div_ceil(2)
    }

    /// Both slots, or none.
    pub(crate) fn admit(&self) -> Option<(ConnectionSlot, HandshakeSlot)> {
        let handshake = self.handshakes.try_acquire_arc()?;
        let connection = self.connections.try_acquire_arc()?;
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let handshake = HandshakeSlot { under_way: Arc::clone(&self.under_way), _permit: handshake };
        Some((ConnectionSlot { _permit: connection }, handshake))
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
    fn a_refusal_keeps_no_slot() {
        let admission = admission(1, 2);
        let (connection, _handshake) = admission.admit().unwrap();
        assert!(admission.admit().is_none());
        drop(connection);
        assert!(admission.admit().is_some(), "the refusal must have given back its handshake slot");
    }
}
