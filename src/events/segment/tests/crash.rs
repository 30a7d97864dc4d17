//! Loss of power, and processes that are killed.

use super::{
    super::sim_disk::{Call, Fault, FaultKind, SimDisk},
    model::Model,
    must_find, open, options, run,
};
use crate::events::{event_store::EventStore, segment::sabotage::Sabotage};

#[test]
fn no_acknowledged_event_is_lost_when_power_is_lost() {
    run(300, 10_000, trial);
}

#[test]
fn a_store_that_does_not_sync_is_found() {
    must_find(Sabotage::SkipSync, trial);
}

#[test]
fn a_segment_that_gets_its_name_too_early_is_found() {
    must_find(Sabotage::RenameEarly, trial);
}

/// Several lives of a store, each of which ends at some call to the disk.
fn trial(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (disk, mut model) = Model::on_disk(seed, random.bool());
    let options = options(&mut random);
    for _ in 0..random.u8(1..5) {
        life(&disk, &options, &mut model, &mut random)?;
        disk.heal();
        // A process that was killed leaves what it wrote in the memory of the operating system.
        if random.u8(..4) == 0 {
            let store = open(&disk, &options).map_err(|error| format!("open: {error}"))?;
            model.check(&store, &mut random)?;
        }
        disk.lose_power();
        let store = open(&disk, &options).map_err(|error| format!("open: {error}"))?;
        model.check(&store, &mut random)?;
    }
    Ok(())
}

fn life(
    disk: &SimDisk,
    options: &super::SegmentOptions,
    model: &mut Model,
    random: &mut fastrand::Rng,
) -> Result<(), String> {
    // From this call on the computer is off.
    let after = random.u64(..150);
    disk.inject(Fault { call: Call::Any, after, times: u64::MAX, kind: FaultKind::Io });
    let Ok(store) = open(disk, options) else { return Ok(()) };
    for _ in 0..60 {
        if model.append(&store, random)?.is_err() {
            return Ok(());
        }
        let extent = store.extent();
        match random.u8(..40) {
            0 => drop(store.discard(random.u64(extent.first..=extent.next))),
            1 => {
                let _ = store.close();
                return Ok(());
            }
            _ => {}
        }
    }
    Ok(())
}
