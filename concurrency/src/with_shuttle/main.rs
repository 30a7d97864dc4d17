//! Random schedules of everything that waits for others, under shuttle.
//!
//! `cargo run --bin with-shuttle` runs every case and every planted fault; names of cases or plants as
//! arguments choose some. `SCHEDULES` is the number for each case and each of two schedulers.

mod model;
#[path = "../report.rs"]
mod report;

include!(concat!(env!("OUT_DIR"), "/shuttle/trees.rs"));

use std::{process::ExitCode, sync::Arc};

use shuttle::{
    Config, FailurePersistence, Runner,
    scheduler::{PctScheduler, RandomScheduler},
};

const SCHEDULES: usize = 10_000;
/// So that a failure can be had again.
const SEED: u64 = 0x5eed;
/// Orders of priority that PCT tries to change in a schedule: one more than a fault usually needs.
const DEPTH: usize = 4;

fn main() -> ExitCode {
    report::run(check, unchanged::cases::CASES, PLANTED)
}

fn check(body: Arc<dyn Fn() + Send + Sync>) {
    let schedules = report::from_environment("SCHEDULES", SCHEDULES);
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    let by_chance = RandomScheduler::new_from_seed(SEED, schedules);
    let once_more = Arc::clone(&body);
    Runner::new(by_chance, config.clone()).run(move || once_more());
    let by_priority = PctScheduler::new_from_seed(SEED, DEPTH, schedules);
    Runner::new(by_priority, config).run(move || body());
}
