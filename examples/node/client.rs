//! The commands that connect to another node.

use std::{
    io, mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use palyra_quic::{
    AsyncIoRuntime, Backoff, Client, ClientTls, Codec, Connection, Cursor, Endpoint, Error, ErrorKind,
    EventsRequest, PollRuntime, Raw, Subscription, TransportLimits, WireError, quinn::Runtime,
};
use smol::{Timer, channel, future};

use crate::{
    acknowledge::{Printed, cursor_behind},
    args::{Call, Datagrams, Events, Health, Notify, Peer},
    failure::Failure,
    lines::{self, Answer},
    pki::Directory,
    signals::Termination,
};

/// What to do about a peer that is a node of the tokio implementation: it answers nothing in CBOR.
const TRY_JSON: &str = "try --codec json";
/// The same of a log that is to be followed.
const TRY_WITHOUT_FOLLOW: &str = "it cannot be followed; try --codec json without --follow";

pub(crate) fn health(Health { peer, timeout_ms }: &Health) -> Result<(), Failure> {
    let longest = Duration::from_millis(*timeout_ms);
    with_connection(peer, longest, TRY_JSON, async |connection| {
        let request = connection.request_raw("node.health", "").codec(peer.codec.into());
        let health = in_time(longest, request.health()).await?;
        let ok = health.ok;
        lines::print(&Answer::from_health(health))?;
        if ok { Ok(()) } else { Err(Failure::new("the node says that it is not well")) }
    })
}

pub(crate) fn call(Call { peer, message, timeout_ms }: &Call) -> Result<(), Failure> {
    let params = message.params()?.unwrap_or_default();
    let longest = Duration::from_millis(*timeout_ms);
    with_connection(peer, longest, TRY_JSON, async |connection| {
        let call = connection.request_raw(&message.method, params).codec(peer.codec.into());
        let call = call.timeout(longest);
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
    let longest = Duration::from_millis(*timeout_ms);
    with_connection(peer, longest, TRY_JSON, async |connection| {
        in_time(longest, async {
            let mut notifier = connection.notifier().await?.codec(peer.codec.into());
            notifier.send_raw(&message.method, params).await?;
            notifier.finish().await
        })
        .await
    })
}

pub(crate) fn events(args: &Events) -> Result<(), Failure> {
    if args.follow {
        return follow(args);
    }
    let printed = Printed::nothing(args)?;
    let longest = Duration::from_millis(args.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS));
    with_connection(&args.peer, longest, TRY_JSON, async |connection| {
        let outcome = print_held(args, longest, &connection, &printed).await;
        // Also what was printed before an error.
        outcome.and(printed.acknowledge(async { Ok(connection) }, None).await)
    })
}

async fn print_held(
    args: &Events,
    longest: Duration,
    connection: &Connection,
    printed: &Printed<'_>,
) -> Result<(), Failure> {
    let mut events = in_time(longest, events_request(args, connection).open()).await?;
    let mut wanted = Wanted::of(args);
    while wanted.more() {
        let Some(item) = in_time(longest, events.next_raw()).await? else { break };
        let cursor = cursor_behind(&item);
        wanted.print(&Answer::from_item(item))?;
        printed.up_to(cursor);
    }
    Ok(())
}

/// The same default as that of the other commands.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;

fn follow(args: &Events) -> Result<(), Failure> {
    let (target, printed) = (Target::of(&args.peer)?, Printed::nothing(args)?);
    let codec = Codec::from(args.peer.codec);
    let limits = if codec == Codec::Cbor { follower_limits()? } else { TransportLimits::default() };
    smol::block_on(async {
        let mut termination = Termination::new()?;
        let absence = Absence::new(args);
        let dialled = async { absence.bounded(wait_for_node(&target, &limits)).await.map(Some) };
        let Some(dialled) = until_asked(&mut termination, dialled).await? else { return Ok(()) };
        dialled
            .end_with(TRY_WITHOUT_FOLLOW, async |client| {
                let mut subscription = subscribe(args, &client);
                let following = async {
                    match codec {
                        // The tokio implementation has no epochs. Without them, a follower cannot know
                        // whether the node was restarted.
                        Codec::Json => follow_connection(args, absence, &client.connection().await?).await,
                        _ => follow_events(args, absence, &mut subscription, &printed).await,
                    }
                    .map(Some)
                };
                let outcome = until_asked(&mut termination, following).await.map(Option::unwrap_or_default);
                let confirmed = subscription.acknowledged();
                outcome.and(printed.acknowledge(client.connection(), confirmed).await)
            })
            .await
    })
}

/// `None` if a signal asks the program to end first.
async fn until_asked<T>(
    termination: &mut Termination,
    outcome: impl Future<Output = Result<Option<T>, Failure>>,
) -> Result<Option<T>, Failure> {
    let asked = async {
        termination.asked().await;
        Ok(None)
    };
    future::or(asked, outcome).await
}

/// The time for which a follower waits for its node, at the start or after a loss.
struct Absence {
    longest: Option<Duration>,
    /// `None` while the node is connected, or if the follower waits without limit.
    until: Option<Instant>,
}

impl Absence {
    fn new(args: &Events) -> Self {
        let mut absence = Self { longest: args.timeout_ms.map(Duration::from_millis), until: None };
        absence.begin();
        absence
    }

    /// Starts the time limit, unless the node was gone before.
    fn begin(&mut self) {
        if self.until.is_none() {
            self.until = self.longest.and_then(|longest| Instant::now().checked_add(longest));
        }
    }

    fn end(&mut self) {
        self.until = None;
    }

    /// Fails when the time limit has passed.
    async fn bounded<T, E: Into<Failure>>(
        &self,
        waiting: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let waiting = async { waiting.await.map_err(Into::into) };
        let Some(until) = self.until else { return waiting.await };
        let too_long = async {
            Timer::at(until).await;
            Err(Failure::new(format_args!("{}: the node is not there", WireError::DeadlineExceeded)))
        };
        future::or(waiting, too_long).await
    }
}

/// Dials until a node answers. Reports only the first of the errors.
async fn wait_for_node(target: &Target, limits: &TransportLimits) -> Result<Dialled, Failure> {
    let (mut told, mut pause) = (false, SHORTEST_PAUSE);
    loop {
        let error = match dial_any(target, limits).await {
            Err(error) if error.is_retryable() => error,
            outcome => return Ok(outcome?),
        };
        let asked = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        if !mem::replace(&mut told, true) {
            Failure::from(error).report("waiting");
        }
        Timer::after(pause.max(asked)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Limits the time of an exchange: a peer may accept a connection, but never allow a stream or never
/// answer.
pub(crate) async fn in_time<T, E: Into<Failure>>(
    timeout: Duration,
    exchange: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    let late = async {
        Timer::after(timeout).await;
        Err(Failure::new(format_args!("{}: no answer in time", WireError::DeadlineExceeded)))
    };
    future::or(async { exchange.await.map_err(Into::into) }, late).await
}

/// Short timeouts: a node that was killed closes no connection, and the user waits for its successor.
fn follower_limits() -> Result<TransportLimits, Error> {
    let limits = TransportLimits::builder();
    limits.idle_timeout(Duration::from_secs(3)).keep_alive_interval(Duration::from_secs(1)).build()
}

/// A subscription, which does nothing before it is asked for an item.
fn subscribe(args: &Events, client: &Client) -> Subscription {
    let mut subscribe = client.subscribe::<Raw>(&args.log);
    // An epoch without a sequence number is no cursor.
    if let Some(seq) = args.resume_from {
        subscribe = subscribe.resume(Cursor::new(args.epoch, seq));
    }
    if let Some(consumer) = &args.consumer {
        subscribe = subscribe.consumer(consumer.as_str());
    }
    subscribe.open()
}

async fn follow_events(
    args: &Events,
    mut absence: Absence,
    subscription: &mut Subscription,
    printed: &Printed<'_>,
) -> Result<(), Failure> {
    let mut wanted = Wanted::of(args);
    let mut told = false;
    while wanted.more() {
        match Answer::from_subscription(absence.bounded(subscription.next_raw()).await?) {
            Ok(Some(answer)) => {
                wanted.print(&answer)?;
                printed.all_of(subscription);
            }
            Ok(None) => {
                told = false;
                absence.end();
            }
            // Report only the first error after each loss.
            Err(error) => {
                absence.begin();
                if !mem::replace(&mut told, true) {
                    Failure::from(error).report("reconnecting");
                }
            }
        }
    }
    Ok(())
}

async fn follow_connection(
    args: &Events,
    mut absence: Absence,
    connection: &Connection,
) -> Result<(), Failure> {
    let mut events = absence.bounded(events_request(args, connection).follow().open()).await?;
    absence.end();
    let mut wanted = Wanted::of(args);
    while wanted.more() {
        let Some(item) = events.next_raw().await.map_err(not_followed)? else { break };
        wanted.print(&Answer::from_item(item))?;
    }
    Ok(())
}

/// Why a node does not let itself be followed in JSON. One of the tokio implementation cannot be told from
/// others in its own encoding.
fn not_followed(error: Error) -> Failure {
    Failure::hinting(error, |kind| {
        let is_not_understood = *kind == ErrorKind::Remote(WireError::InvalidRequest);
        is_not_understood
            .then_some("a node of the tokio implementation cannot be followed; try without --follow")
    })
}

fn events_request(args: &Events, connection: &Connection) -> EventsRequest {
    let mut request = connection.events::<Raw>(&args.log).codec(args.peer.codec.into());
    if let Some(seq) = args.resume_from {
        request = request.resume_from(seq);
    }
    if let Some(epoch) = args.epoch {
        request = request.epoch(epoch);
    }
    request
}

/// The number of events that are still to be printed; `None` for all events.
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

/// Waits for the connection for `longest`, and no longer than the limits say. `hint` says what to do if the
/// peer is a node of the tokio implementation.
pub(crate) fn with_connection(
    peer: &Peer,
    longest: Duration,
    hint: &str,
    exchange: impl AsyncFnOnce(Connection) -> Result<(), Failure>,
) -> Result<(), Failure> {
    smol::block_on(connected(Target::of(peer)?, longest, hint, exchange))
}

/// As [`with_connection`], all on this thread, which is faster. An exchange that blocks, as one that prints
/// to a pipe that nobody reads, would lose its connection.
pub(crate) fn with_connection_on_this_thread(
    peer: &Peer,
    longest: Duration,
    hint: &str,
    exchange: impl AsyncFnOnce(Connection) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut runtime, target) = (PollRuntime::new()?, Target::of(peer)?);
    let target = Target { runtime: runtime.handle(), ..target };
    runtime.block_on(connected(target, longest, hint, exchange))
}

async fn connected(
    target: Target,
    longest: Duration,
    hint: &str,
    exchange: impl AsyncFnOnce(Connection) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let limits = TransportLimits::default();
    let handshake = longest.clamp(Duration::from_millis(1), limits.handshake_timeout());
    let limits = limits.to_builder().handshake_timeout(handshake).build()?;
    let dialled = dial_any(&target, &limits).await.map_err(|error| {
        Failure::hinting(error, |kind| {
            let is_silence = *kind == ErrorKind::HandshakeTimeout;
            is_silence.then_some("is the node running, and does UDP reach it?")
        })
    })?;
    dialled.end_with(hint, async |client| exchange(client.connection().await?).await).await
}

/// The node to connect to, by each of its addresses.
#[derive(Clone)]
struct Target {
    tls: ClientTls,
    addresses: Vec<SocketAddr>,
    server_name: String,
    runtime: Arc<dyn Runtime>,
    datagrams: Datagrams,
}

impl Target {
    fn of(peer: &Peer) -> Result<Self, Failure> {
        let (tls, addresses) = (client_tls(peer)?, peer.address.resolve()?);
        let runtime = Arc::new(AsyncIoRuntime::global());
        Ok(Self { tls, addresses, server_name: peer.server_name(), runtime, datagrams: peer.datagrams })
    }
}

pub(crate) fn client_tls(peer: &Peer) -> Result<ClientTls, Failure> {
    let pki = Directory(&peer.pki);
    let mut tls = ClientTls::new(pki.trust()?).pins(peer.pins.iter().copied());
    if let Some(list) = pki.revocations(&peer.revocations, None)? {
        tls = tls.revocations(&list);
    }
    let identity = match &peer.identity {
        Some(id) => Some(pki.identity(id.as_str())?),
        None => pki.default_client()?,
    };
    Ok(match identity {
        Some(identity) => tls.identity(identity),
        None => tls,
    })
}

/// A connected client and its endpoint.
struct Dialled {
    endpoint: Endpoint,
    client: Client,
}

impl Dialled {
    /// Runs `exchange` with the client, and then shuts down the endpoint, even after an error. Otherwise
    /// the node would keep the connection until its idle timeout.
    async fn end_with(
        self,
        hint: &str,
        exchange: impl AsyncFnOnce(Client) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self { endpoint, client } = self;
        let outcome = match exchange(client.clone()).await {
            Err(failure) if is_json_only(&client).await => Err(failure.adding(&about_tokio_node(hint))),
            outcome => outcome,
        };
        endpoint.shutdown(Duration::ZERO).await;
        outcome
    }
}

pub(crate) fn about_tokio_node(hint: &str) -> String {
    format!("the peer is a node of the tokio implementation: {hint}")
}

/// Whether the peer has shown that it does not speak CBOR.
pub(crate) async fn is_json_only(client: &Client) -> bool {
    // Ready immediately if the connection is still open.
    let connection = future::poll_once(client.connection()).await;
    connection.is_some_and(|connection| connection.is_ok_and(|connection| connection.is_json_only()))
}

/// The time after which the next address is tried in parallel (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// The first pause between two attempts to reach a node. It doubles up to `LONGEST_PAUSE`.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// The same limit as in the library: a peer may ask for a delay, but not for an endless one.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);
/// The longest pause before a follower reconnects. It is short because the user waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Connects to the first address at which a node answers. `localhost` often has two addresses, and the node
/// listens at only one.
async fn dial_any(target: &Target, limits: &TransportLimits) -> Result<Dialled, Error> {
    let (report, outcomes) = channel::unbounded();
    let mut attempts = Vec::new();
    let mut delay = Duration::ZERO;
    for &address in &target.addresses {
        let (report, target, limits) = (report.clone(), target.clone(), limits.clone());
        attempts.push(smol::spawn(async move {
            Timer::after(delay).await;
            let _ = report.send(dial(target, limits, address).await).await;
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
            // A node that answers is the right one. If it refuses the connection, do not try another
            // address.
            outcome => return outcome,
        }
    }
    Err(nobody.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable).into()))
}

async fn dial(target: Target, limits: TransportLimits, address: SocketAddr) -> Result<Dialled, Error> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let limits = target.datagrams.limits(limits.to_builder()).build()?;
    let endpoint = Endpoint::builder().shared_runtime(target.runtime).client(target.tls);
    let endpoint = endpoint.limits(limits).bind(any)?;
    let client = Client::builder(endpoint.clone()).address((address, target.server_name));
    let client = client.backoff(Backoff::new().cap(LONGEST_PAUSE)).build()?;
    match client.connection().await {
        Ok(_) => Ok(Dialled { endpoint, client }),
        Err(error) => {
            // Nobody listens to what would be said to a node that has not answered.
            if *error.kind() != ErrorKind::HandshakeTimeout {
                endpoint.shutdown(Duration::ZERO).await;
            }
            Err(error)
        }
    }
}
