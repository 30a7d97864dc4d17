//! A consumer does not come back for a week.

use std::time::Duration;

use fastrand::Rng;

use super::fleet::{Disks, client, serve};
use crate::{
    ErrorKind, SubscriptionItem,
    events::{Cursor, EventLog, EventLogBuilder, Power, SimulatedThreads, StorageFault},
    sim::Sim,
};

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const EVENT_EVERY: Duration = Duration::from_secs(60);
const EVENTS: u64 = 7 * 24 * 60;
const LARGEST_PAYLOAD: usize = 500;
const MAX_EVENTS: usize = 100;
const MEMORY_BYTES: usize = 64 * 1024;
/// The smallest segment of a log.
const SEGMENT_BYTES: u64 = 64 * 1024;
/// What is in the directory of a log beside its segments and the consumers.
const OTHER_BYTES: u64 = 136 * 1024;
/// Of the file of the consumers, which has a hole that takes no space.
const CONSUMERS_LEN: u64 = 160 * 1024;

/// What a week is tried with.
#[derive(Clone, Copy)]
struct Setup {
    large_bytes: u64,
    refuses: bool,
    max_events: usize,
    memory_bytes: usize,
    fault: StorageFault,
}

impl Setup {
    fn new(large_bytes: u64) -> Self {
        let (max_events, memory_bytes) = (MAX_EVENTS, MEMORY_BYTES);
        Self { large_bytes, refuses: false, max_events, memory_bytes, fault: StorageFault::Nothing }
    }

    fn refusing(large_bytes: u64) -> Self {
        Self { refuses: true, ..Self::new(large_bytes) }
    }

    fn fault(self, fault: StorageFault) -> Self {
        Self { fault, ..self }
    }
}

fn bounds(sim: &Sim, setup: Setup) -> EventLogBuilder {
    let bounds = EventLog::builder()
        .max_events(setup.max_events)
        .max_bytes(256 * 1024)
        .memory_bytes(setup.memory_bytes)
        .max_payload_bytes(4096)
        .keep_unacknowledged(setup.large_bytes)
        .consumer("centre")
        .shared_runtime(sim.runtime());
    if setup.refuses { bounds.refuse_when_full() } else { bounds }
}

/// What was published in a week, and what the consumer got then.
#[derive(Debug, Default)]
struct Week {
    published: u64,
    refused: u64,
    /// The number of the first event that it got.
    first: u64,
    got: u64,
    gaps: u64,
    /// The most that the directory took.
    disk_bytes: u64,
    /// Of the log, ten times a day.
    memory: Vec<usize>,
}

impl Week {
    fn is_within_disk_bound(&self, large_bytes: u64) -> bool {
        self.disk_bytes <= large_bytes + OTHER_BYTES + CONSUMERS_LEN
    }

    fn has_flat_memory(&self) -> bool {
        let [least, most] = [self.memory.iter().min(), self.memory.iter().max()].map(|bytes| *bytes.unwrap());
        most <= MEMORY_BYTES && most - least < MEMORY_BYTES / 4
    }

    #[track_caller]
    fn check_bounds(&self, large_bytes: u64) {
        assert!(self.is_within_disk_bound(large_bytes), "{} bytes", self.disk_bytes);
        assert!(self.has_flat_memory(), "memory is flat: {:?}", self.memory);
    }

    fn is_complete(&self) -> bool {
        (self.first, self.got, self.gaps) == (1, self.published, 0)
    }
}

/// A sensor publishes once a minute while the consumer is away.
async fn week(sim: Sim, setup: Setup) -> Week {
    let disks = Disks::new(3, true);
    let log = disks.origin(bounds(&sim, setup), &Power::on(), setup.fault).unwrap();
    let mut week = Week::default();
    publish(&sim, &log, &disks, &mut week).await;

    let (sensor, centre) = (sim.host([10, 0, 0, 1]), sim.host([10, 0, 0, 3]));
    let _served = serve(&sensor, log.clone().into()).unwrap();
    let client = client(&centre, &[&sensor]);
    let from = Cursor::new(Some(log.epoch()), 0);
    let mut subscription = client.subscribe_raw().consumer("centre").resume(from).open();
    let mut expected = 1;
    while expected <= log.committed_seq() {
        match subscription.next_raw().await.unwrap() {
            SubscriptionItem::Event { seq, payload, .. } => {
                assert_eq!(seq, expected);
                assert!(payload.starts_with(format!("{seq} ").as_bytes()), "event {seq} is another one");
                week.first = if week.got == 0 { seq } else { week.first };
                week.got += 1;
                expected += 1;
            }
            SubscriptionItem::Gap(gap) => {
                assert_eq!(gap.from, expected);
                week.gaps += 1;
                expected = gap.next_seq;
            }
            SubscriptionItem::Connected { .. } | SubscriptionItem::Disconnected { .. } => {}
        }
    }
    subscription.ack();
    while subscription.acknowledged().is_none_or(|cursor| cursor.seq() < log.committed_seq()) {
        sim.sleep(Duration::from_millis(100)).await;
    }
    // A log that was full takes events again, and the small bound holds.
    log.publish_durable_raw("after the week").await.unwrap();
    assert!(log.len() <= setup.max_events, "{} events", log.len());
    week
}

async fn publish(sim: &Sim, log: &EventLog, disks: &Disks, week: &mut Week) {
    let (mut random, began) = (Rng::with_seed(1), sim.elapsed());
    for event in 0..EVENTS {
        sim.sleep(EVENT_EVERY).await;
        let mut payload = format!("{} ", week.published + 1).into_bytes();
        payload.resize(random.usize(100..LARGEST_PAYLOAD), b'.');
        match log.publish_durable_raw(payload).await {
            Ok(_) => week.published += 1,
            Err(error) => {
                assert_eq!(error.kind(), &ErrorKind::Exhausted, "{error:?}");
                week.refused += 1;
            }
        }
        if event % 144 == 143 {
            let mut taken = 0;
            disks.for_each(|disk| taken += disk.bytes_of(""));
            week.disk_bytes = week.disk_bytes.max(taken);
            week.memory.push(log.memory_bytes());
        }
    }
    assert!(sim.elapsed() - began >= WEEK);
}

fn in_virtual_time(setup: Setup) -> Week {
    let sim = Sim::new(5);
    let threads = SimulatedThreads::new(&sim, Duration::from_millis(5));
    threads.enter(move || sim.run(week(sim.clone(), setup)))
}

/// More than a week takes.
const FITS: u64 = 8 << 20;
/// Less than a week takes.
const TOO_SMALL: u64 = 1 << 20;

#[test]
fn nothing_is_lost_in_a_week_that_fits_the_large_bound() {
    let week = in_virtual_time(Setup::new(FITS));
    week.check_bounds(FITS);
    assert!(week.is_complete() && week.got == EVENTS, "{week:?}");
}

#[test]
fn a_log_that_ignores_that_nothing_was_acknowledged_loses_events_in_a_week() {
    let week = in_virtual_time(Setup::new(FITS).fault(StorageFault::DiscardUnacknowledged));
    assert!(!week.is_complete(), "{week:?}");
}

#[test]
fn a_log_that_may_have_much_in_memory_does_not_keep_it_flat_in_a_week() {
    let week = in_virtual_time(Setup { max_events: usize::MAX, memory_bytes: 4 << 20, ..Setup::new(FITS) });
    assert!(!week.has_flat_memory(), "{week:?}");
}

#[test]
fn a_week_beyond_the_large_bound_costs_the_oldest_events() {
    let week = in_virtual_time(Setup::new(TOO_SMALL));
    week.check_bounds(TOO_SMALL);
    assert_eq!((week.published, week.gaps), (EVENTS, 1));
    assert_eq!(week.first + week.got - 1, EVENTS, "everything from the first on");
    assert!(week.got >= least_kept(), "{} events", week.got);
}

/// The oldest segment goes as a whole, and the newest may be empty.
fn least_kept() -> u64 {
    let largest = u64::try_from(LARGEST_PAYLOAD).unwrap() + 90;
    (TOO_SMALL - 2 * SEGMENT_BYTES) / largest
}

#[test]
fn a_log_that_discards_too_much_or_too_little_in_a_week_is_found() {
    let week = in_virtual_time(Setup::new(TOO_SMALL).fault(StorageFault::DiscardUnacknowledged));
    assert!(week.got < least_kept(), "{week:?}");
    let week = in_virtual_time(Setup::new(TOO_SMALL).fault(StorageFault::KeepTooMuch));
    assert!(!week.is_within_disk_bound(TOO_SMALL), "{week:?}");
}

#[test]
fn a_week_beyond_the_large_bound_is_refused_if_the_owner_wants_that() {
    let week = in_virtual_time(Setup::refusing(TOO_SMALL));
    week.check_bounds(TOO_SMALL);
    assert!(week.is_complete(), "{week:?}");
    assert_eq!(week.published + week.refused, EVENTS);
    assert!(week.refused > 0);
}

#[test]
fn a_log_that_discards_what_it_should_refuse_for_is_found() {
    let week = in_virtual_time(Setup::refusing(TOO_SMALL).fault(StorageFault::DiscardUnacknowledged));
    assert!(!week.is_complete() || week.refused == 0, "{week:?}");
}
