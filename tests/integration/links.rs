//! Handshakes, calls and transfers over bad links, as the QUIC interop runner has them, in virtual time.

use std::{cell::Cell, time::Duration};

use crate::simulation::{PORT, Pair, SECOND, client_tls, for_each_seed, patient, server_tls};
use futures_lite::future::zip;
use palyra_quic::{
    Bytes, CertificateAuthority, Client, ClientTls, Code, Connection, Context, Endpoint, ErrorKind, Events,
    Notifier, Responses, RestartKey, Router, ServerTls, Subscription, TransportLimits, sim::Link,
};

const MILLI: Duration = Duration::from_millis(1);

fn echo() -> Router {
    Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
}

/// Bytes that tell of their place.
fn payload(len: usize) -> Bytes {
    (0..len).map(|place| u8::try_from(place % 251).unwrap()).collect()
}

/// One connection, over which `bytes` go there and back.
fn transfer(pair: &Pair, bytes: usize) {
    let (node, client) = (pair.serve(echo(), patient()), pair.dialler(patient()));
    let payload = payload(bytes);
    let answer = pair.sim.run(async {
        let connection = client.connect(node.local_addr()?).await?;
        connection.call_raw("demo.echo", payload.clone()).await
    });
    assert!(answer.unwrap() == payload, "the answer is not what was sent");
}

/// Connections one after another, of which each is to answer one call.
///
/// An attempt that is not through by its time limit is made again: quinn goes on doubling its pauses where a
/// key that was discarded should have set them back (RFC 9002, section 6.2.2), and so comes to pauses of
/// minutes.
fn handshakes(pair: &Pair, count: u32) {
    let (node, client) = (pair.serve(echo(), patient()), pair.dialler(TransportLimits::default()));
    pair.sim.run(async {
        let mut failures = Vec::new();
        for n in 0..count {
            let connection = loop {
                match client.connect(node.local_addr().unwrap()).await {
                    Ok(connection) => break connection,
                    Err(error) => failures.push(error),
                }
            };
            let n = n.to_be_bytes();
            assert_eq!(connection.call_raw("demo.echo", n.to_vec()).await.unwrap(), n[..]);
        }
        assert!(failures.len() < 10, "{failures:?}");
    });
}

#[test]
fn fifty_connections_come_up_under_loss_of_30_percent() {
    let link = Link::new().delay(15 * MILLI).rate(10_000_000).loss(0.3).most_lost_in_a_row(3);
    for_each_seed(|seed| {
        let pair = Pair::new(seed, link.clone());
        handshakes(&pair, 50);
        assert!(pair.sim.stats().lost > 50, "the link did not lose what it should");
    });
}

#[test]
fn fifty_connections_come_up_under_corruption_of_30_percent() {
    let link = Link::new().delay(15 * MILLI).rate(10_000_000).corruption(0.3).most_lost_in_a_row(3);
    for_each_seed(|seed| {
        let pair = Pair::new(seed, link.clone());
        handshakes(&pair, 50);
        assert!(pair.sim.stats().corrupted > 50, "the link did not corrupt what it should");
    });
}

/// With the default time limit some handshakes fail, and others take their place.
#[test]
fn a_client_gets_every_call_through_under_loss_of_30_percent() {
    let link = Link::new().delay(15 * MILLI).rate(10_000_000).loss(0.3).most_lost_in_a_row(3);
    for_each_seed(|seed| {
        let pair = Pair::new(seed, link.clone());
        let _node = pair.serve(echo(), patient());
        // Of the pauses that quinn goes on doubling, some calls meet long ones.
        let limits = TransportLimits::builder().idle_timeout(600 * SECOND).build().unwrap();
        let client = Client::builder(pair.dialler(limits)).address(pair.gateway.address(PORT));
        let client = client.call_timeout(600 * SECOND).build().unwrap();
        pair.sim.run(async {
            for _ in 0..5 {
                assert_eq!(client.call_raw("demo.echo", "hello").await.unwrap(), "hello");
                client.connection().await.unwrap().close(Code::NO_ERROR, "");
            }
        });
    });
}

#[test]
fn a_first_call_that_does_not_wait_for_confirmation_is_a_round_trip_sooner() {
    let one_way = 50 * MILLI;
    let answered = |confirmed: bool| {
        let pair = Pair::new(0, Link::new().delay(one_way));
        let (node, client) = (pair.serve(echo(), patient()), pair.dialler(patient()));
        let address = node.local_addr().unwrap();
        pair.sim.run(async {
            let connection = if confirmed {
                client.connect(address).await
            } else {
                client.connect_unconfirmed(address).await
            };
            assert_eq!(connection.unwrap().call_raw("demo.echo", "hello").await.unwrap(), "hello");
        });
        pair.sim.elapsed()
    };
    let sooner = answered(false);
    assert!((4 * one_way..4 * one_way + 5 * MILLI).contains(&sooner), "{sooner:?} for two round trips");
    assert!(answered(true) >= 6 * one_way);
}

fn datagrams_of(max_datagram_bytes: u16) -> TransportLimits {
    patient().to_builder().max_datagram_bytes(max_datagram_bytes).build().unwrap()
}

/// The path MTU that the client discovers on a path that takes UDP payloads of `mtu` bytes, and how many of
/// its datagrams were too large.
fn discovered(mtu: usize) -> (u64, u64) {
    discovered_with(mtu, patient(), patient())
}

fn discovered_with(mtu: usize, node: TransportLimits, client: TransportLimits) -> (u64, u64) {
    let pair = Pair::new(0, Link::new().delay(15 * MILLI).mtu(mtu));
    let (node, client) = (pair.serve(echo(), node), pair.dialler(client));
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        pair.sim.sleep(60 * SECOND).await;
        (connection.stats().mtu, pair.sim.stats().refused)
    })
}

#[test]
fn the_largest_datagrams_that_a_path_takes_are_found_by_few_probes() {
    assert_eq!(discovered(1472), (1452, 0));
    // As in WireGuard, over Ethernet: found to within a tenth, by three probes each that are too large, and
    // one that is not.
    assert_eq!(discovered(1372), (1325, 6));
    assert_eq!(discovered(1200), (1200, 12));
}

#[test]
fn the_search_ends_at_the_limit_that_was_set_and_finds_less_on_narrower_paths() {
    let discovered = |mtu, limit| discovered_with(mtu, datagrams_of(limit), datagrams_of(limit));
    for limit in [1200, 1300, 1452, 4000, 8972, 32_768, 65_507] {
        let (found, refused) = discovered(usize::MAX, limit);
        assert_eq!((found, refused), (limit.into(), 0));
    }
    // What UDP over IPv4 can send, which ends the search without a probe that is lost.
    assert_eq!(discovered(usize::MAX, 65_527), (65_507, 0));
    // Found to within 127 bytes, or nearly.
    for (mtu, limit) in [(1472, 8972), (1472, 65_527), (8972, 65_527), (8972, 9000)] {
        let (found, refused) = discovered(mtu, limit);
        let found = usize::try_from(found).unwrap();
        assert!((mtu - 260..=mtu).contains(&found) && refused > 0, "{found} of {mtu}, up to {limit}");
    }
}

#[test]
fn a_peer_that_receives_less_is_sent_no_more() {
    let found = |node, client| discovered_with(usize::MAX, datagrams_of(node), datagrams_of(client)).0;
    assert_eq!(found(4000, 65_527), 4000);
    // What the client receives does not limit what it sends.
    assert_eq!(found(65_527, 4000), 4000);
    // However small a limit is, what fits Ethernet is received, because a peer may begin with it.
    assert_eq!((found(1200, 65_527), found(1452, 65_527)), (1472, 1472));
}

#[test]
fn a_path_that_narrows_takes_small_datagrams_until_a_new_search_finds_what_fits() {
    let path = |mtu| Link::new().delay(15 * MILLI).rate(100_000_000).mtu(mtu);
    let pair = Pair::new(0, path(usize::MAX));
    let (node, client) = (pair.serve(echo(), datagrams_of(65_527)), pair.dialler(datagrams_of(65_527)));
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        let echoed = async || {
            let payload = payload(400_000);
            let begun = pair.sim.now();
            assert!(connection.call_raw("demo.echo", payload.clone()).await.unwrap() == payload);
            pair.sim.now() - begun
        };
        // Both sides search while nothing else is sent.
        pair.sim.sleep(60 * SECOND).await;
        assert_eq!(connection.stats().mtu, 65_507);
        echoed().await;
        pair.sim.set_default_link(path(4000));
        let took = echoed().await;
        assert!(took < 30 * SECOND, "{took:?}");
        assert_eq!(connection.stats().mtu, 1200);
        // The next search begins after a minute, and needs something to be sent.
        pair.sim.sleep(120 * SECOND).await;
        let refused = pair.sim.stats().refused;
        echoed().await;
        let found = connection.stats().mtu;
        assert!((3700..=4000).contains(&found), "{found}");
        assert_eq!(pair.sim.stats().refused, refused, "something was still too large");
    });
}

#[test]
fn transfers_survive_loss_and_corruption() {
    for_each_seed(|seed| {
        let link =
            Link::new().delay(15 * MILLI).rate(10_000_000).queue(64 * 1024).loss(0.02).corruption(0.02);
        let pair = Pair::new(seed, link);
        transfer(&pair, 500_000);
        assert!(pair.sim.stats().lost > 0 && pair.sim.stats().corrupted > 0);
    });
}

#[test]
fn transfers_survive_a_blackhole() {
    for_each_seed(|seed| {
        // Slow enough that the transfer lasts for several periods.
        let link = Link::new().delay(15 * MILLI).rate(800_000).blackhole(5 * SECOND, 2 * SECOND);
        let pair = Pair::new(seed, link);
        transfer(&pair, 500_000);
        assert!(pair.sim.elapsed() > 7 * SECOND, "the hole was never met");
    });
}

#[test]
fn a_satellite_link_works() {
    for_each_seed(|seed| {
        let pair = Pair::new(seed, Link::new().delay(750 * MILLI).rate(10_000_000));
        transfer(&pair, 200_000);
        assert!(pair.sim.elapsed() > 3 * SECOND);
    });
}

#[test]
fn reordering_and_duplication_change_nothing() {
    for_each_seed(|seed| {
        let link =
            Link::new().delay(15 * MILLI).rate(10_000_000).reordering(0.1, 20 * MILLI).duplication(0.1);
        let pair = Pair::new(seed, link.jitter(5 * MILLI));
        transfer(&pair, 500_000);
        assert!(pair.sim.stats().duplicated > 10);
    });
}

#[test]
fn a_path_that_takes_only_the_smallest_packets_works() {
    for_each_seed(|seed| {
        let pair = Pair::new(seed, Link::new().delay(15 * MILLI).mtu(1200));
        transfer(&pair, 200_000);
        assert!(pair.sim.stats().refused > 0, "no larger packet was ever tried");
    });
}

#[test]
fn a_link_that_is_down_is_a_typed_error_in_time() {
    for_each_seed(|seed| {
        let pair = Pair::new(seed, Link::new().down());
        let client = pair.dialler(TransportLimits::default());
        let error = pair.sim.run(client.connect(pair.gateway.address(PORT))).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::HandshakeTimeout);
        assert_eq!(pair.sim.elapsed().as_secs(), 10);
    });
}

#[test]
fn an_unplugged_peer_is_lost_after_the_idle_timeout() {
    for_each_seed(|seed| {
        let pair = Pair::new(seed, Link::new().delay(15 * MILLI));
        let (node, client) = (pair.serve(echo(), patient()), pair.dialler(TransportLimits::default()));
        let lost = pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            pair.gateway.unplug();
            connection.call_raw("demo.echo", "anyone?").await.unwrap_err()
        });
        assert_eq!(lost.kind(), &ErrorKind::ConnectionLost);
        assert!(lost.may_have_run());
        assert!((29..=36).contains(&pair.sim.elapsed().as_secs()), "{:?}", pair.sim.elapsed());
    });
}

/// A node that was killed and started again sends stateless resets, so that its peers need not wait for the
/// idle timeout.
#[test]
fn a_restart_is_noticed_before_the_idle_timeout() {
    for_each_seed(|seed| {
        let pair = Pair::new(seed, Link::new().delay(15 * MILLI));
        let client = pair.dialler(TransportLimits::default());
        let noticed = |restart: &dyn Fn() -> Endpoint| {
            let node = pair.serve(echo(), patient());
            pair.sim.run(async {
                let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
                connection.call_raw("demo.echo", "hello").await.unwrap();
                pair.gateway.crash();
                let _successor = restart();
                let since = pair.sim.elapsed();
                let error = connection.call_raw("demo.echo", "still there?").await.unwrap_err();
                assert_eq!(error.kind(), &ErrorKind::ConnectionLost, "{error:?}");
                pair.gateway.crash();
                pair.sim.elapsed() - since
            })
        };
        let again = || pair.serve(echo(), patient());
        assert!(noticed(&again) < SECOND);
        // The twin: a node with another key cannot reset the connections of this one.
        let stranger = || {
            let authority = CertificateAuthority::new("Another CA").unwrap();
            let tls =
                ServerTls::new(authority.issue_server(&["gateway.example", "10.0.0.1"]).unwrap().identity());
            pair.gateway.bind(Endpoint::builder().server(tls), PORT).unwrap()
        };
        assert!(noticed(&stranger) > 20 * SECOND);
    });
}

/// With a stored restart key, the same holds after the identity has changed.
#[test]
fn a_restart_with_another_identity_is_noticed_by_a_stored_key() {
    let pair = Pair::new(1, Link::new().delay(15 * MILLI));
    let client = pair.dialler(TransportLimits::default());
    let start = |key: Option<RestartKey>| {
        let authority = CertificateAuthority::new("Next CA").unwrap();
        let tls =
            ServerTls::new(authority.issue_server(&["gateway.example", "10.0.0.1"]).unwrap().identity());
        let builder = Endpoint::builder().server(tls).limits(patient());
        let builder = key.into_iter().fold(builder, palyra_quic::EndpointBuilder::restart_key);
        (pair.gateway.bind(builder, PORT).unwrap(), ClientTls::new(authority.trust()))
    };
    let noticed = |key: Option<RestartKey>| {
        let (node, tls) = start(key.clone());
        pair.sim.run(async {
            let connection = client.connect_with(&tls, node.local_addr().unwrap()).await.unwrap();
            pair.gateway.crash();
            let _successor = start(key);
            let since = pair.sim.elapsed();
            assert_eq!(connection.closed().await.kind(), &ErrorKind::ConnectionLost);
            pair.gateway.crash();
            pair.sim.elapsed() - since
        })
    };
    let keep_alive = TransportLimits::default().keep_alive_interval();
    assert!(noticed(Some(RestartKey::from_bytes([7; 32]))) <= 2 * keep_alive);
    // The twin: what follows from another private key is another key.
    assert!(noticed(None) > 20 * SECOND);
}

/// Calls whose answers are lost, and then a shutdown of the node with so much grace, which the link
/// outlasts.
fn answers_lost_before_a_shutdown(count: usize, grace: Duration) -> Vec<palyra_quic::Result<Bytes>> {
    let pair = Pair::new(1, Link::new().delay(15 * MILLI));
    let (node, client) = (pair.serve(echo(), patient()), pair.dialler(patient()));
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        pair.sim.set_link(&pair.gateway, &pair.sensor, Link::new().down());
        let (answer, answers) = smol::channel::unbounded();
        for _ in 0..count {
            let (connection, answer) = (connection.clone(), answer.clone());
            pair.sim.spawn(async move {
                answer.try_send(connection.call_raw("demo.echo", "hello").await).unwrap();
            });
        }
        pair.sim.sleep(SECOND).await;
        assert_eq!(node.stats().requests, u64::try_from(count).unwrap(), "they are answered");
        let back = async {
            pair.sim.sleep(5 * SECOND).await;
            pair.sim.set_link(&pair.gateway, &pair.sensor, Link::new().delay(15 * MILLI));
        };
        zip(node.shutdown(grace), back).await;
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(answers.recv().await.unwrap());
        }
        all
    })
}

#[test]
fn a_shutdown_waits_for_answers_that_were_given_before_it() {
    for count in [1, 20] {
        for answer in answers_lost_before_a_shutdown(count, 600 * SECOND) {
            assert_eq!(answer.unwrap(), "hello");
        }
    }
    // The twin: without the time for it, closing the connection takes them back.
    for answer in answers_lost_before_a_shutdown(1, Duration::ZERO) {
        answer.unwrap_err();
    }
}

/// The twin of all of these: a link that loses everything fails.
#[test]
#[should_panic(expected = "HandshakeTimeout")]
fn a_transfer_over_a_link_that_loses_everything_fails() {
    transfer(&Pair::new(1, Link::new().loss(1.0)), 1);
}

/// Random choices follow from the seed, and other seeds lead to other choices.
#[test]
fn a_seed_repeats_itself() {
    let outcome = |seed| {
        let link = Link::new().delay(15 * MILLI).rate(10_000_000).loss(0.1).jitter(10 * MILLI).mtu(1300);
        let pair = Pair::new(seed, link);
        transfer(&pair, 100_000);
        (pair.sim.elapsed(), pair.sim.stats())
    };
    assert_eq!(outcome(1), outcome(1));
    assert_ne!(outcome(1), outcome(2));
}

fn assert_send<T: Send>(value: T) -> T {
    value
}

/// Futures of the interface can be spawned on executors of many threads.
#[test]
fn futures_are_send() {
    let pair = Pair::new(1, Link::new());
    let endpoint: Endpoint = pair.dialler(patient());
    drop(assert_send(endpoint.connect(pair.gateway.address(PORT))));
    let client = pair.client(patient());
    drop(assert_send(client.call::<u8, u8>("demo.echo", &1)));
    drop(assert_send(client.call_raw("demo.echo", "")));
    drop(assert_send(client.notify_raw("demo.echo", "")));
    drop(assert_send(client.notify::<u8>("demo.echo", &1)));
    drop(assert_send(client.stream::<u8, u8>("demo.echo", &1)));
    drop(assert_send(client.request_raw("demo.echo", "").respond()));
    drop(assert_send(client.notifier()));
    drop(assert_send(client.health()));
    drop(assert_send(client.subscribe_raw().open()));
    drop(assert_send(client.subscribe_raw().open().next_raw()));
}

const fn assert_shareable<T: Send + Sync>() {}

/// What an application holds can be part of what its threads share.
const _: () = {
    assert_shareable::<Endpoint>();
    assert_shareable::<Connection>();
    assert_shareable::<Client>();
    assert_shareable::<Notifier>();
    assert_shareable::<Responses<Cell<u8>>>();
    assert_shareable::<Events<Cell<u8>>>();
    assert_shareable::<Subscription<Cell<u8>>>();
};

/// A node within 16 MiB, for 64 connections.
fn small_node(pair: &Pair) -> Endpoint {
    pair.serve(echo(), TransportLimits::within(16 * 1024 * 1024).unwrap())
}

/// Connections that are closed and not forgotten yet take memory, for which those that come next may have to
/// wait a moment; nobody is turned away while slots are free.
#[test]
fn short_connections_are_let_in_as_long_as_slots_are_free() {
    for (stay, clients) in [(40_u8, 8_u8), (0, 15), (20, 15)] {
        let pair = Pair::new(7, Link::new().delay(5 * MILLI));
        let node = small_node(&pair);
        let address = node.local_addr().unwrap();
        let dialler = |ip: [u8; 4]| {
            let builder = Endpoint::builder().client(client_tls());
            pair.sim.host(ip).bind(builder, 0).unwrap()
        };
        pair.sim.run(async {
            let mut kept = Vec::new();
            for last in 0..stay {
                kept.push(dialler([10, 0, 1, last]).connect(address).await.unwrap());
            }
            for last in 0..clients {
                let client = dialler([10, 0, 2, last]);
                pair.sim.spawn(async move {
                    for _ in 0..20 {
                        client.connect(address).await.unwrap();
                    }
                });
            }
            pair.sim.sleep(120 * SECOND).await;
            let stats = node.stats();
            let accepted = stats.connections_accepted - u64::from(stay);
            assert_eq!((accepted, stats.connections_refused.full), (20 * u64::from(clients), 0), "{stay}");
        });
    }
}

#[test]
fn a_node_that_dials_peers_which_are_down_lets_others_in() {
    for dials in [16_u8, 48, 200] {
        let pair = Pair::new(7, Link::new().delay(10 * MILLI));
        let builder = Endpoint::builder().server(server_tls()).client(client_tls());
        let limits = TransportLimits::within(16 * 1024 * 1024).unwrap();
        let node = pair.gateway.bind(builder.limits(limits), PORT).unwrap();
        let client = pair.dialler(TransportLimits::default());
        pair.sim.run(async {
            for last in 0..dials {
                let (node, peer) = (node.clone(), std::net::SocketAddr::from(([10, 1, 0, last], PORT)));
                pair.sim.spawn(async move { drop(node.connect(peer).await) });
            }
            pair.sim.sleep(SECOND).await;
            let connected = pair.sim.elapsed();
            client.connect(node.local_addr().unwrap()).await.unwrap();
            assert!(pair.sim.elapsed() - connected < SECOND, "{dials}");
        });
    }
}
