//! What a call costs, counted rather than timed: `cargo bench --bench costs`.
//!
//! Instructions (by valgrind's callgrind) and system calls (by strace) of both sides of a link over loopback,
//! in one process. Each is counted for a short and a long run, and the difference shared among the calls; so
//! that neither the beginning nor the end counts. The figures hardly depend on the machine, nor on what else
//! runs on it.
//!
//! `COSTS_KINDS` names the runtimes: `PollRuntime AsyncIoRuntime` if unset.

mod support;

use std::{
    env,
    error::Error,
    fs, process,
    process::{Command, Stdio},
    sync::Arc,
};

use palyra_quic::{Bytes, CertificateAuthority, Connection, Router};

use self::support::{
    ECHO, dialler,
    kind::{Kind, Runner},
    serve,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const KIND: &str = "COSTS_KIND";
const CALLS: &str = "COSTS_CALLS";
const IN_FLIGHT: &str = "COSTS_IN_FLIGHT";
const SHORT: u32 = 640;
const LONG: u32 = 3200;

fn main() -> Result<()> {
    match env::var(KIND) {
        Ok(kind) => work(Kind::parse(&kind)?),
        // `cargo test --benches` starts this too, and is not to wait for it.
        Err(_) if env::args().all(|arg| arg != "--bench") => Ok(()),
        Err(_) => count(),
    }
}

fn count() -> Result<()> {
    let kinds = env::var("COSTS_KINDS").unwrap_or_else(|_| "PollRuntime AsyncIoRuntime".into());
    println!("| both sides, per call | instructions | system calls |\n|---|---|---|");
    for kind in kinds.split_whitespace() {
        for in_flight in [1, 32] {
            let instructions = per_call(|calls| instructions(kind, in_flight, calls));
            let system_calls = per_call(|calls| system_calls(kind, in_flight, calls));
            let cell = |cost: Result<f64>, digits| match cost {
                Ok(cost) => format!("{cost:.digits$}"),
                Err(error) => format!("– ({error})"),
            };
            println!(
                "| {kind}, {in_flight} in flight | {} | {} |",
                cell(instructions, 0),
                cell(system_calls, 2)
            );
        }
    }
    Ok(())
}

fn per_call(count: impl Fn(u32) -> Result<u32>) -> Result<f64> {
    let (short, long) = (count(SHORT)?, count(LONG)?);
    Ok((f64::from(long) - f64::from(short)) / f64::from(LONG - SHORT))
}

fn instructions(kind: &str, in_flight: u32, calls: u32) -> Result<u32> {
    let report = observed(
        "valgrind",
        &["--tool=callgrind", "--callgrind-out-file=/dev/null"],
        kind,
        in_flight,
        calls,
    )?;
    let line = report.lines().find(|line| line.contains("Collected :")).ok_or("callgrind says nothing")?;
    Ok(line.rsplit(' ').next().ok_or("no number")?.parse()?)
}

fn system_calls(kind: &str, in_flight: u32, calls: u32) -> Result<u32> {
    let path = env::temp_dir().join(format!("costs-{}", process::id()));
    let file = path.to_str().ok_or("no place for a file")?;
    observed("strace", &["-f", "-c", "-o", file], kind, in_flight, calls)?;
    let report = fs::read_to_string(&path)?;
    fs::remove_file(&path)?;
    let line = report.lines().find(|line| line.ends_with(" total")).ok_or("strace says nothing")?;
    // % time, seconds, usecs/call, calls, and errors where there were any.
    Ok(line.split_whitespace().nth(3).ok_or("no number")?.parse()?)
}

/// Runs the work under a program that looks on, and gives what that says.
fn observed(program: &str, args: &[&str], kind: &str, in_flight: u32, calls: u32) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).arg(env::current_exe()?).stdout(Stdio::null());
    command.env(KIND, kind).env(IN_FLIGHT, in_flight.to_string()).env(CALLS, calls.to_string());
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(report) } else { Err(format!("{program}: {report}").into()) }
}

/// Makes the calls, with both ends of the link in this process.
fn work(kind: Kind) -> Result<()> {
    let setting = |name| Ok::<u32, Box<dyn Error + Send + Sync>>(env::var(name)?.parse()?);
    let (calls, in_flight) = (setting(CALLS)?, setting(IN_FLIGHT)?);
    let authority = CertificateAuthority::new("Costs CA")?;
    let (node, client) =
        (authority.issue_server(&[])?.identity(), authority.issue_client("costs")?.identity());
    let runner = Runner::new(kind)?;
    let runtime = runner.handle();
    let server = serve(Arc::clone(&runtime), node, authority.trust(), Router::new())?;
    let client = dialler(Arc::clone(&runtime), client, authority.trust())?;
    runner.run(async move {
        let connection = client.connect(server.local_addr()?).await?;
        let (done, tasks) = smol::channel::unbounded();
        for _ in 0..in_flight {
            let (connection, done) = (connection.clone(), done.clone());
            runtime.spawn(Box::pin(async move {
                // Fails only where the measurement was given up.
                let _ = done.send(series(&connection, calls / in_flight).await).await;
            }));
        }
        drop(done);
        while let Ok(result) = tasks.recv().await {
            result?;
        }
        Ok(())
    })
}

async fn series(connection: &Connection, calls: u32) -> palyra_quic::Result<()> {
    for _ in 0..calls {
        connection.call_raw(ECHO, Bytes::from_static(&[7; 64])).await?;
    }
    Ok(())
}
