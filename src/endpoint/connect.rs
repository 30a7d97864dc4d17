//! Connecting to a server: by its address, or by each of the addresses that its host has.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use futures_lite::future;
use rustls::pki_types::ServerName;
use tracing::Instrument;

use super::{
    Endpoint, Inner, ServerAddress,
    dial::{Dialler, HandshakeProgress, dial},
    race::{ATTEMPT_DELAY, race, to_dial},
    resolve,
    server_address::Location,
};
use crate::{
    code::Code,
    connection::Connection,
    drain::{Phase, TaskGuard},
    error::{Error, ErrorKind, Result},
    limits::PeerStreams,
    link::{CloseOnDrop, Link},
    server::{attend, serve_connection},
    tls::{ClientTls, Security},
};

impl Endpoint {
    /// Connects to a server with the endpoint's own [`ClientTls`]: by host name and port, by address and
    /// server name, or by address alone, whose IP address is then the name that the certificate must be
    /// valid for. See [`ServerAddress`].
    ///
    /// Resolves when the peer has confirmed the handshake, and so has accepted this side's certificate.
    ///
    /// A host name is resolved by the system, within `handshake_timeout`, on another thread than the
    /// executor's (with feature `smol` or `durable`). The system cannot be told to give up a look-up, so one
    /// that has begun goes on when its caller does not wait any more, and the next caller with the same host
    /// and port joins it. At most 4 look-ups of an endpoint run at a time; others wait for that, within their
    /// time limit.
    ///
    /// The addresses of a host are raced as [RFC 8305](https://www.rfc-editor.org/rfc/rfc8305) does for TCP:
    /// in the order that the system gives them, but with IPv4 and IPv6 in turn, each for up to
    /// `handshake_timeout`. The next attempt begins when the latest has failed, or has run for 250 ms. The
    /// first that connects is returned, and the others are closed. At most 8 addresses are dialled; those
    /// that the socket cannot send to are passed over.
    ///
    /// A flow label is ignored, and so is the scope of an address that is not link-local. An IPv4 address may
    /// come in its IPv6 form (`::ffff:192.0.2.1`), whatever the family of this endpoint's socket.
    ///
    /// ```no_run
    /// # async fn example(endpoint: palyra_quic::Endpoint) -> palyra_quic::Result<()> {
    /// use std::net::SocketAddr;
    ///
    /// let by_name = endpoint.connect(("gateway.example", 7443)).await?;
    /// let address = SocketAddr::from(([192, 0, 2, 1], 7443));
    /// let by_address = endpoint.connect((address, "gateway.example")).await?;
    /// let by_ip_address = endpoint.connect(address).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where the endpoint has no client TLS, and, before
    /// anything is sent or a resolver is asked, for a server name or a host that is neither a DNS name nor an
    /// IP address, for a host name in a build that resolves none, and for an address from which no answer can
    /// come: port 0, an unspecified, multicast or broadcast address, a link-local IPv6 address without its
    /// interface (scope), unless the socket is bound to one, and an address of a family that the socket
    /// cannot send to;
    /// [`Io`](crate::ErrorKind::Io) and [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) for a host
    /// name that is not resolved;
    /// [`Closed`](crate::ErrorKind::Closed) where the endpoint is closed, or its runtime was dropped;
    /// [`HandshakeTimeout`](crate::ErrorKind::HandshakeTimeout); [`Refused`](crate::ErrorKind::Refused) by a
    /// peer that is full; [`PinMismatch`](crate::ErrorKind::PinMismatch),
    /// [`PeerCertificate`](crate::ErrorKind::PeerCertificate),
    /// [`CertificateRefused`](crate::ErrorKind::CertificateRefused),
    /// [`AlpnMismatch`](crate::ErrorKind::AlpnMismatch) and
    /// [`VersionMismatch`](crate::ErrorKind::VersionMismatch) where the two do not belong together.
    /// Of several addresses, the error is that of the first where another attempt may succeed, or else of
    /// the first; it names the host, and an attempt that was answered if this one was not. It asks for
    /// [time](Error::retry_after) if all of them did where another attempt may succeed: the shortest.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives up the attempt.
    pub async fn connect(&self, server: impl Into<ServerAddress>) -> Result<Connection> {
        self.connect_by(&self.inner.security, &server.into(), HandshakeProgress::Confirmed).await
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
    pub async fn connect_unconfirmed(&self, server: impl Into<ServerAddress>) -> Result<Connection> {
        self.connect_by(&self.inner.security, &server.into(), HandshakeProgress::Complete).await
    }

    /// Connects to a peer with other client TLS than the endpoint's own: another authority, identity or pin.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect), and [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for an
    /// identity whose chain is larger than `max_certificate_chain_bytes`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives up the attempt.
    pub async fn connect_with(
        &self,
        tls: &ClientTls,
        server: impl Into<ServerAddress>,
    ) -> Result<Connection> {
        self.connect_by(&self.inner.security.with_client(tls)?, &server.into(), HandshakeProgress::Confirmed)
            .await
    }

    /// Connects with the client TLS that this is at the moment, and by whose terms the connection stays open.
    pub(crate) async fn connect_by(
        &self,
        security: &Arc<Security>,
        server: &ServerAddress,
        until: HandshakeProgress,
    ) -> Result<Connection> {
        self.check_open()?;
        let name = server.dialled_name()?;
        match server.location() {
            Location::Address(address) => self.connect_at(security, *address, &name, until).await,
            Location::Host { name: host, port } => {
                let connected = async {
                    let addresses = self.addresses_of(host, *port).await?;
                    self.connect_to_first(security, addresses, &name, until).await
                };
                connected.await.map_err(|error| error.of_host(host))
            }
        }
    }

    /// The servers that can be dialled, without the addresses of a family that the socket cannot send to.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for a name that no certificate can have, for a host that cannot be resolved, for an
    /// address that no socket can send to, and where no server is left.
    pub(crate) fn dialable(&self, servers: Vec<ServerAddress>) -> Result<Vec<ServerAddress>> {
        servers.iter().try_for_each(|server| server.dialled_name().map(drop))?;
        self.inner.reach.retain(servers, ServerAddress::socket_addr)
    }

    fn check_open(&self) -> Result<()> {
        self.inner.node.close_state().error().map_or(Ok(()), Err)
    }

    /// The addresses of a host that this endpoint's socket can send to, in the system's order.
    async fn addresses_of(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>> {
        let Inner { clock, limits, reach, resolver, .. } = &*self.inner;
        let resolved = resolve::within(clock, limits.handshake_timeout(), resolver.resolve(host, port));
        let closed = async { Err(self.ended().await) };
        let mut failure = None;
        let mut usable = Vec::new();
        for address in future::or(resolved, closed).await? {
            match reach.destination(address) {
                Ok(address) => usable.push(address),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        match failure {
            Some(error) if usable.is_empty() => Err(error),
            _ => Ok(usable),
        }
    }

    /// Races the addresses of a host.
    async fn connect_to_first(
        &self,
        security: &Arc<Security>,
        addresses: Vec<SocketAddr>,
        name: &ServerName<'static>,
        until: HandshakeProgress,
    ) -> Result<Connection> {
        let attempt = |address| async move {
            let connected = self.connect_at(security, address, name, until).await;
            connected.inspect_err(|error| tracing::debug!(%address, %error, "not connected"))
        };
        let delay = || self.inner.clock.sleep(ATTEMPT_DELAY);
        race(to_dial(addresses), attempt, delay).await
    }

    async fn connect_at(
        &self,
        security: &Arc<Security>,
        address: SocketAddr,
        name: &ServerName<'static>,
        until: HandshakeProgress,
    ) -> Result<Connection> {
        let Inner {
            open, clock, limits, node, socket, dialled_peer_streams, recorder, reach, dialled, ..
        } = &*self.inner;
        self.check_open()?;
        let address = reach.destination(address)?;
        let transport = || limits.transport_config(*dialled_peer_streams);
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
            close_state: node.close_state(),
            until,
        };
        let link = dial(dialler, security, address, name).await.map_err(|error| error.at(address));
        let link = link.inspect_err(|error| node.counters().dials_failed.count(error))?;
        let link = Arc::new(link.with_call_hooks(node.call_hooks()));
        // Counted before the look, so that a shutdown which is not seen here waits for the task.
        let task = node.drain().task();
        if node.drain().has_reached(Phase::Closing) {
            link.close(Code::SHUTTING_DOWN, "");
            return Err(Error::new(ErrorKind::Closed).detail("the endpoint is closed"));
        }
        node.counters().dialled.add();
        self.attend_dialled(&link, security, task);
        let connection = Connection::owned(link, Arc::clone(open));
        dialled.add(&connection);
        Ok(connection)
    }

    /// Spawns the task that serves the peer and watches over its certificate until the connection ends.
    fn attend_dialled(&self, link: &Arc<Link>, security: &Arc<Security>, task: TaskGuard) {
        let Inner { clock, node, dialled_peer_streams, .. } = &*self.inner;
        let (node, security, held) = (Arc::clone(node), Arc::clone(security), CloseOnDrop::new(link));
        let serves = *dialled_peer_streams == PeerStreams::Accepted;
        let span = link.span().clone();
        let attending = async move {
            let link = held.link();
            let served = async {
                if serves {
                    serve_connection(&node, link, None).await;
                } else {
                    link.quinn().closed().await;
                }
            };
            attend(&node, link, &security, quinn::Side::Client, pin!(served)).await;
            drop((node, security, held, task));
        };
        clock.spawn(attending.instrument(span));
    }
}

#[cfg(all(feature = "cert", feature = "sim"))]
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cert::CertificateAuthority,
        fallback::{FallbackPolicy, PathPrivilege},
        sim::{Host, Link, Sim},
        tls::ServerTls,
    };

    const PORT: u16 = 7443;

    const MILLI: Duration = Duration::from_millis(1);
    const NAME: &str = "a.example";

    struct Network {
        sim: Sim,
        ca: CertificateAuthority,
        /// Where the dialler is.
        home: Host,
        dialler: Endpoint,
    }

    impl Network {
        fn new() -> Self {
            let (sim, ca) = (Sim::new(3), CertificateAuthority::new("ca").unwrap());
            let home = sim.host([10, 0, 0, 9]);
            let dialler = home.bind(Endpoint::builder().client(ClientTls::new(ca.trust())), 0).unwrap();
            Self { sim, ca, home, dialler }
        }

        fn host(&self, last: u8) -> Host {
            self.sim.host([10, 0, 0, last])
        }

        fn serve(&self, host: &Host, name: &str) -> Endpoint {
            let tls = ServerTls::new(self.ca.issue_server(&[name]).unwrap().identity());
            host.bind(Endpoint::builder().server(tls), PORT).unwrap()
        }

        /// Dials hosts as the addresses of one host.
        fn connect(&self, hosts: &[&Host]) -> Result<Connection> {
            let addresses = hosts.iter().map(|host| host.address(PORT)).collect();
            let name = crate::tls::server_name(NAME)?;
            let security = Arc::clone(&self.dialler.inner.security);
            let connecting =
                self.dialler.connect_to_first(&security, addresses, &name, HandshakeProgress::Confirmed);
            self.sim.run(connecting)
        }

        /// Which of the hosts connected, and how long that took.
        fn connected(&self, hosts: &[&Host]) -> (SocketAddr, Duration) {
            let since = self.sim.elapsed();
            let connection = self.connect(hosts).unwrap();
            (connection.remote_address(), self.sim.elapsed() - since)
        }
    }

    #[test]
    fn the_addresses_of_a_host_are_dialled_in_order_and_none_is_waited_for_longer_than_the_delay() {
        let network = Network::new();
        let [absent, other, gateway, standby] = [1, 2, 3, 4].map(|last| network.host(last));
        let _nodes = [
            network.serve(&other, "other.example"),
            network.serve(&gateway, NAME),
            network.serve(&standby, NAME),
        ];
        for (hosts, expected, delays) in [
            (vec![&gateway, &standby], &gateway, 0),
            (vec![&standby, &gateway], &standby, 0),
            (vec![&other, &gateway], &gateway, 0),
            (vec![&absent, &gateway, &standby], &gateway, 1),
            (vec![&other, &absent, &absent, &gateway], &gateway, 2),
        ] {
            let (address, took) = network.connected(&hosts);
            assert_eq!(address, expected.address(PORT));
            assert!(took >= delays * ATTEMPT_DELAY && took < (delays + 1) * ATTEMPT_DELAY, "{took:?}");
        }
    }

    #[test]
    fn an_attempt_that_loses_the_race_is_closed() {
        // The winner connects while the loser waits for the first flight, and for the confirmation.
        for delay in [200 * MILLI, 120 * MILLI] {
            let network = Network::new();
            let [slow, gateway] = [1, 2].map(|last| network.host(last));
            for (from, to) in [(&slow, &network.home), (&network.home, &slow)] {
                network.sim.set_link(from, to, Link::new().delay(delay));
            }
            let nodes = [network.serve(&slow, NAME), network.serve(&gateway, NAME)];
            let connection = network.connect(&[&slow, &gateway]).unwrap();
            assert_eq!(connection.remote_address(), gateway.address(PORT));
            assert_eq!(network.dialler.stats().connections_dialled, 1);
            // Longer than quinn keeps a connection that is closed, and shorter than the idle timeout.
            network.sim.run(network.sim.sleep(Duration::from_secs(10)));
            assert_eq!(nodes.each_ref().map(|node| node.stats().connections_open), [0, 1]);
            assert_eq!(network.dialler.inner.open.quinn().open_connections(), 1, "the loser is held");
            // The twin: without another address, the slow one is waited for.
            assert_eq!(network.connected(&[&slow]).0, slow.address(PORT));
        }
    }

    #[cfg(any(feature = "smol", feature = "durable"))]
    #[test]
    fn connects_that_give_up_leave_one_look_up_of_their_host() {
        use std::sync::Mutex;

        use crate::{endpoint::resolve::Resolver, sync::lock};

        let mut network = Network::new();
        let begun = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&begun);
        Arc::get_mut(&mut network.dialler.inner).unwrap().resolver =
            Resolver::by(move |look_up| lock(&list).push(look_up));
        let gateway = network.host(1);
        let _node = network.serve(&gateway, NAME);
        let Network { sim, dialler, .. } = &network;
        for _ in 0..150 {
            assert!(sim.run(future::poll_once(dialler.connect((NAME, PORT)))).is_none());
        }
        let error = sim.run(dialler.connect((NAME, PORT))).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::DeadlineExceeded);
        assert!(error.to_string().ends_with("(at a.example)"), "{error}");
        assert_eq!(sim.elapsed(), dialler.limits().handshake_timeout());
        let error = sim.run(dialler.connect(("b.example", 0))).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
        assert_eq!(lock(&begun).len(), 1);

        let answered = async {
            sim.sleep(MILLI).await;
            lock(&begun).remove(0).answer(Ok(vec![gateway.address(PORT)]));
        };
        let (connection, ()) = sim.run(future::zip(dialler.connect((NAME, PORT)), answered));
        assert_eq!(connection.unwrap().remote_address(), gateway.address(PORT));
        assert!(lock(&begun).is_empty());
    }

    #[test]
    fn where_no_address_connects_the_error_is_the_one_after_which_another_attempt_may_help() {
        let network = Network::new();
        let [absent, other] = [1, 2].map(|last| network.host(last));
        let _node = network.serve(&other, "other.example");
        let error = network.connect(&[&other, &absent]).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::HandshakeTimeout);
        assert_eq!(error.peer_address(), Some(absent.address(PORT)));
        let fallback = |error| FallbackPolicy::AllowExplicit.decide(error, PathPrivilege::Unprivileged);
        assert_eq!(fallback(&error), None, "the other one may have provoked it");
        let text = error.to_string();
        assert!(text.contains("another attempt: peer certificate not acceptable"), "{text}");

        let error = network.connect(&[&other]).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::PeerCertificate);
        let since = network.sim.elapsed();
        let error = network.connect(&[&absent, &absent, &absent]).unwrap_err();
        assert!(fallback(&error).is_some(), "nobody answers");
        let (took, timeout) = (network.sim.elapsed() - since, network.dialler.limits().handshake_timeout());
        assert!(took >= timeout && took < timeout + 3 * ATTEMPT_DELAY, "{took:?}");
    }
}
