//! What a caller makes of the answers of a peer that says anything: quinn and rustls alone, without this
//! crate.

use std::{error::Error as _, time::Duration};

use futures_lite::future;
use palyra_quic::{
    Bytes, Code, CodeClass, Codec, Connection, Error, ErrorKind, EventItem, MessageError, Response,
    WireError, quinn,
};

use crate::common::{RawServer, RawStream, entry, frame, map, run, varint};

const MAX: u32 = 524_288;

/// How the peer's stream ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Fin,
    Reset(Code),
    /// It does not.
    Open,
}

/// A caller, and the peer that answers it.
struct Link {
    client: Connection,
    peer: quinn::Connection,
    _server: RawServer,
}

/// What came of a call: its answers until the end or an error, and the code with which it stopped the peer.
struct Outcome {
    answers: Vec<Response>,
    error: Option<Error>,
    stopped: Option<Code>,
}

impl Outcome {
    fn kind(&self) -> &ErrorKind {
        self.error.as_ref().unwrap_or_else(|| panic!("{:?} is no failure", self.answers)).kind()
    }
}

/// The two ways to wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    Call,
    Stream,
}

const BOTH: [Via; 2] = [Via::Call, Via::Stream];

impl Link {
    async fn new() -> Self {
        let server = RawServer::new();
        let (client, peer) = server.connect().await;
        Self { client, peer, _server: server }
    }

    /// Calls, and is answered with these bytes.
    async fn answered(&self, via: Via, bytes: &[u8], end: End) -> Outcome {
        let call = async {
            let call = self.client.request_raw("m", "");
            match via {
                Via::Call => match call.respond().await {
                    Ok(answer) => (vec![answer], None),
                    Err(error) => (Vec::new(), Some(error)),
                },
                Via::Stream => {
                    let mut answers = Vec::new();
                    let mut responses = call.stream().await.unwrap();
                    loop {
                        match responses.next_response().await {
                            Ok(Some(answer)) => answers.push(answer),
                            Ok(None) => break (answers, None),
                            Err(error) => break (answers, Some(error)),
                        }
                    }
                }
            }
        };
        let ((answers, error), stopped) = future::zip(call, self.answer(bytes, end)).await;
        Outcome { answers, error, stopped }
    }

    /// Answers the next request with these bytes, and gives the code with which the caller stops the stream.
    async fn answer(&self, bytes: &[u8], end: End) -> Option<Code> {
        let mut stream = RawStream::accept(&self.peer).await;
        stream.answer().await.frames();
        stream.send(bytes).await;
        match end {
            End::Fin => stream.finish(),
            End::Reset(code) => {
                stream.reset(code);
                return None;
            }
            End::Open => {}
        }
        stream.stopped().await
    }

    /// A call that is answered as it should be, on this connection.
    async fn assert_goes_on(&self) {
        for via in BOTH {
            let outcome = self.answered(via, &frame(&result()), End::Fin).await;
            assert_eq!(outcome.answers, [Response::result(Some(Bytes::from_static(b"x")))]);
            assert!(outcome.error.is_none());
        }
    }
}

const VERSION: &[u8] = &[0x00, 0x01];
const OK: &[u8] = &[0x02, 0xf5];
const FAILED: &[u8] = &[0x02, 0xf4];

fn result() -> Vec<u8> {
    map(&[VERSION, &entry(1, "result"), OK, &[0x06, 0x41, b'x']])
}

fn failure(error: &str) -> Vec<u8> {
    map(&[VERSION, &entry(1, "error"), FAILED, &entry(5, error)])
}

/// These bytes fail a call of either way as this kind, it stops the peer with this code, and the connection
/// goes on.
fn fails(bytes: &[u8], kind: &ErrorKind, code: Code) {
    run(async {
        let link = Link::new().await;
        for via in BOTH {
            let outcome = link.answered(via, bytes, End::Open).await;
            assert_eq!(outcome.kind(), kind, "{via:?} {bytes:02x?}");
            assert_eq!(outcome.stopped, Some(code), "{via:?} {bytes:02x?}");
            let outcome = link.answered(via, bytes, End::Fin).await;
            assert_eq!(outcome.kind(), kind, "{via:?} {bytes:02x?}");
        }
        link.assert_goes_on().await;
    });
}

fn violates(body: &[u8]) {
    fails(&frame(body), &ErrorKind::Protocol, Code::PROTOCOL_VIOLATION);
}

#[test]
fn an_answer_that_ends_within_a_frame_is_truncated() {
    run(async {
        let link = Link::new().await;
        let whole = frame(&result());
        for end in [1, 4, 5, whole.len() - 1] {
            for via in BOTH {
                let outcome = link.answered(via, &whole[..end], End::Fin).await;
                assert_eq!(outcome.kind(), &ErrorKind::Truncated, "{end} bytes");
                assert!(outcome.answers.is_empty());
            }
        }
        let several = [&whole[..], &whole[..7]].concat();
        let outcome = link.answered(Via::Stream, &several, End::Fin).await;
        assert_eq!(outcome.kind(), &ErrorKind::Truncated);
        assert_eq!(outcome.answers.len(), 1, "what was whole before is given");
        link.assert_goes_on().await;
    });
}

#[test]
fn an_answer_that_is_reset_fails_with_its_code() {
    run(async {
        let link = Link::new().await;
        for (code, retryable) in [
            (Code::NO_ERROR, false),
            (Code::CANCELLED, false),
            (Code::SHUTTING_DOWN, true),
            (Code::INTERNAL, true),
            (Code::from_u64(0x1ab), true),
            (Code::PROTOCOL_VIOLATION, false),
            (Code::from_u64(0x2ab), false),
            (Code::from_u64(0x3ab), false),
            (Code::from_u64((1 << 62) - 1), false),
        ] {
            for bytes in [&[][..], &frame(&result())[..7]] {
                for via in BOTH {
                    let outcome = link.answered(via, bytes, End::Reset(code)).await;
                    assert_eq!(outcome.kind(), &ErrorKind::StreamReset(code));
                    let error = outcome.error.unwrap();
                    assert_eq!(error.is_retryable(), retryable, "{code}");
                    assert!(error.may_have_run());
                }
            }
        }
        link.assert_goes_on().await;
    });
}

#[test]
fn a_whole_frame_without_fin_is_not_an_answer_yet() {
    run(async {
        let link = Link::new().await;
        let answer = frame(&result());
        let outcome = link.answered(Via::Call, &answer, End::Reset(Code::INTERNAL)).await;
        assert_eq!(outcome.kind(), &ErrorKind::StreamReset(Code::INTERNAL));
        link.assert_goes_on().await;
    });
}

#[test]
fn a_call_needs_an_answer_and_a_stream_does_not() {
    run(async {
        let link = Link::new().await;
        let outcome = link.answered(Via::Call, b"", End::Fin).await;
        assert_eq!(outcome.kind(), &ErrorKind::Protocol);
        let outcome = link.answered(Via::Stream, b"", End::Fin).await;
        assert!(outcome.error.is_none() && outcome.answers.is_empty());
        link.assert_goes_on().await;
    });
}

#[test]
fn a_call_has_one_answer_and_a_stream_many() {
    run(async {
        let link = Link::new().await;
        let two = frame(&result()).repeat(2);
        let outcome = link.answered(Via::Call, &two, End::Open).await;
        assert_eq!((outcome.kind(), outcome.stopped), (&ErrorKind::Protocol, Some(Code::PROTOCOL_VIOLATION)));
        let outcome = link.answered(Via::Stream, &two, End::Fin).await;
        assert!(outcome.error.is_none());
        assert_eq!(outcome.answers.len(), 2);
        link.assert_goes_on().await;
    });
}

#[test]
fn nothing_follows_an_error() {
    let followed = [frame(&failure("internal")), frame(&result())].concat();
    fails(&followed, &ErrorKind::Protocol, Code::PROTOCOL_VIOLATION);
}

#[test]
fn an_error_is_the_peers_own() {
    run(async {
        let link = Link::new().await;
        let retry = map(&[
            VERSION,
            &entry(1, "error"),
            FAILED,
            &entry(5, "resource_exhausted"),
            &entry(10, 1500),
            &entry(11, "full"),
        ]);
        for via in BOTH {
            let error = link.answered(via, &frame(&retry), End::Fin).await.error.unwrap();
            assert_eq!(error.kind(), &ErrorKind::Remote(WireError::ResourceExhausted));
            assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)));
            assert_eq!(error.explanation(), Some("full"));
            assert!(error.is_retryable());
            // A later version's.
            let outcome = link.answered(via, &frame(&failure("novelty")), End::Fin).await;
            assert_eq!(outcome.kind(), &ErrorKind::Remote(WireError::Other("novelty".into())));
            assert!(!outcome.error.unwrap().is_retryable());
        }
        let several = [frame(&result()), frame(&failure("internal"))].concat();
        let outcome = link.answered(Via::Stream, &several, End::Fin).await;
        assert_eq!(outcome.kind(), &ErrorKind::Remote(WireError::Internal));
        assert_eq!(outcome.answers.len(), 1);
    });
}

#[test]
fn an_empty_frame_is_a_violation() {
    fails(&frame(b""), &ErrorKind::Protocol, Code::PROTOCOL_VIOLATION);
}

#[test]
fn a_frame_over_the_limit_is_refused_by_its_header() {
    run(async {
        let link = Link::new().await;
        for via in BOTH {
            for announced in [MAX + 1, u32::MAX] {
                let outcome = link.answered(via, &announced.to_be_bytes(), End::Open).await;
                assert_eq!(outcome.kind(), &ErrorKind::FrameTooLarge);
                assert_eq!(outcome.stopped, Some(Code::FRAME_TOO_LARGE));
            }
        }
        link.assert_goes_on().await;
    });
}

#[test]
fn a_body_that_is_no_response_is_a_violation() {
    let whole = result();
    for body in [
        b"garbage".to_vec(),
        b"{garbage}".to_vec(),
        whole[..whole.len() - 1].to_vec(),
        [&whole[..], b"\0"].concat(),
        [&[0xbf], &whole[1..], &[0xff]].concat(),
        map(&[VERSION, VERSION, &entry(1, "result"), OK]),
        // An ignored value of seventeen levels.
        map(&[VERSION, &entry(1, "result"), OK, &[&[0x10][..], &[0x81; 15], &[0x80]].concat()]),
        crate::common::request("m"),
    ] {
        violates(&body);
    }
}

#[test]
fn a_response_without_what_it_needs_is_a_violation() {
    for body in [
        map(&[&entry(1, "result"), OK]),
        map(&[VERSION, OK]),
        map(&[VERSION, &entry(1, "result")]),
        map(&[VERSION, &entry(1, "error"), FAILED]),
        map(&[VERSION, &entry(1, "result"), &entry(2, 1)]),
        map(&[VERSION, &entry(1, "result"), OK, &entry(6, "text")]),
        map(&[VERSION, &entry(1, "error"), FAILED, &entry(5, "internal"), &entry(11, "x".repeat(257))]),
    ] {
        violates(&body);
    }
}

#[test]
fn a_response_that_has_all_it_needs_is_taken() {
    run(async {
        let link = Link::new().await;
        let bare = map(&[VERSION, &entry(1, "result"), OK]);
        let outcome = link.answered(Via::Call, &frame(&bare), End::Fin).await;
        assert_eq!(outcome.answers, [Response::result(None)]);
        let detail = "x".repeat(256);
        let detailed =
            map(&[VERSION, &entry(1, "error"), FAILED, &entry(5, "internal"), &entry(11, &*detail)]);
        let outcome = link.answered(Via::Call, &frame(&detailed), End::Fin).await;
        assert_eq!(outcome.error.unwrap().explanation(), Some(&*detail));
    });
}

/// docs/protocol.md, section 6.2: "Where `ok` is false the exchange has failed, whatever `kind` says".
#[test]
fn a_result_that_is_not_ok_is_a_failure() {
    run(async {
        let link = Link::new().await;
        let not_ok = map(&[VERSION, &entry(1, "result"), FAILED]);
        for via in BOTH {
            let outcome = link.answered(via, &frame(&not_ok), End::Fin).await;
            assert!(outcome.error.is_some(), "{via:?}: {:?}", outcome.answers);
        }
    });
}

#[test]
fn another_kind_is_a_violation() {
    violates(&map(&[VERSION, &entry(1, "novelty"), OK]));
}

/// docs/protocol.md, section 6.2: as if the peer had answered `protocol_mismatch`.
#[test]
fn an_answer_of_another_version_is_a_mismatch() {
    run(async {
        let link = Link::new().await;
        for version in [0, 2, u16::MAX] {
            let cbor = map(&[&entry(0, version), &entry(1, "result"), OK]);
            let json = format!(r#"{{"protocol_version":{version},"kind":"result","ok":true}}"#);
            for (via, body) in BOTH.into_iter().flat_map(|via| [(via, &*cbor), (via, json.as_bytes())]) {
                let outcome = link.answered(via, &frame(body), End::Open).await;
                assert_eq!(
                    outcome.kind(),
                    &ErrorKind::Remote(WireError::ProtocolMismatch),
                    "{via:?} {version}"
                );
                assert_eq!(outcome.stopped, Some(Code::CANCELLED));
                let error = outcome.error.unwrap();
                assert!(!error.is_retryable());
                let cause = error.source().and_then(|source| source.downcast_ref());
                assert_eq!(cause, Some(&MessageError::Version(version)));
            }
        }
        link.assert_goes_on().await;
    });
}

/// docs/protocol.md, section 6.2: what each kind always has.
#[test]
fn a_field_that_is_missing_is_named() {
    run(async {
        let link = Link::new().await;
        let kind = |kind: &str| entry(1, kind);
        for (body, field) in [
            (map(&[&kind("result"), OK]), "protocol_version"),
            (map(&[VERSION, OK]), "kind"),
            (map(&[VERSION, &kind("result")]), "ok"),
            (map(&[VERSION, &kind("event"), OK]), "seq"),
            (map(&[VERSION, &kind("gap"), OK, &entry(7, 1)]), "first_seq"),
            (map(&[VERSION, &kind("gap"), OK, &entry(8, 1)]), "epoch"),
            (map(&[VERSION, &kind("heartbeat"), OK, &entry(7, 1)]), "seq"),
            (map(&[VERSION, &kind("heartbeat"), OK, &entry(3, 1)]), "epoch"),
            (map(&[VERSION, &kind("error"), FAILED]), "error"),
            (br#"{"protocol_version":1,"kind":"result"}"#.to_vec(), "ok"),
            (br#"{"protocol_version":1,"kind":"event","ok":true}"#.to_vec(), "seq"),
            (br#"{"protocol_version":1,"kind":"error","ok":false}"#.to_vec(), "error"),
        ] {
            for via in BOTH {
                let outcome = link.answered(via, &frame(&body), End::Fin).await;
                assert_eq!(outcome.kind(), &ErrorKind::Protocol);
                let error = outcome.error.unwrap();
                let cause = error.source().and_then(|source| source.downcast_ref());
                assert_eq!(cause, Some(&MessageError::MissingField(field)), "{via:?}");
            }
        }
    });
}

#[test]
fn unknown_keys_are_ignored() {
    run(async {
        let link = Link::new().await;
        let with = |payload: &[u8], unknown: &[u8]| {
            map(&[VERSION, &entry(1, "result"), OK, &[&[0x06], payload].concat(), unknown])
        };
        for key in [12, 15, 16, 1000, -1, -1000] {
            let unknown = entry(key, [1, 2]);
            let (right, wrong) = (with(&[0x41, b'x'], &unknown), with(&[0xf6], &unknown));
            let outcome = link.answered(Via::Call, &frame(&right), End::Fin).await;
            assert_eq!(outcome.answers, [Response::result(Some(Bytes::from_static(b"x")))]);
            let outcome = link.answered(Via::Call, &frame(&wrong), End::Fin).await;
            assert_eq!(outcome.kind(), &ErrorKind::Protocol, "known keys are not");
        }
    });
}

#[test]
fn an_answer_may_be_in_the_other_codec() {
    run(async {
        let link = Link::new().await;
        let json =
            frame(br#"{"protocol_version":1,"kind":"result","ok":true,"payload":"eA==","novelty":[1]}"#);
        let mixed = [frame(&result()), json.clone()].concat();
        let payload = Response::result(Some(Bytes::from_static(b"x")));
        for (via, bytes, count) in [(Via::Call, &json, 1), (Via::Stream, &mixed, 2)] {
            let outcome = link.answered(via, bytes, End::Fin).await;
            assert!(outcome.error.is_none());
            assert_eq!(outcome.answers, vec![payload.clone(); count]);
        }
        let asked_in_json = link.client.request_raw("m", "").codec(Codec::Json).send_raw();
        let cbor = frame(&result());
        let (answer, _) = future::zip(asked_in_json, link.answer(&cbor, End::Fin)).await;
        assert_eq!(answer.unwrap(), "x");
    });
}

#[test]
fn an_answer_of_another_kind_is_a_violation() {
    run(async {
        let link = Link::new().await;
        let health = frame(&map(&[VERSION, &entry(1, "health"), OK]));
        let event = frame(&map(&[VERSION, &entry(1, "event"), OK, &entry(3, 1)]));
        for bytes in [health, event] {
            for end in [End::Fin, End::Open] {
                let answering = link.answer(&bytes, end);
                let (answer, stopped) = future::zip(link.client.call_raw("m", ""), answering).await;
                assert_eq!(answer.unwrap_err().kind(), &ErrorKind::Protocol);
                assert!(stopped.is_none_or(|code| code == Code::PROTOCOL_VIOLATION));
                assert!(stopped.is_some() || matches!(end, End::Fin), "it does not wait for the end");
            }
            let streamed = async {
                let mut responses = link.client.stream_raw("m", "").await.unwrap();
                let error = responses.next_raw().await.unwrap_err();
                assert!(responses.next_raw().await.unwrap().is_none(), "an error is the end");
                error
            };
            let (error, stopped) = future::zip(streamed, link.answer(&bytes, End::Open)).await;
            assert_eq!(error.kind(), &ErrorKind::Protocol);
            assert_eq!(stopped, Some(Code::PROTOCOL_VIOLATION));
        }
        let result = frame(&result());
        let (answer, stopped) = future::zip(link.client.health(), link.answer(&result, End::Open)).await;
        assert_eq!(answer.unwrap_err().kind(), &ErrorKind::Protocol);
        assert_eq!(stopped, Some(Code::PROTOCOL_VIOLATION));
        link.assert_goes_on().await;
    });
}

#[test]
fn a_result_of_another_type_is_a_codec_error() {
    run(async {
        let link = Link::new().await;
        let typed = |payload: &[u8]| {
            frame(&map(&[VERSION, &entry(1, "result"), OK, &entry(6, minicbor_bytes(payload))]))
        };
        for (payload, sum) in [(&[0x18, 0x2a][..], Some(42)), (&[0x61, b'x'], None), (&[0x01, 0x01], None)] {
            let (bytes, call) = (typed(payload), link.client.call::<_, u32>("m", &1));
            let (answer, _) = future::zip(call, link.answer(&bytes, End::Fin)).await;
            match sum {
                Some(sum) => assert_eq!(answer.unwrap(), sum),
                None => assert_eq!(answer.unwrap_err().kind(), &ErrorKind::Codec),
            }
        }
    });
}

fn minicbor_bytes(bytes: &[u8]) -> &palyra_quic::minicbor::bytes::ByteSlice {
    bytes.into()
}

fn event(seq: u64) -> Vec<u8> {
    frame(&map(&[VERSION, &entry(1, "event"), OK, &entry(3, seq), &entry(7, 5)]))
}

fn gap(first_seq: u64) -> Vec<u8> {
    frame(&map(&[VERSION, &entry(1, "gap"), OK, &entry(7, 5), &entry(8, first_seq)]))
}

/// The sequence numbers that a subscriber behind event 3 gets of these frames, and what ended it.
async fn subscribed(link: &Link, bytes: &[u8], end: End) -> (Vec<u64>, Option<Error>, Option<Code>) {
    let subscriber = async {
        let mut events = link.client.events_raw().resume_from(3).follow().open().await.unwrap();
        let mut got = Vec::new();
        loop {
            match events.next_raw().await {
                Ok(Some(EventItem::Event { seq, .. })) => got.push(seq),
                Ok(Some(EventItem::Gap(_))) => {}
                Ok(None) => break (got, None),
                Err(error) => break (got, Some(error)),
            }
        }
    };
    let ((got, error), stopped) = future::zip(subscriber, link.answer(bytes, end)).await;
    (got, error, stopped)
}

#[test]
fn events_out_of_sequence_stop_the_stream() {
    run(async {
        let link = Link::new().await;
        for (bytes, good) in [
            (event(5), vec![]),
            (event(3), vec![]),
            (event(1), vec![]),
            (event(0), vec![]),
            (event(u64::MAX), vec![]),
            ([event(4), event(6)].concat(), vec![4]),
            ([event(4), event(4)].concat(), vec![4]),
            ([event(4), gap(10), event(11)].concat(), vec![4]),
            ([gap(10), event(4)].concat(), vec![]),
        ] {
            let (got, error, stopped) = subscribed(&link, &bytes, End::Open).await;
            assert_eq!(error.unwrap().kind(), &ErrorKind::Protocol, "{bytes:02x?}");
            assert_eq!((got, stopped), (good, Some(Code::PROTOCOL_VIOLATION)));
        }
        let good = [event(4), event(5), gap(10), event(10), gap(12), event(12)].concat();
        let (got, error, _) = subscribed(&link, &good, End::Fin).await;
        assert_eq!(error.unwrap().kind(), &ErrorKind::Truncated, "a followed stream has no end of its own");
        assert_eq!(got, [4, 5, 10, 12]);
    });
}

#[test]
fn what_is_no_event_stops_the_stream() {
    run(async {
        let link = Link::new().await;
        let health = frame(&map(&[VERSION, &entry(1, "health"), OK]));
        let without_seq = frame(&map(&[VERSION, &entry(1, "event"), OK]));
        for bytes in [frame(&result()), health, without_seq] {
            let (got, error, stopped) = subscribed(&link, &[event(4), bytes].concat(), End::Open).await;
            assert_eq!(error.unwrap().kind(), &ErrorKind::Protocol);
            assert_eq!((got, stopped), (vec![4], Some(Code::PROTOCOL_VIOLATION)));
        }
        link.assert_goes_on().await;
    });
}

/// docs/protocol.md, section 6.2: what `gap` and `heartbeat` always have; section 11: a response without it
/// is a violation.
#[test]
fn a_gap_or_heartbeat_that_does_not_say_where_the_log_is_stops_the_stream() {
    run(async {
        let link = Link::new().await;
        let (seq, epoch, first_seq) = (entry(3, 4), entry(7, 5), entry(8, 10));
        let bare =
            |kind: &str, entries: &[&[u8]]| frame(&map(&[&[VERSION, &entry(1, kind), OK], entries].concat()));
        for bytes in [
            bare("gap", &[&epoch]),
            bare("gap", &[&first_seq]),
            bare("gap", &[]),
            bare("heartbeat", &[&epoch]),
            bare("heartbeat", &[&seq]),
        ] {
            let (got, error, _) = subscribed(&link, &[event(4), bytes.clone()].concat(), End::Fin).await;
            let error = error.unwrap_or_else(|| panic!("{bytes:02x?} is a violation"));
            assert_eq!((got, error.kind()), (vec![4], &ErrorKind::Protocol));
        }
        let good =
            [event(4), bare("heartbeat", &[&seq, &epoch]), bare("gap", &[&epoch, &first_seq]), event(10)];
        let (got, error, _) = subscribed(&link, &good.concat(), End::Fin).await;
        assert_eq!(error.unwrap().kind(), &ErrorKind::Truncated);
        assert_eq!(got, [4, 10]);
    });
}

#[test]
fn an_answer_counts_that_came_before_the_request_was_read() {
    run(async {
        let link = Link::new().await;
        // More than fits in the peer's window.
        let large = Bytes::from(vec![0; 500_000]);
        let refused = async {
            let mut stream = RawStream::accept(&link.peer).await;
            stream.stop(Code::CANCELLED);
            stream.send(&frame(&failure("resource_exhausted"))).await;
            stream.finish();
            stream.stopped().await
        };
        let (answer, _) = future::zip(link.client.call_raw("m", large.clone()), refused).await;
        assert_eq!(answer.unwrap_err().kind(), &ErrorKind::Remote(WireError::ResourceExhausted));
        let stopped_and_reset = async {
            let mut stream = RawStream::accept(&link.peer).await;
            stream.stop(Code::EXCESSIVE_LOAD);
            stream.reset(Code::EXCESSIVE_LOAD);
        };
        let (answer, ()) = future::zip(link.client.call_raw("m", large), stopped_and_reset).await;
        assert_eq!(answer.unwrap_err().kind(), &ErrorKind::StreamReset(Code::EXCESSIVE_LOAD));
        link.assert_goes_on().await;
    });
}

#[test]
fn a_connection_that_is_closed_says_whether_and_when_to_try_again() {
    for (code, reason, class, retry_after) in [
        (Code::SHUTTING_DOWN, "retry-after-ms=1500", CodeClass::Retry, Some(1500)),
        (Code::from_u64(0x1ab), "retry-after-ms=0", CodeClass::Retry, Some(0)),
        (Code::CAPACITY, "full", CodeClass::Retry, None),
        (Code::CAPACITY, "retry-after-ms=-1", CodeClass::Retry, None),
        (Code::EXCESSIVE_LOAD, "retry-after-ms=1500", CodeClass::Terminal, None),
        (Code::NO_ERROR, "retry-after-ms=1500", CodeClass::Done, None),
        (Code::from_u64(0x3ab), "", CodeClass::Unknown, None),
    ] {
        run(async {
            let link = Link::new().await;
            let closing = async {
                let stream = RawStream::accept(&link.peer).await;
                link.peer.close(varint(code), reason.as_bytes());
                drop(stream);
            };
            let (answer, ()) = future::zip(link.client.call_raw("m", ""), closing).await;
            for error in [answer.unwrap_err(), link.client.closed().await] {
                assert_eq!(error.kind(), &ErrorKind::ConnectionClosed(code));
                assert_eq!(code.class(), class);
                assert_eq!(error.is_retryable(), class == CodeClass::Retry);
                assert_eq!(error.retry_after(), retry_after.map(Duration::from_millis), "{reason}");
            }
            assert!(link.client.close_reason().is_some());
        });
    }
}
