//! Runs cases and says what came of them.

use std::{
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// How often a case is run: the value of the environment variable, or this.
pub(crate) fn from_environment(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {value}")),
        Err(_) => default,
    }
}

/// A case that is run again and again by `check`, each time with another schedule.
pub(crate) type Check = fn(Arc<dyn Fn() + Send + Sync>);

/// Checks every case, which must hold, and then every planted fault, which must be found.
pub(crate) fn run(check: Check, cases: &[(&str, fn())], planted: &[(&str, &str, fn())]) -> ExitCode {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    let mut failed = 0;
    for (case, body) in cases.iter().filter(|(case, _)| is_chosen(case)) {
        let began = Instant::now();
        let (schedules, held) = count(check, *body);
        let seconds = began.elapsed().as_secs_f32();
        let verdict = if held { "held in all" } else { "FAILED in the last" };
        println!("   {case}: {verdict} of {schedules} schedules ({seconds:.1} s)");
        failed += usize::from(!held);
    }
    println!("   planted faults, of which the checker may print more:");
    if std::env::var_os("SHOW_PLANTED").is_none() {
        panic::set_hook(Box::new(|_| {}));
    }
    for (plant, case, body) in planted.iter().filter(|(plant, ..)| is_chosen(plant)) {
        let (schedules, held) = count(check, *body);
        if held {
            println!("   {case} with {plant}: NOT FOUND in {schedules} schedules");
            failed += 1;
        } else {
            println!("   {case} with {plant}: found in schedule {schedules}");
        }
    }
    if failed > 0 {
        println!("   {failed} failed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The schedules that were run, and whether the case held in all of them.
fn count(check: Check, body: fn()) -> (usize, bool) {
    let schedules = Arc::new(AtomicUsize::new(0));
    let counted = {
        let schedules = Arc::clone(&schedules);
        move || {
            schedules.fetch_add(1, Ordering::Relaxed);
            body();
        }
    };
    let held = panic::catch_unwind(AssertUnwindSafe(|| check(Arc::new(counted)))).is_ok();
    (schedules.load(Ordering::Relaxed), held)
}
