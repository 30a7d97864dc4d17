//! How often followers dial a node that does not keep them, in virtual time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::simulation::{PORT, Pair, client_tls, server_tls};
use futures_lite::future::pending;
use palyra_quic::{
    Backoff, Client, Code, Connection, Endpoint, ErrorKind, EventLog, ResponseSink, Router, SubscriptionItem,
    TransportLimits, sim::Link,
};

const MILLI: Duration = Duration::from_millis(1);
const FOLLOWERS: u64 = 150;
/// Twelve a second, in two minutes.
const MOST: u64 = 12 * 120;
/// More than anybody needs to find out that the node is not well: about ten attempts each.
const FIRST_MINUTE: u64 = 20 * FOLLOWERS;
const MINUTE: Duration = Duration::from_secs(60);

/// Who closes each connection as soon as it is up, and how.
#[derive(Clone, Copy, Debug)]
enum Closes {
    Server(Code),
    /// The follower's own side, by the connection that its client hands out.
    Follower(Code),
}

/// How many connections the server accepts from the first minute until the third, from all followers
/// together.
fn dials(closes: Closes) -> u64 {
    let pair = Pair::new(1, Link::new().delay(5 * MILLI));
    let router = Router::new().events(EventLog::new());
    let router = match closes {
        Closes::Server(code) => router.on_connection(move |connection: Connection| async move {
            connection.close(code, "");
            pending().await
        }),
        Closes::Follower(_) => router,
    };
    // Each follower has a socket of its own, as if it were a node of its own.
    let limits = TransportLimits::builder().max_connections(1000).max_handshakes(1000).build().unwrap();
    let server = Endpoint::builder().server(server_tls()).router(router).limits(limits);
    let server = pair.gateway.bind(server, PORT).unwrap();
    let terminal = Arc::new(AtomicBool::new(false));
    for _ in 0..FOLLOWERS {
        let endpoint = pair.sensor.bind(Endpoint::builder().client(client_tls()), 0).unwrap();
        let client = Client::builder(endpoint).address(pair.gateway.address(PORT)).build().unwrap();
        let terminal = Arc::clone(&terminal);
        pair.sim.spawn(async move {
            let mut subscription = client.subscribe_raw().open();
            loop {
                match subscription.next_raw().await {
                    Ok(SubscriptionItem::Connected { .. }) => {
                        if let Closes::Follower(code) = closes {
                            client.connection().await.unwrap().close(code, "");
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(error.kind(), &ErrorKind::Closed, "the end of the test: {error}");
                        terminal.store(true, Ordering::Relaxed);
                        return;
                    }
                }
            }
        });
    }
    let seen = pair.sim.run(async {
        while pair.sim.elapsed() < MINUTE && server.stats().connections_accepted < FIRST_MINUTE {
            pair.sim.sleep(MILLI * 100).await;
        }
        let after_a_minute = server.stats().connections_accepted;
        let seen = || server.stats().connections_accepted - after_a_minute;
        // Followers that dial without a pause would keep the simulation busy for hours.
        while pair.sim.elapsed() < 3 * MINUTE && after_a_minute < FIRST_MINUTE && seen() < 2 * MOST {
            pair.sim.sleep(Duration::from_secs(1)).await;
        }
        if after_a_minute < FIRST_MINUTE { seen() } else { after_a_minute }
    });
    assert!(!terminal.load(Ordering::Relaxed), "a follower gave up");
    seen
}

fn assert_seldom(closes: Closes) {
    let dials = dials(closes);
    println!("{closes:?}: {dials} dials in two minutes");
    assert!(dials > 2 * FOLLOWERS, "{closes:?}: {dials} in two minutes: some have given up");
    assert!(dials < MOST, "{closes:?}: {dials} in two minutes");
}

#[test]
fn followers_of_a_full_node_dial_ever_less_often() {
    assert_seldom(Closes::Server(Code::CAPACITY));
}

#[test]
fn followers_of_a_node_that_closes_without_a_failure_dial_ever_less_often() {
    assert_seldom(Closes::Server(Code::NO_ERROR));
}

#[test]
fn followers_that_close_their_own_connections_dial_ever_less_often() {
    assert_seldom(Closes::Follower(Code::NO_ERROR));
}

/// Reads notifications, and answers.
fn service() -> Router {
    Router::new()
        .on_notification_raw("demo.note", |_, _| async {})
        .serve_stream_raw("demo.one", |_, params, mut answers: ResponseSink| async move {
            Ok(answers.send_raw(params).await?)
        })
}

/// How many connections a node accepts in ten minutes from a client that is used once on each of them; at
/// most 1000.
fn accepted_in_ten_minutes(once: impl AsyncFn(&Client)) -> u64 {
    let pair = Pair::new(1, Link::new().delay(5 * MILLI));
    let node = pair.serve(service(), TransportLimits::default());
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        while pair.sim.elapsed() < 10 * MINUTE && node.stats().connections_accepted < 1000 {
            once(&client).await;
            client.connection().await.unwrap().close(Code::NO_ERROR, "");
        }
    });
    node.stats().connections_accepted
}

/// What was sent on a connection may never have arrived.
#[test]
fn what_a_client_has_opened_or_sent_is_no_success_before_the_peer_answers() {
    // A pause of 15 s on average, and those before the cap is reached.
    let seldom = 20..80;
    let notified = accepted_in_ten_minutes(async |client: &Client| {
        client.notify_raw("demo.note", "x").await.unwrap();
    });
    assert!(seldom.contains(&notified), "notifications: {notified}");
    let opened = accepted_in_ten_minutes(async |client: &Client| {
        drop(client.notifier().await.unwrap());
    });
    assert!(seldom.contains(&opened), "notifiers: {opened}");
    let asked = accepted_in_ten_minutes(async |client: &Client| {
        drop(client.stream_raw("demo.one", "x").await.unwrap());
    });
    assert!(seldom.contains(&asked), "streams: {asked}");
}

/// The twin: a peer that answers is dialled again soon, however often its connections end.
#[test]
fn an_answer_on_a_stream_and_acknowledged_notifications_are_successes() {
    let answered = accepted_in_ten_minutes(async |client: &Client| {
        let mut answers = client.stream_raw("demo.one", "x").await.unwrap();
        assert_eq!(answers.next_raw().await.unwrap().unwrap(), "x");
    });
    assert_eq!(answered, 1000, "streams");
    let acknowledged = accepted_in_ten_minutes(async |client: &Client| {
        let mut notifier = client.notifier().await.unwrap();
        notifier.send_raw("demo.note", "x").await.unwrap();
        notifier.finish().await.unwrap();
    });
    assert_eq!(acknowledged, 1000, "notifiers");
}

/// A client that only sends notifications gets no answers.
#[test]
fn a_connection_that_has_lasted_for_the_longest_pause_is_a_success() {
    let pair = Pair::new(1, Link::new().delay(5 * MILLI));
    let node = pair.serve(service(), TransportLimits::default());
    let backoff = Backoff::new().cap(MINUTE);
    let client = Client::builder(pair.dialler(TransportLimits::default())).backoff(backoff);
    let client = client.address(pair.gateway.address(PORT)).build().unwrap();
    pair.sim.run(async {
        // How long the client takes for another connection after one has ended that had lasted this long.
        let pause_after = async |stay: Duration| {
            client.connection().await.unwrap();
            pair.sim.sleep(stay).await;
            client.connection().await.unwrap().close(Code::NO_ERROR, "");
            let since = pair.sim.elapsed();
            client.connection().await.unwrap();
            pair.sim.elapsed() - since
        };
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            longest = longest.max(pause_after(Duration::ZERO).await);
        }
        assert!(longest > MINUTE / 2, "{longest:?}");
        for _ in 0..20 {
            let pause = pause_after(MINUTE).await;
            assert!(pause < 200 * MILLI, "{pause:?}");
        }
    });
    assert_eq!(node.stats().connections_open, 1);
}

/// A code of a class that nobody has defined is no reason to try again (docs/protocol.md, section 9).
#[test]
fn a_code_of_an_unknown_class_ends_a_subscription_and_a_call() {
    for number in [0x300, 0x3ff, 0xffff_ffff] {
        let code = Code::from_u64(number);
        let pair = Pair::new(1, Link::new().delay(5 * MILLI));
        let router = Router::new().on_connection(move |connection: Connection| async move {
            connection.close(code, "");
            pending().await
        });
        let _node = pair.serve(router, TransportLimits::default());
        let client = pair.client(TransportLimits::default());
        pair.sim.run(async {
            let mut subscription = client.subscribe_raw().open();
            let error = loop {
                match subscription.next_raw().await {
                    Ok(item) => assert!(matches!(item, SubscriptionItem::Connected { .. }), "{item:?}"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), &ErrorKind::ConnectionClosed(code));
            let error = client.call_raw("m", "").await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::ConnectionClosed(code));
            assert!(!error.is_retryable());
            assert!(pair.sim.elapsed() < MINUTE, "it was tried again and again");
        });
    }
}
