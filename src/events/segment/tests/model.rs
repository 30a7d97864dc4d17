//! What a log must be like after everything that a test did to its store.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::EPOCH;
use crate::events::{
    event_store::{Batch, Clocks, EventStore, StoredEvent},
    segment::{LostEvents, SegmentStore, sim_disk::SimDisk},
};

/// The memory of everybody who uses the log.
#[derive(Default)]
pub(super) struct Model {
    /// What publishers were told is durable.
    pub(super) acknowledged: BTreeMap<u64, Bytes>,
    /// What publishers were told has failed, and may have been written.
    pub(super) failed: BTreeMap<u64, Vec<Bytes>>,
    /// What subscribers got.
    delivered: BTreeMap<u64, Bytes>,
    /// Whether lost events may be in the report.
    pub(super) may_be_damaged: bool,
    /// Whether the report may have numbers that no event had for certain.
    pub(super) may_be_in_doubt: bool,
}

impl Model {
    /// A disk, and a log on it of which no damage must be reported. In a segment that grows, a torn batch
    /// cannot be told from a damaged one.
    pub(super) fn on_disk(seed: u64, filled: bool) -> (SimDisk, Self) {
        (SimDisk::new(seed, filled), Self { may_be_in_doubt: !filled, ..Self::default() })
    }

    /// Appends a batch of random events. The error is that of the disk, if any.
    pub(super) fn append(
        &mut self,
        store: &SegmentStore,
        random: &mut fastrand::Rng,
    ) -> Result<std::io::Result<()>, String> {
        let first = store.extent().next;
        if let Some((used, _)) = self.acknowledged.range(first..).chain(self.delivered.range(first..)).next()
        {
            return Err(format!("number {first} is next, but {used} was used"));
        }
        let count = if random.u8(..3) == 0 { random.u64(2..12) } else { 1 };
        let events: Vec<_> = (0..count).map(|_| event(random)).collect();
        let numbered: Vec<_> = (first..).zip(events.iter().map(|event| event.payload.clone())).collect();
        let appended = store.append(&Batch { first, events, clocks: Clocks::default() });
        match &appended {
            Ok(()) => self.acknowledged.extend(numbered),
            Err(_) => numbered.into_iter().for_each(|(number, payload)| {
                self.failed.entry(number).or_default().push(payload);
            }),
        }
        Ok(appended)
    }

    /// Reads everything, and compares it with what must be there.
    pub(super) fn check(&mut self, store: &SegmentStore, random: &mut fastrand::Rng) -> Result<(), String> {
        let read = read_all(store, random)?;
        let lost = store.lost();
        self.check_events(&read, &lost)?;
        let extent = store.extent();
        if extent.epoch != EPOCH {
            return Err(format!("a new epoch began: {extent:?}"));
        }
        let used = self.acknowledged.keys().chain(self.delivered.keys()).max().copied().unwrap_or(0);
        if extent.next <= used {
            return Err(format!("number {} is next, but {used} was used", extent.next));
        }
        let is_known = |lost: &LostEvents| {
            let numbers = lost.first..=lost.last;
            let known = self.acknowledged.range(numbers.clone()).chain(self.delivered.range(numbers));
            lost.exact || !self.may_be_in_doubt || known.count() > 0
        };
        if !self.may_be_damaged && lost.iter().any(is_known) {
            return Err(format!("nothing was damaged, but this is reported: {lost:?}"));
        }
        for (number, _) in self.acknowledged.range(extent.first..) {
            if !read.contains_key(number) && !is_listed(&lost, *number) {
                return Err(format!("event {number} is lost, and not reported: {lost:?}"));
            }
        }
        self.delivered.extend(read);
        Ok(())
    }

    fn check_events(&self, read: &BTreeMap<u64, Bytes>, lost: &[LostEvents]) -> Result<(), String> {
        for (number, payload) in read {
            let known = match (self.acknowledged.get(number), self.delivered.get(number)) {
                (Some(known), _) | (None, Some(known)) => known == payload,
                (None, None) => self.failed.get(number).is_some_and(|failed| failed.contains(payload)),
            };
            if !known {
                return Err(format!(
                    "event {number} has a payload that it never had, or another than before"
                ));
            }
        }
        if !self.may_be_damaged && lost.iter().any(|lost| read.contains_key(&lost.first)) {
            return Err(format!("events are reported as lost, and there: {lost:?}"));
        }
        Ok(())
    }

    /// The log was not closed, and the file with the last events was truncated: they are gone without a
    /// trace.
    pub(super) fn forgive(&mut self, from: u64) {
        let forgiven = [self.acknowledged.split_off(&from), self.delivered.split_off(&from)];
        for (number, payload) in forgiven.into_iter().flatten() {
            self.failed.entry(number).or_default().push(payload);
        }
    }
}

pub(super) fn is_listed(lost: &[LostEvents], number: u64) -> bool {
    lost.iter().any(|lost| (lost.first..=lost.last).contains(&number))
}

/// Everything that a subscriber gets.
pub(super) fn read_all(
    store: &SegmentStore,
    random: &mut fastrand::Rng,
) -> Result<BTreeMap<u64, Bytes>, String> {
    let mut read = BTreeMap::new();
    let (mut from, end) = (store.extent().first, store.extent().next);
    while from < end {
        if random.bool() {
            let (wanted, began) = (random.u64(0..50), from);
            store.read_cached(from, &mut |number, event| {
                assert_eq!(number, from, "in order and without holes");
                read.insert(number, event.payload);
                from = number + 1;
                number - began < wanted
            });
            continue;
        }
        let mut out = Vec::new();
        let next =
            store.read(from, random.usize(..5000), &mut out).map_err(|error| format!("read: {error}"))?;
        let numbers: Vec<u64> = out.iter().map(|(number, _)| *number).collect();
        if next <= from || numbers.iter().any(|number| !(from..next).contains(number)) || !numbers.is_sorted()
        {
            return Err(format!("a read from {from} gives {numbers:?} and {next}"));
        }
        if out.is_empty() && next < end {
            return Err(format!("a read from {from} gives nothing, but more is to be read from {next} on"));
        }
        read.extend(out.into_iter().map(|(number, event)| (number, event.payload)));
        from = next;
    }
    Ok(read)
}

fn event(random: &mut fastrand::Rng) -> StoredEvent {
    let len = if random.u8(..8) == 0 { random.usize(..6000) } else { random.usize(..200) };
    let mut payload = vec![0; len];
    // Zeros look like sectors that were never written.
    if random.u8(..4) > 0 {
        random.fill(&mut payload);
    }
    StoredEvent { payload: payload.into(), published: Duration::from_millis(random.u64(..1 << 40)) }
}
