//! The virtual clock and its future events, in order.

use std::{collections::BTreeMap, task::Waker, time::Instant};

use super::network::Datagram;

/// The time of an event, and a number that keeps events of the same instant in order.
pub(super) type Slot = (Instant, u64);

pub(super) enum ScheduledEvent {
    Wake(Waker),
    Arrival(Datagram),
}

/// The virtual present, and the events after it.
pub(super) struct Agenda {
    now: Instant,
    events: BTreeMap<Slot, ScheduledEvent>,
    next_id: u64,
}

impl Agenda {
    pub(super) fn new(start: Instant) -> Self {
        Self { now: start, events: BTreeMap::new(), next_id: 0 }
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn add(&mut self, at: Instant, event: ScheduledEvent) -> Slot {
        self.next_id += 1;
        let slot = (at, self.next_id);
        self.events.insert(slot, event);
        slot
    }

    /// Takes an event off the agenda before its time; `None` where it has happened.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<ScheduledEvent> {
        self.events.remove(&slot)
    }

    /// Takes the first event, and makes its time the present.
    pub(super) fn next(&mut self) -> Option<ScheduledEvent> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = self.now.max(at);
        Some(event)
    }

    pub(super) fn clear(&mut self) -> BTreeMap<Slot, ScheduledEvent> {
        std::mem::take(&mut self.events)
    }
}
