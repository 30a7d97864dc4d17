//! One UDP socket that dials, accepts, or both.

use std::{
    fmt,
    net::{SocketAddr, UdpSocket},
    pin::pin,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures_lite::future;
use quinn::{AsyncUdpSocket, Runtime, ServerConfig};
use rustls::KeyLog;
use tracing::Instrument;

use crate::{
    address::{Families, Reach},
    client::{Dialler, Handshake, dial},
    closure::{Cause, OpenEndpoint},
    code::Code,
    connection::Connection,
    drain::{Phase, WorkGuard},
    error::{Error, ErrorKind, Result},
    limits::{Serves, TransportLimits},
    link::Driven,
    qlog::Recorder,
    router::Router,
    runtime::{Clock, default_runtime, runtime_is_gone},
    server::{Node, accept_connections, attend, serve_connection},
    socket::{EndpointSocket, SocketHealth},
    stats::EndpointStats,
    sync::lock,
    tls::{
        ClientTls, Halves, HandshakeReport, KeyLogger, RestartKey, Rotation, Security, ServerTls, Side,
        Surroundings, WallClock,
    },
};

/// QUIC version 1 ([RFC 9000, section 15](https://www.rfc-editor.org/rfc/rfc9000#section-15)), and no draft.
const QUIC_V1: u32 = 1;
/// No UDP datagram is larger, and quinn's buffers are not either.
const MAX_UDP_PAYLOAD: u64 = 64 * 1024;
/// What is left to say after everything was closed is said within a few round trips, or not heard at all.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A node's place on the network: one UDP socket that dials peers, accepts them, or both.
///
/// Cloning gives another handle. When the last handle is dropped, and with it the last handle of each dialled
/// [`Connection`], everything is closed immediately; [`shutdown`](Self::shutdown) is the orderly way.
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
    serves_dialled: Serves,
    recorder: Recorder,
    rng: Mutex<Rng>,
    reach: Reach,
}

impl Endpoint {
    /// Chooses what the endpoint is to be.
    #[must_use]
    pub fn builder() -> EndpointBuilder {
        EndpointBuilder::default()
    }

    /// The address of the socket, with the port that the system chose where 0 was asked for.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) where the system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.inner.open.quinn().local_addr()?)
    }

    /// Connects to a peer with the endpoint's own [`ClientTls`].
    ///
    /// Resolves when the peer has confirmed the handshake, and so has accepted this side's certificate.
    ///
    /// A flow label is ignored, and so is the scope of an address that is not link-local. An IPv4 address may
    /// come in its IPv6 form (`::ffff:192.0.2.1`), whatever the family of this endpoint's socket.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where the endpoint has no client TLS, and, before
    /// anything is sent, for an address from which no answer can come: port 0, an unspecified, multicast
    /// or broadcast address, a link-local IPv6 address without its interface (scope), unless the socket
    /// is bound to one, and an address of a family that the socket cannot send to;
    /// [`Closed`](crate::ErrorKind::Closed) where the endpoint is closed, or its runtime was dropped;
    /// [`HandshakeTimeout`](crate::ErrorKind::HandshakeTimeout); [`Refused`](crate::ErrorKind::Refused) by a
    /// peer that is full; [`PinMismatch`](crate::ErrorKind::PinMismatch),
    /// [`PeerCertificate`](crate::ErrorKind::PeerCertificate),
    /// [`CertificateRefused`](crate::ErrorKind::CertificateRefused),
    /// [`AlpnMismatch`](crate::ErrorKind::AlpnMismatch) and
    /// [`VersionMismatch`](crate::ErrorKind::VersionMismatch) where the two do not belong together.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives up the attempt.
    pub async fn connect(&self, address: SocketAddr) -> Result<Connection> {
        self.connect_by(&self.inner.security, address, Handshake::Confirmed).await
    }

    /// Connects as [`connect`](Self::connect) does, and resolves a round trip sooner: the first call travels
    /// with the end of the handshake.
    ///
    /// The peer is verified by then. Whether it accepts this side's certificate comes out later: where it
    /// does not, calls fail with [`CertificateRefused`](crate::ErrorKind::CertificateRefused), and have
    /// not [run](crate::Error::may_have_run).
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives up the attempt.
    pub async fn connect_unconfirmed(&self, address: SocketAddr) -> Result<Connection> {
        self.connect_by(&self.inner.security, address, Handshake::Complete).await
    }

    /// Connects to a peer with other client TLS than the endpoint's own: another name, identity or pin.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect), and [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for an
    /// identity whose chain is larger than `max_certificate_chain_bytes`.
    pub async fn connect_with(&self, tls: &ClientTls, address: SocketAddr) -> Result<Connection> {
        self.connect_by(&self.inner.security.beside(tls)?, address, Handshake::Confirmed).await
    }

    /// Connects with the client TLS that this is at the moment, and by whose terms the connection stays open.
    pub(crate) async fn connect_by(
        &self,
        security: &Arc<Security>,
        address: SocketAddr,
        until: Handshake,
    ) -> Result<Connection> {
        let Inner { open, clock, limits, node, socket, serves_dialled, recorder, reach, .. } = &*self.inner;
        if let Some(ended) = node.closure().error() {
            return Err(ended);
        }
        let address = reach.destination(address)?;
        let closure = node.closure();
        let transport = || limits.transport_config(*serves_dialled);
        let recorded = recorder.attach(transport, address, quinn::Side::Client, clock.now());
        let transport = recorded.unwrap_or_else(transport);
        let dialler = Dialler {
            endpoint: open.quinn(),
            clock,
            limits,
            transport,
            admission: node.admission(),
            drain: node.drain(),
            socket,
            closure,
            until,
        };
        let dialled = dial(dialler, security, address).await.map_err(|error| error.at(address));
        let link = Arc::new(dialled.inspect_err(|error| node.counters().dials_failed.count(error))?);
        // Counted before the look, so that a shutdown which is not seen here waits for the task.
        let task = node.drain().task();
        if node.drain().has_reached(Phase::Closing) {
            link.close(Code::SHUTTING_DOWN, "");
            return Err(Error::new(ErrorKind::Closed).detail("the endpoint is closed"));
        }
        node.counters().dialled.add();
        let (node, security, driven) = (Arc::clone(node), Arc::clone(security), Driven::new(&link));
        let serves = *serves_dialled == Serves::Requests;
        let span = link.span().clone();
        let attending = async move {
            let link = driven.link();
            let served = async {
                if serves {
                    serve_connection(&node, link, None).await;
                } else {
                    link.quinn().closed().await;
                }
            };
            attend(&node, link, &security, Side::Dialled, pin!(served)).await;
            drop((node, security, driven, task));
        };
        clock.spawn(attending.instrument(span));
        Ok(Connection::owned(link, Arc::clone(open)))
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
        let Inner { node, socket, .. } = &*self.inner;
        EndpointStats {
            datagrams_not_sent: socket.datagrams_not_sent(),
            receive_errors: socket.receive_errors(),
            ..node.counters().read()
        }
    }

    /// Resolves when the endpoint has ended, with the reason: [`Closed`](crate::ErrorKind::Closed), when a
    /// [`shutdown`](Self::shutdown) has finished, because the runtime was dropped, or because the socket
    /// failed. Of the latter, [`source`](std::error::Error::source) is the [`io::Error`](std::io::Error).
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
        self.unless_runtime_dropped(self.inner.node.closure().completed()).await
    }

    /// Resolves when nothing can be begun any more, with the reason, though a shutdown may not have finished.
    pub(crate) async fn ended(&self) -> Error {
        self.unless_runtime_dropped(self.inner.node.closure().ended()).await
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
        self.inner.node.closure().is_complete() || self.inner.clock.is_runtime_dropped()
    }

    /// Keeps a shutdown waiting, within its grace.
    pub(crate) fn accept_work(&self) -> WorkGuard {
        self.inner.node.drain().accept()
    }

    /// Where the socket can send to.
    pub(crate) fn reach(&self) -> Reach {
        self.inner.reach
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

    /// Ends everything in order. What the node has accepted it finishes, for at most `grace`:
    ///
    /// - exchanges that it serves, until their answers are acknowledged;
    /// - notifications that it has received, whether or not their senders are still there;
    /// - its own calls, and answers of streaming methods that have not ended;
    /// - its own notifications, until they are acknowledged;
    /// - what the router's event log has not written yet.
    ///
    /// Meanwhile new connections are refused, new requests are `unavailable`, and followed event streams end
    /// with SHUTTING_DOWN. Handlers may still make calls. This side's own subscriptions do not count.
    /// Then all connections are closed with SHUTTING_DOWN. Handlers that are still running at the end of
    /// the grace are dropped, in the middle of what they await; one that blocks its thread cannot be
    /// stopped, and is not waited for.
    ///
    /// Takes up to `grace` and a second, and returns sooner when there is nothing left to do; afterwards no
    /// handler and no task of the endpoint is running. It affects every handle. Of several shutdowns, the
    /// one whose grace ends first decides. Where the runtime was dropped, it returns immediately, since
    /// nothing is left to wait for.
    ///
    /// # In a handler
    ///
    /// A handler of this endpoint may await this. It returns when everything but the exchange of that handler
    /// is finished, or when the grace is over; the connections close when the answer of the handler has
    /// been delivered. A task of the endpoint sees to that, so that it also happens if the caller leaves
    /// and the handler is dropped. Handlers are known by the thread that polls them: a handler that
    /// awaits a task of its own making, in which this is awaited, waits until the grace is over, since
    /// the two wait for each other. Let such a task finish the shutdown by itself instead.
    ///
    /// # Cancellation
    ///
    /// If this is dropped, new work is turned away all the same, and the connections stay open until the
    /// endpoint is dropped, or until it is shut down again.
    pub async fn shutdown(&self, grace: Duration) {
        let Inner { clock, node, .. } = &*self.inner;
        let deadline = clock.deadline(grace);
        let drain = node.drain();
        drain.advance(Phase::Draining);
        let Some(own) = drain.handling() else { return self.finish(deadline).await };
        let endpoint = self.clone();
        clock.spawn(async move { endpoint.finish(deadline).await });
        let _ = clock.timeout_at(Some(deadline), drain.idle_beside(own)).await;
    }

    /// Closes all connections when no work is left, and waits for the rest.
    async fn finish(&self, deadline: Instant) {
        let Inner { open, clock, node, .. } = &*self.inner;
        let quinn = open.quinn();
        let drain = node.drain();
        let _unfinished = node.closure().shutdown();
        // Another shutdown may have less time.
        let drained = future::or(drain.idle(), drain.reached(Phase::Closing));
        let drained = clock.timeout_at(Some(deadline), drained).await.is_ok();
        tracing::debug!(drained, "closing all connections");
        drain.advance(Phase::Closing);
        node.closure().end(Cause::Shutdown);
        quinn.close(Code::SHUTTING_DOWN.to_varint(), b"");
        // Until this moment, quinn has acknowledged what came. Once it is all handled, nothing more is
        // published.
        let handled = async {
            drain.tasks_ended().await;
            flush(node).await;
            true
        };
        let aborted = async {
            drain.reached(Phase::Aborting).await;
            false
        };
        let handled = clock.timeout_at(Some(deadline), future::or(handled, aborted)).await.unwrap_or(false);
        if !handled {
            tracing::debug!("dropping the handlers that are still running");
        }
        drain.advance(Phase::Aborting);
        let last_words = clock.deadline(LAST_WORDS);
        let ended = async {
            // A peer that has not heard by then finds out by its idle timeout.
            quinn.wait_idle().await;
            drain.tasks_ended().await;
        };
        let flushed = async {
            if !handled {
                flush(node).await;
            }
        };
        let _ = clock.timeout_at(Some(last_words), future::zip(ended, flushed)).await;
    }
}

/// Writes what was published. An error is the log's to report.
async fn flush(node: &Node) {
    if let Some(log) = node.event_log() {
        let _ = log.flush().await;
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
            serves_dialled: _,
            recorder: _,
            rng: _,
            reach: _,
        } = &*self.inner;
        f.debug_struct("Endpoint")
            .field("local_addr", &open.quinn().local_addr().ok())
            .field("limits", limits)
            .field("client", &security.present().client)
            .finish_non_exhaustive()
    }
}

/// Collects what an [`Endpoint`] is to be; see [`Endpoint::builder`].
#[derive(Debug, Default)]
pub struct EndpointBuilder {
    runtime: Option<Arc<dyn Runtime>>,
    limits: TransportLimits,
    server: Option<ServerTls>,
    client: Option<ClientTls>,
    wall_clock: WallClock,
    restart_key: Option<RestartKey>,
    key_log: Option<KeyLogger>,
    router: Option<Router>,
    recorder: Recorder,
}

impl EndpointBuilder {
    /// What runs the endpoint: an [`AsyncIoRuntime`](crate::AsyncIoRuntime), or any other of quinn's
    /// runtimes. Default: smol's global executor with feature `smol`; required without.
    #[must_use]
    pub fn runtime(self, runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime: Some(runtime), ..self }
    }

    /// Deadlines and bounds. Default: those of the protocol.
    #[must_use]
    pub fn limits(self, limits: TransportLimits) -> Self {
        Self { limits, ..self }
    }

    /// Accepts connections. Default: accepts none.
    #[must_use]
    pub fn server(self, tls: ServerTls) -> Self {
        Self { server: Some(tls), ..self }
    }

    /// Dials with this by [`connect`](Endpoint::connect). Default: only
    /// [`connect_with`](Endpoint::connect_with) can dial.
    #[must_use]
    pub fn client(self, tls: ClientTls) -> Self {
        Self { client: Some(tls), ..self }
    }

    /// The time by which the certificates of peers are judged, whichever side dialled. Default:
    /// [`WallClock::system`].
    #[must_use]
    pub fn wall_clock(self, wall_clock: WallClock) -> Self {
        Self { wall_clock, ..self }
    }

    /// What tells the peers of a node that was killed that its successor does not know them. Default: it
    /// follows from the private key of the server's identity, which does for as long as that stays the
    /// same.
    ///
    /// With one that is stored and given back at the next start, it works across a change of identity, for
    /// instance by [`Endpoint::rotate`], and for nodes that only dial. The address must be the same.
    #[must_use]
    pub fn restart_key(self, restart_key: RestartKey) -> Self {
        Self { restart_key: Some(restart_key), ..self }
    }

    /// Tells this the secrets of every connection, whichever side dialled, so that captured packets can be
    /// read, for instance by Wireshark. With them, anyone can read and forge everything: use this to find
    /// errors, and for nothing else. Default: nobody is told, and no environment variable changes that; [`rustls::KeyLogFile`] is
    /// one that asks for `SSLKEYLOGFILE`.
    #[must_use]
    pub fn key_log(self, key_log: Arc<dyn KeyLog>) -> Self {
        Self { key_log: Some(KeyLogger(key_log)), ..self }
    }

    /// Serves these methods, to peers that dial this node and to peers that it dials. Default: accepted peers
    /// can ask for `node.health`, and dialled ones for nothing.
    #[must_use]
    pub fn router(self, router: Router) -> Self {
        Self { router: Some(router), ..self }
    }

    /// Records connections in [qlog](https://datatracker.ietf.org/doc/draft-ietf-quic-qlog-main-schema/):
    /// packets sent, received and lost, and the state of congestion control. `open` is asked about each
    /// connection, dialled or accepted, with the peer's address, and says where its record goes, in JSON
    /// text sequences; `None` for nowhere. Default: nowhere.
    ///
    /// A peer that is not known yet can so make this node open a file, and each packet makes it write: this
    /// is for finding faults, not for every day. quinn writes while it holds the connection, so the
    /// writer should buffer; it is dropped with the connection. One that fails or panics ends the record,
    /// which is logged once, and not the connection.
    ///
    /// ```no_run
    /// use std::{fs::File, io::BufWriter};
    /// use palyra_quic::{Endpoint, quinn::Side};
    ///
    /// let builder = Endpoint::builder().qlog(|remote, side| {
    ///     let side = if side == Side::Client { "dialled" } else { "accepted" };
    ///     let file = File::create(format!("{side}-{}.sqlog", remote.port())).ok()?;
    ///     Some(Box::new(BufWriter::new(file)))
    /// });
    /// # drop(builder);
    /// ```
    #[cfg(feature = "qlog")]
    #[must_use]
    pub fn qlog<F>(self, open: F) -> Self
    where
        F: Fn(SocketAddr, quinn::Side) -> Option<Box<dyn std::io::Write + Send + Sync>>
            + Send
            + Sync
            + 'static,
    {
        Self { recorder: Recorder { open: Some(Arc::new(open)) }, ..self }
    }

    /// Binds the socket and starts to serve on the runtime. Port 0 lets the system choose; `[::]` takes IPv4
    /// too where the system is set so.
    ///
    /// Tries to receive, so that a process which may not is told here. What happens to the socket later is
    /// [`Endpoint::closed`]'s to tell.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) where the address is in use or not this host's, where the system lets
    /// nothing be received, for instance since `recvmmsg` is forbidden or missing, and where the process
    /// has no file descriptor or thread left for what the runtime needs: later, it may work;
    /// [`Closed`](crate::ErrorKind::Closed) for a runtime that has been dropped;
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for TLS that cannot work, a certificate chain of
    /// this node's own above `max_certificate_chain_bytes`, reserved method names,
    /// rules for methods that are not served, events that do not fit a frame, or a missing runtime.
    pub fn bind(mut self, address: SocketAddr) -> Result<Endpoint> {
        let runtime = self.take_runtime()?;
        self.start_on(runtime, UdpSocket::bind(address)?)
    }

    /// Starts to serve on a socket that is bound already: one that systemd passes on, say, one that is bound
    /// to a device, or one with a larger receive buffer, for thousands of peers that may all send at
    /// once. What the buffer does not hold, 208 KiB by default on Linux, is lost, and sent again after a
    /// timeout. `set_recv_buffer_size` of the crate socket2 changes it, up to `net.core.rmem_max`.
    ///
    /// The socket becomes non-blocking, and gets the options that quinn-udp needs; others stay. Datagrams
    /// that have arrived already are received, and errors that are queued on it are passed over.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) for a socket that cannot be used so; for the rest as
    /// [`bind`](Self::bind).
    pub fn bind_socket(mut self, socket: UdpSocket) -> Result<Endpoint> {
        let runtime = self.take_runtime()?;
        self.start_on(runtime, socket)
    }

    /// Starts to serve on a socket that need not be the system's.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    pub fn bind_abstract_socket(mut self, socket: Arc<dyn AsyncUdpSocket>) -> Result<Endpoint> {
        let runtime = self.take_runtime()?;
        self.start(runtime, socket, Families::Both, None)
    }

    /// The same, with what quinn leaves to chance following from `seed`.
    #[cfg(feature = "sim")]
    pub(crate) fn bind_seeded(mut self, socket: Arc<dyn AsyncUdpSocket>, seed: [u8; 32]) -> Result<Endpoint> {
        let runtime = self.take_runtime()?;
        self.start(runtime, socket, Families::Both, Some(seed))
    }

    fn start_on(self, runtime: Arc<dyn Runtime>, socket: UdpSocket) -> Result<Endpoint> {
        let families = Families::of(&socket);
        let socket = runtime.wrap_udp_socket(socket)?;
        self.start(runtime, socket, families, None)
    }

    fn take_runtime(&mut self) -> Result<Arc<dyn Runtime>> {
        let runtime = self.runtime.take().or_else(default_runtime);
        runtime.ok_or_else(|| Error::invalid_config("no runtime was given"))
    }

    fn start(
        self,
        runtime: Arc<dyn Runtime>,
        socket: Arc<dyn AsyncUdpSocket>,
        families: Families,
        seed: Option<[u8; 32]>,
    ) -> Result<Endpoint> {
        let Self { runtime: _, limits, server, client, wall_clock, restart_key, key_log, router, recorder } =
            self;
        let serves_dialled = if router.is_some() { Serves::Requests } else { Serves::Nothing };
        let router = router.unwrap_or_default();
        router.check(limits.max_frame_len())?;
        let limits = Arc::new(limits);
        let address = socket.local_addr()?;
        let reach = Reach::of(address, families);
        let by_identity = || server.as_ref()?.endpoint_config(address);
        let by_key = |key: RestartKey| key.endpoint_config(address);
        let mut config = restart_key.map_or_else(by_identity, by_key).unwrap_or_default();
        config.rng_seed(seed).supported_versions(vec![QUIC_V1]);
        let max_datagram_len = config.get_max_udp_payload_size().min(MAX_UDP_PAYLOAD);
        let max_datagram_len = usize::try_from(max_datagram_len).unwrap_or(usize::MAX);
        let socket = Arc::new(EndpointSocket::new(socket, Arc::clone(&runtime), max_datagram_len)?);
        let health = Arc::clone(socket.health());
        let surroundings = Surroundings { wall_clock, chain_limit: limits.chain_limit(), key_log };
        let security = Security::new(Halves { server, client }, surroundings)?;
        security.warn_of_own();
        let accepts = security.present().server.is_some();
        let server = accepts.then(|| server_config(&security, &limits)).transpose()?;
        let quinn =
            quinn::Endpoint::new_with_abstract_socket(config, server.clone(), socket, Arc::clone(&runtime))?;
        let clock = Clock::new(Arc::clone(&runtime));
        let watch = clock.watch_runtime();
        if clock.is_runtime_dropped() {
            return Err(runtime_is_gone());
        }
        let node = Arc::new(Node::new(router, Arc::clone(&limits), clock.clone(), Arc::clone(&security)));
        if let Some(server) = server {
            let recorder = recorder.clone();
            let (node_of_task, socket) = (Arc::clone(&node), Arc::clone(&health));
            node.spawn(accept_connections(node_of_task, quinn.clone(), server, recorder, socket));
        }
        let rng = Mutex::new(seed.map_or_else(Rng::new, |[a, b, c, d, e, f, g, h, ..]| {
            Rng::with_seed(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
        }));
        let open = Arc::new(OpenEndpoint::new(quinn, Arc::clone(node.closure()), watch));
        let failing = Arc::downgrade(&open);
        let inner = Arc::new(Inner {
            open,
            clock,
            limits,
            security,
            node,
            socket: Arc::clone(&health),
            serves_dialled,
            recorder,
            rng,
            reach,
        });
        health.on_failure(move |error| {
            let failing = Weak::clone(&failing);
            // quinn holds its endpoint while it asks the socket.
            runtime.spawn(Box::pin(async move {
                if let Some(open) = failing.upgrade() {
                    open.fail(Cause::Socket(error));
                }
            }));
        });
        Ok(Endpoint { inner })
    }
}

/// What quinn takes connections by, with its own key for Retry tokens, which no rotation replaces.
fn server_config(security: &Security, limits: &TransportLimits) -> Result<ServerConfig> {
    let mut config = ServerConfig::with_crypto(security.accepting(&HandshakeReport::default())?);
    config.transport_config(limits.transport_config(Serves::Requests));
    limits.bound_incoming(&mut config);
    Ok(config)
}
