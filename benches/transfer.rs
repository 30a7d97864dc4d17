//! Files of 1 GiB beside as many bytes in calls of 512 KiB, alternating: `cargo bench --bench transfer`.
//!
//! The node is a process of its own. `PALYRA_TRANSFER_DIR` says where the files are (default: `/dev/shm`,
//! which is memory, so that the disk is not measured). Progress goes to stderr, and the result to stdout as
//! Markdown tables.

mod support;

#[path = "../examples/node/files/mod.rs"]
#[allow(dead_code, reason = "the other parts are those of the command line")]
mod files;

use std::{
    cell::Cell,
    env,
    error::Error,
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    time::Instant,
};

use palyra_quic::{
    Bytes, CertificateAuthority, ClientTls, Connection, Context, Endpoint, Identity, Peers, PollRuntime,
    Router, ServerTls, TransportLimits, Trust,
};

use self::{
    files::{
        client::{self, Progress},
        disk::Disk,
        folder::Folder,
        methods::ServedFolder,
    },
    support::LOOPBACK,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 5;
const MIB: u64 = 1024 * 1024;
const SIZE: u64 = 1024 * MIB;
/// A frame has a few bytes beside the payload.
const SPARE: u64 = 64;
const TAKE: &str = "bench.take";
const GIVE: &str = "bench.give";

fn main() -> Result<()> {
    let args: Vec<_> = env::args().collect();
    if let Some(place) = args.iter().position(|arg| arg == "--node") {
        return node(Path::new(args.get(place + 1).ok_or("which folder?")?));
    }
    // `cargo test --benches` starts this too, and is not to wait for it.
    if args.iter().all(|arg| arg != "--bench") {
        return Ok(());
    }
    if let Some(work) = env::var_os("PALYRA_TRANSFER_WORK") {
        return measure(Path::new(&work));
    }
    let parent = env::var_os("PALYRA_TRANSFER_DIR").map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let work = Work(parent.join(format!("palyra-transfer-{}", process::id())));
    work.prepare()?;
    measure(&work.0)?;
    // In a process of its own, so that no memory of the runs before counts as idle.
    let mut within = Command::new(env::current_exe()?);
    within.arg("--bench").env("PALYRA_TRANSFER_WORK", &work.0).env("PALYRA_TRANSFER_MIB", "16");
    if within.status()?.success() { Ok(()) } else { Err("the runs within 16 MiB failed".into()) }
}

/// The files of a run, which are gone with it.
struct Work(PathBuf);

impl Work {
    fn prepare(&self) -> Result<()> {
        for folder in ["there", "here"] {
            fs::create_dir_all(self.0.join(folder))?;
        }
        let mut random = fastrand::Rng::with_seed(1);
        let mut image = fs::File::create(self.0.join("here/image"))?;
        let mut part = vec![0; 1024 * 1024];
        for _ in 0..SIZE / MIB {
            random.fill(&mut part);
            std::io::Write::write_all(&mut image, &part)?;
        }
        let authority = CertificateAuthority::new("Bench CA")?;
        let (server, client) = (authority.issue_server(&[])?, authority.issue_client("bench")?);
        fs::write(self.0.join("ca.pem"), authority.cert_pem())?;
        for (name, issued) in [("server", server), ("client", client)] {
            fs::write(self.0.join(format!("{name}.pem")), issued.cert_pem())?;
            fs::write(self.0.join(format!("{name}.key")), issued.key_pem())?;
        }
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn identity(work: &Path, name: &str) -> Result<Identity> {
    let read = |kind| fs::read(work.join(format!("{name}.{kind}")));
    Ok(Identity::from_pem(&read("pem")?, &read("key")?)?)
}

/// What `--memory` of the command line does, in both processes.
fn limits() -> Result<TransportLimits> {
    Ok(match env::var("PALYRA_TRANSFER_MIB") {
        Ok(mib) => TransportLimits::within(mib.parse::<u64>()? * MIB)?,
        Err(_) => TransportLimits::default(),
    })
}

fn runtime() -> Result<PollRuntime> {
    let runtime = PollRuntime::new()?;
    Ok(if env::var_os("PALYRA_TRANSFER_MIB").is_some() { runtime.without_gro() } else { runtime })
}

/// The largest payload of a call, and how many calls carry [`SIZE`].
fn calls(limits: &TransportLimits) -> Result<(usize, u64)> {
    let payload = u64::from(limits.max_frame_bytes()) - SPARE;
    Ok((usize::try_from(payload)?, SIZE.div_ceil(payload)))
}

/// The process that serves the folder, until its standard input ends.
fn node(work: &Path) -> Result<()> {
    let limits = limits()?;
    let (payload, _) = calls(&limits)?;
    // As the caller does: one buffer for all calls, so that filling it is not measured in one direction only.
    let given = Bytes::from(vec![7; payload]);
    let router = Router::new().serve_raw(TAKE, |_: Context, _| async { Ok(Bytes::new()) }).serve_raw(
        GIVE,
        move |_: Context, _| {
            let given = given.clone();
            async move { Ok(given) }
        },
    );
    let folder = Folder::new(work.join("there"), Disk::Threads)?;
    let served = ServedFolder::new(folder, Peers::identified(), limits.max_frame_bytes());
    let router = served.methods(router);
    let trust = Trust::from_pem(&fs::read(work.join("ca.pem"))?)?;
    let tls = ServerTls::new(identity(work, "server")?).require_client_certificates(trust);
    let mut runtime = runtime()?;
    let endpoint = Endpoint::builder().shared_runtime(runtime.handle()).server(tls).limits(limits);
    let endpoint = endpoint.router(router).bind(LOOPBACK)?;
    println!("{}", endpoint.local_addr()?);
    runtime.block_on(smol::unblock(|| std::io::stdin().read_to_end(&mut Vec::new())))?;
    Ok(())
}

/// One of the two sides, by its process.
struct Side {
    process: u32,
    idle: u64,
}

impl Side {
    fn new(process: u32) -> Result<Self> {
        Ok(Self { process, idle: memory(process, "VmRSS:")? })
    }

    /// Forgets the peak.
    fn reset(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.process), "5")?)
    }

    /// How much more than when it was idle has been resident, in MiB.
    fn peak(&self) -> Result<f64> {
        let peak = memory(self.process, "VmHWM:")?.saturating_sub(self.idle);
        Ok(f64::from(u32::try_from(peak)?) / 1024.0)
    }
}

/// In KiB.
fn memory(process: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no memory is counted")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn start(work: &Path) -> Result<(Child, SocketAddr)> {
    let mut node = Command::new(env::current_exe()?);
    let mut node = node.arg("--node").arg(work).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(node.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    Ok((node, line.trim().parse()?))
}

/// What was measured of one kind of run.
#[derive(Default)]
struct Column {
    rates: Vec<f64>,
    whole: Vec<f64>,
    here: f64,
    there: f64,
}

const KINDS: [&str; 6] = ["put", "get", "calls up", "calls down", "4 calls up", "4 calls down"];

fn measure(work: &Path) -> Result<()> {
    let limits = limits()?;
    let (mut node, address) = start(work)?;
    let trust = Trust::from_pem(&fs::read(work.join("ca.pem"))?)?;
    let tls = ClientTls::new(trust).identity(identity(work, "client")?);
    let mut runtime = runtime()?;
    let endpoint = Endpoint::builder().shared_runtime(runtime.handle()).client(tls);
    let endpoint = endpoint.limits(limits.clone()).bind(LOOPBACK)?;
    let connection = runtime.block_on(endpoint.connect(address))?;
    runtime.block_on(connection.call_raw(TAKE, ""))?;
    let sides = [Side::new(process::id())?, Side::new(node.id())?];
    let mut columns: [Column; 6] = Default::default();
    for round in 1..=ROUNDS {
        for (kind, column) in KINDS.into_iter().zip(&mut columns) {
            sides.iter().try_for_each(Side::reset)?;
            let begun = Instant::now();
            let moving = run(kind, work, &mut runtime, &connection, calls(&limits)?)?;
            let megabytes = f64::from(u32::try_from(SIZE / MIB)?) * 1.048_576;
            let (rate, whole) = (megabytes / moving, megabytes / begun.elapsed().as_secs_f64());
            column.rates.push(rate);
            column.whole.push(whole);
            let [here, there] = [sides[0].peak()?, sides[1].peak()?];
            (column.here, column.there) = (column.here.max(here), column.there.max(there));
            eprintln!(
                "{round}/{ROUNDS} {kind}: {rate:.0} MB/s, {whole:.0} in all, {here:.1} and {there:.1} MiB"
            );
        }
    }
    report(&limits, &columns);
    runtime.block_on(endpoint.shutdown(std::time::Duration::ZERO));
    drop(node.stdin.take());
    node.wait()?;
    Ok(())
}

/// Moves [`SIZE`] bytes, and returns for how many seconds bytes were moved: without the hashing before.
fn run(
    kind: &str,
    work: &Path,
    runtime: &mut PollRuntime,
    connection: &Connection,
    calls: (usize, u64),
) -> Result<f64> {
    let first = Cell::new(None);
    let progress = |progress| {
        if matches!(progress, Progress::Moved { .. }) && first.get().is_none() {
            first.set(Some(Instant::now()));
        }
    };
    match kind {
        "put" => {
            let _ = fs::remove_file(work.join("there/image"));
            let path = work.join("here/image");
            let put = client::put(connection, Disk::Threads, &path, "image".parse()?, progress);
            runtime.block_on(put).map_err(|error| format!("{error:?}"))?;
        }
        "get" => {
            let _ = fs::remove_file(work.join("here/copy"));
            let folder = Folder::new(work.join("here"), Disk::Threads)?;
            let (remote, local) = ("image".parse()?, "copy".parse()?);
            let get = client::get(connection, &folder, &remote, local, progress);
            runtime.block_on(get).map_err(|error| format!("{error:?}"))?;
        }
        _ => {
            first.set(Some(Instant::now()));
            let (method, length) = if kind.ends_with("up") { (TAKE, calls.0) } else { (GIVE, 0) };
            let tasks = if kind.starts_with('4') { 4 } else { 1 };
            runtime.block_on(repeat(connection, method, length, calls.1 / tasks, tasks))?;
        }
    }
    Ok(first.get().ok_or("nothing was moved")?.elapsed().as_secs_f64())
}

/// Calls a method from this many tasks at a time.
async fn repeat(
    connection: &Connection,
    method: &'static str,
    length: usize,
    calls: u64,
    tasks: u64,
) -> Result<()> {
    let payload = Bytes::from(vec![7; length]);
    let executor = smol::LocalExecutor::new();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            executor.spawn(async {
                for _ in 0..calls {
                    connection.call_raw(method, payload.clone()).await?;
                }
                Ok::<(), palyra_quic::Error>(())
            })
        })
        .collect();
    let all = async {
        for task in tasks {
            task.await?;
        }
        Ok(())
    };
    executor.run(all).await
}

fn report(limits: &TransportLimits, columns: &[Column]) {
    println!("frames of up to {} bytes", limits.max_frame_bytes());
    println!(
        "\n| 1 GiB as | MB/s | with hashing and all | times the calls | MiB above idle, here and there |"
    );
    println!("|---|---|---|---|---|");
    for (place, (kind, column)) in KINDS.into_iter().zip(columns).enumerate() {
        let ratio = |calls: usize| {
            let calls = columns.get(calls).map(|column| &*column.rates).unwrap_or_default();
            median(column.rates.iter().zip(calls).map(|(rate, calls)| rate / calls).collect())
        };
        let ratios = match place {
            0 | 1 => format!("{:.2}; {:.2} of 4 in flight", ratio(place + 2), ratio(place + 4)),
            _ => "".into(),
        };
        println!(
            "| {kind} | {:.0} | {:.0} | {ratios} | {:.1}, {:.1} |",
            median(column.rates.clone()),
            median(column.whole.clone()),
            column.here,
            column.there
        );
    }
    println!();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
