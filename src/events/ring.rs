//! The events that a log holds, oldest first.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

/// Events in the order of their sequence numbers, up to a number, a size and an age.
pub(super) struct Ring {
    events: VecDeque<Held>,
    /// The sequence number of the oldest event held, or of the next one where none is.
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
pub(super) struct Held {
    pub(super) payload: Bytes,
    /// When it was published, since 1970: it has to make sense to the next process, too.
    pub(super) published: Duration,
}

/// What holding an event costs beside its payload: its place in the ring and the allocation's own.
pub(super) const OVERHEAD: usize = 64;

impl Ring {
    /// A ring whose next event gets the number `first`.
    pub(super) fn new(bounds: Bounds, first: u64) -> Self {
        Self { events: VecDeque::new(), first, bytes: 0, bounds }
    }

    /// Appends an event, and lets go of those that are too many for it.
    pub(super) fn push(&mut self, held: Held) {
        self.bytes += cost(&held.payload);
        self.events.push_back(held);
        while self.events.len() > self.bounds.events || self.bytes > self.bounds.bytes {
            self.forget_oldest();
        }
    }

    /// Lets go of the events that are too old at `now`.
    pub(super) fn expire(&mut self, now: Duration) {
        let Some(age) = self.bounds.age else { return };
        while self.events.front().is_some_and(|held| now.saturating_sub(held.published) > age) {
            self.forget_oldest();
        }
    }

    /// What `first` will be when these are pushed.
    #[cfg(feature = "durable")]
    pub(super) fn first_after(&self, coming: &[Held]) -> u64 {
        let mut events = self.events.len() + coming.len();
        let mut bytes = self.bytes + coming.iter().map(|held| cost(&held.payload)).sum::<usize>();
        let mut first = self.first;
        for held in self.events.iter().chain(coming) {
            if events <= self.bounds.events && bytes <= self.bounds.bytes {
                break;
            }
            events -= 1;
            bytes -= cost(&held.payload);
            first += 1;
        }
        first
    }

    /// Lets go of everything up to the last event that is larger.
    #[cfg(feature = "durable")]
    pub(super) fn forget_larger_than(&mut self, max_payload_bytes: usize) {
        let last = self.events.iter().rposition(|held| held.payload.len() > max_payload_bytes);
        for _ in 0..last.map_or(0, |last| last + 1) {
            self.forget_oldest();
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn last(&self) -> u64 {
        // As many events as a `u64` counts are never published.
        self.first + u64::try_from(self.events.len()).unwrap_or(u64::MAX) - 1
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The payloads from number `seq` on, which is not below `first`.
    pub(super) fn from(&self, seq: u64) -> impl Iterator<Item = &Bytes> {
        let skipped = usize::try_from(seq - self.first).unwrap_or(usize::MAX);
        self.events.range(skipped.min(self.events.len())..).map(|held| &held.payload)
    }

    fn forget_oldest(&mut self) {
        if let Some(held) = self.events.pop_front() {
            self.first += 1;
            self.bytes -= cost(&held.payload);
        }
    }
}

pub(super) fn cost(payload: &Bytes) -> usize {
    payload.len() + OVERHEAD
}
