//! The commands that ask another node.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use palyra_quic::{
    Backoff, Client, ClientTls, Codec, Connection, Cursor, Endpoint, Error, ErrorKind, TransportLimits,
    WireError,
};
use smol::{Timer, channel, future};

use crate::{
    args::{Call, Events, Health, Notify, Peer},
    failure::Failure,
    lines::{self, Answer},
    pki::Directory,
    signals::Termination,
};

pub(crate) fn health(Health { peer, timeout_ms }: &Health) -> Result<(), Failure> {
    with_connection(peer, async |connection| {
        let request = connection.request("node.health").codec(peer.codec.into());
        let health = within(*timeout_ms, request.health()).await?;
        let ok = health.ok;
        lines::print(&Answer::from_health(health))?;
        if ok { Ok(()) } else { Err(Failure::new("the node says that it is not well")) }
    })
}

pub(crate) fn call(Call { peer, message, timeout_ms }: &Call) -> Result<(), Failure> {
    let params = message.params()?;
    with_connection(peer, async |connection| {
        let mut call = connection.request(&message.method).codec(peer.codec.into());
        if let Some(params) = params {
            call = call.raw_params(params);
        }
        call = call.timeout(Duration::from_millis(*timeout_ms));
        let mut responses = call.stream().await?;
        while let Some(response) = responses.next_response().await? {
            let unknown = || Failure::new("an answer of a kind that this program does not know");
            lines::print(&Answer::from_response(response).ok_or_else(unknown)?)?;
        }
        Ok(())
    })
}

pub(crate) fn notify(Notify { peer, message, timeout_ms }: &Notify) -> Result<(), Failure> {
    let params = message.params()?.unwrap_or_default();
    with_connection(peer, async |connection| {
        within(*timeout_ms, async {
            let mut notifier = connection.notifier().await?.codec(peer.codec.into());
            notifier.send_raw(&message.method, params).await?;
            notifier.finish().await
        })
        .await
    })
}

pub(crate) fn events(args: &Events) -> Result<(), Failure> {
    match (args.follow, Codec::from(args.peer.codec)) {
        (false, _) => with_connection(&args.peer, async |connection| print_events(args, &connection).await),
        // The tokio implementation has no epochs, without which a restart could not be told from a pause.
        (true, Codec::Json) => with_connection(&args.peer, async |connection| {
            until_interrupted(print_events(args, &connection)).await
        }),
        (true, _) => with_client(&args.peer, follower_limits()?, async |client| {
            until_interrupted(follow_events(args, &client)).await
        }),
    }
}

/// A peer may accept a connection and never allow a stream, or never answer.
async fn within<T>(ms: u64, exchange: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    let late = async {
        Timer::after(Duration::from_millis(ms)).await;
        Err(Failure::new(format_args!("{}: no answer in time", WireError::DeadlineExceeded)))
    };
    future::or(async { Ok(exchange.await?) }, late).await
}

async fn until_interrupted(printing: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut termination = Termination::new()?;
    let interrupted = async {
        termination.asked().await;
        Ok(())
    };
    future::or(interrupted, printing).await
}

/// A node that was killed says no farewell. Somebody watches, and wants to see the next one soon.
fn follower_limits() -> Result<TransportLimits, Error> {
    let limits = TransportLimits::builder();
    limits.idle_timeout(Duration::from_secs(3)).keep_alive_interval(Duration::from_secs(1)).build()
}

async fn follow_events(args: &Events, client: &Client) -> Result<(), Failure> {
    let mut subscribe = client.subscribe();
    // An epoch alone says nothing of where the reader was.
    if let Some(seq) = args.resume_from {
        subscribe = subscribe.resume(Cursor::new(args.epoch, seq));
    }
    let mut subscription = subscribe.open();
    let mut wanted = Wanted::of(args);
    let mut told = false;
    while wanted.more() {
        match Answer::from_subscription(subscription.next().await?) {
            Ok(Some(answer)) => wanted.print(&answer)?,
            Ok(None) => told = false,
            // Once for each loss, however many attempts follow.
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    Failure::from(error).report("reconnecting");
                }
            }
        }
    }
    Ok(())
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
    let mut events =
        if args.follow { request.open().await? } else { within(args.timeout_ms, request.open()).await? };
    let mut wanted = Wanted::of(args);
    while wanted.more() {
        let next = events.next();
        let item = if args.follow { next.await? } else { within(args.timeout_ms, next).await? };
        let Some(item) = item else { break };
        wanted.print(&Answer::from_item(item))?;
    }
    Ok(())
}

/// How many more events to print; `None` for all of them.
struct Wanted(Option<u64>);

impl Wanted {
    fn of(args: &Events) -> Self {
        Self(args.count.map(u64::from))
    }

    fn more(&self) -> bool {
        self.0 != Some(0)
    }

    fn print(&mut self, answer: &Answer) -> Result<(), Failure> {
        if let (Self(Some(left)), Answer::Event { .. }) = (self, answer) {
            *left -= 1;
        }
        lines::print(answer)
    }
}

fn with_connection(
    peer: &Peer,
    exchange: impl AsyncFnOnce(Connection) -> Result<(), Failure>,
) -> Result<(), Failure> {
    with_client(peer, TransportLimits::default(), async |client| exchange(client.connection().await?).await)
}

/// Connects, and leaves in order whatever comes of it: the node should not take this side for alive until its
/// idle timeout.
fn with_client(
    peer: &Peer,
    limits: TransportLimits,
    exchange: impl AsyncFnOnce(Client) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let tls = client_tls(peer)?;
    let addresses = peer.address.resolve()?;
    smol::block_on(async {
        let Dialled { endpoint, client } = dial_any(&tls, &limits, addresses).await?;
        let outcome = exchange(client).await;
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

/// A client that has a connection, and the endpoint that it is of.
struct Dialled {
    endpoint: Endpoint,
    client: Client,
}

/// How long an address has for itself before the next one is tried too (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// Between two attempts to get back to a node. As with the limits of followers, somebody watches.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Connects to the first address where a node answers: `localhost` is often two, with nobody at one of them.
async fn dial_any(
    tls: &ClientTls,
    limits: &TransportLimits,
    addresses: Vec<SocketAddr>,
) -> Result<Dialled, Failure> {
    let (report, outcomes) = channel::unbounded();
    let mut attempts = Vec::new();
    let mut delay = Duration::ZERO;
    for address in addresses {
        let (report, tls, limits) = (report.clone(), tls.clone(), limits.clone());
        attempts.push(smol::spawn(async move {
            Timer::after(delay).await;
            let _ = report.send(dial(tls, limits, address).await).await;
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

async fn dial(tls: ClientTls, limits: TransportLimits, address: SocketAddr) -> Result<Dialled, Error> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = Endpoint::builder().client(tls).limits(limits).bind(any)?;
    let client = Client::builder(endpoint.clone()).address(address);
    let client = client.backoff(Backoff::new().cap(LONGEST_PAUSE)).build()?;
    match client.connection().await {
        Ok(_) => Ok(Dialled { endpoint, client }),
        Err(error) => {
            endpoint.shutdown(Duration::ZERO).await;
            Err(error)
        }
    }
}
