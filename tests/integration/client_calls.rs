//! What clients do beyond plain calls, over connections that end, in virtual time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::simulation::{PORT, Pair, SECOND, server_tls};
use futures_lite::{
    StreamExt,
    future::{pending, poll_once, zip},
};
use palyra_quic::{
    Client, Code, Codec, Context, Endpoint, ErrorKind, EventLog, LogMethod, Method, MethodError,
    NotificationMethod, Response, ResponseSink, Router, StreamingMethod, Subscription, SubscriptionItem,
    TransportLimits, WireError,
    sim::{Host, Link},
};
use smol::channel::{self, Receiver, Sender};

const MILLI: Duration = Duration::from_millis(1);

const ADD: Method<(u32, u32), u64> = Method::new("demo.add");
const COUNT: StreamingMethod<u32, u32> = StreamingMethod::new("demo.count");
const NOTE: NotificationMethod<u32> = NotificationMethod::new("demo.note");
/// Degrees Celsius.
const READINGS: LogMethod<i32> = LogMethod::NODE;

fn pair() -> Pair {
    Pair::new(1, Link::new().delay(10 * MILLI))
}

/// What a node sees of its callers, across restarts.
struct Service {
    /// How many calls of `demo.hang` and `demo.count` have begun.
    begun: Arc<AtomicU32>,
    heard: Sender<u32>,
    notes: Receiver<u32>,
}

impl Service {
    fn new() -> Self {
        let (heard, notes) = channel::unbounded();
        Self { begun: Arc::default(), heard, notes }
    }

    fn router(&self) -> Router {
        let (hung, counted) = (Arc::clone(&self.begun), Arc::clone(&self.begun));
        let heard = self.heard.clone();
        Router::new()
            .serve(ADD, |_, (a, b)| async move { Ok(u64::from(a) + u64::from(b)) })
            .serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
            .serve_raw("demo.hang", move |_: Context, _| {
                hung.fetch_add(1, Ordering::Relaxed);
                pending()
            })
            // Counts to its parameter, and then stays open.
            .serve_stream(COUNT, move |_, last, mut answers: ResponseSink<u32>| {
                counted.fetch_add(1, Ordering::Relaxed);
                async move {
                    for n in 1..=last {
                        answers.send(&n).await?;
                    }
                    pending::<Result<(), MethodError>>().await
                }
            })
            .on_notification(NOTE, move |_: Context, n| {
                let heard = heard.clone();
                async move { heard.try_send(n).unwrap() }
            })
    }
}

fn serve_at(host: &Host, router: Router) -> Endpoint {
    host.bind(Endpoint::builder().server(server_tls()).router(router), PORT).unwrap()
}

/// A client whose own time limit for calls is a second.
fn hasty_client(pair: &Pair) -> Client {
    let endpoint = pair.dialler(TransportLimits::default());
    Client::builder(endpoint).address(pair.gateway.address(PORT)).call_timeout(SECOND).build().unwrap()
}

async fn until_begun(pair: &Pair, begun: &AtomicU32, count: u32) {
    while begun.load(Ordering::Relaxed) < count {
        pair.sim.sleep(10 * MILLI).await;
    }
}

#[test]
fn methods_bring_their_types_to_a_client() {
    let (pair, service) = (pair(), Service::new());
    let _node = serve_at(&pair.gateway, service.router());
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        assert_eq!(client.call(ADD, &(40, 2)).await.unwrap(), 42);
        assert_eq!(client.call::<_, u64>("demo.add", &(40, 2)).await.unwrap(), 42);
        let call = client.request(ADD, &(40, 2)).unwrap().timeout(SECOND);
        assert_eq!(call.clone().send().await.unwrap(), 42);
        assert_eq!(call.send_raw().await.unwrap(), [24, 42][..]);
        let mut answers = client.stream(COUNT, &2).await.unwrap();
        assert_eq!(answers.next().await.unwrap(), Some(1));
        assert_eq!(answers.next().await.unwrap(), Some(2));
        client.notify(NOTE, &7).await.unwrap();
        assert_eq!(service.notes.recv().await.unwrap(), 7);
        client.notify("demo.note", &8_u32).await.unwrap();
        assert_eq!(service.notes.recv().await.unwrap(), 8);
        let wrong = client.call::<_, String>("demo.add", &(40, 2)).await.unwrap_err();
        assert_eq!(wrong.kind(), &ErrorKind::Codec);
        assert!(wrong.may_have_run(), "the peer has answered");
    });
}

#[cfg(feature = "json")]
#[test]
fn a_call_of_a_client_may_be_in_json() {
    let (pair, service) = (pair(), Service::new());
    let _node = serve_at(&pair.gateway, service.router());
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        let call = client.request_raw("demo.echo", "x").codec(Codec::Json);
        assert_eq!(call.send_raw().await.unwrap(), "x");
        // Base64 takes a third more, so that what fits into a frame in CBOR does not in JSON.
        let large = client.request_raw("demo.echo", vec![0; 450_000]);
        assert_eq!(large.clone().send_raw().await.unwrap().len(), 450_000);
        let error = large.codec(Codec::Json).send_raw().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::MessageTooLarge);
    });
}

#[test]
fn the_time_limit_of_a_call_overrides_that_of_its_client() {
    let (pair, service) = (pair(), Service::new());
    let _node = serve_at(&pair.gateway, service.router());
    let client = hasty_client(&pair);
    pair.sim.run(async {
        client.connection().await.unwrap();
        for (limit, expected) in [(Some(3 * SECOND), 3), (Some(SECOND / 4), 0), (None, 1)] {
            let call = client.request_raw("demo.hang", "");
            let call = limit.into_iter().fold(call, |call, limit| call.timeout(limit));
            let since = pair.sim.elapsed();
            let error = call.send_raw().await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::DeadlineExceeded);
            assert!(error.may_have_run(), "{error:?}");
            assert_eq!((pair.sim.elapsed() - since).as_secs(), expected, "{limit:?}");
        }
    });
    assert_eq!(service.begun.load(Ordering::Relaxed), 3, "none was repeated");
}

/// Each attempt ends by `handshake_timeout`, 10 s; the third is cut short.
#[test]
fn the_time_limit_of_a_call_includes_dialling() {
    let pair = pair();
    let client = hasty_client(&pair);
    let error = pair.sim.run(client.request_raw("demo.echo", "").timeout(25 * SECOND).send_raw());
    let error = error.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::HandshakeTimeout);
    assert!(!error.may_have_run());
    assert_eq!(pair.sim.elapsed().as_secs(), 25);
}

#[test]
fn a_request_that_may_have_run_is_not_repeated() {
    let (pair, service) = (pair(), Service::new());
    let client = pair.client(TransportLimits::default());
    let node = serve_at(&pair.gateway, service.router());
    pair.sim.run(async {
        let restart = async {
            until_begun(&pair, &service.begun, 1).await;
            pair.gateway.crash();
            drop(node);
            serve_at(&pair.gateway, service.router())
        };
        let call = client.request_raw("demo.hang", "").timeout(100 * SECOND);
        let (outcome, _again) = zip(call.send_raw(), restart).await;
        let error = outcome.unwrap_err();
        assert!(error.may_have_run(), "{error:?}");
        assert_eq!(client.call_raw("demo.echo", "x").await.unwrap(), "x", "the node is back");
    });
    assert_eq!(service.begun.load(Ordering::Relaxed), 1);
}

/// The twin: it is sent again as it was, where the connection ends before a stream is open for it.
#[test]
fn a_request_that_was_not_sent_is_repeated_whole() {
    let (pair, service) = (pair(), Service::new());
    let limits = TransportLimits::builder().max_concurrent_bidi_streams(1).build().unwrap();
    let _node = pair.serve(service.router(), limits);
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        let connection = client.connection().await.unwrap();
        let mut hanging = Box::pin(connection.call_raw("demo.hang", ""));
        let mut call = Box::pin(client.request_raw("demo.echo", "x").respond());
        let mut stream = Box::pin(client.stream(COUNT, &1));
        assert!(poll_once(&mut hanging).await.is_none());
        until_begun(&pair, &service.begun, 1).await;
        assert!(poll_once(&mut call).await.is_none());
        assert!(poll_once(&mut stream).await.is_none());
        pair.sim.sleep(SECOND / 4).await;
        assert!(poll_once(&mut call).await.is_none(), "the one stream is taken");
        assert!(poll_once(&mut stream).await.is_none(), "the one stream is taken");
        connection.close(Code::INTERNAL, "");
        let expected = Response::result(Some("x".into()));
        assert_eq!(call.await.unwrap(), expected);
        assert_eq!(stream.await.unwrap().next().await.unwrap(), Some(1));
    });
}

#[test]
fn a_stream_ends_with_its_connection_and_is_not_repeated() {
    let (pair, service) = (pair(), Service::new());
    let client = hasty_client(&pair);
    let node = serve_at(&pair.gateway, service.router());
    pair.sim.run(async {
        let mut answers = client.stream(COUNT, &1).await.unwrap();
        assert_eq!(answers.next().await.unwrap(), Some(1));
        let quiet = async {
            pair.sim.sleep(5 * SECOND).await;
            None
        };
        let next = async { Some(answers.next().await) };
        assert!(futures_lite::future::or(next, quiet).await.is_none(), "the client's limit is for opening");
        pair.gateway.crash();
        drop(node);
        let _again = serve_at(&pair.gateway, service.router());
        let error = answers.next().await.unwrap_err();
        assert!(error.may_have_run(), "{error:?}");
        assert_eq!(answers.next().await.unwrap(), None);
        assert_eq!(service.begun.load(Ordering::Relaxed), 1);
        // Asked for again, it is opened on the next connection.
        let call = client.request(COUNT, &1).unwrap().timeout(20 * SECOND);
        let mut answers = call.stream().await.unwrap();
        assert_eq!(answers.next().await.unwrap(), Some(1));
        let since = pair.sim.elapsed();
        assert_eq!(answers.next().await.unwrap_err().kind(), &ErrorKind::DeadlineExceeded);
        assert!(
            (15..=20).contains(&(pair.sim.elapsed() - since).as_secs()),
            "its own limit is for all of it"
        );
    });
}

#[test]
fn a_notifier_belongs_to_one_connection() {
    let (pair, service) = (pair(), Service::new());
    let _node = serve_at(&pair.gateway, service.router());
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        let mut notifier = client.notifier().await.unwrap();
        for n in 0..10 {
            notifier.send(NOTE, &n).await.unwrap();
        }
        for n in 0..10 {
            assert_eq!(service.notes.recv().await.unwrap(), n);
        }
        client.connection().await.unwrap().close(Code::INTERNAL, "");
        assert_eq!(notifier.send(NOTE, &10).await.unwrap_err().kind(), &ErrorKind::Closed);
        let mut notifier = client.notifier().await.unwrap();
        notifier.send(NOTE, &11).await.unwrap();
        notifier.finish().await.unwrap();
        assert_eq!(service.notes.recv().await.unwrap(), 11);
    });
}

#[test]
fn a_notifier_is_waited_for_within_the_time_limit_of_calls() {
    let pair = pair();
    let error = pair.sim.run(hasty_client(&pair).notifier()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::DeadlineExceeded);
    assert_eq!(pair.sim.elapsed().as_secs(), 1);
}

#[test]
fn health_is_asked_for_on_the_next_connection_where_one_was_lost() {
    let (pair, service) = (pair(), Service::new());
    let client = pair.client(TransportLimits::default());
    let node = serve_at(&pair.gateway, service.router());
    pair.sim.run(async {
        assert!(client.health().await.unwrap().ok);
        let lost = client.connection().await.unwrap();
        pair.gateway.crash();
        drop(node);
        let _again = serve_at(&pair.gateway, service.router());
        lost.closed().await;
        let health = client.health().await.unwrap();
        assert_eq!((health.ok, health.node_rpc_mtls_required), (true, Some(true)));
        let health = client.request_raw("node.health", "").codec(Codec::Cbor).timeout(SECOND);
        assert!(health.health().await.unwrap().ok);
        let echo = client.request_raw("demo.echo", "x").health().await.unwrap_err();
        assert_eq!(echo.kind(), &ErrorKind::Protocol);
        assert!(echo.may_have_run());
    });
}

async fn next_reading(subscription: &mut Subscription<i32>) -> (u64, i32) {
    loop {
        if let SubscriptionItem::Event { seq, payload, .. } = subscription.next().await.unwrap() {
            return (seq, payload);
        }
    }
}

#[test]
fn a_subscription_brings_values_across_connections() {
    let pair = pair();
    let log = EventLog::new();
    log.publish_raw(vec![21]).unwrap();
    let _node = serve_at(&pair.gateway, Router::new().events(log.clone()));
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        let mut readings = client.subscribe(READINGS).open();
        assert_eq!(next_reading(&mut readings).await, (1, 21));
        client.connection().await.unwrap().close(Code::INTERNAL, "");
        log.publish_raw(vec![22]).unwrap();
        assert_eq!(next_reading(&mut readings).await, (2, 22));
        let mut named =
            client.subscribe::<i32>("node.stream_events").resume(readings.cursor().unwrap()).open();
        log.publish_raw(vec![23]).unwrap();
        assert_eq!(next_reading(&mut named).await, (3, 23));
        // The log of another name is asked for by that name.
        let mut other = client.subscribe::<i32>("demo.log").open();
        assert!(matches!(other.next().await.unwrap(), SubscriptionItem::Connected { .. }));
        let error = other.next().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::UnsupportedMethod));
        assert!(error.to_string().contains("demo.log"), "{error}");
    });
}

#[test]
fn a_payload_of_another_type_does_not_end_a_subscription() {
    let pair = pair();
    let log = EventLog::new();
    for payload in [b"\x15".as_slice(), b"\x61a", b"\x16"] {
        log.publish_raw(payload.to_vec()).unwrap();
    }
    let _node = serve_at(&pair.gateway, Router::new().events(log));
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        let mut readings = client.subscribe(READINGS).open();
        let mut streamed = client.subscribe(READINGS).open();
        assert_eq!(next_reading(&mut readings).await, (1, 21));
        let error = readings.next().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Codec);
        assert!(error.to_string().contains("node.stream_events"), "{error}");
        assert_eq!(readings.cursor().map(|cursor| cursor.seq()), Some(2), "it is behind the event");
        assert_eq!(next_reading(&mut readings).await, (3, 22));
        let items: Vec<_> = StreamExt::take(&mut streamed, 4).collect().await;
        let values = items.into_iter().map(|item| match item {
            Ok(SubscriptionItem::Event { payload, .. }) => Some(payload),
            _ => None,
        });
        assert_eq!(values.collect::<Vec<_>>(), [None, Some(21), None, Some(22)]);
    });
}

/// Base64 takes a third more, which the bytes on the connection show.
#[cfg(feature = "json")]
#[test]
fn a_subscription_may_be_in_json() {
    let received = |codec| {
        let pair = pair();
        let log = EventLog::new();
        log.publish_raw(vec![0; 100_000]).unwrap();
        let _node = serve_at(&pair.gateway, Router::new().events(log));
        let client = pair.client(TransportLimits::default());
        pair.sim.run(async {
            let mut subscription = client.subscribe_raw().codec(codec).open();
            loop {
                if let SubscriptionItem::Event { payload, .. } = subscription.next_raw().await.unwrap() {
                    assert_eq!(payload.len(), 100_000);
                    break client.connection().await.unwrap().stats().bytes_received;
                }
            }
        })
    };
    assert!(received(Codec::Cbor) < 120_000);
    assert!(received(Codec::Json) > 130_000);
}

#[test]
fn a_request_is_shown_without_its_parameters() {
    let pair = pair();
    let call = pair.client(TransportLimits::default()).request_raw("demo.echo", "secret").timeout(SECOND);
    let shown = format!("{call:?}");
    assert!(shown.contains("demo.echo") && shown.contains("1s"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
}
