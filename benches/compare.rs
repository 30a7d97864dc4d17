//! Two runtimes, or two builds, under the same work: `cargo bench --bench compare`.
//!
//! Node and client are processes of their own, so that they share neither reactor nor executor, and both are
//! on the same kind of runtime. The two kinds take turns, ABBA, and each pair of turns gives one ratio; so
//! that what else the machine does meets both. Progress goes to stderr, and the result to stdout as a
//! Markdown table.
//!
//! `COMPARE_KINDS` names the two: `PollRuntime AsyncIoRuntime` if unset, or `SmolRuntime` (quinn's own). A
//! kind followed by `@` and the path of this benchmark's executable, built from other sources, compares with
//! those: `PollRuntime PollRuntime@/tmp/before`. `COMPARE_ROUNDS` (pairs of turns) and `COMPARE_SECONDS` (of
//! each of the two series of calls in a turn) change how long it takes; `COMPARE_EVENTS` how many are
//! replayed.

mod support;

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use palyra_quic::{Bytes, Connection, Context, MethodError, Router, quinn::Runtime};

use self::support::{
    ECHO, dialler, event_log,
    kind::{Kind, Runner},
    serve,
    stage::{Actor, Role, Stage, address, credentials, kind_of_this_process, say, setting},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 15;
const SECONDS: f64 = 1.0;
const EVENTS: usize = 1_000_000;
const IN_FLIGHT: usize = 32;
const WARM_UP: Duration = Duration::from_millis(200);

/// The processor time of the node so far, in ticks.
const TICKS: &str = "bench.ticks";

fn main() -> Result<()> {
    match Role::of_this_process()? {
        Role::Node => node(),
        Role::Client => client(),
        Role::Stage => compare(),
        Role::Nothing => Ok(()),
    }
}

/// A kind of runtime, of this build or another.
struct Entrant {
    name: String,
    kind: Kind,
    executable: PathBuf,
}

impl Entrant {
    fn parse(text: &str) -> Result<Self> {
        let (kind, executable) = match text.split_once('@') {
            Some((kind, path)) => (kind, path.into()),
            None => (text, env::current_exe()?),
        };
        Ok(Self { name: text.to_owned(), kind: Kind::parse(kind)?, executable })
    }

    /// The two of this run.
    fn both() -> Result<[Self; 2]> {
        let names = env::var("COMPARE_KINDS").unwrap_or_else(|_| "PollRuntime AsyncIoRuntime".into());
        let entrants = names.split_whitespace().map(Self::parse).collect::<Result<Vec<_>>>()?;
        entrants.try_into().map_err(|_| format!("{names:?} are not two").into())
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
    ticks_per_event: f64,
}

impl Turn {
    fn to_line(self) -> String {
        let Self {
            p50_seconds,
            calls_per_second,
            single_ticks_per_call,
            ticks_per_call,
            events_per_second,
            ticks_per_event,
        } = self;
        let numbers = [
            p50_seconds,
            calls_per_second,
            single_ticks_per_call,
            ticks_per_call,
            events_per_second,
            ticks_per_event,
        ];
        numbers.map(|number| number.to_string()).join(" ")
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
        Some(Self {
            p50_seconds: numbers.next()?,
            calls_per_second: numbers.next()?,
            single_ticks_per_call: numbers.next()?,
            ticks_per_call: numbers.next()?,
            events_per_second: numbers.next()?,
            ticks_per_event: numbers.next()?,
        })
    }
}

// The process that takes turns.

fn compare() -> Result<()> {
    let rounds = setting("COMPARE_ROUNDS", ROUNDS);
    let stage = Stage::new()?;
    let entrants = Entrant::both()?;
    let mut turns = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let turn = turn(&stage, &entrants[which])?;
            eprintln!(
                "{:2}/{rounds} {:14} p50 {:6.1} us, {:6.0} calls/s with {IN_FLIGHT} in flight, {:7.0} events/s",
                round + 1,
                entrants[which].name,
                turn.p50_seconds * 1e6,
                turn.calls_per_second,
                turn.events_per_second
            );
            turns[which].push(turn);
        }
    }
    print!("{}", table(&entrants, &turns));
    Ok(())
}

/// A fresh pair of processes each time, because a process may be lucky or not for all its life.
fn turn(stage: &Stage, entrant: &Entrant) -> Result<Turn> {
    let mut node = Actor::start(stage.node(&entrant.executable, entrant.kind))?;
    let address = node.line()?;
    let mut client = Actor::start(stage.client(&entrant.executable, entrant.kind, &address))?;
    let line = client.line()?;
    Turn::from_line(&line).ok_or_else(|| format!("the client says {line:?}").into())
}

/// What it is called, where a turn has it, in what unit, and with how many digits.
type Row = (&'static str, fn(&Turn) -> f64, f64, usize);

fn table([a, b]: &[Entrant; 2], [of_a, of_b]: &[Vec<Turn>; 2]) -> String {
    let micros = 1e6;
    // Ticks of processor time are hundredths of a second wherever Linux runs.
    let micros_per_tick = 1e4;
    let rows: [Row; 6] = [
        ("32 calls in flight, calls/s", |turn| turn.calls_per_second, 1.0, 0),
        ("1 call in flight, p50 in µs", |turn| turn.p50_seconds, micros, 1),
        ("CPU of both sides, µs per call, 32 in flight", |turn| turn.ticks_per_call, micros_per_tick, 1),
        (
            "CPU of both sides, µs per call, 1 in flight",
            |turn| turn.single_ticks_per_call,
            micros_per_tick,
            1,
        ),
        ("replay of events of 32 B, events/s", |turn| turn.events_per_second, 1.0, 0),
        ("CPU of both sides, ns per event", |turn| turn.ticks_per_event, 1000.0 * micros_per_tick, 0),
    ];
    let mut table =
        format!("| median (quartiles) | {} | {} | ratio of each pair |\n|---|---|---|---|\n", a.name, b.name);
    for (name, value, unit, digits) in rows {
        let column = |turns: &[Turn]| Quartiles::of(turns.iter().map(|turn| value(turn) * unit));
        let ratios = of_a.iter().zip(of_b).map(|(a, b)| value(a) / value(b));
        let cells = [(column(of_a), digits), (column(of_b), digits), (Quartiles::of(ratios), 2)]
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
        .serve(TICKS, |_: Context, ()| async { Ok::<_, MethodError>(ticks()) });
    let runner = Runner::new(kind_of_this_process()?)?;
    let endpoint = serve(runner.handle(), identity, trust, router)?;
    say(endpoint.local_addr()?)?;
    runner.run_until_input_ends();
    Ok(())
}

fn client() -> Result<()> {
    let (identity, trust) = credentials()?;
    let runner = Runner::new(kind_of_this_process()?)?;
    let runtime = runner.handle();
    let endpoint = dialler(Arc::clone(&runtime), identity, trust)?;
    let address = address()?;
    let duration = Duration::from_secs_f64(setting("COMPARE_SECONDS", SECONDS));
    let turn = runner.run(async move {
        let connection = endpoint.connect(address).await?;
        measure(&connection, &*runtime, duration).await
    });
    println!("{}", turn?.to_line());
    Ok(())
}

async fn measure(connection: &Connection, runtime: &dyn Runtime, duration: Duration) -> Result<Turn> {
    series(connection, runtime, 1, WARM_UP).await?;
    let single = series(connection, runtime, 1, duration).await?;
    series(connection, runtime, IN_FLIGHT, WARM_UP).await?;
    let many = series(connection, runtime, IN_FLIGHT, duration).await?;
    let (events_per_second, ticks_per_event) = replay(connection).await?;
    Ok(Turn {
        p50_seconds: single.p50.as_secs_f64(),
        calls_per_second: many.calls / many.elapsed.as_secs_f64(),
        single_ticks_per_call: single.ticks_per_call(),
        ticks_per_call: many.ticks_per_call(),
        events_per_second,
        ticks_per_event,
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
async fn series(
    connection: &Connection,
    runtime: &dyn Runtime,
    in_flight: usize,
    duration: Duration,
) -> Result<Series> {
    let before = ticks_of_both(connection).await?;
    let start = Instant::now();
    let (done, tasks) = smol::channel::unbounded();
    for _ in 0..in_flight {
        let (connection, done) = (connection.clone(), done.clone());
        runtime.spawn(Box::pin(async move {
            let calling = async {
                let mut latencies: Vec<Duration> = Vec::new();
                let mut now = Instant::now();
                while now < start + duration {
                    connection.call_raw(ECHO, Bytes::from_static(&[7; 64])).await?;
                    let answered = Instant::now();
                    latencies.push(answered - now);
                    now = answered;
                }
                Ok::<_, palyra_quic::Error>(latencies)
            };
            // Fails only where the measurement was given up.
            let _ = done.send(calling.await).await;
        }));
    }
    drop(done);
    let mut latencies = Vec::new();
    while let Ok(result) = tasks.recv().await {
        latencies.append(&mut result?);
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

/// Replays the whole log, and gives the events in a second, and the ticks that each takes.
async fn replay(connection: &Connection) -> Result<(f64, f64)> {
    let before = ticks_of_both(connection).await?;
    let start = Instant::now();
    let mut events = connection.events_raw().open().await?;
    let mut count = 0_u32;
    while events.next_raw().await?.is_some() {
        count += 1;
    }
    if usize::try_from(count)? != setting("COMPARE_EVENTS", EVENTS) {
        return Err(format!("{count} events came").into());
    }
    let elapsed = start.elapsed();
    let ticks = ticks_of_both(connection).await?.zip(before).map(|(after, before)| f64::from(after - before));
    Ok((f64::from(count) / elapsed.as_secs_f64(), ticks.unwrap_or(f64::NAN) / f64::from(count)))
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
