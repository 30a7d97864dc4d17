//! Names and types that both sides take from one constant, and answers as streams.

use std::time::Duration;

use futures_lite::{StreamExt, future::poll_once};
use palyra_quic::minicbor::{Encode, Encoder, encode::Write};
use palyra_quic::{
    Bytes, Codec, Context, ErrorKind, EventItem, EventLog, Gap, LogMethod, Method, NotificationMethod, Raw,
    ResponseSink, Router, StreamingMethod, WireError,
};

use crate::common::{run, serve, signal};

const ADD: Method<(u32, u32), u64> = Method::new("demo.add");
const COUNT: StreamingMethod<u32, u32> = StreamingMethod::new("demo.count");
const SAY: NotificationMethod<String> = NotificationMethod::new("demo.say");
const READINGS: LogMethod<i32> = LogMethod::NODE;

fn adding() -> Router {
    Router::new().serve(ADD, |_: Context, (a, b)| async move { Ok(u64::from(a) + u64::from(b)) })
}

/// A node that counts up to the number asked for, and to one more once it may go on.
fn counting() -> (Router, smol::channel::Sender<()>) {
    let (go_on, gate) = signal();
    let router = Router::new().serve_stream(COUNT, move |_, last, mut answers: ResponseSink<u32>| {
        let gate = gate.clone();
        async move {
            for n in 1..=last {
                answers.send(&n).await.unwrap();
            }
            gate.recv().await.unwrap();
            answers.send(&(last + 1)).await.unwrap();
            Ok(())
        }
    });
    (router, go_on)
}

#[test]
fn one_constant_names_and_types_a_method_on_both_sides() {
    run(async {
        let server = serve(adding());
        let connection = server.connect().await;
        assert_eq!(connection.call(ADD, &(40, 2)).await.unwrap(), 42);
        assert_eq!(connection.call::<_, u64>("demo.add", &(40, 2)).await.unwrap(), 42);
        assert_eq!(connection.call::<_, u64>(&String::from("demo.add"), &(40, 2)).await.unwrap(), 42);
        let params = palyra_quic::minicbor::to_vec((40, 2)).unwrap();
        assert_eq!(connection.call_raw(ADD, params).await.unwrap(), [0x18, 42].as_slice());
    });
}

#[test]
fn a_call_with_a_time_limit_gives_its_typed_result_too() {
    run(async {
        let server = serve(adding());
        let connection = server.connect().await;
        let call = connection.request(ADD, &(40, 2)).unwrap().timeout(Duration::from_secs(30));
        assert_eq!(call.clone().send_raw().await.unwrap(), [0x18, 42].as_slice());
        assert_eq!(call.send().await.unwrap(), 42);
    });
}

#[test]
fn one_constant_names_and_types_a_notification_on_both_sides() {
    run(async {
        let (heard, hears) = smol::channel::unbounded();
        let server = serve(Router::new().on_notification(SAY, move |_, text| {
            let heard = heard.clone();
            async move { heard.try_send(text).unwrap() }
        }));
        let connection = server.connect().await;
        connection.notify(SAY, &"a".to_owned()).await.unwrap();
        assert_eq!(hears.recv().await.unwrap(), "a");
        let mut notifier = connection.notifier().await.unwrap();
        notifier.send(SAY, &"b".to_owned()).await.unwrap();
        notifier.send("demo.say", "c").await.unwrap();
        notifier.finish().await.unwrap();
        assert_eq!([hears.recv().await.unwrap(), hears.recv().await.unwrap()], ["b", "c"]);
    });
}

/// Every way to call without parameters, and every handler that needs none.
#[test]
fn a_call_without_parameters_suits_handlers_of_unit_and_of_options() {
    run(async {
        let (heard, hears) = smol::channel::unbounded();
        let (unit_heard, option_heard) = (heard.clone(), heard);
        let router = Router::new()
            .serve("unit", |_: Context, ()| async { Ok(0_u32) })
            .serve("option", |_: Context, n: Option<u32>| async move { Ok(n.unwrap_or_default()) })
            .serve_stream("units", |_: Context, (), mut answers: ResponseSink<u32>| async move {
                Ok(answers.send(&0).await?)
            })
            .serve_stream(
                "options",
                |_: Context, n: Option<u32>, mut answers: ResponseSink<u32>| async move {
                    Ok(answers.send(&n.unwrap_or_default()).await?)
                },
            )
            .on_notification("unit", move |_: Context, ()| {
                let heard = unit_heard.clone();
                async move { heard.try_send(None).unwrap() }
            })
            .on_notification("option", move |_: Context, n: Option<u32>| {
                let heard = option_heard.clone();
                async move { heard.try_send(n).unwrap() }
            });
        let server = serve(router);
        let connection = server.connect().await;
        for (method, streaming) in [("unit", "units"), ("option", "options")] {
            assert_eq!(connection.call_raw(method, "").await.unwrap(), [0].as_slice());
            assert_eq!(connection.call::<_, u32>(method, &()).await.unwrap(), 0);
            assert_eq!(connection.call::<_, u32>(method, &None::<u32>).await.unwrap(), 0);
            for codec in [Codec::Cbor, Codec::Json] {
                let calls = [
                    connection.request_raw(streaming, ""),
                    connection.request::<_, Raw>(streaming, &()).unwrap(),
                    connection.request::<_, Raw>(streaming, &None::<u32>).unwrap(),
                ];
                for call in calls {
                    let mut answers = call.codec(codec).stream().await.unwrap();
                    assert_eq!(answers.next_raw().await.unwrap().unwrap(), [0].as_slice());
                    assert_eq!(answers.next_raw().await.unwrap(), None);
                }
            }
            let mut notifier = connection.notifier().await.unwrap();
            notifier.send_raw(method, "").await.unwrap();
            notifier.send(method, &()).await.unwrap();
            notifier.send(method, &None::<u32>).await.unwrap();
            notifier.finish().await.unwrap();
            for _ in 0..3 {
                assert_eq!(hears.recv().await.unwrap(), None);
            }
        }
        let refused = connection.call::<_, u32>("unit", &7).await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::Remote(WireError::InvalidRequest));
        assert_eq!(connection.call::<_, u32>("option", &7).await.unwrap(), 7);
    });
}

#[test]
fn answers_are_a_stream_of_values_or_of_bytes() {
    run(async {
        let (router, go_on) = counting();
        let server = serve(router);
        let connection = server.connect().await;
        for _ in 0..2 {
            go_on.send(()).await.unwrap();
        }
        let values: Vec<u32> = connection.stream(COUNT, &2).await.unwrap().try_collect().await.unwrap();
        assert_eq!(values, [1, 2, 3]);
        let answers = connection.stream_raw(COUNT, vec![2]).await.unwrap();
        let bytes: Vec<Bytes> = answers.try_collect().await.unwrap();
        assert_eq!(bytes, [vec![1], vec![2], vec![3]]);
    });
}

#[test]
fn a_stream_and_next_take_turns_and_lose_no_answer() {
    run(async {
        let (router, go_on) = counting();
        let server = serve(router);
        let connection = server.connect().await;
        let mut answers = connection.stream(COUNT, &2).await.unwrap();
        assert_eq!(StreamExt::next(&mut answers).await.unwrap().unwrap(), 1);
        assert_eq!(answers.next().await.unwrap(), Some(2));
        assert!(poll_once(answers.next()).await.is_none());
        assert!(poll_once(StreamExt::next(&mut answers)).await.is_none());
        assert!(poll_once(answers.next()).await.is_none(), "it waits on where the stream did");
        go_on.send(()).await.unwrap();
        assert_eq!(answers.next().await.unwrap(), Some(3), "nothing was lost with those dropped");
        assert!(StreamExt::next(&mut answers).await.is_none());
        assert_eq!(answers.next().await.unwrap(), None, "and it stays so");
    });
}

#[test]
fn an_answer_of_another_type_is_an_error_and_the_next_one_is_read() {
    run(async {
        let router = Router::new().serve_stream_raw("mixed", |_, _, mut sink| async move {
            for payload in [vec![0x61, b'a'], vec![7]] {
                sink.send_raw(payload).await.unwrap();
            }
            Ok(())
        });
        let server = serve(router);
        let connection = server.connect().await;
        let mut answers = connection.stream::<_, u32>("mixed", &()).await.unwrap();
        assert_eq!(answers.next().await.unwrap_err().kind(), &ErrorKind::Codec);
        assert_eq!(answers.next().await.unwrap(), Some(7));
        assert_eq!(answers.next().await.unwrap(), None);
    });
}

#[test]
fn an_error_ends_the_stream_of_answers() {
    run(async {
        let server = serve(Router::new());
        let connection = server.connect().await;
        let mut answers = connection.stream(COUNT, &1).await.unwrap();
        let error = StreamExt::next(&mut answers).await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Remote(_)), "{error:?}");
        assert!(StreamExt::next(&mut answers).await.is_none());
    });
}

/// Degrees below and above zero, of which the log holds the last three.
fn readings() -> EventLog {
    let log = EventLog::builder().max_events(3).build().unwrap();
    for degrees in [-1_i32, 0, 1, 2] {
        log.publish(&degrees).unwrap();
    }
    log
}

fn values(items: Vec<EventItem<i32>>) -> (u64, Vec<(u64, i32)>) {
    let mut missed = 0;
    let events = items.into_iter().filter_map(|item| match item {
        EventItem::Event { seq, payload, .. } => Some((seq, payload)),
        EventItem::Gap(Gap { missed: count, .. }) => {
            missed += count.unwrap();
            None
        }
    });
    let events = events.collect();
    (missed, events)
}

#[test]
fn events_have_payloads_of_the_type_of_their_log() {
    run(async {
        let server = serve(Router::new().events(readings()));
        let connection = server.connect().await;
        let mut events = connection.events(READINGS).resume_from(0).open().await.unwrap();
        let mut items = Vec::new();
        while let Some(item) = events.next().await.unwrap() {
            items.push(item);
        }
        assert_eq!(values(items), (1, vec![(2, 0), (3, 1), (4, 2)]));
        let wrong = connection.events::<String>("node.stream_events").open().await.unwrap();
        let error = wrong.try_collect::<_, _, Vec<_>>().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Codec);
    });
}

#[test]
fn an_event_of_a_type_and_one_of_bytes_differ_in_their_encoding_alone() {
    run(async {
        let log = EventLog::new();
        assert_eq!(log.publish("a").unwrap(), 1);
        assert_eq!(log.publish_raw("a").unwrap(), 2);
        assert_eq!(log.publish_durable("a").await.unwrap(), 3);
        assert_eq!(log.publish_durable_raw("a").await.unwrap(), 4);
        let server = serve(Router::new().events(log));
        let connection = server.connect().await;
        let items: Vec<_> = connection.events_raw().open().await.unwrap().try_collect().await.unwrap();
        let payloads = items.into_iter().map(|item| match item {
            EventItem::Event { payload, .. } => payload,
            EventItem::Gap(gap) => panic!("{gap:?}"),
        });
        assert_eq!(payloads.collect::<Vec<_>>(), ["\x61a", "a", "\x61a", "a"]);
    });
}

/// What no codec can write.
struct Unwritable;

impl<C> Encode<C> for Unwritable {
    fn encode<W: Write>(
        &self,
        _: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), palyra_quic::minicbor::encode::Error<W::Error>> {
        Err(palyra_quic::minicbor::encode::Error::message("unwritable"))
    }
}

#[test]
fn an_event_that_cannot_be_encoded_or_is_too_large_is_not_published() {
    run(async {
        let log = EventLog::builder().max_payload_bytes(4).build().unwrap();
        assert_eq!(log.publish(&Unwritable).unwrap_err().kind(), &ErrorKind::Codec);
        assert_eq!(log.publish_durable(&Unwritable).await.unwrap_err().kind(), &ErrorKind::Codec);
        assert_eq!(log.publish("four").unwrap_err().kind(), &ErrorKind::MessageTooLarge);
        assert_eq!(log.last_seq(), 0);
        assert_eq!(log.publish("two").unwrap(), 1);
        assert_eq!(log.publish_raw("four").unwrap(), 2);
    });
}

#[test]
fn events_are_a_stream_that_waits_for_the_next_one() {
    run(async {
        let server_log = readings();
        let server = serve(Router::new().events(server_log.clone()));
        let connection = server.connect().await;
        let mut events = connection.events(READINGS).resume_from(3).follow().open().await.unwrap();
        let first = StreamExt::next(&mut events).await.unwrap().unwrap();
        assert_eq!(values(vec![first]), (0, vec![(4, 2)]));
        assert!(poll_once(StreamExt::next(&mut events)).await.is_none());
        server_log.publish(&3).unwrap();
        let next = events.next().await.unwrap().unwrap();
        assert_eq!(values(vec![next]), (0, vec![(5, 3)]));

        let bytes: Vec<_> = connection.events_raw().open().await.unwrap().try_collect().await.unwrap();
        assert_eq!(bytes.len(), 3);
    });
}
