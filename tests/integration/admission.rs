//! What a node takes on: connections, handshakes, silence, floods, garbage and streams, each up to its limit.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_lite::future::{self, poll_once};
use palyra_quic::{
    Code, Connection, Context, Endpoint, ErrorKind, Router, TransportLimits, TransportLimitsBuilder, sim,
};
use smol::channel::{Receiver, unbounded};

use crate::common::{
    Answer, RawStream, Server, attempt, counters, frame, loopback, read_answer, request, run, serve_within,
    signal,
};
use crate::simulation::{PORT, Pair, SECOND, client_tls, server_tls};

fn node(limits: TransportLimitsBuilder) -> Server {
    serve_within(limits.build().unwrap(), Router::new())
}

/// Tries until it is let in; until then it has to be refused, and nothing else.
async fn let_in(server: &Server) -> Connection {
    loop {
        match attempt(&server.pki.client_tls(), server.address()).await {
            Ok(connection) => return connection,
            Err(error) => assert_eq!(*error.kind(), ErrorKind::Refused, "{error:?}"),
        }
    }
}

async fn assert_refused(server: &Server) {
    let error = attempt(&server.pki.client_tls(), server.address()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Refused, "{error:?}");
    assert!(error.is_retryable() && !error.is_authentication());
}

/// Stands between one client and a server, and passes on as many of the client's datagrams as it is told to;
/// the server's only for as long as it may pass on more of the client's.
struct Relay {
    address: SocketAddr,
    remaining: Arc<AtomicUsize>,
    answers: Receiver<()>,
    _task: smol::Task<()>,
}

impl Relay {
    fn to(server: SocketAddr, datagrams: usize) -> Self {
        let bind =
            || smol::net::UdpSocket::from(smol::Async::new(UdpSocket::bind(loopback()).unwrap()).unwrap());
        let (front, back) = (bind(), bind());
        let address = front.local_addr().unwrap();
        let remaining = Arc::new(AtomicUsize::new(datagrams));
        let (answered, answers) = unbounded();
        let budget = Arc::clone(&remaining);
        let client = smol::lock::Mutex::new(None);
        let task = smol::spawn(async move {
            let forth = async {
                let mut buffer = [0; 65536];
                loop {
                    let (length, from) = front.recv_from(&mut buffer).await.unwrap();
                    *client.lock().await = Some(from);
                    let passes = |left: usize| left.checked_sub(1);
                    if budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, passes).is_ok() {
                        back.send_to(&buffer[..length], server).await.unwrap();
                    }
                }
            };
            let back = async {
                let mut buffer = [0; 65536];
                loop {
                    let (length, _) = back.recv_from(&mut buffer).await.unwrap();
                    answered.try_send(()).unwrap();
                    let client = *client.lock().await;
                    if let Some(client) = client.filter(|_| budget.load(Ordering::SeqCst) > 0) {
                        front.send_to(&buffer[..length], client).await.unwrap();
                    }
                }
            };
            future::or(forth, back).await
        });
        Self { address, remaining, answers, _task: task }
    }

    fn cut(&self) {
        self.remaining.store(0, Ordering::SeqCst);
    }
}

/// A client that says its first word through a relay and is silent from then on.
struct HalfOpen {
    _relay: Relay,
    _client: smol::Task<palyra_quic::Result<Connection>>,
}

impl HalfOpen {
    /// Resolves when the server has answered, and so has the handshake in its books.
    async fn with(server: &Server) -> Self {
        let relay = Relay::to(server.address(), 1);
        let (tls, address) = (server.pki.client_tls(), relay.address);
        let client = smol::spawn(async move { attempt(&tls, address).await });
        relay.answers.recv().await.unwrap();
        Self { _relay: relay, _client: client }
    }
}

#[test]
fn a_full_node_refuses_connections_until_one_is_closed() {
    run(async {
        let server = node(TransportLimits::builder().max_connections(2));
        let first = server.connect().await;
        assert_eq!(counters(&first).await["connections_refused"], 0);
        let second = server.connect().await;
        assert_refused(&server).await;
        assert_refused(&server).await;
        let counted = counters(&second).await;
        assert_eq!((counted["connections_refused"], counted["connections_open"]), (2, 2));

        first.close(Code::NO_ERROR, "");
        let third = let_in(&server).await;
        assert_refused(&server).await;
        drop(third);
        let_in(&server).await;
        assert!(second.health().await.unwrap().ok);
    });
}

#[test]
fn handshakes_are_limited_apart_from_connections() {
    run(async {
        let server = node(TransportLimits::builder().max_handshakes(1));
        let before = [server.connect().await, server.connect().await, server.connect().await];
        let _half_open = HalfOpen::with(&server).await;
        // For half a second it is safe from others that are no better.
        assert_refused(&server).await;
        let_in(&server).await;
        for connection in &before {
            assert!(connection.health().await.unwrap().ok);
        }
    });
}

/// Anyone can write any sender's address on a datagram. What answers nobody at that address hears gets no
/// further than half of the slots.
#[test]
fn forged_addresses_cannot_take_the_last_slots() {
    run(async {
        let server = node(TransportLimits::builder().max_handshakes(4));
        let mut forged = Vec::new();
        for _ in 0..12 {
            forged.push(HalfOpen::with(&server).await);
        }
        for _ in 0..3 {
            assert!(server.connect().await.health().await.unwrap().ok);
        }
    });
}

/// A handler may outlive its connection, whose slot it then still holds: connecting, notifying and leaving
/// again and again does not add handlers without end.
#[test]
fn a_slot_is_free_once_nothing_runs_for_its_connection() {
    run(async {
        let (release, released) = unbounded::<()>();
        let (started, starts) = unbounded();
        let router = Router::new().on_notification_raw("slow", move |_: Context, _| {
            let (released, started) = (released.clone(), started.clone());
            async move {
                started.try_send(()).unwrap();
                released.recv().await.unwrap();
            }
        });
        let limits = TransportLimits::builder().max_connections(1).build().unwrap();
        let server = serve_within(limits, router);
        let connection = server.connect().await;
        connection.notify_raw("slow", "").await.unwrap();
        starts.recv().await.unwrap();
        connection.close(Code::NO_ERROR, "");
        assert_refused(&server).await;
        release.send(()).await.unwrap();
        let_in(&server).await;
    });
}

#[test]
fn a_client_that_falls_silent_in_the_handshake_loses_both_slots() {
    run(async {
        let timeout = Duration::from_millis(300);
        let limits = TransportLimits::builder().handshake_timeout(timeout);
        let server = node(limits.max_handshakes(1).max_connections(2));
        let watcher = server.connect().await;
        let start = Instant::now();
        let _half_open = HalfOpen::with(&server).await;
        let _let_in = let_in(&server).await;
        assert!(start.elapsed() >= timeout, "let in beside a handshake that should hold the slot");
        let counted = counters(&watcher).await;
        assert_eq!((counted["handshakes_failed"], counted["connections_accepted"]), (1, 2));
    });
}

#[test]
fn a_server_that_never_answers_is_given_up_at_the_handshake_timeout() {
    run(async {
        let timeout = Duration::from_secs(1);
        let limits = TransportLimits::builder().handshake_timeout(timeout).build().unwrap();
        let server = node(TransportLimits::builder());
        let tls = server.pki.client_tls();
        let client = Endpoint::builder().client(tls).limits(limits).bind(loopback()).unwrap();
        let mute = UdpSocket::bind(loopback()).unwrap();

        let start = Instant::now();
        let error = client.connect(mute.local_addr().unwrap()).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::HandshakeTimeout);
        assert!(start.elapsed() >= timeout && error.is_timeout() && error.is_retryable());
        client.connect(server.address()).await.unwrap();
    });
}

/// A link that is kept alive ten times a second, and lost after one.
fn short_idle() -> TransportLimitsBuilder {
    let limits = TransportLimits::builder().idle_timeout(Duration::from_secs(1));
    limits.keep_alive_interval(Duration::from_millis(100))
}

#[test]
fn a_link_that_falls_silent_is_lost_on_both_sides() {
    run(async {
        let server = node(short_idle().max_connections(1));
        let relay = Relay::to(server.address(), usize::MAX);
        let client = Endpoint::builder().client(server.pki.client_tls());
        let client = client.limits(short_idle().build().unwrap()).bind(loopback()).unwrap();
        let connection = client.connect(relay.address).await.unwrap();
        assert!(connection.health().await.unwrap().ok);
        relay.cut();
        assert_eq!(*connection.closed().await.kind(), ErrorKind::ConnectionLost);
        assert_eq!(*connection.health().await.unwrap_err().kind(), ErrorKind::ConnectionLost);
        let_in(&server).await;
    });
}

#[test]
fn a_link_that_is_merely_quiet_stays() {
    run(async {
        let server = node(short_idle());
        let connection = server.connect_within(short_idle().build().unwrap()).await;
        smol::Timer::after(Duration::from_millis(2500)).await;
        assert!(connection.close_reason().is_none());
        assert!(connection.health().await.unwrap().ok);
    });
}

#[test]
fn a_flood_of_connections_is_refused_and_harms_nobody() {
    const FLOOD: usize = 64;

    run(async {
        let server = node(TransportLimits::builder().max_connections(4).max_handshakes(16));
        let good = server.connect().await;
        let (arrived, arrivals) = unbounded();
        let flood: Vec<_> = (0..FLOOD)
            .map(|_| {
                let (tls, address) = (server.pki.client_tls(), server.address());
                let arrived = arrived.clone();
                smol::spawn(async move { arrived.send(attempt(&tls, address).await).await.unwrap() })
            })
            .collect();
        let mut inside = Vec::new();
        for _ in 0..FLOOD {
            assert!(good.health().await.unwrap().ok);
            match arrivals.recv().await.unwrap() {
                Ok(connection) => inside.push(connection),
                Err(error) => assert_eq!(*error.kind(), ErrorKind::Refused, "{error:?}"),
            }
        }
        assert_eq!(inside.len(), 3, "as many as there was room for");
        let counted = counters(&good).await;
        assert_eq!((counted["connections_open"], counted["connections_accepted"]), (4, 4));
        drop((flood, inside));
        let _again = [let_in(&server).await, let_in(&server).await, let_in(&server).await];
        assert_refused(&server).await;
    });
}

#[test]
fn garbage_is_ignored() {
    run(async {
        let server = node(TransportLimits::builder().max_connections(2).max_handshakes(1));
        let connection = server.connect().await;
        let stranger = UdpSocket::bind(loopback()).unwrap();
        let long = |first: u8, version: u32, rest: u8| {
            let mut datagram = vec![rest; 1200];
            datagram[0] = first;
            datagram[1..5].copy_from_slice(&version.to_be_bytes());
            // Lengths of connection IDs that are allowed.
            (datagram[5], datagram[14]) = (8, 8);
            datagram
        };
        for garbage in [
            vec![],
            vec![0],
            vec![0xc0],
            vec![0; 1200],
            vec![0xff; 1472],
            long(0xc0, 1, 0),           // An Initial that nobody has encrypted.
            long(0xc3, 1, 0xa5),        // The same, with lengths that lead nowhere.
            long(0xd0, 1, 0),           // 0-RTT
            long(0xe0, 1, 0),           // Handshake
            long(0xf0, 1, 0),           // Retry
            long(0xc0, 0, 0),           // Version Negotiation
            long(0xc0, 0x0a0a_0a0a, 0), // A version to be negotiated.
            long(0x40, 0x0102_0304, 7), // 1-RTT of no connection.
        ] {
            for _ in 0..20 {
                stranger.send_to(&garbage, server.address()).unwrap();
            }
            assert!(connection.health().await.unwrap().ok, "{:02x?}", &garbage[..garbage.len().min(8)]);
        }
        // None of it has got a slot, and the one that is left goes to the first who speaks QUIC.
        let _other = server.connect().await;
        let counted = counters(&connection).await;
        assert_eq!(counted["connections_accepted"], 2);
        assert_eq!((counted["handshakes_failed"], counted["connections_refused"]), (0, 0));
        assert_refused(&server).await;
    });
}

#[test]
fn a_peer_with_too_many_streams_waits_for_its_own() {
    run(async {
        let server =
            node(TransportLimits::builder().max_concurrent_bidi_streams(2).max_concurrent_uni_streams(1));
        let peer = server.raw().await;
        let health = frame(&request("node.health"));
        let (start, rest) = health.split_at(3);

        let mut first = peer.send(start).await;
        let second = peer.send(start).await;
        let third = peer.connection.open_bi();
        let mut third = std::pin::pin!(third);
        assert!(poll_once(&mut third).await.is_none(), "more streams than allowed");
        first.send(rest).await;
        first.finish();
        assert_eq!(first.answer().await.frames().len(), 1);
        let (mut send, mut recv) = third.await.unwrap();
        send.write_all(&health).await.unwrap();
        send.finish().unwrap();
        assert!(matches!(read_answer(&mut recv).await, Answer::Whole(_)));
        drop::<RawStream>(second);

        let mut first = peer.connection.open_uni().await.unwrap();
        first.write_all(start).await.unwrap();
        let mut second = std::pin::pin!(peer.connection.open_uni());
        assert!(poll_once(&mut second).await.is_none(), "more streams than allowed");
        first.finish().unwrap();
        second.await.unwrap();
    });
}

#[test]
fn calls_beyond_the_peers_limit_of_streams_wait_and_are_served() {
    run(async {
        let (started, starts) = signal();
        let (release, released) = unbounded::<()>();
        let router = Router::new().serve_raw("demo.wait", move |_: Context, params| {
            let (started, released) = (started.clone(), released.clone());
            async move {
                started.try_send(()).unwrap();
                released.recv().await.unwrap();
                Ok(params)
            }
        });
        let limits = TransportLimits::builder().max_concurrent_bidi_streams(1).build().unwrap();
        let server = serve_within(limits, router);
        let connection = server.connect().await;
        let call = || async { assert_eq!(connection.call_raw("demo.wait", "x").await.unwrap(), "x") };
        let one_by_one = async {
            for _ in 0..2 {
                starts.recv().await.unwrap();
                assert!(starts.is_empty(), "two at a time");
                release.send(()).await.unwrap();
            }
        };
        future::zip(future::zip(call(), call()), one_by_one).await;
    });
}

#[test]
fn a_node_that_serves_nothing_lets_no_streams_in() {
    run(async {
        let server = crate::common::RawServer::new();
        let (_client, accepted) = server.connect().await;
        assert!(poll_once(accepted.open_bi()).await.is_none());
        assert!(poll_once(accepted.open_uni()).await.is_none());
        let (_client, accepted) = server.connect_from(Endpoint::builder().router(Router::new())).await;
        accepted.open_bi().await.unwrap();
        accepted.open_uni().await.unwrap();
    });
}

/// Draining connections are bounded, and those that this side dialled are no exception: an application may
/// keep the handles of closed connections for as long as it likes.
#[test]
fn dialled_connections_that_are_closed_count_as_draining_though_their_handles_are_kept() {
    let pair = Pair::new(1, sim::Link::new().delay(Duration::from_millis(10)));
    let limits = TransportLimits::builder().max_connections(14).max_handshakes(4).build().unwrap();
    let node = Endpoint::builder().server(server_tls()).client(client_tls()).limits(limits);
    let node = pair.gateway.bind(node, PORT).unwrap();
    let peer = pair.sensor.bind(Endpoint::builder().server(server_tls()).client(client_tls()), PORT).unwrap();
    let address = (pair.sensor.address(PORT), "gateway.example");
    // Half as many as may be draining.
    let dial_five = async || {
        let mut connections = Vec::new();
        for _ in 0..5 {
            connections.push(node.connect(address).await.unwrap());
        }
        connections
    };
    let retries_for_another = async || {
        let before = node.stats().retries;
        let accepted = peer.connect(pair.gateway.address(PORT)).await.unwrap();
        accepted.close(Code::NO_ERROR, "");
        node.stats().retries - before
    };
    pair.sim.run(async {
        let open = dial_five().await;
        assert_eq!(retries_for_another().await, 0, "open connections do not count");
        pair.sim.sleep(SECOND).await;
        open.iter().for_each(|connection| connection.close(Code::NO_ERROR, ""));
        assert_eq!(retries_for_another().await, 1, "quinn knows the five that were closed");
        pair.sim.sleep(10 * SECOND).await;
        assert_eq!(retries_for_another().await, 0, "quinn has forgotten them");
        drop(open);
    });
}
