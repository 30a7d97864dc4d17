//! The open connections of an endpoint, and their immediate end, in virtual time.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_lite::future::{pending, poll_once, zip};
use palyra_quic::{
    Client, Code, Connection, Context, Endpoint, ErrorKind, MethodError, Refusal, Router, TransportLimits,
    sim::Link,
};

use crate::simulation::{PORT, Pair, SECOND, client_tls, server_tls};

const CODE: Code = Code::CAPACITY;

fn pair() -> Pair {
    Pair::new(5, Link::new().delay(Duration::from_millis(10)))
}

/// An endpoint that serves and dials, on the gateway.
fn node(pair: &Pair, router: Router) -> Endpoint {
    let builder = Endpoint::builder().server(server_tls()).client(client_tls()).router(router);
    pair.gateway.bind(builder, PORT).unwrap()
}

fn dialler(pair: &Pair) -> Endpoint {
    pair.dialler(TransportLimits::default())
}

/// How many handlers have begun, and how many were dropped or have returned.
#[derive(Clone, Default)]
struct Handled {
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

struct Guard(Handled);

impl Handled {
    fn begin(&self) -> Guard {
        self.begun.fetch_add(1, SeqCst);
        Guard(self.clone())
    }

    fn counts(&self) -> (usize, usize) {
        (self.begun.load(SeqCst), self.ended.load(SeqCst))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
    }
}

/// Handlers that never return.
fn endless(handled: &Handled) -> Router {
    let (unary, streaming, notification) = (handled.clone(), handled.clone(), handled.clone());
    Router::new()
        .serve_raw("endless", move |_: Context, _| {
            let guard = unary.begin();
            async move {
                let _guard = guard;
                pending().await
            }
        })
        .serve_stream_raw("endless.stream", move |_: Context, _, mut answers| {
            let guard = streaming.begin();
            async move {
                let _guard = guard;
                answers.send_raw("first").await.map_err(|_| MethodError::internal("not sent"))?;
                pending().await
            }
        })
        .on_notification_raw("endless.told", move |_: Context, _| {
            let guard = notification.begin();
            async move {
                let _guard = guard;
                pending().await
            }
        })
}

fn count(endpoint: &Endpoint) -> usize {
    endpoint.connections().len()
}

#[test]
fn connections_are_listed_while_they_are_open_whichever_side_dialled() {
    let pair = pair();
    let node = node(&pair, Router::new());
    let (first, second) = (dialler(&pair), dialler(&pair));
    pair.sim.run(async {
        assert_eq!((count(&node), count(&first)), (0, 0));
        let address = node.local_addr().unwrap();
        let one = first.connect(address).await.unwrap();
        let client = Client::builder(second.clone()).address(address).build().unwrap();
        client.connection().await.unwrap();
        assert_eq!((count(&node), count(&first), count(&second)), (2, 1, 1));
        let listed = first.connections();
        assert_eq!(listed[0].remote_address(), address);
        let peers = node.connections();
        assert!(peers.iter().all(|peer| peer.peer().is_some()));

        // A handle from the list is like any other.
        drop(one);
        pair.sim.sleep(SECOND).await;
        assert!(listed[0].health().await.unwrap().ok);
        drop(listed);
        drop(client);
        pair.sim.sleep(SECOND).await;
        assert_eq!((count(&node), count(&first), count(&second)), (0, 0, 0));
        assert!(peers.iter().all(|peer| peer.close_reason().is_some()), "the list keeps none of them open");
    });
}

#[test]
fn many_connections_that_are_gone_leave_those_that_are_open() {
    let pair = pair();
    let (node, dialler) = (node(&pair, Router::new()), dialler(&pair));
    pair.sim.run(async {
        let address = node.local_addr().unwrap();
        let mut open = Vec::new();
        for round in 0..40 {
            let connection = dialler.connect(address).await.unwrap();
            if round % 10 == 0 {
                open.push(connection);
            }
        }
        pair.sim.sleep(SECOND).await;
        assert_eq!((count(&dialler), count(&node)), (4, 4));
    });
}

#[test]
fn a_peer_that_is_not_let_in_is_not_listed() {
    let pair = pair();
    let clock = pair.sim.clone();
    let node = node(
        &pair,
        Router::new().authorize(move |_| {
            let clock = clock.clone();
            async move {
                clock.sleep(5 * SECOND).await;
                Ok::<_, Refusal>(())
            }
        }),
    );
    pair.sim.run(async {
        let dialler = dialler(&pair);
        let _connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        pair.sim.sleep(SECOND).await;
        assert_eq!((count(&node), count(&dialler)), (0, 1));
        pair.sim.sleep(5 * SECOND).await;
        assert_eq!(count(&node), 1);
    });
}

/// Everything that can go on between two nodes, and how it ends when the node closes.
#[test]
fn closing_drops_handlers_and_fails_calls_immediately() {
    let (pair, handled, at_peer) = (pair(), Handled::default(), Handled::default());
    let node = node(&pair, endless(&handled));
    let serving = Endpoint::builder().client(client_tls()).router(endless(&at_peer));
    let dialler = pair.sensor.bind(serving, 0).unwrap();
    pair.sim.run(async {
        let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        connection.notify("endless.told", &()).await.unwrap();
        let mut responses = connection.request_raw("endless.stream", "").stream().await.unwrap();
        assert!(responses.next_raw().await.unwrap().is_some());
        let to_node = Box::pin(connection.call_raw("endless", ""));
        let back = node.connections().remove(0);
        let from_node = Box::pin(back.call_raw("endless", ""));
        let mut calls = Box::pin(zip(to_node, from_node));
        assert!(poll_once(&mut calls).await.is_none());
        pair.sim.sleep(SECOND).await;
        assert_eq!((handled.counts(), at_peer.counts()), ((3, 0), (1, 0)));

        let since = pair.sim.elapsed();
        node.close(CODE, "full");
        assert!(node.is_closed());
        assert_eq!(*node.closed().await.kind(), ErrorKind::Closed);
        assert_eq!(count(&node), 0);
        let (to_node, from_node) = calls.await;
        let (to_node, from_node) = (to_node.unwrap_err(), from_node.unwrap_err());
        assert_eq!(*to_node.kind(), ErrorKind::ConnectionClosed(CODE));
        assert_eq!(to_node.explanation(), Some("full"));
        assert_eq!(*responses.next_raw().await.unwrap_err().kind(), ErrorKind::ConnectionClosed(CODE));
        assert_eq!(*from_node.kind(), ErrorKind::Closed);
        assert_eq!(handled.counts(), (3, 3), "the notification is not handled to its end either");
        assert!(pair.sim.elapsed() - since < Duration::from_millis(100));
        pair.sim.sleep(Duration::from_millis(100)).await;
        assert_eq!(at_peer.counts(), (1, 1));

        for error in [
            node.connect(pair.gateway.address(PORT)).await.unwrap_err(),
            back.call_raw("endless", "").await.unwrap_err(),
            back.closed().await,
        ] {
            assert_eq!(*error.kind(), ErrorKind::Closed, "{error}");
        }
        // What is left to tell the peers is told, and every task has ended.
        node.shutdown(Duration::ZERO).await;
        node.close(Code::NO_ERROR, "again");
    });
}

/// The twin: an orderly end waits for the handlers.
#[test]
fn a_shutdown_lets_handlers_go_on_where_closing_drops_them() {
    let (pair, handled) = (pair(), Handled::default());
    let node = node(&pair, endless(&handled));
    pair.sim.run(async {
        let connection = dialler(&pair).connect(node.local_addr().unwrap()).await.unwrap();
        connection.notify("endless.told", &()).await.unwrap();
        let mut shutdown = Box::pin(node.shutdown(60 * SECOND));
        assert!(poll_once(&mut shutdown).await.is_none());
        pair.sim.sleep(SECOND).await;
        assert_eq!(handled.counts(), (1, 0));
        let since = pair.sim.elapsed();
        node.close(CODE, "now");
        shutdown.await;
        assert!(pair.sim.elapsed() - since <= SECOND, "it ends early");
        assert_eq!(handled.counts(), (1, 1));
        assert_eq!(*connection.closed().await.kind(), ErrorKind::ConnectionClosed(CODE));
    });
}

#[test]
fn an_endpoint_is_closed_though_a_shutdown_that_began_is_not_polled() {
    let (pair, handled) = (pair(), Handled::default());
    let node = node(&pair, endless(&handled));
    pair.sim.run(async {
        let connection = dialler(&pair).connect(node.local_addr().unwrap()).await.unwrap();
        let mut call = Box::pin(connection.call_raw("endless", ""));
        while handled.counts() == (0, 0) {
            assert!(poll_once(&mut call).await.is_none());
            pair.sim.sleep(Duration::from_millis(1)).await;
        }
        let mut kept = Box::pin(node.shutdown(60 * SECOND));
        assert!(poll_once(&mut kept).await.is_none());
        let mut closed = Box::pin(node.closed());
        assert!(poll_once(&mut closed).await.is_none());
        node.close(CODE, "now");
        assert!(node.is_closed());
        let closed = poll_once(&mut closed).await.expect("it waits for the shutdown that is kept");
        assert_eq!(*closed.kind(), ErrorKind::Closed);
        kept.await;
    });
}

#[test]
fn a_handler_may_close_its_own_endpoint() {
    let (pair, handled) = (pair(), Handled::default());
    let (closing, counting) = (Arc::<std::sync::Mutex<Option<Endpoint>>>::default(), handled.clone());
    let endpoint = Arc::clone(&closing);
    let router = Router::new().serve_raw("close", move |_: Context, params| {
        let (endpoint, guard) = (endpoint.lock().unwrap().take(), counting.begin());
        async move {
            endpoint.unwrap().close(CODE, "asked to");
            smol::future::yield_now().await;
            drop(guard);
            Ok(params)
        }
    });
    let node = node(&pair, router);
    *closing.lock().unwrap() = Some(node.clone());
    pair.sim.run(async {
        let connection: Connection = dialler(&pair).connect(node.local_addr().unwrap()).await.unwrap();
        let error = connection.call_raw("close", "").await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::ConnectionClosed(CODE));
        assert_eq!(handled.counts(), (1, 1));
        assert!(node.is_closed());
    });
}

/// Handlers that hold something whose drop panics: of a connection, and of an exchange on it.
#[test]
fn a_handler_that_panics_when_it_is_dropped_harms_nothing_else() {
    struct PanicOnDrop(Handled);

    impl Drop for PanicOnDrop {
        fn drop(&mut self) {
            self.0.ended.fetch_add(1, SeqCst);
            panic!("dropped")
        }
    }

    let (pair, handled) = (pair(), Handled::default());
    let begin = |handled: &Handled| {
        let handled = handled.clone();
        move || {
            handled.begun.fetch_add(1, SeqCst);
            let panics = PanicOnDrop(handled.clone());
            async move {
                let _panics = panics;
                pending::<()>().await
            }
        }
    };
    let (connected, called) = (begin(&handled), begin(&handled));
    let router = Router::new()
        .on_connection(move |_| connected())
        .serve_raw("endless", move |_: Context, params| {
            let handling = called();
            async move {
                handling.await;
                Ok(params)
            }
        })
        .serve_raw("echo", |_: Context, params| async move { Ok(params) });
    let node = node(&pair, router);
    pair.sim.run(async {
        let dialler = dialler(&pair);
        for round in 1..=2 {
            let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
            assert_eq!(connection.call_raw("echo", "x").await.unwrap(), "x");
            let mut call = Box::pin(connection.call_raw("endless", ""));
            while handled.begun.load(SeqCst) < 2 * round {
                assert!(poll_once(&mut call).await.is_none());
                pair.sim.sleep(Duration::from_millis(1)).await;
            }
            connection.close(Code::NO_ERROR, "");
            pair.sim.sleep(SECOND).await;
            assert_eq!(handled.counts(), (2 * round, 2 * round));
        }
        assert_eq!(node.stats().connections_open, 0);
        node.shutdown(SECOND).await;
    });
}

/// Sends twenty requests together. Each closes its connection with this code. Returns how many were begun.
fn begun_of_twenty(code: Code, send: impl AsyncFn(&Connection)) -> usize {
    let (pair, begun) = (pair(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&begun);
    let router = Router::new().serve_raw("test.close", move |context: Context, params| {
        if params == "close" {
            counter.fetch_add(1, SeqCst);
            context.connection().close(code, "");
        }
        async { Ok("".into()) }
    });
    let (_node, dialler) = (node(&pair, router), dialler(&pair));
    pair.sim.run(async {
        let connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
        send(&connection).await;
        pair.sim.sleep(SECOND).await;
    });
    begun.load(SeqCst)
}

/// Polls all of them once, so that they are sent together, and gives them up.
async fn begin_all<T>(
    calls: impl Iterator<Item = impl Future<Output = T>>,
) -> Vec<Pin<Box<impl Future<Output = T>>>> {
    let mut calls: Vec<_> = calls.map(Box::pin).collect();
    for call in &mut calls {
        assert!(poll_once(call).await.is_none());
    }
    calls
}

/// A peer that is rejected for one request has others on their way.
#[test]
fn once_a_peer_is_rejected_no_further_request_is_begun() {
    let calls = async |connection: &Connection| {
        let calls = (0..20).map(|_| connection.call_raw("test.close", "close"));
        for call in begin_all(calls).await {
            call.await.unwrap_err();
        }
    };
    #[cfg(feature = "streams")]
    let pipelined = async |connection: &Connection| {
        let pipeline = connection.pipeline_raw("test.close");
        // The stream is there.
        pipeline.call_raw("").await.unwrap();
        let calls = (0..20).map(|_| pipeline.call_raw("close"));
        for call in begin_all(calls).await {
            call.await.unwrap_err();
        }
    };
    for code in [Code::IDENTITY_REJECTED, Code::IDENTITY_EXPIRED, Code::EXCESSIVE_LOAD, Code::RATE_LIMITED] {
        assert_eq!(begun_of_twenty(code, calls), 1, "{code}");
        #[cfg(feature = "streams")]
        assert_eq!(begun_of_twenty(code, pipelined), 1, "{code}, pipelined");
    }
    // The twin: they have arrived together, and are begun if the peer is not rejected.
    assert!(begun_of_twenty(Code::NO_ERROR, calls) > 1);
    #[cfg(feature = "streams")]
    assert!(begun_of_twenty(Code::NO_ERROR, pipelined) > 1);
}
