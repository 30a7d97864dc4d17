//! A fleet on one machine: sensors that publish, a gateway that mirrors them, a centre that mirrors the
//! gateway. Each is a process, which is killed now and then, and the links between them are cut. At the end
//! every event is accounted for.
//!
//! ```sh
//! cargo run --release --manifest-path examples/fleet/Cargo.toml
//! cargo run --release --manifest-path examples/fleet/Cargo.toml -- --kills 20 --cuts 5 --full-disks 2
//! ```
//!
//! The program starts itself as the other processes: `sensor.rs` and `mirror.rs` are what a fleet consists
//! of, and `stage/` is what starts, harms and checks it. docs/fleet.md explains the run.

mod args;
mod bounds;
mod mirror;
mod node;
mod reading;
mod report;
mod sensor;
mod stage;

use std::{error::Error, process::ExitCode};

use clap::Parser;

use self::args::{Args, Role};

/// An error is shown to people, and nothing is decided by its kind.
type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.role {
        None => stage::run(&args.stage),
        Some(Role::Sensor(args)) => smol::block_on(sensor::run(&args)).map(|()| ExitCode::SUCCESS),
        Some(Role::Mirror(args)) => smol::block_on(mirror::run(&args)).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
