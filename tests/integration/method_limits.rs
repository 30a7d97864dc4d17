//! Limits of single methods: time, concurrency, and the rate of each peer. In virtual time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_lite::future::{or, zip};
use palyra_quic::{
    Bytes, ClientTls, Codec, Connection, Context, Endpoint, Error, ErrorKind, Exchange, MethodLimits, Next,
    Rate, Request, Response, ResponseSink, Router, TransportLimits, WireError,
    sim::{Link, Sim},
};

use crate::{
    common::{encode, loopback, run, serve, signal},
    simulation::{Pair, SECOND, authority},
};

/// How many handlers run, have run, and ran at the same time.
#[derive(Clone, Default)]
struct Meter {
    running: Arc<AtomicU32>,
    begun: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
}

impl Meter {
    fn begin(&self) -> Running {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        Running(Arc::clone(&self.running))
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::SeqCst)
    }
}

struct Running(Arc<AtomicU32>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// `slow` and `slow_stream` take as many seconds as their first byte says.
fn slow(sim: &Sim, meter: &Meter) -> Router {
    let (unary, of_stream, sim_of_stream, sim) = (meter.clone(), meter.clone(), sim.clone(), sim.clone());
    Router::new()
        .serve_raw("slow", move |_: Context, params: Bytes| {
            let (sim, running) = (sim.clone(), unary.begin());
            async move {
                sim.sleep(u32::from(params[0]) * SECOND).await;
                drop(running);
                Ok(params)
            }
        })
        .serve_stream_raw("slow_stream", move |_: Context, params: Bytes, mut answers: ResponseSink| {
            let (sim, running) = (sim_of_stream.clone(), of_stream.begin());
            async move {
                answers.send_raw(params.clone()).await?;
                sim.sleep(u32::from(params[0]) * SECOND).await;
                drop(running);
                Ok(())
            }
        })
        .serve_raw("free", |_: Context, params| async move { Ok(params) })
}

/// Runs a test with a node whose methods have these limits.
fn with(limits: MethodLimits, test: impl AsyncFnOnce(Pair, Endpoint, Connection, Meter)) {
    let (pair, meter) = (Pair::new(1, Link::new().delay(Duration::from_millis(5))), Meter::default());
    let router = slow(&pair.sim, &meter).limits("slow", limits.clone()).limits("slow_stream", limits);
    // Limits of nested methods are theirs by the full name.
    let node = pair.serve(Router::new().nest("a", router), TransportLimits::default());
    let dialler = pair.dialler(TransportLimits::default());
    let sim = pair.sim.clone();
    sim.run(async {
        let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        test(pair, node, connection, meter).await;
    });
}

async fn call(connection: &Connection, seconds: u8) -> Result<Bytes, Error> {
    connection.call_raw("a.slow", vec![seconds]).await
}

async fn stream(connection: &Connection, seconds: u8) -> Result<(), Error> {
    let mut answers = connection.stream_raw("a.slow_stream", vec![seconds]).await?;
    while answers.next_raw().await?.is_some() {}
    Ok(())
}

#[test]
fn a_method_has_a_time_limit_of_its_own() {
    for (limit, short, long) in [(2, 1, 3), (60, 50, 70)] {
        with(MethodLimits::new().handler_timeout(limit * SECOND), async |pair, _, connection, _| {
            let began = pair.sim.now();
            call(&connection, short).await.unwrap();
            stream(&connection, short).await.unwrap();
            let began_long = pair.sim.now();
            assert!(began_long - began >= 2 * u32::from(short) * SECOND);
            for error in
                [call(&connection, long).await.unwrap_err(), stream(&connection, long).await.unwrap_err()]
            {
                assert_eq!(error.kind(), &ErrorKind::Remote(WireError::DeadlineExceeded));
            }
            let took = pair.sim.now() - began_long;
            assert!((2 * limit * SECOND..(2 * limit + 1) * SECOND).contains(&took), "{took:?}");
            let call = connection.request_raw("a.slow", vec![short]).timeout(SECOND / 2);
            assert!(call.send_raw().await.unwrap_err().is_timeout(), "the caller's own is shorter");
        });
    }
}

#[test]
fn requests_above_the_concurrency_wait_for_their_turn() {
    with(MethodLimits::new().concurrency(2), async |pair, _, connection, meter| {
        let began = pair.sim.now();
        let two = || async { zip(call(&connection, 3), call(&connection, 3)).await };
        let (first, second) = zip(two(), two()).await;
        for result in [first.0, first.1, second.0, second.1] {
            result.unwrap();
        }
        let took = pair.sim.now() - began;
        assert!((6 * SECOND..7 * SECOND).contains(&took), "{took:?}");
        assert_eq!((meter.begun(), meter.most.load(Ordering::SeqCst)), (4, 2));
        // Another method has places of its own, and a third has no limit.
        let others = zip(stream(&connection, 3), connection.call_raw("a.free", "x"));
        let began = pair.sim.now();
        let (calls, others) = zip(two(), others).await;
        calls.0.and(calls.1).and(others.0.and(others.1)).unwrap();
        assert!(pair.sim.now() - began < 4 * SECOND);
    });
}

/// A peer that tells the node less time than it waits for the answer itself.
#[test]
fn a_request_whose_time_passes_while_it_waits_has_not_run() {
    run(async {
        let (go_on, gate) = signal();
        let (began, begins) = signal();
        let router = Router::new().serve_raw("gated", move |_: Context, params| {
            let (began, gate) = (began.clone(), gate.clone());
            async move {
                began.send(()).await.unwrap();
                gate.recv().await.unwrap();
                Ok(params)
            }
        });
        let server = serve(router.limits("gated", MethodLimits::new().concurrency(1)));
        let (connection, raw) = (server.connect().await, server.raw().await);
        let mut hurried = Request::new("gated");
        hurried.timeout_ms = Some(50);
        let hurried = async {
            begins.recv().await.unwrap();
            let answer = raw.request(&encode(&hurried, Codec::Cbor)).await.only();
            let Response::Error { error, not_run, .. } = answer else { panic!("{answer:?}") };
            assert_eq!((error, not_run), (WireError::DeadlineExceeded, true));
            go_on.send(()).await.unwrap();
        };
        let (held, ()) = zip(connection.call_raw("gated", "x"), hurried).await;
        assert_eq!(held.unwrap(), "x");
        assert!(begins.is_empty());
        go_on.send(()).await.unwrap();
        assert_eq!(connection.call_raw("gated", "y").await.unwrap(), "y", "the place is free again");
    });
}

#[test]
fn a_caller_that_leaves_makes_room_and_stops_waiting() {
    with(MethodLimits::new().concurrency(1), async |pair, _, connection, meter| {
        let holds = or(async { drop(call(&connection, 20).await) }, pair.sim.sleep(2 * SECOND));
        let leaves = or(async { drop(call(&connection, 20).await) }, pair.sim.sleep(SECOND));
        let waits = async {
            pair.sim.sleep(SECOND / 2).await;
            call(&connection, 1).await.unwrap();
        };
        let began = pair.sim.now();
        zip(zip(holds, leaves), waits).await;
        assert!(pair.sim.now() - began < 4 * SECOND);
        assert_eq!(meter.begun(), 2);
    });
}

#[test]
fn each_peer_has_a_rate_that_outlasts_its_connections() {
    let limits = MethodLimits::new().rate_per_peer(Rate::every(10 * SECOND).burst(2));
    with(limits, async |pair, node, connection, meter| {
        let refused = async |connection: &Connection| {
            let error = call(connection, 0).await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Remote(WireError::ResourceExhausted));
            assert!(!error.may_have_run());
            error.retry_after().unwrap()
        };
        call(&connection, 0).await.unwrap();
        call(&connection, 0).await.unwrap();
        let wait = refused(&connection).await;
        assert!((9 * SECOND..=10 * SECOND).contains(&wait), "{wait:?}");
        stream(&connection, 0).await.unwrap();
        connection.call_raw("a.free", "x").await.unwrap();
        // With the same certificate, and with another one.
        let dialler = pair.dialler(TransportLimits::default());
        let again = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        refused(&again).await;
        let other = authority().issue_client("another").unwrap();
        let tls = ClientTls::new(authority().trust()).identity(other.identity());
        let other = dialler.connect_with(&tls, node.local_addr().unwrap()).await.unwrap();
        call(&other, 0).await.unwrap();
        pair.sim.sleep(wait).await;
        call(&connection, 0).await.unwrap();
        refused(&connection).await;
        assert_eq!(meter.begun(), 5);
    });
}

#[test]
fn interceptors_see_what_the_limits_refuse() {
    let pair = Pair::new(1, Link::new().delay(Duration::from_millis(5)));
    let (meter, refused) = (Meter::default(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&refused);
    let router = slow(&pair.sim, &meter)
        .limits("slow", MethodLimits::new().rate_per_peer(Rate::every(SECOND)))
        .around(move |_: Exchange, next: Next| {
            let count = Arc::clone(&count);
            async move {
                let answer = next.run().await;
                count.fetch_add(u32::from(answer.is_err()), Ordering::SeqCst);
                answer
            }
        });
    let node = pair.serve(router, TransportLimits::default());
    let dialler = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        connection.call_raw("slow", "\0").await.unwrap();
        assert!(!connection.call_raw("slow", "\0").await.unwrap_err().may_have_run());
        assert_eq!((meter.begun(), refused.load(Ordering::SeqCst)), (1, 1));
    });
}

#[test]
fn limits_that_cannot_work_are_refused_when_the_endpoint_is_bound() {
    let serving = || Router::new().serve_raw("a", |_: Context, params| async move { Ok(params) });
    let fault = |router: Router| {
        let error = Endpoint::builder().router(router).bind(loopback()).err()?;
        assert_eq!(error.kind(), &ErrorKind::InvalidConfig);
        Some(error.to_string())
    };
    let (new, one) = (MethodLimits::new, MethodLimits::new().concurrency(1));
    assert_eq!(fault(serving().limits("a", one.clone())), None);
    assert_eq!(fault(Router::new().limits("a", new()).nest("b", serving()).serve_raw("a", echo)), None);
    for (limits, name) in [
        (new().handler_timeout(Duration::ZERO), "handler_timeout"),
        (new().handler_timeout(Duration::MAX), "handler_timeout"),
        (new().concurrency(0), "concurrency"),
        (new().rate_per_peer(Rate::per_second(0)), "rate_per_peer"),
        (new().rate_per_peer(Rate::every(Duration::MAX)), "rate_per_peer"),
    ] {
        let fault = fault(serving().limits("a", limits)).unwrap();
        assert!(fault.contains(name) && fault.contains("\"a\""), "{fault}");
    }
    let notification = || Router::new().on_notification_raw("a", |_: Context, _| async {});
    for router in [
        serving().limits("b", one.clone()),
        serving().limits("node.health", one.clone()),
        notification().limits("a", one.clone()),
        Router::new().nest("n", serving().limits("b", one.clone())),
        Router::new().nest("n", serving().limits("a", new().concurrency(0))),
        Router::new().limits("n.a", one.clone()).nest("n", serving().limits("a", one.clone())),
    ] {
        assert!(fault(router).is_some());
    }
}

async fn echo(_: Context, params: Bytes) -> Result<Bytes, palyra_quic::MethodError> {
    Ok(params)
}
