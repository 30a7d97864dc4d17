//! What peers can do with event logs: acknowledge as anybody, anything, and all the time; follow every log.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_lite::future;
use palyra_quic::{Bytes, Codec, Request, Response, minicbor::Encoder, quinn::Connection};

use super::{
    Result, Stage,
    meter::Memory,
    peer::{Peer, crowd, frame, request},
    probe::{Latencies, Probe, newcomer},
    victim::Victim,
};

/// How many logs a node has beside its own: as many as a peer may have streams by default.
pub(crate) const LOGS: usize = 32;
/// What the names of these logs begin with.
pub(crate) const LOG: &str = "attack.log.";
/// A log that may have more consumers than by default.
pub(crate) const ROOMY_LOG: &str = "attack.roomy";
/// What the names begin with for which every peer may speak.
pub(crate) const CONSUMER: &str = "anybody-";
/// Events in each of the logs.
pub(crate) const EVENTS: u64 = 3;
/// For streams that the node does not let a peer open.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// By another consumer each time.
    ManyNames,
    /// The same, to the log that has room for all of them.
    ManyNamesToARoomyLog,
    /// By consumers that the peer may not speak for.
    Forged,
    /// Events that do not exist.
    Future,
    /// The same event by the same consumer, all the time.
    Flood,
}

#[derive(Debug)]
pub(crate) struct Acknowledged {
    /// How many were answered how: `result`, or the error.
    pub(crate) answers: BTreeMap<String, u32>,
    pub(crate) took: Duration,
    pub(crate) processor: Duration,
    pub(crate) growth: Memory,
    pub(crate) others: Latencies,
}

impl Acknowledged {
    pub(crate) fn answered(&self, how: &str) -> u32 {
        self.answers.get(how).copied().unwrap_or_default()
    }
}

/// Acknowledges so many times on one connection, one after the other.
pub(crate) async fn acknowledge(
    stage: &Stage,
    victim: &Victim,
    claim: Claim,
    count: u32,
) -> Result<Acknowledged> {
    let probe = Probe::connect(stage, victim).await?;
    let watch = victim.watch();
    let peer = Peer::connect(stage, victim, 1).await?;
    let log = if claim == Claim::ManyNamesToARoomyLog { ROOMY_LOG.to_owned() } else { format!("{LOG}0") };
    let epoch = epoch_of(&peer.connection, &log).await?;
    let before = victim.processor()?;
    let start = Instant::now();
    let mut answers = BTreeMap::new();
    for n in 0..count {
        let consumer = match claim {
            Claim::ManyNames | Claim::ManyNamesToARoomyLog => format!("{CONSUMER}{n}"),
            Claim::Forged => format!("somebody-else-{n}"),
            Claim::Future | Claim::Flood => format!("{CONSUMER}0"),
        };
        let seq = if claim == Claim::Future { EVENTS + 1 + u64::from(n) } else { EVENTS };
        let call = request("node.ack_events", params(&consumer, epoch, seq, &log)?)?;
        let answer = match ask(&peer.connection, &call).await?.as_slice() {
            [Response::Result { .. }] => "result".to_owned(),
            [Response::Error { error, .. }] => error.to_string(),
            other => return Err(format!("answered {other:?}").into()),
        };
        *answers.entry(answer).or_default() += 1;
    }
    let (took, processor) = (start.elapsed(), victim.processor()? - before);
    let others = probe.measure(Duration::from_millis(500)).await;
    Ok(Acknowledged { answers, took, processor, growth: watch.growth(), others })
}

#[derive(Debug)]
pub(crate) struct Followed {
    /// Subscriptions that were answered.
    pub(crate) streams: usize,
    /// Connections that are open in the end.
    pub(crate) open: usize,
    pub(crate) processor: Duration,
    pub(crate) growth: Memory,
    pub(crate) others: Latencies,
    pub(crate) newcomer: Option<Duration>,
}

/// So many peers follow each of the logs, as far as they get streams, and read the first bytes alone.
pub(crate) async fn follow(stage: &Stage, victim: &Victim, peers: u16, hold: Duration) -> Result<Followed> {
    let probe = Probe::connect(stage, victim).await?;
    let watch = victim.watch();
    let before = victim.processor()?;
    let peers = crowd(stage, victim, 1, peers).await?;
    let mut streams = Vec::new();
    for peer in &peers {
        for n in 0..LOGS {
            let opened = async { peer.connection.open_bi().await.ok() };
            let refused = async {
                async_io::Timer::after(PATIENCE).await;
                None
            };
            let Some((mut send, mut recv)) = future::or(opened, refused).await else { break };
            let mut body = Vec::new();
            let mut subscription = Request::new(format!("{LOG}{n}"));
            subscription.follow = true;
            subscription.encode(Codec::Cbor, &mut body)?;
            send.write_all(&frame(&body)?).await?;
            send.finish()?;
            let mut first = [0; 4];
            recv.read_exact(&mut first).await?;
            streams.push(recv);
        }
    }
    let others = probe.measure(hold).await;
    let newcomer = newcomer(stage, victim, "newcomer", Duration::from_secs(5)).await?;
    Ok(Followed {
        streams: streams.len(),
        open: peers.iter().filter(|peer| peer.closed().is_none()).count(),
        processor: victim.processor()? - before,
        growth: watch.growth(),
        others,
        newcomer,
    })
}

/// What a request is answered with.
async fn ask(connection: &Connection, request: &[u8]) -> Result<Vec<Response>> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(request).await?;
    send.finish()?;
    let answer = recv.read_to_end(64 * 1024).await?;
    let (mut rest, mut responses) = (&answer[..], Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length))?;
        let (body, behind) = behind.split_at_checked(length).ok_or("an answer that is cut short")?;
        responses.push(Response::decode(&Bytes::copy_from_slice(body))?);
        rest = behind;
    }
    Ok(responses)
}

async fn epoch_of(connection: &Connection, log: &str) -> Result<u64> {
    match ask(connection, &request(log, Vec::new())?).await?.first() {
        Some(Response::Event { epoch: Some(epoch), .. }) => Ok(*epoch),
        other => Err(format!("the log answers {other:?}").into()),
    }
}

/// The parameters of `node.ack_events`.
fn params(consumer: &str, epoch: u64, seq: u64, log: &str) -> Result<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.map(4)?.u8(0)?.str(consumer)?.u8(1)?.u64(epoch)?.u8(2)?.u64(seq)?.u8(3)?.str(log)?;
    Ok(encoder.into_writer())
}
