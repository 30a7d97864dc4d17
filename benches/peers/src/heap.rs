//! Whose the memory of an idle connection is: `peers heap [--burst]`, with valgrind and addr2line.
//!
//! The server of palyra runs under valgrind's DHAT with fewer and with more idle connections. What is
//! allocated for a connection is the difference, by the stacks that allocated it. A block belongs to the
//! innermost crate on its stack that is no container of another's values. With `--burst`, each connection has
//! made 160 calls before, eight at a time.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Result,
    contenders::PALYRA,
    nodes,
    processes::{Client, Cores, Process},
    stage::Stage,
};

/// Two numbers of connections, between which no table of the endpoint doubles: those of hashbrown hold 7/8 of
/// a power of two.
const FEWER: u32 = 120;
const MORE: u32 = 220;
/// What acknowledges and times out does so before the memory is looked at, although valgrind slows it down.
const SETTLE: Duration = Duration::from_secs(5);
/// A place that keeps less for each connection is not listed.
const SMALLEST_PLACE: f64 = 32.0;
/// They hold values of their callers. Of tokio, quinn takes the queues.
const CONTAINERS: [&str; 6] = ["bytes", "hashbrown", "slab", "smallvec", "tinyvec", "tokio"];

/// Bytes and blocks, and the bytes with what glibc's allocator adds: eight to each block, in steps of 16.
#[derive(Clone, Copy, Default)]
struct Blocks {
    bytes: f64,
    count: f64,
    in_glibc: f64,
}

impl Blocks {
    fn add(&mut self, other: Self, sign: f64) {
        self.bytes += sign * other.bytes;
        self.count += sign * other.count;
        self.in_glibc += sign * other.in_glibc;
    }

    fn row(&self) -> String {
        format!("{:.0} | {:.1} | {:.0}", self.bytes, self.count, self.in_glibc)
    }
}

/// The crate, and the function with its file.
type Place = (String, String);

pub fn run(args: &[String]) -> Result<()> {
    let burst = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => false,
        ["--burst"] => true,
        _ => return Err("usage: peers heap [--burst]".into()),
    };
    let program = nodes::build_with_symbols("palyra")?;
    let stage = Stage::new()?;
    let mut places = BTreeMap::<Place, Blocks>::new();
    for (connections, sign) in [(FEWER, -1.0), (MORE, 1.0)] {
        let each = sign / f64::from(MORE - FEWER);
        for (place, blocks) in live(&stage, &program, connections, burst)? {
            places.entry(place).or_default().add(blocks, each);
        }
    }
    print(&places);
    let resident = resident(&stage, &program, burst)?;
    println!("\nresident for each of {MORE} connections: {resident:.0} bytes");
    Ok(())
}

fn print(places: &BTreeMap<Place, Blocks>) {
    let mut crates = BTreeMap::<&str, Blocks>::new();
    let mut all = Blocks::default();
    for ((name, _), blocks) in places {
        crates.entry(name).or_default().add(*blocks, 1.0);
        all.add(*blocks, 1.0);
    }
    let mut crates: Vec<_> = crates.into_iter().filter(|(_, blocks)| blocks.bytes >= 1.0).collect();
    crates.sort_by(|(_, one), (_, other)| other.bytes.total_cmp(&one.bytes));
    println!("| crate | bytes | blocks | bytes in glibc |\n|---|---|---|---|");
    for (name, blocks) in crates {
        println!("| {name} | {} |", blocks.row());
    }
    println!("| all | {} |\n", all.row());
    let mut places: Vec<_> = places.iter().filter(|(_, blocks)| blocks.bytes >= SMALLEST_PLACE).collect();
    places.sort_by(|(_, one), (_, other)| other.bytes.total_cmp(&one.bytes));
    println!("| crate | allocated by | bytes | blocks | bytes in glibc |\n|---|---|---|---|---|");
    for ((name, place), blocks) in places {
        println!("| {name} | {place} | {} |", blocks.row());
    }
}

fn connect(stage: &Stage, address: &str, connections: u32, burst: bool) -> Result<Client> {
    let mut client = Client::start(PALYRA, stage.directory(), address, 0, Cores::All)?;
    let mut ask = |command: String| client.ask(&command).map_err(|failure| failure.to_string());
    ask(format!("connect {connections}"))?;
    if burst {
        ask(format!("count {} {}", 8 * connections, 160 * connections))?;
    }
    thread::sleep(SETTLE);
    Ok(client)
}

/// What is resident without valgrind, for each connection.
fn resident(stage: &Stage, program: &Path, burst: bool) -> Result<f64> {
    let mut command = Command::new(program);
    command.args([stage.pki()?, "0", &(2 * MORE).to_string()]);
    let server = Process::start(command)?;
    let address = server.line()?;
    thread::sleep(SETTLE);
    let before = server.resident()?.all;
    let client = connect(stage, &address, MORE, burst)?;
    let after = server.resident()?.all;
    drop(client);
    Ok((after - before) / f64::from(MORE))
}

/// What a server has allocated with so many connections.
fn live(stage: &Stage, program: &Path, connections: u32, burst: bool) -> Result<Vec<(Place, Blocks)>> {
    let report = stage.directory().join("dhat.json");
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=dhat", "--num-callers=80", "--log-file=/dev/null"])
        .arg(format!("--dhat-out-file={}", report.display()))
        .arg(program)
        .args([stage.pki()?, "0", &(2 * MORE).to_string()]);
    let mut server = Process::start(command)?;
    let address = server.line()?;
    let base = base_address(&server, program)?;
    let client = connect(stage, &address, connections, burst)?;
    // The report is written when the process ends, and the connections must be there.
    server.terminate()?;
    server.wait()?;
    drop(client);
    by_place(&serde_json::from_slice(&fs::read(report)?)?, program, base)
}

/// Where the program is in the memory of a process that runs it under valgrind.
fn base_address(process: &Process, program: &Path) -> Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.id()))?;
    let program = program.canonicalize()?;
    let line = maps.lines().find(|line| line.ends_with(&*program.to_string_lossy()));
    let address = line.and_then(|line| line.split_once('-')).ok_or("the program is not in memory")?.0;
    Ok(u64::from_str_radix(address, 16)?)
}

fn by_place(report: &Value, program: &Path, base: u64) -> Result<Vec<(Place, Blocks)>> {
    let list =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    // `0x1234: function (file:line)`; several have one address where functions are inlined.
    let address = |frame: &Value| {
        let digits = frame.as_str()?.strip_prefix("0x")?.split_once(':')?.0;
        u64::from_str_radix(digits, 16).ok()?.checked_sub(base)
    };
    let frames: Vec<_> = list(report, "ftbl").iter().map(address).collect();
    let functions = functions(program, frames.iter().flatten())?;
    let mut places = Vec::new();
    for point in list(report, "pps") {
        let number = |name: &str| Some(f64::from(u32::try_from(point.get(name)?.as_u64()?).ok()?));
        let (bytes, count) = number("eb").zip(number("ebk")).ok_or("no numbers of blocks at the end")?;
        if count == 0.0 {
            continue;
        }
        let of_a_block = (((bytes / count + 8.0) / 16.0).ceil() * 16.0).max(32.0);
        let stack = list(&point, "fs");
        let stack = stack.iter().filter_map(|frame| {
            let frame = frames.get(usize::try_from(frame.as_u64()?).ok()?)?;
            functions.get(frame.as_ref()?)
        });
        let owner = stack.flatten().find(|(name, _)| !CONTAINERS.contains(&name.as_str()));
        let place = owner.cloned().unwrap_or_else(|| ("the program's start".into(), String::new()));
        places.push((place, Blocks { bytes, count, in_glibc: of_a_block * count }));
    }
    Ok(places)
}

/// The functions at these addresses: where some are inlined, the innermost first.
fn functions<'a>(
    program: &Path,
    addresses: impl Iterator<Item = &'a u64>,
) -> Result<HashMap<u64, Vec<Place>>> {
    let list = env::temp_dir().join(format!("peers-addresses-{}", std::process::id()));
    fs::write(&list, addresses.map(|address| format!("{address:#x}\n")).collect::<String>())?;
    let mut command = Command::new("addr2line");
    command.args(["--addresses", "--functions", "--inlines", "--demangle", "--exe"]).arg(program);
    let output = command.stdin(fs::File::open(&list)?).stderr(Stdio::inherit()).output()?;
    fs::remove_file(list)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (mut functions, mut current) = (HashMap::new(), Vec::new());
    let mut address = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(next) = line.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            if let Some(address) = address.replace(next) {
                functions.insert(address, std::mem::take(&mut current));
            }
        } else if let Some(file) = lines.next()
            && let Some((name, file)) = crate_and_file(file)
        {
            current.push((name, format!("`{}` in {file}", last_of_path(line))));
        }
    }
    functions.extend(address.map(|address| (address, current)));
    Ok(functions)
}

/// `None` for what is of no crate with sources here, such as the standard library.
fn crate_and_file(location: &str) -> Option<Place> {
    let file = location.split(':').next()?;
    if let Some((_, rest)) = file.split_once("/registry/src/") {
        let (package, file) = rest.split_once('/')?.1.split_once('/')?;
        let (name, _version) = package.rsplit_once('-')?;
        return Some((name.into(), file.into()));
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().ok()?;
    let file = Path::new(file).strip_prefix(&package).ok()?;
    Some(("palyra-quic".into(), file.display().to_string()))
}

/// The name of a function without its path and without what it is generic over.
fn last_of_path(function: &str) -> &str {
    let plain = function.split('<').find(|part| !part.is_empty()).unwrap_or(function);
    let plain = plain.trim_end_matches("::");
    plain.rsplit("::").next().unwrap_or(plain)
}
