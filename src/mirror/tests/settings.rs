//! What the seed of a trial chooses.

use std::time::Duration;

use fastrand::Rng;

use super::{super::sabotage::Sabotage, application::ApplicationFault, ledger::Ledger};
use crate::{
    events::{EventLog, EventLogBuilder, StorageFault},
    sim::{Link, Sim},
};

pub(super) const SENSOR: usize = 0;
pub(super) const GATEWAY: usize = 1;
pub(super) const CENTRE: usize = 2;

/// The smallest segment of a log.
const SEGMENT_BYTES: u64 = 64 * 1024;
const MAX_BYTES: u64 = 256 * 1024;
const MAX_PAYLOAD_BYTES: usize = 16 * 1024;
const MEMORY_BYTES: usize = 24 * 1024;

/// The nodes, their links and what is published.
pub(super) struct Settings {
    pub(super) link: Link,
    pub(super) is_filled: bool,
    /// Whether the consumers are known to the logs before they were heard of.
    pub(super) declares: bool,
    /// Whether logs that are full refuse events.
    pub(super) refuses: bool,
    /// Whether the application may change between the nodes. It acknowledges nothing then.
    pub(super) fails_over: bool,
    /// Of each log, for events that are not acknowledged.
    pub(super) large_bytes: u64,
    small_events: usize,
    commit_interval: Duration,
    commit_events: usize,
    pub(super) events: u32,
    pub(super) largest_payload: usize,
}

/// The faults of a trial that a checker must find.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plant {
    pub(super) mirror: Sabotage,
    /// Of each node.
    pub(super) storage: [StorageFault; 3],
    pub(super) application: ApplicationFault,
}

impl Plant {
    pub(super) const NOTHING: Self = Self {
        mirror: Sabotage::Nothing,
        storage: [StorageFault::Nothing; 3],
        application: ApplicationFault::Nothing,
    };
}

impl Settings {
    pub(super) fn new(random: &mut Rng) -> Self {
        let delay = Duration::from_millis(random.u64(1..80));
        let loss = if random.bool() { 0.0 } else { 0.05 * random.f64() };
        let link = Link::new().delay(delay).jitter(delay / 4).loss(loss).duplication(0.01);
        // One of four publishes more than the large bound holds.
        let (events, largest_payload) =
            if random.u8(..4) == 0 { (random.u32(100..200), 12_000) } else { (random.u32(30..90), 900) };
        Self {
            link,
            is_filled: random.u8(..4) > 0,
            declares: random.bool(),
            refuses: random.u8(..3) == 0,
            fails_over: random.u8(..3) == 0,
            large_bytes: 512 * 1024,
            small_events: random.usize(4..30),
            commit_interval: Duration::from_millis(random.u64(1..200)),
            commit_events: random.usize(2..64),
            events,
            largest_payload,
        }
    }

    /// The bounds of the log of a node.
    pub(super) fn bounds(&self, sim: &Sim, node: usize) -> EventLogBuilder {
        let bounds = EventLog::builder()
            .max_payload_bytes(MAX_PAYLOAD_BYTES)
            .memory_bytes(MEMORY_BYTES)
            .max_events(self.small_events)
            .max_bytes(MAX_BYTES)
            .keep_unacknowledged(self.large_bytes)
            .commit_interval(self.commit_interval)
            .commit_events(self.commit_events)
            .shared_runtime(sim.runtime());
        // Each holder keeps for an application that may come from another one.
        let bounds =
            if self.fails_over { bounds.max_events(usize::MAX).max_bytes(self.large_bytes) } else { bounds };
        let bounds = if self.refuses { bounds.refuse_when_full() } else { bounds };
        match self.consumer_of(node) {
            Some(consumer) if self.declares => bounds.consumer(consumer),
            _ => bounds,
        }
    }

    /// Whether a mirror may lack this event. A log that refuses events keeps those that a mirror has not
    /// acknowledged.
    pub(super) fn is_explained(&self, ledger: &Ledger, seq: u64, troubles: u64) -> bool {
        !self.refuses && self.was_full(ledger, seq, troubles)
    }

    /// Whether the application may have got a gap in the place of this event. If it may change between the
    /// nodes, none of them knows it as a consumer: what the next mirror has acknowledged goes when a log is
    /// full, though it refuses events.
    pub(super) fn is_explained_to_application(&self, ledger: &Ledger, seq: u64, troubles: u64) -> bool {
        (!self.refuses || self.fails_over) && self.was_full(ledger, seq, troubles)
    }

    /// Whether a log was full, so that the oldest of its events went, up to this one at least.
    fn was_full(&self, ledger: &Ledger, seq: u64, troubles: u64) -> bool {
        // Two segments in a row hold more than one would if it were full: the batch that begins the second
        // had no room in the first. Each power cut and each failure may leave another one half empty, the
        // oldest goes as a whole, and headers take as much as one.
        let slack = (troubles + 2) * SEGMENT_BYTES;
        let most = ledger.bytes_from(seq, self.largest_payload);
        2 * most + slack >= self.large_bytes
    }

    /// Who acknowledges the events of a node.
    pub(super) fn consumer_of(&self, node: usize) -> Option<&'static str> {
        match node {
            SENSOR => Some("gateway"),
            GATEWAY => Some("centre"),
            _ => (!self.fails_over).then_some("application"),
        }
    }
}
