//! Types that implement serde's traits alone, in every place that takes values.

use std::collections::BTreeMap;

use futures_lite::StreamExt;
use palyra_quic::{
    Codec, Context, ErrorKind, EventItem, EventLog, LogMethod, Method, MethodError, NotificationMethod,
    ResponseSink, Router, Serde, StreamingMethod, WireError,
};
use serde::{Deserialize, Serialize};

use crate::common::{run, serve};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    sensor: String,
    state: State,
    #[serde(flatten)]
    values: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum State {
    Good,
    Worn { since: u64 },
}

const AGE: Method<Serde<Reading>, Serde<Reading>> = Method::new("age");
const SPLIT: StreamingMethod<Serde<Reading>, Serde<(String, f64)>> = StreamingMethod::new("split");
const NOTE: NotificationMethod<Serde<Reading>> = NotificationMethod::new("note");
const READINGS: LogMethod<Serde<Reading>> = LogMethod::NODE;

fn reading() -> Reading {
    let values = [("celsius".to_owned(), 21.5), ("percent".to_owned(), 40.0)].into();
    Reading { sensor: "hall".into(), state: State::Good, values }
}

fn worn() -> Reading {
    Reading { state: State::Worn { since: 7 }, ..reading() }
}

#[test]
fn parameters_results_answers_notifications_and_events() {
    run(async {
        let (heard, hears) = smol::channel::unbounded();
        let log = EventLog::new();
        log.publish(&Serde(reading())).unwrap();
        log.publish(&Serde(&worn())).unwrap();
        let router = Router::new()
            .serve(AGE, |_, Serde(reading)| async move {
                Ok(Serde(Reading { state: State::Worn { since: 7 }, ..reading }))
            })
            .serve_stream(
                SPLIT,
                |_, Serde(reading): Serde<Reading>, mut answers: ResponseSink<_>| async move {
                    for value in reading.values {
                        answers.send(&Serde(value)).await?;
                    }
                    Ok(())
                },
            )
            .on_notification(NOTE, move |_, Serde(reading)| {
                let heard = heard.clone();
                async move { heard.try_send(reading).unwrap() }
            })
            .events(log);
        let server = serve(router);
        let connection = server.connect().await;
        assert_eq!(connection.call(AGE, &Serde(reading())).await.unwrap(), Serde(worn()));
        for codec in [Codec::Cbor, Codec::Json] {
            let call = connection.request(AGE, &Serde(reading())).unwrap().codec(codec);
            assert_eq!(call.send().await.unwrap().0, worn());
        }
        let answers = connection.stream(SPLIT, &Serde(reading())).await.unwrap();
        let answers: Vec<_> = answers.map(|answer| answer.unwrap().0).collect().await;
        assert_eq!(answers, [("celsius".to_owned(), 21.5), ("percent".to_owned(), 40.0)]);
        connection.notify(NOTE, &Serde(worn())).await.unwrap();
        assert_eq!(hears.recv().await.unwrap(), worn());
        let mut events = connection.events(READINGS).resume_from(0).open().await.unwrap();
        for expected in [reading(), worn()] {
            match events.next().await.unwrap().unwrap() {
                EventItem::Event { payload, .. } => assert_eq!(payload.0, expected),
                other => panic!("{other:?}"),
            }
        }
    });
}

/// Every way to call without parameters, and every handler that needs none.
#[test]
fn a_call_without_parameters_suits_handlers_of_unit_and_of_options() {
    run(async {
        let router = Router::new()
            .serve("unit", |_: Context, Serde(()): Serde<()>| async { Ok(Serde(0_u32)) })
            .serve("option", |_: Context, Serde(n): Serde<Option<u32>>| async move {
                Ok(Serde(n.unwrap_or_default()))
            });
        let server = serve(router);
        let connection = server.connect().await;
        for method in ["unit", "option"] {
            assert_eq!(connection.call_raw(method, "").await.unwrap(), [0].as_slice());
            assert_eq!(connection.call::<_, u32>(method, &()).await.unwrap(), 0);
            assert_eq!(connection.call::<_, Serde<u32>>(method, &Serde(())).await.unwrap(), Serde(0));
            assert_eq!(connection.call::<_, u32>(method, &Serde(None::<u32>)).await.unwrap(), 0);
        }
    });
}

#[test]
fn parameters_that_do_not_fit_are_refused_by_name() {
    run(async {
        let router = Router::new()
            .serve(AGE, |_, reading| async move { Ok::<_, MethodError>(reading) })
            .serve("raw", |_: Context, Serde(n): Serde<u8>| async move { Ok(Serde(n)) });
        let server = serve(router);
        let connection = server.connect().await;
        let failure = connection.call::<_, u8>("age", &Serde([("sensor", "hall")])).await.unwrap_err();
        assert_eq!(failure.kind(), &ErrorKind::Remote(WireError::InvalidRequest));
        let failure =
            connection.call::<_, u8>("age", &Serde(BTreeMap::from([("sensor", "hall")]))).await.unwrap_err();
        assert!(failure.explanation().unwrap().contains("missing field `state`"), "{failure}");
        assert!(!failure.may_have_run());
        let unreadable = connection.call::<_, Serde<Reading>>("raw", &Serde(7)).await.unwrap_err();
        assert_eq!(unreadable.kind(), &ErrorKind::Codec);
        assert!(unreadable.may_have_run());
    });
}
