//! Starts the fleet, harms it by a schedule, shows how it fares, and accounts for every event at the end.

mod board;
mod check;
mod collect;
mod directory;
mod fleet;
mod process;
mod relay;
mod run;
mod schedule;
mod table;

use std::process::ExitCode;

use self::{directory::Directory, fleet::Fleet, run::FleetRun};
use crate::{Outcome, args::StageArgs};

/// Seeds are shown, and typed again by people.
const SEEDS: u64 = 1_000_000;

/// Runs a fleet from beginning to end. Fails if an event is not accounted for.
pub(crate) fn run(args: &StageArgs) -> Outcome<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..SEEDS));
    let directory = Directory::make(args.keep.as_deref())?;
    let mut rng = fastrand::Rng::with_seed(seed);
    let fleet = Fleet::start(args, directory.path(), &mut rng)?;
    println!(
        "seed {seed}: {} sensors, a gateway and a centre in {}",
        args.sensors,
        directory.path().display()
    );
    let run = FleetRun::new(args, seed, &fleet);
    run.harm_and_recover(&mut rng)?;
    let accounts = run.accounts()?;
    let mut totals = run.totals();
    // What happens at the end counts, too.
    totals.processes = fleet.end()?;
    print!("{}", table::result(&totals, &accounts));
    let has_crashed = totals.processes.iter().any(|process| !process.crashes.is_empty());
    let is_right = !has_crashed && accounts.iter().all(|account| account.verdict.faults.is_empty());
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
