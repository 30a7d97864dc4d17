//! Events that are kept until consumers have acknowledged them.

use std::{
    future::Future,
    io,
    net::UdpSocket,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use palyra_quic::{
    AsyncIoRuntime, Client, ClientTls, Code, Codec, Connection, Cursor, Endpoint, ErrorKind, EventLog,
    EventLogBuilder, LogMethod, Method, MethodError, Mirror, MirrorState, PeerIdentity, Peers, Raw, Request,
    Response, Router, ServerTls, Subscription, SubscriptionItem, WireError, minicbor,
    quinn::{AsyncTimer, AsyncUdpSocket, Runtime},
};

use crate::common::{Pki, RawServer, RawStream, Server, entry, frame, loopback, map, run, serve, varint};

const LOG: LogMethod<Raw> = LogMethod::NODE;

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("palyra-acks-{name}-{}", std::process::id())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ten events at least, and up to 100 for consumers, of 100 bytes each.
fn bounds() -> EventLogBuilder {
    let builder = EventLog::builder().max_payload_bytes(100).max_events(10).max_bytes(10 * 164);
    builder.keep_unacknowledged(100 * 164)
}

fn publish(log: &EventLog, count: u64) {
    for _ in 0..count {
        log.publish_raw(vec![7; 100]).unwrap();
    }
}

fn cursor(log: &EventLog, seq: u64) -> Cursor {
    Cursor::new(Some(log.epoch()), seq)
}

fn client(server: &Server) -> Client {
    let dialler = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
    Client::builder(dialler).address(server.address()).build().unwrap()
}

async fn next_event(subscription: &mut Subscription) -> u64 {
    loop {
        match subscription.next_raw().await.unwrap() {
            SubscriptionItem::Event { seq, .. } => return seq,
            SubscriptionItem::Gap(gap) => panic!("{gap:?}"),
            SubscriptionItem::Connected { .. } | SubscriptionItem::Disconnected { .. } => {}
        }
    }
}

async fn acked(connection: &Connection, consumer: &str, cursor: Cursor) -> Result<(), ErrorKind> {
    connection.ack_events(LOG, consumer, cursor).await.map_err(|error| error.kind().clone())
}

#[test]
fn events_are_kept_until_the_slowest_consumer_has_acknowledged_them() {
    run(async {
        let log = bounds().consumer("a").consumer("b").build().unwrap();
        publish(&log, 50);
        assert_eq!(log.first_seq(), 1, "nobody has acknowledged anything");
        log.acknowledge("a", cursor(&log, 50)).await.unwrap();
        assert_eq!(log.first_seq(), 1, "not all have");
        log.acknowledge("b", cursor(&log, 20)).await.unwrap();
        assert_eq!(log.first_seq(), 21);
        log.acknowledge("b", cursor(&log, 5)).await.unwrap();
        assert_eq!(log.first_seq(), 21, "backwards changes nothing");
        assert!(log.drop_consumer("b").await.unwrap());
        assert_eq!(log.first_seq(), 41, "the small bound");
        assert!(!log.drop_consumer("b").await.unwrap());
        let consumers = log.consumers();
        assert_eq!((&*consumers[0].name, consumers[0].acknowledged, consumers[0].lag), ("a", 50, 0));
        publish(&log, 5);
        assert_eq!(
            (log.first_seq(), log.consumers()[0].lag),
            (46, 5),
            "the newest ten, of which five are needed"
        );
    });
}

#[test]
fn at_the_large_bound_the_oldest_events_go_or_none_is_taken() {
    run(async {
        let drops = bounds().consumer("a").build().unwrap();
        publish(&drops, 150);
        assert_eq!((drops.first_seq(), drops.len()), (51, 100));

        let refuses = bounds().consumer("a").refuse_when_full().build().unwrap();
        publish(&refuses, 100);
        for _ in 0..3 {
            let refused = refuses.publish_raw(vec![7; 100]).unwrap_err();
            assert_eq!(refused.kind(), &ErrorKind::Exhausted);
            assert!(refused.is_retryable() && refused.retry_after().is_some());
        }
        assert_eq!((refuses.first_seq(), refuses.last_seq()), (1, 100), "a refused event takes no number");
        refuses.acknowledge("a", cursor(&refuses, 1)).await.unwrap();
        publish(&refuses, 1);
        refuses.publish_raw(vec![7; 100]).unwrap_err();
        assert!(refuses.drop_consumer("a").await.unwrap());
        publish(&refuses, 1);
        assert_eq!(refuses.first_seq(), 93);
    });
}

#[test]
fn bounds_that_make_no_sense_are_refused() {
    let many = (0..65).fold(bounds(), |builder, n| builder.consumer(format!("consumer {n}")));
    for builder in [
        EventLog::builder().consumer("a"),
        EventLog::builder().refuse_when_full(),
        bounds().consumer(""),
        bounds().consumer("x".repeat(65)),
        bounds().keep_unacknowledged(10),
        many,
    ] {
        let shown = format!("{builder:?}");
        assert_eq!(builder.build().unwrap_err().kind(), &ErrorKind::InvalidConfig, "{shown}");
    }
}

#[test]
fn acknowledgements_that_cannot_be_are_refused_and_nothing_is_closed() {
    run(async {
        let (log, other) = (bounds().build().unwrap(), EventLog::new());
        publish(&log, 5);
        let router = Router::new().events(log.clone()).log("other", other.clone());
        let server = serve(router.consumers(|_, consumer| consumer != "stranger"));
        let connection = server.connect().await;
        let remote = |error| Err(ErrorKind::Remote(error));
        let (good, invalid) = (cursor(&log, 3), remote(WireError::InvalidRequest));
        assert_eq!(acked(&connection, "stranger", good).await, remote(WireError::PermissionDenied));
        assert_eq!(acked(&connection, "a", Cursor::new(Some(log.epoch() ^ 1), 3)).await, invalid);
        for future in [6, 1 << 53, u64::MAX] {
            assert_eq!(acked(&connection, "a", cursor(&log, future)).await, invalid, "{future}");
        }
        for name in [String::new(), "x".repeat(65)] {
            assert_eq!(acked(&connection, &name, good).await, invalid);
        }
        for unknown in ["other", "nowhere"] {
            let error = connection.ack_events::<Raw>(unknown, "a", cursor(&other, 0)).await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Remote(WireError::InvalidRequest), "{unknown}");
        }
        for params in [&b""[..], b"\xA0", b"garbage", b"\xA3\x00\x61a\x01\x05\x02\x20"] {
            let error = connection.request_raw("node.ack_events", params).send_raw().await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Remote(WireError::InvalidRequest), "{params:?}");
        }
        let without_epoch = acked(&connection, "a", Cursor::new(None, 3)).await;
        assert_eq!(without_epoch, Err(ErrorKind::InvalidConfig));
        assert!(log.consumers().is_empty());
        assert_eq!(acked(&connection, "a", good).await, Ok(()));
        assert_eq!(log.consumers()[0].acknowledged, 3);
        assert!(connection.close_reason().is_none());
        let described = connection.describe().await.unwrap();
        assert!(described.methods.iter().any(|method| &*method.name == "node.ack_events"));
    });
}

#[test]
fn a_peer_may_speak_for_the_names_in_its_certificate() {
    run(async {
        let log = bounds().build().unwrap();
        publish(&log, 5);
        let server = serve(Router::new().events(log.clone()).consumers(PeerIdentity::has_name));
        let connection = server.connect().await;
        let name = "palyra:device:sensor-7";
        assert_eq!(acked(&connection, name, cursor(&log, 3)).await, Ok(()));
        let denied = Err(ErrorKind::Remote(WireError::PermissionDenied));
        assert_eq!(acked(&connection, "sensor-8", cursor(&log, 3)).await, denied);

        // Without an identity, no rule helps.
        let pki = Pki::new();
        let tls = ServerTls::new(pki.server.identity());
        let router = Router::new().events(log.clone()).consumers(|_, _| true);
        let open = Endpoint::builder().server(tls).router(router).bind(loopback()).unwrap();
        let nobody = ClientTls::new(pki.authority.trust());
        let nobody = Endpoint::builder().client(nobody).bind(loopback()).unwrap();
        let connection = nobody.connect(open.local_addr().unwrap()).await.unwrap();
        assert_eq!(acked(&connection, name, cursor(&log, 4)).await, denied);
        assert_eq!(log.consumers().len(), 1);
    });
}

#[test]
fn a_peer_acknowledges_no_events_of_a_log_that_it_may_not_use() {
    const SECRET: LogMethod<Raw> = LogMethod::new("demo.secret");
    run(async {
        let (open, secret) = (bounds().build().unwrap(), bounds().refuse_when_full().build().unwrap());
        publish(&open, 5);
        publish(&secret, 5);
        let router = Router::new().events(open.clone()).log(SECRET, secret.clone());
        let router = router.consumers(PeerIdentity::has_name).allow(SECRET, Peers::nobody());
        let server = serve(router);
        let connection = server.connect().await;
        let name = "palyra:device:sensor-7";
        let denied = ErrorKind::Remote(WireError::PermissionDenied);
        let refused = connection.ack_events(SECRET, name, cursor(&secret, 0)).await.unwrap_err();
        assert_eq!(refused.kind(), &denied);
        // Its consumer would keep events until the log takes no more.
        assert_eq!(secret.consumers(), []);
        assert_eq!(acked(&connection, name, cursor(&open, 3)).await, Ok(()));
    });
}

#[test]
fn a_rule_for_all_methods_covers_the_logs_that_are_acknowledged() {
    const SECRET: LogMethod<Raw> = LogMethod::new("demo.secret");
    run(async {
        let secret = bounds().build().unwrap();
        publish(&secret, 5);
        let router = Router::new().log(SECRET, secret.clone()).consumers(PeerIdentity::has_name);
        let router = router.allow("node.ack_events", Peers::anybody()).allow_by_default(Peers::nobody());
        let server = serve(router);
        let connection = server.connect().await;
        let name = "palyra:device:sensor-7";
        let denied = ErrorKind::Remote(WireError::PermissionDenied);
        for log in [SECRET, LogMethod::new("demo.absent")] {
            let refused = connection.ack_events(log, name, cursor(&secret, 3)).await.unwrap_err();
            assert_eq!(refused.kind(), &denied, "and which of them exist is not told");
        }
        assert_eq!(secret.consumers(), []);
    });
}

#[test]
fn a_node_without_consumers_does_not_know_the_method() {
    run(async {
        let log = bounds().build().unwrap();
        publish(&log, 5);
        // Without a rule for consumers.
        let server = serve(Router::new().events(log.clone()));
        let client = client(&server);
        let mut subscription = client.subscribe_raw().consumer("a").open();
        for seq in 1..=3 {
            assert_eq!(next_event(&mut subscription).await, seq);
        }
        subscription.ack();
        let error = loop {
            match subscription.take_ack_error() {
                Some(error) => break error,
                None => smol::future::yield_now().await,
            }
        };
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::UnsupportedMethod));
        assert_eq!(subscription.acknowledged(), None);
        // The subscription goes on.
        assert_eq!(next_event(&mut subscription).await, 4);
    });
}

#[test]
fn an_acknowledgement_is_answered_with_nothing_and_is_no_method_for_many_calls() {
    run(async {
        let log = bounds().build().unwrap();
        publish(&log, 5);
        let server = serve(Router::new().events(log.clone()).consumers(|_, _| true));
        let peer = server.raw().await;
        let params =
            minicbor::bytes::ByteVec::from(map(&[&entry(0, "a"), &entry(1, log.epoch()), &entry(2, 3)]));
        let fields = [entry(0, 1), entry(1, "node.ack_events"), entry(3, params), entry(7, true)];
        let fields: Vec<&[u8]> = fields.iter().map(|field| &**field).collect();
        let answer = peer.request(&map(&fields[..3])).await.frames();
        let payload = entry(6, minicbor::bytes::ByteVec::from(Vec::new()));
        assert_eq!(answer, [map(&[&entry(0, 1), &entry(1, "result"), &entry(2, true), &payload])]);
        assert_eq!(log.consumers()[0].acknowledged, 3);

        let mut stream = peer.send(&frame(&map(&fields))).await;
        let Response::Error { error, not_run, .. } = stream.answer().await.only() else { panic!("accepted") };
        assert_eq!((error, not_run), (WireError::InvalidRequest, true));
        assert_eq!(stream.stopped().await, Some(Code::NO_ERROR));
    });
}

#[test]
fn a_closed_log_releases_its_consumers_while_handles_are_left() {
    let directory = Directory::new("released");
    run(async {
        let open = || EventLog::builder().keep_unacknowledged(16 << 20).open(&directory.0);
        let log = open().unwrap();
        log.acknowledge("reader", cursor(&log, 0)).await.unwrap();
        log.close().await.unwrap();
        let again = open().unwrap();
        assert_eq!(again.consumers()[0].name, "reader");
        // What could not be saved is not taken for known.
        let late = log.acknowledge("another", cursor(&log, 0)).await.unwrap_err();
        assert_eq!(late.kind(), &ErrorKind::Closed);
        assert_eq!(again.consumers().len(), 1);
    });
}

#[test]
fn a_subscription_acknowledges_what_was_handed_out_and_a_restart_remembers() {
    let directory = Directory::new("restart");
    run(async {
        let open = || {
            let builder = EventLog::builder().max_events(10).keep_unacknowledged(16 << 20);
            builder.commit_interval(Duration::ZERO).open(&directory.0).unwrap()
        };
        let log = open();
        for _ in 0..50 {
            log.publish_durable_raw("event").await.unwrap();
        }
        let server = serve(Router::new().events(log.clone()).consumers(|_, _| true));
        let client = client(&server);
        let mut subscription = client.subscribe_raw().consumer("reader").open();
        // The log has no consumer yet, and so holds the newest ten.
        let gap = loop {
            if let SubscriptionItem::Event { seq, .. } = subscription.next_raw().await.unwrap() {
                break seq;
            }
        };
        assert_eq!(gap, 41);
        subscription.ack();
        while subscription.acknowledged() != Some(cursor(&log, 41)) {
            smol::future::yield_now().await;
        }
        for _ in 0..50 {
            log.publish_durable_raw("event").await.unwrap();
        }
        assert_eq!(log.first_seq(), 42, "all that the reader needs");
        drop(subscription);
        server.endpoint.shutdown(Duration::from_secs(1)).await;
        drop(server);
        log.close().await.unwrap();
        drop(log);

        let log = open();
        let known = log.consumers();
        assert_eq!((&*known[0].name, known[0].acknowledged, known[0].lag), ("reader", 41, 59));
        log.publish_durable_raw("event").await.unwrap();
        assert_eq!(log.first_seq(), 42);
        log.acknowledge("reader", cursor(&log, 101)).await.unwrap();
        assert_eq!(log.first_seq(), 92);
        log.close().await.unwrap();
    });
}

#[test]
fn a_stored_log_keeps_more_than_its_small_bound_until_it_is_acknowledged() {
    let directory = Directory::new("bounds");
    run(async {
        let builder = EventLog::builder().max_payload_bytes(10_000).max_events(usize::MAX);
        let builder = builder.max_bytes(256 * 1024).consumer("reader");
        let builder = builder.keep_unacknowledged(2 << 20).refuse_when_full().commit_interval(Duration::ZERO);
        let log = builder.open(&directory.0).unwrap();
        let mut published = 0;
        let refused = loop {
            match log.publish_durable_raw(vec![7; 10_000]).await {
                Ok(seq) => published = seq,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), &ErrorKind::Exhausted);
        assert!(refused.retry_after().is_some(), "{refused:?}");
        assert!(published > 100, "{published} events of 10 kB, of 2 MiB");
        assert_eq!(log.first_seq(), 1, "the reader has acknowledged nothing");
        log.acknowledge("reader", cursor(&log, published)).await.unwrap();
        // The pause after the failure ends first.
        let next = loop {
            match log.publish_durable_raw(vec![7; 10_000]).await {
                Ok(seq) => break seq,
                Err(error) => smol::Timer::after(error.retry_after().unwrap()).await,
            };
        };
        assert_eq!(next, published + 1);
        assert!(log.first_seq() > published - 60, "{}: the small bound holds again", log.first_seq());
        log.close().await.unwrap();
    });
}

#[test]
fn what_is_accepted_is_written_where_events_are_refused() {
    let directory = Directory::new("accepted");
    let builder = EventLog::builder().max_payload_bytes(10_000).max_events(usize::MAX);
    let builder = builder.max_bytes(512 * 1024).keep_unacknowledged(4 << 20).consumer("reader");
    let log = builder.refuse_when_full().open(&directory.0).unwrap();
    let mut accepted = 0;
    for _ in 0..2000 {
        match log.publish_raw(vec![7; 10_000]) {
            Ok(seq) => accepted = seq,
            Err(error) => assert_eq!(error.kind(), &ErrorKind::Exhausted),
        }
    }
    smol::block_on(log.flush()).unwrap();
    let (health, stats) = (log.health(), log.stats());
    assert_eq!((health.unwritten_events, stats.first_seq, stats.last_seq), (0, 1, accepted));
    assert!((50..2000).contains(&accepted), "{accepted}");
    smol::block_on(log.close()).unwrap();
}

/// The next node may have forgotten it in a crash, or have heard of no acknowledgement at all.
#[test]
fn the_latest_acknowledgement_is_repeated_to_the_node_that_is_connected_next() {
    run(async {
        let (pki, log) = (Pki::new(), bounds().build().unwrap());
        publish(&log, 3);
        let serve = || {
            let router = Router::new().events(log.clone()).consumers(|_, _| true);
            Endpoint::builder().server(pki.server_tls()).router(router).bind(loopback()).unwrap()
        };
        let (first, second) = (serve(), serve());
        let dialler = Endpoint::builder().client(pki.client_tls()).bind(loopback()).unwrap();
        let addresses = [&first, &second].map(|node| (node.local_addr().unwrap(), "localhost"));
        let client = Client::builder(dialler).address(addresses[0]).address(addresses[1]).build().unwrap();
        let mut subscription = client.subscribe_raw().consumer("reader").open();
        for expected in 1..=3 {
            assert_eq!(next_event(&mut subscription).await, expected);
        }
        subscription.ack();
        while subscription.acknowledged() != Some(cursor(&log, 3)) {
            smol::future::yield_now().await;
        }
        assert!(log.drop_consumer("reader").await.unwrap());
        assert!(log.consumers().is_empty());
        first.shutdown(Duration::ZERO).await;
        while log.consumers().is_empty() {
            smol::future::or(async { drop(subscription.next_raw().await) }, smol::future::yield_now()).await;
        }
        assert_eq!(log.consumers()[0].acknowledged, 3);
    });
}

/// Counts the tasks that have not ended.
#[derive(Debug)]
struct CountingTasks {
    runtime: AsyncIoRuntime,
    tasks: Arc<()>,
}

impl CountingTasks {
    fn count(&self) -> usize {
        Arc::strong_count(&self.tasks) - 1
    }
}

impl Runtime for CountingTasks {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.runtime.new_timer(deadline)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let counted = Arc::clone(&self.tasks);
        self.runtime.spawn(Box::pin(async move {
            future.await;
            drop(counted);
        }));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.runtime.wrap_udp_socket(socket)
    }
}

#[test]
fn a_subscription_has_no_task_while_all_its_acknowledgements_are_answered() {
    run(async {
        let log = bounds().build().unwrap();
        publish(&log, 2);
        let server = serve(Router::new().events(log.clone()).consumers(|_, _| true));
        let tasks = Arc::new(CountingTasks { runtime: AsyncIoRuntime::global(), tasks: Arc::default() });
        let dialler = Endpoint::builder().client(server.pki.client_tls()).shared_runtime(tasks.clone());
        let client = Client::builder(dialler.bind(loopback()).unwrap()).address(server.address());
        let client = client.build().unwrap();
        let mut subscription = client.subscribe_raw().consumer("reader").open();
        for seq in 1..=2 {
            assert_eq!(next_event(&mut subscription).await, seq);
            let before = tasks.count();
            subscription.ack();
            while subscription.acknowledged() != Some(cursor(&log, seq)) || tasks.count() > before {
                smol::future::yield_now().await;
            }
        }
    });
}

/// Sends the next event to each subscriber, until an acknowledgement comes. Returns its stream.
async fn next_ack(peer: &quinn::Connection, subscribers: &mut Vec<RawStream>) -> RawStream {
    loop {
        let mut stream = RawStream::accept(peer).await;
        let request = Request::decode(&stream.answer().await.frames().remove(0).into()).unwrap();
        if &*request.method == "node.ack_events" {
            return stream;
        }
        let seq = request.resume_from.unwrap_or(0) + 1;
        send(&mut stream, &Response::event(seq, Some(5), Some("x".into()))).await;
        subscribers.push(stream);
    }
}

async fn send(stream: &mut RawStream, response: &Response) {
    let mut body = Vec::new();
    response.encode(Codec::Cbor, &mut body).unwrap();
    stream.send(&frame(&body)).await;
}

/// Sends the next event to each subscriber, and to the first acknowledgement that it should come back in the
/// far future. Returns when it has done so.
async fn put_off_one_ack(peer: &quinn::Connection) -> Vec<RawStream> {
    let mut subscribers = Vec::new();
    let mut stream = next_ack(peer, &mut subscribers).await;
    let mut response = Response::error(WireError::ResourceExhausted);
    if let Response::Error { retry_after, .. } = &mut response {
        *retry_after = Some(Duration::from_millis(u64::MAX));
    }
    send(&mut stream, &response).await;
    stream.finish();
    // It is still to be read.
    let _ = stream.stopped().await;
    subscribers
}

async fn acknowledge_first(subscription: &mut Subscription) {
    assert_eq!(next_event(subscription).await, 1);
    subscription.ack();
}

/// Never ends.
async fn read_on<T>(subscription: &mut Subscription) -> T {
    loop {
        subscription.next_raw().await.unwrap();
    }
}

#[test]
fn an_acknowledgement_is_repeated_when_its_own_side_closes_the_connection() {
    run(async {
        let server = RawServer::new();
        let client = server.client();
        let mut subscription = client.subscribe_raw().consumer("a").open();
        let reader = async {
            acknowledge_first(&mut subscription).await;
            read_on(&mut subscription).await
        };
        let origin = async {
            let peer = server.accept().await;
            let mut streams = Vec::new();
            let _unanswered = next_ack(&peer, &mut streams).await;
            client.connection().await.unwrap().close(Code::NO_ERROR, "");
            peer.closed().await;
            let peer = server.accept().await;
            next_ack(&peer, &mut streams).await;
        };
        smol::future::or(reader, origin).await;
    });
}

#[test]
fn an_acknowledgement_that_was_put_off_is_repeated_on_the_next_connection_and_at_the_end() {
    run(async {
        let server = RawServer::new();
        let client = server.client();
        let mut subscription = client.subscribe_raw().consumer("a").open();
        let reader = async {
            acknowledge_first(&mut subscription).await;
            // Connects again.
            let _ = subscription.next_raw().await;
            smol::future::pending::<()>().await;
        };
        let origin = async {
            let peer = server.accept().await;
            let streams = put_off_one_ack(&peer).await;
            peer.close(varint(Code::NO_ERROR), b"");
            drop(streams);
        };
        smol::future::or(reader, origin).await;
        let reader = read_on(&mut subscription);
        let origin = async {
            let peer = server.accept().await;
            (put_off_one_ack(&peer).await, peer)
        };
        let (_streams, peer) = smol::future::or(reader, origin).await;
        // Nobody will ask for it any more.
        drop(subscription);
        put_off_one_ack(&peer).await;
    });
}

/// Both copies of the consumers are damaged: those that were lost may need everything.
#[test]
fn lost_consumers_are_not_forgotten_when_others_come_back() {
    let directory = Directory::new("damage");
    let open = || {
        let builder = EventLog::builder().max_payload_bytes(10_000).max_bytes(512 * 1024);
        builder.keep_unacknowledged(8 << 20).commit_interval(Duration::ZERO).open(&directory.0).unwrap()
    };
    let publish = |log: &EventLog, count| {
        for _ in 0..count {
            smol::block_on(log.publish_durable_raw(vec![7; 10_000])).unwrap();
        }
    };
    let log = open();
    publish(&log, 20);
    for (name, seq) in [("a", 20), ("b", 5)] {
        smol::block_on(log.acknowledge(name, cursor(&log, seq))).unwrap();
    }
    smol::block_on(log.close()).unwrap();
    drop(log);
    let file = directory.0.join("consumers");
    let mut bytes = std::fs::read(&file).unwrap();
    for slot in [0, 128 * 1024] {
        bytes[slot + 30] ^= 1;
    }
    std::fs::write(&file, bytes).unwrap();
    for restart in 0..3 {
        let log = open();
        smol::block_on(log.acknowledge("a", cursor(&log, log.last_seq()))).unwrap();
        publish(&log, 60);
        assert_eq!(log.first_seq(), 1, "{restart}");
        smol::block_on(log.close()).unwrap();
    }
}

#[test]
fn a_log_in_files_refuses_bounds_that_it_cannot_keep() {
    let directory = Directory::new("refused");
    let builder = || EventLog::builder().max_payload_bytes(1000).max_bytes(256 * 1024);
    for builder in [
        builder().keep_unacknowledged(1 << 20).refuse_when_full(),
        builder().keep_unacknowledged(1 << 20).max_consumers(257),
    ] {
        assert_eq!(builder.open(&directory.0).unwrap_err().kind(), &ErrorKind::InvalidConfig);
    }
    assert!(!directory.0.exists());
    drop(
        builder()
            .keep_unacknowledged(2 << 20)
            .refuse_when_full()
            .max_consumers(256)
            .open(&directory.0)
            .unwrap(),
    );
}

#[test]
fn a_consumer_that_stays_away_is_forgotten_in_its_time() {
    let log = bounds().consumer("gone").forget_consumers_after(Duration::ZERO).build().unwrap();
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(2) {
        std::hint::spin_loop();
    }
    publish(&log, 50);
    assert!(log.consumers().is_empty());
    assert_eq!(log.first_seq(), 41);
}

#[test]
fn a_mirror_acknowledges_what_is_durable() {
    let directory = Directory::new("mirror");
    run(async {
        let log = bounds().consumer("gateway").build().unwrap();
        publish(&log, 60);
        let server = serve(Router::new().events(log.clone()).consumers(|_, consumer| consumer == "gateway"));
        let mirrored = EventLog::builder().commit_interval(Duration::ZERO);
        let mirror = Mirror::builder(&client(&server), LOG).bounds(mirrored).consumer("gateway");
        let mirror = mirror.open(&directory.0).unwrap();
        while log.consumers()[0].acknowledged < 60 {
            smol::future::yield_now().await;
        }
        assert_eq!(mirror.log().unwrap().committed_seq(), 60);
        // The origin need not keep more. Its bound follows the acknowledgement.
        while log.first_seq() < 51 {
            smol::future::yield_now().await;
        }
        assert_eq!(log.first_seq(), 51);
    });
}

#[test]
fn a_mirror_says_why_its_acknowledgements_are_refused_until_they_are_not() {
    let directory = Directory::new("refused-mirror");
    run(async {
        let log = bounds().consumer("gateway").build().unwrap();
        publish(&log, 10);
        let may = Arc::new(AtomicBool::new(false));
        let rule = Arc::clone(&may);
        let router = Router::new().events(log.clone()).consumers(move |_, _| rule.load(Ordering::Relaxed));
        let server = serve(router);
        let mirrored = EventLog::builder().commit_interval(Duration::ZERO);
        let mirror = Mirror::builder(&client(&server), LOG).bounds(mirrored).consumer("gateway");
        let mirror = mirror.open(&directory.0).unwrap();
        mirror.wait_for(|status| status.ack_error.is_some()).await;
        let reason = mirror.status().ack_error.unwrap();
        assert!(reason.contains("permission_denied"), "{reason}");
        assert_eq!((mirror.status().state, log.consumers()[0].acknowledged), (MirrorState::Following, 0));
        may.store(true, Ordering::Relaxed);
        publish(&log, 1);
        while log.consumers()[0].acknowledged < 11 {
            smol::future::yield_now().await;
        }
        mirror.wait_for(|status| status.ack_error.is_none()).await;
    });
}

/// The method is the node's own, whatever an application serves.
#[test]
fn no_application_can_take_the_name() {
    const TAKEN: Method<(), ()> = Method::new("node.ack_events");
    let router = Router::new().serve(TAKEN, |_, ()| async { Ok::<_, MethodError>(()) });
    let pki = Pki::new();
    let refused = Endpoint::builder().server(pki.server_tls()).router(router).bind(loopback()).unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::InvalidConfig);
}
