//! A client that dials when it is needed, and again when the connection is lost.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_lite::future;
use minicbor::{Decode, Encode};

use super::{
    Subscribe,
    backoff::{Backoff, Failures},
};
use crate::{
    connection::Connection,
    endpoint::{Endpoint, Handshake},
    error::{Error, ErrorKind, Result},
    message::WireError,
    runtime::{Clock, Elapsed, runtime_is_gone},
    sync::lock,
    tls::{ClientTls, Rotation, Security},
    value,
};

/// Keeps one connection to a peer: dials with the first call, and again, with growing pauses, when it was
/// lost.
///
/// A call is repeated by itself only where it was certainly not processed; where it may have been, the error
/// says so: [`Error::may_have_run`]. Cloning gives another handle to the same connection.
///
/// ```no_run
/// # async fn example(endpoint: palyra_quic::Endpoint) -> palyra_quic::Result<()> {
/// use palyra_quic::Client;
///
/// let client = Client::builder(endpoint)
///     .address(([192, 0, 2, 1], 7443).into())
///     .address(([192, 0, 2, 2], 7443).into())
///     .build()?;
/// let sum: u64 = client.call("demo.add", &(40, 2)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Endpoint,
    addresses: Vec<SocketAddr>,
    /// The endpoint's, or the client's own.
    security: Arc<Security>,
    call_timeout: Duration,
    /// Locked while dialling, so that one caller dials and the others wait for it.
    current: async_lock::Mutex<Option<Connection>>,
    outlook: Mutex<Outlook>,
}

/// What the latest failures mean for the next attempt.
struct Outlook {
    failures: Failures,
    not_before: Option<Instant>,
    /// The address whose turn it is, or that the connection is to, as an index.
    turn: usize,
    /// Until when each address asks to be left alone.
    asked_until: Vec<Option<Instant>>,
    /// A connection that is not to be used any more.
    retired: Option<usize>,
}

impl Outlook {
    fn put_off(&mut self, clock: &Clock) -> Instant {
        let until = clock.deadline(self.failures.pause());
        self.not_before = Some(until);
        until
    }
}

/// A peer may ask for patience, and not for good-bye.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// Without a limit of its own, a call ends when the peer's limit for handlers does.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

impl Client {
    /// Chooses whom to call, and how.
    #[must_use]
    pub fn builder(endpoint: Endpoint) -> ClientBuilder {
        ClientBuilder {
            endpoint,
            addresses: Vec::new(),
            tls: None,
            backoff: Backoff::new(),
            call_timeout: CALL_TIMEOUT,
        }
    }

    /// Calls a method, as [`Connection::call`] does, within the client's time limit for calls.
    ///
    /// # Errors
    ///
    /// As for [`Connection::call`] and [`Endpoint::connect`]. Failures that another attempt may mend are
    /// reported when the time limit has passed, or immediately where the call [may have
    /// run](Error::may_have_run). What the peer answers is reported immediately, `resource_exhausted`
    /// included, save for `unavailable`, after which the client tries elsewhere.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run. The connection stays.
    pub async fn call<P, T>(&self, method: &str, params: &P) -> Result<T>
    where
        P: Encode<()> + ?Sized,
        T: for<'b> Decode<'b, ()>,
    {
        let params = value::encode(params).map_err(|error| self.name(error, method))?;
        let result = self.call_raw(method, params).await?;
        value::decode(&result).map_err(|error| self.name(error.after_request(), method))
    }

    /// Calls a method with parameters and a result of plain bytes, as [`Connection::call_raw`] does.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_raw(&self, method: &str, params: impl Into<Bytes>) -> Result<Bytes> {
        let params = params.into();
        // Between attempts, too.
        let _work = self.shared.endpoint.accept_work();
        let mut attempts = Attempts::new(self);
        loop {
            let (connection, left) = attempts.next().await.map_err(|error| self.name(error, method))?;
            let call = connection.request(method).timeout(left);
            let call = if params.is_empty() { call } else { call.raw_params(params.clone()) };
            let outcome = call.send().await;
            if let Some(outcome) = attempts.conclude(&connection, outcome) {
                return outcome;
            }
        }
    }

    /// Sends a notification, as [`Connection::notify_raw`] does, once there is a connection, within the
    /// client's time limit for calls. It is sent again only where the connection ended before QUIC had
    /// taken all of it, and so handled at most once.
    ///
    /// # Errors
    ///
    /// As for [`Connection::notify`] and [`Endpoint::connect`];
    /// [`DeadlineExceeded`](ErrorKind::DeadlineExceeded).
    ///
    /// # Cancellation
    ///
    /// The notification may arrive, or not.
    pub async fn notify_raw(&self, method: &str, params: impl Into<Bytes>) -> Result<()> {
        let params = params.into();
        // Between attempts, too.
        let _work = self.shared.endpoint.accept_work();
        let mut attempts = Attempts::new(self);
        loop {
            let (connection, left) = attempts.next().await.map_err(|error| self.name(error, method))?;
            let clock = self.clock();
            let sent =
                clock.timeout_at(Some(clock.deadline(left)), connection.notify_raw(method, params.clone()));
            let outcome = sent.await.unwrap_or_else(|Elapsed| {
                Err(connection.link().name(clock.timed_out(ErrorKind::DeadlineExceeded), method))
            });
            if let Some(outcome) = attempts.conclude(&connection, outcome) {
                return outcome;
            }
        }
    }

    /// Says which method failed, and where, if there is but one address where it can have.
    fn name(&self, error: Error, method: &str) -> Error {
        let error = error.of_method(method);
        match *self.shared.addresses {
            [sole] => error.at(sole),
            _ => error,
        }
    }

    /// Prepares a subscription to the peer's events that survives the connection.
    pub fn subscribe(&self) -> Subscribe {
        Subscribe::new(self.clone())
    }

    /// Replaces the TLS that this client has of its own, as [`Endpoint::rotate`] does with that of an
    /// endpoint: it counts for the next connection, the present one is held against its revocation list,
    /// and calls that are running go on.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) as for [`Endpoint::rotate`], and for a client that was
    /// built without TLS of its own: it follows its endpoint.
    pub fn rotate(&self, tls: ClientTls) -> Result<()> {
        let Shared { endpoint, security, .. } = &*self.shared;
        if Arc::ptr_eq(security, endpoint.security()) {
            return Err(Error::invalid_config(
                "the client has no TLS of its own: rotate that of its endpoint",
            ));
        }
        security.rotate(Rotation::new().client(tls))
    }

    /// The connection, dialled if there is none: one attempt at each address, after the pause that is due.
    /// A connection that was closed is a failure like any other, whichever side closed it: pauses grow
    /// until a call succeeds or a subscription holds.
    ///
    /// Without a time limit of its own: the pause may be as long as [`Backoff::cap`] or, where every address
    /// asks for patience, an hour; and each attempt takes up to `handshake_timeout`.
    ///
    /// # Errors
    ///
    /// As for [`Endpoint::connect`]: that of an address where trying again may help, if there is one.
    /// [`Closed`](ErrorKind::Closed) where the endpoint has ended.
    ///
    /// # Cancellation
    ///
    /// Safe: dropping the future gives up the attempt.
    pub async fn connection(&self) -> Result<Connection> {
        self.until_closed(self.connect()).await
    }

    async fn connect(&self) -> Result<Connection> {
        let shared = &*self.shared;
        let mut current = shared.current.lock().await;
        // Others may still wait for answers on it. It closes with its last handle.
        drop(current.take_if(|connection| self.is_retired(connection)));
        if let Some(connection) = &*current {
            let Some(reason) = connection.close_reason() else {
                return Ok(connection.clone());
            };
            let address = connection.remote_address();
            *current = None;
            // Whichever side closed it: a caller that closes each connection it gets would dial
            // without a pause.
            self.postpone(&reason);
            if reason.is_terminal() {
                return Err(reason.at(address));
            }
        }
        let not_before = shared.outlook().not_before;
        if let Some(not_before) = not_before {
            self.clock().sleep_until(not_before).await;
        }
        let mut failure: Option<Error> = None;
        for _ in &shared.addresses {
            let Some((turn, asked_until)) = self.next_address() else { break };
            if let Some(asked_until) = asked_until {
                // All of them ask to be left alone; this one for the shortest time.
                if failure.is_some() {
                    break;
                }
                self.clock().sleep_until(asked_until).await;
            }
            // Before, and not after: a caller with less time than a handshake may take is to get past an
            // address, too.
            shared.outlook().turn = self.following(turn);
            match self.dial(turn).await {
                Ok(connection) => {
                    {
                        let mut outlook = shared.outlook();
                        (outlook.turn, outlook.retired) = (turn, None);
                    }
                    *current = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => {
                    tracing::debug!(address = ?shared.addresses.get(turn), %error, "not connected");
                    self.pass_over(turn, &error);
                    if *error.kind() == ErrorKind::Closed {
                        return Err(error);
                    }
                    // An address that may be better the next time is worth more than one that will not.
                    let better =
                        failure.as_ref().is_none_or(|failure| failure.is_terminal() || !error.is_terminal());
                    if better {
                        failure = Some(error);
                    }
                }
            }
        }
        let failure = failure.unwrap_or_else(|| Error::invalid_config("the client has no address"));
        self.shared.outlook().put_off(self.clock());
        Err(failure)
    }

    async fn dial(&self, turn: usize) -> Result<Connection> {
        let Shared { endpoint, addresses, security, .. } = &*self.shared;
        let Some(address) = addresses.get(turn) else {
            return Err(Error::invalid_config("the client has no address"));
        };
        endpoint.connect_by(security, *address, Handshake::Confirmed).await
    }

    /// The address whose turn it is, as an index: the next one that has not asked to be left alone. Where all
    /// have, the one that asked for the shortest time, and until when.
    fn next_address(&self) -> Option<(usize, Option<Instant>)> {
        let now = self.clock().now();
        let outlook = self.shared.outlook();
        let count = outlook.asked_until.len();
        let in_turn = || (0..count).map(|n| (outlook.turn + n) % count);
        let until =
            |turn: usize| outlook.asked_until.get(turn).copied().flatten().filter(|until| *until > now);
        in_turn().find(|turn| until(*turn).is_none()).map(|turn| (turn, None)).or_else(|| {
            let soonest = in_turn().min_by_key(|turn| until(*turn))?;
            Some((soonest, until(soonest)))
        })
    }

    /// Gives the turn to the next address, and remembers what this one asked for.
    fn pass_over(&self, turn: usize, error: &Error) {
        let now = self.clock().now();
        let mut outlook = self.shared.outlook();
        outlook.turn = self.following(turn);
        if let (Some(asked_until), Some(after)) = (outlook.asked_until.get_mut(turn), error.retry_after()) {
            *asked_until = now.checked_add(after.min(LONGEST_RETRY_AFTER));
        }
    }

    fn following(&self, turn: usize) -> usize {
        (turn + 1) % self.shared.addresses.len().max(1)
    }

    fn is_retired(&self, connection: &Connection) -> bool {
        self.shared.outlook().retired == Some(connection.stable_id())
    }

    /// Hands out this connection no longer: the next caller dials, after the pause that `error` calls for.
    /// Callers that use it already may go on.
    pub(super) fn retire(&self, connection: &Connection, error: &Error) {
        self.shared.outlook().retired = Some(connection.stable_id());
        self.postpone(error);
    }

    /// Puts the next attempt off, and those at this address by as long as it asks for.
    fn postpone(&self, error: &Error) {
        self.shared.outlook().put_off(self.clock());
        if error.retry_after().is_some() {
            let turn = self.shared.outlook().turn;
            self.pass_over(turn, error);
        }
    }

    /// Until when to wait with another stream on a connection where one has failed.
    pub(super) fn pause_stream(&self, error: &Error) -> Instant {
        let until = self.shared.outlook().put_off(self.clock());
        let asked = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        until.max(self.clock().deadline(asked))
    }

    /// Waits, unless the endpoint ends.
    pub(super) async fn wait_until(&self, instant: Instant) -> Result<()> {
        let waited = async {
            self.clock().sleep_until(instant).await;
            Ok(())
        };
        self.until_closed(waited).await
    }

    /// Nobody has to wait for an endpoint that has ended.
    async fn until_closed<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        future::or(future, async { Err(self.shared.endpoint.ended().await) }).await
    }

    /// The peer has proved to be well.
    pub(super) fn encourage(&self) {
        let mut outlook = self.shared.outlook();
        outlook.failures.forget();
        outlook.not_before = None;
    }

    pub(super) fn clock(&self) -> &Clock {
        self.shared.endpoint.clock()
    }

    pub(super) fn heartbeat_interval(&self) -> Duration {
        self.shared.endpoint.limits().heartbeat_interval()
    }
}

/// The attempts at one call, within its time limit.
struct Attempts<'a> {
    client: &'a Client,
    deadline: Instant,
    /// Why the latest attempt failed.
    failure: Option<Error>,
}

impl<'a> Attempts<'a> {
    fn new(client: &'a Client) -> Self {
        Self { client, deadline: client.clock().deadline(client.shared.call_timeout), failure: None }
    }

    /// The connection for the next attempt, and how long that may take.
    async fn next(&mut self) -> Result<(Connection, Duration)> {
        let clock = self.client.clock();
        loop {
            match clock.timeout_at(Some(self.deadline), self.client.connection()).await {
                Ok(Ok(connection)) => {
                    return Ok((connection, self.deadline.saturating_duration_since(clock.now())));
                }
                Ok(Err(error)) if error.is_terminal() || *error.kind() == ErrorKind::Closed => {
                    return Err(error);
                }
                Ok(Err(error)) => self.failure = Some(error),
                Err(Elapsed) if clock.is_runtime_dropped() => return Err(runtime_is_gone()),
                Err(Elapsed) => {
                    let failure = self.failure.take();
                    return Err(failure.unwrap_or_else(|| Error::new(ErrorKind::DeadlineExceeded)));
                }
            }
        }
    }

    /// What the caller gets, or `None` where another attempt is due.
    fn conclude<T>(&mut self, connection: &Connection, outcome: Result<T>) -> Option<Result<T>> {
        match outcome {
            Ok(value) => {
                self.client.encourage();
                Some(Ok(value))
            }
            Err(error) if error.may_have_run() || error.is_terminal() => Some(Err(error)),
            // The node turns work away, and the connection will not get better.
            Err(error) if *error.kind() == ErrorKind::Remote(WireError::Unavailable) => {
                self.client.retire(connection, &error);
                self.failure = Some(error);
                None
            }
            // What the peer answered is for the caller to decide about.
            Err(error) if matches!(error.kind(), ErrorKind::Remote(_)) => Some(Err(error)),
            Err(error) if connection.close_reason().is_some() => {
                self.failure = Some(error);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl Shared {
    fn outlook(&self) -> MutexGuard<'_, Outlook> {
        lock(&self.outlook)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { endpoint, addresses, security: _, call_timeout, current: _, outlook: _ } = &*self.shared;
        f.debug_struct("Client")
            .field("endpoint", endpoint)
            .field("addresses", addresses)
            .field("call_timeout", call_timeout)
            .finish_non_exhaustive()
    }
}

/// Collects what a [`Client`] is to be; see [`Client::builder`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    endpoint: Endpoint,
    addresses: Vec<SocketAddr>,
    tls: Option<ClientTls>,
    backoff: Backoff,
    call_timeout: Duration,
}

impl ClientBuilder {
    /// Adds an address of the peer. They are tried in turn, beginning with the first. Addresses of a family
    /// that the socket of the endpoint cannot send to are passed over, if there is another; so the
    /// addresses of a host can all be given.
    #[must_use]
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Dials with this. Default: the endpoint's own client TLS.
    #[must_use]
    pub fn tls(self, tls: ClientTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The pauses between attempts. Default: those of [`Backoff::new`].
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// How long a call may take, dialling and repeating included. Default: 30 s.
    #[must_use]
    pub fn call_timeout(self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self }
    }

    /// Makes the client, which dials when it is first needed.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) without an address, with one that [no
    /// socket](Endpoint::connect) can reach, with none that this endpoint's socket can, with a time limit
    /// of zero, or with TLS that cannot work, by the size of its certificate chain for instance.
    pub fn build(self) -> Result<Client> {
        let Self { endpoint, addresses, tls, backoff, call_timeout } = self;
        if addresses.is_empty() {
            return Err(Error::invalid_config("a client needs an address"));
        }
        if call_timeout.is_zero() {
            return Err(Error::invalid_config("call_timeout is zero"));
        }
        let addresses = endpoint.reach().destinations(&addresses)?;
        let security = match tls {
            Some(tls) => endpoint.security().beside(&tls)?,
            None => Arc::clone(endpoint.security()),
        };
        let failures = Failures::new(backoff, endpoint.fork_rng());
        let asked_until = vec![None; addresses.len()];
        let outlook = Outlook { failures, not_before: None, turn: 0, asked_until, retired: None };
        let outlook = Mutex::new(outlook);
        let current = async_lock::Mutex::default();
        Ok(Client {
            shared: Arc::new(Shared { endpoint, addresses, security, call_timeout, current, outlook }),
        })
    }
}
