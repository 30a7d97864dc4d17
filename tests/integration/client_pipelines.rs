//! Pipelines of clients, over connections that end, in virtual time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_lock::Semaphore;
use futures_lite::future::{self, poll_once, zip};
use palyra_quic::{
    Bytes, Client, Code, Codec, Context, Endpoint, ErrorKind, Method, MethodError, Response, Router,
    TransportLimits, WireError,
    sim::{Host, Link},
};

use crate::{
    common::{RawServer, frame, run},
    simulation::{PORT, Pair, SECOND, server_tls},
};

const MILLI: Duration = Duration::from_millis(1);
const ADD: Method<(u32, u32), u64> = Method::new("demo.add");

fn pair() -> Pair {
    Pair::new(1, Link::new().delay(10 * MILLI))
}

/// What a node does with calls, and counts, across restarts.
struct Service {
    begun: Arc<AtomicU32>,
    /// Of `demo.wait`, which takes one for each call.
    may_go: Arc<Semaphore>,
}

impl Service {
    fn new() -> Self {
        Self { begun: Arc::default(), may_go: Arc::new(Semaphore::new(0)) }
    }

    fn router(&self) -> Router {
        let (begun, may_go) = (Arc::clone(&self.begun), Arc::clone(&self.may_go));
        Router::new()
            .serve(ADD, |_, (a, b)| async move {
                let sum = u64::from(a) + u64::from(b);
                if sum == 13 { Err(MethodError::invalid_request("unlucky")) } else { Ok(sum) }
            })
            .serve_raw("demo.wait", move |_: Context, params: Bytes| {
                begun.fetch_add(1, Ordering::Relaxed);
                let may_go = Arc::clone(&may_go);
                async move {
                    may_go.acquire().await.forget();
                    Ok(params)
                }
            })
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    async fn until_begun(&self, pair: &Pair, count: u32) {
        while self.begun() < count {
            pair.sim.sleep(MILLI).await;
        }
    }
}

fn serve_at(host: &Host, router: Router) -> Endpoint {
    host.bind(Endpoint::builder().server(server_tls()).router(router), PORT).unwrap()
}

#[test]
fn a_pipeline_goes_on_with_the_next_connection() {
    let (pair, service) = (pair(), Service::new());
    let mut node = serve_at(&pair.gateway, service.router());
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        let add = client.pipeline(ADD);
        for restarts in 0..3 {
            for n in 0..10 {
                assert_eq!(add.call(&(n, 100)).await.unwrap(), u64::from(n) + 100);
            }
            let error = add.call(&(6, 7)).await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Remote(WireError::InvalidRequest), "{restarts}");
            assert!(error.to_string().contains("demo.add"), "{error}");
            // One asked whether the peer takes streams, and one opened the stream.
            assert_eq!(node.stats().requests, 13, "{restarts}");
            let lost = client.connection().await.unwrap();
            pair.gateway.crash();
            drop(node);
            node = serve_at(&pair.gateway, service.router());
            lost.closed().await;
        }
    });
}

#[test]
fn a_call_that_may_have_run_is_not_repeated() {
    let (pair, service) = (pair(), Service::new());
    let client = pair.client(TransportLimits::default());
    let node = serve_at(&pair.gateway, service.router());
    pair.sim.run(async {
        let waiting = client.pipeline_raw("demo.wait").timeout(100 * SECOND);
        let restart = async {
            service.until_begun(&pair, 1).await;
            pair.gateway.crash();
            drop(node);
            serve_at(&pair.gateway, service.router())
        };
        // Only the first has begun, but both were sent.
        let calls = zip(waiting.call_raw("1"), waiting.call_raw("2"));
        let (outcomes, _again) = zip(calls, restart).await;
        for error in [outcomes.0.unwrap_err(), outcomes.1.unwrap_err()] {
            assert!(error.may_have_run(), "{error:?}");
        }
        assert_eq!(service.begun(), 1);
        service.may_go.add_permits(1);
        assert_eq!(waiting.call_raw("3").await.unwrap(), "3", "the node is back");
    });
    assert_eq!(service.begun(), 2);
}

/// The twin: it is sent on the next connection, if the first ends before a stream is open for it.
#[test]
fn a_call_that_was_not_sent_is_repeated() {
    let (pair, service) = (pair(), Service::new());
    let limits = TransportLimits::builder().max_concurrent_bidi_streams(2).build().unwrap();
    let _node = pair.serve(service.router(), limits);
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        client.pipeline(ADD).call(&(1, 2)).await.unwrap();
        let connection = client.connection().await.unwrap();
        let mut hanging =
            Box::pin(zip(connection.call_raw("demo.wait", ""), connection.call_raw("demo.wait", "")));
        let ended = async { panic!("ended: {:?}", (&mut hanging).await) };
        future::or(ended, service.until_begun(&pair, 2)).await;
        let add = client.pipeline(ADD);
        let mut call = Box::pin(add.call(&(40, 2)));
        assert!(poll_once(&mut call).await.is_none());
        pair.sim.sleep(SECOND / 4).await;
        assert!(poll_once(&mut call).await.is_none(), "both streams are taken");
        connection.close(Code::INTERNAL, "");
        assert_eq!(call.await.unwrap(), 42);
    });
}

#[test]
fn calls_that_a_node_refuses_when_it_shuts_down_run_elsewhere() {
    let (pair, first, second) = (pair(), Service::new(), Service::new());
    let standby = pair.sim.host([10, 0, 0, 3]);
    let node = serve_at(&pair.gateway, first.router());
    let _other = serve_at(&standby, second.router());
    let client = Client::builder(pair.dialler(TransportLimits::default()))
        .address(pair.gateway.address(PORT))
        .address(standby.address(PORT))
        .build()
        .unwrap();
    second.may_go.add_permits(4);
    pair.sim.run(async {
        let waiting = client.pipeline_raw("demo.wait");
        let shutdown = async {
            first.until_begun(&pair, 1).await;
            let grace = node.shutdown(10 * SECOND);
            first.may_go.add_permits(1);
            grace.await
        };
        let call = |text: &'static str| waiting.call_raw(text);
        let calls = zip(zip(call("0"), call("1")), zip(zip(call("2"), call("3")), call("4")));
        let (answers, _) = zip(calls, shutdown).await;
        let ((zero, one), ((two, three), four)) = answers;
        for (answer, expected) in [(zero, "0"), (one, "1"), (two, "2"), (three, "3"), (four, "4")] {
            assert_eq!(answer.unwrap(), expected);
        }
    });
    assert_eq!((first.begun(), second.begun()), (1, 4), "each has run once");
}

#[test]
fn the_time_limit_of_a_call_includes_dialling() {
    let pair = pair();
    let client = pair.client(TransportLimits::default());
    let error = pair.sim.run(client.pipeline(ADD).timeout(3 * SECOND).call(&(1, 2))).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::DeadlineExceeded);
    assert!(!error.may_have_run());
    assert_eq!(pair.sim.elapsed().as_secs(), 3);
}

#[test]
fn the_time_limit_is_that_of_the_client_unless_it_is_set() {
    let (pair, service) = (pair(), Service::new());
    let _node = serve_at(&pair.gateway, service.router());
    let endpoint = pair.dialler(TransportLimits::default());
    let client =
        Client::builder(endpoint).address(pair.gateway.address(PORT)).call_timeout(SECOND).build().unwrap();
    pair.sim.run(async {
        let waiting = client.pipeline_raw("demo.wait");
        for (pipeline, seconds) in [(waiting.clone(), 1), (waiting.timeout(4 * SECOND), 4)] {
            let since = pair.sim.elapsed();
            let error = pipeline.call_raw("").await.unwrap_err();
            assert_eq!((error.kind(), error.may_have_run()), (&ErrorKind::DeadlineExceeded, true));
            assert_eq!((pair.sim.elapsed() - since).as_secs(), seconds);
            service.may_go.add_permits(1);
        }
    });
}

#[test]
fn a_pipeline_does_not_keep_a_connection_open() {
    let (pair, service) = (pair(), Service::new());
    let node = serve_at(&pair.gateway, service.router());
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        let add = client.pipeline(ADD);
        assert_eq!(add.call(&(1, 2)).await.unwrap(), 3);
        drop(client);
        assert_eq!(add.call(&(1, 2)).await.unwrap(), 3, "it is a handle to the client");
        assert_eq!(node.stats().connections_open, 1);
        drop(add);
        while node.stats().connections_open > 0 {
            pair.sim.sleep(MILLI).await;
        }
    });
}

/// A node of an earlier release, which refuses a request with the field.
#[test]
fn a_client_does_not_dial_again_for_a_peer_that_takes_no_streams() {
    run(async {
        let server = RawServer::new();
        let client = server.client();
        let serving = async {
            let peer = server.accept().await;
            while let Ok((mut send, mut recv)) = peer.accept_bi().await {
                recv.read_to_end(1000).await.unwrap();
                let mut body = Vec::new();
                Response::error(WireError::InvalidRequest).encode(Codec::Cbor, &mut body).unwrap();
                send.write_all(&frame(&body)).await.unwrap();
                send.finish().unwrap();
            }
            unreachable!("the connection stays open");
        };
        let calling = async {
            let add = client.pipeline(ADD);
            for _ in 0..3 {
                let error = add.call(&(1, 2)).await.unwrap_err();
                assert_eq!((error.kind(), error.may_have_run()), (&ErrorKind::Unsupported, false));
            }
        };
        future::or(calling, serving).await;
    });
}
