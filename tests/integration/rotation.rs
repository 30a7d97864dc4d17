//! Identities, authorities, pins and revocation lists that are replaced while nodes run, in virtual time.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use crate::simulation::{PORT, Pair, SECOND};
use futures_lite::future::{or, zip};
use palyra_quic::{
    CertificateAuthority, Client, ClientTls, Code, Connection, Context, Endpoint, Error, ErrorKind,
    Fingerprint, IssuedCertificate, Pin, RevocationList, Rotation, Router, ServerTls, Trust, sim::Link,
};

const MILLI: Duration = Duration::from_millis(1);
const ROTATIONS: usize = 100;

/// What both sides have at one time: an authority, and what it issued.
struct Generation {
    authority: CertificateAuthority,
    server: IssuedCertificate,
    client: IssuedCertificate,
}

impl Generation {
    /// Each authority is new, and takes the name of the one before the last.
    fn new(n: usize) -> Self {
        let authority = CertificateAuthority::new(["Even CA", "Odd CA"][n % 2]).unwrap();
        let server = authority.issue_server(&["gateway.example", "10.0.0.1"]).unwrap();
        let client = authority.issue_client("sensor-7").unwrap();
        Self { authority, server, client }
    }
}

/// Trust in the authorities of all of these.
fn trust(generations: &[Generation]) -> Trust {
    Trust::from_der(generations.iter().map(|generation| generation.authority.certificate().clone())).unwrap()
}

fn server_tls(own: &Generation, believed: &[Generation]) -> ServerTls {
    ServerTls::new(own.server.identity()).require_client_certificates(trust(believed))
}

fn client_tls(own: &Generation, believed: &[Generation]) -> ClientTls {
    let pins = believed.iter().map(|generation| Pin::from(generation.server.fingerprint()));
    ClientTls::new(trust(believed)).identity(own.client.identity()).pins(pins)
}

struct Nodes {
    pair: Pair,
    gateway: Endpoint,
    sensor: Endpoint,
}

impl Nodes {
    /// With the first of these generations, and trust in all of them.
    fn new(generations: &[Generation]) -> Self {
        let pair = Pair::new(1, Link::new().delay(10 * MILLI));
        let router = Router::new()
            .serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
            .serve_raw("demo.peer", |context: Context, _| async move {
                Ok(context.peer().unwrap().fingerprint().as_bytes().to_vec().into())
            });
        let tls = server_tls(&generations[0], generations);
        let gateway = pair.gateway.bind(Endpoint::builder().server(tls).router(router), PORT).unwrap();
        let tls = client_tls(&generations[0], generations);
        let sensor = pair.sensor.bind(Endpoint::builder().client(tls), 0).unwrap();
        Self { pair, gateway, sensor }
    }

    async fn connect(&self) -> Result<Connection, Error> {
        self.sensor.connect(self.pair.gateway.address(PORT)).await
    }

    /// What a new connection shows of the gateway, and of the sensor.
    async fn shown(&self) -> Result<[Fingerprint; 2], Error> {
        let connection = self.connect().await?;
        Ok([connection.peer().unwrap().fingerprint(), peer(connection.call_raw("demo.peer", "").await?)])
    }

    async fn closed(&self, connection: &Connection) -> Option<ErrorKind> {
        let patience = async {
            self.pair.sim.sleep(SECOND).await;
            None
        };
        or(async { Some(connection.closed().await.kind().clone()) }, patience).await
    }
}

fn peer(answer: impl AsRef<[u8]>) -> Fingerprint {
    Fingerprint::from_bytes(answer.as_ref().try_into().unwrap())
}

/// A list of its own, on which somebody else is.
fn list_of_others() -> RevocationList {
    let list = RevocationList::new();
    list.revoke(Fingerprint::from_bytes([7; 32]));
    list
}

/// Calls one after another, for as long as `running` says.
async fn call_on(connection: &Connection, running: &Cell<bool>, calls: &Cell<usize>) {
    while running.get() {
        assert_eq!(connection.call_raw("demo.echo", "x").await.unwrap(), "x");
        calls.set(calls.get() + 1);
    }
}

/// Polls all of them to the end.
async fn all(futures: Vec<impl Future<Output = ()>>) {
    let futures = futures.into_iter().map(Box::pin);
    let none: std::pin::Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(async {});
    futures.fold(none, |all, next| Box::pin(async move { _ = zip(all, next).await })).await;
}

#[test]
fn a_hundred_rotations_fail_no_call() {
    let generations: Vec<_> = (0..ROTATIONS + 2).map(Generation::new).collect();
    let nodes = Nodes::new(&generations[..2]);
    let sim = &nodes.pair.sim;
    sim.run(async {
        let mut standing = Vec::new();
        for _ in 0..4 {
            standing.push(nodes.connect().await.unwrap());
        }
        let (running, calls, dialled) = (Cell::new(true), Cell::new(0), Cell::new(0));
        let calling = (0..32).map(|n| call_on(&standing[n % standing.len()], &running, &calls)).collect();
        let dial = async || {
            while running.get() {
                let connection = nodes.connect().await.unwrap();
                assert_eq!(connection.call_raw("demo.echo", "x").await.unwrap(), "x");
                dialled.set(dialled.get() + 1);
            }
        };
        let rotating = async {
            for n in 1..=ROTATIONS {
                // A peer may be one step behind or ahead.
                let believed = &generations[n - 1..=n + 1];
                let server = server_tls(&generations[n], believed).revocations(&list_of_others());
                nodes.gateway.rotate(Rotation::new().server(server)).unwrap();
                sim.sleep(17 * MILLI).await;
                let client = client_tls(&generations[n], believed).revocations(&list_of_others());
                nodes.sensor.rotate(Rotation::new().client(client)).unwrap();
                sim.sleep(83 * MILLI).await;
                let Generation { server, client, .. } = &generations[n];
                assert_eq!(nodes.shown().await.unwrap(), [server.fingerprint(), client.fingerprint()]);
            }
            running.set(false);
        };
        zip(zip(all(calling), all((0..4).map(|_| dial()).collect())), rotating).await;
        assert!(calls.get() > 32 * ROTATIONS, "{} calls", calls.get());
        assert!(dialled.get() > ROTATIONS, "{} connections", dialled.get());

        // They have come through all of it, and are held against the list of the moment.
        let last = generations.last().unwrap();
        let list = list_of_others();
        list.revoke(generations[0].client.fingerprint());
        let server = server_tls(last, &generations[ROTATIONS..]).revocations(&list);
        nodes.gateway.rotate(Rotation::new().server(server)).unwrap();
        for connection in &standing {
            let rejected = Some(ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED));
            assert_eq!(nodes.closed(connection).await, rejected);
        }
        // And from then on by changes of it.
        let connection = nodes.connect().await.unwrap();
        list.revoke(generations[ROTATIONS].client.fingerprint());
        assert!(nodes.closed(&connection).await.is_some());
    });
}

/// The twin: without an overlap, handshakes fail until the second half of the change is there.
#[test]
fn authorities_that_change_long_before_identities_fail_new_handshakes() {
    let generations = [Generation::new(0), Generation::new(1)];
    let nodes = Nodes::new(&generations[..1]);
    let [old, new] = &generations;
    let only_new = &generations[1..];
    nodes.pair.sim.run(async {
        let standing = nodes.connect().await.unwrap();
        nodes.gateway.rotate(Rotation::new().server(server_tls(old, only_new))).unwrap();
        assert_eq!(nodes.connect().await.unwrap_err().kind(), &ErrorKind::CertificateRefused);
        nodes.sensor.rotate(Rotation::new().client(client_tls(new, only_new))).unwrap();
        assert_eq!(nodes.connect().await.unwrap_err().kind(), &ErrorKind::PeerCertificate);
        assert_eq!(standing.call_raw("demo.echo", "x").await.unwrap(), "x");
        nodes.gateway.rotate(Rotation::new().server(server_tls(new, only_new))).unwrap();
        nodes.connect().await.unwrap();
    });
}

#[test]
fn a_failed_rotation_changes_nothing_in_either_half() {
    let generations = [Generation::new(0), Generation::new(1)];
    let nodes = Nodes::new(&generations);
    let [old, new] = &generations;
    // A node that dials and accepts: the identity that it shows to its clients could have been changed.
    let router = Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) });
    let builder = Endpoint::builder()
        .server(server_tls(old, &generations))
        .client(client_tls(old, &generations))
        .router(router);
    let both = nodes.pair.gateway.bind(builder, PORT + 1).unwrap();
    let past = SystemTime::now() - Duration::from_secs(3600);
    let expired = new.authority.clone().valid(past, past + SECOND).unwrap().issue_client("late").unwrap();
    let good = Rotation::new().server(server_tls(new, &generations));
    let bad = good.clone().client(client_tls(new, &generations).identity(expired.identity()));
    nodes.pair.sim.run(async {
        let server_shown = async || {
            let address = nodes.pair.gateway.address(PORT + 1);
            nodes.sensor.connect(address).await.unwrap().peer().unwrap().fingerprint()
        };
        let error = both.rotate(bad).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidConfig);
        assert!(error.explanation().unwrap().contains("expired"), "{error}");
        assert_eq!(server_shown().await, old.server.fingerprint());
        // The twin: without the half that is no good, the other one goes through.
        both.rotate(good.clone()).unwrap();
        assert_eq!(server_shown().await, new.server.fingerprint());

        let also = good.clone().client(client_tls(new, &generations));
        let error = nodes.gateway.rotate(also).unwrap_err();
        assert!(error.explanation().unwrap().contains("without client TLS"), "{error}");
        assert!(nodes.sensor.rotate(good).is_err());
        nodes.sensor.rotate(Rotation::new()).unwrap();
        assert_eq!(nodes.shown().await.unwrap(), [old.server.fingerprint(), old.client.fingerprint()]);
    });
}

#[test]
fn a_client_follows_its_endpoint_or_is_rotated_itself() {
    let generations = [Generation::new(0), Generation::new(1)];
    let nodes = Nodes::new(&generations);
    let [old, new] = &generations;
    let build = |tls: Option<ClientTls>| {
        let builder = Client::builder(nodes.sensor.clone()).address(nodes.pair.gateway.address(PORT));
        tls.into_iter().fold(builder, palyra_quic::ClientBuilder::tls).build().unwrap()
    };
    let (follows, own) = (build(None), build(Some(client_tls(old, &generations))));
    nodes.pair.sim.run(async {
        let shows = async |client: &Client, again: bool| {
            if again {
                client.connection().await.unwrap().close(Code::NO_ERROR, "");
            }
            peer(client.call_raw("demo.peer", "").await.unwrap())
        };
        assert_eq!(
            follows.rotate(client_tls(new, &generations)).unwrap_err().kind(),
            &ErrorKind::InvalidConfig
        );
        for client in [&follows, &own] {
            assert_eq!(shows(client, false).await, old.client.fingerprint());
        }
        nodes.sensor.rotate(Rotation::new().client(client_tls(new, &generations))).unwrap();
        assert_eq!(shows(&follows, false).await, old.client.fingerprint(), "the connection stays");
        assert_eq!(shows(&follows, true).await, new.client.fingerprint());
        assert_eq!(shows(&own, true).await, old.client.fingerprint(), "not the endpoint's");

        let list = RevocationList::new();
        own.rotate(client_tls(new, &generations).revocations(&list)).unwrap();
        assert_eq!(shows(&own, false).await, old.client.fingerprint(), "the connection stays");
        let connection = own.connection().await.unwrap();
        list.revoke(old.server.fingerprint());
        assert_eq!(nodes.closed(&connection).await, Some(ErrorKind::Closed));
        list.replace([Fingerprint::from_bytes([7; 32])]);
        assert_eq!(shows(&own, false).await, new.client.fingerprint());
    });
}

#[test]
fn health_tells_what_is_demanded_at_the_moment() {
    let generations = [Generation::new(0)];
    let nodes = Nodes::new(&generations);
    nodes.pair.sim.run(async {
        let demanded = async || nodes.connect().await.unwrap().health().await.unwrap().node_rpc_mtls_required;
        assert_eq!(demanded().await, Some(true));
        let open = ServerTls::new(generations[0].server.identity());
        nodes.gateway.rotate(Rotation::new().server(open)).unwrap();
        assert_eq!(demanded().await, Some(false));
    });
}
