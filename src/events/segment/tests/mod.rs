//! The store on a disk in memory that loses power, fails and rots.
//!
//! `SEGMENT_TRIALS=full cargo test --release --lib segment` runs the full number of trials.

mod cached;
mod crash;
mod epochs;
mod faults;
mod filled;
mod last_batch;
mod model;
mod open_files;
mod races;
mod retention;
mod rot;
mod skipped;
mod storm;
mod unreadable;
mod vectors;

use std::sync::Arc;

use super::{
    SegmentOptions, SegmentStore,
    header::Header,
    sabotage::{Sabotage, with},
    sim_disk::SimDisk,
};

/// How many trials of a kind to run: `full` if that is asked for.
fn trials(few: u64, full: u64) -> u64 {
    if std::env::var("SEGMENT_TRIALS").is_ok_and(|value| value == "full") { full } else { few }
}

/// Runs a trial with each seed, and fails with the first that finds something.
fn run(few: u64, full: u64, trial: impl Fn(u64) -> Result<(), String>) {
    for seed in 0..trials(few, full) {
        if let Err(found) = trial(seed) {
            panic!("seed {seed}: {found}");
        }
    }
}

/// Some trial must find the planted fault.
fn must_find(sabotage: Sabotage, trial: impl Fn(u64) -> Result<(), String>) {
    let found = with(sabotage, || (0..4000).find_map(|seed| trial(seed).err()));
    assert!(found.is_some(), "no trial finds {sabotage:?}");
}

const EPOCH: u64 = 77;

fn options(random: &mut fastrand::Rng) -> SegmentOptions {
    let options =
        SegmentOptions::default().segment_bytes((16 * 1024) << random.u32(..3)).epochs_from(|| EPOCH);
    if random.u8(..4) == 0 { options.fresh_block_for_each_commit() } else { options }
}

/// The header of the segment in `docs/event-log-format.md`.
pub(super) fn header(filled: bool) -> Header {
    Header {
        epoch: EPOCH,
        first: 5,
        floor: 3,
        durable: 4,
        certain: 4,
        capacity: 16384,
        salt: std::array::from_fn(|at| u8::try_from(at).unwrap()),
        filled,
        fresh_blocks: false,
        closed: false,
    }
}

fn open(disk: &SimDisk, options: &SegmentOptions) -> std::io::Result<SegmentStore> {
    SegmentStore::on(Arc::new(disk.clone()), options)
}
