//! Several faults of the disk, one after another and together, and loss of power in between.

use super::{
    super::sim_disk::{Call, Fault, FaultKind},
    model::Model,
    must_find, open, options, run,
};
use crate::events::{event_store::EventStore, segment::sabotage::Sabotage};

#[test]
fn storms_lose_and_repeat_nothing() {
    run(100, 500, trial);
}

#[test]
fn a_store_that_stays_in_a_failed_segment_is_found() {
    must_find(Sabotage::StayInFailedSegment, trial);
}

#[test]
fn events_that_are_not_written_again_are_found() {
    must_find(Sabotage::SkipRewrite, trial);
}

const CALLS: [Call; 9] = [
    Call::List,
    Call::Create,
    Call::Open,
    Call::Rename,
    Call::Unlink,
    Call::SyncDir,
    Call::Read,
    Call::Write,
    Call::Sync,
];
const KINDS: [FaultKind; 4] = [FaultKind::Io, FaultKind::Full, FaultKind::Short, FaultKind::DestroyBlocks];

fn trial(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (disk, mut model) = Model::on_disk(seed, random.bool());
    let options = options(&mut random);
    let mut store = open(&disk, &options).map_err(|error| error.to_string())?;
    for _ in 0..random.u8(3..12) {
        let faults: Vec<Fault> = (0..random.u8(1..4)).map(|_| fault(&mut random)).collect();
        let destroys = faults.iter().any(|fault| fault.kind == FaultKind::DestroyBlocks);
        // Of a write that was cut off in a sector, nobody can say that it was not damaged later.
        model.may_be_in_doubt |= faults.iter().any(|fault| fault.kind == FaultKind::Short);
        faults.into_iter().for_each(|fault| disk.inject(fault));
        for _ in 0..random.u8(1..20) {
            let _ = model.append(&store, &mut random)?;
            let extent = store.extent();
            if random.u8(..20) == 0 {
                let _ = store.discard(random.u64(extent.first..=extent.next));
            }
            // Until the next batch, destroyed events are in memory alone.
            if random.u8(..6) == 0 && !destroys {
                let _ = store.read(extent.first, 1000, &mut Vec::new());
            }
        }
        disk.heal();
        let ends = random.u8(..4);
        if ends < 2 {
            // The store must go on when the disk does.
            let healed = model.append(&store, &mut random)?;
            healed.map_err(|error| format!("the store has not healed: {error}"))?;
        } else {
            // What was in destroyed blocks and was not yet written again is lost, but not in silence.
            model.may_be_damaged |= destroys;
            if ends == 2 {
                let _ = store.close();
            }
            drop(store);
            if ends == 3 {
                disk.lose_power();
            }
            store = open(&disk, &options).map_err(|error| format!("open: {error}"))?;
        }
        model.check(&store, &mut random)?;
    }
    Ok(())
}

fn fault(random: &mut fastrand::Rng) -> Fault {
    let call = CALLS[random.usize(..CALLS.len())];
    let kind = KINDS[random.usize(..KINDS.len())];
    let times = [1, 1, 2, 5, u64::MAX][random.usize(..5)];
    Fault { call, after: random.u64(..30), times, kind }
}
