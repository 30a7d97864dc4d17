//! Faults planted in a mirror, which the tests must find.

#![cfg_attr(not(all(feature = "cert", feature = "sim")), allow(dead_code, reason = "the tests need both"))]

use std::cell::Cell;

use bytes::Bytes;

use crate::events::{EventLog, PlantedFault};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    Nothing,
    /// Events are acknowledged when they are received, and not when they are durable.
    AckReceived,
    /// Events behind a gap get the numbers of the gap.
    DropGaps,
    /// Some events are appended twice.
    AppendTwice,
    /// Some events are left out, as if the origin had lost them.
    LeaveOutEvents,
    /// Some events are changed.
    ChangePayloads,
    /// The mirror waits for ever when its connection is lost for the first time.
    StopWhenDisconnected,
}

thread_local! {
    static CURRENT: Cell<Sabotage> = const { Cell::new(Sabotage::Nothing) };
}

static PLANTED: PlantedFault<Sabotage> = PlantedFault::new(&CURRENT, Sabotage::Nothing);

pub(super) fn is(sabotage: Sabotage) -> bool {
    PLANTED.is(sabotage)
}

/// What is appended in the place of an event of the origin.
pub(super) fn changed(log: &EventLog, seq: u64, payload: Bytes) -> (u64, Bytes) {
    let next = log.last_seq() + 1;
    match PLANTED.get() {
        Sabotage::DropGaps | Sabotage::AppendTwice => (next, payload),
        Sabotage::ChangePayloads if seq.is_multiple_of(8) => (seq, payload.slice(1..)),
        _ => (seq, payload),
    }
}

/// Runs the test with this fault planted on this thread.
pub(super) fn with<T>(sabotage: Sabotage, test: impl FnOnce() -> T) -> T {
    PLANTED.with(sabotage, test)
}
