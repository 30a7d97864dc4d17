//! The history of an event log, opened to the cases: the log itself adds nothing that depends on threads.

mod history;
mod log_clock;
mod ring;
mod stored_event;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use self::{
    history::{History, Older, Read, SubscriberSlot},
    log_clock::{LogClock, system_clocks},
    ring::Bounds,
    stored_event::StoredEvent,
};
use crate::sync::EventListener;

pub(crate) use self::history::{GapBefore, Position};

#[derive(Clone)]
pub(crate) struct Log(Arc<History>);

impl Log {
    pub(crate) fn new(max_subscribers: usize) -> Self {
        let bounds = Bounds { events: 100, bytes: 1 << 20, age: None, unacknowledged: None };
        let clock = LogClock::starting(system_clocks(Instant::now));
        Self(History::new(1, 1, bounds, max_subscribers, clock))
    }

    pub(crate) fn publish(&self, payload: &'static str) -> u64 {
        let payload = Bytes::from_static(payload.as_bytes());
        self.0.publish(StoredEvent { payload, published: Duration::ZERO }).expect("nothing is refused")
    }

    pub(crate) fn subscribe(&self) -> Position {
        self.0.position(1, Some(0), None)
    }

    pub(crate) fn read(&self, position: &mut Position, events: &mut Vec<(u64, Bytes)>) -> Option<GapBefore> {
        match self.0.read(position, Older::Discarded, usize::MAX, events) {
            Read::Events(gap) => gap,
            Read::Stored { .. } => panic!("nothing is stored"),
        }
    }

    pub(crate) fn listen(&self) -> EventListener {
        self.0.listen()
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.0.last_seq()
    }

    pub(crate) fn admit_subscriber(&self) -> Option<SubscriberSlot> {
        self.0.admit_subscriber()
    }

    pub(crate) fn subscribers(&self) -> usize {
        self.0.subscribers()
    }
}
