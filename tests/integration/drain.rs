//! What a node has accepted it finishes before it ends, and nothing goes on afterwards.

use std::{
    future::pending,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::simulation::{PORT, Pair, SECOND, client_identity, client_tls, server_tls};
use futures_lite::future::{or, poll_once, zip};
use palyra_quic::{
    Bytes, Client, Code, Connection, Context, Endpoint, ErrorKind, EventLog, MethodError, Rate, Response,
    RevocationList, Revoked, Router, TransportLimits, TransportLimitsBuilder,
    sim::{Link, Sim},
};

const MILLI: Duration = Duration::from_millis(1);
/// More than any test takes.
const LONG: Duration = Duration::from_secs(1000);
/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(30);

fn pair() -> Pair {
    Pair::new(7, Link::new().delay(ROUND_TRIP / 2))
}

fn limits() -> TransportLimitsBuilder {
    TransportLimits::builder()
}

/// Counts how many handlers are running, and how many have run to their end.
#[derive(Clone, Default)]
struct Handled(Arc<Counts>);

#[derive(Default)]
struct Counts {
    running: AtomicUsize,
    done: AtomicUsize,
}

/// A handler that is running.
struct Running(Handled);

impl Handled {
    fn begin(&self) -> Running {
        self.0.running.fetch_add(1, SeqCst);
        Running(self.clone())
    }

    fn running(&self) -> usize {
        self.0.running.load(SeqCst)
    }

    fn done(&self) -> usize {
        self.0.done.load(SeqCst)
    }
}

impl Running {
    fn done(self) {
        self.0.0.done.fetch_add(1, SeqCst);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, SeqCst);
    }
}

/// A router whose notification and method `work` take `time`, and whose stream `count` gives three answers,
/// each after it.
fn working(sim: &Sim, time: Duration) -> (Router, Handled) {
    let handled = Handled::default();
    let work = {
        let (sim, handled) = (sim.clone(), handled.clone());
        move || {
            let (sim, running) = (sim.clone(), handled.begin());
            async move {
                sim.sleep(time).await;
                running.done();
            }
        }
    };
    let (notified, counting, counted) = (work.clone(), sim.clone(), handled.clone());
    let router = Router::new()
        .on_notification_raw("work", move |_: Context, _| notified())
        .serve_raw("work", move |_: Context, params| {
            let work = work();
            async move {
                work.await;
                Ok(params)
            }
        })
        .serve_stream_raw("count", move |_: Context, _, mut sink| {
            let (sim, running) = (counting.clone(), counted.begin());
            async move {
                for _ in 0..3 {
                    sim.sleep(time).await;
                    sink.send_raw("x").await.map_err(|error| MethodError::internal(error.to_string()))?;
                }
                running.done();
                Ok(())
            }
        });
    (router, handled)
}

/// A node whose work takes `time`, a client, and what the node has handled.
fn nodes(pair: &Pair, time: Duration, limits: TransportLimits) -> (Endpoint, Endpoint, Handled) {
    let (router, handled) = working(&pair.sim, time);
    (pair.serve(router, limits), pair.dialler(TransportLimits::default()), handled)
}

async fn send_on_one_stream(connection: &Connection, count: usize) {
    let mut notifier = connection.notifier().await.unwrap();
    for _ in 0..count {
        notifier.send_raw("work", "x").await.unwrap();
    }
    notifier.finish().await.unwrap();
}

async fn send_named(connection: &Connection, method: &str) {
    let mut notifier = connection.notifier().await.unwrap();
    notifier.send_raw(method, "x").await.unwrap();
    notifier.finish().await.unwrap();
}

async fn send_on_streams(sim: &Sim, connection: &Connection, count: usize) {
    let (tell, told) = smol::channel::unbounded();
    for _ in 0..count {
        let (connection, tell) = (connection.clone(), tell.clone());
        sim.spawn(async move {
            send_on_one_stream(&connection, 1).await;
            tell.try_send(()).unwrap();
        });
    }
    for _ in 0..count {
        told.recv().await.unwrap();
    }
}

// What was received.

#[test]
fn all_notifications_received_on_one_stream_are_handled_when_a_shutdown_returns() {
    for count in [1, 40, 500] {
        let pair = pair();
        let (node, client, handled) = nodes(&pair, 30 * MILLI, limits().build().unwrap());
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            send_on_one_stream(&connection, count).await;
            node.shutdown(LONG).await;
            assert_eq!((handled.done(), handled.running()), (count, 0));
            pair.sim.sleep(2 * SECOND).await;
            assert_eq!(handled.done(), count);
        });
    }
}

#[test]
fn all_notifications_received_on_many_streams_are_handled_when_a_shutdown_returns() {
    for (count, streams) in [(40, 32), (64, 8), (5, 1)] {
        let pair = pair();
        let limits = limits().max_concurrent_uni_streams(streams).build().unwrap();
        let (node, client, handled) = nodes(&pair, 300 * MILLI, limits);
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            send_on_streams(&pair.sim, &connection, count).await;
            node.shutdown(LONG).await;
            assert_eq!((handled.done(), handled.running()), (count, 0));
        });
    }
}

/// The twin of both: a grace that is too short is no reason to take longer, and nothing goes on behind it.
#[test]
fn a_grace_that_is_too_short_for_what_was_received_ends_it() {
    let pair = pair();
    let (node, client, handled) = nodes(&pair, 100 * MILLI, limits().build().unwrap());
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        send_on_one_stream(&connection, 40).await;
        let began = pair.sim.elapsed();
        node.shutdown(SECOND).await;
        assert!(pair.sim.elapsed() - began <= 2 * SECOND);
        let done = handled.done();
        assert!((5..40).contains(&done), "{done}");
        assert_eq!(handled.running(), 0);
        pair.sim.sleep(10 * SECOND).await;
        assert_eq!(handled.done(), done);
    });
}

#[derive(Clone, Copy, Debug)]
enum Leaves {
    Shutdown,
    Closing,
    Dropping,
    Vanishing,
}

#[test]
fn what_was_received_is_handled_after_its_sender_has_left() {
    for leaves in [Leaves::Shutdown, Leaves::Closing, Leaves::Dropping, Leaves::Vanishing] {
        for (on_one, on_many) in [(40, 0), (0, 40), (20, 33)] {
            let pair = pair();
            let (router, handled) = working(&pair.sim, 300 * MILLI);
            let limits = limits().idle_timeout(2 * SECOND).keep_alive_interval(SECOND);
            let limits = limits.build().unwrap();
            let (node, client) = (pair.serve(router, limits.clone()), pair.dialler(limits));
            pair.sim.run(async {
                let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
                if on_one > 0 {
                    send_on_one_stream(&connection, on_one).await;
                }
                send_on_streams(&pair.sim, &connection, on_many).await;
                match leaves {
                    Leaves::Shutdown => client.shutdown(Duration::ZERO).await,
                    Leaves::Closing => connection.close(Code::CANCELLED, "not interested"),
                    Leaves::Dropping => {}
                    Leaves::Vanishing => pair.sensor.unplug(),
                }
                drop((connection, client));
                pair.sim.sleep(20 * SECOND).await;
                assert_eq!(handled.done(), on_one + on_many, "{leaves:?}");
                assert_eq!(node.stats().connections_open, 0);
            });
        }
    }
}

#[test]
fn a_sender_that_has_left_is_handled_in_its_turn_by_rate() {
    let pair = pair();
    let limits = limits().request_rate(Rate::every(SECOND).burst(2)).build().unwrap();
    let (node, client, handled) = nodes(&pair, Duration::ZERO, limits);
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        send_on_one_stream(&connection, 6).await;
        client.shutdown(Duration::ZERO).await;
        let done = handled.done();
        assert!(done < 6, "the others have to wait");
        pair.sim.sleep(6 * SECOND).await;
        assert_eq!(handled.done(), 6);
    });
}

#[test]
fn a_shutdown_does_not_wait_for_turns_by_rate() {
    let pair = pair();
    let limits = limits().request_rate(Rate::every(SECOND).burst(1)).build().unwrap();
    let (node, client, handled) = nodes(&pair, Duration::ZERO, limits);
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        send_on_one_stream(&connection, 8).await;
        let began = pair.sim.elapsed();
        node.shutdown(LONG).await;
        assert_eq!(handled.done(), 8);
        assert!(pair.sim.elapsed() - began < 3 * SECOND);
    });
}

/// A peer that is turned out loses what waits, whether it is there or has left; one that is not loses
/// nothing.
#[test]
fn what_a_peer_has_sent_that_is_turned_out_is_not_handled() {
    for (revoked, leaves) in [(true, false), (true, true), (false, true), (false, false)] {
        let pair = pair();
        let (router, handled) = working(&pair.sim, SECOND);
        let list = RevocationList::new();
        let tls = server_tls().revocations(&list);
        let builder = Endpoint::builder().server(tls).router(router);
        let node = pair.gateway.bind(builder, PORT).unwrap();
        let client = pair.dialler(TransportLimits::default());
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            send_on_one_stream(&connection, 3).await;
            send_on_streams(&pair.sim, &connection, 40).await;
            if leaves {
                client.shutdown(Duration::ZERO).await;
            }
            if revoked {
                let certificate = client_identity().chain()[0].clone();
                list.revoke(Revoked::certificate(&certificate).unwrap());
            }
            pair.sim.sleep(20 * SECOND).await;
            let done = handled.done();
            assert_eq!(done == 43, !revoked, "{done} with revoked: {revoked}, leaves: {leaves}");
            assert_eq!(handled.running(), 0);
        });
    }
}

#[test]
fn a_peer_that_is_turned_out_for_what_it_does_loses_what_waits() {
    for code in [
        Code::IDENTITY_REJECTED,
        Code::IDENTITY_EXPIRED,
        Code::EXCESSIVE_LOAD,
        Code::RATE_LIMITED,
        Code::NO_ERROR,
    ] {
        let pair = pair();
        let (router, handled) = working(&pair.sim, SECOND);
        let (lend, lent) = smol::channel::bounded(1);
        let router = router.on_connection(move |connection| {
            let lend = lend.clone();
            async move { lend.send(connection).await.unwrap() }
        });
        let (node, client) =
            (pair.serve(router, limits().build().unwrap()), pair.dialler(TransportLimits::default()));
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            send_on_streams(&pair.sim, &connection, 40).await;
            lent.recv().await.unwrap().close(code, "");
            pair.sim.sleep(10 * SECOND).await;
            assert_eq!(handled.done() == 40, code == Code::NO_ERROR, "{code}: {}", handled.done());
        });
    }
}

/// A slot is what a connection costs; a peer that leaves work behind and comes again has not got another.
#[test]
fn a_connection_keeps_its_slot_until_what_it_brought_is_handled() {
    let pair = pair();
    let limits = limits().max_connections(1).max_concurrent_uni_streams(1).build().unwrap();
    let (node, client, handled) = nodes(&pair, SECOND, limits);
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        send_on_one_stream(&connection, 5).await;
        connection.close(Code::NO_ERROR, "");
        pair.sim.sleep(2 * SECOND).await;
        let refused = client.connect(node.local_addr().unwrap()).await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::Refused);
        pair.sim.sleep(4 * SECOND).await;
        assert_eq!(handled.done(), 5);
        client.connect(node.local_addr().unwrap()).await.unwrap();
    });
}

#[test]
fn a_stream_that_is_not_whole_is_stopped_and_its_whole_frames_are_handled() {
    let pair = pair();
    let (node, client, handled) = nodes(&pair, 10 * MILLI, limits().build().unwrap());
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        let busy = connection.clone();
        pair.sim.spawn(async move {
            let _ = busy.call_raw("work", "").await;
        });
        let mut notifier = connection.notifier().await.unwrap();
        for _ in 0..20 {
            notifier.send_raw("work", "x").await.unwrap();
        }
        pair.sim.sleep(ROUND_TRIP).await;
        zip(node.shutdown(LONG), async {
            pair.sim.sleep(SECOND).await;
            let error = notifier.finish().await.unwrap_err();
            assert!(matches!(
                error.kind(),
                ErrorKind::StreamReset(Code::SHUTTING_DOWN)
                    | ErrorKind::ConnectionClosed(Code::SHUTTING_DOWN)
            ));
        })
        .await;
        assert_eq!(handled.done(), 21);
    });
}

/// What arrives while the node shuts down is handled if it is acknowledged; it does not make the shutdown
/// longer.
#[test]
fn a_sender_that_does_not_stop_neither_loses_what_was_acknowledged_nor_holds_the_shutdown() {
    for time in [Duration::ZERO, MILLI, 20 * MILLI] {
        let pair = pair();
        let (node, client, handled) = nodes(&pair, time, limits().build().unwrap());
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            let acknowledged = Arc::new(AtomicUsize::new(0));
            for _ in 0..4 {
                let (connection, acknowledged) = (connection.clone(), acknowledged.clone());
                pair.sim.spawn(async move {
                    loop {
                        let Ok(mut notifier) = connection.notifier().await else { return };
                        for _ in 0..5 {
                            if notifier.send_raw("work", "x").await.is_err() {
                                return;
                            }
                        }
                        if notifier.finish().await.is_err() {
                            return;
                        }
                        acknowledged.fetch_add(5, SeqCst);
                    }
                });
            }
            pair.sim.sleep(SECOND).await;
            let began = pair.sim.elapsed();
            node.shutdown(LONG).await;
            assert!(pair.sim.elapsed() - began < 5 * SECOND, "{:?}", pair.sim.elapsed() - began);
            let (acknowledged, done) = (acknowledged.load(SeqCst), handled.done());
            assert!(acknowledged > 0 && done >= acknowledged, "{done} of {acknowledged}");
        });
    }
}

/// quinn acknowledges what it drops on a stream that was stopped. Where the sender does not hear that it was,
/// it looks received.
#[test]
fn what_is_on_its_way_when_the_shutdown_begins_is_handled_if_it_is_acknowledged() {
    let mut acknowledged = 0;
    for quarter in 0..4 {
        let pair = pair();
        let (node, client, handled) = nodes(&pair, 2 * SECOND, limits().build().unwrap());
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            // Keeps the connection open.
            connection.notify_raw("work", "x").await.unwrap();
            let mut notifier = connection.notifier().await.unwrap();
            notifier.send_raw("nobody", "x").await.unwrap();
            pair.sim.sleep(SECOND).await;
            notifier.send_raw("work", "x").await.unwrap();
            let finishing = notifier.finish();
            let losing = async {
                // Nothing is told to the sender as the shutdown begins.
                pair.sim.sleep(quarter * ROUND_TRIP / 8).await;
                pair.sim.set_link(&pair.gateway, &pair.sensor, Link::new().down());
                pair.sim.sleep(MILLI).await;
                let back = async {
                    pair.sim.sleep(MILLI).await;
                    pair.sim.set_link(&pair.gateway, &pair.sensor, Link::new().delay(ROUND_TRIP / 2));
                };
                zip(node.shutdown(LONG), back).await;
            };
            let (finished, ()) = zip(finishing, losing).await;
            if finished.is_ok() {
                acknowledged += 1;
                assert_eq!(handled.done(), 2);
            }
        });
    }
    assert!(acknowledged > 0);
}

/// What was received before the shutdown is bounded by the window; more than that is more than was accepted.
#[test]
fn one_stream_that_never_ends_does_not_hold_the_shutdown() {
    let pair = pair();
    let limits = limits().receive_window(8192).stream_receive_window(8192).build().unwrap();
    let (node, client, handled) = nodes(&pair, 20 * MILLI, limits);
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        pair.sim.spawn(async move {
            let mut notifier = connection.notifier().await.unwrap();
            while notifier.send_raw("work", vec![7; 500]).await.is_ok() {}
        });
        pair.sim.sleep(5 * SECOND).await;
        let began = pair.sim.elapsed();
        node.shutdown(LONG).await;
        assert!(handled.done() > 200, "it is sent faster than it is handled");
        assert!(pair.sim.elapsed() - began < 3 * SECOND, "{:?}", pair.sim.elapsed() - began);
    });
}

// What this node asks and sends.

#[test]
fn a_shutdown_waits_for_own_notifications() {
    for way in ["Connection::notify_raw", "Client::notify_raw", "Connection::notify", "Notifier::finish"] {
        let pair = pair();
        let (router, handled) = working(&pair.sim, Duration::ZERO);
        let _node = pair.serve(router, limits().build().unwrap());
        pair.sim.run(async {
            let endpoint = pair.dialler(TransportLimits::default());
            let client =
                Client::builder(endpoint.clone()).address(pair.gateway.address(PORT)).build().unwrap();
            // All the same if packets have to be sent again.
            let connection = client.connection().await.unwrap();
            pair.sim.set_link(&pair.sensor, &pair.gateway, Link::new().down());
            match way {
                "Connection::notify_raw" => connection.notify_raw("work", "hi").await.unwrap(),
                "Client::notify_raw" => client.notify_raw("work", "hi").await.unwrap(),
                "Connection::notify" => connection.notify("work", &1).await.unwrap(),
                _ => {
                    let mut notifier = connection.notifier().await.unwrap();
                    notifier.send_raw("work", "hi").await.unwrap();
                    assert!(poll_once(notifier.finish()).await.is_none());
                }
            }
            let back = async {
                pair.sim.sleep(500 * MILLI).await;
                pair.sim.set_link(&pair.sensor, &pair.gateway, Link::new().delay(ROUND_TRIP / 2));
            };
            let began = pair.sim.elapsed();
            zip(endpoint.shutdown(10 * SECOND), back).await;
            assert!(pair.sim.elapsed() - began < 5 * SECOND, "it does not wait for the end of its grace");
            pair.sim.sleep(SECOND).await;
            assert_eq!(handled.done(), 1, "{way}");
        });
    }
}

#[test]
fn notifications_arrive_though_the_last_handle_of_their_connection_is_dropped() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Then {
        Nothing,
        Shutdown,
        DropEndpoint,
    }
    for then in [Then::Nothing, Then::Shutdown, Then::DropEndpoint] {
        for count in [1, 20, 200] {
            let pair = pair();
            let (router, handled) = working(&pair.sim, Duration::ZERO);
            let node = pair.serve(router, limits().build().unwrap());
            pair.sim.run(async {
                let client = pair.dialler(TransportLimits::default());
                let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
                for _ in 0..count {
                    connection.notify_raw("work", "hi").await.unwrap();
                }
                drop(connection);
                match then {
                    Then::Nothing => pair.sim.sleep(SECOND).await,
                    Then::Shutdown => client.shutdown(10 * SECOND).await,
                    Then::DropEndpoint => drop(client),
                }
                pair.sim.sleep(SECOND).await;
                assert_eq!(handled.done(), count, "{then:?}");
                assert_eq!(node.stats().connections_open, 0, "and then it closes");
            });
        }
    }
}

#[test]
fn a_connection_that_is_dropped_does_not_wait_for_a_peer_that_is_gone() {
    let pair = pair();
    let (router, _) = working(&pair.sim, Duration::ZERO);
    let node = pair.serve(router, limits().build().unwrap());
    pair.sim.run(async {
        let client = pair.dialler(TransportLimits::default());
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        pair.gateway.unplug();
        connection.notify_raw("work", "hi").await.unwrap();
        drop(connection);
        let began = pair.sim.elapsed();
        client.shutdown(LONG).await;
        let took = pair.sim.elapsed() - began;
        assert!((29..40).contains(&took.as_secs()), "{took:?}");
    });
}

#[test]
fn a_shutdown_waits_for_own_calls() {
    for way in 0..4 {
        let pair = pair();
        let (router, handled) = working(&pair.sim, 300 * MILLI);
        let _node = pair.serve(router, limits().build().unwrap());
        pair.sim.run(async {
            let endpoint = pair.dialler(TransportLimits::default());
            let client =
                Client::builder(endpoint.clone()).address(pair.gateway.address(PORT)).build().unwrap();
            let connection = client.connection().await.unwrap();
            let calling = async {
                match way {
                    0 => assert_eq!(connection.call_raw("work", "x").await.unwrap(), "x"),
                    1 => assert_eq!(client.call_raw("work", "x").await.unwrap(), "x"),
                    2 => {
                        let call = connection.request_raw("work", "").timeout(10 * SECOND);
                        assert!(matches!(call.respond().await.unwrap(), Response::Result { .. }));
                    }
                    _ => {
                        let mut answers = connection.stream_raw("count", "").await.unwrap();
                        for _ in 0..3 {
                            assert_eq!(answers.next_raw().await.unwrap().unwrap(), "x");
                        }
                        assert!(answers.next_raw().await.unwrap().is_none());
                    }
                }
                pair.sim.elapsed()
            };
            let leaving = async {
                pair.sim.sleep(100 * MILLI).await;
                endpoint.shutdown(10 * SECOND).await;
                pair.sim.elapsed()
            };
            let (answered, left) = zip(calling, leaving).await;
            assert!(left >= answered && left - answered < SECOND, "{answered:?}, {left:?}");
            assert_eq!(handled.done(), 1);
        });
    }
}

/// Repeats and the pauses between them are part of a call.
#[test]
fn a_shutdown_waits_for_a_call_of_a_client_between_its_attempts() {
    let pair = pair();
    let endpoint = pair.dialler(limits().handshake_timeout(SECOND).build().unwrap());
    pair.sim.run(async {
        let client = Client::builder(endpoint.clone()).address(pair.gateway.address(PORT)).build().unwrap();
        let appearing = async {
            pair.sim.sleep(5 * SECOND).await;
            pair.serve(working(&pair.sim, 300 * MILLI).0, limits().build().unwrap())
        };
        let shutdown = async {
            pair.sim.sleep(100 * MILLI).await;
            endpoint.shutdown(100 * SECOND).await;
        };
        let (answer, (_node, ())) = zip(client.call_raw("work", "x"), zip(appearing, shutdown)).await;
        assert_eq!(answer.unwrap(), "x");
        assert!(pair.sim.elapsed() < 60 * SECOND);
    });
}

#[test]
fn own_subscriptions_and_calls_without_a_connection_hold_no_shutdown() {
    for way in 0..3 {
        let pair = pair();
        let log = EventLog::new();
        log.publish_raw("x").unwrap();
        let (router, _) = working(&pair.sim, 300 * MILLI);
        let node = pair.serve(router.events(log), limits().build().unwrap());
        pair.sim.run(async {
            let endpoint = pair.dialler(TransportLimits::default());
            let client =
                Client::builder(endpoint.clone()).address(pair.gateway.address(PORT)).build().unwrap();
            let connection = client.connection().await.unwrap();
            let mut events = connection.events_raw().follow().open().await.unwrap();
            events.next_raw().await.unwrap().unwrap();
            let mut subscription = client.subscribe_raw().open();
            subscription.next_raw().await.unwrap();
            let mut answers = connection.stream_raw("count", "").await.unwrap();
            match way {
                // What nobody reads to its end is over with its connection.
                0 => {
                    node.shutdown(Duration::ZERO).await;
                    connection.closed().await;
                }
                1 => drop(answers.next_raw().await.unwrap()),
                _ => {}
            }
            if way > 0 {
                drop(answers);
            }
            let began = pair.sim.elapsed();
            endpoint.shutdown(LONG).await;
            assert!(pair.sim.elapsed() - began < 2 * SECOND, "{way}");
        });
    }
}

/// A handler that is finishing may call back, and notify.
#[test]
fn a_handler_may_call_while_its_node_shuts_down() {
    let pair = pair();
    let answered = Arc::new(AtomicUsize::new(0));
    let (sim, count) = (pair.sim.clone(), answered.clone());
    let router = Router::new().on_notification_raw("ask", move |context: Context, _| {
        let (sim, count) = (sim.clone(), count.clone());
        async move {
            sim.sleep(SECOND).await;
            let connection = context.connection();
            assert_eq!(connection.call_raw("work", "x").await.unwrap(), "x");
            connection.notify_raw("work", "x").await.unwrap();
            count.fetch_add(1, SeqCst);
        }
    });
    let (theirs, handled) = working(&pair.sim, 300 * MILLI);
    let node = pair.serve(router, limits().build().unwrap());
    let builder = Endpoint::builder().client(client_tls()).router(theirs);
    let client = pair.sensor.bind(builder, 0).unwrap();
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        for _ in 0..3 {
            connection.notify_raw("ask", "").await.unwrap();
        }
        pair.sim.sleep(100 * MILLI).await;
        node.shutdown(LONG).await;
        assert_eq!(answered.load(SeqCst), 3);
        pair.sim.sleep(SECOND).await;
        assert_eq!(handled.done(), 6);
    });
}

/// What is sent during the shutdown is waited for as well, and no longer than it takes to be acknowledged.
#[test]
fn a_notification_of_a_node_that_shuts_down_holds_it_until_it_is_acknowledged() {
    for count in [1, 3, 20] {
        let pair = pair();
        let sim = pair.sim.clone();
        let router = Router::new().on_notification_raw("ask", move |context: Context, _| {
            let sim = sim.clone();
            async move {
                sim.sleep(SECOND).await;
                for _ in 0..count {
                    context.connection().notify_raw("work", "x").await.unwrap();
                }
            }
        });
        let (theirs, handled) = working(&pair.sim, Duration::ZERO);
        let node = pair.serve(router, limits().build().unwrap());
        let builder = Endpoint::builder().client(client_tls()).router(theirs);
        let client = pair.sensor.bind(builder, 0).unwrap();
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            send_named(&connection, "ask").await;
            let began = pair.sim.elapsed();
            node.shutdown(LONG).await;
            let took = pair.sim.elapsed() - began;
            assert!(took < 5 * SECOND, "{count}: {took:?}");
            pair.sim.sleep(SECOND).await;
            assert_eq!(handled.done(), count);
        });
    }
}

// Nothing goes on.

#[test]
fn nothing_is_running_when_a_shutdown_has_returned() {
    for grace in [Duration::ZERO, 100 * MILLI, 5 * SECOND] {
        let pair = pair();
        let handled = Handled::default();
        let forever = |handled: &Handled| {
            let handled = handled.clone();
            move || {
                let running = handled.begin();
                async move {
                    let _running = running;
                    pending::<()>().await;
                }
            }
        };
        let [one, two, three, four, five] = [(); 5].map(|()| forever(&handled));
        let authorizing = Arc::new(AtomicUsize::new(0));
        let asked = authorizing.clone();
        let router = Router::new()
            .serve_raw("forever", move |_: Context, _| {
                let forever = one();
                async move {
                    forever.await;
                    Ok(Bytes::new())
                }
            })
            .serve_stream_raw("stream", move |_: Context, _, _| {
                let forever = two();
                async move {
                    forever.await;
                    Ok(())
                }
            })
            .on_notification_raw("forever", move |_: Context, _| three())
            .on_connection(move |_| four())
            .authorize(move |_| {
                let second = asked.fetch_add(1, SeqCst) > 0;
                let forever = five();
                async move {
                    if second {
                        forever.await;
                    }
                    Ok(())
                }
            });
        let (node, client) =
            (pair.serve(router, limits().build().unwrap()), pair.dialler(TransportLimits::default()));
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            for _ in 0..3 {
                connection.notify_raw("forever", "").await.unwrap();
                let connection = connection.clone();
                pair.sim.spawn(async move {
                    let _ = zip(connection.call_raw("forever", ""), async {
                        connection.stream_raw("stream", "").await?.next_raw().await
                    })
                    .await;
                });
            }
            // This one is not let in.
            let _waiting = client.connect_unconfirmed(node.local_addr().unwrap()).await.unwrap();
            pair.sim.sleep(SECOND).await;
            assert_eq!((handled.running(), authorizing.load(SeqCst)), (11, 2));
            let began = pair.sim.elapsed();
            node.shutdown(grace).await;
            assert_eq!(handled.running(), 0);
            let took = pair.sim.elapsed() - began;
            assert!(took >= grace && took <= grace + SECOND, "{took:?}");
        });
    }
}

#[test]
fn the_router_is_released_with_an_endpoint_that_was_shut_down() {
    for dials in [false, true] {
        let pair = pair();
        let held: Arc<()> = Arc::default();
        let released: Weak<()> = Arc::downgrade(&held);
        let router = Router::new().serve_raw("held", move |_: Context, params| {
            let _held = &held;
            async move { Ok(params) }
        });
        let other = pair.serve(Router::new(), limits().build().unwrap());
        pair.sim.run(async {
            let builder = Endpoint::builder().server(server_tls()).client(client_tls()).router(router);
            let node = pair.sensor.bind(builder, PORT).unwrap();
            let client = pair.gateway.bind(Endpoint::builder().client(client_tls()), 0).unwrap();
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            connection.call_raw("held", "x").await.unwrap();
            connection.notify_raw("nobody", "x").await.unwrap();
            let dialled = node.connect(other.local_addr().unwrap()).await.unwrap();
            if dials {
                dialled.notify_raw("nobody", "x").await.unwrap();
            }
            drop(dialled);
            node.shutdown(SECOND).await;
            assert!(released.upgrade().is_some(), "the endpoint is there");
            drop(node);
            assert!(released.upgrade().is_none());
        });
    }
}

// In handlers.

/// A node whose handlers can find it.
fn with_itself(pair: &Pair, router: impl FnOnce(Arc<OnceLock<Endpoint>>) -> Router) -> Endpoint {
    let itself = Arc::new(OnceLock::new());
    let node = pair.serve(router(itself.clone()), limits().build().unwrap());
    itself.set(node.clone()).unwrap();
    node
}

#[test]
fn a_method_may_await_the_shutdown_of_its_own_node_and_its_answer_arrives() {
    for method in ["unary", "streaming", "twice"] {
        for others in [0, 1, 10] {
            let pair = pair();
            let (working, handled) = working(&pair.sim, 2 * SECOND);
            let node = with_itself(&pair, |itself| {
                let [one, two, three] = [(); 3].map(|()| itself.clone());
                working
                    .serve_raw("unary", move |_: Context, params| {
                        let node = one.get().unwrap().clone();
                        async move {
                            node.shutdown(LONG).await;
                            Ok(params)
                        }
                    })
                    .serve_raw("twice", move |_: Context, params| {
                        let node = two.get().unwrap().clone();
                        async move {
                            zip(node.shutdown(LONG), node.shutdown(LONG)).await;
                            node.shutdown(LONG).await;
                            Ok(params)
                        }
                    })
                    .serve_stream_raw("streaming", move |_: Context, params, mut sink| {
                        let node = three.get().unwrap().clone();
                        async move {
                            node.shutdown(LONG).await;
                            sink.send_raw(params)
                                .await
                                .map_err(|error| MethodError::internal(error.to_string()))?;
                            Ok(())
                        }
                    })
            });
            let client = pair.dialler(TransportLimits::default());
            pair.sim.run(async {
                let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
                let (tell, told) = smol::channel::unbounded();
                for _ in 0..others {
                    let (connection, tell) = (connection.clone(), tell.clone());
                    pair.sim.spawn(async move {
                        tell.try_send(connection.call_raw("work", "x").await).unwrap();
                    });
                }
                pair.sim.sleep(100 * MILLI).await;
                assert_eq!(connection.call_raw(method, "bye").await.unwrap(), "bye", "{method}");
                let answered = pair.sim.elapsed();
                assert_eq!(answered > 2 * SECOND, others > 0, "it waits for the others");
                assert_eq!(handled.done(), others);
                for _ in 0..others {
                    assert_eq!(told.recv().await.unwrap().unwrap(), "x");
                }
                let closed = connection.closed().await;
                assert_eq!(closed.kind(), &ErrorKind::ConnectionClosed(Code::SHUTTING_DOWN));
                assert!(pair.sim.elapsed() - answered < SECOND);
            });
        }
    }
}

#[test]
fn handlers_that_all_await_the_shutdown_do_not_wait_for_each_other() {
    let pair = pair();
    let returned = Arc::new(AtomicUsize::new(0));
    let sim = pair.sim.clone();
    let node = with_itself(&pair, |itself| {
        let (count, notified, later) = (returned.clone(), itself.clone(), sim.clone());
        let notification = move |_: Context, _: Bytes| {
            let (node, count, sim) = (notified.get().unwrap().clone(), count.clone(), later.clone());
            async move {
                sim.sleep(200 * MILLI).await;
                node.shutdown(LONG).await;
                count.fetch_add(1, SeqCst);
            }
        };
        Router::new().on_notification_raw("leave", notification).serve_raw(
            "leave",
            move |_: Context, params| {
                let (node, sim) = (itself.get().unwrap().clone(), sim.clone());
                async move {
                    sim.sleep(200 * MILLI).await;
                    node.shutdown(LONG).await;
                    Ok(params)
                }
            },
        )
    });
    let client = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        connection.notify_raw("leave", "").await.unwrap();
        // One behind the other on one stream, too.
        let mut notifier = connection.notifier().await.unwrap();
        for _ in 0..3 {
            notifier.send_raw("leave", "").await.unwrap();
        }
        let (one, (two, end)) =
            zip(connection.call_raw("leave", "1"), zip(connection.call_raw("leave", "2"), notifier.finish()))
                .await;
        assert_eq!((one.unwrap(), two.unwrap()), ("1".into(), "2".into()));
        end.unwrap();
        node.shutdown(LONG).await;
        assert_eq!(returned.load(SeqCst), 4);
        assert!(pair.sim.elapsed() < 5 * SECOND);
    });
}

/// However few of them there may be at a time.
#[test]
fn a_notification_may_await_the_shutdown() {
    for places in [1, 2, 32] {
        let pair = pair();
        let itself = Arc::new(OnceLock::<Endpoint>::new());
        let (tell, told) = smol::channel::unbounded();
        let node = itself.clone();
        let router = Router::new().on_notification_raw("leave", move |_: Context, _| {
            let (node, tell) = (node.get().unwrap().clone(), tell.clone());
            async move {
                node.shutdown(LONG).await;
                tell.try_send(()).unwrap();
            }
        });
        let node = pair.serve(router, limits().max_concurrent_uni_streams(places).build().unwrap());
        itself.set(node.clone()).unwrap();
        let client = pair.dialler(TransportLimits::default());
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            send_named(&connection, "leave").await;
            told.recv().await.unwrap();
            let closed = connection.closed().await;
            assert_eq!(closed.kind(), &ErrorKind::ConnectionClosed(Code::SHUTTING_DOWN));
            assert!(pair.sim.elapsed() < 2 * SECOND, "{:?} with {places}", pair.sim.elapsed());
        });
    }
}

/// The handlers that await the shutdown have all places, and the shutdown awaits what has none.
#[test]
fn notifications_that_wait_for_a_place_are_handled_while_others_await_the_shutdown() {
    for (places, leave) in [(1, 1), (2, 1), (2, 2), (5, 5)] {
        let pair = pair();
        let (working, handled) = working(&pair.sim, 100 * MILLI);
        let itself = Arc::new(OnceLock::<Endpoint>::new());
        let (tell, told) = smol::channel::unbounded();
        let (node, sim) = (itself.clone(), pair.sim.clone());
        let router = working.on_notification_raw("leave", move |_: Context, _| {
            let (node, sim, tell) = (node.get().unwrap().clone(), sim.clone(), tell.clone());
            async move {
                sim.sleep(SECOND).await;
                node.shutdown(LONG).await;
                tell.try_send(()).unwrap();
            }
        });
        let node = pair.serve(router, limits().max_concurrent_uni_streams(places).build().unwrap());
        itself.set(node.clone()).unwrap();
        let client = pair.dialler(TransportLimits::default());
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            for _ in 0..leave {
                send_named(&connection, "leave").await;
            }
            send_named(&connection, "work").await;
            node.closed().await;
            assert_eq!((told.len(), handled.done()), (leave, 1), "{places} places");
            assert!(pair.sim.elapsed() < 4 * SECOND, "{:?} with {places}", pair.sim.elapsed());
        });
    }
}

/// Its handler has returned, and somebody else is in the middle of a frame that nobody will take.
#[test]
fn a_sink_that_is_not_given_back_does_not_hold_the_shutdown_of_which_the_caller_has_left() {
    let pair = pair();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let router = Router::new().serve_stream_raw("big", move |_: Context, _, mut sink| {
        let keep = Arc::clone(&keep);
        async move {
            let mut sending = Box::pin(async move { while sink.send_raw(vec![7; 500_000]).await.is_ok() {} });
            assert!(poll_once(&mut sending).await.is_none());
            keep.lock().unwrap().push(sending);
            Ok(())
        }
    });
    let limits = limits().handler_timeout(LONG).build().unwrap();
    let (node, client) = (pair.serve(router, limits), pair.dialler(TransportLimits::default()));
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        let mut answers = connection.stream_raw("big", "").await.unwrap();
        or(async { _ = answers.next_raw().await }, pair.sim.sleep(SECOND)).await;
        connection.close(Code::CANCELLED, "");
        pair.sim.sleep(SECOND).await;
        assert_eq!(kept.lock().unwrap().len(), 1);
        let began = pair.sim.elapsed();
        node.shutdown(LONG).await;
        assert!(pair.sim.elapsed() - began < 5 * SECOND, "{:?}", pair.sim.elapsed() - began);
    });
}

/// Though work is left that nobody does.
#[test]
fn of_two_shutdowns_the_one_that_ends_first_decides() {
    let pair = pair();
    let _node = pair.serve(Router::new(), limits().build().unwrap());
    let endpoint = pair.dialler(TransportLimits::default());
    let client = Client::builder(endpoint.clone()).address(pair.gateway.address(PORT)).build().unwrap();
    pair.sim.run(async {
        let mut call = Box::pin(client.call_raw("nobody.has", "x"));
        assert!(poll_once(&mut call).await.is_none());
        let began = pair.sim.elapsed();
        zip(endpoint.shutdown(LONG), endpoint.shutdown(SECOND)).await;
        assert!(pair.sim.elapsed() - began <= 3 * SECOND, "{:?}", pair.sim.elapsed() - began);
    });
}

/// Once a peer has left, no shutdown waits for it to acknowledge its responses.
#[test]
fn a_notification_may_await_the_shutdown_of_which_the_sender_was_answered_and_has_left() {
    for calls in [0, 1, 20] {
        let pair = pair();
        let (sim, returned) = (pair.sim.clone(), Arc::new(OnceLock::new()));
        let told = Arc::clone(&returned);
        let node = with_itself(&pair, |itself| {
            Router::new().serve_raw("echo", |_, params| async { Ok(params) }).on_notification_raw(
                "stop",
                move |_, _| {
                    let (sim, itself, told) = (sim.clone(), Arc::clone(&itself), Arc::clone(&told));
                    async move {
                        sim.sleep(SECOND).await;
                        let began = sim.elapsed();
                        itself.get().unwrap().shutdown(LONG).await;
                        told.set(sim.elapsed() - began).unwrap();
                    }
                },
            )
        });
        let client = pair.dialler(TransportLimits::default());
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            for _ in 0..calls {
                connection.call_raw("echo", "x").await.unwrap();
            }
            send_named(&connection, "stop").await;
            client.shutdown(Duration::ZERO).await;
            pair.sim.sleep(20 * SECOND).await;
            let took = returned.get().copied();
            assert!(took.is_some_and(|took| took < SECOND), "{calls}: {took:?}");
            assert!(node.is_closed());
        });
    }
}

#[test]
fn a_connection_handler_may_await_the_shutdown() {
    let pair = pair();
    let (tell, told) = smol::channel::bounded(1);
    let node = with_itself(&pair, |itself| {
        Router::new().on_connection(move |_| {
            let (itself, tell) = (itself.clone(), tell.clone());
            async move {
                itself.get().unwrap().shutdown(LONG).await;
                tell.try_send(()).unwrap();
            }
        })
    });
    let client = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let connection = client.connect_unconfirmed(node.local_addr().unwrap()).await.unwrap();
        connection.closed().await;
        told.recv().await.unwrap();
        node.shutdown(LONG).await;
        assert!(pair.sim.elapsed() < 5 * SECOND);
    });
}

/// The caller that has asked for it need not wait for it.
#[test]
fn a_shutdown_that_a_handler_has_begun_goes_on_without_the_handler() {
    let pair = pair();
    let (router, handled) = working(&pair.sim, 2 * SECOND);
    let node = with_itself(&pair, |itself| {
        router.serve_raw("leave", move |_: Context, params| {
            let node = itself.get().unwrap().clone();
            async move {
                node.shutdown(LONG).await;
                Ok(params)
            }
        })
    });
    let client = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        let working = connection.call_raw("work", "x");
        let leaving = async {
            pair.sim.sleep(100 * MILLI).await;
            or(async { drop(connection.call_raw("leave", "").await) }, pair.sim.sleep(500 * MILLI)).await;
        };
        let (answer, ()) = zip(working, leaving).await;
        assert_eq!((answer.unwrap(), handled.done()), ("x".into(), 1));
        let closed = connection.closed().await;
        assert_eq!(closed.kind(), &ErrorKind::ConnectionClosed(Code::SHUTTING_DOWN));
    });
}

/// The twin: a task of a handler's own is not known to be the handler's, and the grace ends the wait of the
/// two for each other.
#[test]
fn a_handler_that_awaits_a_task_which_awaits_the_shutdown_waits_for_the_grace() {
    let pair = pair();
    let sim = pair.sim.clone();
    let node = with_itself(&pair, |itself| {
        Router::new().serve_raw("leave", move |_: Context, params| {
            let (sim, node) = (sim.clone(), itself.get().unwrap().clone());
            async move {
                let (tell, told) = smol::channel::bounded::<()>(1);
                sim.spawn(async move {
                    node.shutdown(3 * SECOND).await;
                    drop(tell);
                });
                let _ = told.recv().await;
                Ok(params)
            }
        })
    });
    let client = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        let error = connection.call_raw("leave", "bye").await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::ConnectionClosed(Code::SHUTTING_DOWN));
        assert_eq!(pair.sim.elapsed().as_secs(), 3);
    });
}

// Several shutdowns.

#[test]
fn of_several_shutdowns_the_first_grace_to_end_decides_and_all_return() {
    for graces in [[LONG, SECOND], [SECOND, LONG], [SECOND, SECOND], [LONG, Duration::ZERO]] {
        let pair = pair();
        let (node, client, handled) = nodes(&pair, 10 * SECOND, limits().build().unwrap());
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            connection.notify_raw("work", "").await.unwrap();
            let mut call = pin!(connection.call_raw("work", ""));
            or(async { drop(call.as_mut().await) }, pair.sim.sleep(SECOND)).await;
            assert_eq!(handled.running(), 2);
            let began = pair.sim.elapsed();
            let [one, two] = graces;
            zip(node.shutdown(one), node.shutdown(two)).await;
            assert_eq!(handled.running(), 0);
            let took = pair.sim.elapsed() - began;
            assert!(took <= one.min(two) + SECOND, "{took:?}");
            call.await.unwrap_err();
            // Again, which changes nothing and takes no time.
            let began = pair.sim.elapsed();
            node.shutdown(LONG).await;
            assert!(pair.sim.elapsed() - began < 100 * MILLI);
        });
    }
}

#[test]
fn a_shutdown_that_is_dropped_can_be_made_again() {
    let pair = pair();
    let (node, client, handled) = nodes(&pair, SECOND, limits().build().unwrap());
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        send_on_one_stream(&connection, 5).await;
        or(node.shutdown(LONG), pair.sim.sleep(2 * SECOND)).await;
        assert!(connection.close_reason().is_none());
        assert!(handled.done() < 5);
        node.shutdown(LONG).await;
        assert_eq!((handled.done(), handled.running()), (5, 0));
    });
}

#[test]
fn an_endpoint_that_only_dials_and_has_nothing_to_do_shuts_down_promptly() {
    for connected in [false, true] {
        let pair = pair();
        let node = pair.serve(Router::new(), limits().build().unwrap());
        let client = pair.dialler(TransportLimits::default());
        pair.sim.run(async {
            let connection = match connected {
                true => Some(client.connect(node.local_addr().unwrap()).await.unwrap()),
                false => None,
            };
            let began = pair.sim.elapsed();
            client.shutdown(LONG).await;
            assert!(pair.sim.elapsed() - began < SECOND);
            let error = client.connect(node.local_addr().unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Closed);
            drop(connection);
        });
    }
}
