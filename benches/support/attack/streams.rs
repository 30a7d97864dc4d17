//! What one connected peer, or many, can do with streams: send slowly, open them for nothing, announce much.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_lite::future;
use palyra_quic::{
    Bytes, Code,
    quinn::{SendStream, WriteError},
};

use super::{
    ECHO, Result, Stage,
    meter::Memory,
    peer::{Peer, crowd, frame, request, varint},
    probe::{Latencies, Probe, newcomer},
    victim::Victim,
};

/// Streams of each kind that a node allows by default.
const STREAMS: usize = 32;
/// Attackers take as much of this as they can get, and it is enough.
const FUSE: u64 = 1024 * 1024 * 1024;

/// A byte now and then, on every stream there is.
pub(crate) struct Slowly {
    pub(crate) pause: Duration,
    pub(crate) patience: Duration,
}

#[derive(Debug)]
pub(crate) struct Loris {
    /// When each stream was ended, and with what code; `None` where nobody did.
    pub(crate) ended: Vec<Option<(Duration, Code)>>,
    pub(crate) others: Latencies,
}

pub(crate) async fn loris(stage: &Stage, victim: &Victim, slowly: &Slowly) -> Result<Loris> {
    let probe = Probe::connect(stage, victim).await?;
    let peer = Peer::connect(stage, victim, 1).await?;
    let mut tasks = Vec::new();
    for _ in 0..STREAMS {
        let (pause, patience) = (slowly.pause, slowly.patience);
        let (send, recv) = peer.connection.open_bi().await?;
        tasks.push(smol::spawn(async move {
            let ended = drip(send, pause, patience).await;
            drop(recv);
            ended
        }));
        tasks.push(smol::spawn(drip(peer.connection.open_uni().await?, pause, patience)));
    }
    let others = probe.measure(slowly.patience).await;
    let mut ended = Vec::new();
    for task in tasks {
        ended.push(task.await);
    }
    Ok(Loris { ended, others })
}

/// A frame that is begun and takes for ever.
async fn drip(mut send: SendStream, pause: Duration, patience: Duration) -> Option<(Duration, Code)> {
    let start = Instant::now();
    let mut said: &[u8] = &[0, 0, 4, 0, 0xa2];
    while start.elapsed() < patience {
        let saying = async { send.write_all(said).await };
        if let Err(WriteError::Stopped(code)) = saying.await {
            return Some((start.elapsed(), Code::from(code)));
        }
        said = &[0];
        let stopped = send.stopped();
        let ended = async { stopped.await.ok().flatten().map(Code::from) };
        let pausing = async {
            async_io::Timer::after(pause).await;
            None
        };
        if let Some(code) = future::or(ended, pausing).await {
            return Some((start.elapsed(), code));
        }
    }
    None
}

/// Ways to have a node work for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Abuse {
    /// Opened, and reset at once.
    Reset,
    /// FIN without a byte before it.
    Empty,
    /// Requests that cannot be decoded.
    Invalid,
    /// Whole requests whose answers are refused at once.
    GivenUp,
}

#[derive(Debug)]
pub(crate) struct Abused {
    pub(crate) streams: u32,
    /// With what code the node closed the connection; `None` where it took everything.
    pub(crate) closed: Option<Code>,
    pub(crate) took: Duration,
    pub(crate) processor: Duration,
    pub(crate) growth: Memory,
    pub(crate) others: Latencies,
}

pub(crate) async fn abuse(stage: &Stage, victim: &Victim, abuse: Abuse, count: u32) -> Result<Abused> {
    let probe = Probe::connect(stage, victim).await?;
    let watch = victim.watch();
    let peer = Peer::connect(stage, victim, 1).await?;
    let before = victim.processor()?;
    let start = Instant::now();
    let mut streams = 0;
    while streams < count {
        if waste(&peer, abuse).await.is_err() {
            break;
        }
        streams += 1;
    }
    // The close may still be on its way.
    if count == streams {
        let closed = async { _ = peer.connection.closed().await };
        let patience = async { _ = async_io::Timer::after(Duration::from_millis(500)).await };
        future::or(closed, patience).await;
    }
    let (took, processor) = (start.elapsed(), victim.processor()? - before);
    let others = probe.measure(Duration::from_millis(500)).await;
    Ok(Abused { streams, closed: peer.closed(), took, processor, growth: watch.growth(), others })
}

async fn waste(peer: &Peer, abuse: Abuse) -> Result<()> {
    let (mut send, mut recv) = peer.connection.open_bi().await?;
    match abuse {
        Abuse::Reset => {
            send.reset(varint(Code::CANCELLED))?;
            recv.stop(varint(Code::CANCELLED))?;
        }
        Abuse::Empty => send.finish()?,
        Abuse::Invalid => {
            send.write_all(&frame(&[0xa1])?).await?;
            send.finish()?;
            recv.stop(varint(Code::CANCELLED))?;
        }
        Abuse::GivenUp => {
            send.write_all(&request(ECHO, vec![7; 64])?).await?;
            send.finish()?;
            recv.stop(varint(Code::CANCELLED))?;
        }
    }
    Ok(())
}

/// Frames that are announced on every stream of every connection.
pub(crate) struct Announcing {
    pub(crate) peers: u16,
    pub(crate) frame: u32,
    /// Bytes that are missing of each frame for ever.
    pub(crate) missing: u32,
    pub(crate) hold: Duration,
}

#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) growth: Memory,
    /// Bytes that the peers could get rid of.
    pub(crate) sent: usize,
    pub(crate) others: Latencies,
    pub(crate) newcomer: Option<Duration>,
}

/// After this time, peers that still send are sending too slowly to fill anything.
const MAX_SENDING: Duration = Duration::from_secs(60);

pub(crate) async fn announce(stage: &Stage, victim: &Victim, announcing: &Announcing) -> Result<Announced> {
    let probe = Probe::connect(stage, victim).await?;
    let watch = victim.watch();
    let peers = crowd(stage, victim, 1, announcing.peers).await?;
    let length = usize::try_from(announcing.frame - announcing.missing)?;
    let mut said = announcing.frame.to_be_bytes().to_vec();
    said.resize(4 + length, 0xa2);
    let (said, sent) = (Bytes::from(said), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for peer in &peers {
        for _ in 0..STREAMS {
            let (send, recv) = peer.connection.open_bi().await?;
            tasks.push(smol::spawn(say(send, recv, said.clone(), Arc::clone(&sent))));
            let send = peer.connection.open_uni().await?;
            tasks.push(smol::spawn(say(send, (), said.clone(), Arc::clone(&sent))));
        }
    }
    let start = Instant::now();
    let (mut others, mut before) = (Latencies::default(), None);
    // On a slow machine, the peers may still be sending when the time is over.
    while watch.growth().resident < FUSE {
        let now = sent.load(Ordering::Relaxed);
        let is_sending = before.replace(now).is_none_or(|before| before < now);
        if start.elapsed() >= announcing.hold && !is_sending || start.elapsed() > MAX_SENDING {
            break;
        }
        others.add(probe.measure(Duration::from_millis(500)).await);
    }
    let newcomer = newcomer(stage, victim, "newcomer", Duration::from_secs(5)).await?;
    Ok(Announced { growth: watch.growth(), sent: sent.load(Ordering::Relaxed), others, newcomer })
}

/// Says what there is, and keeps the stream open for as long as the task is held.
async fn say<T>(mut send: SendStream, keep: T, said: Bytes, sent: Arc<AtomicUsize>) {
    for chunk in said.chunks(4096) {
        let chunk = said.slice_ref(chunk);
        let length = chunk.len();
        if send.write_chunk(chunk).await.is_err() {
            break;
        }
        sent.fetch_add(length, Ordering::Relaxed);
    }
    future::pending::<()>().await;
    drop((send, keep));
}
