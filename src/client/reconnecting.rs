//! A client that dials when it is needed, and again when the connection is lost.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use futures_lite::future;

use super::policy::{Attempt, ConnectPolicy, Round};
use crate::{
    connection::Connection,
    endpoint::{Endpoint, Handshake, ServerAddress},
    error::{Error, ErrorKind, Result},
    runtime::Clock,
    sync::lock,
    tls::{ClientTls, Rotation, Security},
};

/// Keeps one connection to a peer: dials with the first call, and again, with growing pauses, when it was
/// lost.
///
/// A call is repeated by itself only where it was certainly not processed; where it may have been, the error
/// says so: [`Error::may_have_run`]. Cloning gives another handle to the same connection.
///
/// ```no_run
/// # async fn example(endpoint: palyra_quic::Endpoint) -> palyra_quic::Result<()> {
/// use std::time::Duration;
/// use palyra_quic::{Client, Method, NotificationMethod};
///
/// const ADD: Method<(u32, u32), u64> = Method::new("demo.add");
/// const LOG: NotificationMethod<str> = NotificationMethod::new("demo.log");
///
/// let client = Client::builder(endpoint)
///     .address(("gateway.example", 7443))
///     .address(("standby.example", 7443))
///     .call_timeout(Duration::from_secs(10))
///     .build()?;
/// let sum = client.call(ADD, &(40, 2)).await?;
/// // No attempt is made after these 2 s, in which the client may have to dial.
/// let same = client.request(ADD, &(40, 2))?.timeout(Duration::from_secs(2)).send().await?;
/// client.notify(LOG, "added twice").await?;
/// assert!(sum == same && client.health().await?.ok);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) endpoint: Endpoint,
    pub(super) addresses: Vec<ServerAddress>,
    /// The endpoint's, or the client's own.
    pub(super) security: Arc<Security>,
    pub(super) call_timeout: Duration,
    /// Locked while dialling, so that one caller dials and the others wait for it.
    pub(super) current: async_lock::Mutex<Option<Connection>>,
    pub(super) state: Mutex<State>,
}

/// What is decided while the connection may be in use.
pub(super) struct State {
    pub(super) policy: ConnectPolicy,
    /// The [stable id](Connection::stable_id) of a connection that is not to be used any more.
    pub(super) retired: Option<usize>,
}

impl Client {
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
    /// Without a time limit of its own: the pause may be as long as [`Backoff::cap`](super::Backoff::cap)
    /// or, where every address asks for patience, an hour; and each attempt takes up to
    /// `handshake_timeout`.
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
            shared.state().policy.lost(&reason, self.clock().now());
            if reason.is_terminal() {
                return Err(reason.at(address));
            }
        }
        let not_before = shared.state().policy.not_before();
        if let Some(not_before) = not_before {
            self.clock().sleep_until(not_before).await;
        }
        let connection = self.dial_each().await?;
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// Dials one address after another until one is connected.
    async fn dial_each(&self) -> Result<Connection> {
        let (shared, clock) = (&*self.shared, self.clock());
        let mut round = Round::default();
        loop {
            let attempt = shared.state().policy.next_attempt(&mut round, clock.now());
            let Some(Attempt { address, not_before }) = attempt else { break };
            if let Some(not_before) = not_before {
                clock.sleep_until(not_before).await;
            }
            match self.dial(address).await {
                Ok(connection) => {
                    let mut state = shared.state();
                    state.policy.connected(address);
                    state.retired = None;
                    return Ok(connection);
                }
                Err(error) if *error.kind() == ErrorKind::Closed => return Err(error),
                Err(error) => {
                    tracing::debug!(address = ?shared.addresses.get(address), %error, "not connected");
                    shared.state().policy.failed(&mut round, address, error, clock.now());
                }
            }
        }
        Err(shared.state().policy.round_failed(round, clock.now()))
    }

    async fn dial(&self, address: usize) -> Result<Connection> {
        let Shared { endpoint, addresses, security, .. } = &*self.shared;
        let Some(address) = addresses.get(address) else {
            return Err(Error::invalid_config("the client has no address"));
        };
        endpoint.connect_by(security, address, Handshake::Confirmed).await
    }

    fn is_retired(&self, connection: &Connection) -> bool {
        self.shared.state().retired == Some(connection.stable_id())
    }

    /// Hands out this connection no longer: the next caller dials, after the pause that `error` calls for.
    /// Callers that use it already may go on.
    pub(super) fn retire(&self, connection: &Connection, error: &Error) {
        let mut state = self.shared.state();
        state.retired = Some(connection.stable_id());
        state.policy.lost(error, self.clock().now());
    }

    /// Until when to wait with another stream on a connection where one has failed.
    pub(super) fn pause_stream(&self, error: &Error) -> Instant {
        self.shared.state().policy.stream_failed(error, self.clock().now())
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

    /// The peer works.
    pub(super) fn succeeded(&self) {
        self.shared.state().policy.succeeded();
    }

    pub(super) fn clock(&self) -> &Clock {
        self.shared.endpoint.clock()
    }

    pub(super) fn heartbeat_interval(&self) -> Duration {
        self.shared.endpoint.limits().heartbeat_interval()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { endpoint, addresses, security: _, call_timeout, current: _, state: _ } = &*self.shared;
        f.debug_struct("Client")
            .field("endpoint", endpoint)
            .field("addresses", addresses)
            .field("call_timeout", call_timeout)
            .finish_non_exhaustive()
    }
}
