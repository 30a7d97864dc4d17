//! `AsyncIoRuntime` against quinn's own `SmolRuntime`, under the same library: `cargo bench --bench compare`.
//!
//! Node and client are processes of their own, so that they share neither reactor nor executor, and both are on the
//! same kind of runtime. The two kinds take turns, ABBA, and each pair of turns gives one ratio; so that what else the
//! machine does meets both. Progress goes to stderr, and the result to stdout as a Markdown table.
//!
//! The environment variables `COMPARE_ROUNDS` (pairs of turns) and `COMPARE_SECONDS` (of each of the two series of
//! calls in a turn) change how long it takes; `COMPARE_EVENTS` how many are replayed.

mod support;

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    io::{self, BufRead, BufReader, Read, Write as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use palyra_quic::{
    AsyncIoRuntime, Bytes, CertificateAuthority, Connection, Context, Identity, MethodError, Router, Trust,
    quinn::{Runtime, SmolRuntime},
};

use self::support::{ECHO, dialler, event_log, serve};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 15;
const SECONDS: f64 = 1.0;
const EVENTS: usize = 1_000_000;
const IN_FLIGHT: usize = 32;
const WARM_UP: Duration = Duration::from_millis(200);

const ROLE: &str = "COMPARE_ROLE";
const KIND: &str = "COMPARE_KIND";
const ADDRESS: &str = "COMPARE_ADDRESS";
const AUTHORITY: &str = "COMPARE_CA";
const CERTIFICATE: &str = "COMPARE_CERT";
const KEY: &str = "COMPARE_KEY";

/// The processor time of the node so far, in ticks.
const TICKS: &str = "bench.ticks";

fn main() -> Result<()> {
    match env::var(ROLE).as_deref() {
        Ok("node") => node(),
        Ok("client") => client(),
        // `cargo test --benches` starts this too, and is not to wait for it.
        _ if env::args().all(|arg| arg != "--bench") => Ok(()),
        _ => compare(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    Quinns,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "AsyncIoRuntime",
            Self::Quinns => "SmolRuntime",
        }
    }

    fn of_this_process() -> Result<Arc<dyn Runtime>> {
        let name = env::var(KIND)?;
        if name == Self::Ours.name() {
            Ok(Arc::new(AsyncIoRuntime::global()))
        } else {
            Ok(Arc::new(SmolRuntime))
        }
    }
}

/// What a turn measures; a client writes it as one line, in this order.
#[derive(Clone, Copy, Default)]
struct Turn {
    p50_seconds: f64,
    calls_per_second: f64,
    single_ticks_per_call: f64,
    ticks_per_call: f64,
    events_per_second: f64,
}

impl Turn {
    fn to_line(self) -> String {
        let Self { p50_seconds, calls_per_second, single_ticks_per_call, ticks_per_call, events_per_second } =
            self;
        format!(
            "{p50_seconds} {calls_per_second} {single_ticks_per_call} {ticks_per_call} {events_per_second}"
        )
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
        Some(Self {
            p50_seconds: numbers.next()?,
            calls_per_second: numbers.next()?,
            single_ticks_per_call: numbers.next()?,
            ticks_per_call: numbers.next()?,
            events_per_second: numbers.next()?,
        })
    }
}

// The process that takes turns.

fn compare() -> Result<()> {
    let rounds = setting("COMPARE_ROUNDS", ROUNDS);
    let stage = Stage::new()?;
    let (mut ours, mut quinns) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let order = if round % 2 == 0 { [Kind::Ours, Kind::Quinns] } else { [Kind::Quinns, Kind::Ours] };
        for kind in order {
            let turn = stage.turn(kind)?;
            eprintln!(
                "{:2}/{rounds} {:14} p50 {:6.1} us, {:6.0} calls/s with {IN_FLIGHT} in flight, {:7.0} events/s",
                round + 1,
                kind.name(),
                turn.p50_seconds * 1e6,
                turn.calls_per_second,
                turn.events_per_second
            );
            match kind {
                Kind::Ours => ours.push(turn),
                Kind::Quinns => quinns.push(turn),
            }
        }
    }
    print!("{}", table(&ours, &quinns));
    Ok(())
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What all turns share: who the two are.
struct Stage {
    authority: CertificateAuthority,
    node: (String, String),
    client: (String, String),
}

impl Stage {
    fn new() -> palyra_quic::Result<Self> {
        let authority = CertificateAuthority::new("Compare CA")?;
        let (node, client) = (authority.issue_server(&[])?, authority.issue_client("compare")?);
        Ok(Self {
            node: (node.cert_pem().to_owned(), node.key_pem().to_owned()),
            client: (client.cert_pem().to_owned(), client.key_pem().to_owned()),
            authority,
        })
    }

    /// A fresh pair of processes each time, because a process may be lucky or not for all its life.
    fn turn(&self, kind: Kind) -> Result<Turn> {
        let mut node = Actor::start(self.command("node", kind, &self.node)?)?;
        let address = node.line()?;
        let mut command = self.command("client", kind, &self.client)?;
        command.env(ADDRESS, address.trim());
        let mut client = Actor::start(command)?;
        let line = client.line()?;
        Turn::from_line(&line).ok_or_else(|| format!("the client says {line:?}").into())
    }

    fn command(&self, role: &str, kind: Kind, (cert, key): &(String, String)) -> io::Result<Command> {
        let mut command = Command::new(env::current_exe()?);
        command
            .env(ROLE, role)
            .env(KIND, kind.name())
            .env(AUTHORITY, self.authority.cert_pem())
            .env(CERTIFICATE, cert)
            .env(KEY, key);
        Ok(command)
    }
}

/// A child process, which ends when its standard input does.
struct Actor {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Actor {
    fn start(mut command: Command) -> Result<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = process.stdout.take().ok_or("no standard output")?;
        Ok(Self { process, output: BufReader::new(output) })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// What it is called, where a turn has it, in what unit, and with how many digits.
type Row = (&'static str, fn(&Turn) -> f64, f64, usize);

fn table(ours: &[Turn], quinns: &[Turn]) -> String {
    let micros = 1e6;
    // Ticks of processor time are hundredths of a second wherever Linux runs.
    let micros_per_tick = 1e4;
    let rows: [Row; 5] = [
        ("32 calls in flight, calls/s (target ≥ 1.10)", |turn| turn.calls_per_second, 1.0, 0),
        ("1 call in flight, p50 in µs (target ≤ 0.90)", |turn| turn.p50_seconds, micros, 1),
        ("CPU of both sides, µs per call, 32 in flight", |turn| turn.ticks_per_call, micros_per_tick, 1),
        (
            "CPU of both sides, µs per call, 1 in flight",
            |turn| turn.single_ticks_per_call,
            micros_per_tick,
            1,
        ),
        ("replay of events of 32 B, events/s (target ≥ 2,000,000)", |turn| turn.events_per_second, 1.0, 0),
    ];
    let mut table = String::from(
        "| median (quartiles) | AsyncIoRuntime | SmolRuntime | ratio of each pair |\n|---|---|---|---|\n",
    );
    for (name, value, unit, digits) in rows {
        let column = |turns: &[Turn]| Quartiles::of(turns.iter().map(|turn| value(turn) * unit));
        let ratios = ours.iter().zip(quinns).map(|(ours, quinns)| value(ours) / value(quinns));
        let cells = [(column(ours), digits), (column(quinns), digits), (Quartiles::of(ratios), 2)]
            .map(|(quartiles, digits)| quartiles.map_or_else(|| "–".into(), |q| q.display(digits)));
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| {name} | {} |", cells.join(" | "));
    }
    table
}

struct Quartiles {
    lower: f64,
    median: f64,
    upper: f64,
}

impl Quartiles {
    /// `None` where nothing could be measured.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values.get((values.len().checked_sub(1)? * quarter + 2) / 4).copied();
        Some(Self { lower: at(1)?, median: at(2)?, upper: at(3)? })
    }

    fn display(&self, digits: usize) -> String {
        let Self { lower, median, upper } = self;
        format!("{median:.digits$} ({lower:.digits$}–{upper:.digits$})")
    }
}

// The two that are measured.

fn node() -> Result<()> {
    let (identity, trust) = credentials()?;
    let router = Router::new()
        .events(event_log(setting("COMPARE_EVENTS", EVENTS))?)
        .typed(TICKS, |_: Context, ()| async { Ok::<_, MethodError>(ticks()) });
    let endpoint = serve(Kind::of_this_process()?, identity, trust, router)?;
    let mut output = io::stdout();
    writeln!(output, "{}", endpoint.local_addr()?)?;
    output.flush()?;
    // Reading keeps this thread out of everything until the end.
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn client() -> Result<()> {
    let (identity, trust) = credentials()?;
    let endpoint = dialler(Kind::of_this_process()?, identity, trust)?;
    let address: SocketAddr = env::var(ADDRESS)?.parse()?;
    let duration = Duration::from_secs_f64(setting("COMPARE_SECONDS", SECONDS));
    // On the executor, as everything else in the two processes, so that no thread waits for another.
    let turn = smol::spawn(async move {
        let connection = endpoint.connect(address).await?;
        measure(&connection, duration).await
    });
    let turn = futures_lite::future::block_on(turn)?;
    println!("{}", turn.to_line());
    Ok(())
}

fn credentials() -> Result<(Identity, Trust)> {
    let [authority, certificate, key] = [AUTHORITY, CERTIFICATE, KEY].map(env::var);
    let identity = Identity::from_pem(certificate?.as_bytes(), key?.as_bytes())?;
    Ok((identity, Trust::from_pem(authority?.as_bytes())?))
}

async fn measure(connection: &Connection, duration: Duration) -> Result<Turn> {
    series(connection, 1, WARM_UP).await?;
    let single = series(connection, 1, duration).await?;
    series(connection, IN_FLIGHT, WARM_UP).await?;
    let many = series(connection, IN_FLIGHT, duration).await?;
    Ok(Turn {
        p50_seconds: single.p50.as_secs_f64(),
        calls_per_second: many.calls / many.elapsed.as_secs_f64(),
        single_ticks_per_call: single.ticks_per_call(),
        ticks_per_call: many.ticks_per_call(),
        events_per_second: replay(connection).await?,
    })
}

struct Series {
    p50: Duration,
    calls: f64,
    elapsed: Duration,
    ticks: Option<u32>,
}

impl Series {
    fn ticks_per_call(&self) -> f64 {
        self.ticks.map_or(f64::NAN, f64::from) / self.calls
    }
}

/// Calls for as long as `duration`, from `in_flight` tasks.
async fn series(connection: &Connection, in_flight: usize, duration: Duration) -> Result<Series> {
    let before = ticks_of_both(connection).await?;
    let start = Instant::now();
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let connection = connection.clone();
            smol::spawn(async move {
                let mut latencies: Vec<Duration> = Vec::new();
                let mut now = Instant::now();
                while now < start + duration {
                    connection.call_raw(ECHO, Bytes::from_static(&[7; 64])).await?;
                    let answered = Instant::now();
                    latencies.push(answered - now);
                    now = answered;
                }
                Ok::<_, palyra_quic::Error>(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.append(&mut task.await?);
    }
    let elapsed = start.elapsed();
    let after = ticks_of_both(connection).await?;
    latencies.sort();
    let p50 = latencies.get(latencies.len() / 2).copied().ok_or("no call was answered")?;
    Ok(Series {
        p50,
        calls: f64::from(u32::try_from(latencies.len())?),
        elapsed,
        ticks: after.zip(before).map(|(after, before)| after - before),
    })
}

/// Replays the whole log, and gives the events in a second.
async fn replay(connection: &Connection) -> Result<f64> {
    let start = Instant::now();
    let mut events = connection.events().open().await?;
    let mut count = 0_u32;
    while events.next().await?.is_some() {
        count += 1;
    }
    if usize::try_from(count)? != setting("COMPARE_EVENTS", EVENTS) {
        return Err(format!("{count} events came").into());
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

async fn ticks_of_both(connection: &Connection) -> Result<Option<u32>> {
    let node: Option<u32> = connection.call(TICKS, &()).await?;
    Ok(node.zip(ticks()).map(|(node, client)| node + client))
}

/// The processor time of this process, user and system, where the system has Linux's `/proc`.
fn ticks() -> Option<u32> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name may contain anything, but it is the last thing in parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|field| field.parse::<u32>().ok());
    Some(times.next()?? + times.next()??)
}
