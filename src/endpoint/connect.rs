//! Connecting to a server: by its address, or by each of the addresses that its host has.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use futures_lite::future;
use rustls::pki_types::ServerName;
use tracing::Instrument;

use super::{
    Endpoint, Inner, ServerAddress,
    dial::{Dialler, Handshake, dial},
    resolve,
    server_address::Location,
};
use crate::{
    code::Code,
    connection::Connection,
    drain::{Phase, TaskGuard},
    error::{AttemptErrors, Error, ErrorKind, Result},
    limits::Serves,
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
    /// executor's (with feature `smol` or `durable`). Its addresses are tried in the order that the system
    /// gives them, each for up to `handshake_timeout`, until one connects; those that the socket cannot send
    /// to are passed over.
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
        self.connect_by(&self.inner.security, &server.into(), Handshake::Confirmed).await
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
        self.connect_by(&self.inner.security, &server.into(), Handshake::Complete).await
    }

    /// Connects to a peer with other client TLS than the endpoint's own: another authority, identity or pin.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect), and [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for an
    /// identity whose chain is larger than `max_certificate_chain_bytes`.
    pub async fn connect_with(
        &self,
        tls: &ClientTls,
        server: impl Into<ServerAddress>,
    ) -> Result<Connection> {
        self.connect_by(&self.inner.security.with_client(tls)?, &server.into(), Handshake::Confirmed).await
    }

    /// Connects with the client TLS that this is at the moment, and by whose terms the connection stays open.
    pub(crate) async fn connect_by(
        &self,
        security: &Arc<Security>,
        server: &ServerAddress,
        until: Handshake,
    ) -> Result<Connection> {
        self.check_open()?;
        let name = server.dialled_name()?;
        match server.location() {
            Location::Address(address) => self.connect_at(security, *address, &name, until).await,
            Location::Host { name: host, port } => {
                let connected = async {
                    let addresses = self.addresses_of(host, *port).await?;
                    self.connect_at_first(security, addresses, &name, until).await
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
        self.inner.node.closure().error().map_or(Ok(()), Err)
    }

    /// The addresses of a host that this endpoint's socket can send to, in the system's order.
    async fn addresses_of(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>> {
        let Inner { clock, limits, reach, .. } = &*self.inner;
        let resolved = resolve::within(clock, limits.handshake_timeout(), resolve::resolve(host, port));
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

    /// Connects to one address after the other, until one connects.
    async fn connect_at_first(
        &self,
        security: &Arc<Security>,
        addresses: Vec<SocketAddr>,
        name: &ServerName<'static>,
        until: Handshake,
    ) -> Result<Connection> {
        let mut errors = AttemptErrors::default();
        for address in addresses {
            match self.connect_at(security, address, name, until).await {
                Ok(connection) => return Ok(connection),
                Err(error) if *error.kind() == ErrorKind::Closed => return Err(error),
                Err(error) => {
                    tracing::debug!(%address, %error, "not connected");
                    errors.push(error);
                }
            }
        }
        Err(errors.into_error().unwrap_or_else(|| Error::invalid_config("the host has no address")))
    }

    async fn connect_at(
        &self,
        security: &Arc<Security>,
        address: SocketAddr,
        name: &ServerName<'static>,
        until: Handshake,
    ) -> Result<Connection> {
        let Inner { open, clock, limits, node, socket, serves_dialled, recorder, reach, dialled, .. } =
            &*self.inner;
        self.check_open()?;
        let address = reach.destination(address)?;
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
            closure: node.closure(),
            until,
        };
        let link = dial(dialler, security, address, name).await.map_err(|error| error.at(address));
        let link = Arc::new(link.inspect_err(|error| node.counters().dials_failed.count(error))?);
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
        let Inner { clock, node, serves_dialled, .. } = &*self.inner;
        let (node, security, held) = (Arc::clone(node), Arc::clone(security), CloseOnDrop::new(link));
        let serves = *serves_dialled == Serves::Requests;
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
        sim::{Host, Sim},
        tls::ServerTls,
    };

    const PORT: u16 = 7443;

    /// Dials hosts by their addresses, as those of one host, and returns the one that connected.
    fn connected(sim: &Sim, dialler: &Endpoint, hosts: &[&Host], name: &str) -> Result<SocketAddr> {
        let addresses = hosts.iter().map(|host| host.address(PORT)).collect();
        let name = crate::tls::server_name(name)?;
        let security = Arc::clone(&dialler.inner.security);
        let connection =
            sim.run(dialler.connect_at_first(&security, addresses, &name, Handshake::Confirmed))?;
        Ok(connection.remote_address())
    }

    #[test]
    fn the_addresses_of_a_host_are_tried_in_order_until_one_connects() {
        let (sim, ca) = (Sim::new(3), CertificateAuthority::new("ca").unwrap());
        let [absent, other, gateway, standby] = [1, 2, 3, 4].map(|last| sim.host([10, 0, 0, last]));
        let serve = |host: &Host, name: &str| {
            let tls = ServerTls::new(ca.issue_server(&[name]).unwrap().identity());
            host.bind(Endpoint::builder().server(tls), PORT).unwrap()
        };
        let _nodes =
            [serve(&other, "other.example"), serve(&gateway, "a.example"), serve(&standby, "a.example")];
        let dialler = Endpoint::builder().client(ClientTls::new(ca.trust()));
        let dialler = sim.host([10, 0, 0, 9]).bind(dialler, 0).unwrap();
        let connected = |hosts: &[&Host]| connected(&sim, &dialler, hosts, "a.example");

        assert_eq!(connected(&[&gateway, &standby]).unwrap(), gateway.address(PORT));
        assert_eq!(connected(&[&standby, &gateway]).unwrap(), standby.address(PORT));
        let since = sim.elapsed();
        assert_eq!(connected(&[&other, &absent, &gateway]).unwrap(), gateway.address(PORT));
        let timeout = dialler.limits().handshake_timeout();
        let took = sim.elapsed() - since;
        assert!((timeout..timeout + Duration::from_secs(1)).contains(&took), "the absent one: {took:?}");

        // The address that may answer later is worth more than the one with the wrong name.
        let error = connected(&[&other, &absent]).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::HandshakeTimeout);
        let fallback = |error| FallbackPolicy::AllowExplicit.decide(error, PathPrivilege::Unprivileged);
        assert_eq!(fallback(&error), None, "the other one may have provoked it");
        let text = error.to_string();
        assert!(text.contains("another attempt: peer certificate not acceptable"), "{text}");
        assert!(fallback(&connected(&[&absent]).unwrap_err()).is_some(), "nobody answers");
        assert_eq!(error.peer_address(), Some(absent.address(PORT)));
        let error = connected(&[&other]).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::PeerCertificate);
    }
}
