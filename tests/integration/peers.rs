//! What one peer may take, so that something is left for the others: connections, requests, memory, patience.

use std::time::Duration;

use futures_lite::future::{self, poll_once};
use palyra_quic::{
    AddressValidation, Bytes, Code, Connection, Context, Endpoint, Error, ErrorKind, IssuedCertificate, Rate,
    Router, TransportLimits, TransportLimitsBuilder, WireError,
    quinn::{TransportConfig, VarInt},
    sim::Link,
};
use smol::channel::unbounded;

use crate::common::{Answer, RawPeer, Server, attempt, frame, request, run, serve_within, signal};
use crate::simulation::{PORT, Pair};

/// So seldom that it does not come again within a test.
const ONCE: Rate = Rate::every(Duration::from_secs(3600));

fn limits() -> TransportLimitsBuilder {
    TransportLimits::builder()
}

fn echo() -> Router {
    Router::new()
        .serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
        .on_notification_raw("demo.note", |_: Context, _| async {})
}

fn node(limits: TransportLimitsBuilder) -> Server {
    serve_within(limits.build().unwrap(), echo())
}

async fn connect_as(server: &Server, issued: &IssuedCertificate) -> Result<Connection, Error> {
    attempt(&server.pki.client_tls_as(issued.identity()), server.address()).await
}

/// A connection of a peer that is not the usual one.
async fn other(server: &Server) -> Connection {
    let issued = server.pki.authority.issue_client("sensor-8").unwrap();
    connect_as(server, &issued).await.unwrap()
}

/// Why a peer was turned away, be it while it connects or right after.
async fn turned_away(connecting: Result<Connection, Error>) -> Error {
    match connecting {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    }
}

fn code(error: &Error) -> Code {
    match error.kind() {
        ErrorKind::ConnectionClosed(code) => *code,
        other => panic!("{other:?} instead of a close"),
    }
}

#[test]
fn a_certificate_has_a_cap_of_its_own() {
    run(async {
        let server = node(limits().max_connections_per_identity(2));
        let (first, second) = (server.connect().await, server.connect().await);
        let error = turned_away(attempt(&server.pki.client_tls(), server.address()).await).await;
        assert_eq!(code(&error), Code::CAPACITY);
        assert!(error.is_retryable());
        assert!(other(&server).await.health().await.unwrap().ok);
        assert!(first.health().await.unwrap().ok);

        second.close(Code::NO_ERROR, "");
        // Its place is free once the server has heard.
        loop {
            let third = attempt(&server.pki.client_tls(), server.address()).await;
            if let Ok(third) = third
                && third.health().await.is_ok()
            {
                break;
            }
        }
    });
}

/// The twin: without a cap of its own, a certificate may have all connections.
#[test]
fn without_a_cap_a_certificate_may_have_all_connections() {
    run(async {
        let server = node(limits().max_connections(3));
        let taken = [server.connect().await, server.connect().await, server.connect().await];
        for connection in &taken {
            assert!(connection.health().await.unwrap().ok);
        }
    });
}

#[test]
fn an_address_has_a_cap_of_its_own() {
    run(async {
        let server = node(limits().max_connections_per_address(1));
        let first = server.connect().await;
        let error = attempt(&server.pki.client_tls(), server.address()).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Refused);
        let elsewhere = Endpoint::builder().bind(([127, 0, 0, 2], 0).into()).unwrap();
        let second = elsewhere.connect_with(&server.pki.client_tls(), server.address()).await.unwrap();
        assert!(first.health().await.unwrap().ok && second.health().await.unwrap().ok);
    });
}

#[test]
fn connections_that_come_too_often_are_refused() {
    run(async {
        let server = node(limits().connection_rate(ONCE.burst(2)));
        drop((server.connect().await, server.connect().await));
        let error = attempt(&server.pki.client_tls(), server.address()).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Refused, "by its address");

        let elsewhere = Endpoint::builder().bind(([127, 0, 0, 2], 0).into()).unwrap();
        let third = elsewhere.connect_with(&server.pki.client_tls(), server.address()).await;
        let error = turned_away(third).await;
        assert_eq!(code(&error), Code::RATE_LIMITED, "by its certificate");
        let hour = Duration::from_secs(3600);
        assert!(error.retry_after().is_some_and(|after| after > hour / 2 && after <= hour), "{error:?}");
    });
}

#[test]
fn a_node_that_always_asks_for_the_address_serves_all_the_same() {
    run(async {
        let server = node(limits().address_validation(AddressValidation::Always));
        server.assert_serves_others().await;
        let peer = server.raw().await;
        assert!(peer.connection.stats().frame_rx.new_token <= 2);
        peer.assert_is_served().await;
    });
}

#[test]
fn requests_that_come_too_often_are_put_off_and_then_end_the_connection() {
    run(async {
        let server = node(limits().request_rate(ONCE.burst(3)));
        let peer = server.connect().await;
        for _ in 0..3 {
            assert!(peer.health().await.unwrap().ok);
        }
        let put_off = ErrorKind::Remote(WireError::ResourceExhausted);
        // As many as there may be calls at a time.
        for _ in 0..32 {
            let error = peer.call_raw("demo.echo", "x").await.unwrap_err();
            assert_eq!(*error.kind(), put_off);
            assert!(error.retry_after().is_some_and(|after| after > Duration::from_secs(1)), "{error:?}");
        }
        let last = peer.call_raw("demo.echo", "x").await.unwrap_err();
        assert_eq!(code(&last), Code::RATE_LIMITED);
        assert!(last.retry_after().is_some() && last.is_retryable());

        // Dialling again does not help, and others have a rate of their own.
        let again = server.connect().await;
        assert_eq!(*again.health().await.unwrap_err().kind(), put_off);
        assert!(other(&server).await.health().await.unwrap().ok);
    });
}

/// The twin: as many requests without a rate are all served.
#[test]
fn without_a_rate_every_request_is_served() {
    run(async {
        let server = node(limits());
        let peer = server.connect().await;
        for _ in 0..20 {
            assert_eq!(peer.call_raw("demo.echo", "x").await.unwrap(), "x");
        }
    });
}

#[test]
fn notifications_that_come_too_often_wait_and_are_not_lost() {
    run(async {
        let (handled, arrivals) = unbounded();
        let router = Router::new().on_notification_raw("demo.note", move |_: Context, params: Bytes| {
            let handled = handled.clone();
            async move { handled.try_send(params).unwrap() }
        });
        let every = Duration::from_millis(20);
        let limits = limits().request_rate(Rate::every(every).burst(2)).build().unwrap();
        let server = serve_within(limits, router);
        let peer = server.connect().await;
        let start = std::time::Instant::now();
        let mut notifier = peer.notifier().await.unwrap();
        for n in 0..8_u8 {
            notifier.send_raw("demo.note", vec![n]).await.unwrap();
        }
        notifier.finish().await.unwrap();
        for n in 0..8_u8 {
            assert_eq!(arrivals.recv().await.unwrap(), [n][..]);
        }
        assert!(start.elapsed() >= 6 * every, "they did not wait");
    });
}

/// Does something useless until the connection is closed, and says with what code.
async fn misbehave<F: Future<Output = ()>>(peer: &RawPeer, mut once: impl FnMut() -> F) -> Code {
    let abuse = async {
        loop {
            once().await;
            // What is closed must get a chance to say so.
            future::yield_now().await;
        }
    };
    let closed = async { peer.connection.closed().await };
    match future::or(closed, abuse).await {
        palyra_quic::quinn::ConnectionError::ApplicationClosed(close) => {
            Code::from_u64(close.error_code.into())
        }
        other => panic!("{other}"),
    }
}

/// A stream, or nothing once the connection is closed.
async fn bi(peer: &RawPeer) -> Option<crate::common::RawStream> {
    let (send, recv) = peer.connection.open_bi().await.ok()?;
    Some(crate::common::RawStream { send, recv })
}

#[test]
fn useless_streams_end_the_connection_after_a_while() {
    run(async {
        let server = node(limits().fault_rate(ONCE.burst(20)));
        let good = server.connect().await;

        let peer = server.raw().await;
        let reset = || async {
            if let Some(mut stream) = bi(&peer).await {
                let _ = stream.send.reset(VarInt::from_u32(1));
            }
        };
        assert_eq!(misbehave(&peer, reset).await, Code::EXCESSIVE_LOAD);

        let peer = server.raw().await;
        let empty = || async {
            if let Some(mut stream) = bi(&peer).await {
                stream.finish();
            }
        };
        assert_eq!(misbehave(&peer, empty).await, Code::EXCESSIVE_LOAD);

        let peer = server.raw().await;
        let invalid = || async {
            if let Some(mut stream) = bi(&peer).await {
                stream.send(&frame(b"\xa0")).await;
                stream.finish();
            }
        };
        assert_eq!(misbehave(&peer, invalid).await, Code::EXCESSIVE_LOAD);

        let peer = server.raw().await;
        let empty_notification = || async {
            if let Ok(mut stream) = peer.connection.open_uni().await {
                let _ = stream.finish();
            }
        };
        assert_eq!(misbehave(&peer, empty_notification).await, Code::EXCESSIVE_LOAD);
        assert!(good.health().await.unwrap().ok);
    });
}

#[test]
fn a_fault_now_and_then_is_forgiven() {
    run(async {
        let server = node(limits().fault_rate(ONCE.burst(20)));
        let peer = server.raw().await;
        for _ in 0..20 {
            let answer = peer.request(b"\xa0").await;
            assert_eq!(answer.error(), WireError::InvalidRequest);
            peer.assert_is_served().await;
        }
    });
}

#[test]
fn calls_that_are_given_up_count_as_useless() {
    let (started, starts) = signal();
    let router = Router::new().serve_raw("demo.hang", move |_: Context, _| {
        started.try_send(()).unwrap();
        future::pending()
    });
    // In virtual time: only a call that is given up soon counts.
    let pair = Pair::new(1, Link::new().delay(Duration::from_millis(5)));
    let _node = pair.serve(router, limits().fault_rate(ONCE.burst(5)).build().unwrap());
    let dialler = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let peer = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
        for _ in 0..6 {
            let mut call = std::pin::pin!(peer.call_raw("demo.hang", ""));
            assert!(
                future::or(async { Some((&mut call).await) }, async {
                    _ = starts.recv().await;
                    None
                })
                .await
                .is_none()
            );
        }
        assert_eq!(code(&peer.closed().await), Code::EXCESSIVE_LOAD);
    });
}

/// A stream with a frame that lacks its last byte.
async fn unfinished(peer: &RawPeer, length: usize) -> crate::common::RawStream {
    let whole = frame(&vec![0; length]);
    peer.send(&whole[..whole.len() - 1]).await
}

const FRAME: usize = 64 * 1024;
const BUDGET: u64 = 128 * 1024;

fn small_budget() -> TransportLimitsBuilder {
    limits().max_frame_bytes(64 * 1024).frame_budget_bytes(128 * 1024)
}

/// More than a node holds within its budget: of the peer that may go beyond it, the frames; of the other, its
/// windows.
const BEYOND: u64 = BUDGET + 34 * 65536;

/// The most bytes of frames that the node said it held, up to [`BEYOND`], while two peers sent many times its
/// budget of unfinished ones, and it answered this many calls once the budget was spent.
async fn held_at_most(server: &Server, most_calls: usize) -> u64 {
    let good = server.connect().await;
    let (greedy, other) = (server.raw().await, server.raw().await);
    let sending = async {
        let mut unfinished_ones = Vec::new();
        for _ in 0..30 {
            let both = future::zip(unfinished(&greedy, FRAME), unfinished(&other, FRAME));
            unfinished_ones.push(both.await);
        }
        future::pending().await
    };
    let watching = async {
        let (mut most, mut calls) = (0, 0);
        while calls < most_calls && most <= BEYOND {
            assert_eq!(good.call_raw("demo.echo", "small").await.unwrap(), "small");
            most = most.max(crate::common::counters(&good).await["frame_bytes_held"]);
            calls += usize::from(most >= BUDGET);
        }
        most
    };
    let most = future::or(sending, watching).await;
    // Whoever gives up makes room.
    greedy.connection.close(VarInt::from_u32(0), b"");
    other.connection.close(VarInt::from_u32(0), b"");
    let large = vec![7; FRAME / 2];
    assert_eq!(good.call_raw("demo.echo", large.clone()).await.unwrap(), large);
    most
}

#[test]
fn a_spent_budget_holds_back_who_spends_it_and_not_the_others() {
    run(async {
        // Long enough for the rest to arrive: without a budget, a dozen calls are.
        let most = held_at_most(&node(small_budget()), 100).await;
        assert!(most < BEYOND, "{most}");
    });
}

/// The twin: without a budget, all of it is held.
#[test]
fn without_a_budget_everything_is_held() {
    run(async {
        let boundless = node(small_budget().frame_budget_bytes(1024 * 1024 * 1024));
        let most = held_at_most(&boundless, usize::MAX).await;
        assert!(most > BEYOND, "{most}");
    });
}

/// Streams that each have a part of their frame must not wait for each other for ever.
#[test]
fn frames_beyond_the_budget_arrive_one_peer_after_another() {
    run(async {
        // No limit that ends before the test does what waits for ever.
        let server = node(small_budget().request_read_timeout(Duration::from_secs(1000)));
        let mut peers = Vec::new();
        for _ in 0..4 {
            peers.push(server.connect().await);
        }
        let large = vec![7; FRAME - 100];
        let mut calls = Vec::new();
        for peer in peers.iter().cycle().take(64) {
            let (peer, large) = (peer.clone(), large.clone());
            calls.push(smol::spawn(async move { peer.call_raw("demo.echo", large).await }));
        }
        for call in calls {
            assert_eq!(call.await.unwrap().len(), large.len());
        }
    });
}

#[test]
fn a_peer_under_the_exact_limits_of_memory_is_served_like_any_other() {
    run(async {
        let limits = TransportLimits::within(16 * 1024 * 1024).unwrap();
        let largest = usize::try_from(limits.max_frame_bytes()).unwrap() - 100;
        let server = serve_within(limits, echo());
        let peer = server.connect().await;
        let large = vec![7; largest];
        assert_eq!(peer.call_raw("demo.echo", large.clone()).await.unwrap(), large);
        let raw = server.raw_with(TransportConfig::default()).await;
        let answer = raw.exchange(&(32 * 1024 + 1_u32).to_be_bytes()).await;
        assert_eq!(answer, Answer::Reset(Code::FRAME_TOO_LARGE));
        assert!(poll_once(raw.connection.closed()).await.is_none());
        assert!(matches!(raw.request(&request("node.health")).await, Answer::Whole(_)));
    });
}
