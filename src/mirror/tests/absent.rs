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
const MEMORY_BYTES: usize = 64 * 1024;
/// The smallest segment of a log.
const SEGMENT_BYTES: u64 = 64 * 1024;
/// What is in the directory of a log beside its segments and the consumers.
const OTHER_BYTES: u64 = 136 * 1024;
/// Of the file of the consumers, which has a hole that takes no space.
const CONSUMERS_LEN: u64 = 160 * 1024;

fn bounds(sim: &Sim, large_bytes: u64) -> EventLogBuilder {
    EventLog::builder()
        .max_events(100)
        .max_bytes(256 * 1024)
        .memory_bytes(MEMORY_BYTES)
        .max_payload_bytes(4096)
        .keep_unacknowledged(large_bytes)
        .consumer("centre")
        .shared_runtime(sim.runtime())
}

/// What was published in a week, and what the consumer got then.
#[derive(Default)]
struct Week {
    published: u64,
    refused: u64,
    /// The number of the first event that it got.
    first: u64,
    got: u64,
    gaps: u64,
}

/// A sensor publishes once a minute while the consumer is away.
async fn week(sim: Sim, large_bytes: u64, refuses: bool) -> Week {
    let bounds = bounds(&sim, large_bytes);
    let bounds = if refuses { bounds.refuse_when_full() } else { bounds };
    let disks = Disks::new(3, true);
    let log = disks.origin(bounds, &Power::on(), StorageFault::Nothing).unwrap();
    let mut week = Week::default();
    publish(&sim, &log, &disks, large_bytes, &mut week).await;

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
    assert!(log.len() <= 100, "{} events", log.len());
    week
}

async fn publish(sim: &Sim, log: &EventLog, disks: &Disks, large_bytes: u64, week: &mut Week) {
    let (mut random, mut memory, began) = (Rng::with_seed(1), Vec::new(), sim.elapsed());
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
            let most = large_bytes + OTHER_BYTES + CONSUMERS_LEN;
            assert!(taken <= most, "{taken} bytes after {event} events");
            memory.push(log.memory_bytes());
        }
    }
    assert!(sim.elapsed() - began >= WEEK);
    let [least, most] = [memory.iter().min(), memory.iter().max()].map(|bytes| *bytes.unwrap());
    assert!(most <= MEMORY_BYTES && most - least < MEMORY_BYTES / 4, "memory is flat: {memory:?}");
}

fn in_virtual_time(large_bytes: u64, refuses: bool) -> Week {
    let sim = Sim::new(5);
    let threads = SimulatedThreads::new(&sim, Duration::from_millis(5));
    threads.enter(move || sim.run(week(sim.clone(), large_bytes, refuses)))
}

#[test]
fn nothing_is_lost_in_a_week_that_fits_the_large_bound() {
    let week = in_virtual_time(8 << 20, false);
    assert_eq!((week.first, week.got, week.gaps), (1, EVENTS, 0));
}

#[test]
fn a_week_beyond_the_large_bound_costs_the_oldest_events() {
    let large = 1 << 20;
    let week = in_virtual_time(large, false);
    assert_eq!((week.published, week.gaps), (EVENTS, 1));
    assert_eq!(week.first + week.got - 1, EVENTS, "everything from the first on");
    // The oldest segment goes as a whole, and the newest may be empty.
    let largest = u64::try_from(LARGEST_PAYLOAD).unwrap() + 90;
    let fit = (large - 2 * SEGMENT_BYTES) / largest;
    assert!(week.got >= fit, "{} events, though {fit} fit", week.got);
}

#[test]
fn a_week_beyond_the_large_bound_is_refused_if_the_owner_wants_that() {
    let week = in_virtual_time(1 << 20, true);
    assert_eq!((week.first, week.got, week.gaps), (1, week.published, 0));
    assert_eq!(week.published + week.refused, EVENTS);
    assert!(week.refused > 0);
}
