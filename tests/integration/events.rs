//! `node.stream_events` on the wire: replayed, followed, resumed, and never with a silent loss.

use std::time::Duration;

use futures_lite::future::poll_once;
use palyra_quic::{
    Bytes, Codec, Connection, EventItem, EventLog, Request, Response, Router, TransportLimits, WireError,
    quinn::{TransportConfig, VarInt},
};

use crate::common::{Server, decode, encode, frame, run, serve, serve_within};

const STREAM_EVENTS: &str = "node.stream_events";

/// A node whose log holds the newest `held` of `count` events.
fn node(count: u64, held: usize) -> (Server, EventLog) {
    node_within(TransportLimits::default(), count, held)
}

fn node_within(limits: TransportLimits, count: u64, held: usize) -> (Server, EventLog) {
    let log = EventLog::builder().max_events(held).max_bytes(16 * 1024 * 1024).build().unwrap();
    publish(&log, count);
    (serve_within(limits, Router::new().events(log.clone())), log)
}

/// Publishes this many more.
fn publish(log: &EventLog, count: u64) {
    for _ in 0..count {
        let next = log.last_seq() + 1;
        assert_eq!(log.publish_raw(payload(next)).unwrap(), next);
    }
}

fn payload(seq: u64) -> String {
    format!("event {seq}")
}

fn event(log: &EventLog, seq: u64) -> Response {
    Response::event(seq, Some(log.epoch()), Some(payload(seq).into()))
}

fn gap(log: &EventLog, first_seq: u64, missed: impl Into<Option<u64>>) -> Response {
    Response::gap(first_seq, log.epoch(), missed.into())
}

fn subscribe(resume_from: Option<u64>, epoch: Option<u64>) -> Request {
    let mut request = Request::new(STREAM_EVENTS);
    (request.resume_from, request.epoch) = (resume_from, epoch);
    request
}

/// The answers to a request in either codec, which must be the same.
async fn answers(server: &Server, request: &Request) -> Vec<Response> {
    let peer = server.raw().await;
    let [cbor, json] = [Codec::Cbor, Codec::Json].map(|codec| encode(request, codec));
    let in_cbor = peer.request(&cbor).await.frames();
    let in_json = peer.request(&json).await.frames();
    assert!(in_cbor.iter().all(|body| Codec::of(body) == Codec::Cbor));
    assert!(in_json.iter().all(|body| Codec::of(body) == Codec::Json));
    let [in_cbor, in_json] =
        [in_cbor, in_json].map(|frames| frames.iter().map(|body| decode(body)).collect::<Vec<_>>());
    assert_eq!(in_cbor, in_json);
    in_cbor
}

#[test]
fn a_replay_brings_every_event_held_and_ends() {
    run(async {
        let (server, log) = node(5, 10);
        let all: Vec<_> = (1..=5).map(|seq| event(&log, seq)).collect();
        assert_eq!(answers(&server, &subscribe(None, None)).await, all);
        assert_eq!(answers(&server, &subscribe(Some(0), None)).await, all);
        assert_eq!(answers(&server, &subscribe(Some(3), None)).await, all[3..]);
        assert_eq!(answers(&server, &subscribe(Some(3), Some(log.epoch()))).await, all[3..]);
        assert_eq!(answers(&server, &subscribe(Some(5), None)).await, []);
    });
}

/// The table of docs/protocol.md, section 7.2.
#[test]
fn what_is_no_longer_held_or_not_known_is_a_gap() {
    run(async {
        let (server, log) = node(103, 4);
        let (same, other) = (Some(log.epoch()), Some(log.epoch() + 1));
        let held: Vec<_> = (100..=103).map(|seq| event(&log, seq)).collect();
        let behind = |gap: Response| [&[gap][..], &held].concat();
        for (resume_from, epochs, expected) in [
            (None, [None, same, other], held.clone()),
            (Some(99), [None, None, same], held.clone()),
            (Some(101), [None, None, same], held[2..].to_vec()),
            (Some(103), [None, None, same], vec![]),
            (Some(41), [None, None, same], behind(gap(&log, 100, 58))),
            (Some(98), [None, None, same], behind(gap(&log, 100, 1))),
            (Some(0), [None, None, same], behind(gap(&log, 100, 99))),
            (Some(101), [other; 3], behind(gap(&log, 100, None))),
            (Some(103), [other; 3], behind(gap(&log, 100, None))),
            (Some(104), [None, None, same], behind(gap(&log, 100, None))),
            (Some(u64::MAX), [None, same, other], behind(gap(&log, 100, None))),
        ] {
            for epoch in epochs {
                let answer = answers(&server, &subscribe(resume_from, epoch)).await;
                assert_eq!(answer, expected, "{resume_from:?} of {epoch:?}");
            }
        }
    });
}

#[test]
fn a_log_without_events_promises_the_first() {
    run(async {
        let (server, log) = node(0, 4);
        assert_eq!(answers(&server, &subscribe(None, None)).await, []);
        assert_eq!(answers(&server, &subscribe(Some(0), Some(log.epoch()))).await, []);
        assert_eq!(answers(&server, &subscribe(Some(1), None)).await, [gap(&log, 1, None)]);
        assert_eq!(answers(&server, &subscribe(Some(0), Some(log.epoch() + 1))).await, [gap(&log, 1, None)]);
    });
}

#[test]
fn a_node_without_a_log_has_no_such_method() {
    run(async {
        let server = serve(Router::new());
        let peer = server.raw().await;
        assert_eq!(
            peer.request(&crate::common::request(STREAM_EVENTS)).await.error(),
            WireError::UnsupportedMethod
        );
        let (server, _) = node(0, 1);
        let peer = server.raw().await;
        assert_eq!(peer.request(&crate::common::request(STREAM_EVENTS)).await.frames().len(), 0);
    });
}

#[test]
fn the_reference_gets_events_for_its_json() {
    run(async {
        let (server, log) = node(3, 10);
        let peer = server.raw().await;
        let request = format!(r#"{{"protocol_version":1,"method":"{STREAM_EVENTS}","resume_from":2}}"#);
        let [body] = &*peer.request(request.as_bytes()).await.frames() else { panic!("not one event") };
        let expected =
            r#"{"protocol_version":1,"kind":"event","ok":true,"seq":3,"payload":"ZXZlbnQgMw==","epoch":"#;
        assert_eq!(std::str::from_utf8(body).unwrap(), format!("{expected}{}}}", log.epoch()));
        let all = peer.request(&crate::common::json_request(STREAM_EVENTS)).await.frames();
        assert_eq!(all.len(), 3);
    });
}

/// The next item, which has to be an event.
async fn next_seq(events: &mut palyra_quic::Events) -> u64 {
    match events.next_raw().await.unwrap() {
        Some(EventItem::Event { seq, payload: carried, .. }) => {
            assert_eq!(carried, payload(seq));
            seq
        }
        other => panic!("{other:?} instead of an event"),
    }
}

#[test]
fn who_follows_gets_what_is_published_later() {
    run(async {
        let (server, log) = node(2, 10);
        let connection = server.connect().await;
        for codec in [Codec::Cbor, Codec::Json] {
            let begun = log.last_seq();
            let mut events =
                connection.events_raw().resume_from(begun - 1).follow().codec(codec).open().await.unwrap();
            assert_eq!(next_seq(&mut events).await, begun);
            assert!(poll_once(events.next_raw()).await.is_none(), "the stream stays open");
            for seq in begun + 1..begun + 4 {
                publish(&log, 1);
                assert_eq!(next_seq(&mut events).await, seq);
            }
        }
        // Without it the same stream ends.
        let mut events = connection.events_raw().resume_from(log.last_seq() - 1).open().await.unwrap();
        assert_eq!(next_seq(&mut events).await, log.last_seq());
        assert_eq!(events.next_raw().await.unwrap(), None);
    });
}

#[test]
fn each_subscriber_gets_everything() {
    run(async {
        let (server, log) = node(0, 1000);
        let connection = server.connect().await;
        let mut subscribers = Vec::new();
        for _ in 0..20 {
            subscribers.push(connection.events_raw().follow().open().await.unwrap());
        }
        publish(&log, 500);
        // In parallel: they share the connection's window, and one that does not read would block the
        // others.
        let reading = subscribers.into_iter().map(|mut events| {
            smol::spawn(async move {
                for seq in 1..=500 {
                    assert_eq!(next_seq(&mut events).await, seq);
                }
            })
        });
        for subscriber in reading.collect::<Vec<_>>() {
            subscriber.await;
        }
    });
}

fn often() -> TransportLimits {
    let often = Duration::from_millis(50);
    // A limit for handlers that is none for subscriptions.
    TransportLimits::builder().heartbeat_interval(often).handler_timeout(often).build().unwrap()
}

#[test]
fn an_idle_stream_brings_heartbeats() {
    run(async {
        let (server, log) = node_within(often(), 0, 10);
        let connection = server.connect().await;
        let heartbeat = |seq| Some(Response::heartbeat(seq, log.epoch()));
        for codec in [Codec::Cbor, Codec::Json] {
            let begun = log.last_seq();
            let call = connection.request_raw(STREAM_EVENTS, "").resume_from(begun).follow().codec(codec);
            let mut answers = call.stream().await.unwrap();
            for _ in 0..3 {
                assert_eq!(answers.next_response().await.unwrap(), heartbeat(begun));
            }
            publish(&log, 1);
            // One that was on its way may come first.
            let next = loop {
                let next = answers.next_response().await.unwrap();
                if next != heartbeat(begun) {
                    break next;
                }
            };
            assert_eq!(next, Some(event(&log, begun + 1)));
            assert_eq!(answers.next_response().await.unwrap(), heartbeat(begun + 1));
        }
    });
}

#[test]
fn heartbeats_are_no_items() {
    run(async {
        let (server, log) = node_within(often(), 0, 10);
        let connection = server.connect().await;
        let mut events = connection.events_raw().follow().open().await.unwrap();
        let mut idle = connection.request_raw(STREAM_EVENTS, "").follow().stream().await.unwrap();
        for _ in 0..3 {
            assert!(matches!(idle.next_response().await.unwrap(), Some(Response::Heartbeat { .. })));
        }
        assert!(poll_once(events.next_raw()).await.is_none());
        publish(&log, 1);
        assert_eq!(next_seq(&mut events).await, 1);
    });
}

#[test]
fn a_subscriber_that_is_too_slow_gets_a_gap_and_goes_on() {
    run(async {
        let held = 8;
        let log = EventLog::builder().max_events(held).build().unwrap();
        let server = serve(Router::new().events(log.clone()));
        let publish = || log.publish_raw(vec![7; 1000]).unwrap();
        publish();
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(4096));
        let peer = server.raw_with(transport).await;
        let request = subscribe(None, None).with_follow();
        let mut stream = peer.send(&frame(&encode(&request, Codec::Cbor))).await;
        stream.finish();
        // It has begun, and reads no more.
        assert!(matches!(decode(&stream.next().await), Response::Event { seq: 1, .. }));
        let mut seen = 1;
        let mut missed = 0;
        // More than the window, a write of the node and the log hold together.
        for _ in 0..200 {
            publish();
        }
        let newest = log.last_seq();
        while seen < newest {
            match decode(&stream.next().await) {
                Response::Event { seq, .. } => {
                    assert_eq!(seq, seen + 1, "neither holes nor repetitions");
                    seen = seq;
                }
                Response::Gap { first_seq, missed: count, epoch, .. } => {
                    assert_eq!(epoch, log.epoch());
                    assert_eq!(first_seq, seen + 1 + count.unwrap(), "the count is right");
                    missed += count.unwrap();
                    seen = first_seq - 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(missed > 0, "it was too slow");
        publish();
        let Response::Event { seq, .. } = decode(&stream.next().await) else { panic!("no event") };
        assert_eq!(seq, newest + 1);
        server.assert_serves_others().await;
    });
}

#[test]
fn a_subscriber_that_does_not_read_delays_no_other_and_no_publisher() {
    run(async {
        let (server, log) = node(0, 100_000);
        let idle = server.connect().await;
        let _idle = idle.events_raw().follow().open().await.unwrap();
        let connection = server.connect().await;
        let mut events = connection.events_raw().follow().open().await.unwrap();
        publish(&log, 20_000);
        for seq in 1..=20_000 {
            assert_eq!(next_seq(&mut events).await, seq);
        }
    });
}

#[test]
fn a_subscription_that_is_cut_goes_on_where_it_was() {
    run(async {
        let (server, log) = node(100, 1000);
        let (mut last, mut epoch, mut cuts) = (0, log.epoch(), 0);
        let mut connection = server.connect().await;
        while last < 200 {
            let mut events =
                connection.events_raw().resume_from(last).epoch(epoch).follow().open().await.unwrap();
            for _ in 0..7 {
                let Some(EventItem::Event { seq, epoch: known, payload: carried }) =
                    events.next_raw().await.unwrap()
                else {
                    panic!("a loss");
                };
                assert_eq!((seq, carried), (last + 1, Bytes::from(payload(seq))));
                (last, epoch) = (seq, known.unwrap());
                if log.last_seq() < 203 {
                    publish(&log, 1);
                }
            }
            cuts += 1;
            // By the stream, or with its connection.
            if cuts % 5 == 0 {
                connection.close(palyra_quic::Code::NO_ERROR, "");
                connection = server.connect().await;
            }
        }
        assert_eq!(last, 203);
        assert_eq!(cuts, 29);
    });
}

#[test]
fn another_history_is_noticed_by_its_epoch_alone() {
    run(async {
        let (_, before) = node(10, 10);
        let (restarted, now) = node(10, 10);
        let connection = restarted.connect().await;
        let mut events = connection.events_raw().resume_from(5).epoch(before.epoch()).open().await.unwrap();
        let Some(EventItem::Gap(gap)) = events.next_raw().await.unwrap() else { panic!("no gap") };
        assert_eq!((gap.from, gap.next_seq, gap.missed, gap.epoch), (1, 1, None, now.epoch()));
        assert_eq!(next_seq(&mut events).await, 1);
        let mut unaware = connection.events_raw().resume_from(5).open().await.unwrap();
        assert_eq!(next_seq(&mut unaware).await, 6);
    });
}

async fn replay(connection: &Connection, codec: Codec, count: u64) {
    let mut events = connection.events_raw().codec(codec).open().await.unwrap();
    for seq in 1..=count {
        assert_eq!(next_seq(&mut events).await, seq);
    }
    assert_eq!(events.next_raw().await.unwrap(), None);
}

#[test]
fn ten_thousand_events_are_replayed_in_order() {
    run(async {
        let (server, _) = node(10_000, 10_000);
        let connection = server.connect().await;
        replay(&connection, Codec::Cbor, 10_000).await;
        replay(&connection, Codec::Json, 10_000).await;
    });
}

#[test]
fn the_largest_event_fits_a_frame_in_either_codec() {
    run(async {
        let log = EventLog::new();
        let largest = Bytes::from(vec![0xff; 256 * 1024]);
        log.publish_raw(largest.clone()).unwrap();
        log.publish_raw("").unwrap();
        let server = serve(Router::new().events(log));
        let connection = server.connect().await;
        for codec in [Codec::Cbor, Codec::Json] {
            let mut events = connection.events_raw().codec(codec).open().await.unwrap();
            for expected in [&largest[..], b""] {
                let Some(EventItem::Event { payload, .. }) = events.next_raw().await.unwrap() else {
                    panic!()
                };
                assert!(payload == expected);
            }
        }
    });
}

#[test]
fn dropping_a_subscription_frees_its_stream() {
    run(async {
        let limits = TransportLimits::builder().max_concurrent_bidi_streams(1).build().unwrap();
        let (server, _) = node_within(limits, 1, 1);
        let connection = server.connect().await;
        let mut events = connection.events_raw().follow().open().await.unwrap();
        assert_eq!(next_seq(&mut events).await, 1);
        let mut health = std::pin::pin!(connection.health());
        assert!(poll_once(&mut health).await.is_none());
        server.assert_serves_others().await;
        assert!(poll_once(&mut health).await.is_none(), "the only stream is taken");
        drop(events);
        assert!(health.await.unwrap().ok);
    });
}

#[test]
fn a_subscriber_may_set_a_time_limit() {
    run(async {
        let (server, log) = node(1, 1);
        let peer = server.raw().await;
        // Long enough for the first event, however busy the computer is.
        let request = subscribe(None, None).with_follow().with_timeout_ms(2000);
        let frames = peer.request(&encode(&request, Codec::Cbor)).await.frames();
        let [first, last] = &*frames else { panic!("{} frames", frames.len()) };
        assert_eq!(decode(first), event(&log, 1));
        assert!(matches!(decode(last), Response::Error { error: WireError::DeadlineExceeded, .. }));
        peer.assert_is_served().await;
    });
}
