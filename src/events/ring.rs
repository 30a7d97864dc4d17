//! The events that a log holds, oldest first.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use super::stored_event::StoredEvent;

/// Events in the order of their sequence numbers, bounded by number, size and age.
pub(super) struct Ring {
    events: VecDeque<StoredEvent>,
    /// The sequence number of the oldest event held, or of the next event if none is held.
    first: u64,
    /// What the events held count for: their payloads and `OVERHEAD` each.
    bytes: usize,
    bounds: Bounds,
    /// Events up to this number have been acknowledged by all consumers.
    acknowledged: u64,
}

/// What a ring may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) age: Option<Duration>,
    /// What events may take that some consumer has not acknowledged, and those behind them.
    pub(super) unacknowledged: Option<Unacknowledged>,
}

/// The large bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unacknowledged {
    pub(super) bytes: usize,
    /// Whether publishing is refused there. Otherwise the oldest events go.
    pub(super) refuses: bool,
}

/// The memory that an event takes beside its payload: its entry in the ring and the overhead of its
/// allocation.
pub(super) const OVERHEAD: usize = 64;

impl Ring {
    /// A ring whose next event gets the number `first`.
    pub(super) fn new(bounds: Bounds, first: u64) -> Self {
        Self { events: VecDeque::new(), first, bytes: 0, bounds, acknowledged: u64::MAX }
    }

    /// Appends an event, and evicts the oldest ones beyond the bounds.
    pub(super) fn push(&mut self, event: StoredEvent) {
        self.bytes += cost(&event.payload);
        self.events.push_back(event);
        self.evict_surplus();
    }

    /// Whether an event with this payload must not be pushed now, because others would have to go that were
    /// not acknowledged.
    pub(super) fn refuses(&self, payload: &Bytes) -> bool {
        let Some(Unacknowledged { bytes, refuses }) = self.bounds.unacknowledged else { return false };
        refuses && self.is_oldest_needed() && self.bytes + cost(payload) > bytes
    }

    /// All consumers have acknowledged the events up to this number; the greatest number if there are none.
    pub(super) fn set_acknowledged(&mut self, acknowledged: u64) {
        self.acknowledged = acknowledged;
        self.evict_surplus();
    }

    fn evict_surplus(&mut self) {
        while self.events.len() > self.bounds.events || self.bytes > self.bounds.bytes {
            let is_within = self.bounds.unacknowledged.is_some_and(|bound| self.bytes <= bound.bytes);
            if is_within && self.is_oldest_needed() {
                break;
            }
            self.evict_oldest();
        }
    }

    fn is_oldest_needed(&self) -> bool {
        !self.events.is_empty() && self.first > self.acknowledged
    }

    /// Goes on with number `to`, without the events held.
    #[cfg(all(feature = "durable", unix))]
    pub(super) fn skip(&mut self, to: u64) {
        self.events.clear();
        (self.first, self.bytes) = (to, 0);
    }

    /// Evicts the events that are too old at `now`.
    pub(super) fn expire(&mut self, now: Duration) {
        let Some(age) = self.bounds.age else { return };
        while !self.is_oldest_needed()
            && self.events.front().is_some_and(|event| now.saturating_sub(event.published) > age)
        {
            self.evict_oldest();
        }
    }

    #[cfg(all(test, feature = "durable", feature = "cert", feature = "sim"))]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn last(&self) -> u64 {
        // No log publishes 2^64 events.
        self.first + u64::try_from(self.events.len()).unwrap_or(u64::MAX) - 1
    }

    /// The payloads from number `seq` on, which is not below `first`.
    pub(super) fn from(&self, seq: u64) -> impl Iterator<Item = &Bytes> {
        let skipped = usize::try_from(seq - self.first).unwrap_or(usize::MAX);
        self.events.range(skipped.min(self.events.len())..).map(|event| &event.payload)
    }

    fn evict_oldest(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.first += 1;
            self.bytes -= cost(&event.payload);
        }
    }
}

pub(super) fn cost(payload: &Bytes) -> usize {
    payload.len() + OVERHEAD
}
