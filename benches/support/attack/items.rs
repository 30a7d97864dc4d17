//! What peers can do with requests that items follow, and with streams of calls.

use std::time::{Duration, Instant};

use futures_lite::future;
use palyra_quic::{
    Bytes, Code, Codec, Item, Request,
    quinn::{RecvStream, SendStream, TransportConfig, VarInt, WriteError},
};

use super::{
    ANSWER, ECHO, Result, SUM, Stage, WAIT,
    meter::Memory,
    peer::{Peer, frame, varint},
    probe::{Latencies, Probe, newcomer},
    victim::Victim,
};

/// More than any node reads in one frame by default.
const TOO_LARGE: u32 = 512 * 1024 + 1;
/// Calls without an answer that a peer makes on one stream.
const CALLS: usize = 10_000;

/// What holds on to the memory or the streams of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// Items for a method that reads none.
    UnreadItems,
    /// Ten thousand calls on each stream, whose answers nobody reads.
    UnreadAnswers,
    /// Items that lack their last byte.
    UnfinishedItems,
    /// Requests with items, and no item.
    NoItems,
    /// An item that comes byte by byte.
    SlowItems,
    /// A call on a stream of calls that comes byte by byte.
    SlowCalls,
}

pub(crate) struct Scale {
    pub(crate) peers: u16,
    /// The length of parameters and items in bytes.
    pub(crate) item: usize,
    pub(crate) hold: Duration,
}

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) growth: Memory,
    pub(crate) processor: Duration,
    pub(crate) streams: usize,
    /// With which codes the node has stopped streams.
    pub(crate) stopped: Vec<Code>,
    /// How many of the hostile connections are still there in the end.
    pub(crate) open: usize,
    pub(crate) others: Latencies,
    pub(crate) newcomer: Option<Duration>,
}

/// Opens all streams of all peers, and keeps them.
pub(crate) async fn hold(stage: &Stage, victim: &Victim, holding: Holding, scale: &Scale) -> Result<Held> {
    let watch = victim.watch();
    let before = victim.processor()?;
    let probe = Probe::connect(stage, victim).await?;
    let (stopped, codes) = smol::channel::unbounded();
    let (mut peers, mut tasks, mut streams) = (Vec::new(), Vec::new(), 0);
    for n in 1..=scale.peers {
        let mut transport = TransportConfig::default();
        if holding == Holding::UnreadAnswers {
            transport.receive_window(VarInt::from_u32(1)).stream_receive_window(VarInt::from_u32(1));
        }
        let peer = Peer::connect_with(stage, victim, n, transport).await?;
        while let Some(Ok((send, recv))) = future::block_on(future::poll_once(peer.connection.open_bi())) {
            streams += 1;
            let (stopped, item) = (stopped.clone(), scale.item);
            tasks.push(smol::spawn(async move {
                if let Ok(Some(code)) = pour(send, holding, item).await {
                    let _ = stopped.send(code).await;
                }
                future::pending::<()>().await;
                drop(recv);
            }));
        }
        peers.push(peer);
    }
    let others = probe.measure(scale.hold).await;
    let processor = victim.processor()? - before;
    drop(probe);
    let newcomer = newcomer(stage, victim, "newcomer", Duration::from_secs(5)).await?;
    let open = peers.iter().filter(|peer| peer.connection.close_reason().is_none()).count();
    let stopped = std::iter::from_fn(|| codes.try_recv().ok()).collect();
    Ok(Held { growth: watch.growth(), processor, streams, stopped, open, others, newcomer })
}

/// Writes until the node stops the stream, and gives the code that it does so with.
async fn pour(mut send: SendStream, holding: Holding, item_len: usize) -> Result<Option<Code>> {
    let wrote = async {
        let method = match holding {
            Holding::UnreadAnswers | Holding::SlowCalls => ECHO,
            Holding::UnreadItems => WAIT,
            Holding::UnfinishedItems | Holding::NoItems | Holding::SlowItems => SUM,
        };
        send.write_all(&request(method)?).await?;
        let said = item(vec![7; item_len])?;
        match holding {
            Holding::NoItems => {}
            Holding::UnreadItems => loop {
                send.write_chunk(said.clone()).await?;
            },
            Holding::UnreadAnswers => {
                for _ in 0..CALLS {
                    send.write_chunk(said.clone()).await?;
                }
            }
            Holding::UnfinishedItems => send.write_chunk(said.slice(..said.len() - 1)).await?,
            Holding::SlowItems | Holding::SlowCalls => {
                for at in 0..said.len() {
                    send.write_chunk(said.slice(at..=at)).await?;
                    async_io::Timer::after(Duration::from_millis(50)).await;
                }
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    if let Err(error) = wrote.await {
        return match error.downcast_ref() {
            Some(WriteError::Stopped(code)) => Ok(Some(Code::from(*code))),
            _ => Err(error),
        };
    }
    Ok(send.stopped().await?.map(Code::from))
}

/// What costs a peer nothing, and is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An item that is announced with more bytes than the node reads.
    TooLarge,
    /// An item that is no map.
    WrongShape,
    /// The same as a call on a stream of calls, one stream for all of them.
    WrongCalls,
    /// Items for a method that takes none, and has many answers.
    ForOthers,
    /// A call on a stream of calls that is given up as soon as it is sent.
    GivenUp,
    /// A request with items that is reset after its first bytes, one more each time.
    ResetItems,
    /// The same with a stream of calls.
    ResetCalls,
}

#[derive(Debug)]
pub(crate) struct Abused {
    pub(crate) done: u32,
    /// With what code the node closed the connection; `None` if it did not.
    pub(crate) closed: Option<Code>,
    pub(crate) processor: Duration,
    pub(crate) growth: Memory,
    pub(crate) others: Latencies,
}

pub(crate) async fn abuse(stage: &Stage, victim: &Victim, fault: Fault, count: u32) -> Result<Abused> {
    let probe = Probe::connect(stage, victim).await?;
    let watch = victim.watch();
    let peer = Peer::connect(stage, victim, 1).await?;
    let before = victim.processor()?;
    let mut done = 0;
    if fault == Fault::WrongCalls {
        let (mut send, recv) = peer.connection.open_bi().await?;
        let _reading = smol::spawn(read(recv));
        send.write_all(&request(ECHO)?).await?;
        let (calls, batch) = (frame(&[0x01])?.repeat(20), 20);
        while done < count && send.write_all(&calls).await.is_ok() {
            done += batch;
            // Without a pause, the window is full before the close is looked at.
            async_io::Timer::after(Duration::from_millis(1)).await;
        }
        closed(&peer).await;
    } else {
        while done < count && waste(&peer, fault, done).await.is_ok() {
            done += 1;
        }
        closed(&peer).await;
    }
    let processor = victim.processor()? - before;
    let others = probe.measure(Duration::from_millis(500)).await;
    Ok(Abused { done, closed: peer.closed(), processor, growth: watch.growth(), others })
}

/// The close may still be on its way.
async fn closed(peer: &Peer) {
    let closed = async { _ = peer.connection.closed().await };
    let timeout = async { _ = async_io::Timer::after(Duration::from_millis(500)).await };
    future::or(closed, timeout).await;
}

async fn read(mut recv: RecvStream) {
    while let Ok(Some(_)) = recv.read_chunk(64 * 1024, true).await {}
}

async fn waste(peer: &Peer, fault: Fault, turn: u32) -> Result<()> {
    let (mut send, mut recv) = peer.connection.open_bi().await?;
    match fault {
        Fault::TooLarge => {
            send.write_all(&[request(SUM)?, TOO_LARGE.to_be_bytes().to_vec()].concat()).await?;
        }
        Fault::WrongShape => send.write_all(&[request(SUM)?, frame(&[0x01])?].concat()).await?,
        Fault::ForOthers => send.write_all(&request("node.stream_events")?).await?,
        Fault::GivenUp => {
            send.write_all(&[request(ECHO)?, item(vec![7; 64])?.to_vec()].concat()).await?;
            recv.stop(varint(Code::CANCELLED))?;
        }
        Fault::ResetItems | Fault::ResetCalls => {
            let method = if fault == Fault::ResetItems { SUM } else { ECHO };
            let said = [request(method)?, item(vec![7; 8])?.to_vec(), item(vec![7; 8])?.to_vec()].concat();
            let sent = usize::try_from(turn)? % (said.len() + 1);
            send.write_all(said.get(..sent).unwrap_or_default()).await?;
            // A reset overtakes what was not sent yet.
            future::yield_now().await;
            send.reset(varint(Code::CANCELLED))?;
        }
        Fault::WrongCalls => {}
    }
    // The node ends the stream, in whatever way.
    let ended = async { _ = recv.read_to_end(64 * 1024).await };
    let timeout = async { _ = async_io::Timer::after(Duration::from_secs(2)).await };
    future::or(ended, timeout).await;
    if peer.connection.close_reason().is_some() { Err("closed".into()) } else { Ok(()) }
}

/// The answer to a sum of items, and what the node did about items that came behind it.
#[derive(Debug)]
pub(crate) struct AfterEnd {
    pub(crate) answered: usize,
    pub(crate) closed: Option<Code>,
    pub(crate) growth: Memory,
    pub(crate) took: Duration,
}

/// Sends items to a method that answers before the first, until the node stops them, once on each of these
/// streams.
pub(crate) async fn after_end(stage: &Stage, victim: &Victim, streams: usize) -> Result<AfterEnd> {
    let watch = victim.watch();
    let peer = Peer::connect(stage, victim, 1).await?;
    let (start, mut answered) = (Instant::now(), 0);
    for _ in 0..streams {
        let (mut send, mut recv) = peer.connection.open_bi().await?;
        send.write_all(&request(ANSWER)?).await?;
        let said = item(vec![7; 1000])?;
        while send.write_chunk(said.clone()).await.is_ok() {}
        answered += usize::from(recv.read_to_end(1000).await.is_ok_and(|answer| !answer.is_empty()));
    }
    Ok(AfterEnd { answered, closed: peer.closed(), growth: watch.growth(), took: start.elapsed() })
}

/// A request that items follow, as a frame.
fn request(method: &str) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    Request::new(method).with_more(true).encode(Codec::Cbor, &mut body)?;
    frame(&body)
}

/// An item as a frame.
fn item(params: Vec<u8>) -> Result<Bytes> {
    let mut body = Vec::new();
    Item::new(params).encode(Codec::Cbor, &mut body)?;
    Ok(frame(&body)?.into())
}
