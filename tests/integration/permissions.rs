//! Which peers may call what, by the router's rules, in virtual time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::simulation::{PORT, Pair, SECOND};
use palyra_quic::{
    Bytes, CertificateAuthority, ClientTls, Code, Codec, Connection, Context, Endpoint, Error, ErrorKind,
    EventLog, IssuedCertificate, Peers, Router, ServerTls, WireError, sim::Link,
};
use smol::channel::unbounded;

/// A gateway that takes clients with certificates and without, and what it heard.
struct Gateway {
    pair: Pair,
    authority: CertificateAuthority,
    heard: Arc<AtomicUsize>,
    _node: Endpoint,
}

impl Gateway {
    /// `protect` is what is shown to do the work.
    fn new(protect: impl FnOnce(Router, &CertificateAuthority) -> Router) -> Self {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let authority = CertificateAuthority::new("Simulated CA").unwrap();
        let identity = authority.issue_server(&["gateway.example", "10.0.0.1"]).unwrap().identity();
        let tls = ServerTls::new(identity).offer_client_certificates(authority.trust());
        let heard = Arc::new(AtomicUsize::new(0));
        let router = protect(methods(&heard), &authority);
        let node = pair.gateway.bind(Endpoint::builder().server(tls).router(router), PORT).unwrap();
        Self { pair, authority, heard, _node: node }
    }

    fn open() -> Self {
        Self::new(|router, _| router)
    }

    fn issue(&self, id: &str) -> IssuedCertificate {
        self.authority.issue_client(id).unwrap()
    }

    fn tls(&self) -> ClientTls {
        ClientTls::new(self.authority.trust())
    }

    async fn connect(&self, tls: &ClientTls) -> Connection {
        let endpoint = self.pair.sensor.bind(Endpoint::builder(), 0).unwrap();
        endpoint.connect_with(tls, self.pair.gateway.address(PORT)).await.unwrap()
    }

    async fn connect_as(&self, id: &str) -> Connection {
        self.connect(&self.tls().identity(self.issue(id).identity())).await
    }

    fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }
}

/// A method that counts its calls, a notification that counts too, and events.
fn methods(heard: &Arc<AtomicUsize>) -> Router {
    let (calls, notifications) = (Arc::clone(heard), Arc::clone(heard));
    let log = EventLog::new();
    log.publish_raw("door opened").unwrap();
    Router::new()
        .serve("demo.restart", move |_: Context, n: u32| {
            calls.fetch_add(1, Ordering::SeqCst);
            async move { Ok(n) }
        })
        .serve_raw("demo.echo", |_: Context, params: Bytes| async move { Ok(params) })
        .on_notification_raw("demo.tell", move |_: Context, _| {
            notifications.fetch_add(1, Ordering::SeqCst);
            async {}
        })
        .events(log)
}

async fn restart(connection: &Connection) -> Result<u32, Error> {
    connection.call("demo.restart", &7_u32).await
}

fn assert_denied<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    let error = outcome.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Remote(WireError::PermissionDenied));
    assert_eq!(error.explanation(), None, "a detail helps whom it should not");
    assert!(error.is_authentication() && !error.is_retryable());
}

/// Whether the peer's events can be had.
async fn first_event(connection: &Connection) -> Result<(), Error> {
    connection.events_raw().open().await?.next_raw().await.map(drop)
}

/// With what code a notification is stopped; `None` where it is taken.
async fn tell(connection: &Connection, sim: &palyra_quic::sim::Sim) -> Option<Code> {
    let mut notifier = connection.notifier().await.unwrap();
    notifier.send("demo.tell", &1).await.unwrap();
    sim.sleep(SECOND).await;
    match notifier.send("demo.tell", &2).await {
        Ok(()) => notifier.finish().await.map(|()| None).unwrap(),
        Err(error) => match error.kind() {
            ErrorKind::StreamReset(code) => Some(*code),
            other => panic!("{other:?}"),
        },
    }
}

#[test]
fn a_method_is_for_the_peers_that_its_rule_describes() {
    let trusted = |authority: &CertificateAuthority| authority.issue_client("by-print").unwrap();
    let (sender, receiver) = unbounded();
    let gateway = Gateway::new(|router, authority| {
        let issued = trusted(authority);
        let peers = Peers::nobody()
            .fingerprint(issued.fingerprint())
            .common_name("Palyra Device by-name")
            .uri("palyra:device:by-uri");
        sender.try_send(issued).unwrap();
        router.allow("demo.restart", peers)
    });
    let issued = receiver.try_recv().unwrap();
    gateway.pair.sim.run(async {
        let by_print = gateway.connect(&gateway.tls().identity(issued.identity())).await;
        assert_eq!(restart(&by_print).await.unwrap(), 7);
        for id in ["by-name", "by-uri"] {
            assert_eq!(restart(&gateway.connect_as(id).await).await.unwrap(), 7, "{id}");
        }
        assert_eq!(gateway.heard(), 3);

        // The same name as the one known by its fingerprint, and another certificate.
        for id in ["by-print", "by-name-2", "BY-URI"] {
            let other = gateway.connect_as(id).await;
            assert_denied(restart(&other).await);
            assert_eq!(other.call_raw("demo.echo", "x").await.unwrap(), "x", "other methods are for all");
        }
        let anonymous = gateway.connect(&gateway.tls()).await;
        assert_denied(restart(&anonymous).await);
        assert_eq!(anonymous.call_raw("demo.echo", "x").await.unwrap(), "x");
        assert_eq!(gateway.heard(), 3, "a handler heard of a call that is not for it");
    });
}

/// The twin: without the rule the same peers may call.
#[test]
fn without_the_rule_the_same_calls_pass() {
    let gateway = Gateway::open();
    gateway.pair.sim.run(async {
        for id in ["by-print", "by-name-2", "BY-URI"] {
            restart(&gateway.connect_as(id).await).await.unwrap();
        }
        let anonymous = gateway.connect(&gateway.tls()).await;
        restart(&anonymous).await.unwrap();
        anonymous.health().await.unwrap();
        first_event(&anonymous).await.unwrap();
        assert_eq!(tell(&anonymous, &gateway.pair.sim).await, None);
    });
}

#[test]
fn the_decision_comes_before_the_parameters() {
    let protected = Gateway::new(|router, _| router.allow("demo.restart", Peers::nobody()));
    let open = Gateway::open();
    let garbage = async |gateway: &Gateway, codec| {
        let connection = gateway.connect_as("7").await;
        connection.request_raw("demo.restart", "\u{ff}").codec(codec).send_raw().await
    };
    for codec in [Codec::Cbor, Codec::Json] {
        protected.pair.sim.run(async { assert_denied(garbage(&protected, codec).await) });
        // The twin.
        let error = open.pair.sim.run(garbage(&open, codec)).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Remote(WireError::InvalidRequest));
    }
}

#[test]
fn built_in_methods_have_rules_too() {
    let gateway = Gateway::new(|router, _| {
        let operator = || Peers::nobody().common_name("Palyra Device operator");
        router.allow("node.health", operator()).allow("node.stream_events", operator())
    });
    gateway.pair.sim.run(async {
        let operator = gateway.connect_as("operator").await;
        assert!(operator.health().await.unwrap().ok);
        first_event(&operator).await.unwrap();
        let other = gateway.connect_as("7").await;
        assert_denied(other.health().await);
        assert_denied(first_event(&other).await);
    });
}

#[test]
fn the_rule_by_default_covers_what_has_none_and_what_is_not_there() {
    let gateway = Gateway::new(|router, _| {
        router.allow_by_default(Peers::identified()).allow("node.health", Peers::anybody())
    });
    gateway.pair.sim.run(async {
        let known = gateway.connect_as("7").await;
        restart(&known).await.unwrap();
        let missing = known.call_raw("demo.missing", "").await.unwrap_err();
        assert_eq!(*missing.kind(), ErrorKind::Remote(WireError::UnsupportedMethod));

        let anonymous = gateway.connect(&gateway.tls()).await;
        assert!(anonymous.health().await.unwrap().ok, "a rule of its own comes first");
        for method in ["demo.restart", "demo.echo", "demo.tell", "demo.missing", "node.missing"] {
            assert_denied(anonymous.call_raw(method, "").await);
        }
        assert_denied(first_event(&anonymous).await);
    });
}

#[test]
fn a_notification_of_another_peer_ends_its_stream() {
    let gateway = Gateway::new(|router, _| {
        router.allow("demo.tell", Peers::nobody().common_name("Palyra Device teller"))
    });
    gateway.pair.sim.run(async {
        let other = gateway.connect_as("7").await;
        assert_eq!(tell(&other, &gateway.pair.sim).await, Some(Code::IDENTITY_REJECTED));
        assert_eq!(gateway.heard(), 0);
        assert_eq!(other.call_raw("demo.echo", "x").await.unwrap(), "x", "the connection goes on");
        let teller = gateway.connect_as("teller").await;
        assert_eq!(tell(&teller, &gateway.pair.sim).await, None);
        assert_eq!(gateway.heard(), 2);
    });
}

/// A client whose methods have this rule, called back by the server that it dialled.
fn called_back(rule: Option<Peers>) -> Result<u32, Error> {
    let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
    let authority = CertificateAuthority::new("Simulated CA").unwrap();
    let server = authority.issue_server(&["gateway.example", "10.0.0.1"]).unwrap();
    let (answered, answers) = unbounded();
    let router = Router::new().on_connection(move |peer| {
        let answered = answered.clone();
        async move { answered.try_send(restart(&peer).await).unwrap() }
    });
    let tls = ServerTls::new(server.identity());
    let node = pair.gateway.bind(Endpoint::builder().server(tls).router(router), PORT).unwrap();

    let router = methods(&Arc::default());
    let router = match rule {
        Some(peers) => router.allow("demo.restart", peers),
        None => router,
    };
    let tls = ClientTls::new(authority.trust());
    let dialler = pair.sensor.bind(Endpoint::builder().client(tls).router(router), 0).unwrap();
    let answer = pair.sim.run(async {
        let _connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
        answers.recv().await.unwrap()
    });
    drop(node);
    answer
}

#[test]
fn a_server_that_was_dialled_is_under_the_rules_too() {
    assert_denied(called_back(Some(Peers::nobody().dns_name("other.example"))));
    assert_denied(called_back(Some(Peers::nobody())));
    assert_eq!(called_back(Some(Peers::nobody().dns_name("GATEWAY.example"))).unwrap(), 7);
    assert_eq!(called_back(Some(Peers::identified())).unwrap(), 7);
    assert_eq!(called_back(None).unwrap(), 7, "the twin");
}

#[test]
fn a_rule_for_a_method_that_is_not_served_is_found_when_the_endpoint_is_bound() {
    let bind = |router| Endpoint::builder().router(router).bind(([127, 0, 0, 1], 0).into());
    let rule = || Router::new().allow("demo.echo", Peers::identified());
    let error = bind(rule()).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
    assert!(error.explanation().unwrap().contains("demo.echo"));
    bind(rule().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })).unwrap();
}
