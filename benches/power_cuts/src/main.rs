//! Cuts the power of real file systems under an event log and a store of cursors:
//! `cargo run --release --manifest-path benches/power_cuts/Cargo.toml [CUTS [FILE SYSTEM]]`,
//! as root.
//!
//! A file system is on a loop device, whose file is in a file system in user space that records each write
//! and each flush. Afterwards, images are made of what the medium has if the power fails at some step:
//! everything that was flushed, and of the rest nothing, everything, some writes or some sectors. Each is
//! mounted and opened, and what is there is compared with what was acknowledged before that step. The same
//! is done with acknowledgements that come too early, which must be found. Progress goes to stderr, and the
//! result to stdout as a Markdown table.

mod cut;
mod file_system;
mod recorder;
mod work;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use fastrand::Rng;
use file_system::FileSystem;
use recorder::{NAME, Recording, Step};
use work::{Acknowledged, Promises};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

const CUTS: usize = 50;
/// Fewer are enough to find the planted fault.
const PLANTED_CUTS: usize = 10;

fn main() -> Result<ExitCode> {
    let cuts = env::args().nth(1).map_or(Ok(CUTS), |cuts| cuts.parse())?;
    let seed = env::var("PALYRA_CUT_SEED").map_or_else(|_| Ok(fastrand::u64(..)), |seed| seed.parse())?;
    eprintln!("PALYRA_CUT_SEED={seed}");
    println!("| file system | steps recorded | cuts | with a broken promise | with early acknowledgements |");
    println!("|---|---|---|---|---|");
    let mut code = ExitCode::SUCCESS;
    let only = env::args().nth(2);
    let is_asked_for = |file_system: &&FileSystem| only.as_ref().is_none_or(|only| file_system.name == only);
    for file_system in file_system::ALL.iter().filter(is_asked_for) {
        let name = file_system.name;
        if !file_system.is_available() {
            println!("| {name} | not available here | | | |");
            continue;
        }
        let mut rng = Rng::with_seed(seed);
        let (steps, broken) = trial(file_system, cuts, Acknowledged::WhenDurable, &mut rng)?;
        let (_, found) = trial(file_system, PLANTED_CUTS, Acknowledged::WhenPublished, &mut rng)?;
        println!("| {name} | {steps} | {cuts} | {broken} | {found} of {PLANTED_CUTS} |");
        if broken > 0 || found == 0 {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Records the work once, and cuts the power at some of its steps. Returns how many steps there were, and
/// after how many cuts a promise was broken.
fn trial(
    file_system: &FileSystem,
    cuts: usize,
    acknowledged: Acknowledged,
    rng: &mut Rng,
) -> Result<(usize, usize)> {
    let directory = Directory::new()?;
    let (steps, promises) = record(file_system, &directory.0, acknowledged)?;
    let first = promises.events.values().map(|promise| promise.since).min().unwrap_or(0);
    let mut with_broken = 0;
    for number in 1..=cuts {
        let position = rng.usize(first..steps.len());
        let broken = cut::cut(file_system, &directory.0, &steps, position, &promises, rng)?;
        with_broken += usize::from(!broken.is_empty());
        if let (Some(first), Acknowledged::WhenDurable) = (broken.first(), acknowledged) {
            eprintln!("{}, step {position}: {} broken promises: {first}", file_system.name, broken.len());
        }
        if number % 10 == 0 {
            eprintln!("{}: {number} of {cuts} cuts", file_system.name);
        }
    }
    Ok((steps.len(), with_broken))
}

/// What the device got up to the end of the work, without what is written when it is unmounted.
fn record(
    file_system: &FileSystem,
    directory: &Path,
    acknowledged: Acknowledged,
) -> Result<(Vec<Step>, Promises)> {
    let image = directory.join("image");
    file_system.make(&image)?;
    fs::copy(&image, directory.join("base"))?;
    let [recorded, mounted] = ["recorded", "mounted"].map(|name| directory.join(name));
    fs::create_dir_all(&recorded)?;
    let recording = Recording::default();
    let _session = recorder::mount(&image, &recorded, &recording)?;
    let mounted = file_system.mount(&recorded.join(NAME), &mounted)?;
    let promises = work::run(&mounted.directory, &recording, acknowledged)?;
    let steps = recording.steps().clone();
    drop(mounted);
    Ok((steps, promises))
}

/// Gone when this is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("palyra-power-cuts-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
