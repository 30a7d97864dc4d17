//! What a mirror says of itself, of a gap that it was sent before it lost its power.

use std::{sync::Arc, time::Duration};

use super::{
    super::Mirror,
    fleet::{Disks, PoweredLogs, client, serve},
    within,
};
use crate::{
    Raw,
    events::{EventLog, EventLogBuilder, Power, SimulatedThreads, StorageFault},
    protocol::STREAM_EVENTS,
    sim::{Host, Sim},
};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn bounds(sim: &Sim) -> EventLogBuilder {
    EventLog::builder()
        .max_events(1000)
        .max_bytes(512 * 1024)
        .memory_bytes(64 * 1024)
        .max_payload_bytes(4096)
        .shared_runtime(sim.runtime())
}

/// A mirror on a machine that is switched on.
pub(super) fn switch_on(sim: &Sim, host: &Host, origin: &Host, disks: &Disks) -> (Mirror, Power) {
    let power = Power::on();
    let logs = PoweredLogs { disks: disks.clone(), power: power.clone(), fault: StorageFault::Nothing };
    let builder = Mirror::builder::<Raw>(&client(host, &[origin]), STREAM_EVENTS).bounds(bounds(sim));
    (builder.open_in(Arc::new(logs)).unwrap(), power)
}

async fn publish(log: &EventLog, count: u64) {
    for _ in 0..count {
        log.publish_durable_raw("event").await.unwrap();
    }
}

/// How many numbers the mirror says that it left out, before and after it loses its power behind a gap.
async fn loses_power_behind_a_gap(sim: Sim) -> (u64, u64) {
    let (sensor, gateway) = (sim.host([10, 0, 0, 1]), sim.host([10, 0, 0, 2]));
    let log = Disks::new(1, true).origin(bounds(&sim), &Power::on(), StorageFault::Nothing).unwrap();
    let _served = serve(&sensor, log.clone().into()).unwrap();
    publish(&log, 10).await;

    let disks = Disks::new(2, true);
    let (mirror, power) = switch_on(&sim, &gateway, &sensor, &disks);
    let has = |mirror: &Mirror, last| {
        let (log, sim) = (mirror.log(), sim.clone());
        async move {
            let log = log.unwrap();
            within(&sim, LIMIT, "writing", async { log.flush().await.unwrap() }).await.unwrap();
            assert_eq!(log.committed_seq(), last);
        }
    };
    within(&sim, LIMIT, "10 events", mirror.wait_for(|status| status.last_seq == 10)).await.unwrap();
    has(&mirror, 10).await;
    // The origin has lost two ranges, one behind the other, and has nothing newer.
    log.skip_mirrored(16).await.unwrap();
    within(&sim, LIMIT, "a gap", mirror.wait_for(|status| status.last_seq == 15)).await.unwrap();
    log.skip_mirrored(21).await.unwrap();
    within(&sim, LIMIT, "a gap", mirror.wait_for(|status| status.last_seq == 20)).await.unwrap();
    let before = mirror.status().skipped;
    power.cut();
    gateway.crash();
    drop(mirror);
    disks.for_each(|disk| {
        disk.heal();
        disk.lose_power();
    });

    let (mirror, _power) = switch_on(&sim, &gateway, &sensor, &disks);
    assert_eq!(mirror.log().unwrap().last_seq(), 10, "the gap is sent once more");
    publish(&log, 1).await;
    within(&sim, LIMIT, "event 21", mirror.wait_for(|status| status.last_seq == 21)).await.unwrap();
    has(&mirror, 21).await;
    let counted = mirror.wait_for(|status| status.skipped > 0);
    within(&sim, LIMIT, "counting", counted).await.unwrap();
    (before, mirror.status().skipped)
}

#[test]
fn a_gap_that_is_sent_again_after_a_crash_is_counted_once() {
    let sim = Sim::new(5);
    let threads = SimulatedThreads::new(&sim, Duration::from_millis(5));
    let skipped = threads.enter(move || sim.run(loses_power_behind_a_gap(sim.clone())));
    assert_eq!(skipped, (0, 10));
}
