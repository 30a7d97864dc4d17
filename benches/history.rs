//! A history larger than memory: `cargo bench --bench history`, on Linux.
//!
//! Says how long a node takes to open a log on disk, what its process holds while eight subscribers replay
//! all of it, and how fast a replay from disk is beside one from memory. The node is a process of its own,
//! with `AsyncIoRuntime`; the files are in the page cache. Progress goes to stderr, and the result to stdout
//! as a Markdown table.
//!
//! `HISTORY_EVENTS` is how many events of 100 bytes there are, 10,000,000 if unset.

mod support;

use std::{
    env,
    error::Error,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use palyra_quic::{ClientTls, Connection, Endpoint, EventLog, Router};

use self::support::{
    LOOPBACK,
    kind::{Kind, Runner},
    serve,
    stage::{Actor, Role, Stage, credentials, kind_of_this_process, say, setting},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SUBSCRIBERS: usize = 8;
const ROUNDS: usize = 7;
/// How many events are replayed to compare speeds.
const COMPARED: u64 = 1_000_000;
/// Where the node's log is. If unset, it is in memory.
const PATH: &str = "HISTORY_PATH";

fn main() -> Result<()> {
    match Role::of_this_process()? {
        Role::Node => node(),
        Role::Stage => history(),
        Role::Client | Role::Nothing => Ok(()),
    }
}

fn history() -> Result<()> {
    let events = setting("HISTORY_EVENTS", 10_000_000);
    let path = env::temp_dir().join(format!("palyra-history-{}", std::process::id()));
    let outcome = fill(&path, events).and_then(|()| measure(&path, events));
    fs::remove_dir_all(path)?;
    outcome
}

fn on_disk(path: &Path) -> palyra_quic::Result<EventLog> {
    EventLog::builder().max_events(usize::MAX).max_bytes(1 << 40).open(path)
}

fn fill(path: &Path, events: u64) -> Result<()> {
    let log = on_disk(path)?;
    for n in 1..=events {
        log.publish_raw(format!("{n:0100}"))?;
        // As many as a log has wait in memory.
        if n % 1024 == 0 {
            smol::block_on(log.flush())?;
        }
        if n % 1_000_000 == 0 {
            eprintln!("{n} of {events} events written");
        }
    }
    Ok(smol::block_on(log.close())?)
}

fn measure(path: &Path, events: u64) -> Result<()> {
    let (stage, executable, kind) = (Stage::new()?, env::current_exe()?, Kind::parse("AsyncIoRuntime")?);
    let mut command = stage.node(&executable, kind);
    command.env(PATH, path);
    let mut node = Actor::start(command)?;
    let opened = node.line()?;
    let disk = subscribers(&stage, &node.line()?)?;
    let (idle, more, seconds) = replay_all(&node, &disk, events)?;
    let delivered = f64::from(u32::try_from(events)?) * f64::from(u32::try_from(SUBSCRIBERS)?);
    println!("| {events} events of 100 bytes on disk | |\n|---|---|");
    println!("| opened in | {} |", opened.trim());
    println!("| resident with {SUBSCRIBERS} idle subscribers | {idle} KiB |");
    println!("| most resident while all of them replay everything | {more} KiB more |");
    println!("| events per second to all of them | {:.0} |", delivered / seconds);
    compare(&stage, disk.first().ok_or("nobody subscribes")?, events)
}

/// Replays all events to all subscribers together. Returns what is resident before, what is at most resident
/// meanwhile beyond that, in KiB, and the seconds that it takes.
fn replay_all(node: &Actor, subscribers: &[Connection], events: u64) -> Result<(u32, u32, f64)> {
    let idle = memory(node.id(), "VmRSS:")?;
    // Begins to count the most that is resident anew.
    fs::write(format!("/proc/{}/clear_refs", node.id()), "5")?;
    let start = Instant::now();
    smol::block_on(async {
        let replays: Vec<_> =
            subscribers.iter().map(|connection| smol::spawn(replay(connection.clone(), 0, events))).collect();
        for replay in replays {
            replay.await?;
        }
        Ok::<_, palyra_quic::Error>(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    Ok((idle, memory(node.id(), "VmHWM:")?.saturating_sub(idle), seconds))
}

/// Replays the newest events in turns, from the node on disk and from one in memory.
fn compare(stage: &Stage, disk: &Connection, events: u64) -> Result<()> {
    let compared = COMPARED.min(events);
    let mut command = stage.node(&env::current_exe()?, Kind::parse("AsyncIoRuntime")?);
    command.env("HISTORY_COMPARED", compared.to_string());
    let mut node = Actor::start(command)?;
    node.line()?;
    let memory = subscribers(stage, &node.line()?)?;
    let (_, more, _) = replay_all(&node, &memory, compared)?;
    println!("| the same, of a log of {compared} events in memory | {more} KiB more |");
    let memory = memory.first().ok_or("nobody subscribes")?;
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let from_disk = timed(replay(disk.clone(), events - compared, compared))?;
        let from_memory = timed(replay(memory.clone(), 0, compared))?;
        eprintln!("{round}/{ROUNDS} {compared} events: {from_disk:?} from disk, {from_memory:?} from memory");
        ratios.push(from_memory.as_secs_f64() / from_disk.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN);
    println!("| speed of a replay from disk, against one from memory | {median:.2} |");
    Ok(())
}

fn timed(replay: impl Future<Output = palyra_quic::Result<()>> + Send + 'static) -> Result<Duration> {
    let start = Instant::now();
    smol::block_on(smol::spawn(replay))?;
    Ok(start.elapsed())
}

async fn replay(connection: Connection, after: u64, count: u64) -> palyra_quic::Result<()> {
    let mut events = connection.events_raw().resume_from(after).open().await?;
    let mut received = 0;
    while events.next_raw().await?.is_some() {
        received += 1;
    }
    assert_eq!(received, count, "events are missing");
    Ok(())
}

fn subscribers(stage: &Stage, address: &str) -> Result<Vec<Connection>> {
    let tls = ClientTls::new(stage.trust()).identity(stage.client_identity()?);
    let endpoint = Endpoint::builder().client(tls).bind(LOOPBACK)?;
    let address: std::net::SocketAddr = address.trim().parse()?;
    smol::block_on(async {
        let mut connections = Vec::new();
        for _ in 0..SUBSCRIBERS {
            connections.push(endpoint.connect(address).await?);
        }
        // What follows a handshake is over before the memory is looked at.
        smol::Timer::after(Duration::from_secs(2)).await;
        Ok(connections)
    })
}

/// A size in the status of a process, in KiB.
fn memory(process: u32, field: &str) -> Result<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no memory is counted")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn node() -> Result<()> {
    let (identity, trust) = credentials()?;
    let runner = Runner::new(kind_of_this_process()?)?;
    let start = Instant::now();
    let log = match env::var_os(PATH) {
        Some(path) => on_disk(Path::new(&path))?,
        None => in_memory(setting("HISTORY_COMPARED", COMPARED))?,
    };
    say(format!("{:?}", start.elapsed()))?;
    let endpoint = serve(Arc::clone(&runner.handle()), identity, trust, Router::new().events(log))?;
    say(endpoint.local_addr()?)?;
    runner.run_until_input_ends();
    Ok(())
}

fn in_memory(events: u64) -> palyra_quic::Result<EventLog> {
    let log = EventLog::builder().max_events(usize::MAX).max_bytes(1 << 40).build()?;
    for n in 1..=events {
        log.publish_raw(format!("{n:0100}"))?;
    }
    Ok(log)
}
