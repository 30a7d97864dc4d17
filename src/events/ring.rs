//! The events that a log holds, oldest first.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

/// Events in the order of their sequence numbers, bounded by number, size and age.
pub(super) struct Ring {
    events: VecDeque<StoredEvent>,
    /// The sequence number of the oldest event held, or of the next event if none is held.
    first: u64,
    /// What the events held count for: their payloads and `OVERHEAD` each.
    bytes: usize,
    bounds: Bounds,
}

/// What a ring may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) age: Option<Duration>,
}

#[derive(Clone)]
pub(super) struct StoredEvent {
    pub(super) payload: Bytes,
    /// When it was published, since 1970, so that the time is valid in the next process, too.
    pub(super) published: Duration,
}

/// The memory that an event takes beside its payload: its entry in the ring and the overhead of its
/// allocation.
pub(super) const OVERHEAD: usize = 64;

impl Ring {
    /// A ring whose next event gets the number `first`.
    pub(super) fn new(bounds: Bounds, first: u64) -> Self {
        Self { events: VecDeque::new(), first, bytes: 0, bounds }
    }

    /// Appends an event, and evicts the oldest ones beyond the bounds.
    pub(super) fn push(&mut self, event: StoredEvent) {
        self.bytes += cost(&event.payload);
        self.events.push_back(event);
        while self.events.len() > self.bounds.events || self.bytes > self.bounds.bytes {
            self.evict_oldest();
        }
    }

    /// Evicts the events that are too old at `now`.
    pub(super) fn expire(&mut self, now: Duration) {
        let Some(age) = self.bounds.age else { return };
        while self.events.front().is_some_and(|event| now.saturating_sub(event.published) > age) {
            self.evict_oldest();
        }
    }

    /// What `first` will be when these events are pushed.
    #[cfg(feature = "durable")]
    pub(super) fn first_after(&self, coming: &[StoredEvent]) -> u64 {
        let mut events = self.events.len() + coming.len();
        let mut bytes = self.bytes + coming.iter().map(|event| cost(&event.payload)).sum::<usize>();
        let mut first = self.first;
        for event in self.events.iter().chain(coming) {
            if events <= self.bounds.events && bytes <= self.bounds.bytes {
                break;
            }
            events -= 1;
            bytes -= cost(&event.payload);
            first += 1;
        }
        first
    }

    /// Evicts everything up to the last event that is larger.
    #[cfg(feature = "durable")]
    pub(super) fn evict_larger_than(&mut self, max_payload_bytes: usize) {
        let last = self.events.iter().rposition(|event| event.payload.len() > max_payload_bytes);
        for _ in 0..last.map_or(0, |last| last + 1) {
            self.evict_oldest();
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn last(&self) -> u64 {
        // No log publishes 2^64 events.
        self.first + u64::try_from(self.events.len()).unwrap_or(u64::MAX) - 1
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
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
