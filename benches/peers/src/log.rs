//! An event log for those who bring none: all events in memory, and a bell.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use event_listener::{Event, EventListener};

use crate::setup::{Setup, event};

pub struct Log {
    events: Mutex<Vec<Bytes>>,
    published: Event,
}

impl Log {
    pub fn new(setup: &Setup) -> Self {
        let events = (0..setup.event_count()).map(|n| Bytes::from(event(n))).collect();
        Self { events: Mutex::new(events), published: Event::new() }
    }

    pub fn publish(&self, payload: Bytes) {
        self.lock().push(payload);
        self.published.notify(usize::MAX);
    }

    /// To be asked for before [`after`](Self::after), so that nothing published in between goes unnoticed.
    pub fn listen(&self) -> EventListener {
        self.published.listen()
    }

    /// The next events after the first `position`, at most `max` of them; numbers begin at 1.
    pub fn after(&self, position: u64, max: usize) -> Vec<(u64, Bytes)> {
        let start = usize::try_from(position).unwrap_or(usize::MAX);
        let events = self.lock();
        (position + 1..).zip(events.iter().skip(start).take(max).cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
