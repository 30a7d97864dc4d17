//! A client that dials when it is needed, and again when the connection is lost.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_lite::future;

use super::connector::Connector;
#[cfg(all(feature = "durable", unix))]
use super::{
    backoff::{Backoff, Failures},
    policy::ConnectPolicy,
};
#[cfg(all(feature = "durable", unix))]
use crate::endpoint::ServerAddress;
use crate::{
    connection::Connection,
    endpoint::Endpoint,
    error::{Error, Result},
    runtime::Clock,
    tls::{ClientTls, Rotation},
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

/// What the handles of a client share, and no task of it: the last handle drops it.
pub(super) struct Shared {
    pub(super) connector: Arc<Connector>,
    pub(super) call_timeout: Duration,
}

impl Client {
    /// Replaces the TLS that this client has of its own, as [`Endpoint::rotate`] does with that of an
    /// endpoint: it counts for the next connection, the present one is held against its revocation list,
    /// and calls that are running go on.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) as for [`Endpoint::rotate`], and for a client
    /// that was built without TLS of its own: it follows its endpoint.
    pub fn rotate(&self, tls: ClientTls) -> Result<()> {
        let Connector { endpoint, security, .. } = &*self.shared.connector;
        if Arc::ptr_eq(security, endpoint.security()) {
            return Err(Error::invalid_config(
                "the client has no TLS of its own: rotate that of its endpoint",
            ));
        }
        security.rotate(Rotation::new().client(tls))
    }

    /// The connection, dialled if there is none: one attempt at each address, after the pause that is due.
    /// A connection that was closed is a failure like any other, whichever side closed it: pauses grow
    /// until the peer answers a call, a streaming method or [`Notifier::finish`](crate::Notifier::finish),
    /// a subscription holds, or a connection lasts as long as [`Backoff::cap`](super::Backoff::cap).
    ///
    /// Without a time limit of its own: the pause may be as long as [`Backoff::cap`](super::Backoff::cap)
    /// or, where every address asks for patience, an hour; and each attempt takes up to
    /// `handshake_timeout`, one at a host with several addresses up to 1.75 s more.
    ///
    /// A task of the endpoint dials, and everything that waits for the connection of this client waits for
    /// the same attempts, and gets the same error.
    ///
    /// # Errors
    ///
    /// As for [`Endpoint::connect`]: that of an address where trying again may help, if there is one.
    /// [`Closed`](crate::ErrorKind::Closed) where the endpoint has ended.
    ///
    /// # Cancellation
    ///
    /// Safe. When nobody waits for the connection any more, the attempt in progress goes on for at most
    /// `handshake_timeout`, so that callers with little time find its connection later, and nothing follows
    /// it. The next caller has the next address dialled instead, if the client has one that was not tried.
    /// When the last handle of the client is dropped, the attempt is given up.
    pub async fn connection(&self) -> Result<Connection> {
        self.until_closed(self.shared.connector.connection()).await
    }

    /// Hands out this connection no longer: see [`Connector::discard`].
    pub(super) fn retire(&self, connection: &Connection, error: &Error) {
        self.shared.connector.discard(connection, error);
    }

    /// Until when to wait with another stream on a connection where one has failed.
    pub(super) fn pause_stream(&self, error: &Error) -> Instant {
        self.shared.connector.pause_stream(error)
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
        future::or(future, async { Err(self.endpoint().ended().await) }).await
    }

    /// The peer has answered.
    pub(super) fn succeeded(&self) {
        self.shared.connector.succeeded();
    }

    /// A client for each address of this one, to ask each of them. One with a single address keeps its
    /// connection.
    #[cfg(all(feature = "durable", unix))]
    pub(crate) fn at_each_address(&self) -> Vec<Self> {
        let Connector { endpoint, addresses, security, .. } = &*self.shared.connector;
        if addresses.len() == 1 {
            return vec![self.clone()];
        }
        let at = |address: &ServerAddress| {
            let policy = ConnectPolicy::new(Failures::new(Backoff::new(), endpoint.fork_rng()), 1);
            let connector =
                Connector::new(endpoint.clone(), vec![address.clone()], Arc::clone(security), policy);
            let call_timeout = self.shared.call_timeout;
            Self { shared: Arc::new(Shared { connector: Arc::new(connector), call_timeout }) }
        };
        addresses.iter().map(at).collect()
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.shared.connector.endpoint
    }

    pub(crate) fn clock(&self) -> &Clock {
        self.endpoint().clock()
    }

    pub(super) fn heartbeat_interval(&self) -> Duration {
        self.endpoint().limits().heartbeat_interval()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.connector.orphan();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { connector, call_timeout } = &*self.shared;
        let Connector { endpoint, addresses, .. } = &**connector;
        f.debug_struct("Client")
            .field("endpoint", endpoint)
            .field("addresses", addresses)
            .field("call_timeout", call_timeout)
            .finish_non_exhaustive()
    }
}
