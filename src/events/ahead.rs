//! Events that were read ahead of a subscriber.

use std::collections::VecDeque;

use bytes::Bytes;

use super::stored_event::StoredEvent;

/// Events that were read from the store, and are not sent yet.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// In the order of their numbers, of which some may be missing.
    events: VecDeque<(u64, StoredEvent)>,
    /// Behind the events, and behind the lost ones that follow them.
    end: u64,
}

impl Ahead {
    #[cfg(feature = "durable")]
    pub(super) fn new(events: VecDeque<(u64, StoredEvent)>, end: u64) -> Self {
        Self { events, end }
    }

    /// The store has none of the events up to this number.
    pub(super) fn nothing_before(end: u64) -> Self {
        Self { events: VecDeque::new(), end }
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Bytes)> {
        self.events.pop_front().map(|(seq, event)| (seq, event.payload))
    }

    /// The number of the next event that is held.
    pub(super) fn next(&self) -> u64 {
        self.events.front().map_or(self.end, |(seq, _)| *seq)
    }
}
