//! The commands that ask another node.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use palyra_quic::{ClientTls, Connection, Endpoint, Error, ErrorKind};
use smol::{Timer, channel, future};

use crate::{
    args::{Call, Events, Health, Notify, Peer},
    failure::Failure,
    lines::{self, Answer},
    pki::Directory,
    signals::Termination,
};

pub(crate) fn health(Health { peer }: &Health) -> Result<(), Failure> {
    with_connection(peer, async |connection| {
        let health = connection.request("node.health").codec(peer.codec.into()).health().await?;
        let ok = health.ok;
        lines::print(&Answer::from_health(health))?;
        if ok { Ok(()) } else { Err(Failure::new("the node says that it is not well")) }
    })
}

pub(crate) fn call(Call { peer, message, timeout_ms }: &Call) -> Result<(), Failure> {
    with_connection(peer, async |connection| {
        let mut call = connection.request(&message.method).codec(peer.codec.into());
        if let Some(params) = message.params() {
            call = call.raw_params(params);
        }
        if let Some(timeout_ms) = timeout_ms {
            call = call.timeout(Duration::from_millis(*timeout_ms));
        }
        let mut responses = call.stream().await?;
        while let Some(response) = responses.next_response().await? {
            let unknown = || Failure::new("an answer of a kind that this program does not know");
            lines::print(&Answer::from_response(response).ok_or_else(unknown)?)?;
        }
        Ok(())
    })
}

pub(crate) fn notify(Notify { peer, message }: &Notify) -> Result<(), Failure> {
    with_connection(peer, async |connection| {
        let mut notifier = connection.notifier().await?.codec(peer.codec.into());
        notifier.send_raw(&message.method, message.params().unwrap_or_default()).await?;
        Ok(notifier.finish().await?)
    })
}

pub(crate) fn events(args: &Events) -> Result<(), Failure> {
    with_connection(&args.peer, async |connection| {
        if !args.follow {
            return print_events(args, &connection).await;
        }
        let mut termination = Termination::new()?;
        let interrupted = async {
            termination.asked().await;
            Ok(())
        };
        future::or(interrupted, print_events(args, &connection)).await
    })
}

async fn print_events(args: &Events, connection: &Connection) -> Result<(), Failure> {
    let mut request = connection.events().codec(args.peer.codec.into());
    if let Some(seq) = args.resume_from {
        request = request.resume_from(seq);
    }
    if let Some(epoch) = args.epoch {
        request = request.epoch(epoch);
    }
    if args.follow {
        request = request.follow();
    }
    let mut events = request.open().await?;
    let mut wanted = args.count.map(u64::from);
    while wanted != Some(0)
        && let Some(item) = events.next().await?
    {
        let answer = Answer::from_item(item);
        if let (Some(wanted), Answer::Event { .. }) = (&mut wanted, &answer) {
            *wanted -= 1;
        }
        lines::print(&answer)?;
    }
    Ok(())
}

/// Connects, and leaves in order whatever comes of it: the node should not take this side for alive until its idle
/// timeout.
fn with_connection(
    peer: &Peer,
    exchange: impl AsyncFnOnce(Connection) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let tls = client_tls(peer)?;
    let addresses = peer.address.resolve()?;
    smol::block_on(async {
        let Dialled { endpoint, connection } = dial_any(&tls, addresses).await?;
        let outcome = exchange(connection).await;
        endpoint.shutdown(Duration::ZERO).await;
        outcome
    })
}

fn client_tls(peer: &Peer) -> Result<ClientTls, Failure> {
    let pki = Directory(&peer.pki);
    let tls = ClientTls::new(pki.trust()?).server_name(&peer.server_name)?.pins(peer.pins.iter().copied());
    let identity = match &peer.identity {
        Some(id) => Some(pki.identity(id.as_str())?),
        None => pki.default_client()?,
    };
    Ok(match identity {
        Some(identity) => tls.identity(identity),
        None => tls,
    })
}

struct Dialled {
    endpoint: Endpoint,
    connection: Connection,
}

/// How long an address has for itself before the next one is tried too (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first address where a node answers: `localhost` is often two, with nobody at one of them.
async fn dial_any(tls: &ClientTls, addresses: Vec<SocketAddr>) -> Result<Dialled, Failure> {
    let (report, outcomes) = channel::unbounded();
    let mut attempts = Vec::new();
    let mut delay = Duration::ZERO;
    for address in addresses {
        let (report, tls) = (report.clone(), tls.clone());
        attempts.push(smol::spawn(async move {
            Timer::after(delay).await;
            let _ = report.send(dial(tls, address).await).await;
        }));
        delay += HEAD_START;
    }
    drop(report);

    let mut nobody = None;
    while let Ok(outcome) = outcomes.recv().await {
        match outcome {
            Err(error) if matches!(error.kind(), ErrorKind::HandshakeTimeout | ErrorKind::Io) => {
                nobody.get_or_insert(error);
            }
            // Whoever answers has the last word; a refusal is no reason to go elsewhere.
            outcome => return Ok(outcome?),
        }
    }
    Err(nobody.map_or_else(|| Failure::new("no address to connect to"), Failure::from))
}

async fn dial(tls: ClientTls, address: SocketAddr) -> Result<Dialled, Error> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = Endpoint::builder().client(tls).bind(any)?;
    match endpoint.connect(address).await {
        Ok(connection) => Ok(Dialled { endpoint, connection }),
        Err(error) => {
            endpoint.shutdown(Duration::ZERO).await;
            Err(error)
        }
    }
}
