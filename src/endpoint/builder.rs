//! What an endpoint is to be, and how it begins.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, Weak},
};

use fastrand::Rng;
use quinn::{AsyncUdpSocket, EndpointConfig, Runtime, ServerConfig};
use rustls::KeyLog;

use super::{Endpoint, Inner, dialled::DialledConnections, extract_trace::ExtractTrace, resolve::Resolver};
use crate::{
    address::{Families, SocketReach},
    call_hooks::CallHooks,
    close_state::{Cause, OpenEndpoint},
    error::{Error, Result},
    limits::{PeerStreams, TransportLimits},
    qlog::Recorder,
    router::Router,
    runtime::{Clock, default_runtime, runtime_is_gone},
    server::{Node, accept_connections},
    socket::{EndpointSocket, SocketHealth, enlarge_receive_buffer},
    tls::{
        ClientTls, HandshakeReport, KeyLogger, RestartKey, Security, ServerTls, TlsConfigs, TlsContext,
        WallClock,
    },
};

/// QUIC version 1 ([RFC 9000, section 15](https://www.rfc-editor.org/rfc/rfc9000#section-15)), and no draft.
const QUIC_V1: u32 = 1;

/// What only the system's socket tells, before the runtime wraps it.
struct SocketTraits {
    families: Families,
    receive_buffer_bytes: u64,
}

impl SocketTraits {
    const ABSTRACT: Self = Self { families: Families::Both, receive_buffer_bytes: 0 };
}

impl Endpoint {
    /// Begins a builder, which says what the endpoint is to be.
    #[must_use]
    pub fn builder() -> EndpointBuilder {
        EndpointBuilder::default()
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
    pub(super) call_hooks: CallHooks,
    pub(super) extract_trace: ExtractTrace,
}

impl EndpointBuilder {
    /// What runs the endpoint: an [`AsyncIoRuntime`](crate::AsyncIoRuntime), or any other of quinn's
    /// runtimes. Default: smol's global executor with feature `smol`; required without.
    ///
    /// ```
    /// # #[cfg(feature = "smol")]
    /// # fn main() -> palyra_quic::Result<()> {
    /// use palyra_quic::{AsyncIoRuntime, Endpoint};
    ///
    /// let runtime = AsyncIoRuntime::global().without_gro();
    /// let endpoint = Endpoint::builder().runtime(runtime).bind(([127, 0, 0, 1], 0).into())?;
    /// # drop(endpoint);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "smol"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn runtime(self, runtime: impl Runtime) -> Self {
        self.shared_runtime(Arc::new(runtime))
    }

    /// What runs the endpoint, as [`runtime`](Self::runtime), for one that has other owners too: several
    /// endpoints on it, or a `PollRuntime` by its `handle`.
    #[must_use]
    pub fn shared_runtime(self, runtime: Arc<dyn Runtime>) -> Self {
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
    /// errors, and for nothing else. Default: nobody is told, and no environment variable changes that;
    /// [`rustls::KeyLogFile`] is one that asks for `SSLKEYLOGFILE`.
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
    /// to a device, or one whose receive buffer a privileged process has made larger than
    /// `net.core.rmem_max` (`SO_RCVBUFFORCE`).
    ///
    /// The socket becomes non-blocking, and gets the options that quinn-udp needs, and a receive buffer of
    /// [`socket_receive_buffer_bytes`](TransportLimits::socket_receive_buffer_bytes) if its own is smaller;
    /// others stay. A buffer that is smaller than that, and yet larger than the system allows, would shrink
    /// to what is allowed; 0 leaves it alone. Datagrams that have arrived already are received, and errors
    /// that are queued on it are passed over.
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
        self.start(runtime, socket, SocketTraits::ABSTRACT, None)
    }

    /// The same, with what quinn leaves to chance following from `seed`.
    #[cfg(feature = "sim")]
    pub(crate) fn bind_seeded(mut self, socket: Arc<dyn AsyncUdpSocket>, seed: [u8; 32]) -> Result<Endpoint> {
        let runtime = self.take_runtime()?;
        self.start(runtime, socket, SocketTraits::ABSTRACT, Some(seed))
    }

    fn start_on(self, runtime: Arc<dyn Runtime>, socket: UdpSocket) -> Result<Endpoint> {
        let traits = SocketTraits {
            families: Families::of(&socket),
            receive_buffer_bytes: enlarge_receive_buffer(&socket, self.limits.socket_receive_buffer_bytes()),
        };
        let socket = runtime.wrap_udp_socket(socket)?;
        self.start(runtime, socket, traits, None)
    }

    fn take_runtime(&mut self) -> Result<Arc<dyn Runtime>> {
        let runtime = self.runtime.take().or_else(default_runtime);
        runtime.ok_or_else(|| Error::invalid_config("no runtime was given"))
    }

    fn start(
        self,
        runtime: Arc<dyn Runtime>,
        socket: Arc<dyn AsyncUdpSocket>,
        traits: SocketTraits,
        seed: Option<[u8; 32]>,
    ) -> Result<Endpoint> {
        let (call_hooks, extract) = (self.call_hooks, self.extract_trace);
        let Self { limits, server, client, wall_clock, restart_key, key_log, router, recorder, .. } = self;
        let dialled_peer_streams =
            if router.is_some() { PeerStreams::Accepted } else { PeerStreams::Refused };
        let router = extract.apply(router.unwrap_or_default()).assembled(limits.max_frame_len())?;
        let address = socket.local_addr()?;
        let limits = Arc::new(limits.fitted_to(address));
        let reach = SocketReach::of(address, traits.families);
        let size = limits.datagram_size();
        let mut config = endpoint_config(server.as_ref(), restart_key, address, seed);
        config
            .max_udp_payload_size(size.max_received())
            .map_err(|_| Error::invalid_config("max_datagram_bytes"))?;
        let socket = Arc::new(EndpointSocket::new(socket, Arc::clone(&runtime), size)?);
        let health = Arc::clone(socket.health());
        let context = TlsContext { wall_clock, chain_limit: limits.chain_limit(), key_log };
        let security = Security::new(TlsConfigs { server, client }, context)?;
        security.warn_about_own_certificates();
        let accepts = security.present().server.is_some();
        let server = accepts.then(|| server_config(&security, &limits)).transpose()?;
        let quinn =
            quinn::Endpoint::new_with_abstract_socket(config, server.clone(), socket, Arc::clone(&runtime))?;
        let clock = Clock::new(Arc::clone(&runtime));
        let watch = clock.watch_runtime();
        if clock.is_runtime_dropped() {
            return Err(runtime_is_gone());
        }
        let node = Node::new(router, Arc::clone(&limits), clock.clone(), Arc::clone(&security));
        let node = Arc::new(node.with_call_hooks(call_hooks));
        if let Some(server) = server {
            let recorder = recorder.clone();
            let (node_of_task, socket) = (Arc::clone(&node), Arc::clone(&health));
            node.spawn(accept_connections(node_of_task, quinn.clone(), server, recorder, socket));
        }
        let open = Arc::new(OpenEndpoint::new(quinn, Arc::clone(node.close_state()), watch));
        end_when_socket_fails(&health, &open, runtime);
        let inner = Arc::new(Inner {
            open,
            clock,
            limits,
            security,
            node,
            socket: health,
            receive_buffer_bytes: traits.receive_buffer_bytes,
            dialled_peer_streams,
            recorder,
            rng: Mutex::new(rng(seed)),
            reach,
            resolver: Resolver::of_system(),
            dialled: DialledConnections::default(),
        });
        Ok(Endpoint { inner })
    }
}

fn endpoint_config(
    server: Option<&ServerTls>,
    restart_key: Option<RestartKey>,
    address: SocketAddr,
    seed: Option<[u8; 32]>,
) -> EndpointConfig {
    let by_identity = || server?.endpoint_config(address);
    let by_key = |key: RestartKey| key.endpoint_config(address);
    let mut config = restart_key.map_or_else(by_identity, by_key).unwrap_or_default();
    config.rng_seed(seed).supported_versions(vec![QUIC_V1]);
    config
}

fn rng(seed: Option<[u8; 32]>) -> Rng {
    seed.map_or_else(Rng::new, |[a, b, c, d, e, f, g, h, ..]| {
        Rng::with_seed(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    })
}

fn end_when_socket_fails(socket: &SocketHealth, open: &Arc<OpenEndpoint>, runtime: Arc<dyn Runtime>) {
    let open = Arc::downgrade(open);
    socket.on_failure(move |error| {
        let open = Weak::clone(&open);
        // In a task, because quinn holds its endpoint while it asks the socket.
        runtime.spawn(Box::pin(async move {
            if let Some(open) = open.upgrade() {
                open.fail(Cause::Socket(error));
            }
        }));
    });
}

/// What quinn takes connections by, with its own key for Retry tokens, which no rotation replaces.
fn server_config(security: &Security, limits: &TransportLimits) -> Result<ServerConfig> {
    let mut config = ServerConfig::with_crypto(security.server_config(&HandshakeReport::default())?);
    config.transport_config(limits.transport_config(PeerStreams::Accepted));
    limits.bound_incoming(&mut config);
    Ok(config)
}
