//! One UDP socket that dials, accepts, or both.

mod around_calls;
mod builder;
mod connect;
mod connections;
mod dial;
mod dialled;
mod extract_trace;
#[cfg(any(feature = "smol", feature = "durable"))]
mod look_ups;
mod race;
mod resolve;
mod server_address;
mod shutdown;
#[cfg(feature = "sim")]
mod simulated;
mod trace_hooks;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use fastrand::Rng;
use futures_lite::future;

pub(crate) use self::dial::HandshakeProgress;
pub use self::{builder::EndpointBuilder, server_address::ServerAddress};
use self::{dialled::DialledConnections, resolve::Resolver};
use crate::{
    address::SocketReach,
    close_state::OpenEndpoint,
    drain::WorkGuard,
    error::{Error, Result},
    limits::{PeerStreams, TransportLimits},
    qlog::Recorder,
    runtime::{Clock, runtime_is_gone},
    server::Node,
    socket::SocketHealth,
    stats::EndpointStats,
    sync::lock,
    tls::{Rotation, Security},
};

/// A node's place on the network: one UDP socket that dials peers, accepts them, or both.
///
/// Cloning gives another handle. When the last handle is dropped, and with it the last handle of each
/// dialled [`Connection`](crate::Connection), everything is closed immediately;
/// [`shutdown`](Self::shutdown) is the orderly way.
///
/// See the [crate's documentation](crate) for a running example.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    open: Arc<OpenEndpoint>,
    clock: Clock,
    limits: Arc<TransportLimits>,
    security: Arc<Security>,
    node: Arc<Node>,
    socket: Arc<SocketHealth>,
    receive_buffer_bytes: u64,
    dialled_peer_streams: PeerStreams,
    recorder: Recorder,
    rng: Mutex<Rng>,
    reach: SocketReach,
    resolver: Resolver,
    dialled: DialledConnections,
}

impl Endpoint {
    /// The address of the socket, with the port that the system chose where 0 was asked for.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) where the system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.inner.open.quinn().local_addr()?)
    }

    /// Replaces the TLS of the running endpoint in one step: identity, authorities, pins and revocation lists
    /// of the half that accepts, of the half that dials, or of both. What the rotation leaves out stays.
    ///
    /// Every handshake that begins afterwards goes by the new TLS. Exchanges that are running go on, and so
    /// do open connections; they are held against the new revocation lists immediately, and from then on.
    /// Connections by [`connect_with`](Self::connect_with), and of a [`Client`](crate::Client) with TLS
    /// of its own, have nothing to do with it.
    ///
    /// So that no handshake fails in between, let the new authorities, pins and identities overlap with the
    /// old: peers first trust both, then show the new, then trust the new alone.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), which says why, for TLS that cannot work, for an
    /// identity of this node that has expired or whose chain is larger than `max_certificate_chain_bytes`,
    /// and for a half that the endpoint was built without. Then nothing is changed, in either half.
    pub fn rotate(&self, rotation: Rotation) -> Result<()> {
        self.inner.security.rotate(rotation)
    }

    pub(crate) fn security(&self) -> &Arc<Security> {
        &self.inner.security
    }

    /// What the endpoint has seen since it was bound, in numbers. Cheap enough to be asked every second.
    #[must_use]
    pub fn stats(&self) -> EndpointStats {
        let Inner { node, socket, receive_buffer_bytes, .. } = &*self.inner;
        EndpointStats {
            datagrams_not_sent: socket.datagrams_not_sent(),
            receive_errors: socket.receive_errors(),
            receive_buffer_bytes: *receive_buffer_bytes,
            ..node.counters().read()
        }
    }

    /// Resolves when the endpoint has ended, with the reason: [`Closed`](crate::ErrorKind::Closed), when a
    /// [`shutdown`](Self::shutdown) has finished, because it was [closed](Self::close), because the runtime
    /// was dropped, or because the socket failed. Of the latter, [`source`](std::error::Error::source) is
    /// the [`io::Error`](std::io::Error).
    ///
    /// A socket fails when every attempt to receive does, for ten seconds; what it could not send is lost,
    /// and no more than that. Then all connections are closed, all calls end with the same cause, and
    /// only [`bind`](EndpointBuilder::bind) helps.
    ///
    /// ```
    /// use std::time::Duration;
    /// use futures_lite::future;
    /// use palyra_quic::{Endpoint, ErrorKind};
    ///
    /// # fn main() -> palyra_quic::Result<()> {
    /// let endpoint = Endpoint::builder().bind(([127, 0, 0, 1], 0).into())?;
    /// assert!(!endpoint.is_closed());
    /// let (reason, ()) = smol::block_on(future::zip(endpoint.closed(), endpoint.shutdown(Duration::ZERO)));
    /// assert_eq!(*reason.kind(), ErrorKind::Closed);
    /// assert!(endpoint.is_closed());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Not for handlers of this endpoint: a shutdown waits for them, and they would wait for it until its
    /// grace is over.
    ///
    /// # Cancellation
    ///
    /// Safe: it can be called again, and by any number of tasks.
    pub async fn closed(&self) -> Error {
        self.unless_runtime_dropped(self.inner.node.close_state().completed()).await
    }

    /// Resolves when nothing can be begun any more, with the reason, though a shutdown may not have finished.
    pub(crate) async fn ended(&self) -> Error {
        self.unless_runtime_dropped(self.inner.node.close_state().ended()).await
    }

    async fn unless_runtime_dropped(&self, ended: impl Future<Output = Error>) -> Error {
        let runtime_dropped = async {
            self.inner.clock.runtime_dropped().await;
            runtime_is_gone()
        };
        future::or(ended, runtime_dropped).await
    }

    /// Whether the endpoint has ended, so that [`closed`](Self::closed) is ready.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.node.close_state().is_complete() || self.inner.clock.is_runtime_dropped()
    }

    /// Keeps a shutdown waiting, within its grace.
    pub(crate) fn accept_work(&self) -> WorkGuard {
        self.inner.node.drain().accept()
    }

    /// Spawns a task, which a shutdown waits for.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.inner.node.spawn(future);
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    pub(crate) fn limits(&self) -> &TransportLimits {
        &self.inner.limits
    }

    /// For what may be left to chance.
    pub(crate) fn fork_rng(&self) -> Rng {
        lock(&self.inner.rng).fork()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            open,
            clock: _,
            limits,
            security,
            node: _,
            socket: _,
            receive_buffer_bytes: _,
            dialled_peer_streams: _,
            recorder: _,
            rng: _,
            reach: _,
            resolver: _,
            dialled: _,
        } = &*self.inner;
        f.debug_struct("Endpoint")
            .field("local_addr", &open.quinn().local_addr().ok())
            .field("limits", limits)
            .field("client", &security.present().client)
            .finish_non_exhaustive()
    }
}
