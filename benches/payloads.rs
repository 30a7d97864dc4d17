//! Payloads of 512 KiB by the size of datagrams and by the windows: `cargo bench --bench payloads`.
//!
//! Over loopback, with nodes that are processes of their own and take turns; and over simulated paths, in
//! virtual time, where the processor does not count. Progress goes to stderr, and the result to stdout as
//! Markdown tables. `PAYLOADS_TABLES` names the tables: `datagrams windows paths` if unset; and
//! `PAYLOADS_ROUNDS` is the number of turns of each node.

mod support;

use std::{
    env,
    error::Error,
    io::{self, Read as _},
    path::Path,
    time::{Duration, Instant},
};

use palyra_quic::{
    Bytes, ClientTls, Connection, Context, Endpoint, PollRuntime, Router, ServerTls, TransportLimits,
    sim::{Link, Sim},
};

use self::support::{
    LOOPBACK,
    kind::Kind,
    stage::{Actor, Role, Stage, credentials, say, setting},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const LIMITS: &str = "PAYLOADS_LIMITS";
const TAKE: &str = "bench.take";
const GIVE: &str = "bench.give";
/// As large as a frame may be by default, less what a frame has beside its payload.
const PAYLOAD_BYTES: usize = 512 * 1024 - 64;
const MIB: f64 = 1024.0 * 1024.0;
const IN_FLIGHT: usize = 4;
/// A turn takes about half a second in each direction.
const CALLS_OF_A_TURN: usize = 400;
const CALLS_OF_A_PATH: usize = 100;
const DIRECTIONS: [&str; 2] = [TAKE, GIVE];

/// What is compared: the largest datagram and the windows, in bytes.
#[derive(Clone, Copy)]
struct Setting {
    datagram: u16,
    stream_receive_window: u32,
    receive_window: u32,
    send_window: u32,
}

const DEFAULT: Setting = Setting {
    datagram: 1452,
    stream_receive_window: 128 * 1024,
    receive_window: 256 * 1024,
    send_window: 256 * 1024,
};

impl Setting {
    const fn datagram(datagram: u16) -> Self {
        Self { datagram, ..DEFAULT }
    }

    /// A stream's window, and twice as much for the connection.
    const fn window(bytes: u32) -> Self {
        let both = 2 * bytes;
        Self { stream_receive_window: bytes, receive_window: both, send_window: both, ..DEFAULT }
    }

    /// quinn's: 100 Mbit/s over 100 ms for a stream, eight times that to send, and no limit to receive.
    const fn of_quinn() -> Self {
        let (stream, send_window) = (1_250_000, 10_000_000);
        Self { stream_receive_window: stream, receive_window: u32::MAX, send_window, ..DEFAULT }
    }

    fn limits(self) -> palyra_quic::Result<TransportLimits> {
        let Self { datagram, stream_receive_window, receive_window, send_window } = self;
        let builder = TransportLimits::builder().max_datagram_bytes(datagram);
        let builder = builder.stream_receive_window(stream_receive_window).receive_window(receive_window);
        builder.send_window(send_window).build()
    }

    fn written(self) -> String {
        let Self { datagram, stream_receive_window, receive_window, send_window } = self;
        format!("{datagram} {stream_receive_window} {receive_window} {send_window}")
    }

    fn read(text: &str) -> Result<Self> {
        let numbers = text.split(' ').map(str::parse::<u32>).collect::<std::result::Result<Vec<_>, _>>()?;
        let [datagram, stream_receive_window, receive_window, send_window] = *numbers else {
            return Err(format!("{LIMITS} has four numbers").into());
        };
        Ok(Self { datagram: datagram.try_into()?, stream_receive_window, receive_window, send_window })
    }

    fn windows(self) -> String {
        let receive = match self.receive_window {
            u32::MAX => "no limit".into(),
            bytes => format!("{} KiB", bytes / 1024),
        };
        format!("{} KiB | {receive} | {} KiB", self.stream_receive_window / 1024, self.send_window / 1024)
    }
}

fn main() -> Result<()> {
    match Role::of_this_process()? {
        Role::Nothing => Ok(()),
        Role::Node => node(),
        Role::Client => Err("the client is the process that starts the nodes".into()),
        Role::Stage => {
            let tables: String = setting("PAYLOADS_TABLES", "datagrams windows paths".into());
            for table in tables.split(' ') {
                match table {
                    "datagrams" => datagrams()?,
                    "windows" => windows()?,
                    "paths" => paths()?,
                    table => return Err(format!("no table is called {table:?}").into()),
                }
            }
            Ok(())
        }
    }
}

fn methods() -> Router {
    Router::new()
        .serve_raw(TAKE, |_: Context, _| async { Ok(Bytes::new()) })
        .serve_raw(GIVE, |_: Context, _| async { Ok(Bytes::from(vec![7; PAYLOAD_BYTES])) })
}

/// The process that serves, until its standard input ends.
fn node() -> Result<()> {
    let (identity, trust) = credentials()?;
    let mut runtime = PollRuntime::new()?;
    let tls = ServerTls::new(identity).require_client_certificates(trust);
    let endpoint = Endpoint::builder().shared_runtime(runtime.handle()).server(tls);
    let limits = Setting::read(&env::var(LIMITS)?)?.limits()?;
    let endpoint = endpoint.router(methods()).limits(limits).bind(LOOPBACK)?;
    say(endpoint.local_addr()?)?;
    runtime.block_on(smol::unblock(|| io::stdin().read_to_end(&mut Vec::new())))?;
    Ok(())
}

/// A node, a connection to it, and the rates in both directions in MiB/s.
struct Entrant {
    _node: Actor,
    _endpoint: Endpoint,
    connection: Connection,
    rates: [Vec<f64>; 2],
}

/// Lets nodes with these settings take turns, and returns of each the rates and the path MTU.
fn alternate(settings: &[Setting]) -> Result<Vec<([Vec<f64>; 2], u64)>> {
    let stage = Stage::new()?;
    let mut runtime = PollRuntime::new()?;
    let mut entrants = Vec::new();
    for setting in settings {
        let mut command = stage.node(Path::new(&env::current_exe()?), Kind::Poll);
        command.env(LIMITS, setting.written());
        let mut node = Actor::start(command)?;
        let tls = ClientTls::new(stage.trust()).identity(stage.client_identity()?);
        let endpoint = Endpoint::builder().shared_runtime(runtime.handle()).client(tls);
        let endpoint = endpoint.limits(setting.limits()?).bind(LOOPBACK)?;
        let address: std::net::SocketAddr = node.line()?.trim().parse()?;
        let connection = runtime.block_on(endpoint.connect(address))?;
        for method in DIRECTIONS {
            runtime.block_on(repeat(&connection, method, CALLS_OF_A_TURN / 4))?;
        }
        entrants.push(Entrant { _node: node, _endpoint: endpoint, connection, rates: [vec![], vec![]] });
    }
    let rounds: usize = support::stage::setting("PAYLOADS_ROUNDS", 8);
    for round in 0..rounds {
        // There and back, so that what else the machine does meets all.
        entrants.reverse();
        eprintln!("round {} of {rounds}", round + 1);
        for Entrant { connection, rates, .. } in &mut entrants {
            for (method, rates) in DIRECTIONS.into_iter().zip(rates) {
                let begun = Instant::now();
                runtime.block_on(repeat(connection, method, CALLS_OF_A_TURN))?;
                rates.push(rate(CALLS_OF_A_TURN, begun.elapsed()));
            }
        }
    }
    if rounds % 2 == 1 {
        entrants.reverse();
    }
    Ok(entrants.into_iter().map(|entrant| (entrant.rates, entrant.connection.stats().mtu)).collect())
}

/// Makes this many calls, [`IN_FLIGHT`] at a time.
async fn repeat(connection: &Connection, method: &'static str, calls: usize) -> Result<()> {
    let payload = Bytes::from(if method == TAKE { vec![7; PAYLOAD_BYTES] } else { Vec::new() });
    let executor = smol::LocalExecutor::new();
    let series = async || {
        for _ in 0..calls / IN_FLIGHT {
            connection.call_raw(method, payload.clone()).await?;
        }
        Ok::<(), palyra_quic::Error>(())
    };
    let tasks: Vec<_> = (0..IN_FLIGHT).map(|_| executor.spawn(series())).collect();
    executor
        .run(async {
            for task in tasks {
                task.await?;
            }
            Ok(())
        })
        .await
}

/// In MiB/s.
fn rate(calls: usize, elapsed: Duration) -> f64 {
    let bytes = f64::from(u32::try_from(calls * PAYLOAD_BYTES).unwrap_or(u32::MAX));
    bytes / MIB / elapsed.as_secs_f64()
}

/// The median, the lowest and the highest.
fn summary(rates: &[f64]) -> String {
    let mut rates = rates.to_vec();
    rates.sort_by(f64::total_cmp);
    let at = |place: usize| rates.get(place).copied().unwrap_or(f64::NAN);
    format!("{:.0} ({:.0} to {:.0})", at(rates.len() / 2), at(0), at(rates.len().saturating_sub(1)))
}

fn datagrams() -> Result<()> {
    let settings = [1452, 8972, 16_384, 32_768, 65_507].map(Setting::datagram);
    println!("| `max_datagram_bytes` | path MTU found | to the node, MiB/s | from the node, MiB/s |");
    println!("|---|---|---|---|");
    for (setting, ([up, down], mtu)) in settings.into_iter().zip(alternate(&settings)?) {
        println!("| {} | {mtu} | {} | {} |", setting.datagram, summary(&up), summary(&down));
    }
    println!();
    Ok(())
}

fn windows() -> Result<()> {
    let large = |setting| Setting { datagram: 32_768, ..setting };
    let settings = [DEFAULT, Setting::of_quinn(), large(DEFAULT), large(Setting::of_quinn())];
    println!(
        "| `max_datagram_bytes` | `stream_receive_window` | `receive_window` | `send_window` | \
         to the node, MiB/s | from the node, MiB/s |"
    );
    println!("|---|---|---|---|---|---|");
    for (setting, ([up, down], _)) in settings.into_iter().zip(alternate(&settings)?) {
        println!("| {} | {} | {} | {} |", setting.datagram, setting.windows(), summary(&up), summary(&down));
    }
    println!();
    Ok(())
}

/// Two hosts with links of 100 Mbit/s between them, whose queue holds what is in flight.
fn paths() -> Result<()> {
    let windows = [128, 256, 512, 1250, 2500].map(|kib: u32| Setting::window(kib * 1024));
    println!(
        "| `stream_receive_window` | `receive_window` | `send_window` | 20 ms: there, back, MiB/s | 200 ms |"
    );
    println!("|---|---|---|---|---|");
    for setting in windows.into_iter().chain([Setting::of_quinn()]) {
        let rates = |round_trip| -> Result<String> {
            let [up, down] = over_path(setting, Duration::from_millis(round_trip))?;
            Ok(format!("{up:.2}, {down:.2}"))
        };
        println!("| {} | {} | {} |", setting.windows(), rates(20)?, rates(200)?);
    }
    Ok(())
}

fn over_path(setting: Setting, round_trip: Duration) -> Result<[f64; 2]> {
    let sim = Sim::new(1);
    sim.set_default_link(
        Link::new().delay(round_trip / 2).rate(100_000_000).queue(4 * 1024 * 1024).mtu(1472),
    );
    let stage = Stage::new()?;
    let tls = ServerTls::new(stage.node_identity()?).require_client_certificates(stage.trust());
    let node = Endpoint::builder().server(tls).router(methods()).limits(setting.limits()?);
    let node = sim.host([10, 0, 0, 1]).bind(node, 7443)?;
    let tls = ClientTls::new(stage.trust()).identity(stage.client_identity()?);
    let client =
        sim.host([10, 0, 0, 2]).bind(Endpoint::builder().client(tls).limits(setting.limits()?), 0)?;
    sim.run(async {
        let connection = client.connect((node.local_addr()?, "localhost")).await?;
        let mut rates = [0.0; 2];
        for (method, measured) in DIRECTIONS.into_iter().zip(&mut rates) {
            // Until congestion control has found the rate of the path.
            repeat(&connection, method, CALLS_OF_A_PATH / 2).await?;
            let begun = sim.now();
            repeat(&connection, method, CALLS_OF_A_PATH).await?;
            *measured = rate(CALLS_OF_A_PATH, sim.now() - begun);
        }
        Ok(rates)
    })
}
