//! Every window that a node grants, filled with what it can do nothing with.

use std::time::{Duration, Instant};

use futures_lite::future;
use palyra_quic::{
    Bytes, Code,
    quinn::{ConnectionError, RecvStream, SendStream, TransportConfig, VarInt},
};

use super::{
    ECHO, Result, Stage,
    meter::Memory,
    peer::{Peer, request},
    probe::{Probe, newcomer},
    victim::Victim,
    weapon::{ROOM, Weapon, stream_byte},
};

/// With so many for each of seven streams, gaps fit a window of 10 KiB.
pub(crate) const GAPS: u64 = 700;
/// So many in one stream quinn takes, and closes a connection with more than 1,024.
#[allow(dead_code, reason = "for the tests")]
pub(crate) const MOST_GAPS: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filling {
    /// Frames of the largest size that lack their last byte.
    Unfinished,
    /// The same, written byte by byte.
    Trickled,
    /// Every other byte, this often in a stream, so that nothing can be read and every byte is a piece of its
    /// own.
    Gaps(u64),
    /// Calls with the largest parameters, whose answers nobody reads.
    Unread,
    /// Calls whose answers nobody reads on half of the streams, and frames that lack their last byte on the
    /// others.
    Both,
}

pub(crate) struct Scale {
    pub(crate) peers: u16,
    /// The largest frame that the node takes.
    pub(crate) frame: usize,
    pub(crate) hold: Duration,
}

#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) growth: Memory,
    pub(crate) processor: Duration,
    /// How many of the hostile connections are still there in the end.
    pub(crate) open: usize,
    /// How many the node has closed with EXCESSIVE_LOAD.
    pub(crate) excessive: usize,
    pub(crate) streams: usize,
    pub(crate) newcomer: Option<Duration>,
}

pub(crate) async fn fill(stage: &Stage, victim: &Victim, filling: Filling, scale: &Scale) -> Result<Filled> {
    let watch = victim.watch();
    let before = victim.processor()?;
    // One place is the honest peer's.
    let probe = Probe::connect(stage, victim).await?;
    let (mut peers, mut tasks, mut streams) = (Vec::new(), Vec::new(), 0);
    let (all, each, gaps) = match filling {
        Filling::Gaps(gaps) => (scale.peers, 0, gaps),
        _ => (0, scale.peers, 0),
    };
    // All of them are in before the first is thrown out: while it is not forgotten, others may be refused.
    let mut armed = Vec::new();
    for n in 1..=all {
        armed.push(Peer::armed(stage, victim, n).await?);
    }
    for (peer, weapon) in armed {
        let (bidi, uni) = open(&peer);
        streams += bidi.len() + uni.len();
        load(&weapon, bidi.iter().map(|(send, _)| send).chain(&uni), gaps);
        tasks.push(smol::spawn(carry(uni, weapon)));
        peers.push(peer);
    }
    for n in 1..=each {
        let mut transport = TransportConfig::default();
        if matches!(filling, Filling::Unread | Filling::Both) {
            transport.receive_window(VarInt::from_u32(1)).stream_receive_window(VarInt::from_u32(1));
        }
        let peer = Peer::connect_with(stage, victim, n, transport).await?;
        let (bidi, uni) = open(&peer);
        streams += bidi.len() + uni.len();
        for (at, (mut send, recv)) in bidi.into_iter().enumerate() {
            let calls = match filling {
                Filling::Unread => true,
                Filling::Both => at % 2 == 0,
                _ => false,
            };
            let said = if calls { call(scale.frame)? } else { unfinished(scale.frame)? };
            tasks.push(smol::spawn(async move {
                pour(&mut send, said, filling).await;
                if calls {
                    let _ = send.finish();
                }
                future::pending::<()>().await;
                drop((send, recv));
            }));
        }
        for mut send in uni {
            let said = unfinished(scale.frame)?;
            tasks.push(smol::spawn(async move {
                pour(&mut send, said, filling).await;
                future::pending::<()>().await;
                drop(send);
            }));
        }
        peers.push(peer);
    }
    async_io::Timer::after(scale.hold).await;
    let processor = victim.processor()? - before;
    drop(probe);
    let newcomer = newcomer(stage, victim, "newcomer", Duration::from_secs(5)).await?;
    let open = peers.iter().filter(|peer| peer.connection.close_reason().is_none()).count();
    let excessive = peers.iter().filter(|peer| was_excessive(peer)).count();
    Ok(Filled { growth: watch.growth(), processor, open, excessive, streams, newcomer })
}

/// Whether the node has closed the connection with EXCESSIVE_LOAD. A busy machine may look so late that the node
/// has forgotten the connection, and has answered with a reset, for which quinn forgets the code.
fn was_excessive(peer: &Peer) -> bool {
    match peer.connection.close_reason() {
        Some(ConnectionError::Reset) => peer.connection.stats().frame_rx.connection_close > 0,
        _ => peer.closed() == Some(Code::EXCESSIVE_LOAD),
    }
}

/// All streams that the node lets a peer open.
fn open(peer: &Peer) -> (Vec<(SendStream, RecvStream)>, Vec<SendStream>) {
    let (mut bidi, mut uni) = (Vec::new(), Vec::new());
    while let Some(Ok(stream)) = future::block_on(future::poll_once(peer.connection.open_bi())) {
        bidi.push(stream);
    }
    while let Some(Ok(stream)) = future::block_on(future::poll_once(peer.connection.open_uni())) {
        uni.push(stream);
    }
    (bidi, uni)
}

fn unfinished(frame: usize) -> Result<Bytes> {
    let mut said = u32::try_from(frame)?.to_be_bytes().to_vec();
    said.resize(4 + frame - 1, 0xa2);
    Ok(said.into())
}

/// As much as fits the frame of the request, and that of the answer.
fn call(frame: usize) -> Result<Bytes> {
    Ok(request(ECHO, vec![7; frame - 64])?.into())
}

async fn pour(send: &mut SendStream, said: Bytes, filling: Filling) {
    let piece = if filling == Filling::Trickled { 1 } else { 4096 };
    for chunk in said.chunks(piece) {
        if send.write_chunk(said.slice_ref(chunk)).await.is_err() {
            return;
        }
        if filling == Filling::Trickled {
            // So that each byte gets a frame of its own.
            future::yield_now().await;
        }
    }
}

/// Every other byte of each stream, in pieces of one byte, from the second on.
fn load<'a>(weapon: &Weapon, streams: impl Iterator<Item = &'a SendStream>, pieces: u64) {
    let mut packet = Vec::new();
    for stream in streams {
        for piece in 0..pieces {
            let frame = stream_byte(VarInt::from(stream.id()).into_inner(), 1 + 2 * piece, 7);
            if packet.len() + frame.len() > ROOM {
                weapon.load(std::mem::take(&mut packet));
            }
            packet.extend(frame);
        }
    }
    weapon.load(packet);
}

/// Has quinn send packets for as long as there is something to put into them.
async fn carry(mut uni: Vec<SendStream>, weapon: Weapon) {
    let start = Instant::now();
    if let Some(carrier) = uni.first_mut() {
        while weapon.loaded() > 0 && start.elapsed() < Duration::from_secs(60) {
            if carrier.write_chunk(Bytes::from_static(&[0; 1200])).await.is_err() {
                return;
            }
        }
    }
    future::pending::<()>().await;
    drop(uni);
}
