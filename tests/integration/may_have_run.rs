//! `Error::may_have_run`: `false` only if the call certainly did not run, whatever either side reports.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_lite::future;
use palyra_quic::{
    Bytes, Client, Code, Codec, Connection, Endpoint, Error, ErrorKind, EventLog, MethodError, Peers, Rate,
    Request, Response, ResponseSink, Router, TransportLimits, WireError, quinn,
};
use proptest::{prelude::*, test_runner::Config};

use crate::common::{
    RawServer, RawStream, encode, entry, frame, loopback, map, run, serve, serve_within, varint,
};

fn wire_errors() -> Vec<WireError> {
    [
        "invalid_request",
        "protocol_mismatch",
        "unsupported_method",
        "stream_failure",
        "deadline_exceeded",
        "resource_exhausted",
        "permission_denied",
        "unavailable",
        "internal",
        "novelty",
    ]
    .into_iter()
    .map(WireError::from)
    .collect()
}

/// As a handler's reaches its caller: `unavailable` is the node's own to say.
fn passed_on(error: &WireError) -> WireError {
    if *error == WireError::Unavailable { WireError::ResourceExhausted } else { error.clone() }
}

/// The failure of a call, and of the same call as a stream.
async fn failures(connection: &Connection, method: &str, codec: Codec) -> [Error; 2] {
    let call = || connection.request_raw(method, "\0").codec(codec);
    let called = call().send_raw().await.unwrap_err();
    let streamed = async {
        let mut responses = call().stream().await?;
        while responses.next_raw().await?.is_some() {}
        Ok::<_, Error>(())
    };
    [called, streamed.await.unwrap_err()]
}

#[test]
fn the_errors_of_handlers_pass_unchanged_and_the_method_may_have_run() {
    run(async {
        for error in wire_errors() {
            let failing = |error: &WireError| {
                let error = error.clone();
                move || MethodError::new(error.clone()).detail("a handler's")
            };
            let (unary, typed, streaming) = (failing(&error), failing(&error), failing(&error));
            let router = Router::new()
                .serve_raw("unary", move |_, _| future::ready(Err(unary())))
                .serve("typed", move |_, _: u8| future::ready(Err::<u8, _>(typed())))
                .serve_stream_raw("streaming", move |_, _, _| future::ready(Err(streaming())));
            let server = serve(router);
            let connection = server.connect().await;
            for method in ["unary", "typed", "streaming"] {
                for codec in [Codec::Cbor, Codec::Json] {
                    for failure in failures(&connection, method, codec).await {
                        assert_eq!(failure.kind(), &ErrorKind::Remote(passed_on(&error)), "{method}");
                        assert_eq!(failure.explanation(), Some("a handler's"));
                        assert!(failure.may_have_run(), "{method}: {failure}");
                    }
                }
            }
        }
    });
}

/// Refusals of the node itself, each with a handler that would notice.
#[test]
fn what_the_node_refuses_has_not_run() {
    run(async {
        let begun = Arc::new(AtomicU32::new(0));
        let count = |begun: &Arc<AtomicU32>| {
            let begun = Arc::clone(begun);
            move || _ = begun.fetch_add(1, Ordering::SeqCst)
        };
        let (one, other) = (count(&begun), count(&begun));
        let log = EventLog::builder().max_subscribers(1).build().unwrap();
        let router = Router::new()
            .serve("typed", move |_, _: String| {
                one();
                future::ready(Ok(0_u8))
            })
            .serve_raw("forbidden", move |_, _| {
                other();
                future::ready(Ok(Bytes::new()))
            })
            .events(log.clone())
            .allow("forbidden", Peers::nobody());
        let server = serve(router);
        let connection = server.connect().await;
        let _subscriber = connection.events_raw().follow().open().await.unwrap();
        while log.subscribers() == 0 {
            future::yield_now().await;
        }
        for (method, error) in [
            ("nobody.has", WireError::UnsupportedMethod),
            ("typed", WireError::InvalidRequest),
            ("forbidden", WireError::PermissionDenied),
            ("node.stream_events", WireError::ResourceExhausted),
        ] {
            for codec in [Codec::Cbor, Codec::Json] {
                for failure in failures(&connection, method, codec).await {
                    assert_eq!(failure.kind(), &ErrorKind::Remote(error.clone()), "{method}");
                    assert!(!failure.may_have_run(), "{method}: {failure:?}");
                }
            }
        }
        let late = connection.request_raw("typed", "").timeout(Duration::ZERO).respond().await.unwrap_err();
        // On this side, unless the node was faster.
        let expected = [ErrorKind::DeadlineExceeded, ErrorKind::Remote(WireError::DeadlineExceeded)];
        assert!(expected.contains(late.kind()), "{late:?}");

        // What no caller of this crate sends.
        let raw = server.raw().await;
        let late = Request::new("forbidden").with_timeout_ms(0);
        for (body, expected) in [
            (map(&[&entry(0, 2), &entry(1, "typed")]), WireError::ProtocolMismatch),
            (map(&[&entry(0, 1)]), WireError::InvalidRequest),
            (encode(&Request::new("\u{7f}"), Codec::Cbor), WireError::UnsupportedMethod),
            (encode(&late, Codec::Cbor), WireError::PermissionDenied),
            (br#"{"protocol_version":1}"#.to_vec(), WireError::InvalidRequest),
        ] {
            let codec = Codec::of(&body);
            match raw.request(&body).await.only_in(codec) {
                Response::Error { error, not_run, .. } => assert_eq!((error, not_run), (expected, true)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_rate_and_a_shutdown_refuse_before_a_handler_starts() {
    run(async {
        let limits = TransportLimits::builder().request_rate(Rate::per_second(1).burst(1)).build().unwrap();
        let server =
            serve_within(limits, Router::new().serve_raw("m", |_, params| future::ready(Ok(params))));
        let connection = server.connect().await;
        assert!(connection.call_raw("m", "x").await.is_ok());
        let error = connection.call_raw("m", "x").await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::ResourceExhausted));
        assert!(!error.may_have_run());
    });
}

/// A caller, and a peer made of quinn and rustls alone.
struct Scripted {
    caller: Connection,
    peer: quinn::Connection,
    _server: RawServer,
}

impl Scripted {
    async fn new() -> Self {
        let server = RawServer::new();
        let (caller, peer) = server.connect().await;
        Self { caller, peer, _server: server }
    }

    /// Why a call fails that is answered with these bytes, and then reset or finished.
    async fn failure(&self, stream: bool, answer: &[u8], reset: Option<Code>) -> Error {
        let call = async {
            if !stream {
                return self.caller.request_raw("m", "").respond().await.unwrap_err();
            }
            let mut responses = self.caller.stream_raw("m", "").await.unwrap();
            loop {
                match responses.next_response().await {
                    Ok(answer) => assert!(answer.is_some(), "it does not fail"),
                    Err(error) => break error,
                }
            }
        };
        let answering = async {
            let mut stream = RawStream::accept(&self.peer).await;
            stream.answer().await.frames();
            stream.send(answer).await;
            match reset {
                None => stream.finish(),
                Some(code) => stream.reset(code),
            }
            future::pending::<()>().await;
        };
        future::or(call, async {
            answering.await;
            unreachable!()
        })
        .await
    }
}

fn error(error: &str, not_run: Option<bool>, codec: Codec) -> Vec<u8> {
    let mut refusal = Response::error(WireError::from(error));
    if let Response::Error { not_run: field, .. } = &mut refusal {
        *field = not_run == Some(true);
    }
    let mut body = Vec::new();
    refusal.encode(codec, &mut body).unwrap();
    if not_run == Some(false) {
        // Senders leave it out.
        body =
            map(&[&entry(0, 1), &entry(1, "error"), &entry(2, false), &entry(5, error), &entry(12, false)]);
    }
    frame(&body)
}

fn result() -> Vec<u8> {
    let mut body = Vec::new();
    Response::result(None).encode(Codec::Cbor, &mut body).unwrap();
    frame(&body)
}

#[test]
fn the_key_decides_and_not_the_error() {
    run(async {
        let link = Scripted::new().await;
        for name in wire_errors() {
            let name = name.as_str();
            for codec in [Codec::Cbor, Codec::Json] {
                for (not_run, may_have_run) in [(None, true), (Some(false), true), (Some(true), false)] {
                    for stream in [false, true] {
                        let failure = link.failure(stream, &error(name, not_run, codec), None).await;
                        let expected = may_have_run && name != "unavailable";
                        assert_eq!(failure.may_have_run(), expected, "{name} {not_run:?} {codec:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn an_answer_outweighs_what_comes_behind_it() {
    run(async {
        let link = Scripted::new().await;
        for name in ["unsupported_method", "unavailable", "resource_exhausted"] {
            for not_run in [None, Some(true)] {
                let answer = [result(), error(name, not_run, Codec::Cbor)].concat();
                for stream in [false, true] {
                    assert!(link.failure(stream, &answer, None).await.may_have_run(), "{name} {not_run:?}");
                }
            }
        }
        // A peer that says one thing and then another.
        let twice = [error("internal", Some(true), Codec::Cbor), result()].concat();
        assert!(link.failure(false, &twice, None).await.may_have_run());
    });
}

#[test]
fn a_stream_that_breaks_off_may_have_run() {
    run(async {
        let link = Scripted::new().await;
        for code in [Code::CANCELLED, Code::SHUTTING_DOWN, Code::FRAME_TOO_LARGE, Code::from_u64(0x3ff)] {
            for stream in [false, true] {
                assert!(link.failure(stream, &[], Some(code)).await.may_have_run(), "{code}");
            }
        }
        for bytes in [&[0, 0][..], &[0, 0, 0, 0], &frame(&[0xff])] {
            assert!(link.failure(false, bytes, None).await.may_have_run(), "{bytes:?}");
        }
        link.peer.close(varint(Code::CAPACITY), b"");
        link.caller.closed().await;
        assert!(!link.caller.call_raw("m", "").await.unwrap_err().may_have_run(), "it did not leave");
    });
}

#[test]
fn what_this_side_does_not_send_has_not_run() {
    run(async {
        let link = Scripted::new().await;
        let large = link.caller.call_raw("m", vec![0; 600_000]).await.unwrap_err();
        assert_eq!((large.kind(), large.may_have_run()), (&ErrorKind::MessageTooLarge, false));
        let long = link.caller.call_raw(&"m".repeat(129), "").await.unwrap_err();
        assert_eq!((long.kind(), long.may_have_run()), (&ErrorKind::Codec, false));
        // The reply is of another type: then it has run.
        let answering = async {
            let mut stream = RawStream::accept(&link.peer).await;
            stream.answer().await;
            stream.send(&result()).await;
            stream.finish();
        };
        let (reply, ()) = future::zip(link.caller.call::<_, u32>("m", &1), answering).await;
        let reply = reply.unwrap_err();
        assert_eq!((reply.kind(), reply.may_have_run()), (&ErrorKind::Codec, true));
    });
}

#[test]
fn a_reply_of_another_type_has_run_for_a_client_that_dials_by_itself_too() {
    run(async {
        let server = serve(Router::new().serve("m", |_, number: u8| future::ready(Ok(number))));
        let endpoint = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
        let client =
            Client::builder(endpoint).address(server.endpoint.local_addr().unwrap()).build().unwrap();
        assert_eq!(client.call::<_, u8>("m", &7).await.unwrap(), 7);
        let reply = client.call::<_, String>("m", &7).await.unwrap_err();
        assert_eq!((reply.kind(), reply.may_have_run()), (&ErrorKind::Codec, true));
    });
}

/// What a handler of the property test does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Answer,
    Fail(usize),
    AnswerAndFail(usize),
    Panic,
}

fn acts() -> impl Strategy<Value = Act> {
    let which = 0..10_usize;
    prop_oneof![
        Just(Act::Answer),
        which.clone().prop_map(Act::Fail),
        which.prop_map(Act::AnswerAndFail),
        Just(Act::Panic)
    ]
}

proptest! {
    #![proptest_config(Config::with_cases(24))]

    /// `may_have_run() == false` implies that it did not run, and a call that ran never says otherwise.
    #[test]
    fn a_call_that_ran_never_says_that_it_did_not(
        calls in prop::collection::vec((acts(), any::<bool>(), 0..4_u8, 0..5_u64), 1..12)
    ) {
        run(async {
            let act = Arc::new(Mutex::new(Act::Answer));
            let ran = Arc::new(Mutex::new(HashSet::new()));
            let (acting, running) = (Arc::clone(&act), Arc::clone(&ran));
            let limits = TransportLimits::builder().request_rate(Rate::per_second(1).burst(8)).build().unwrap();
            let router = Router::new().serve_stream_raw("m", move |_, params, mut sink: ResponseSink| {
                running.lock().unwrap().insert(params[0]);
                let act = *acting.lock().unwrap();
                async move {
                    let fail = |which: usize| Err(MethodError::new(wire_errors()[which].clone()));
                    match act {
                        Act::Answer => sink.send_raw("x").await.map_err(|_| MethodError::internal("")),
                        Act::Fail(which) => fail(which),
                        Act::AnswerAndFail(which) => {
                            let _ = sink.send_raw("x").await;
                            fail(which)
                        }
                        Act::Panic => panic!("as the test wants it"),
                    }
                }
            });
            let server = serve_within(limits, router);
            let connection = server.connect().await;
            let mut said_not_to_have_run = HashSet::new();
            for (call, (next, json, method, timeout)) in (0..).zip(calls) {
                *act.lock().unwrap() = next;
                let method = if method == 0 { "nobody.has" } else { "m" };
                let codec = if json { Codec::Json } else { Codec::Cbor };
                let mut request = connection.request_raw(method, vec![call]).codec(codec);
                if timeout < 3 {
                    request = request.timeout(Duration::from_millis(timeout));
                }
                if request.send_raw().await.is_err_and(|error| !error.may_have_run()) {
                    said_not_to_have_run.insert(call);
                }
            }
            // Handlers of calls that were given up may begin until now.
            server.endpoint.shutdown(Duration::from_secs(5)).await;
            let wrong: Vec<_> = said_not_to_have_run.intersection(&ran.lock().unwrap()).copied().collect();
            assert!(wrong.is_empty(), "{wrong:?} ran");
        });
    }
}
