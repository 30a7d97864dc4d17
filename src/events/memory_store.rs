//! Events in memory, for logs that end with their process.

use std::{collections::VecDeque, io};

use super::event_store::{Batch, Clocks, EventStore, Extent, StoredEvent};
use crate::sync::{Mutex, lock};

/// An [`EventStore`] in memory. It keeps everything until it is [discarded](EventStore::discard).
#[derive(Debug)]
pub struct MemoryStore {
    epoch: u64,
    events: Mutex<Events>,
}

#[derive(Debug)]
struct Events {
    /// The number of the oldest event in `held`, or the next number if that is empty.
    first: u64,
    held: VecDeque<StoredEvent>,
    clocks: Option<Clocks>,
}

impl MemoryStore {
    /// An empty store, whose first event gets number 1.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self { epoch, events: Mutex::new(Events { first: 1, held: VecDeque::new(), clocks: None }) }
    }
}

impl Events {
    fn next(&self) -> u64 {
        self.first.saturating_add(u64::try_from(self.held.len()).unwrap_or(u64::MAX))
    }

    /// The index in `held` of the event with this number, or of the first event behind it.
    fn index(&self, number: u64) -> usize {
        usize::try_from(number.saturating_sub(self.first)).map_or(self.held.len(), |n| n.min(self.held.len()))
    }
}

impl EventStore for MemoryStore {
    fn extent(&self) -> Extent {
        let events = lock(&self.events);
        Extent { epoch: self.epoch, first: events.first, next: events.next() }
    }

    fn last_clocks(&self) -> Option<Clocks> {
        lock(&self.events).clocks
    }

    fn append(&self, batch: &Batch) -> io::Result<()> {
        let mut events = lock(&self.events);
        batch.end(events.next())?;
        if !batch.events.is_empty() {
            events.held.extend(batch.events.iter().cloned());
            events.clocks = Some(batch.clocks);
        }
        Ok(())
    }

    fn read(&self, from: u64, max_bytes: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
        let events = lock(&self.events);
        let mut number = from.max(events.first);
        let mut bytes = 0_usize;
        for event in events.held.range(events.index(number)..) {
            out.push((number, event.clone()));
            number += 1;
            bytes = bytes.saturating_add(event.payload.len());
            if bytes >= max_bytes {
                break;
            }
        }
        Ok(number.min(events.next()))
    }

    fn discard(&self, below: u64) -> io::Result<()> {
        let mut events = lock(&self.events);
        let below = below.clamp(events.first, events.next());
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
