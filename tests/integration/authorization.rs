//! Who may stay once its handshake is over, as the application decides, in virtual time.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::simulation::{PORT, Pair, SECOND};
use futures_lite::future::{or, pending, zip};
use palyra_quic::{
    Bytes, CertificateAuthority, ClientTls, Code, Connection, Context, Endpoint, EndpointBuilder, Error,
    ErrorKind, IssuedCertificate, PendingPeer, Refusal, RevocationList, Router, ServerTls, TransportLimits,
    sim::Link,
};
use smol::channel::{Sender, unbounded};

/// A gateway that takes clients with certificates and without.
struct Gateway {
    pair: Pair,
    authority: CertificateAuthority,
    node: Endpoint,
}

/// What the node has heard of its peers.
#[derive(Clone, Default)]
struct Heard(Arc<AtomicUsize>);

impl Heard {
    fn hear(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Gateway {
    fn new(router: Router) -> Self {
        Self::with(router, |builder, tls| builder.server(tls))
    }

    fn with(router: Router, build: impl FnOnce(EndpointBuilder, ServerTls) -> EndpointBuilder) -> Self {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let authority = CertificateAuthority::new("Simulated CA").unwrap();
        let identity = authority.issue_server(&["gateway.example", "10.0.0.1"]).unwrap().identity();
        let tls = ServerTls::new(identity).offer_client_certificates(authority.trust());
        let router = router.serve_raw("demo.echo", |_: Context, params| async move { Ok(params) });
        let node = pair.gateway.bind(build(Endpoint::builder().router(router), tls), PORT).unwrap();
        Self { pair, authority, node }
    }

    fn issue(&self, id: &str) -> IssuedCertificate {
        self.authority.issue_client(id).unwrap()
    }

    fn tls(&self) -> ClientTls {
        ClientTls::new(self.authority.trust())
    }

    /// Connects, and calls something. A refusal shows in either, whichever it meets.
    async fn attempt(&self, tls: &ClientTls) -> Result<Connection, Error> {
        let endpoint = self.pair.sensor.bind(Endpoint::builder(), 0).unwrap();
        let connection = endpoint.connect_with(tls, self.pair.gateway.address(PORT)).await?;
        connection.call_raw("demo.echo", "x").await?;
        Ok(connection)
    }

    async fn attempt_as(&self, issued: &IssuedCertificate) -> Result<Connection, Error> {
        self.attempt(&self.tls().identity(issued.identity())).await
    }

    fn run(&self, test: impl Future<Output = ()>) {
        self.pair.sim.run(test);
    }
}

fn only(name: &'static str) -> Router {
    Router::new().authorize(move |peer: PendingPeer| async move {
        assert_eq!(peer.remote_address().ip().to_string(), "10.0.0.2");
        match peer.peer().and_then(|peer| peer.common_name()) {
            Some(shown) if shown == name => Ok(()),
            _ => Err(Refusal::rejected("not enrolled")),
        }
    })
}

fn closed_with(code: Code) -> ErrorKind {
    ErrorKind::ConnectionClosed(code)
}

#[test]
fn the_application_says_who_may_stay() {
    let greeted = Heard::default();
    let heard = greeted.clone();
    let gateway = Gateway::new(only("Palyra Device 7").on_connection(move |_| {
        heard.hear();
        async {}
    }));
    gateway.run(async {
        let welcome = gateway.attempt_as(&gateway.issue("7")).await.unwrap();
        assert_eq!(greeted.count(), 1);
        let error = gateway.attempt_as(&gateway.issue("8")).await.unwrap_err();
        assert_eq!(*error.kind(), closed_with(Code::IDENTITY_REJECTED));
        assert_eq!(error.explanation(), Some("not enrolled"));
        assert!(error.is_authentication() && !error.is_retryable());
        let anonymous = gateway.attempt(&gateway.tls()).await.unwrap_err();
        assert_eq!(*anonymous.kind(), closed_with(Code::IDENTITY_REJECTED));
        assert_eq!(greeted.count(), 1, "nobody greets a peer that may not stay");
        assert_eq!(welcome.call_raw("demo.echo", "y").await.unwrap(), "y");
    });
}

/// The twin: without the question all of them are in.
#[test]
fn without_the_question_everybody_stays() {
    let gateway = Gateway::new(Router::new());
    gateway.run(async {
        gateway.attempt_as(&gateway.issue("8")).await.unwrap();
        gateway.attempt(&gateway.tls()).await.unwrap();
    });
}

/// What the node knows of a peer that it let in.
struct Account {
    name: String,
}

fn account_of(context: &Context) -> String {
    context.state::<Account>().map_or_else(|| "no account".to_owned(), |account| account.name.clone())
}

/// Says in its answers, and to `told` for notifications, which account a peer has.
fn accounts(told: Sender<String>) -> Router {
    Router::new()
        .serve("demo.account", |context: Context, _: Option<()>| async move { Ok(account_of(&context)) })
        .serve("demo.types", |context: Context, _: Option<()>| async move {
            let shared = context.state::<Arc<Account>>().is_some();
            Ok((shared, context.state::<()>().is_some()))
        })
        .on_notification_raw("demo.tell", move |context, _| {
            told.try_send(account_of(&context)).unwrap();
            async {}
        })
        .authorize(|peer: PendingPeer| async move {
            let name = peer.peer().and_then(|peer| peer.common_name());
            Ok(Account { name: name.unwrap_or("anonymous").to_owned() })
        })
}

#[test]
fn handlers_get_what_the_application_found_by_its_type() {
    let (told, heard) = unbounded();
    let gateway = Gateway::new(accounts(told));
    gateway.run(async {
        let seven = gateway.attempt_as(&gateway.issue("7")).await.unwrap();
        let anonymous = gateway.attempt(&gateway.tls()).await.unwrap();
        for (connection, account) in [(&seven, "Palyra Device 7"), (&anonymous, "anonymous")] {
            for _ in 0..2 {
                assert_eq!(connection.call::<_, String>("demo.account", &()).await.unwrap(), account);
            }
            connection.notify("demo.tell", &()).await.unwrap();
            assert_eq!(heard.recv().await.unwrap(), account);
            let other_types: (bool, bool) = connection.call("demo.types", &()).await.unwrap();
            assert_eq!(other_types, (false, false));
        }
    });
}

/// Where the application only said that a peer may stay, or was not asked, there is nothing else to find.
#[test]
fn without_a_value_the_state_is_a_unit() {
    for router in [Router::new(), Router::new().authorize(|_| async { Ok(()) })] {
        let gateway = Gateway::new(router.serve_raw("demo.state", |context: Context, _| async move {
            assert!(context.state::<()>().is_some() && context.state::<Account>().is_none());
            Ok(Bytes::new())
        }));
        gateway.run(async {
            let connection = gateway.attempt(&gateway.tls()).await.unwrap();
            connection.call_raw("demo.state", "").await.unwrap();
        });
    }
}

#[test]
fn a_peer_that_the_node_dialled_has_no_state() {
    let (told, heard) = unbounded();
    let tell = told.clone();
    let gateway = Gateway::new(accounts(told));
    gateway.run(async {
        let asking = Router::new().on_connection(move |gateway| {
            let tell = tell.clone();
            async move {
                tell.try_send(gateway.call("demo.account", &()).await.unwrap()).unwrap();
                gateway.notify("demo.tell", &()).await.unwrap();
            }
        });
        let tls = ServerTls::new(gateway.authority.issue_server(&["10.0.0.2"]).unwrap().identity());
        let _peer = gateway.pair.sensor.bind(Endpoint::builder().server(tls).router(asking), PORT).unwrap();
        let address = gateway.pair.sensor.address(PORT);
        let _connection = gateway.node.connect_with(&gateway.tls(), address).await.unwrap();
        for _ in 0..2 {
            assert_eq!(heard.recv().await.unwrap(), "no account");
        }
    });
}

#[test]
fn nothing_is_read_before_the_answer() {
    let served = Heard::default();
    let heard = served.clone();
    let router = Router::new()
        .on_notification_raw("demo.tell", move |_: Context, _| {
            heard.hear();
            async {}
        })
        .authorize(|_| pending::<Result<(), Refusal>>());
    let gateway = Gateway::new(router);
    gateway.run(async {
        let endpoint = gateway.pair.sensor.bind(Endpoint::builder(), 0).unwrap();
        let connection =
            endpoint.connect_with(&gateway.tls(), gateway.pair.gateway.address(PORT)).await.unwrap();
        connection.notify("demo.tell", &1).await.unwrap();
        let call = async { panic!("{:?}", connection.call_raw("demo.echo", "x").await) };
        or(call, gateway.pair.sim.sleep(9 * SECOND)).await;
        assert_eq!(served.count(), 0);
        assert_eq!(*connection.closed().await.kind(), closed_with(Code::DEADLINE_EXCEEDED));
        assert_eq!(gateway.pair.sim.elapsed().as_secs(), 10);
        assert_eq!(served.count(), 0);
    });
}

#[test]
fn a_question_that_panics_lets_nobody_in() {
    let router = Router::new().authorize(|peer| async move {
        if peer.peer().is_none() {
            panic!("as a test wants it");
        }
        Ok(())
    });
    let gateway = Gateway::new(router);
    gateway.run(async {
        let error = gateway.attempt(&gateway.tls()).await.unwrap_err();
        assert_eq!(*error.kind(), closed_with(Code::INTERNAL));
        gateway.attempt_as(&gateway.issue("7")).await.unwrap();
    });
}

#[test]
fn a_refusal_may_say_when_to_come_back() {
    let router = Router::new().authorize(|_| async {
        Err::<(), _>(Refusal::new(Code::CAPACITY, "").retry_after(Duration::from_secs(7)))
    });
    let gateway = Gateway::new(router);
    gateway.run(async {
        let error = gateway.attempt(&gateway.tls()).await.unwrap_err();
        assert_eq!(*error.kind(), closed_with(Code::CAPACITY));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert!(error.is_retryable() && !error.is_authentication());
    });
}

/// Two peers that come while nobody answers questions, which somebody does after five seconds.
fn two_wait_for_an_answer(max_connections: u32) -> [Result<Connection, Error>; 2] {
    let (answer, answers) = unbounded();
    let router = Router::new().authorize(move |_| {
        let answers = answers.clone();
        async move { answers.recv().await.unwrap() }
    });
    let limits = TransportLimits::builder().max_connections(max_connections).build().unwrap();
    let gateway = Gateway::with(router, |builder, tls| builder.server(tls).limits(limits));
    let (one, two) = (gateway.issue("7"), gateway.issue("8"));
    let answering = async {
        gateway.pair.sim.sleep(5 * SECOND).await;
        answer.try_send(Ok(())).unwrap();
        answer.try_send(Ok(())).unwrap();
    };
    let second = async {
        gateway.pair.sim.sleep(SECOND).await;
        gateway.attempt_as(&two).await
    };
    let both = zip(zip(gateway.attempt_as(&one), second), answering);
    let ((first, second), ()) = gateway.pair.sim.run(both);
    [first, second]
}

#[test]
fn a_peer_holds_its_slot_before_it_is_let_in() {
    let [first, second] = two_wait_for_an_answer(1);
    first.unwrap();
    assert_eq!(*second.unwrap_err().kind(), ErrorKind::Refused);
}

/// The twin: with room for two connections, both are asked about at once.
#[test]
fn with_room_for_both_two_wait_for_the_answer() {
    let [first, second] = two_wait_for_an_answer(4);
    assert!(first.is_ok() && second.is_ok());
}

#[test]
fn a_question_ends_with_the_connection() {
    let ended = Heard::default();
    let (heard, list) = (ended.clone(), RevocationList::new());
    let router = Router::new().authorize(move |_| {
        let guard = Guard(heard.clone());
        async move {
            pending::<()>().await;
            drop(guard);
            Ok(())
        }
    });
    let gateway = Gateway::with(router, |builder, tls| builder.server(tls.revocations(&list)));
    let stolen = gateway.issue("7");
    gateway.run(async {
        let attempt = async { gateway.attempt_as(&stolen).await.unwrap_err() };
        let revoking = async {
            gateway.pair.sim.sleep(SECOND).await;
            list.revoke(stolen.fingerprint());
            pending().await
        };
        let error = or(attempt, revoking).await;
        assert_eq!(*error.kind(), closed_with(Code::IDENTITY_REJECTED));
        assert!(gateway.pair.sim.elapsed() < 2 * SECOND);
        assert_eq!(ended.count(), 1, "the question is dropped");
    });
}

struct Guard(Heard);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.hear();
    }
}

#[test]
fn peers_that_were_dialled_are_not_asked_about() {
    let asked = Heard::default();
    let heard = asked.clone();
    let gateway = Gateway::new(Router::new());
    let router = Router::new().authorize(move |_| {
        heard.hear();
        async { Err::<(), _>(Refusal::rejected("nobody")) }
    });
    gateway.run(async {
        let builder = Endpoint::builder().client(gateway.tls()).router(router);
        let endpoint = gateway.pair.sensor.bind(builder, 0).unwrap();
        let connection = endpoint.connect(gateway.pair.gateway.address(PORT)).await.unwrap();
        connection.call_raw("demo.echo", "x").await.unwrap();
        assert_eq!(asked.count(), 0);
        drop(gateway.node.clone());
    });
}
