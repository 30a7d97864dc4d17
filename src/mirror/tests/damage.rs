//! Damage to events of a mirror that no subscriber reads.

use std::time::Duration;

use super::{
    fleet::{Disks, serve},
    status::{LIMIT, bounds, switch_on},
    within,
};
use crate::{
    events::{Power, SimulatedThreads, StorageFault},
    sim::Sim,
};

/// Enough for several segments of the smallest size.
const EVENTS: u64 = 400;
/// A small store is read every ten seconds.
const SOON: Duration = Duration::from_secs(60);

fn payload(number: u64) -> Vec<u8> {
    format!("event {number:05} {}", ".".repeat(500)).into_bytes()
}

async fn is_damaged_twice(sim: Sim) {
    let (sensor, gateway) = (sim.host([10, 0, 0, 1]), sim.host([10, 0, 0, 2]));
    let log = Disks::new(1, true).origin(bounds(&sim), &Power::on(), StorageFault::Nothing).unwrap();
    let _served = serve(&sensor, log.clone().into()).unwrap();
    for number in 1..=EVENTS {
        log.publish_durable_raw(payload(number)).await.unwrap();
    }
    let disks = Disks::new(2, true);
    let (mirror, _power) = switch_on(&sim, &gateway, &sensor, &disks);
    let caught_up = mirror.wait_for(|status| status.last_seq == EVENTS);
    within(&sim, LIMIT, "catching up", caught_up).await.unwrap();
    let copy = mirror.log().unwrap();
    copy.flush().await.unwrap();
    for (filled, number) in [(1, 7), (2, 150)] {
        disks.for_each(|disk| disk.damage(&payload(number)[..20]));
        let healed = mirror.wait_for(|status| status.filled == filled && status.missing == 0);
        within(&sim, SOON, "filling", healed).await.unwrap();
        assert_eq!(copy.payload_of(number).await.unwrap().unwrap(), payload(number));
        assert_eq!(copy.health().damaged_events, 0);
    }
}

#[test]
fn damage_that_nobody_has_read_is_found_and_filled() {
    let sim = Sim::new(5);
    let threads = SimulatedThreads::new(&sim, Duration::from_millis(5));
    threads.enter(move || sim.run(is_damaged_twice(sim.clone())));
}
