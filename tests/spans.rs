//! The spans that a subscriber of the application's sees, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/simulation.rs"]
mod simulation;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_lite::future::{pending, poll_once};
use palyra_quic::{
    Code, Connection, Context, Endpoint, ErrorKind, EventLog, Exchange, MethodError, Next, NextCall,
    OutgoingCall, Peers, Router, TraceContext, TransportLimits, WireError, sim::Link, tracing::Span,
};
use simulation::{PORT, Pair, SECOND};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

type Fields = BTreeMap<&'static str, String>;

#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    parent: Option<u64>,
    fields: Fields,
    /// Fields that were recorded again, over an earlier value.
    overwritten: Vec<&'static str>,
    /// The span ends with the last of them.
    handles: usize,
}

/// Keeps every span, and counts the events that are more than debugging.
#[derive(Clone)]
struct Collector {
    level: Level,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    spans: Vec<Seen>,
    loud: Vec<String>,
    entered: Vec<u64>,
    /// Events, with the span that they were in.
    events: Vec<(Option<u64>, String)>,
}

impl Log {
    fn span(&mut self, id: &Id) -> &mut Seen {
        let index = usize::try_from(id.into_u64()).unwrap() - 1;
        &mut self.spans[index]
    }
}

struct Write<'a>(&'a mut Fields);

impl Visit for Write<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl Collector {
    fn at(level: Level) -> Self {
        Self { level, log: Arc::default() }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    /// The outcomes of all such spans, each of which was recorded once.
    fn outcomes(&self, name: &str) -> Vec<String> {
        let spans = self.spans(name);
        let overwritten: Vec<_> = spans.iter().filter(|span| !span.overwritten.is_empty()).collect();
        assert!(overwritten.is_empty(), "{overwritten:?}");
        spans.iter().map(|span| span.fields.get("outcome").cloned().unwrap_or_default()).collect()
    }

    fn spans(&self, name: &str) -> Vec<Seen> {
        self.log().spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    /// How many such spans have not ended.
    fn open(&self, name: &str) -> usize {
        self.spans(name).iter().filter(|span| span.handles > 0).count()
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("palyra_quic") && *metadata.level() <= self.level
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        assert_eq!(attributes.metadata().target(), "palyra_quic");
        let mut seen = Seen { name: attributes.metadata().name(), handles: 1, ..Seen::default() };
        attributes.record(&mut Write(&mut seen.fields));
        let mut log = self.log();
        let contextual = attributes.is_contextual().then(|| log.entered.last().copied()).flatten();
        seen.parent = attributes.parent().map(Id::into_u64).or(contextual);
        log.spans.push(seen);
        Id::from_u64(u64::try_from(log.spans.len()).unwrap())
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.log().span(span).handles += 1;
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        let mut log = self.log();
        let handles = &mut log.span(&span).handles;
        *handles -= 1;
        *handles == 0
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut fields = Fields::new();
        values.record(&mut Write(&mut fields));
        let mut log = self.log();
        let seen = log.span(span);
        for (name, value) in fields {
            if seen.fields.insert(name, value).is_some() {
                seen.overwritten.push(name);
            }
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut Write(&mut fields));
        let mut log = self.log();
        let line = format!("{fields:?}");
        if *event.metadata().level() <= Level::INFO {
            log.loud.push(line.clone());
        }
        let within = log.entered.last().copied();
        log.events.push((within, line));
    }

    fn enter(&self, span: &Id) {
        self.log().entered.push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        assert_eq!(self.log().entered.pop(), Some(span.into_u64()));
    }
}

/// Only one test at a time changes who listens: a place that reports for the first time meanwhile might not be
/// heard.
fn listening<T>(collector: &Collector, test: impl FnOnce() -> T) -> T {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    tracing::subscriber::with_default(collector.clone(), test)
}

fn scenario<F: Future<Output = ()>>(collector: &Collector, test: impl FnOnce(Pair, Connection) -> F) {
    listening(collector, || {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let router = Router::new()
            .serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
            .serve_raw("demo.hang", |_: Context, _| pending())
            .serve_raw("demo.secret", |_: Context, params| async move { Ok(params) })
            .serve_stream_raw("demo.none", |_: Context, _, _| async { Ok(()) })
            .on_notification_raw("demo.whisper", |_: Context, _| async {})
            .allow("demo.secret", Peers::nobody())
            .allow("demo.whisper", Peers::nobody());
        let _node = pair.serve(router, TransportLimits::default());
        let sim = pair.sim.clone();
        sim.run(async {
            let dialler = pair.dialler(TransportLimits::default());
            let connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
            test(pair, connection).await;
        });
    });
}

#[test]
fn connections_and_their_exchanges_have_spans() {
    let collector = Collector::at(Level::DEBUG);
    scenario(&collector, |pair, connection| async move {
        connection.call_raw("demo.echo", "x").await.unwrap();
        connection.call_raw("demo.secret", "").await.unwrap_err();
        let mut answers = connection.stream_raw("demo.none", "").await.unwrap();
        assert_eq!(answers.next_raw().await.unwrap(), None);
        connection.request_raw("demo.hang", "").timeout(SECOND).send_raw().await.unwrap_err();
        connection.notify("demo.whisper", &7).await.unwrap();
        pair.sim.sleep(SECOND).await;
    });
    let connections = collector.spans("connection");
    let [accepted, dialled] = &*connections else { panic!("{connections:?}") };
    assert_eq!((&*dialled.fields["side"], &*accepted.fields["side"]), ("dialled", "accepted"));
    assert_eq!(dialled.fields["remote"], format!("10.0.0.1:{PORT}"));
    assert!(accepted.fields["remote"].starts_with("10.0.0.2:"));
    assert_eq!(accepted.fields["peer"].len(), 64, "a fingerprint in hexadecimal");
    assert_ne!(accepted.fields["id"], dialled.fields["id"]);
    assert_eq!((accepted.parent, dialled.parent), (None, None));

    let exchanges = collector.spans("exchange");
    let of = |span: &Seen, fields: &[&str]| {
        fields.iter().map(|name| span.fields[name].clone()).collect::<Vec<_>>()
    };
    let told: Vec<_> =
        exchanges.iter().map(|span| of(span, &["stream", "method", "codec", "outcome"])).collect();
    assert_eq!(told[0], ["0", "demo.echo", "cbor", "ok"]);
    assert_eq!(told[1], ["4", "demo.secret", "cbor", "permission_denied"]);
    assert_eq!(told[2], ["8", "demo.none", "cbor", "ok"]);
    assert_eq!(told[3][..3], ["12", "demo.hang", "cbor"]);
    assert_eq!(told.len(), 4);
    let log = collector.log();
    let parent = usize::try_from(exchanges[0].parent.unwrap()).unwrap() - 1;
    assert_eq!(log.spans[parent].fields["side"], "accepted");
    drop(log);

    let calls = collector.spans("call");
    let told: Vec<_> = calls.iter().map(|span| of(span, &["stream", "method", "outcome"])).collect();
    assert_eq!(told[0], ["0", "demo.echo", "ok"]);
    assert_eq!(told[1], ["4", "demo.secret", "permission_denied"]);
    assert_eq!(told[2], ["8", "demo.none", "ok"]);
    assert_eq!(told[3], ["12", "demo.hang", "deadline exceeded"]);
    assert_eq!(calls[0].fields["remote"], dialled.fields["remote"]);

    let notifications = collector.spans("notifications");
    assert_eq!(of(&notifications[0], &["stream", "outcome"]), ["2", "IDENTITY_REJECTED (0x202)"]);

    let log = collector.log();
    let refused = log.events.iter().find(|(_, line)| line.contains("request refused")).unwrap();
    let within = usize::try_from(refused.0.unwrap()).unwrap() - 1;
    assert_eq!((log.spans[within].name, &*log.spans[within].fields["method"]), ("exchange", "demo.secret"));
    assert!(refused.1.contains("10.0.0.2"), "an event names the peer without its span, too");
}

#[test]
fn the_outcome_of_an_exchange_is_what_its_caller_gets() {
    let collector = Collector::at(Level::DEBUG);
    let (frame, window) = (64 * 1024, 2048);
    listening(&collector, || {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let router = Router::new()
            .serve_raw("demo.too_large", move |_: Context, _| async move { Ok(vec![0; frame].into()) })
            .serve_raw("demo.large", move |_: Context, _| async move { Ok(vec![0; frame / 2].into()) });
        let limits = TransportLimits::builder();
        let limits = limits.max_frame_bytes(u32::try_from(frame).unwrap()).handler_timeout(5 * SECOND);
        let _node = pair.serve(router, limits.build().unwrap());
        let dialler = pair.dialler(TransportLimits::builder().stream_receive_window(window).build().unwrap());
        pair.sim.clone().run(async {
            let connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
            let error = connection.call_raw("demo.too_large", "").await.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Remote(WireError::Internal));
            // Nothing reads these answers, so that the window of their streams stays full.
            let dropped = connection.stream_raw("demo.large", "").await.unwrap();
            pair.sim.sleep(SECOND).await;
            drop(dropped);
            let _unread = connection.stream_raw("demo.large", "").await.unwrap();
            pair.sim.sleep(10 * SECOND).await;
            assert_eq!(connection.call_raw("demo.large", "").await.unwrap().len(), frame / 2);
            pair.sim.sleep(SECOND).await;
        });
    });
    let expected = ["internal", "CANCELLED (0x001)", "DEADLINE_EXCEEDED (0x103)", "ok"];
    assert_eq!(collector.outcomes("exchange"), expected);
}

/// The interceptors of this side run in the span of the call, however it goes on.
#[test]
fn a_call_has_one_outcome_also_if_it_is_intercepted_or_cannot_be_opened() {
    let outcomes = |is_intercepted: bool| {
        let collector = Collector::at(Level::DEBUG);
        listening(&collector, || {
            let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
            let router = Router::new().serve_stream_raw("demo.none", |_: Context, _, _| async { Ok(()) });
            let _node = pair.serve(router, TransportLimits::default());
            let builder = Endpoint::builder().client(simulation::client_tls());
            let builder = if is_intercepted {
                builder.around_calls(|call: OutgoingCall, next: NextCall| async move {
                    tracing::debug!(target: "palyra_quic", "intercepting");
                    if call.method() == "demo.refused" { Err(call.refuse("no")) } else { next.run().await }
                })
            } else {
                builder
            };
            let dialler = pair.sensor.bind(builder, 0).unwrap();
            pair.sim.clone().run(async {
                let connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
                let too_large = vec![0; 1024 * 1024];
                connection.stream_raw("demo.none", too_large.clone()).await.unwrap_err();
                connection.bidi_raw("demo.none", too_large.clone()).await.unwrap_err();
                connection.send_items_raw("demo.none", too_large.clone()).await.unwrap_err();
                connection.call_raw("demo.none", too_large).await.unwrap_err();
                if is_intercepted {
                    connection.stream_raw("demo.refused", "").await.unwrap_err();
                    connection.bidi_raw("demo.refused", "").await.unwrap_err();
                    connection.send_items_raw("demo.refused", "").await.unwrap_err();
                    connection.call_raw("demo.refused", "").await.unwrap_err();
                }
            });
        });
        let log = collector.log();
        for (within, _) in log.events.iter().filter(|(_, line)| line.contains("intercepting")) {
            let within = usize::try_from(within.expect("a span")).unwrap() - 1;
            assert_eq!(log.spans[within].name, "call");
        }
        drop(log);
        // Whether the peer takes items is asked once, with a call of its own.
        let calls = collector.spans("call");
        let asked = calls.iter().filter(|call| call.fields["method"] == "node.health").count();
        let mut outcomes = collector.outcomes("call");
        outcomes.retain(|outcome| outcome != "ok");
        assert_eq!(outcomes.len() + asked, calls.len(), "{calls:?}");
        outcomes
    };
    assert_eq!(outcomes(false), ["message too large to send"; 4]);
    let (too_large, refused) = (["message too large to send"; 4], ["intercepted by this side"; 4]);
    assert_eq!(outcomes(true), [too_large, refused].concat());
}

#[test]
fn the_log_says_why_a_notification_was_not_handled_and_peers_cannot_repeat_that_as_a_warning() {
    let collector = Collector::at(Level::DEBUG);
    listening(&collector, || {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let router = Router::new()
            .on_notification_raw("demo.note", |_: Context, _| async {})
            .on_notification_raw("demo.panic", |_: Context, _| async { panic!("on purpose") })
            .around(|exchange: Exchange, next: Next| async move {
                match exchange.method() {
                    "demo.panic" => next.run().await,
                    _ => Err(MethodError::internal("the flash is full")),
                }
            });
        let _node = pair.serve(router, TransportLimits::default());
        let dialler = pair.dialler(TransportLimits::default());
        pair.sim.clone().run(async {
            let connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
            connection.notify_raw("demo.note", "").await.unwrap();
            pair.sim.sleep(SECOND).await;
            connection.notify_raw("demo.panic", "").await.unwrap();
            pair.sim.sleep(SECOND).await;
        });
    });
    let log = collector.log();
    let refused = |(_, line): &&(Option<u64>, String)| line.contains("internal: the flash is full");
    let (_, line) = log.events.iter().find(refused).expect("an event with the error");
    assert!(line.contains("\"method\": \"demo.note\"") && line.contains("10.0.0.2"), "{line}");
    let [panicked] = &*log.loud else { panic!("{:?}", log.loud) };
    assert!(panicked.contains("\"method\": \"demo.panic\"") && panicked.contains("panicked"), "{panicked}");
}

#[test]
fn the_log_says_why_a_subscription_broke() {
    let collector = Collector::at(Level::DEBUG);
    listening(&collector, || {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let log = EventLog::new();
        log.publish_raw(vec![0; 64 * 1024]).unwrap();
        let _node = pair.serve(Router::new().events(log), TransportLimits::default());
        let dialler = pair.dialler(TransportLimits::builder().stream_receive_window(2048).build().unwrap());
        pair.sim.clone().run(async {
            let connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
            // Not read, so that the node is writing when the connection ends.
            let _events = connection.events_raw().open().await.unwrap();
            pair.sim.sleep(SECOND).await;
            connection.close(Code::NO_ERROR, "");
            pair.sim.sleep(SECOND).await;
        });
    });
    assert_eq!(collector.outcomes("exchange"), ["CANCELLED (0x001)"]);
    let log = collector.log();
    let broke = log.events.iter().find(|(_, line)| line.contains("a subscription broke"));
    let (_, line) = broke.expect("an event");
    assert!(line.contains("connection closed") && line.contains("10.0.0.2"), "{line}");
}

#[test]
fn the_span_of_an_exchange_ends_with_it() {
    let collector = Collector::at(Level::DEBUG);
    scenario(&collector, |pair, connection| {
        let collector = collector.clone();
        async move {
            for calls in 1..=3 {
                connection.call_raw("demo.echo", "x").await.unwrap();
                pair.sim.sleep(SECOND).await;
                assert_eq!((collector.spans("exchange").len(), collector.open("exchange")), (calls, 0));
                assert_eq!((collector.open("connection"), collector.open("call")), (2, 0));
            }
            let mut hanging = Box::pin(connection.call_raw("demo.hang", ""));
            assert!(poll_once(&mut hanging).await.is_none());
            pair.sim.sleep(SECOND).await;
            assert_eq!((collector.open("exchange"), collector.open("call")), (1, 1));
            drop(hanging);
            pair.sim.sleep(SECOND).await;
            assert_eq!((collector.open("exchange"), collector.open("call")), (0, 0));
        }
    });
}

#[test]
fn a_call_is_in_the_span_of_its_caller() {
    let collector = Collector::at(Level::DEBUG);
    scenario(&collector, |_, connection| async move {
        use tracing::Instrument;
        let own = tracing::debug_span!(target: "palyra_quic", "own", stream = tracing::field::Empty);
        connection.call_raw("demo.echo", "x").instrument(own).await.unwrap();
    });
    let [call] = &*collector.spans("call") else { panic!() };
    let log = collector.log();
    let parent = &log.spans[usize::try_from(call.parent.unwrap()).unwrap() - 1];
    assert_eq!((parent.name, parent.fields.get("stream")), ("own", None));
}

/// The spans of two nodes, as a tracing system that is connected to both would link them.
#[test]
fn a_trace_is_injected_for_a_call_and_extracted_for_the_span_of_its_handler() {
    let collector = Collector::at(Level::DEBUG);
    let links = Arc::new(Mutex::new(Vec::new()));
    listening(&collector, || {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let router = Router::new()
            .serve_raw("demo.echo", |_: Context, params| async move {
                let within = tracing::debug_span!(target: "palyra_quic", "within");
                within.in_scope(|| Ok(params))
            })
            .on_notification_raw("demo.note", |_: Context, _| async {});
        let noted = Arc::clone(&links);
        let extract = move |span: &Span, trace: Option<TraceContext>| {
            let parent = u64::from_be_bytes(trace.unwrap().parent_id());
            noted.lock().unwrap().push((span.id().unwrap().into_u64(), parent));
        };
        let inject = |span: &Span| {
            let id = span.id().map_or(u64::MAX, |id| id.into_u64());
            TraceContext::new([7; 16], id.to_be_bytes(), 1)
        };
        let node = Endpoint::builder().server(simulation::server_tls()).router(router).extract_trace(extract);
        let _node = pair.gateway.bind(node, PORT).unwrap();
        let dialler = Endpoint::builder().client(simulation::client_tls()).inject_trace(inject);
        let dialler = pair.sensor.bind(dialler, 0).unwrap();
        pair.sim.clone().run(async {
            let connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
            connection.call_raw("demo.echo", "x").await.unwrap();
            connection.notify_raw("demo.note", "x").await.unwrap();
            pair.sim.sleep(SECOND).await;
        });
    });
    let id_of = |name: &str| {
        let log = collector.log();
        let index = log.spans.iter().position(|span| span.name == name).unwrap();
        u64::try_from(index).unwrap() + 1
    };
    let handlers = collector.spans("handler");
    let methods: Vec<_> = handlers.iter().map(|span| &*span.fields["method"]).collect();
    assert_eq!(methods, ["demo.echo", "demo.note"]);
    let links = links.lock().unwrap();
    assert_eq!(links[0], (id_of("handler"), id_of("call")));
    assert_eq!(links[1].1, u64::MAX, "a notification has no span of its own on this side");
    assert_eq!(handlers[0].parent, Some(id_of("exchange")), "unless the tracing system says otherwise");
    assert_eq!(collector.spans("within")[0].parent, Some(id_of("handler")));
    assert_eq!(collector.open("handler"), 0);
}

/// What peers say and do wrong is for debugging, and their words cannot break a line or fill a disk.
#[test]
fn peers_cannot_raise_their_voice() {
    let name = "\n\u{1b}[2J".repeat(25);
    let collector = Collector::at(Level::DEBUG);
    let said = name.clone();
    scenario(&collector, |pair, connection| async move {
        for _ in 0..100 {
            connection.call_raw(&said, "").await.unwrap_err();
            connection.call_raw("demo.secret", "").await.unwrap_err();
            connection.notify("demo.whisper", &7).await.unwrap();
            connection.notify(&said, &7).await.unwrap();
        }
        pair.sim.sleep(SECOND).await;
    });
    assert_eq!(collector.log().loud, Vec::<String>::new());
    let log = collector.log();
    let unhandled: Vec<_> =
        log.events.iter().filter(|(_, line)| line.contains("no handler for a notification")).collect();
    assert_eq!(unhandled.len(), 100);
    // The collector escapes the backslashes once more.
    let named = unhandled[0].1.contains("\"method\": \"\\\\n\\\\u{1b}[2J");
    assert!(named && unhandled[0].1.len() < 400, "{}", unhandled[0].1);
    drop(log);
    let exchanges = collector.spans("exchange");
    assert_eq!(exchanges.len(), 200);
    let shown = &exchanges[0].fields["method"];
    assert!(shown.starts_with("\\n\\u{1b}[2J\\n") && shown.len() <= 128, "{shown}");
    assert!(name.len() <= 128, "else it would not have arrived");
}

#[test]
fn without_a_listener_no_span_is_made() {
    let collector = Collector::at(Level::INFO);
    scenario(&collector, |_, connection| async move {
        connection.call_raw("demo.echo", "x").await.unwrap();
        connection.call_raw("demo.secret", "").await.unwrap_err();
    });
    let log = collector.log();
    assert!(log.spans.is_empty() && log.events.is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn the_log_says_once_that_a_receive_buffer_is_smaller_than_asked_for() {
    for (asked, expected) in [(1, 0), (u32::MAX, 1)] {
        let collector = Collector::at(Level::DEBUG);
        let obtained = listening(&collector, || {
            let limits = TransportLimits::builder().socket_receive_buffer_bytes(asked).build().unwrap();
            let runtime = palyra_quic::PollRuntime::new().unwrap();
            let builder = Endpoint::builder().shared_runtime(runtime.handle()).limits(limits);
            builder.bind(([127, 0, 0, 1], 0).into()).unwrap().stats().receive_buffer_bytes
        });
        let log = collector.log();
        let lines = log.events.iter().filter(|(_, line)| line.contains("receive buffer"));
        let lines: Vec<_> = lines.map(|(_, line)| line).collect();
        assert_eq!(lines.len(), expected, "{lines:?}");
        assert!(
            lines.iter().all(|line| line.contains(&format!("\"obtained\": \"{obtained}\""))),
            "{lines:?}"
        );
        assert_eq!(log.loud.len(), expected, "{:?}", log.loud);
    }
}
