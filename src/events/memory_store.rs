//! Events in memory, for logs that end with their process.

use std::{collections::VecDeque, io};

use super::event_store::{Batch, Clocks, EventStore, Extent, StoredEvent};
use crate::sync::{Mutex, lock};

/// An [`EventStore`] in memory. It keeps everything until it is [discarded](EventStore::discard).
#[derive(Debug)]
pub struct MemoryStore {
    events: Mutex<Events>,
}

#[derive(Debug)]
struct Events {
    epoch: u64,
    /// Events below were discarded.
    first: u64,
    next: u64,
    /// With their numbers, of which some may be missing.
    held: VecDeque<(u64, StoredEvent)>,
    clocks: Option<Clocks>,
}

impl MemoryStore {
    /// An empty store, whose first event gets number 1.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        let events = Events { epoch, first: 1, next: 1, held: VecDeque::new(), clocks: None };
        Self { events: Mutex::new(events) }
    }
}

impl Events {
    /// The index in `held` of the event with this number, or of the first event behind it.
    fn index(&self, number: u64) -> usize {
        self.held.partition_point(|(held, _)| *held < number)
    }
}

impl EventStore for MemoryStore {
    fn extent(&self) -> Extent {
        let Events { epoch, first, next, .. } = *lock(&self.events);
        Extent { epoch, first, next }
    }

    fn last_clocks(&self) -> Option<Clocks> {
        lock(&self.events).clocks
    }

    fn append(&self, batch: &Batch) -> io::Result<()> {
        let mut events = lock(&self.events);
        let end = batch.end(events.next)?;
        if !batch.events.is_empty() {
            events.held.extend((batch.first..).zip(batch.events.iter().cloned()));
            events.clocks = Some(batch.clocks);
            events.next = end;
        }
        Ok(())
    }

    fn skip(&self, to: u64) -> io::Result<()> {
        let mut events = lock(&self.events);
        if events.held.is_empty() {
            events.first = events.first.max(to);
        }
        events.next = events.next.max(to);
        Ok(())
    }

    fn set_epoch(&self, epoch: u64) -> io::Result<()> {
        lock(&self.events).epoch = epoch;
        Ok(())
    }

    fn read(&self, from: u64, max_bytes: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
        let events = lock(&self.events);
        let mut bytes = 0_usize;
        for (number, event) in events.held.range(events.index(from)..) {
            out.push((*number, event.clone()));
            bytes = bytes.saturating_add(event.payload.len());
            if bytes >= max_bytes {
                return Ok(number + 1);
            }
        }
        Ok(events.next)
    }

    fn discard(&self, below: u64) -> io::Result<()> {
        let mut events = lock(&self.events);
        let below = below.clamp(events.first, events.next);
        let index = events.index(below);
        events.held.drain(..index);
        events.first = below;
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::conformance::conformance;

    #[test]
    fn a_memory_store_is_an_event_store() {
        conformance(|| MemoryStore::new(3));
    }
}
