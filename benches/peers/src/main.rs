//! `cargo run --release --manifest-path benches/peers/Cargo.toml -- run`, or `-- heap` for the owners of an idle
//! connection's memory.

use std::{env, path::PathBuf, process};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use peers::{
    Result,
    contenders::named,
    heap,
    measure::{self, Plan, WORKLOADS},
    processes::Cores,
    report,
    setup::Setup,
};

const USAGE: &str = "usage: peers run [--rounds N] [--quick] [--only WORKLOAD] [--cores all|one] \
    [--contenders NAME,NAME...] [--clean-builds] [--out DIRECTORY]";
/// With which a whole run takes about 40 minutes.
const ROUNDS: usize = 7;
const QUICK_ROUNDS: usize = 3;

fn main() {
    // tonic asks for the provider of the process, which rustls does not choose where several are built in.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Err(error) = obey() {
        eprintln!("peers: {error}");
        process::exit(1);
    }
    // Not by way of destructors, since some runtimes are still busy.
    process::exit(0);
}

fn obey() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["server", name, ..] => (named(name)?.serve)(&Setup::parse(&args[2..])?),
        ["client", name, address, ..] => (named(name)?.drive)(&Setup::parse(&args[3..])?, address),
        ["run", ..] => run(&args[1..]),
        ["heap", ..] => heap::run(&args[1..]),
        _ => Err(USAGE.into()),
    }
}

fn run(args: &[String]) -> Result<()> {
    let (mut rounds, mut out) = (None, None);
    let contenders = Vec::new();
    let mut plan =
        Plan { rounds: ROUNDS, quick: false, only: None, cores: None, contenders, clean_builds: false };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} takes a value; {USAGE}"));
        match arg.as_str() {
            "--quick" => plan.quick = true,
            "--clean-builds" => plan.clean_builds = true,
            "--rounds" => rounds = Some(value()?.parse()?),
            "--out" => out = Some(PathBuf::from(value()?)),
            "--only" => match value()? {
                only if WORKLOADS.contains(&only.as_str()) => plan.only = Some(only.clone()),
                other => {
                    return Err(format!("no workload {other:?}; there are {}", WORKLOADS.join(", ")).into());
                }
            },
            "--cores" => match value()?.as_str() {
                "all" => plan.cores = Some(Cores::All),
                "one" => plan.cores = Some(Cores::First),
                _ => return Err(USAGE.into()),
            },
            "--contenders" => {
                plan.contenders = value()?.split(',').map(str::to_owned).collect();
                for name in &plan.contenders {
                    named(name)?;
                }
            }
            _ => return Err(USAGE.into()),
        }
    }
    plan.rounds = rounds.unwrap_or(if plan.quick { QUICK_ROUNDS } else { ROUNDS });
    let out = out.unwrap_or_else(|| report::directory(&plan));
    // A crowd over TCP takes more files than a process may have open by default.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let results = measure::run(&plan)?;
    report::write(&plan, &results, &out)
}
