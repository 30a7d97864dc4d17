//! The history of an event log, opened to the cases: the log itself adds nothing that depends on threads.

mod history;
mod ring;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use self::{
    history::{History, SubscriberSlot},
    ring::{Bounds, Ring, StoredEvent},
};
use crate::sync::EventListener;

pub(crate) use self::history::{GapBefore, Position};

#[derive(Clone)]
pub(crate) struct Log(Arc<History>);

impl Log {
    pub(crate) fn new(max_subscribers: usize) -> Self {
        let bounds = Bounds { events: 100, bytes: 1 << 20, age: None };
        Self(History::new(1, bounds, max_subscribers, Ring::new(bounds, 1)))
    }

    pub(crate) fn publish(&self, payload: &'static str) -> u64 {
        self.0.append([StoredEvent { payload: Bytes::from_static(payload.as_bytes()), published: Duration::ZERO }])
    }

    pub(crate) fn subscribe(&self) -> (Position, Option<GapBefore>) {
        self.0.subscribe(Some(0), None)
    }

    pub(crate) fn read(&self, position: &mut Position, events: &mut Vec<(u64, Bytes)>) -> Option<GapBefore> {
        self.0.read(position, usize::MAX, events)
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
