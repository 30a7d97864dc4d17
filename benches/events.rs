//! Events end to end: `cargo bench --bench events`. What following costs beside a call, how fast a replay is,
//! and how fast events are written to disk. Progress goes to stderr, and the result to stdout as a Markdown
//! table.

mod support;

use std::{
    env,
    error::Error,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use palyra_quic::{
    AsyncIoRuntime, Bytes, CertificateAuthority, Client, Connection, Endpoint, EventLog, Router,
    SubscriptionItem,
};

use self::support::{ECHO, dialler, event_log, serve};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 11;
const SAMPLES: usize = 2000;
const REPLAYED: usize = 1_000_000;
const WRITTEN: u32 = 200_000;

fn main() -> Result<()> {
    // `cargo test --benches` starts this too, and is not to wait for it.
    if env::args().all(|arg| arg != "--bench") {
        return Ok(());
    }
    println!("| what | median | of rounds |\n|---|---|---|");
    latencies()?;
    replays()?;
    writes()
}

struct Link {
    _node: Endpoint,
    client: Client,
    connection: Connection,
}

fn link(log: &EventLog) -> Result<Link> {
    let authority = CertificateAuthority::new("Bench CA")?;
    let runtime = Arc::new(AsyncIoRuntime::global());
    let identity = authority.issue_server(&[])?.identity();
    let node = serve(runtime.clone(), identity, authority.trust(), Router::new().events(log.clone()))?;
    let client = dialler(runtime, authority.issue_client("bench")?.identity(), authority.trust())?;
    let client = Client::builder(client).address(node.local_addr()?).build()?;
    let connection = smol::block_on(client.connection())?;
    Ok(Link { _node: node, client, connection })
}

/// From publishing until the subscriber has the event, beside a call on the same connection, in turns.
fn latencies() -> Result<()> {
    let log = EventLog::new();
    let Link { client, connection, _node } = link(&log)?;
    let rounds = smol::block_on(smol::spawn(async move {
        let mut subscription = client.subscribe_raw().open();
        let mut rounds = Vec::new();
        // The first one connects.
        for round in 0..=ROUNDS {
            let (mut calls, mut events) = (Vec::new(), Vec::new());
            for _ in 0..SAMPLES {
                let start = Instant::now();
                connection.call_raw(ECHO, Bytes::from_static(&[7; 32])).await?;
                calls.push(start.elapsed());

                let start = Instant::now();
                log.publish_raw(Bytes::from_static(&[7; 32]))?;
                while !matches!(subscription.next_raw().await?, SubscriptionItem::Event { .. }) {}
                events.push(start.elapsed());
            }
            let (call, event) = (median(&mut calls), median(&mut events));
            eprintln!("{round:2}/{ROUNDS} call {call:?}, event {event:?}");
            if round > 0 {
                rounds.push((call.as_secs_f64() * 1e6, event.as_secs_f64() * 1e6));
            }
        }
        Ok::<_, palyra_quic::Error>(rounds)
    }))?;
    let of = |value: fn(&(f64, f64)) -> f64| median_of(rounds.iter().map(value));
    println!("| one call, p50 in µs | {:.1} | {ROUNDS} |", of(|(call, _)| *call));
    println!("| publish to subscriber, p50 in µs | {:.1} | {ROUNDS} |", of(|(_, event)| *event));
    println!(
        "| the second by the first (target < 1.3) | {:.2} | {ROUNDS} |",
        of(|(call, event)| event / call)
    );
    Ok(())
}

/// A subscription's way through a log of a million, beside that of a plain stream of events, in turns. Both
/// nodes share a thread here; `compare` keeps them apart, and measures the speed itself.
fn replays() -> Result<()> {
    let Link { client, connection, _node } = link(&event_log(REPLAYED)?)?;
    let (mut plain, mut subscribed) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let connection = connection.clone();
        let stream = timed(async move {
            let mut events = connection.events_raw().open().await?;
            let mut count = 0;
            while events.next_raw().await?.is_some() {
                count += 1;
            }
            Ok(count)
        })?;
        let client = client.clone();
        let subscription = timed(async move {
            let mut subscription = client.subscribe_raw().open();
            let mut count = 0;
            while count < REPLAYED {
                count +=
                    usize::from(matches!(subscription.next_raw().await?, SubscriptionItem::Event { .. }));
            }
            Ok(count)
        })?;
        eprintln!("{round:2}/{ROUNDS} replay of {REPLAYED}: {stream:?}, by a subscription {subscription:?}");
        plain.push(stream.as_secs_f64());
        subscribed.push(subscription.as_secs_f64());
    }
    let ratios = plain.iter().zip(&subscribed).map(|(plain, subscribed)| plain / subscribed);
    println!(
        "| replay by a subscription, speed against a plain stream's | {:.2} | {ROUNDS} |",
        median_of(ratios)
    );
    Ok(())
}

/// How long it takes on the executor until all events are there.
fn timed(replay: impl Future<Output = palyra_quic::Result<usize>> + Send + 'static) -> Result<Duration> {
    let start = Instant::now();
    match smol::block_on(smol::spawn(replay))? {
        REPLAYED => Ok(start.elapsed()),
        count => Err(format!("{count} events came").into()),
    }
}

/// Events to a file, as fast as it takes them.
fn writes() -> Result<()> {
    let (mut rates, mut commits) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let path = env::temp_dir().join(format!("palyra-bench-{}-{round}", std::process::id()));
        let log = EventLog::builder().max_events(100_000).max_bytes(64 * 1024 * 1024).open(&path)?;
        let start = Instant::now();
        for n in 1..WRITTEN {
            log.publish_raw(format!("{n:032}"))?;
            // Leaves the commits their turn on a machine with few cores.
            if n % 4096 == 0 {
                smol::block_on(log.publish_durable_raw("a batch"))?;
            }
        }
        smol::block_on(log.publish_durable_raw("the last"))?;
        let elapsed = start.elapsed();
        rates.push(f64::from(WRITTEN + WRITTEN / 4096) / elapsed.as_secs_f64());
        commits.push(f64::from(u32::try_from(log.commits())?));
        eprintln!("{round:2}/{ROUNDS} {WRITTEN} events written in {elapsed:?}, {} commits", log.commits());
        drop(log);
        fs::remove_dir_all(path)?;
    }
    println!("| durable publish, events of 32 B/s (target ≥ 50,000) | {:.0} | {ROUNDS} |", median_of(rates));
    println!("| commits for {WRITTEN} of them | {:.0} | {ROUNDS} |", median_of(commits));
    Ok(())
}

fn median(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

fn median_of(samples: impl IntoIterator<Item = f64>) -> f64 {
    let mut samples: Vec<f64> = samples.into_iter().collect();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
