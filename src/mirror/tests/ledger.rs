//! Who was told what: what the publisher was told is durable, and what the application got.

use std::{
    collections::{BTreeMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    ops::Range,
    sync::{Arc, MutexGuard},
};

use bytes::Bytes;

use crate::{
    events::Gap,
    sync::{Mutex, lock},
};

/// What a checker compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The application gets event after event.
    Order,
    /// An event is what was published.
    Published,
    /// An event has one number, and is delivered once.
    Once,
    /// A gap begins behind the last event.
    GapPosition,
    /// The epoch of the sensor never changes here.
    SameEpoch,
    /// The number of a durable event is given to no other.
    NumberUsedOnce,
    /// A durable event is delivered as it is.
    SamePayload,
    /// A durable event is delivered, or in a gap.
    Delivered,
    /// A durable event is in a gap only where a log was full.
    GapExplained,
    /// A machine that was switched on again has what it acknowledged.
    Promise,
    /// No mirror stops.
    Following,
    /// Everything arrives soon after the last trouble.
    CatchesUp,
    /// All nodes end with the same event.
    SameEnd,
    /// No damage is reported where nothing was damaged.
    NoDamage,
    /// A node holds what was published under the same numbers.
    SameHistory,
    /// A node lacks a durable event between others only where a log was full.
    NoHoles,
    /// A log keeps to its bound.
    DiskBound,
}

impl Rule {
    /// A finding, if this does not hold.
    pub(super) fn holds(self, holds: bool, text: impl FnOnce() -> String) -> Result<(), Finding> {
        if holds { Ok(()) } else { Err(Finding { rule: self, text: text() }) }
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) rule: Rule,
    pub(super) text: String,
}

#[derive(Clone, Default)]
pub(super) struct SharedLedger(Arc<Mutex<Ledger>>);

#[derive(Default)]
pub(super) struct Ledger {
    /// Every payload that was published, with success or not. No two are the same.
    published: HashSet<Bytes>,
    /// What the publisher was told is durable.
    pub(super) durable: BTreeMap<u64, Bytes>,
    /// What the application got.
    pub(super) delivered: BTreeMap<u64, Bytes>,
    delivered_payloads: HashSet<Bytes>,
    gaps: Vec<Range<u64>>,
    /// The newest event or gap of the application.
    pub(super) last: u64,
    /// When everything happened, in virtual time.
    trace: DefaultHasher,
    findings: Vec<Finding>,
}

impl SharedLedger {
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.0)
    }
}

impl Ledger {
    pub(super) fn publish(&mut self, payload: Bytes) {
        self.published.insert(payload);
    }

    pub(super) fn set_durable(&mut self, seq: u64, payload: Bytes) {
        let other = self.durable.insert(seq, payload.clone());
        let is_same = other.is_none_or(|other| other == payload);
        self.check_that(Rule::NumberUsedOnce, is_same, || format!("two events {seq} are durable"));
    }

    pub(super) fn deliver(&mut self, seq: u64, payload: Bytes) {
        let last = self.last;
        self.check_that(Rule::Order, seq == last + 1, || format!("event {seq} behind event {last}"));
        let is_published = self.published.contains(&payload);
        self.check_that(Rule::Published, is_published, || format!("event {seq} was never published"));
        let is_new = self.delivered_payloads.insert(payload.clone());
        self.check_that(Rule::Once, is_new, || format!("event {seq} was delivered before"));
        self.delivered.insert(seq, payload);
        self.last = seq;
    }

    pub(super) fn deliver_gap(&mut self, gap: &Gap) {
        let last = self.last;
        let follows = gap.from == last + 1 && gap.next_seq > gap.from;
        self.check_that(Rule::GapPosition, follows, || format!("{gap:?} behind event {last}"));
        self.gaps.push(gap.from..gap.next_seq);
        self.last = gap.next_seq - 1;
    }

    pub(super) fn check_that(&mut self, rule: Rule, holds: bool, text: impl FnOnce() -> String) {
        self.findings.extend(rule.holds(holds, text).err());
    }

    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub(super) fn trace(&mut self, what: impl Hash) {
        what.hash(&mut self.trace);
    }

    pub(super) fn digest(&self) -> u64 {
        self.trace.finish()
    }

    pub(super) fn gaps(&self) -> usize {
        self.gaps.len()
    }

    /// The newest event that somebody was told of.
    pub(super) fn newest_known(&self) -> u64 {
        let newest = |events: &BTreeMap<u64, Bytes>| events.keys().next_back().copied().unwrap_or(0);
        newest(&self.durable).max(newest(&self.delivered))
    }

    /// Checks the end of a trial: everything durable was delivered, or its loss is explained.
    pub(super) fn check_delivered(&mut self, is_explained: impl Fn(&Self, u64) -> bool) {
        for (seq, payload) in self.durable.clone() {
            match self.delivered.get(&seq) {
                Some(delivered) => {
                    let is_same = *delivered == payload;
                    self.check_that(Rule::SamePayload, is_same, || format!("event {seq} became another"));
                }
                None => {
                    let is_in_gap = self.gaps.iter().any(|gap| gap.contains(&seq));
                    self.check_that(Rule::Delivered, is_in_gap, || format!("event {seq} is lost silently"));
                    let is_explained = is_explained(self, seq);
                    self.check_that(Rule::GapExplained, is_explained, || format!("event {seq} was kept"));
                }
            }
        }
    }

    /// The events from this number on that somebody was told of. There may be millions of numbers between
    /// two.
    pub(super) fn known_from(&self, seq: u64) -> BTreeMap<u64, Bytes> {
        let events = self.delivered.range(seq..).chain(self.durable.range(seq..));
        events.map(|(seq, payload)| (*seq, payload.clone())).collect()
    }

    /// The most bytes that the events from this number on may take. Nobody was told the numbers of some.
    pub(super) fn bytes_from(&self, seq: u64, largest_payload: usize) -> u64 {
        let bytes = |len: usize| u64::try_from(len).unwrap() + EVENT_OVERHEAD;
        let known = self.known_from(seq);
        let numbers = (self.newest_known() + 1).saturating_sub(seq);
        let unknown_numbers = numbers - u64::try_from(known.len()).unwrap();
        let durable: HashSet<&Bytes> = self.durable.values().collect();
        let is_unknown =
            |payload: &&Bytes| !self.delivered_payloads.contains(*payload) && !durable.contains(payload);
        let unknown: u64 = self.published.iter().filter(is_unknown).map(|payload| bytes(payload.len())).sum();
        let known: u64 = known.into_values().map(|payload| bytes(payload.len())).sum();
        known + unknown.min(unknown_numbers.saturating_mul(bytes(largest_payload)))
    }
}

/// An event in a commit of its own takes no more than this beside its payload.
const EVENT_OVERHEAD: u64 = 90;
