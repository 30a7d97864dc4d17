//! Deadlines of callers: what the node is told of them, and that calls which run out of time are no attack.
//! In virtual time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::simulation::{Pair, SECOND};
use futures_lite::future::{or, pending, poll_once};
use palyra_quic::{
    Bytes, Code, Connection, Context, Endpoint, ErrorKind, Next, Rate, Router, TransportLimits, WireError,
    sim::{Link, Sim},
};

const MILLI: Duration = Duration::from_millis(1);

/// A node whose method `slow` takes this long, on a link with this delay.
fn slow(
    delay: Duration,
    takes: Duration,
    limits: TransportLimits,
) -> (Pair, Endpoint, Endpoint, Arc<AtomicU32>) {
    let pair = Pair::new(1, Link::new().delay(delay));
    let (sim, begun) = (pair.sim.clone(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&begun);
    let router = Router::new().serve_raw("slow", move |_: Context, params| {
        count.fetch_add(1, Ordering::SeqCst);
        let sim = sim.clone();
        async move {
            sim.sleep(takes).await;
            Ok(params)
        }
    });
    let node = pair.serve(router, limits);
    let dialler = pair.dialler(TransportLimits::default());
    (pair, node, dialler, begun)
}

/// Calls again and again, until the connection is closed or this much time has passed.
async fn keep_calling(sim: Sim, connection: Connection, how: How, payload: Bytes, lasting: Duration) {
    let end = sim.now() + lasting;
    while sim.now() < end && connection.close_reason().is_none() {
        let call = connection.request_raw("slow", payload.clone());
        match how {
            How::Tells(timeout) => {
                let _ = call.timeout(timeout).send_raw().await;
            }
            How::Keeps(timeout) => {
                let call = async { drop(call.send_raw().await) };
                or(call, sim.sleep(timeout)).await;
            }
        }
    }
}

/// Whether the caller tells the node of its time limit, or gives up by itself.
#[derive(Clone, Copy, Debug)]
enum How {
    Tells(Duration),
    Keeps(Duration),
}

/// How the connection of `callers` callers ends, if it does.
fn outcome(callers: u32, how: How, payload: usize, delay: Duration, takes: Duration) -> Option<ErrorKind> {
    let (pair, node, dialler, _) = slow(delay, takes, TransportLimits::default());
    pair.sim.run(async {
        let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        let running = Arc::new(AtomicU32::new(callers));
        for _ in 0..callers {
            let (sim, connection, running) = (pair.sim.clone(), connection.clone(), Arc::clone(&running));
            let payload = Bytes::from(vec![7; payload]);
            pair.sim.spawn(async move {
                keep_calling(sim, connection, how, payload, 15 * SECOND).await;
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while running.load(Ordering::SeqCst) > 0 {
            pair.sim.sleep(100 * MILLI).await;
        }
        connection.close_reason().map(|error| error.kind().clone())
    })
}

#[test]
fn callers_whose_time_runs_out_are_no_attackers() {
    for (callers, how, payload, delay) in [
        (200, How::Tells(150 * MILLI), 0, MILLI),
        (200, How::Tells(150 * MILLI), 2_000, MILLI),
        (200, How::Tells(20 * MILLI), 0, MILLI),
        (60, How::Tells(60 * MILLI), 0, 20 * MILLI),
        (200, How::Tells(SECOND), 0, 10 * MILLI),
        // Those who keep their time limits to themselves do not give up sooner than anybody in good faith
        // does.
        (100, How::Keeps(200 * MILLI), 0, MILLI),
    ] {
        let closed = outcome(callers, how, payload, delay, 500 * MILLI);
        assert_eq!(closed, None, "{callers} callers, {how:?}, {payload} bytes, {delay:?}");
    }
}

/// The twin: who cancels as soon as it has called is cut off.
#[test]
fn callers_who_cancel_immediately_are_disconnected() {
    for how in [How::Keeps(5 * MILLI), How::Keeps(20 * MILLI)] {
        let closed = outcome(60, how, 0, MILLI, 500 * MILLI);
        assert_eq!(closed, Some(ErrorKind::ConnectionClosed(Code::EXCESSIVE_LOAD)), "{how:?}");
    }
}

/// And so is who tells the node of a long time limit, and does not wait for it.
#[test]
fn a_long_time_limit_excuses_nobody() {
    let (pair, node, dialler, _) = slow(MILLI, SECOND, TransportLimits::default());
    pair.sim.run(async {
        let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        while connection.close_reason().is_none() {
            for _ in 0..32 {
                let call = connection.request_raw("slow", "").timeout(10 * SECOND).send_raw();
                assert!(poll_once(call).await.is_none());
            }
            pair.sim.sleep(5 * MILLI).await;
            assert!(pair.sim.elapsed() < 60 * SECOND, "it goes on for ever");
        }
        let kind = connection.close_reason().unwrap().kind().clone();
        assert_eq!(kind, ErrorKind::ConnectionClosed(Code::EXCESSIVE_LOAD));
    });
}

/// A caller whose time limit no response can meet is not to blame for cancelling, so its method does not run.
#[test]
fn a_call_whose_time_is_up_within_a_round_trip_does_not_run() {
    for (timeout, runs) in [(5 * MILLI, false), (19 * MILLI, false), (100 * MILLI, true)] {
        let (pair, node, dialler, begun) = slow(10 * MILLI, SECOND, TransportLimits::default());
        pair.sim.run(async {
            let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
            for _ in 0..3000 {
                let call = connection.request_raw("slow", "").timeout(timeout).send_raw();
                or(async { drop(call.await) }, pair.sim.sleep(MILLI)).await;
                if runs {
                    break;
                }
            }
            pair.sim.sleep(SECOND).await;
            assert_eq!(connection.close_reason().map(|error| error.to_string()), None);
        });
        assert_eq!(begun.load(Ordering::SeqCst) > 0, runs, "{timeout:?}");
        assert_eq!(node.stats().requests_failed.deadline_exceeded > 0, !runs);
    }
}

#[test]
fn calls_that_expire_count_against_the_rate() {
    let limits = TransportLimits::builder().request_rate(Rate::per_second(1).burst(20)).build().unwrap();
    let (pair, node, dialler, _) = slow(MILLI, SECOND, limits);
    pair.sim.run(async {
        let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        for _ in 0..20 {
            let error = connection.request_raw("slow", "").timeout(10 * MILLI).send_raw().await.unwrap_err();
            assert!(error.is_timeout(), "{error}");
        }
        let error = connection.request_raw("slow", "").timeout(SECOND).send_raw().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::ResourceExhausted));
    });
}

/// What the node is told is what is left when the stream has opened, and never more.
#[test]
fn a_call_that_waited_for_a_stream_tells_what_is_left() {
    let pair = Pair::new(1, Link::new().delay(5 * MILLI));
    let told = Arc::new(Mutex::new(Vec::new()));
    let (sim, seen) = (pair.sim.clone(), Arc::clone(&told));
    let router = Router::new().serve_raw("slow", move |context: Context, params: Bytes| {
        let left = context.deadline().unwrap().saturating_duration_since(sim.now());
        seen.lock().unwrap().push((params[0], left));
        let sim = sim.clone();
        async move {
            sim.sleep(SECOND).await;
            Ok(params)
        }
    });
    let limits = TransportLimits::builder().max_concurrent_bidi_streams(1).build().unwrap();
    let node = pair.serve(router, limits);
    let dialler = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        let call = |n: u8| {
            let (connection, stream) = (connection.clone(), n == 2);
            async move {
                let call = connection.request_raw("slow", vec![n]).timeout(4 * SECOND);
                if stream {
                    drop(call.stream().await.unwrap().next_raw().await)
                } else {
                    drop(call.send_raw().await)
                }
            }
        };
        for n in 0..3 {
            pair.sim.spawn(call(n));
            pair.sim.sleep(MILLI).await;
        }
        pair.sim.sleep(5 * SECOND).await;
    });
    let told = told.lock().unwrap();
    // Which of the other two gets the stream first is open.
    let ([(0, first), (1, second), (2, third)] | [(0, first), (2, second), (1, third)]) = **told else {
        panic!("{told:?}")
    };
    // The stream is free again a round trip after the answer, and then the next request takes its way.
    assert_eq!(first, 4 * SECOND, "this one did not wait");
    assert!((2900 * MILLI..3 * SECOND).contains(&second), "{second:?}");
    assert!((1900 * MILLI..2 * SECOND).contains(&third), "{third:?}");
}

/// Encoded before a stream is opened, however long it waits for one.
#[test]
fn what_cannot_be_sent_opens_no_stream() {
    let (pair, node, dialler, _) = slow(MILLI, SECOND, TransportLimits::default());
    pair.sim.run(async {
        let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        for _ in 0..40 {
            let large = connection.request_raw("slow", vec![0; 600_000]).timeout(SECOND);
            assert_eq!(large.send_raw().await.unwrap_err().kind(), &ErrorKind::MessageTooLarge);
        }
        assert_eq!(connection.stats().calls, 0);
        assert!(connection.request_raw("slow", "").timeout(10 * SECOND).send_raw().await.is_ok());
    });
    assert_eq!(node.stats().requests, 1);
}

#[test]
fn a_deadline_that_passes_in_an_interceptor_says_that_the_handler_has_not_run() {
    for (passes_on, may_have_run) in [(false, false), (true, true)] {
        let pair = Pair::new(1, Link::new().delay(MILLI));
        let limits = TransportLimits::builder().handler_timeout(2 * SECOND).build().unwrap();
        let router = Router::new()
            .serve_raw("hang", |_: Context, _| pending())
            .serve_stream_raw("hang all", |_, _, _| pending())
            .around(move |_, next: Next| async move {
                if !passes_on {
                    pending::<()>().await;
                }
                next.run().await
            });
        let node = pair.serve(router, limits);
        let client = pair.dialler(TransportLimits::default());
        pair.sim.run(async {
            let connection = client.connect((node.local_addr().unwrap(), "gateway.example")).await.unwrap();
            let error = connection.call_raw("hang", "").await.unwrap_err();
            let mut answers = connection.stream_raw("hang all", "").await.unwrap();
            for error in [error, answers.next_raw().await.unwrap_err()] {
                assert_eq!(error.kind(), &ErrorKind::Remote(WireError::DeadlineExceeded));
                assert_eq!(error.may_have_run(), may_have_run, "{error:?}");
            }
        });
        assert_eq!(pair.sim.elapsed().as_secs(), 4);
    }
}
