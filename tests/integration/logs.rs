//! Event logs that a node serves under names of the application's, beside its own.

use std::{
    env, fs, io, process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use palyra_quic::{
    Batch, Bytes, Client, Clocks, Codec, Connection, Cursor, Endpoint, ErrorKind, EventItem, EventLog,
    EventStore, Extent, LogMethod, MemoryStore, MethodKind, Peers, Raw, Response, Router, StoredEvent,
    SubscriptionItem, WireError,
};

use crate::common::{Server, counters, decode, json_request, loopback, run, serve};

const TEMPERATURE: LogMethod<i32> = LogMethod::new("plant.temperature");
const PRESSURE: LogMethod<i32> = LogMethod::new("plant.pressure");

/// A log of these values, numbered from 1.
fn log_of(values: impl IntoIterator<Item = i32>) -> EventLog {
    let log = EventLog::new();
    values.into_iter().for_each(|value| _ = log.publish(&value).unwrap());
    log
}

/// Every event held of a log, with its number and its epoch, in this codec.
async fn held(connection: &Connection, log: LogMethod<i32>, codec: Codec) -> Vec<(u64, u64, i32)> {
    let mut events = connection.events(log).codec(codec).open().await.unwrap();
    let mut held = Vec::new();
    while let Some(item) = events.next().await.unwrap() {
        match item {
            EventItem::Event { seq, epoch, payload } => held.push((seq, epoch.unwrap(), payload)),
            EventItem::Gap(gap) => panic!("{gap:?}"),
        }
    }
    held
}

/// The error with which a subscription is answered.
async fn refusal(connection: &Connection, log: &str) -> ErrorKind {
    let mut events = connection.events::<Raw>(log).open().await.unwrap();
    events.next_raw().await.unwrap_err().kind().clone()
}

fn client(server: &Server) -> Client {
    let dialler = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
    Client::builder(dialler).address(server.address()).build().unwrap()
}

#[test]
fn logs_with_the_same_numbers_do_not_mix() {
    run(async {
        let (temperature, pressure, own) = (log_of(20..25), log_of(100..105), log_of(0..5));
        let server = serve(
            Router::new()
                .log(TEMPERATURE, temperature.clone())
                .events(own.clone())
                .log(PRESSURE, pressure.clone()),
        );
        let connection = server.connect().await;
        let logs = [(TEMPERATURE, &temperature, 20), (PRESSURE, &pressure, 100), (LogMethod::NODE, &own, 0)];
        for (name, log, first) in logs {
            let expected: Vec<_> =
                (1..=5).zip(first..).map(|(seq, value)| (seq, log.epoch(), value)).collect();
            for codec in [Codec::Cbor, Codec::Json] {
                assert_eq!(held(&connection, name, codec).await, expected, "{name:?} {codec:?}");
            }
        }
        let epochs = [temperature.epoch(), pressure.epoch(), own.epoch()];
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2] && epochs[2] != epochs[0], "{epochs:?}");
    });
}

/// Nodes of the tokio implementation, which know no epochs, and ask in JSON with three fields.
#[test]
fn a_named_log_is_answered_to_a_bare_request_in_json_too() {
    run(async {
        let log = EventLog::new();
        for payload in ["one", "two"] {
            log.publish_raw(payload).unwrap();
        }
        let server = serve(Router::new().events(log_of([1, 2, 3])).log(TEMPERATURE, log));
        let answer = server.raw().await.request(&json_request(TEMPERATURE.name())).await;
        let frames = answer.frames();
        assert!(frames.iter().all(|body| Codec::of(body) == Codec::Json));
        let events = frames.iter().map(|body| match decode(body) {
            Response::Event { seq, payload, .. } => (seq, payload.unwrap()),
            other => panic!("{other:?}"),
        });
        let expected = [(1, Bytes::from("one")), (2, Bytes::from("two"))];
        assert_eq!(events.collect::<Vec<_>>(), expected);
    });
}

#[test]
fn followers_of_several_logs_on_one_connection_each_get_their_own() {
    run(async {
        let (temperature, pressure) = (log_of([]), log_of([]));
        let router = Router::new().log(TEMPERATURE, temperature.clone()).log(PRESSURE, pressure.clone());
        let server = serve(router);
        let connection = server.connect().await;
        let mut warm = connection.events(TEMPERATURE).resume_from(0).follow().open().await.unwrap();
        let mut tight = connection.events(PRESSURE).resume_from(0).follow().open().await.unwrap();
        for value in 1..=20 {
            pressure.publish(&(value * 1000)).unwrap();
            temperature.publish(&value).unwrap();
            for (events, log, expected) in
                [(&mut warm, &temperature, value), (&mut tight, &pressure, value * 1000)]
            {
                let seq = u64::try_from(value).unwrap();
                let event = EventItem::Event { seq, epoch: Some(log.epoch()), payload: expected };
                assert_eq!(events.next().await.unwrap(), Some(event));
            }
        }
    });
}

/// The cursor of one log is of another history where it is presented to another one.
#[test]
fn a_log_is_resumed_by_its_name() {
    run(async {
        let (temperature, pressure) = (log_of(20..25), log_of(100..105));
        let router = Router::new().log(TEMPERATURE, temperature.clone()).log(PRESSURE, pressure.clone());
        let server = serve(router);
        let client = client(&server);
        let cursor = Cursor::new(Some(temperature.epoch()), 3);
        let mut resumed = client.subscribe(TEMPERATURE).resume(cursor).open();
        let mut seqs = Vec::new();
        while seqs.len() < 2 {
            match resumed.next().await.unwrap() {
                SubscriptionItem::Event { seq, payload, .. } => seqs.push((seq, payload)),
                SubscriptionItem::Connected { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seqs, [(4, 23), (5, 24)]);
        let mut elsewhere = client.subscribe(PRESSURE).resume(cursor).open();
        let gap = loop {
            match elsewhere.next().await.unwrap() {
                SubscriptionItem::Gap(gap) => break gap,
                SubscriptionItem::Connected { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((gap.epoch, gap.next_seq, gap.missed), (pressure.epoch(), 1, None));
    });
}

#[test]
fn a_log_that_is_not_served_is_an_unknown_method() {
    run(async {
        let server = serve(Router::new().log(TEMPERATURE, log_of([])));
        let connection = server.connect().await;
        for name in ["plant.pressure", "plant", "plant.temperature.x", "node.stream_events"] {
            let expected = ErrorKind::Remote(WireError::UnsupportedMethod);
            assert_eq!(refusal(&connection, name).await, expected, "{name}");
        }
        assert_eq!(held(&connection, TEMPERATURE, Codec::Cbor).await, []);
    });
}

#[test]
fn a_rule_hides_one_log_and_leaves_the_others() {
    run(async {
        let router = Router::new()
            .events(log_of([1]))
            .log(TEMPERATURE, log_of([20]))
            .log(PRESSURE, log_of([100]))
            .allow(PRESSURE, Peers::nobody());
        let server = serve(router);
        let connection = server.connect().await;
        let expected = ErrorKind::Remote(WireError::PermissionDenied);
        assert_eq!(refusal(&connection, PRESSURE.name()).await, expected);
        for log in [TEMPERATURE, LogMethod::NODE] {
            assert_eq!(held(&connection, log, Codec::Cbor).await.len(), 1, "{log:?}");
        }
        let description = connection.describe().await.unwrap();
        let logs: Vec<_> =
            description.methods.iter().filter(|method| method.kind == MethodKind::Log).collect();
        let names: Vec<_> = logs.iter().map(|method| &*method.name).collect();
        assert_eq!(names, ["node.stream_events", "plant.temperature"]);
    });
}

#[test]
fn logs_of_a_nested_router_get_its_prefix_and_its_rules() {
    run(async {
        let plant = || {
            Router::new()
                .log("temperature", log_of([20]))
                .log("pressure", log_of([100]))
                .allow("temperature", Peers::anybody())
        };
        let server = serve(Router::new().nest("plant", plant().allow_by_default(Peers::nobody())));
        let connection = server.connect().await;
        assert_eq!(held(&connection, TEMPERATURE, Codec::Cbor).await.len(), 1);
        let refused = refusal(&connection, PRESSURE.name()).await;
        assert_eq!(refused, ErrorKind::Remote(WireError::PermissionDenied));
        let unknown = refusal(&connection, "temperature").await;
        assert_eq!(unknown, ErrorKind::Remote(WireError::UnsupportedMethod));

        let fault = |router: Router| {
            let error = Endpoint::builder().router(router).bind(loopback()).err()?;
            Some(error.explanation().unwrap().to_owned())
        };
        let method = |name| Router::new().serve_raw(name, |_, params| async move { Ok(params) });
        assert_eq!(fault(method("plant.other").nest("plant", plant())), None);
        for outer in [method("plant.pressure"), Router::new().log(PRESSURE, log_of([]))] {
            let fault = fault(outer.nest("plant", plant())).unwrap();
            assert_eq!(fault, "two routers serve \"plant.pressure\"");
        }
    });
}

#[test]
fn each_log_counts_what_it_holds_and_sends() {
    run(async {
        let small = EventLog::builder().max_events(3).build().unwrap();
        let (quiet, own) = (log_of([100]), log_of([]));
        let router = Router::new().log(TEMPERATURE, small.clone()).log(PRESSURE, quiet.clone());
        let server = serve(router.events(own.clone()));
        for value in 0..10 {
            small.publish(&value).unwrap();
        }
        let connection = server.connect().await;
        let mut events = connection.events(TEMPERATURE).resume_from(2).follow().open().await.unwrap();
        assert!(matches!(events.next().await.unwrap(), Some(EventItem::Gap(_))));
        for seq in 8..=10 {
            let item = events.next().await.unwrap();
            assert!(
                matches!(item, Some(EventItem::Event { seq: received, .. }) if received == seq),
                "{item:?}"
            );
        }
        let numbers = |log: &EventLog| {
            let stats = log.stats();
            let held = [stats.first_seq, stats.last_seq, stats.held, stats.published];
            (held, [stats.subscribers, stats.sent, stats.gaps_sent])
        };
        assert_eq!(numbers(&small), ([8, 10, 3, 10], [1, 3, 1]));
        assert_eq!(numbers(&quiet), ([1, 1, 1, 1], [0, 0, 0]));
        assert_eq!(numbers(&own), ([1, 0, 0, 0], [0, 0, 0]));
        assert_eq!(held(&connection, PRESSURE, Codec::Cbor).await.len(), 1);
        assert_eq!((quiet.stats().sent, small.stats().sent), (1, 3));
        let node = server.endpoint.stats();
        assert_eq!((node.events_sent, node.gaps_sent), (4, 1), "of all logs");
    });
}

#[test]
fn each_log_has_its_own_bound_of_subscribers() {
    run(async {
        let small = EventLog::builder().max_subscribers(1).build().unwrap();
        let server = serve(Router::new().log(TEMPERATURE, small.clone()).log(PRESSURE, log_of([100])));
        let connection = server.connect().await;
        small.publish(&20).unwrap();
        let mut only = connection.events(TEMPERATURE).follow().open().await.unwrap();
        assert!(only.next().await.unwrap().is_some());
        let refused = refusal(&connection, TEMPERATURE.name()).await;
        assert_eq!(refused, ErrorKind::Remote(WireError::ResourceExhausted));
        assert_eq!(held(&connection, PRESSURE, Codec::Cbor).await.len(), 1);
    });
}

/// A store that cannot be written while the test says so.
#[derive(Clone)]
struct Unwritable {
    store: Arc<MemoryStore>,
    fails: Arc<AtomicBool>,
}

impl Unwritable {
    fn new(epoch: u64) -> Self {
        Self { store: Arc::new(MemoryStore::new(epoch)), fails: Arc::default() }
    }
}

impl EventStore for Unwritable {
    fn extent(&self) -> Extent {
        self.store.extent()
    }

    fn last_clocks(&self) -> Option<Clocks> {
        self.store.last_clocks()
    }

    fn append(&self, batch: &Batch) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("the test asked for this"));
        }
        self.store.append(batch)
    }

    fn read(&self, from: u64, max_bytes: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
        self.store.read(from, max_bytes, out)
    }

    fn discard(&self, below: u64) -> io::Result<()> {
        self.store.discard(below)
    }

    fn close(&self) -> io::Result<()> {
        self.store.close()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_node_is_not_well_while_any_of_its_logs_cannot_be_written() {
    for name in [TEMPERATURE, LogMethod::NODE] {
        run(async {
            let store = Unwritable::new(5);
            let fails = Arc::clone(&store.fails);
            let log = EventLog::builder().commit_interval(Duration::ZERO).on(store).unwrap();
            let others = [PRESSURE, LogMethod::NODE].into_iter().map(|other| (other, log_of([1])));
            let router = others.fold(Router::new(), |router, (name, log)| router.log(name, log));
            let server = serve(router.log(name, log.clone()));
            let connection = server.connect().await;
            assert!(connection.health().await.unwrap().ok);
            fails.store(true, Ordering::Relaxed);
            log.publish_durable(&20).await.unwrap_err();
            assert!(!log.health().state.is_writable());
            assert!(!connection.health().await.unwrap().ok, "{name:?}");
            assert_eq!(counters(&connection).await["logs_not_writable"], 1);
            fails.store(false, Ordering::Relaxed);
            while log.publish_durable(&20).await.is_err() {
                smol::future::yield_now().await;
            }
            assert!(connection.health().await.unwrap().ok);
            assert_eq!(counters(&connection).await["logs_not_writable"], 0);
        });
    }
}

#[test]
fn a_shutdown_writes_what_was_published_to_every_log() {
    run(async {
        let stores = [5, 6, 7].map(Unwritable::new);
        let logs = stores.clone().map(|store| EventLog::builder().commit_interval(HOUR).on(store).unwrap());
        let names = [TEMPERATURE, PRESSURE, LogMethod::NODE];
        let served = names.into_iter().zip(&logs);
        let router = served.fold(Router::new(), |router, (name, log)| router.log(name, log.clone()));
        let server = serve(router);
        for log in &logs {
            // The first is written immediately.
            log.publish_durable(&1).await.unwrap();
            log.publish(&2).unwrap();
        }
        server.endpoint.shutdown(HOUR).await;
        for store in &stores {
            assert_eq!(store.extent().next, 3);
        }
    });
}

#[test]
fn a_durable_log_goes_on_under_its_name_after_a_restart() {
    let path = env::temp_dir().join(format!("palyra-named-log-{}", process::id()));
    run(async {
        let mut cursor = None;
        for round in 0..3_i32 {
            let log = EventLog::builder().open(&path).unwrap();
            let server = serve(Router::new().events(log_of([0])).log(TEMPERATURE, log.clone()));
            for n in 0..2 {
                log.publish_durable(&(10 * round + n)).await.unwrap();
            }
            let mut subscribe = client(&server).subscribe(TEMPERATURE);
            if let Some(cursor) = cursor {
                subscribe = subscribe.resume(cursor);
            }
            let mut subscription = subscribe.open();
            let mut received = Vec::new();
            while received.len() < 2 {
                match subscription.next().await.unwrap() {
                    SubscriptionItem::Event { payload, .. } => received.push(payload),
                    SubscriptionItem::Connected { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(received, [10 * round, 10 * round + 1]);
            let stats = log.stats();
            let last = u64::try_from(2 * round + 2).unwrap();
            assert_eq!((stats.last_seq, stats.held, stats.published), (last, last, 2), "round {round}");
            cursor = subscription.cursor();
            assert_eq!(cursor, Some(Cursor::new(Some(log.epoch()), last)));
            server.endpoint.shutdown(Duration::ZERO).await;
            log.close().await.unwrap();
        }
    });
    fs::remove_dir_all(&path).unwrap();
}
