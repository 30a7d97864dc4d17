//! Many connections to one node: `cargo bench --bench crowd`, on Linux.
//!
//! Says what the node's process holds resident before anyone connects, with idle connections, and under load;
//! and how long calls take when every connection has several in flight. The node runs on one thread; the
//! clients share another process.
//!
//! `CROWD_CONNECTIONS` is how many there are, 1,024 if unset; `CROWD_IN_FLIGHT` the calls in flight on each,
//! 4 if unset; `CROWD_CALLS` how many each of these makes, 50 if unset; `CROWD_KIND` the runtime,
//! `PollRuntime` if unset; and `CROWD_RECEIVE_BUFFER` the bytes of socket buffer that both sides ask for, as
//! by default if unset.

mod support;

use std::{
    env,
    error::Error,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use palyra_quic::{Bytes, ClientTls, Connection, Context, Endpoint, Router, ServerTls, TransportLimits};

use self::support::{
    ECHO, LOOPBACK,
    kind::{Kind, Runner},
    stage::{Actor, Role, Stage, address, credentials, kind_of_this_process, say, setting},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    match Role::of_this_process()? {
        Role::Node => node(),
        Role::Client => client(),
        Role::Stage => crowd(),
        Role::Nothing => Ok(()),
    }
}

fn connections() -> u32 {
    setting("CROWD_CONNECTIONS", 1024)
}

fn crowd() -> Result<()> {
    let kind = Kind::parse(&env::var("CROWD_KIND").unwrap_or_else(|_| "PollRuntime".into()))?;
    let (stage, executable) = (Stage::new()?, env::current_exe()?);
    let mut node = Actor::start(stage.node(&executable, kind))?;
    let (address, buffer) = (node.line()?, node.line()?);
    let alone = resident(node.id())?;
    let mut client = Actor::start(stage.client(&executable, kind, &address))?;
    client.line()?;
    let idle = resident(node.id())?;
    let dropped = dropped_datagrams()?;
    let report = client.line()?;
    let dropped = dropped_datagrams()? - dropped;
    let loaded = resident(node.id())?;
    println!("| {}, {} connections | |\n|---|---|", kind.name(), connections());
    println!("| resident, nobody connected | {alone} KiB |");
    println!(
        "| resident, each idle connection | {:.1} KiB |",
        (f64::from(idle) - f64::from(alone)) / f64::from(connections())
    );
    println!("| resident after the calls | {loaded} KiB |");
    println!("| receive buffer of the node's socket, as the system reports it | {} bytes |", buffer.trim());
    println!("| datagrams that buffers did not hold during the calls, of all sockets | {dropped} |");
    println!("{}", report.trim());
    Ok(())
}

/// How many UDP datagrams the system has dropped because a receive buffer was full.
fn dropped_datagrams() -> Result<u64> {
    let counters = fs::read_to_string("/proc/net/snmp")?;
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let names = lines.next().ok_or("no datagrams are counted")?.split_whitespace();
    let mut values = names.zip(lines.next().unwrap_or_default().split_whitespace());
    let (_, dropped) = values.find(|(name, _)| *name == "RcvbufErrors").ok_or("drops are not counted")?;
    Ok(dropped.parse()?)
}

/// What a process holds in memory, in KiB.
fn resident(process: u32) -> Result<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no memory is counted")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The defaults, with room for the crowd and time for all its handshakes.
fn limits() -> palyra_quic::Result<TransportLimits> {
    let patience = Duration::from_secs(120);
    let default = TransportLimits::default().socket_receive_buffer_bytes();
    TransportLimits::builder()
        .max_connections(connections())
        .max_handshakes(connections())
        .handshake_timeout(patience)
        .idle_timeout(patience)
        .socket_receive_buffer_bytes(setting("CROWD_RECEIVE_BUFFER", default))
        .build()
}

fn node() -> Result<()> {
    let (identity, trust) = credentials()?;
    let runner = Runner::new(kind_of_this_process()?)?;
    let router = Router::new().serve_raw(ECHO, |_: Context, params| async move { Ok(params) });
    let tls = ServerTls::new(identity).require_client_certificates(trust);
    let builder = Endpoint::builder().shared_runtime(runner.handle()).limits(limits()?);
    let endpoint = builder.server(tls).router(router).bind(LOOPBACK)?;
    say(endpoint.local_addr()?)?;
    say(endpoint.stats().receive_buffer_bytes)?;
    runner.run_until_input_ends();
    Ok(())
}

fn client() -> Result<()> {
    let (identity, trust) = credentials()?;
    let runner = Runner::new(kind_of_this_process()?)?;
    let runtime = runner.handle();
    let builder = Endpoint::builder().shared_runtime(Arc::clone(&runtime)).limits(limits()?);
    let endpoint = builder.client(ClientTls::new(trust).identity(identity)).bind(LOOPBACK)?;
    let address = address()?;
    let (in_flight, calls): (u32, u32) = (setting("CROWD_IN_FLIGHT", 4), setting("CROWD_CALLS", 50));
    runner.run(async move {
        let mut connected = Vec::new();
        for _ in 0..connections() {
            connected.push(endpoint.connect(address).await?);
        }
        // What acknowledges and times out does so before the memory is looked at.
        smol::Timer::after(Duration::from_secs(3)).await;
        say("connected")?;
        smol::Timer::after(Duration::from_secs(1)).await;
        let (done, tasks) = smol::channel::unbounded();
        let start = Instant::now();
        for connection in &connected {
            for _ in 0..in_flight {
                let (connection, done) = (connection.clone(), done.clone());
                runtime.spawn(Box::pin(async move {
                    // Fails only where the measurement was given up.
                    let _ = done.send(series(&connection, calls).await).await;
                }));
            }
        }
        drop(done);
        let (mut latencies, mut failed) = (Vec::new(), 0);
        while let Ok((mut of_one, failures)) = tasks.recv().await {
            latencies.append(&mut of_one);
            failed += failures;
        }
        let elapsed = start.elapsed().as_secs_f64();
        latencies.sort();
        let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
        let rate = f64::from(u32::try_from(latencies.len())?) / elapsed;
        say(format!(
            "| {} calls, {in_flight} in flight on each connection | {failed} failed, {rate:.0} a second, p50 {:.1?}, p99 {:.1?} |",
            latencies.len(),
            at(50),
            at(99)
        ))?;
        Ok(())
    })
}

async fn series(connection: &Connection, calls: u32) -> (Vec<Duration>, u32) {
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for _ in 0..calls {
        let start = Instant::now();
        match connection.call_raw(ECHO, Bytes::from_static(&[7; 64])).await {
            Ok(_) => latencies.push(start.elapsed()),
            Err(_) => failed += 1,
        }
    }
    (latencies, failed)
}
