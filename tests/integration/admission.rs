//! What a node takes on: connections, handshakes, silence, floods, garbage and streams, each up to its limit.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use futures_lite::future::{self, poll_once};
use palyra_quic::{
    Code, Connection, Context, Endpoint, ErrorKind, Router, TransportLimits, TransportLimitsBuilder, sim,
};
use smol::channel::unbounded;

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

/// Two hosts in virtual time, ten milliseconds apart, of which one serves within these limits.
fn nodes(limits: TransportLimitsBuilder) -> (Pair, Endpoint) {
    let pair = Pair::new(1, sim::Link::new().delay(Duration::from_millis(10)));
    let node = pair.serve(Router::new(), limits.build().unwrap());
    (pair, node)
}

/// Leaves a handshake unfinished: a host, which no other call may name, says its first word and is silent from
/// then on. Resolves when the node has answered, and so has the handshake in its books.
async fn leave_handshake(pair: &Pair, host: u8) {
    let silent = pair.sim.host([10, 0, 1, host]);
    let dialler = silent.bind(Endpoint::builder().client(client_tls()), 0).unwrap();
    let address = pair.gateway.address(PORT);
    pair.sim.spawn(async move { drop(dialler.connect(address).await) });
    pair.sim.sleep(Duration::from_millis(15)).await;
    silent.unplug();
}

/// Dials until it is let in; until then it has to be refused, and nothing else. How long that took, too.
async fn let_in_within(pair: &Pair, dialler: &Endpoint) -> (Connection, Duration) {
    let begun = pair.sim.elapsed();
    loop {
        match dialler.connect(pair.gateway.address(PORT)).await {
            Ok(connection) => return (connection, pair.sim.elapsed() - begun),
            Err(error) => assert_eq!(*error.kind(), ErrorKind::Refused, "{error:?}"),
        }
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
    let (pair, _node) = nodes(TransportLimits::builder().max_handshakes(1));
    let dialler = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let mut before = Vec::new();
        for _ in 0..3 {
            before.push(dialler.connect(pair.gateway.address(PORT)).await.unwrap());
        }
        leave_handshake(&pair, 1).await;
        // For half a second it is safe from others that are no better.
        let (_let_in, took) = let_in_within(&pair, &dialler).await;
        assert!(took >= Duration::from_millis(450) && took < SECOND, "{took:?}");
        for connection in &before {
            assert!(connection.health().await.unwrap().ok);
        }
    });
}

/// Anyone can write any sender's address on a datagram. What answers nobody at that address hears gets no
/// further than half of the slots.
#[test]
fn forged_addresses_cannot_take_the_last_slots() {
    let (pair, _node) = nodes(TransportLimits::builder().max_handshakes(4));
    let dialler = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        for host in 1..=12 {
            leave_handshake(&pair, host).await;
        }
        for _ in 0..3 {
            let connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
            assert!(connection.health().await.unwrap().ok);
        }
        assert!(
            pair.sim.elapsed() < Duration::from_millis(500),
            "some of the forged ones have lost their slots"
        );
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
    let timeout = Duration::from_millis(300);
    let limits = TransportLimits::builder().handshake_timeout(timeout);
    let (pair, _node) = nodes(limits.max_handshakes(1).max_connections(2));
    let dialler = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let watcher = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
        let start = pair.sim.elapsed();
        leave_handshake(&pair, 1).await;
        let _let_in = let_in_within(&pair, &dialler).await;
        let took = pair.sim.elapsed() - start;
        assert!(took >= timeout, "let in beside a handshake that should hold the slot");
        assert!(took < 5 * SECOND, "{took:?}");
        let counted = counters(&watcher).await;
        assert_eq!((counted["handshakes_failed"], counted["connections_accepted"]), (1, 2));
    });
}

#[test]
fn a_server_that_never_answers_is_given_up_at_the_handshake_timeout() {
    run(async {
        // The second server has to answer within it.
        let timeout = Duration::from_secs(5);
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
    let limits = TransportLimits::builder().idle_timeout(SECOND);
    limits.keep_alive_interval(Duration::from_millis(100))
}

#[test]
fn a_link_that_falls_silent_is_lost_on_both_sides() {
    let (pair, _node) = nodes(short_idle().max_connections(1));
    let dialler = pair.dialler(short_idle().build().unwrap());
    let other = pair.sim.host([10, 0, 0, 3]);
    let other = other.bind(Endpoint::builder().client(client_tls()), 0).unwrap();
    pair.sim.run(async {
        let connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
        assert!(connection.health().await.unwrap().ok);
        pair.sensor.unplug();
        assert_eq!(*connection.closed().await.kind(), ErrorKind::ConnectionLost);
        assert_eq!(*connection.health().await.unwrap_err().kind(), ErrorKind::ConnectionLost);
        let_in_within(&pair, &other).await;
        assert!(pair.sim.elapsed() < 2 * SECOND, "{:?}", pair.sim.elapsed());
    });
}

#[test]
fn a_link_that_is_merely_quiet_stays() {
    let (pair, _node) = nodes(short_idle());
    let dialler = pair.dialler(short_idle().build().unwrap());
    pair.sim.run(async {
        let connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
        pair.sim.sleep(60 * SECOND).await;
        assert!(connection.close_reason().is_none());
        assert!(connection.health().await.unwrap().ok);
    });
}

#[test]
fn a_flood_of_connections_is_refused_and_harms_nobody() {
    const FLOOD: usize = 64;

    // In virtual time: a handshake of half a second could lose its slots to another.
    let (pair, _node) = nodes(TransportLimits::builder().max_connections(4).max_handshakes(16));
    let dialler = pair.dialler(TransportLimits::default());
    let address = pair.gateway.address(PORT);
    pair.sim.run(async {
        let good = dialler.connect(address).await.unwrap();
        let (arrived, arrivals) = unbounded();
        for _ in 0..FLOOD {
            let other = pair.sensor.bind(Endpoint::builder().client(client_tls()), 0).unwrap();
            let arrived = arrived.clone();
            pair.sim.spawn(async move { arrived.send(other.connect(address).await).await.unwrap() });
        }
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
        drop(inside);
        let mut again = Vec::new();
        for _ in 0..3 {
            again.push(let_in_within(&pair, &dialler).await);
        }
        let error = dialler.connect(address).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Refused, "{error:?}");
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
