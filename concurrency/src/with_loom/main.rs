//! All schedules of the bell and the task queue of `PollRuntime`, under loom: three threads, each interrupted
//! at most three times.
//!
//! `cargo run --bin with-loom` runs every case and every planted fault; names of cases or plants as arguments
//! choose some. `PREEMPTIONS` is how often threads are interrupted in a schedule.

mod model;
#[path = "../report.rs"]
mod report;

include!(concat!(env!("OUT_DIR"), "/loom/trees.rs"));

use std::{process::ExitCode, sync::Arc};

const PREEMPTIONS: usize = 3;

fn main() -> ExitCode {
    report::run(check, unchanged::cases::CASES, PLANTED)
}

fn check(body: Arc<dyn Fn() + Send + Sync>) {
    let mut model = loom::model::Builder::new();
    model.max_threads = 3;
    model.max_branches = 10_000;
    model.preemption_bound = Some(report::from_environment("PREEMPTIONS", PREEMPTIONS));
    model.check(move || body());
}
