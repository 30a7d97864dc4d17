//! What an endpoint and a connection count: each number moves with its event, and the others stay, in virtual
//! time.

use std::{cell::Cell, future::Future, time::Duration};

use crate::simulation::{PORT, Pair, SECOND, client_tls, server_tls};
use futures_lite::future::{or, pending, poll_once};
use palyra_quic::{
    AddressValidation, CertificateAuthority, ClientTls, Connection, Context, Endpoint, EndpointStats, Error,
    ErrorKind, EventItem, EventLog, MethodError, Peers, Refusal, RevocationList, Router, TransportLimits,
    TransportLimitsBuilder, WireError, sim::Link,
};

/// A gateway and a sensor, and what the gateway had counted when it was last looked at.
struct Bench {
    pair: Pair,
    node: Endpoint,
    log: EventLog,
    seen: Cell<EndpointStats>,
}

fn limits() -> TransportLimitsBuilder {
    TransportLimits::builder().handler_timeout(2 * SECOND).request_read_timeout(2 * SECOND)
}

fn methods(log: &EventLog) -> Router {
    Router::new()
        .serve("demo.double", |_: Context, n: u32| async move { Ok(n * 2) })
        .serve_raw("demo.hang", |_: Context, _| pending())
        .serve_raw("demo.panic", |_: Context, _| async { panic!("as a test wants it") })
        .serve_raw("demo.own", |_: Context, _| async {
            Err(MethodError::new(WireError::from("demo.own_error")))
        })
        .serve_raw("demo.full", |_: Context, _| async { Err(MethodError::resource_exhausted("")) })
        .serve_raw("demo.fails", |_: Context, _| async { Err(MethodError::internal("")) })
        .serve_raw("demo.secret", |_: Context, params| async move { Ok(params) })
        .on_notification("demo.tell", |_: Context, _: u32| async {})
        .on_notification_raw("demo.stuck", |_: Context, _| pending())
        .on_notification_raw("demo.whisper", |_: Context, _| async {})
        .allow("demo.secret", Peers::nobody())
        .allow("demo.whisper", Peers::nobody())
        .events(log.clone())
}

impl Bench {
    fn new() -> Self {
        Self::with(limits(), |router| router)
    }

    fn with(limits: TransportLimitsBuilder, change: impl FnOnce(Router) -> Router) -> Self {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let log = EventLog::builder().max_events(2).build().unwrap();
        let node = pair.serve(change(methods(&log)), limits.build().unwrap());
        Self { seen: Cell::new(node.stats()), pair, node, log }
    }

    fn run(&self, test: impl Future<Output = ()>) {
        self.pair.sim.run(test);
    }

    async fn connect(&self) -> Connection {
        let large = limits().max_frame_bytes(1024 * 1024).build().unwrap();
        let connection = self.pair.dialler(large).connect(self.pair.gateway.address(PORT)).await.unwrap();
        self.settle().await;
        self.seen.set(self.node.stats());
        connection
    }

    /// Waits until all datagrams in flight have arrived.
    async fn settle(&self) {
        self.pair.sim.sleep(SECOND).await;
    }

    /// That since the last look these numbers have moved, and no others.
    async fn moved(&self, change: impl FnOnce(&mut EndpointStats)) {
        self.settle().await;
        let mut expected = self.seen.get();
        change(&mut expected);
        assert_eq!(self.node.stats(), expected);
        self.seen.set(expected);
    }

    async fn dial(&self, tls: &ClientTls) -> Result<Connection, Error> {
        let endpoint = self.pair.sensor.bind(Endpoint::builder(), 0).unwrap();
        endpoint.connect_with(tls, self.pair.gateway.address(PORT)).await
    }
}

#[test]
fn connections_are_counted_as_they_come_and_go() {
    let bench = Bench::new();
    bench.run(async {
        let dialler = bench.pair.dialler(TransportLimits::default());
        let connection = dialler.connect(bench.pair.gateway.address(PORT)).await.unwrap();
        bench.moved(|stats| (stats.connections_accepted, stats.connections_open) = (1, 1)).await;
        let mut dialled = EndpointStats::default();
        dialled.connections_dialled = 1;
        assert_eq!(dialler.stats(), dialled);
        drop(connection);
        bench.moved(|stats| stats.connections_open = 0).await;
    });
}

#[test]
fn connections_that_find_no_slot_are_counted() {
    let bench = Bench::with(limits().max_connections(1), |router| router);
    bench.run(async {
        let _first = bench.connect().await;
        let dialler = bench.pair.dialler(TransportLimits::default());
        dialler.connect(bench.pair.gateway.address(PORT)).await.unwrap_err();
        bench.moved(|stats| stats.connections_refused.full += 1).await;
        assert_eq!((dialler.stats().dials_failed.refused, dialler.stats().dials_failed.total()), (1, 1));
    });
}

#[test]
fn connections_that_come_too_late_are_counted() {
    let bench = Bench::new();
    bench.run(async {
        let connection = bench.connect().await;
        // A handler runs, so that the shutdown waits.
        let mut hanging = Box::pin(connection.call_raw("demo.hang", ""));
        or(async { drop((&mut hanging).await) }, bench.settle()).await;
        let late = async {
            bench.dial(&client_tls()).await.unwrap_err();
            bench.node.stats().connections_refused
        };
        let shutdown = async {
            bench.node.shutdown(60 * SECOND).await;
            panic!("nothing was running any more");
        };
        let refused = or(shutdown, late).await;
        assert_eq!((refused.shutting_down, refused.total()), (1, 1));
    });
}

#[test]
fn connections_that_are_not_authorized_are_counted() {
    let bench = Bench::with(limits(), |router| {
        router.authorize(|_| async { Err::<(), _>(Refusal::rejected("nobody")) })
    });
    bench.run(async {
        let _ = bench.dial(&client_tls()).await;
        bench.moved(|stats| stats.connections_refused.not_authorized += 1).await;
        assert_eq!(bench.seen.get().connections_refused.total(), 1);
    });
}

#[test]
fn a_retry_is_counted() {
    let always = limits().address_validation(AddressValidation::Always);
    let bench = Bench::with(always, |router| router);
    bench.run(async {
        let _open = bench.dial(&client_tls()).await.unwrap();
        bench
            .moved(|stats| {
                (stats.connections_accepted, stats.connections_open) = (1, 1);
                stats.retries = 1;
            })
            .await;
    });
}

#[test]
fn handshakes_fail_by_their_reasons() {
    let bench = Bench::new();
    bench.run(async {
        let other = CertificateAuthority::new("Other CA").unwrap();
        let stranger = client_tls().identity(other.issue_client("7").unwrap().identity());
        bench.dial(&stranger).await.unwrap_err();
        bench.moved(|stats| stats.handshakes_failed.peer_certificate += 1).await;
        let distrusting = ClientTls::new(other.trust());
        bench.dial(&distrusting).await.unwrap_err();
        bench.moved(|stats| stats.handshakes_failed.certificate_refused += 1).await;

        let dialler = bench.pair.dialler(limits().handshake_timeout(SECOND).build().unwrap());
        let nowhere = bench.pair.gateway.address(PORT + 1);
        dialler.connect(nowhere).await.unwrap_err();
        dialler.connect_with(&stranger, bench.pair.gateway.address(PORT)).await.unwrap_err();
        dialler.connect_with(&distrusting, bench.pair.gateway.address(PORT)).await.unwrap_err();
        let failed = dialler.stats().dials_failed;
        assert_eq!((failed.timeout, failed.certificate_refused, failed.peer_certificate), (1, 1, 1));
        assert_eq!(failed.total(), 3);
    });
}

#[test]
fn a_connection_that_is_revoked_is_counted() {
    let list = RevocationList::new();
    let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
    let builder = Endpoint::builder().server(server_tls().revocations(&list));
    let node = pair.gateway.bind(builder, PORT).unwrap();
    pair.sim.run(async {
        let endpoint = pair.sensor.bind(Endpoint::builder(), 0).unwrap();
        let tls = client_tls().revocations(&list);
        let connection = endpoint.connect_with(&tls, pair.gateway.address(PORT)).await.unwrap();
        pair.sim.sleep(SECOND).await;
        assert_eq!(node.stats().connections_revoked, 0);
        let shown = connection.peer().unwrap().fingerprint();
        list.revoke(shown);
        connection.closed().await;
        pair.sim.sleep(SECOND).await;
        assert_eq!(endpoint.stats().connections_revoked, 1, "the side that dialled counts, too");
        assert_eq!(node.stats().connections_revoked, 0, "its peer was not revoked");
    });
}

#[test]
fn requests_are_counted_and_their_errors_by_kind() {
    let bench = Bench::new();
    bench.run(async {
        let connection = bench.connect().await;
        assert_eq!(connection.call::<_, u32>("demo.double", &21_u32).await.unwrap(), 42);
        bench.moved(|stats| stats.requests += 1).await;
        macro_rules! fails {
            ($method:literal, $field:ident) => {
                connection.call_raw($method, "").await.unwrap_err();
                bench
                    .moved(|stats| {
                        stats.requests += 1;
                        stats.requests_failed.$field += 1;
                    })
                    .await;
            };
        }
        fails!("demo.double", invalid_request);
        fails!("demo.missing", unsupported_method);
        fails!("demo.secret", permission_denied);
        fails!("demo.full", resource_exhausted);
        fails!("demo.hang", deadline_exceeded);
        fails!("demo.fails", internal);
        fails!("demo.own", other);
        assert_eq!(bench.seen.get().requests_failed.total(), 7);
        assert_eq!((connection.stats().calls, connection.stats().requests), (8, 0));
    });
}

#[test]
fn an_error_that_is_too_large_to_send_is_counted_as_the_one_that_is_sent_instead() {
    let too_large = "x".repeat(600 * 1024);
    let bench = Bench::with(limits(), |router| {
        router.serve_raw("demo.too_large", move |_: Context, _| {
            let error = MethodError::new(WireError::from(&*too_large));
            async { Err(error) }
        })
    });
    bench.run(async {
        let connection = bench.connect().await;
        let pipeline = connection.pipeline_raw("demo.too_large");
        for call in 1..=2 {
            let called = if call == 1 {
                connection.call_raw("demo.too_large", "").await
            } else {
                pipeline.call_raw("").await
            };
            assert_eq!(*called.unwrap_err().kind(), ErrorKind::Remote(WireError::Internal));
            let failed = bench.node.stats().requests_failed;
            assert_eq!((failed.internal, failed.total()), (call, call));
        }
    });
}

#[test]
fn streams_that_are_reset_are_counted_by_side_and_reason() {
    let bench = Bench::new();
    bench.run(async {
        let connection = bench.connect().await;
        connection.call_raw("demo.panic", "").await.unwrap_err();
        bench.moved(|stats| (stats.requests, stats.streams_reset.internal) = (1, 1)).await;
        connection.call_raw("demo.double", vec![0; 600 * 1024]).await.unwrap_err();
        bench.moved(|stats| stats.streams_reset.frame_too_large += 1).await;

        let mut call = Box::pin(connection.call_raw("demo.hang", ""));
        assert!(poll_once(&mut call).await.is_none());
        or(async { drop((&mut call).await) }, bench.settle()).await;
        drop(call);
        bench.moved(|stats| (stats.requests, stats.streams_reset_by_peers) = (2, 1)).await;

        // A connection that ends is no reset.
        let mut call = Box::pin(connection.call_raw("demo.hang", ""));
        or(async { drop((&mut call).await) }, bench.settle()).await;
        connection.close(palyra_quic::Code::NO_ERROR, "");
        bench.moved(|stats| (stats.requests, stats.connections_open) = (3, 0)).await;
    });
}

#[test]
fn notifications_are_counted_and_what_became_of_them() {
    let bench = Bench::new();
    bench.run(async {
        let connection = bench.connect().await;
        connection.notify("demo.tell", &7_u32).await.unwrap();
        connection.notify("demo.nobody", &7_u32).await.unwrap();
        bench.moved(|stats| (stats.notifications, stats.notifications_unhandled) = (2, 1)).await;
        connection.notify("demo.whisper", &7_u32).await.unwrap();
        bench
            .moved(|stats| {
                stats.notifications += 1;
                stats.notifications_denied += 1;
                stats.streams_reset.denied += 1;
            })
            .await;
        connection.notify("demo.tell", "not a number").await.unwrap();
        bench.moved(|stats| (stats.notifications, stats.streams_reset.violation) = (4, 1)).await;
        connection.notify("demo.stuck", &7_u32).await.unwrap();
        bench.settle().await;
        bench.settle().await;
        bench.moved(|stats| (stats.notifications, stats.streams_reset.deadline_exceeded) = (5, 1)).await;
        let stats = connection.stats();
        assert_eq!((stats.notifications_sent, stats.notifications, stats.calls), (5, 0, 0));
    });
}

#[test]
fn events_and_gaps_are_counted_on_both_sides() {
    let bench = Bench::new();
    for text in ["one", "two", "three"] {
        bench.log.publish_raw(text).unwrap();
    }
    bench.run(async {
        let connection = bench.connect().await;
        let mut events = connection.events_raw().resume_from(0).follow().open().await.unwrap();
        assert!(matches!(events.next_raw().await.unwrap(), Some(EventItem::Gap(gap)) if gap.missed == Some(1)));
        for seq in 2..=3 {
            assert!(
                matches!(events.next_raw().await.unwrap(), Some(EventItem::Event { seq: got, .. }) if got == seq)
            );
        }
        bench.moved(|stats| (stats.requests, stats.events_sent, stats.gaps_sent) = (1, 2, 1)).await;
        let stats = connection.stats();
        assert_eq!((stats.events_received, stats.gaps_received, stats.calls), (2, 1, 1));
        bench.node.shutdown(SECOND).await;
        assert_eq!(bench.node.stats().streams_reset.shutting_down, 1);
    });
}

#[test]
fn a_subscriber_that_leaves_in_the_middle_of_an_event_is_counted_as_one_that_left() {
    let bench = Bench::new();
    bench.log.publish_raw(vec![0; 64 * 1024]).unwrap();
    bench.run(async {
        let narrow = bench.pair.dialler(limits().stream_receive_window(2048).build().unwrap());
        let connection = narrow.connect(bench.pair.gateway.address(PORT)).await.unwrap();
        bench.settle().await;
        bench.seen.set(bench.node.stats());
        // Not read, so that the node is writing when it goes.
        let unread = connection.events_raw().open().await.unwrap();
        bench.settle().await;
        drop(unread);
        let sent = |stats: &mut EndpointStats, events| (stats.requests, stats.events_sent) = (events, events);
        bench
            .moved(|stats| {
                sent(stats, 1);
                stats.streams_reset_by_peers += 1;
            })
            .await;
        // A connection that ends is no reset.
        let _unread = connection.events_raw().open().await.unwrap();
        bench.settle().await;
        connection.close(palyra_quic::Code::NO_ERROR, "");
        bench
            .moved(|stats| {
                sent(stats, 2);
                stats.connections_open = 0;
            })
            .await;
    });
}

#[test]
fn a_connection_counts_what_goes_over_it() {
    let bench = Bench::new();
    bench.run(async {
        let connection = bench.connect().await;
        let before = connection.stats();
        assert_eq!(before.rtt.as_millis(), 20);
        assert!(before.min_rtt <= before.rtt && before.mtu >= 1200 && before.congestion_window > 0);
        connection.call_raw("demo.own", vec![0; 10_000]).await.unwrap_err();
        let after = connection.stats();
        assert!(after.bytes_sent >= before.bytes_sent + 10_000);
        assert!(after.datagrams_sent > before.datagrams_sent && after.packets_sent > before.packets_sent);
        assert!(after.bytes_received > before.bytes_received);
        assert!(after.datagrams_received > before.datagrams_received);
        assert_eq!(
            (after.packets_lost, after.congestion_events),
            (before.packets_lost, before.congestion_events)
        );
    });
}
