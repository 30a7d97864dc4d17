//! Initial packets with forged senders: each looks like another client, and none ever goes on.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use palyra_quic::quinn::{ClientConfig, EndpointConfig};

use super::{
    Result, Stage,
    meter::Memory,
    peer::{NAME, crypto, tls},
    probe::{Latencies, Probe, newcomer},
    socket,
    victim::Victim,
};

pub(crate) struct Scale {
    /// Packets a second.
    pub(crate) rate: u32,
    /// How often a quiet time and one under attack alternate.
    pub(crate) pairs: u32,
    pub(crate) phase: Duration,
    /// Addresses that the packets come from.
    pub(crate) sources: u16,
    /// New peers that want in under attack, one after the other.
    pub(crate) newcomers: u32,
    pub(crate) patience: Duration,
}

#[derive(Debug)]
pub(crate) struct Spoofed {
    pub(crate) quiet: Latencies,
    pub(crate) attacked: Latencies,
    /// Of each pair of phases, the p99 under attack by the quiet one.
    pub(crate) ratios: Vec<f64>,
    pub(crate) sent: usize,
    /// Of the node, in quiet phases and under attack.
    pub(crate) processor: (Duration, Duration),
    pub(crate) growth: Memory,
    pub(crate) newcomers: Vec<Option<Duration>>,
}

pub(crate) async fn spoof(stage: &Stage, victim: &Victim, scale: &Scale) -> Result<Spoofed> {
    let count = usize::try_from(scale.rate * scale.pairs)? * usize::try_from(scale.phase.as_secs().max(1))?;
    let mut flood = Flood::prepare(stage, victim.address, scale, count)?;
    let watch = victim.watch();
    let probe = Probe::connect(stage, victim).await?;
    probe.measure(scale.phase.min(Duration::from_secs(1))).await;
    let (mut quiet, mut attacked) = (Latencies::default(), Latencies::default());
    let (mut ratios, mut sent, mut processor) = (Vec::new(), 0, (Duration::ZERO, Duration::ZERO));
    for _ in 0..scale.pairs {
        let before = victim.processor()?;
        let calm = probe.measure(scale.phase).await;
        let between = victim.processor()?;
        let running = flood.start();
        let storm = probe.measure(scale.phase).await;
        sent += running.stop(&mut flood)?;
        processor.0 += between - before;
        processor.1 += victim.processor()? - between;
        ratios.push(storm.p99().as_secs_f64() / calm.p99().as_secs_f64());
        quiet.add(calm);
        attacked.add(storm);
        // Packets that wait in the socket's queue still belong to the attack.
        async_io::Timer::after(Duration::from_millis(200)).await;
    }
    let running = flood.start();
    let mut newcomers = Vec::new();
    for n in 0..scale.newcomers {
        newcomers.push(newcomer(stage, victim, &format!("newcomer-{n}"), scale.patience).await?);
    }
    sent += running.stop(&mut flood)?;
    Ok(Spoofed { quiet, attacked, ratios, sent, processor, growth: watch.growth(), newcomers })
}

/// Packets, and where they seem to come from.
struct Flood {
    stock: Arc<Stock>,
    next: usize,
    rate: u32,
}

struct Stock {
    packets: Vec<Vec<u8>>,
    sockets: Vec<UdpSocket>,
    address: SocketAddr,
}

struct Running {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize>>,
}

impl Flood {
    fn prepare(stage: &Stage, address: SocketAddr, scale: &Scale, count: usize) -> Result<Self> {
        let sockets = (0..scale.sources).map(socket).collect::<Result<_>>()?;
        let packets = initials(stage, address, count)?;
        Ok(Self { stock: Arc::new(Stock { packets, sockets, address }), next: 0, rate: scale.rate })
    }

    fn start(&self) -> Running {
        let over = Arc::new(AtomicBool::new(false));
        let (stopping, stock, first, rate) =
            (Arc::clone(&over), Arc::clone(&self.stock), self.next, self.rate);
        Running { over, thread: thread::spawn(move || stock.send(first, rate, &stopping)) }
    }
}

impl Running {
    fn stop(self, flood: &mut Flood) -> Result<usize> {
        self.over.store(true, Ordering::Relaxed);
        let sent = self.thread.join().map_err(|_| "the flood has panicked")??;
        flood.next += sent;
        Ok(sent)
    }
}

impl Stock {
    /// Sends at this rate, from the packet number `first` on, until it is over.
    fn send(&self, first: usize, rate: u32, over: &AtomicBool) -> Result<usize> {
        let start = Instant::now();
        let (mut sent, mut answer) = (0, [0; 2048]);
        while !over.load(Ordering::Relaxed) {
            let due = usize::try_from(start.elapsed().as_micros() * u128::from(rate) / 1_000_000)?;
            while sent < due {
                let n = first + sent;
                let socket = &self.sockets[n % self.sockets.len()];
                // What is answered goes to whom the address belongs, and who knows nothing of it.
                while socket.recv(&mut answer).is_ok() {}
                // The node may be slower than the attack, as any network.
                let _ = socket.send_to(&self.packets[n % self.packets.len()], self.address);
                sent += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(sent)
    }
}

/// The first packets of so many connections, each with connection IDs and keys of its own.
fn initials(stage: &Stage, address: SocketAddr, count: usize) -> Result<Vec<Vec<u8>>> {
    let issued = stage.authority.issue_client("forger")?;
    let config = ClientConfig::new(crypto(tls(stage, &issued)?)?);
    let (mut packets, now) = (Vec::new(), Instant::now());
    while packets.len() < count {
        // It remembers every connection that it began.
        let mut endpoint = quinn_proto::Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        for _ in 0..256 {
            let (_, mut connection) = endpoint.connect(now, config.clone(), address, NAME)?;
            let mut packet = Vec::new();
            if connection.poll_transmit(now, 1, &mut packet).is_none() {
                return Err("a connection without a first packet".into());
            }
            packets.push(packet);
        }
    }
    packets.truncate(count);
    Ok(packets)
}
