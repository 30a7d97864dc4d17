//! Clients that dial again and subscriptions that survive, in virtual time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::simulation::{PORT, Pair, SECOND, client_tls, patient, server_tls};
use futures_lite::future::{pending, poll_once, zip};
use palyra_quic::{
    Backoff, CertificateAuthority, Client, Code, Connection, Context, Cursor, Endpoint, ErrorKind, EventLog,
    MethodError, Router, ServerTls, Subscription, SubscriptionItem, TransportLimits, WireError,
    sim::{Host, Link},
};

const MILLI: Duration = Duration::from_millis(1);

fn pair() -> Pair {
    Pair::new(1, Link::new().delay(10 * MILLI))
}

fn echo() -> Router {
    Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
}

fn serve_at(host: &Host, router: Router) -> Endpoint {
    host.bind(Endpoint::builder().server(server_tls()).router(router), PORT).unwrap()
}

/// A client of the gateway, and of another host where there is one.
fn client(pair: &Pair, other: Option<&Host>) -> Client {
    let endpoint = pair.dialler(TransportLimits::default());
    let builder =
        Client::builder(endpoint).address(pair.gateway.address(PORT)).backoff(Backoff::new().cap(SECOND));
    other.into_iter().fold(builder, |builder, host| builder.address(host.address(PORT))).build().unwrap()
}

/// A method that runs until its connection is gone, and counts how often it was begun.
fn hanging(begun: &Arc<AtomicU32>) -> Router {
    let begun = Arc::clone(begun);
    echo().serve_raw("demo.hang", move |_: Context, _| {
        begun.fetch_add(1, Ordering::Relaxed);
        pending()
    })
}

#[test]
fn a_call_after_a_restart_dials_again() {
    let pair = pair();
    let client = client(&pair, None);
    let first = serve_at(&pair.gateway, echo());
    pair.sim.run(async {
        assert_eq!(client.call_raw("demo.echo", "one").await.unwrap(), "one");
        let before = client.connection().await.unwrap();
        assert_eq!(client.connection().await.unwrap().remote_address(), before.remote_address());
        first.shutdown(SECOND).await;
        drop(first);
        pair.gateway.crash();
        let _second = serve_at(&pair.gateway, echo());
        assert_eq!(client.call_raw("demo.echo", "two").await.unwrap(), "two");
        assert!(before.close_reason().is_some());
        // Dropped with the node at the end of the block, and not before.
        drop(client);
    });
}

#[test]
fn a_call_that_may_have_run_is_not_repeated() {
    let pair = pair();
    let client = client(&pair, None);
    let begun = Arc::new(AtomicU32::new(0));
    let _node = serve_at(&pair.gateway, hanging(&begun));
    let error = pair.sim.run(async {
        let crash = async {
            while begun.load(Ordering::Relaxed) == 0 {
                pair.sim.sleep(10 * MILLI).await;
            }
            pair.gateway.crash();
        };
        zip(client.call_raw("demo.hang", ""), crash).await.0.unwrap_err()
    });
    assert!(error.may_have_run(), "{error:?}");
    assert_eq!(begun.load(Ordering::Relaxed), 1);
}

/// The twin: what a node turns away has not run, and goes to the next address.
#[test]
fn a_call_that_has_not_run_goes_elsewhere() {
    let pair = pair();
    let other = pair.sim.host([10, 0, 0, 3]);
    let client = client(&pair, Some(&other));
    let begun = Arc::new(AtomicU32::new(0));
    let leaving = serve_at(&pair.gateway, hanging(&begun));
    let _other = serve_at(&other, echo());
    pair.sim.run(async {
        // Keeps the shutdown waiting, so that the connection stays open while the node turns work away.
        let connection = client.connection().await.unwrap();
        let mut hanging = Box::pin(connection.call_raw("demo.hang", ""));
        while begun.load(Ordering::Relaxed) == 0 {
            assert!(poll_once(&mut hanging).await.is_none());
            pair.sim.sleep(10 * MILLI).await;
        }
        let shutdown = leaving.shutdown(600 * SECOND);
        let calling = async {
            pair.sim.sleep(SECOND).await;
            assert_eq!(client.call_raw("demo.echo", "x").await.unwrap(), "x");
            assert_eq!(client.connection().await.unwrap().remote_address(), other.address(PORT));
            assert!(connection.close_reason().is_none(), "who still uses the old connection may go on");
            drop(hanging);
        };
        zip(shutdown, calling).await;
    });
}

#[test]
fn addresses_are_tried_in_turn() {
    let pair = pair();
    let (absent, other) = (pair.sim.host([10, 0, 0, 4]), pair.sim.host([10, 0, 0, 3]));
    let _node = serve_at(&other, echo());
    let client = Client::builder(pair.dialler(TransportLimits::default()))
        .address(absent.address(PORT))
        .address(other.address(PORT))
        .build()
        .unwrap();
    pair.sim.run(async {
        assert_eq!(client.call_raw("demo.echo", "x").await.unwrap(), "x");
        assert_eq!(client.connection().await.unwrap().remote_address(), other.address(PORT));
    });
    assert!((10..12).contains(&pair.sim.elapsed().as_secs()), "one handshake timeout for the absent one");
}

/// Whoever is in a hurry must not be held at the first address for ever.
#[test]
fn calls_that_have_less_time_than_a_handshake_get_past_an_absent_address() {
    let pair = pair();
    let (absent, other) = (pair.sim.host([10, 0, 0, 4]), pair.sim.host([10, 0, 0, 3]));
    let _node = serve_at(&other, echo());
    let builder = Client::builder(pair.dialler(TransportLimits::default())).call_timeout(SECOND);
    let client = builder.address(absent.address(PORT)).address(other.address(PORT)).build().unwrap();
    pair.sim.run(async {
        let error = client.call_raw("demo.echo", "x").await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::DeadlineExceeded);
        assert!(!error.may_have_run());
        assert_eq!(client.call_raw("demo.echo", "x").await.unwrap(), "x");
    });
}

#[test]
fn a_call_gives_up_when_its_time_is_over() {
    let pair = pair();
    let endpoint = pair.dialler(TransportLimits::default());
    let address = pair.gateway.address(PORT);
    let client = Client::builder(endpoint).address(address).call_timeout(25 * SECOND).build().unwrap();
    let error = pair.sim.run(client.call_raw("demo.echo", "x")).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::HandshakeTimeout);
    assert!(!error.may_have_run());
    assert_eq!(pair.sim.elapsed().as_secs(), 25);
}

#[test]
fn an_address_that_asks_for_patience_gets_it_and_the_others_are_tried() {
    let pair = pair();
    let other = pair.sim.host([10, 0, 0, 3]);
    let accepted = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&accepted);
    let busy = echo().on_connection(move |connection: Connection| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { connection.close(Code::RATE_LIMITED, "retry-after-ms=60000") }
    });
    let _busy = serve_at(&pair.gateway, busy);
    let _other = serve_at(&other, echo());
    let client = client(&pair, Some(&other));
    pair.sim.run(async {
        for _ in 0..5 {
            let connection = client.connection().await.unwrap();
            assert_eq!(connection.remote_address(), other.address(PORT));
            connection.close(Code::NO_ERROR, "");
        }
    });
    assert_eq!(accepted.load(Ordering::Relaxed), 1, "asked again before its time");
    assert!(pair.sim.elapsed() < 10 * SECOND, "it was waited for");
}

async fn next_event(subscription: &mut Subscription) -> u64 {
    loop {
        if let SubscriptionItem::Event { seq, .. } = subscription.next_raw().await.unwrap() {
            return seq;
        }
    }
}

#[test]
fn a_subscription_goes_on_behind_its_cursor_in_another_process() {
    let pair = pair();
    let log = EventLog::new();
    for n in 1..=5 {
        log.publish_raw(format!("event {n}")).unwrap();
    }
    let _node = serve_at(&pair.gateway, Router::new().events(log));
    let kept = pair.sim.run(async {
        let mut subscription = client(&pair, None).subscribe_raw().open();
        assert_eq!(subscription.cursor(), None);
        for seq in 1..=3 {
            assert_eq!(next_event(&mut subscription).await, seq);
        }
        subscription.cursor().unwrap().to_bytes()
    });
    pair.sim.run(async {
        let cursor = Cursor::from_bytes(&kept).unwrap();
        let mut subscription = client(&pair, None).subscribe_raw().resume(cursor).open();
        for seq in 4..=5 {
            assert_eq!(next_event(&mut subscription).await, seq);
        }
    });
}

#[test]
fn a_subscription_tells_of_its_connections() {
    let pair = pair();
    let log = EventLog::new();
    log.publish_raw("one").unwrap();
    let node = serve_at(&pair.gateway, Router::new().events(log.clone()));
    let client = client(&pair, None);
    pair.sim.run(async {
        let mut subscription = client.subscribe_raw().open();
        let address = pair.gateway.address(PORT);
        let item = subscription.next_raw().await.unwrap();
        assert!(matches!(item, SubscriptionItem::Connected { address: at } if at == address), "{item:?}");
        assert_eq!(next_event(&mut subscription).await, 1);
        node.shutdown(SECOND).await;
        let item = subscription.next_raw().await.unwrap();
        let SubscriptionItem::Disconnected { error } = item else { panic!("{item:?}") };
        assert!(error.is_retryable(), "{error:?}");
        drop(node);
        pair.gateway.crash();
        let _again = serve_at(&pair.gateway, Router::new().events(log.clone()));
        log.publish_raw("two").unwrap();
        assert_eq!(next_event(&mut subscription).await, 2, "and not the first again");
    });
}

/// A link that swallows everything ends no connection for a long time where idle timeouts are long.
/// Heartbeats that do not come tell.
#[test]
fn two_heartbeats_that_do_not_come_count_as_a_dead_link() {
    let pair = pair();
    let log = EventLog::new();
    log.publish_raw("one").unwrap();
    let _node = pair.serve(Router::new().events(log), patient());
    let endpoint = pair.dialler(patient());
    let client = Client::builder(endpoint).address(pair.gateway.address(PORT)).build().unwrap();
    pair.sim.run(async {
        let mut subscription = client.subscribe_raw().open();
        assert_eq!(next_event(&mut subscription).await, 1);
        // Alive: heartbeats every 10 s keep it so.
        let quiet = async {
            pair.sim.sleep(100 * SECOND).await;
            None
        };
        let next = async { Some(subscription.next_raw().await) };
        assert!(futures_lite::future::or(next, quiet).await.is_none(), "nothing happens for a while");
        pair.gateway.unplug();
        let since = pair.sim.elapsed();
        let item = subscription.next_raw().await.unwrap();
        assert!(matches!(item, SubscriptionItem::Disconnected { .. }), "{item:?}");
        assert!((10..=20).contains(&(pair.sim.elapsed() - since).as_secs()));
        pair.gateway.plug_in();
        let item = loop {
            match subscription.next_raw().await.unwrap() {
                SubscriptionItem::Disconnected { .. } => {}
                item => break item,
            }
        };
        assert!(matches!(item, SubscriptionItem::Connected { .. }), "{item:?}");
    });
}

#[test]
fn failures_that_nothing_mends_end_a_subscription() {
    let ends = |router: Router, tls: ServerTls| {
        let pair = pair();
        let _node = pair.gateway.bind(Endpoint::builder().server(tls).router(router), PORT).unwrap();
        let client = client(&pair, None);
        pair.sim.run(async {
            let mut subscription = client.subscribe_raw().open();
            let error = loop {
                match subscription.next_raw().await {
                    Ok(SubscriptionItem::Connected { .. }) => {}
                    Ok(item) => panic!("{item:?}"),
                    Err(error) => break error,
                }
            };
            assert_eq!(subscription.next_raw().await.unwrap_err().kind(), &ErrorKind::Closed, "it has ended");
            error.kind().clone()
        })
    };
    let closing = |code| {
        Router::new().on_connection(move |connection: Connection| async move { connection.close(code, "") })
    };
    assert_eq!(ends(Router::new(), server_tls()), ErrorKind::Remote(WireError::UnsupportedMethod));
    assert_eq!(
        ends(closing(Code::IDENTITY_REJECTED), server_tls()),
        ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED)
    );
    let impostor = CertificateAuthority::new("Another CA")
        .unwrap()
        .issue_server(&["gateway.example", "10.0.0.1"])
        .unwrap();
    assert_eq!(ends(Router::new(), ServerTls::new(impostor.identity())), ErrorKind::PeerCertificate);
}

/// The twin: a code that asks to come back is heeded, again and again, and with growing pauses.
#[test]
fn failures_that_pass_do_not_end_a_subscription() {
    let pair = pair();
    let log = EventLog::new();
    log.publish_raw("one").unwrap();
    let connections = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&connections);
    let router = Router::new().events(log).on_connection(move |connection: Connection| {
        let count = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            if count < 20 {
                connection.close(Code::INTERNAL, "");
            }
        }
    });
    let _node = serve_at(&pair.gateway, router);
    let client = client(&pair, None);
    pair.sim.run(async { assert_eq!(next_event(&mut client.subscribe_raw().open()).await, 1) });
    assert_eq!(connections.load(Ordering::Relaxed), 21);
    assert!(pair.sim.elapsed() > 5 * SECOND, "a storm of {:?}", pair.sim.elapsed());
}

#[test]
fn a_log_has_as_many_subscribers_as_it_may() {
    let pair = pair();
    let log = EventLog::builder().max_subscribers(1).build().unwrap();
    log.publish_raw("one").unwrap();
    let _node = serve_at(&pair.gateway, Router::new().events(log.clone()));
    let client = client(&pair, None);
    pair.sim.run(async {
        let mut first = client.subscribe_raw().open();
        assert_eq!(next_event(&mut first).await, 1);
        let mut second = client.subscribe_raw().open();
        assert!(matches!(second.next_raw().await.unwrap(), SubscriptionItem::Connected { .. }));
        let SubscriptionItem::Disconnected { error } = second.next_raw().await.unwrap() else {
            panic!("let in")
        };
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::ResourceExhausted));
        assert_eq!((error.retry_after(), log.subscribers()), (Some(SECOND), 1));
        drop(first);
        let since = pair.sim.elapsed();
        assert_eq!(next_event(&mut second).await, 1, "the place is free again");
        assert!(pair.sim.elapsed() - since >= SECOND, "it waited as long as it was asked to");
    });
}

/// One call that a node turns away must not end what else goes over the connection.
#[test]
fn a_subscription_survives_the_failures_of_calls_beside_it() {
    let pair = pair();
    let log = EventLog::new();
    let router = Router::new()
        .events(log.clone())
        .serve_raw("demo.busy", |_: Context, _| async { Err(MethodError::resource_exhausted("not now")) });
    let _node = serve_at(&pair.gateway, router);
    let client = client(&pair, None);
    pair.sim.run(async {
        let mut subscription = client.subscribe_raw().open();
        assert!(matches!(subscription.next_raw().await.unwrap(), SubscriptionItem::Connected { .. }));
        let refused = client.call_raw("demo.busy", "").await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::Remote(WireError::ResourceExhausted));
        log.publish_raw("one").unwrap();
        assert!(matches!(subscription.next_raw().await.unwrap(), SubscriptionItem::Event { seq: 1, .. }));
    });
}

#[test]
fn what_a_client_cannot_do_without_is_asked_for() {
    let pair = pair();
    let endpoint = pair.sensor.bind(Endpoint::builder().client(client_tls()), 0).unwrap();
    let without_address = Client::builder(endpoint.clone()).build().unwrap_err();
    let without_time =
        Client::builder(endpoint).address(pair.gateway.address(PORT)).call_timeout(Duration::ZERO);
    for error in [without_address, without_time.build().unwrap_err()] {
        assert_eq!(error.kind(), &ErrorKind::InvalidConfig);
    }
}
