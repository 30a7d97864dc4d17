//! Certificates that are revoked while nodes run, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/simulation.rs"]
mod simulation;

use std::time::Duration;

use futures_lite::future::{or, pending};
use palyra_quic::{
    CertificateAuthority, ClientTls, Code, Connection, Context, Endpoint, Error, ErrorKind, Fingerprint,
    Identity, Issued, RevocationList, Router, ServerTls, sim::Link,
};
use simulation::{PORT, Pair, SECOND};

const PEERS: usize = 200;

/// A gateway, its authority, and the list that it consults.
struct Gateway {
    pair: Pair,
    authority: CertificateAuthority,
    identity: Issued,
    list: RevocationList,
    _node: Endpoint,
}

impl Gateway {
    /// `protect` is what is shown to do the work.
    fn new(protect: impl Fn(ServerTls, &RevocationList) -> ServerTls) -> Self {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let authority = CertificateAuthority::new("Simulated CA").unwrap();
        let identity = authority.issue_server(&["gateway.example"]).unwrap();
        let list = RevocationList::new();
        let tls = ServerTls::new(identity.identity()).require_client_certificates(authority.trust());
        let router = Router::new()
            .unary("demo.echo", |_: Context, params| async move { Ok(params) })
            .unary("demo.hang", |_: Context, _| pending());
        let builder = Endpoint::builder().server(protect(tls, &list)).router(router);
        let node = pair.gateway.bind(builder, PORT).unwrap();
        Self { pair, authority, identity, list, _node: node }
    }

    fn protected() -> Self {
        Self::new(|tls, list| tls.revocations(list))
    }

    fn tls(&self, identity: Identity) -> ClientTls {
        let tls = ClientTls::new(self.authority.trust()).identity(identity);
        tls.server_name("gateway.example").unwrap()
    }

    async fn connect_with(&self, tls: &ClientTls) -> Result<Connection, Error> {
        let endpoint = self.pair.sensor.bind(Endpoint::builder(), 0).unwrap();
        endpoint.connect_with(tls, self.pair.gateway.address(PORT)).await
    }

    async fn connect(&self, issued: &Issued) -> Result<Connection, Error> {
        self.connect_with(&self.tls(issued.identity())).await
    }

    /// Why the connection was closed within a second; `None` where it was not.
    async fn closed(&self, connection: &Connection) -> Option<ErrorKind> {
        let closed = async { Some(connection.closed().await.kind().clone()) };
        let patience = async {
            self.pair.sim.sleep(SECOND).await;
            None
        };
        or(closed, patience).await
    }
}

#[test]
fn a_revoked_peer_is_out_at_once_and_stays_out_among_two_hundred() {
    let gateway = Gateway::protected();
    let issued: Vec<Issued> =
        (0..PEERS).map(|n| gateway.authority.issue_client(&format!("sensor-{n}")).unwrap()).collect();
    gateway.pair.sim.run(async {
        let mut connections = Vec::new();
        for issued in &issued {
            connections.push(gateway.connect(issued).await.unwrap());
        }
        let stolen = PEERS / 2;
        gateway.list.revoke(issued[stolen].fingerprint());
        let rejected = Some(ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED));
        assert_eq!(gateway.closed(&connections[stolen]).await, rejected);
        let again = gateway.connect(&issued[stolen]).await.unwrap_err();
        assert_eq!(again.kind(), &ErrorKind::CertificateRefused);
        for (n, connection) in connections.iter().enumerate().filter(|(n, _)| *n != stolen) {
            assert_eq!(connection.call_raw("demo.echo", "x").await.unwrap(), "x", "sensor-{n}");
        }

        // Another list in its place: who is not on it may come back.
        gateway.list.replace([issued[0].fingerprint()]);
        assert_eq!(gateway.closed(&connections[0]).await, rejected);
        gateway.connect(&issued[stolen]).await.unwrap();
        assert_eq!(gateway.list.len(), 1);
    });
}

/// The twin: a list that nobody consults closes nothing.
#[test]
fn without_the_protection_a_revoked_peer_stays() {
    let gateway = Gateway::new(|tls, _| tls);
    let issued = gateway.authority.issue_client("sensor-7").unwrap();
    gateway.pair.sim.run(async {
        let connection = gateway.connect(&issued).await.unwrap();
        gateway.list.revoke(issued.fingerprint());
        assert_eq!(gateway.closed(&connection).await, None);
        gateway.connect(&issued).await.unwrap();
    });
}

#[test]
fn what_a_revoked_peer_was_doing_ends() {
    let gateway = Gateway::protected();
    let issued = gateway.authority.issue_client("sensor-7").unwrap();
    gateway.pair.sim.run(async {
        let connection = gateway.connect(&issued).await.unwrap();
        let revoking = async {
            gateway.pair.sim.sleep(SECOND).await;
            gateway.list.revoke(issued.fingerprint());
            pending::<Error>().await
        };
        let hanging = async { connection.call_raw("demo.hang", "").await.unwrap_err() };
        let error = or(hanging, revoking).await;
        assert_eq!(error.kind(), &ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED));
        assert!(error.is_authentication() && !error.is_retryable());
    });
}

#[test]
fn a_client_leaves_a_server_that_is_revoked() {
    let gateway = Gateway::protected();
    let issued = gateway.authority.issue_client("sensor-7").unwrap();
    let list = RevocationList::new();
    let tls = gateway.tls(issued.identity()).revocations(&list);
    gateway.pair.sim.run(async {
        let connection = gateway.connect_with(&tls).await.unwrap();
        list.replace([issued.fingerprint(), Fingerprint::from_bytes([7; 32])]);
        assert_eq!(gateway.closed(&connection).await, None, "others are on the list");
        list.revoke(gateway.identity.fingerprint());
        assert_eq!(gateway.closed(&connection).await, Some(ErrorKind::Closed));
        let again = gateway.connect_with(&tls).await.unwrap_err();
        assert_eq!(again.kind(), &ErrorKind::PeerCertificate);
        gateway.connect(&issued).await.unwrap();
    });
}

#[test]
fn a_list_shows_how_long_it_is_and_no_more() {
    let list = RevocationList::new();
    assert!(list.is_empty() && !list.contains(Fingerprint::from_bytes([7; 32])));
    list.replace([Fingerprint::from_bytes([7; 32])]);
    assert!(list.contains(Fingerprint::from_bytes([7; 32])));
    assert_eq!(format!("{list:?}"), "RevocationList { len: 1 }");
}
