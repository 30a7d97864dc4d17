//! One task dials for all callers of a client, whether or not they are still polled, in virtual time.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::simulation::{PORT, Pair, SECOND, client_tls, patient, server_tls};
use futures_lite::future::{or, poll_once, zip};
use palyra_quic::{
    Backoff, Client, ClientBuilder, Context, Endpoint, ErrorKind, EventLog, Result, Router, SubscriptionItem,
    TransportLimits, WallClock,
    sim::{Host, Link},
};

const MILLI: Duration = Duration::from_millis(1);

fn pair() -> Pair {
    Pair::new(1, Link::new().delay(10 * MILLI))
}

fn echo() -> Router {
    Router::new()
        .events(EventLog::new())
        .on_notification_raw("demo.note", |_, _| async {})
        .serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
}

/// A use of a client that dials.
type Use<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;
type BeginUse = fn(&Client) -> Use<'_>;

#[test]
fn what_is_polled_once_and_kept_delays_no_other_use_of_its_client() {
    let uses: [(&str, BeginUse); 5] = [
        ("connection", |client| Box::pin(async { drop(client.connection().await) })),
        ("call", |client| Box::pin(async { drop(client.call_raw("demo.echo", "x").await) })),
        ("notify", |client| Box::pin(async { drop(client.notify_raw("demo.note", "x").await) })),
        ("stream", |client| Box::pin(async { drop(client.stream_raw("demo.echo", "x").await) })),
        ("subscription", |client| {
            let mut subscription = client.subscribe_raw().open();
            Box::pin(async move { drop(subscription.next_raw().await) })
        }),
    ];
    for (name, begin) in uses {
        let pair = pair();
        let _node = pair.serve(echo(), TransportLimits::default());
        let client = pair.client(TransportLimits::default());
        pair.sim.run(async {
            let mut kept = begin(&client);
            assert!(poll_once(kept.as_mut()).await.is_none(), "{name} does not dial");
            let echoed = client.call_raw("demo.echo", "x").await;
            assert_eq!(echoed.unwrap_or_else(|error| panic!("beside {name}: {error}")), "x");
            assert!(pair.sim.elapsed() < SECOND, "beside {name}");
            drop(kept);
        });
    }
}

#[test]
fn callers_wait_for_the_same_attempts_and_get_the_same_error() {
    let pair = pair();
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        let (first, second) = zip(client.connection(), client.connection()).await;
        for error in [first.unwrap_err(), second.unwrap_err()] {
            assert_eq!(error.kind(), &ErrorKind::HandshakeTimeout);
            assert_eq!(error.peer_address(), Some(pair.gateway.address(PORT)));
        }
    });
    assert_eq!(pair.sim.elapsed().as_secs(), 10, "one attempt, and not one after the other");
}

/// Each would begin anew, and never come to the end of a handshake.
#[test]
fn calls_that_have_less_time_than_a_handshake_use_what_an_earlier_one_began() {
    let pair = Pair::new(1, Link::new().delay(800 * MILLI));
    let _node = pair.serve(echo(), TransportLimits::default());
    let builder = Client::builder(pair.dialler(TransportLimits::default())).call_timeout(2 * SECOND);
    let client = builder.address(pair.gateway.address(PORT)).build().unwrap();
    pair.sim.run(async {
        let error = client.call_raw("demo.echo", "x").await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::DeadlineExceeded);
        assert!(!error.may_have_run());
        let mut calls = 1;
        while client.call_raw("demo.echo", "x").await.is_err() {
            calls += 1;
            assert!(calls < 5, "still not connected after {calls} calls");
        }
    });
}

#[test]
fn nothing_follows_an_attempt_that_nobody_waits_for() {
    let pair = pair();
    let endpoint = pair.dialler(TransportLimits::default());
    let absent = pair.sim.host([10, 0, 0, 4]);
    let backoff = Backoff::new().first(120 * SECOND).cap(120 * SECOND);
    let builder = Client::builder(endpoint.clone()).address(pair.gateway.address(PORT));
    let client = builder.address(absent.address(PORT)).backoff(backoff).build().unwrap();
    let failed = || endpoint.stats().dials_failed.total();
    let call_briefly = || or(async { drop(client.connection().await) }, pair.sim.sleep(100 * MILLI));
    pair.sim.run(async {
        call_briefly().await;
        pair.sim.sleep(600 * SECOND).await;
        assert_eq!(failed(), 1, "the attempt in progress, and no other");
        client.connection().await.unwrap_err();
        assert_eq!(failed(), 3);
        // In the pause before the next attempt.
        call_briefly().await;
        pair.sim.sleep(600 * SECOND).await;
        assert_eq!(failed(), 3);
        client.connection().await.unwrap_err();
        assert_eq!(failed(), 5, "the next caller begins another round");
    });
}

#[test]
fn a_client_that_is_dropped_gives_up_its_attempt_and_its_endpoint() {
    let pair = pair();
    let bind = || pair.sensor.bind(Endpoint::builder().client(client_tls()).limits(patient()), 5000);
    let client = Client::builder(bind().unwrap()).address(pair.gateway.address(PORT)).build().unwrap();
    pair.sim.run(async {
        or(async { drop(client.connection().await) }, pair.sim.sleep(SECOND)).await;
        pair.sim.sleep(20 * SECOND).await;
        assert!(bind().is_err(), "the port is in use, since the attempt goes on");
        drop(client);
        pair.sim.sleep(20 * SECOND).await;
        bind().unwrap();
    });
}

#[test]
fn a_shutdown_ends_a_dial() {
    let pair = pair();
    let endpoint = pair.dialler(TransportLimits::default());
    let client = Client::builder(endpoint.clone()).address(pair.gateway.address(PORT)).build().unwrap();
    pair.sim.run(async {
        let shutdown = async {
            pair.sim.sleep(MILLI).await;
            endpoint.shutdown(Duration::ZERO).await;
        };
        let (dialled, ()) = zip(client.connection(), shutdown).await;
        assert_eq!(dialled.unwrap_err().kind(), &ErrorKind::Closed);
        assert!(pair.sim.elapsed() < 2 * SECOND);
        assert_eq!(client.connection().await.unwrap_err().kind(), &ErrorKind::Closed);
    });
}

#[test]
fn a_dial_that_panics_is_an_error_for_its_callers() {
    let pair = pair();
    let _node = pair.serve(echo(), TransportLimits::default());
    let broken = Arc::new(AtomicBool::new(true));
    let panics = Arc::clone(&broken);
    let wall_clock = WallClock::from_fn(move || {
        assert!(!panics.load(Ordering::Relaxed), "the clock is broken");
        Some(SystemTime::now())
    });
    let endpoint = Endpoint::builder().client(client_tls()).wall_clock(wall_clock);
    broken.store(false, Ordering::Relaxed);
    let endpoint = pair.sensor.bind(endpoint, 0).unwrap();
    let client = Client::builder(endpoint).address(pair.gateway.address(PORT)).build().unwrap();
    pair.sim.run(async {
        broken.store(true, Ordering::Relaxed);
        let (call, connection) = zip(client.call_raw("demo.echo", "x"), client.connection()).await;
        assert_eq!(call.unwrap_err().kind(), &ErrorKind::Closed);
        assert_eq!(connection.unwrap_err().kind(), &ErrorKind::Closed);
        broken.store(false, Ordering::Relaxed);
        assert_eq!(client.call_raw("demo.echo", "x").await.unwrap(), "x", "the next one dials again");
    });
}

/// A silent connection that was given up must not be handed out again because an earlier one is given up
/// afterwards.
#[test]
fn giving_up_an_earlier_connection_says_nothing_about_the_present_one() {
    let pair = pair();
    let (second, third) = (pair.sim.host([10, 0, 0, 3]), pair.sim.host([10, 0, 0, 4]));
    let limits = || TransportLimits::builder().idle_timeout(600 * SECOND).build().unwrap();
    let hosts = [&pair.gateway, &second, &third];
    let _nodes = hosts.map(|host| {
        let node = Endpoint::builder().server(server_tls()).limits(limits()).router(echo());
        host.bind(node, PORT).unwrap()
    });
    let builder = Client::builder(pair.dialler(limits())).call_timeout(60 * SECOND);
    let add = |builder: ClientBuilder, host: &Host| builder.address((host.address(PORT), "gateway.example"));
    let client = hosts.into_iter().fold(builder, add).build().unwrap();
    pair.sim.run(async {
        let mut patient = client.subscribe_raw().heartbeat_interval(60 * SECOND).open();
        let mut hasty = client.subscribe_raw().heartbeat_interval(10 * SECOND).open();
        for subscription in [&mut patient, &mut hasty] {
            assert_connected(subscription.next_raw().await, &pair.gateway);
        }
        pair.gateway.unplug();
        let beside = async {
            assert_disconnected(hasty.next_raw().await);
            assert_connected(hasty.next_raw().await, &second);
            second.unplug();
            assert_disconnected(hasty.next_raw().await);
            assert!(pair.sim.elapsed() < 60 * SECOND);
        };
        assert_disconnected(zip(patient.next_raw(), beside).await.0);
        assert!(pair.sim.elapsed() > 100 * SECOND, "after the second was given up");
        assert_eq!(client.call_raw("demo.echo", "x").await.unwrap(), "x");
        assert_eq!(client.connection().await.unwrap().remote_address(), third.address(PORT));
    });
}

fn assert_connected(item: Result<SubscriptionItem>, host: &Host) {
    let connected =
        matches!(&item, Ok(SubscriptionItem::Connected { address }) if *address == host.address(PORT));
    assert!(connected, "{item:?}");
}

fn assert_disconnected(item: Result<SubscriptionItem>) {
    assert!(matches!(item, Ok(SubscriptionItem::Disconnected { .. })), "{item:?}");
}
