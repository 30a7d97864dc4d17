//! Calls on one stream beside calls on a stream each: `cargo bench --bench pipeline`, or with `taskset -c 0`
//! for one core. Both nodes are in this process, on smol's global executor. Progress goes to stderr, and the
//! result to stdout as a Markdown table.

mod support;

use std::{
    env,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use palyra_quic::{AsyncIoRuntime, Bytes, CertificateAuthority, Connection, Pipeline, Router};

use self::support::{ECHO, dialler, serve};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 15;
const TIME: Duration = Duration::from_millis(700);
const PAYLOAD: [u8; 64] = [7; 64];

fn main() -> Result<()> {
    // `cargo test --benches` starts this too, and is not to wait for it.
    if env::args().all(|arg| arg != "--bench") {
        return Ok(());
    }
    let authority = CertificateAuthority::new("Bench CA")?;
    let runtime = Arc::new(AsyncIoRuntime::global());
    let node =
        serve(runtime.clone(), authority.issue_server(&[])?.identity(), authority.trust(), Router::new())?;
    let client = dialler(runtime, authority.issue_client("bench")?.identity(), authority.trust())?;
    let connection = smol::block_on(client.connect(node.local_addr()?))?;
    println!(
        "| calls of 64 bytes in flight | single calls/s | pipelined calls/s | ratio |\n|---|---|---|---|"
    );
    for in_flight in [1, 32, 256] {
        let (mut single, mut pipelined, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            let one = rate(&Caller::Single(connection.clone()), in_flight)?;
            let other = rate(&Caller::Pipelined(connection.pipeline_raw(ECHO)), in_flight)?;
            eprintln!("{round:2}/{ROUNDS} {in_flight} in flight: {one:.0} and {other:.0} calls per second");
            single.push(one);
            pipelined.push(other);
            ratios.push(other / one);
        }
        println!(
            "| {in_flight} | {:.0} | {:.0} | {:.2} |",
            median(single),
            median(pipelined),
            median(ratios)
        );
    }
    Ok(())
}

#[derive(Clone)]
enum Caller {
    Single(Connection),
    Pipelined(Pipeline),
}

impl Caller {
    async fn call(&self) -> palyra_quic::Result<Bytes> {
        let params = Bytes::from_static(&PAYLOAD);
        match self {
            Self::Single(connection) => connection.call_raw(ECHO, params).await,
            Self::Pipelined(pipeline) => pipeline.call_raw(params).await,
        }
    }
}

/// Calls per second with so many in flight.
fn rate(caller: &Caller, in_flight: usize) -> Result<f64> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let caller = caller.clone();
            smol::spawn(async move {
                let mut count = 0;
                while start.elapsed() < TIME {
                    caller.call().await?;
                    count += 1;
                }
                Ok::<u32, palyra_quic::Error>(count)
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += smol::block_on(task)?;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
