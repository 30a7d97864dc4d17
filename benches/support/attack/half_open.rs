//! Handshakes that stop after the client's first flight, and are begun again when the node gives them up.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use palyra_quic::quinn::{ClientConfig, EndpointConfig};
use quinn_proto::{Connection, ConnectionHandle, DatagramEvent, Endpoint};

use super::{
    HONEST, Result, Stage, bind,
    meter::Memory,
    peer::{NAME, crypto, tls},
    probe::newcomer,
    socket,
    victim::Victim,
};

/// The first four bits of a Retry packet (RFC 9000, section 17.2.5).
const RETRY: u8 = 0xf0;
/// Who was refused comes again, but not in a tight loop.
const AGAIN: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retries {
    /// As forged senders do.
    Ignored,
    /// As whoever is at his address does.
    Followed,
}

/// Where the handshakes seem to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Senders {
    Addresses(u16),
    /// The address that the newcomers are at.
    Newcomers,
}

impl Senders {
    fn socket(self, n: u16) -> Result<UdpSocket> {
        match self {
            Self::Addresses(count) => socket(n % count),
            Self::Newcomers => bind(HONEST),
        }
    }
}

pub(crate) struct Scale {
    pub(crate) handshakes: u16,
    pub(crate) senders: Senders,
    pub(crate) retries: Retries,
    /// How long a handshake is left alone before it is begun again.
    pub(crate) renewed: Duration,
    pub(crate) newcomers: u32,
    /// Time between two newcomers.
    pub(crate) pause: Duration,
    pub(crate) patience: Duration,
}

#[derive(Debug)]
pub(crate) struct HalfOpened {
    /// First flights of clients.
    pub(crate) begun: u32,
    /// Retries that were followed.
    pub(crate) followed: u32,
    /// First flights of the server that nobody answers.
    pub(crate) stalled: u32,
    pub(crate) growth: Memory,
    pub(crate) newcomers: Vec<Option<Duration>>,
}

/// Has newcomers come while handshakes stall.
pub(crate) async fn half_open(stage: &Stage, victim: &Victim, scale: &Scale) -> Result<HalfOpened> {
    let watch = victim.watch();
    let stalling = Stalling::start(stage, victim, scale)?;
    // Until then the slots are taken.
    async_io::Timer::after(Duration::from_secs(1)).await;
    let mut newcomers = Vec::new();
    for n in 0..scale.newcomers {
        newcomers.push(newcomer(stage, victim, &format!("newcomer-{n}"), scale.patience).await?);
        async_io::Timer::after(scale.pause).await;
    }
    let Counters { begun, followed, stalled, over: _ } = &*stalling.counters;
    let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
    Ok(HalfOpened {
        begun: count(begun),
        followed: count(followed),
        stalled: count(stalled),
        growth: watch.growth(),
        newcomers,
    })
}

#[derive(Default)]
struct Counters {
    begun: AtomicU32,
    followed: AtomicU32,
    stalled: AtomicU32,
    over: AtomicBool,
}

/// The attackers, in a thread of their own, until this is dropped.
struct Stalling {
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Stalling {
    fn start(stage: &Stage, victim: &Victim, scale: &Scale) -> Result<Self> {
        let issued = stage.authority.issue_client("staller")?;
        let config = ClientConfig::new(crypto(tls(stage, &issued)?)?);
        let counters = Arc::new(Counters::default());
        let mut stallers = Vec::new();
        for n in 0..scale.handshakes {
            let socket = scale.senders.socket(n)?;
            socket.connect(victim.address)?;
            stallers.push(Staller {
                socket,
                config: config.clone(),
                retries: scale.retries,
                counters: Arc::clone(&counters),
                attempt: None,
                since: Instant::now(),
            });
        }
        let (renewed, running) = (scale.renewed, Arc::clone(&counters));
        let thread = thread::spawn(move || {
            while !running.over.load(Ordering::Relaxed) {
                for staller in &mut stallers {
                    // An attempt that cannot be made is one that failed.
                    let _ = staller.turn(renewed);
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Ok(Self { counters, thread: Some(thread) })
    }
}

impl Drop for Stalling {
    fn drop(&mut self) {
        self.counters.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One client that says its first word again and again.
struct Staller {
    socket: UdpSocket,
    config: ClientConfig,
    retries: Retries,
    counters: Arc<Counters>,
    attempt: Option<Attempt>,
    since: Instant,
}

struct Attempt {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
}

impl Staller {
    fn turn(&mut self, renewed: Duration) -> Result<()> {
        let mut datagram = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut datagram) {
            self.hear(&datagram[..length])?;
        }
        let over = match &self.attempt {
            None => true,
            Some(attempt) if attempt.connection.is_closed() => self.since.elapsed() > AGAIN.min(renewed),
            Some(_) => self.since.elapsed() > renewed,
        };
        if over {
            let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
            let (handle, connection) =
                endpoint.connect(Instant::now(), self.config.clone(), self.socket.peer_addr()?, NAME)?;
            self.attempt = Some(Attempt { endpoint, handle, connection });
            self.since = Instant::now();
            self.counters.begun.fetch_add(1, Ordering::Relaxed);
            self.say()?;
        }
        Ok(())
    }

    fn hear(&mut self, datagram: &[u8]) -> Result<()> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let retried = datagram.first().is_some_and(|first| first & 0xf0 == RETRY);
        if retried && self.retries == Retries::Ignored {
            return Ok(());
        }
        let (now, remote) = (Instant::now(), self.socket.peer_addr()?);
        let event =
            attempt.endpoint.handle(now, remote, None, None, BytesMut::from(datagram), &mut Vec::new());
        if let Some(DatagramEvent::ConnectionEvent(handle, event)) = event
            && handle == attempt.handle
        {
            attempt.connection.handle_event(event);
        }
        if retried {
            self.counters.followed.fetch_add(1, Ordering::Relaxed);
            self.say()?;
        } else if !attempt.connection.is_closed() {
            self.counters.stalled.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends one packet of those that the connection would like to send.
    fn say(&mut self) -> Result<()> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let mut packet = Vec::new();
        if attempt.connection.poll_transmit(Instant::now(), 1, &mut packet).is_some() {
            self.socket.send(&packet)?;
        }
        Ok(())
    }
}
