//! What messages, frames and dispatch take, in instructions: `cargo bench --bench instructions`. Exit code 1
//! where anything takes 3 % more than `record.tsv` says; `-- --record` writes that anew.
//!
//! They are counted by valgrind's callgrind, and so do not depend on what else runs. They do depend on the
//! compiler and the C library: where these are not those of the record, the record's commit is built and
//! counted too, and takes its place.

mod base;
mod callgrind;
mod cases;
mod dispatch;
mod record;

use std::{env, error::Error, path::Path, process::ExitCode};

use self::record::{Change, Record};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How often a case is run for its figure.
const ROUNDS: u32 = 200;
/// So many, in the place of [`ROUNDS`], are slower by 3.5 %.
const ROUNDS_OF_TWIN: u32 = 207;

fn main() -> Result<ExitCode> {
    if let Some((case, rounds)) = callgrind::wanted()? {
        cases::run(&case, rounds)?;
        return Ok(ExitCode::SUCCESS);
    }
    // `cargo test --benches` starts this too, and is not to wait for it.
    if env::args().all(|arg| arg != "--bench") {
        return Ok(ExitCode::SUCCESS);
    }
    let now = Record::count(ROUNDS)?;
    if env::args().any(|arg| arg == "--record") {
        now.write(root())?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(before) = before(&now)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let changes = now.since(&before)?;
    println!("| instructions | before | now | change |\n|---|---|---|---|");
    for change in &changes {
        println!("{change}");
    }
    if changes.iter().any(Change::is_gain) {
        println!(
            "Some take less; `cargo bench --bench instructions -- --record` sees to it that this stays."
        );
    }
    let slower = Record::count(ROUNDS_OF_TWIN)?.since(&now)?;
    let missed = slower.iter().filter(|change| !change.is_loss()).count();
    println!("A twin that takes 3.5 % more: noticed in {} of {} cases", slower.len() - missed, slower.len());
    let passed = missed == 0 && !changes.iter().any(Change::is_loss);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The figures of the record, for this compiler and machine; `None` where they are not to be had.
fn before(now: &Record) -> Result<Option<Record>> {
    let recorded = Record::read(root())?;
    let Some(difference) = now.differs_in_kind(&recorded) else {
        return Ok(Some(recorded));
    };
    println!("The record does not hold here: {difference}.");
    match base::commit() {
        Ok(commit) => {
            println!("So its commit {commit} is built, and counted here.");
            Ok(Some(base::count(&commit)?))
        }
        Err(reason) => {
            println!("skipped: nothing to compare with ({reason})");
            Ok(None)
        }
    }
}

/// The package that this belongs to.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
