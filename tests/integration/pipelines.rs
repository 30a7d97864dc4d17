//! Many calls of one method on one stream.

use std::{
    mem,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_lock::Semaphore;
use futures_lite::future::{self, poll_once, yield_now};
use palyra_quic::{
    Bytes, Code, Codec, Connection, Context, Endpoint, ErrorKind, Item, Method, MethodError, NextCall,
    Pipeline, Response, Router, TransportLimits, WireError, sim::Link,
};
use quinn::TransportConfig;

use crate::{
    common::{RawServer, RawStream, frame, run},
    simulation::{Pair, SECOND, client_tls},
};

const ADD: Method<(u32, u32), u32> = Method::new("test.add");
const MILLI: Duration = Duration::from_millis(1);

/// What the handlers of the node do, and count.
struct Handlers {
    running: AtomicUsize,
    most_running: AtomicUsize,
    begun: AtomicU64,
    /// Of `test.slow`, which takes one for each call.
    may_go: Semaphore,
}

struct Nodes {
    pair: Pair,
    node: Endpoint,
    handlers: Arc<Handlers>,
    client: Endpoint,
}

fn nodes(link: Link, limits: &TransportLimits) -> Nodes {
    let handlers = Arc::new(Handlers {
        running: AtomicUsize::new(0),
        most_running: AtomicUsize::new(0),
        begun: AtomicU64::new(0),
        may_go: Semaphore::new(0),
    });
    let slow = {
        let handlers = Arc::clone(&handlers);
        move |_: Context, params: Bytes| {
            let handlers = Arc::clone(&handlers);
            async move {
                handlers.begun.fetch_add(1, Ordering::SeqCst);
                let running = handlers.running.fetch_add(1, Ordering::SeqCst) + 1;
                handlers.most_running.fetch_max(running, Ordering::SeqCst);
                handlers.may_go.acquire().await.forget();
                handlers.running.fetch_sub(1, Ordering::SeqCst);
                Ok(params)
            }
        }
    };
    let router = Router::new()
        .serve(ADD, |_, (a, b): (u32, u32)| async move {
            a.checked_add(b).ok_or_else(|| MethodError::invalid_request("the sum overflows"))
        })
        .serve_raw("test.echo", |_, params| async move { Ok(params) })
        .serve_raw("test.panics", |_, params: Bytes| async move {
            assert!(params.is_empty(), "the test asked for this");
            Ok(params)
        })
        .serve_raw("test.slow", slow)
        .serve_stream_raw("test.stream", |_, params, mut sink| async move {
            sink.send_raw(params).await?;
            Ok(())
        });
    let pair = Pair::new(7, link);
    let node = pair.serve(router, limits.clone());
    let client = pair.dialler(limits.clone());
    Nodes { pair, node, handlers, client }
}

impl Nodes {
    fn run(&self, test: impl AsyncFn(Connection)) {
        self.pair.sim.run(async {
            let connection =
                self.client.connect((self.node.local_addr().unwrap(), "gateway.example")).await.unwrap();
            test(connection).await;
        });
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        while !condition() {
            self.pair.sim.sleep(MILLI).await;
        }
    }
}

fn path() -> Link {
    Link::new().delay(5 * MILLI)
}

/// All of these together, in the order of their results.
async fn all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    future::poll_fn(|cx| {
        for (future, result) in &mut futures {
            if result.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *result = Some(ready);
            }
        }
        if futures.iter().all(|(_, result)| result.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, result)| result).collect()
}

#[test]
fn each_call_gets_its_answer_and_all_of_them_take_one_stream() {
    for link in [path(), path().loss(0.05), path().reordering(0.3, 20 * MILLI)] {
        let nodes = nodes(link, &TransportLimits::default());
        nodes.run(async |connection| {
            let add = connection.pipeline(ADD);
            let sums = all((0..1000).map(|n| {
                let add = add.clone();
                async move { add.call(&(n, 1)).await.unwrap() }
            }))
            .await;
            assert_eq!(sums, (1..=1000).collect::<Vec<_>>());
            let stats = nodes.node.stats();
            // One more asked whether the peer takes streams, and one opened this one.
            assert_eq!((stats.requests, stats.requests_failed.total()), (1002, 0));
            assert_eq!(connection.stats().calls, 1001);
        });
    }
}

#[test]
fn an_error_ends_its_call_and_no_other() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        let add = connection.pipeline(ADD);
        let (one, two, three) = (add.call(&(1, 1)), add.call(&(u32::MAX, 1)), add.call(&(2, 2)));
        let ((one, two), three) = future::zip(future::zip(one, two), three).await;
        assert_eq!((one.unwrap(), three.unwrap()), (2, 4));
        let error = two.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::InvalidRequest));
        assert!(error.to_string().contains("test.add"), "{error}");

        let panics = connection.pipeline_raw("test.panics");
        let error = panics.call_raw("now").await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Internal));
        assert!(error.may_have_run());
        assert_eq!(panics.call_raw("").await.unwrap(), "");
    });
}

#[test]
fn calls_of_a_stream_run_one_after_another_and_delay_no_other_stream() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        let slow = connection.pipeline_raw("test.slow");
        let (mut first, mut second) = (Box::pin(slow.call_raw("1")), Box::pin(slow.call_raw("2")));
        assert!(poll_once(future::race(&mut first, &mut second)).await.is_none());
        nodes.until(|| nodes.handlers.begun.load(Ordering::SeqCst) == 1).await;
        // Other streams go on, pipelines and calls.
        assert_eq!(connection.pipeline(ADD).call(&(1, 2)).await.unwrap(), 3);
        assert_eq!(connection.call(ADD, &(1, 2)).await.unwrap(), 3);
        nodes.handlers.may_go.add_permits(2);
        let (first, second) = future::zip(first, second).await;
        assert_eq!((first.unwrap(), second.unwrap()), (Bytes::from("1"), Bytes::from("2")));
        assert_eq!(nodes.handlers.most_running.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn an_answer_does_not_wait_for_a_slow_call_behind_it() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        nodes.handlers.may_go.add_permits(1);
        let slow = connection.pipeline_raw("test.slow");
        let mut behind = Box::pin(slow.call_raw("behind"));
        let first = future::or(async { slow.call_raw("first").await.map(Some) }, async {
            // Both are sent together.
            yield_now().await;
            (&mut behind).await.map(|_| None)
        });
        assert_eq!(first.await.unwrap().as_deref(), Some(&b"first"[..]));
        nodes.handlers.may_go.add_permits(1);
        assert_eq!(behind.await.unwrap(), "behind");
    });
}

#[test]
fn the_answer_of_a_call_that_was_cancelled_goes_to_nobody() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        let slow = connection.pipeline_raw("test.slow");
        let mut cancelled = Box::pin(slow.call_raw("cancelled"));
        assert!(poll_once(&mut cancelled).await.is_none());
        nodes.until(|| nodes.handlers.begun.load(Ordering::SeqCst) == 1).await;
        drop(cancelled);
        nodes.handlers.may_go.add_permits(2);
        assert_eq!(slow.call_raw("kept").await.unwrap(), "kept");
        assert_eq!(nodes.node.stats().connections_excessive, 0);
    });
}

#[test]
fn the_last_handle_ends_the_stream_and_drops_a_handler_that_nobody_waits_for() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        let slow = connection.pipeline_raw("test.slow");
        let other = slow.clone();
        let mut cancelled = Box::pin(slow.call_raw("cancelled"));
        assert!(poll_once(&mut cancelled).await.is_none());
        nodes.until(|| nodes.handlers.begun.load(Ordering::SeqCst) == 1).await;
        drop(cancelled);
        drop(slow);
        nodes.pair.sim.sleep(SECOND).await;
        assert_eq!(nodes.node.stats().streams_reset_by_peers, 0, "the twin: a handle is left");
        drop(other);
        nodes.until(|| nodes.node.stats().streams_reset_by_peers == 1).await;
    });
}

#[test]
fn a_reset_stops_the_running_call_and_those_behind_it_do_not_begin() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        let (mut calls, mut answers) = connection.bidi_raw("test.slow", "").await.unwrap();
        for n in 0..3 {
            calls.send_raw(vec![n]).await.unwrap();
        }
        nodes.until(|| nodes.handlers.begun.load(Ordering::SeqCst) == 1).await;
        // The answers are still waited for.
        drop(calls);
        let began = nodes.pair.sim.elapsed();
        let error = answers.next_raw().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::StreamReset(Code::CANCELLED));
        assert!(nodes.pair.sim.elapsed() - began < SECOND);
        nodes.handlers.may_go.add_permits(10);
        nodes.pair.sim.sleep(SECOND).await;
        assert_eq!(nodes.handlers.begun.load(Ordering::SeqCst), 1);
        assert_eq!(nodes.node.stats().streams_reset_by_peers, 1);
    });
}

#[test]
fn a_stream_that_is_idle_for_long_is_opened_again_by_the_next_call() {
    let limits = TransportLimits::builder().handler_timeout(2 * SECOND).build().unwrap();
    let nodes = nodes(path(), &limits);
    nodes.run(async |connection| {
        let add = connection.pipeline(ADD);
        for round in 0..3 {
            assert_eq!(add.call(&(round, 1)).await.unwrap(), round + 1);
            nodes.pair.sim.sleep(3 * SECOND).await;
        }
        // Just when the node ends the stream: the call is repeated on another one.
        for microseconds in (1_980_000..2_020_000).step_by(500) {
            add.call(&(1, 1)).await.unwrap();
            nodes.pair.sim.sleep(Duration::from_micros(microseconds)).await;
            assert_eq!(add.call(&(2, 2)).await.unwrap(), 4);
        }
    });
}

#[test]
fn time_limits_and_rates_are_those_of_single_calls() {
    let limits = TransportLimits::builder().handler_timeout(2 * SECOND).build().unwrap();
    let nodes = nodes(path(), &limits);
    nodes.run(async |connection| {
        let slow = connection.pipeline_raw("test.slow");
        let (late, behind) = (slow.call_raw("too slow"), async {
            yield_now().await;
            slow.call_raw("behind").await
        });
        let release = async {
            nodes.until(|| nodes.handlers.begun.load(Ordering::SeqCst) == 2).await;
            nodes.handlers.may_go.add_permits(1);
        };
        let ((late, behind), ()) = future::zip(future::zip(late, behind), release).await;
        let late = late.unwrap_err();
        assert_eq!(late.kind(), &ErrorKind::Remote(WireError::DeadlineExceeded));
        assert!(late.may_have_run());
        assert_eq!(behind.unwrap(), "behind");
        // A limit of the caller is its own matter.
        let error = slow.clone().timeout(50 * MILLI).call_raw("impatient").await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_run()), (&ErrorKind::DeadlineExceeded, true));
        nodes.handlers.may_go.add_permits(1);
    });
}

#[test]
fn methods_that_take_no_pipelines_say_so() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        for (method, expected) in [
            ("test.stream", WireError::InvalidRequest),
            ("test.unknown", WireError::UnsupportedMethod),
            ("node.health", WireError::InvalidRequest),
        ] {
            let error = connection.pipeline_raw(method).call_raw("").await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Remote(expected), "{method}");
            assert!(!error.may_have_run(), "{method}");
        }
        assert_eq!(connection.call(ADD, &(1, 2)).await.unwrap(), 3);
    });
}

#[test]
fn a_stream_that_is_refused_fails_all_calls_with_the_refusal() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        let unknown: Pipeline = connection.pipeline_raw("test.unknown");
        for result in all((0..10).map(|_| unknown.call_raw(""))).await {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Remote(WireError::UnsupportedMethod));
            assert!(!error.may_have_run());
        }
        // One for each stream, and one of `node.health`.
        assert_eq!(nodes.node.stats().requests, 3);
    });
}

#[test]
fn a_call_that_nobody_waits_for_is_not_sent_if_it_has_not_been() {
    let limits = TransportLimits::builder().max_concurrent_bidi_streams(2).build().unwrap();
    let nodes = nodes(path(), &limits);
    nodes.run(async |connection| {
        assert_eq!(connection.pipeline(ADD).call(&(1, 2)).await.unwrap(), 3, "the peer was asked");
        let mut waiting =
            Box::pin(future::zip(connection.call_raw("test.slow", ""), connection.call_raw("test.slow", "")));
        let ended = async { panic!("ended: {:?}", (&mut waiting).await) };
        future::or(ended, nodes.until(|| nodes.handlers.begun.load(Ordering::SeqCst) == 2)).await;
        // No stream can be opened.
        let slow = connection.pipeline_raw("test.slow");
        let mut cancelled = Box::pin(slow.call_raw("cancelled"));
        let mut kept = Box::pin(slow.call_raw("kept"));
        assert!(poll_once(&mut cancelled).await.is_none());
        assert!(poll_once(&mut kept).await.is_none());
        drop(cancelled);
        let error = slow.clone().timeout(SECOND).call_raw("late").await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_run()), (&ErrorKind::DeadlineExceeded, false));
        nodes.handlers.may_go.add_permits(10);
        waiting.await.0.unwrap();
        assert_eq!(kept.await.unwrap(), "kept");
        assert_eq!(slow.call_raw("last").await.unwrap(), "last");
        assert_eq!(nodes.handlers.begun.load(Ordering::SeqCst), 4);
    });
}

#[test]
fn a_connection_that_is_lost_fails_all_calls_and_says_which_may_have_run() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        let slow = connection.pipeline_raw("test.slow");
        let calls = all((0..10).map(|n: u32| slow.call_raw(n.to_string())));
        let close = async {
            nodes.until(|| nodes.handlers.begun.load(Ordering::SeqCst) == 1).await;
            connection.close(Code::NO_ERROR, "");
        };
        let (results, ()) = future::zip(calls, close).await;
        for result in results {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Closed);
            assert!(error.may_have_run());
        }
        let error = slow.call_raw("").await.unwrap_err();
        assert!(!error.may_have_run(), "it could not be sent");
    });
}

#[test]
fn a_shutdown_answers_what_was_taken_and_refuses_the_rest() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        let slow = connection.pipeline_raw("test.slow");
        let shutdown = async {
            nodes.until(|| nodes.handlers.begun.load(Ordering::SeqCst) == 1).await;
            let grace = nodes.node.shutdown(10 * SECOND);
            nodes.handlers.may_go.add_permits(1);
            grace.await;
        };
        let calls = all((0..5).map(|n: u32| slow.call_raw(n.to_string())));
        let (results, _) = future::zip(calls, shutdown).await;
        let mut results = results.into_iter();
        assert_eq!(results.next().unwrap().unwrap(), "0");
        for refused in results {
            let refused = refused.unwrap_err();
            assert!(!refused.may_have_run(), "{refused}");
            assert_eq!(refused.kind(), &ErrorKind::Remote(WireError::Unavailable));
        }
        assert_eq!(nodes.handlers.begun.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn the_shutdown_of_the_caller_waits_for_answers() {
    let nodes = nodes(path(), &TransportLimits::default());
    nodes.run(async |connection| {
        let slow = connection.pipeline_raw("test.slow");
        let shutdown = async {
            nodes.until(|| nodes.handlers.begun.load(Ordering::SeqCst) == 1).await;
            let mut shutdown = pin!(nodes.client.shutdown(60 * SECOND));
            assert!(poll_once(&mut shutdown).await.is_none());
            nodes.pair.sim.sleep(SECOND).await;
            nodes.handlers.may_go.add_permits(2);
            shutdown.await;
        };
        let calls = future::zip(slow.call_raw("1"), slow.call_raw("2"));
        let ((first, second), ()) = future::zip(calls, shutdown).await;
        assert_eq!((first.unwrap(), second.unwrap()), ("1".into(), "2".into()));
    });
}

#[test]
fn each_call_has_a_context_of_its_own_that_is_over_with_it() {
    let kept = Arc::<Mutex<Vec<Context>>>::default();
    let keeps = {
        let kept = Arc::clone(&kept);
        move |context: Context, params: Bytes| {
            let was_over = context.is_over();
            if params == "keep" {
                kept.lock().unwrap().push(context);
            }
            async move { Ok(Bytes::from(was_over.to_string())) }
        }
    };
    let pair = Pair::new(7, path());
    let node = pair.serve(Router::new().serve_raw("test.keeps", keeps), TransportLimits::default());
    let client = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let connection = client.connect((node.local_addr().unwrap(), "gateway.example")).await.unwrap();
        let keeps = connection.pipeline_raw("test.keeps");
        for _ in 0..2 {
            for params in ["keep", "", "keep", "keep"] {
                assert_eq!(keeps.call_raw(params).await.unwrap(), "false");
                pair.sim.sleep(SECOND).await;
            }
            let kept = mem::take(&mut *kept.lock().unwrap());
            assert!(kept.is_sorted_by(|a, b| a.deadline() < b.deadline()), "{kept:?}");
            for context in kept {
                assert!(context.is_over() && poll_once(context.over()).await.is_some());
            }
        }
    });
}

#[test]
fn ten_thousand_calls_that_nobody_reads_take_no_more_memory_than_their_windows() {
    let limits = TransportLimits::within(16 * 1024 * 1024).unwrap();
    let nodes = nodes(path(), &limits);
    nodes.run(async |connection| {
        let echo: Pipeline = connection.pipeline_raw("test.echo");
        let payload = Bytes::from(vec![7; 1000]);
        let answers = all((0..10_000).map(|_| echo.call_raw(payload.clone()))).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap() == payload));
        assert_eq!(nodes.node.stats().connections_excessive, 0);
    });
}

/// A node of an earlier release, which refuses a request with the field.
#[test]
fn a_peer_that_takes_no_streams_is_asked_once_and_gets_no_calls() {
    run(async {
        let server = RawServer::new();
        let (connection, peer) = server.connect().await;
        let peer = smol::spawn(async move {
            let mut requests = 0;
            while let Ok((mut send, mut recv)) = peer.accept_bi().await {
                recv.read_to_end(1000).await.unwrap();
                requests += 1;
                let mut body = Vec::new();
                Response::error(WireError::InvalidRequest).encode(Codec::Cbor, &mut body).unwrap();
                send.write_all(&frame(&body)).await.unwrap();
                send.finish().unwrap();
            }
            requests
        });
        for _ in 0..3 {
            let error = connection.pipeline(ADD).call(&(1, 2)).await.unwrap_err();
            assert_eq!((error.kind(), error.may_have_run()), (&ErrorKind::Unsupported, false));
        }
        assert!(connection.close_reason().is_none());
        connection.close(Code::NO_ERROR, "");
        assert_eq!(peer.await, 1);
    });
}

/// Answers the question that comes before the first stream of calls, whether this peer takes any.
async fn takes_streams(peer: &quinn::Connection) {
    let mut stream = RawStream::accept(peer).await;
    stream.next().await;
    stream.send(&frame(&encoded(&Response::health()))).await;
    stream.finish();
}

fn encoded(response: &Response) -> Vec<u8> {
    let mut body = Vec::new();
    response.encode(Codec::Cbor, &mut body).unwrap();
    body
}

#[test]
fn an_answer_of_another_kind_ends_the_stream_at_once() {
    run(async {
        let server = RawServer::new();
        let (connection, peer) = server.connect().await;
        let calls: Pipeline = connection.pipeline_raw("m");
        let asking = async {
            takes_streams(&peer).await;
            let mut stream = RawStream::accept(&peer).await;
            for _request_and_calls in 0..4 {
                stream.next().await;
            }
            stream.send(&frame(&encoded(&Response::result(Some("1".into()))))).await;
            stream.send(&frame(&encoded(&Response::event(1, None, None)))).await;
            stream.stopped().await
        };
        let (mut results, stopped) = future::zip(all((0..3).map(|_| calls.call_raw("x"))), asking).await;
        assert_eq!(stopped, Some(Code::PROTOCOL_VIOLATION));
        assert_eq!(results.remove(0).unwrap(), "1");
        for result in results {
            let error = result.unwrap_err();
            assert_eq!((error.kind(), error.may_have_run()), (&ErrorKind::Protocol, true));
        }
    });
}

#[test]
fn calls_behind_the_end_of_a_stream_go_on_the_next_one_and_each_runs_once() {
    run(async {
        let server = RawServer::new();
        let (connection, peer) = server.connect().await;
        let calls: Pipeline = connection.pipeline_raw("m");
        let serving = async {
            takes_streams(&peer).await;
            let (mut served, mut streams) = (Vec::new(), 0);
            while served.len() < 100 {
                let mut stream = RawStream::accept(&peer).await;
                streams += 1;
                stream.next().await;
                for _ in 0..11.min(100 - served.len()) {
                    let params = Item::decode(&stream.next().await.into()).unwrap().params.unwrap();
                    stream.send(&frame(&encoded(&Response::result(Some(params.clone()))))).await;
                    served.push(params);
                }
                stream.finish();
                stream.stop(Code::NO_ERROR);
            }
            (served, streams)
        };
        let calling = all((0..100_u8).map(|n| calls.call_raw(vec![n])));
        let (results, (mut served, streams)) = future::zip(calling, serving).await;
        for (n, result) in (0..).zip(results) {
            assert_eq!(result.unwrap(), [n][..]);
        }
        served.sort();
        assert_eq!(served, (0..100).map(|n| Bytes::from(vec![n])).collect::<Vec<_>>());
        assert_eq!(streams, 10);
    });
}

/// A peer that reads all calls and answers none must not make a caller remember ever more of them.
#[test]
fn callers_wait_while_a_peer_owes_many_answers_that_nobody_waits_for() {
    run(async {
        let server = RawServer::new();
        let (connection, peer) = server.connect().await;
        let calls: Pipeline = connection.pipeline_raw("m");
        let answer = frame(&encoded(&Response::result(Some("answer".into()))));
        let (first, mut stream) = future::zip(calls.call_raw("first"), async {
            takes_streams(&peer).await;
            let mut stream = RawStream::accept(&peer).await;
            for _request_and_call in 0..2 {
                stream.next().await;
            }
            stream.send(&answer).await;
            stream
        })
        .await;
        assert_eq!(first.unwrap(), "answer");
        for _ in 0..1024 / 64 {
            let mut abandoned: Vec<_> = (0..64).map(|_| Box::pin(calls.call_raw("abandoned"))).collect();
            for call in &mut abandoned {
                assert!(poll_once(call).await.is_none());
            }
            for _ in 0..64 {
                stream.next().await;
            }
        }
        let late = calls.clone().timeout(50 * MILLI).call_raw("late").await.unwrap_err();
        assert_eq!((late.kind(), late.may_have_run()), (&ErrorKind::DeadlineExceeded, false));
        let mut kept = Box::pin(calls.call_raw("kept"));
        assert!(poll_once(&mut kept).await.is_none());
        let answering = async {
            stream.send(&answer).await;
            let sent = Item::decode(&stream.next().await.into()).unwrap();
            assert_eq!(sent.params.unwrap(), "kept");
            for _ in 0..1024 {
                stream.send(&answer).await;
            }
        };
        assert_eq!(future::zip(kept, answering).await.0.unwrap(), "answer");
    });
}

#[test]
fn a_peer_that_ends_each_stream_at_once_is_not_asked_for_ever() {
    run(async {
        let server = RawServer::new();
        let (connection, peer) = server.connect().await;
        let calls: Pipeline = connection.pipeline_raw("m");
        let ending = async {
            takes_streams(&peer).await;
            let mut streams = 0;
            loop {
                let Ok((mut send, mut recv)) = peer.accept_bi().await else { return streams };
                streams += 1;
                send.finish().unwrap();
                recv.stop(0_u8.into()).unwrap();
            }
        };
        let calling = async {
            for result in all((0..20).map(|_| calls.call_raw("x"))).await {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), &ErrorKind::StreamReset(Code::NO_ERROR));
                assert!(!error.may_have_run() && error.is_retryable(), "{error}");
            }
            connection.close(Code::NO_ERROR, "");
        };
        let (streams, ()) = future::zip(ending, calling).await;
        // Two for each call that begins when the streams of the others have ended.
        assert!((2..=40).contains(&streams), "{streams}");
    });
}

#[test]
fn a_peer_that_does_not_answer_the_first_question_is_left_with_the_pipeline() {
    run(async {
        let server = RawServer::new();
        let (connection, peer) = server.connect().await;
        let calls: Pipeline = connection.pipeline_raw("m");
        let mut call = Box::pin(calls.call_raw("x"));
        assert!(poll_once(&mut call).await.is_none());
        let mut question = RawStream::accept(&peer).await;
        drop(call);
        drop(calls);
        assert_eq!(question.stopped().await, Some(Code::CANCELLED));
    });
}

#[test]
fn a_peer_that_does_not_read_is_left_with_the_pipeline() {
    run(async {
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(4_u8.into());
        let server = RawServer::within(transport);
        let (connection, peer) = server.connect().await;
        let calls: Pipeline = connection.pipeline_raw("m");
        let mut call = Box::pin(calls.call_raw("x"));
        assert!(poll_once(&mut call).await.is_none());
        takes_streams(&peer).await;
        // The request does not fit into the window, so that the caller waits in the middle of it.
        let mut stream = RawStream::accept(&peer).await;
        drop(call);
        drop(calls);
        assert_eq!(stream.recv.received_reset().await.unwrap().map(Code::from), Some(Code::CANCELLED));
        assert_eq!(stream.stopped().await, Some(Code::CANCELLED));
    });
}

#[test]
fn a_peer_that_does_not_finish_is_left_after_a_while() {
    run(async {
        let server = RawServer::new();
        let limits = TransportLimits::builder().handler_timeout(1000 * MILLI).build().unwrap();
        let (connection, peer) = server.connect_from(Endpoint::builder().limits(limits)).await;
        let calls: Pipeline = connection.pipeline_raw("m");
        let answering = async {
            takes_streams(&peer).await;
            let mut stream = RawStream::accept(&peer).await;
            for _request_and_call in 0..2 {
                stream.next().await;
            }
            stream.send(&frame(&encoded(&Response::result(None)))).await;
            stream
        };
        let (answer, mut stream) = future::zip(calls.call_raw("x"), answering).await;
        assert_eq!(answer.unwrap(), "");
        drop(calls);
        assert_eq!(stream.recv.read_to_end(0).await.unwrap(), b"", "the calls are complete");
        assert_eq!(stream.stopped().await, Some(Code::CANCELLED));
    });
}

#[test]
fn a_peer_that_takes_no_more_calls_and_does_not_finish_is_left_with_the_pipeline() {
    run(async {
        let server = RawServer::new();
        let (connection, peer) = server.connect().await;
        let calls: Pipeline = connection.pipeline_raw("m");
        let mut call = Box::pin(calls.call_raw("x"));
        assert!(poll_once(&mut call).await.is_none());
        takes_streams(&peer).await;
        let mut stream = RawStream::accept(&peer).await;
        for _request_and_call in 0..2 {
            stream.next().await;
        }
        stream.stop(Code::NO_ERROR);
        stream.send(&frame(&encoded(&Response::result(None)))).await;
        assert_eq!(call.await.unwrap(), "");
        // It cannot be written, and is not answered.
        let error = calls.clone().timeout(200 * MILLI).call_raw("x").await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::DeadlineExceeded);
        drop(calls);
        assert_eq!(stream.stopped().await, Some(Code::CANCELLED));
    });
}

#[test]
fn a_peer_may_have_half_of_its_exchanges_as_streams_of_calls() {
    let limits = TransportLimits::builder().max_concurrent_bidi_streams(4).build().unwrap();
    let nodes = nodes(path(), &limits);
    nodes.run(async |connection| {
        let pipelines: Vec<_> = (0..3).map(|_| connection.pipeline(ADD)).collect();
        assert_eq!(pipelines[0].call(&(1, 2)).await.unwrap(), 3);
        assert_eq!(pipelines[1].call(&(1, 2)).await.unwrap(), 3);
        let error = pipelines[2].call(&(1, 2)).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::ResourceExhausted));
        assert!(!error.may_have_run() && error.retry_after().is_some());
        assert_eq!(connection.call(ADD, &(1, 2)).await.unwrap(), 3, "there is room for others");
    });
}

#[test]
fn interceptors_of_the_caller_run_around_each_call() {
    let nodes = nodes(path(), &TransportLimits::default());
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let builder = Endpoint::builder().client(client_tls()).around_calls(move |call, next: NextCall| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            assert_eq!(call.method(), "test.add");
            next.run().await
        }
    });
    let client = nodes.pair.sensor.bind(builder, 0).unwrap();
    nodes.pair.sim.run(async {
        let connection = client.connect((nodes.node.local_addr().unwrap(), "gateway.example")).await.unwrap();
        let add = connection.pipeline(ADD);
        for n in 0..5 {
            assert_eq!(add.call(&(n, 2)).await.unwrap(), n + 2);
        }
    });
    assert_eq!(seen.load(Ordering::SeqCst), 5);
}
