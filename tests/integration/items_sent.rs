//! Requests with items, as a caller sends them: to nodes of this crate, and to a server that can say
//! anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_lite::{
    StreamExt,
    future::{pending, poll_once, zip},
    stream,
};
use palyra_quic::{
    BidiMethod, Bytes, Code, Codec, Connection, Context, CountedResponse, Endpoint, Error, ErrorKind, Item,
    Items, ItemsMethod, MethodError, MethodKind, NextCall, OutgoingCall, Request, Response, ResponseSink,
    Router, TransportLimits, WireError, quinn,
};
use smol::channel;

use crate::common::{
    Answer, DropGuard, RawServer, RawStream, frame, loopback, run, serve, serve_within, signal, split,
};

const SUM: ItemsMethod<u64, u32, u64> = ItemsMethod::new("demo.sum");
const DOUBLE: BidiMethod<(), u32, u64> = BidiMethod::new("demo.double");
/// Answers as soon as it has this many items.
const FIRST: ItemsMethod<u32, String, Vec<String>> = ItemsMethod::new("demo.first");
/// Fails with its first item.
const FAIL: ItemsMethod<(), u32, ()> = ItemsMethod::new("demo.fail");

fn router() -> Router {
    Router::new()
        .serve_items(SUM, |_: Context, start, items: Items<u32>| async move {
            let mut items = items;
            items.try_fold(start, |sum, item| Ok::<_, MethodError>(sum + u64::from(item))).await
        })
        .serve_bidi(DOUBLE, |_, (), mut items: Items<u32>, mut answers: ResponseSink<u64>| async move {
            while let Some(item) = items.next().await? {
                answers.send(&(2 * u64::from(item))).await?;
            }
            Ok(())
        })
        .serve_items(FIRST, |_, count: u32, mut items: Items<String>| async move {
            let mut first = Vec::new();
            for _ in 0..count {
                first.extend(items.next().await?);
            }
            Ok(first)
        })
        .serve_items(FAIL, |_, (), mut items: Items<u32>| async move {
            items.next().await?;
            Err::<(), _>(MethodError::resource_exhausted("no more room").retry_after(Duration::from_secs(7)))
        })
        .serve_items_raw("demo.deaf", |_, _, items: Items| async move {
            // Dropped, they would tell the caller that no more are needed.
            let _kept = items;
            pending().await
        })
}

fn payload(response: CountedResponse) -> Vec<u8> {
    let mut body = Vec::new();
    response.encode(Codec::Cbor, &mut body).unwrap();
    frame(&body)
}

fn result(bytes: &'static str, items: u64) -> Vec<u8> {
    payload(CountedResponse::new(Response::result(Some(bytes.into())), items))
}

fn failure(error: WireError, items: u64) -> Vec<u8> {
    payload(CountedResponse::new(Response::error(error), items))
}

fn health() -> Vec<u8> {
    let mut body = Vec::new();
    Response::health().encode(Codec::Cbor, &mut body).unwrap();
    frame(&body)
}

/// The next request that a raw server gets, and its stream.
async fn request(connection: &quinn::Connection) -> (Request, RawStream) {
    let mut stream = RawStream::accept(connection).await;
    let body = stream.next().await;
    (Request::decode(&body.into()).unwrap(), stream)
}

/// Answers the question whether it takes items.
async fn answer_probe(connection: &quinn::Connection, answer: &[u8]) {
    let (request, mut stream) = request(connection).await;
    assert_eq!((&*request.method, request.more()), ("node.health", Some(false)));
    assert_eq!(read_answer(&mut stream).await, Answer::Whole(Vec::new()), "complete with FIN");
    stream.send(answer).await;
    stream.finish();
}

async fn read_answer(stream: &mut RawStream) -> Answer {
    stream.answer().await
}

fn remote(error: &Error) -> &WireError {
    match error.kind() {
        ErrorKind::Remote(error) => error,
        other => panic!("{other:?} instead of an answer"),
    }
}

#[test]
fn items_go_to_a_handler_and_its_answers_come_back() {
    run(async {
        let server = serve(router());
        let connection = server.connect().await;
        for count in [0, 1, 1000] {
            let mut upload = connection.send_items(SUM, &5).await.unwrap();
            for _ in 0..count {
                upload.send(&2).await.unwrap();
            }
            assert_eq!(upload.finish().await.unwrap(), 5 + 2 * count);
            let twos = stream::repeat(2).take(count.try_into().unwrap());
            assert_eq!(connection.send_all(SUM, &5, twos).await.unwrap(), 5 + 2 * count);
        }
        let mut upload = connection.send_items_raw("demo.sum", vec![5]).await.unwrap();
        upload.send_raw(vec![2]).await.unwrap();
        upload.send_all_raw(stream::iter([vec![3], vec![4]])).await.unwrap();
        assert_eq!(upload.finish_raw().await.unwrap(), &[14][..]);

        let (mut items, mut answers) = connection.bidi(DOUBLE, &()).await.unwrap();
        for n in 0..50 {
            items.send(&n).await.unwrap();
            assert_eq!(answers.next().await.unwrap(), Some(2 * u64::from(n)));
        }
        items.finish().await.unwrap();
        assert_eq!(answers.next().await.unwrap(), None);
        let (mut items, answers) = connection.bidi_raw("demo.double", Bytes::new()).await.unwrap();
        items.send_raw(vec![4]).await.unwrap();
        items.finish().await.unwrap();
        assert_eq!(answers.try_collect::<_, _, Vec<_>>().await.unwrap(), [&[8][..]]);
    });
}

#[test]
fn a_handler_sends_items_to_its_caller() {
    run(async {
        let asking = Router::new().serve("demo.ask", |context: Context, ()| async move {
            Ok(context.connection().send_all(SUM, &1, stream::iter([2, 3])).await?)
        });
        let server = serve(asking);
        let builder = Endpoint::builder().client(server.pki.client_tls()).router(router());
        let client = builder.bind(loopback()).unwrap();
        let connection = client.connect(server.address()).await.unwrap();
        assert_eq!(connection.call::<(), u64>("demo.ask", &()).await.unwrap(), 6);
    });
}

#[test]
fn a_peer_is_asked_once_whether_it_takes_items() {
    run(async {
        let server = RawServer::new();
        let (client, peer) = server.connect().await;
        let calls = async {
            let uploads = [(); 3].map(|()| client.send_items_raw("demo.sum", ""));
            let [first, second, third] = uploads;
            let opened = zip(first, zip(second, third)).await;
            (opened.0.unwrap(), opened.1.0.unwrap(), opened.1.1.unwrap())
        };
        let peers = async {
            answer_probe(&peer, &health()).await;
            for _ in 0..3 {
                let (request, mut stream) = request(&peer).await;
                assert_eq!((&*request.method, request.more()), ("demo.sum", Some(true)));
                stream.send(&result("sum", 0)).await;
                stream.finish();
            }
        };
        let ((first, second, third), ()) = zip(calls, peers).await;
        for upload in [first, second, third] {
            assert_eq!(upload.finish_raw().await.unwrap(), "sum");
        }
    });
}

#[test]
fn a_caller_that_leaves_while_it_asks_keeps_nobody_from_asking() {
    run(async {
        let server = RawServer::new();
        let (client, peer) = server.connect().await;
        let mut leaving = Box::pin(client.send_items_raw("demo.sum", ""));
        let mut staying = Box::pin(client.send_items_raw("demo.sum", ""));
        assert!(poll_once(&mut leaving).await.is_none());
        assert!(poll_once(&mut staying).await.is_none(), "it waits for the answer to the other");
        let (_, mut stream) = request(&peer).await;
        drop(leaving);
        assert_eq!(stream.stopped().await, Some(Code::CANCELLED));
        let peers = async {
            answer_probe(&peer, &health()).await;
            request(&peer).await
        };
        let (upload, _stream) = zip(staying, peers).await;
        drop(upload.unwrap());
    });
}

#[test]
fn a_peer_of_an_earlier_release_is_known_before_any_item_is_sent() {
    let json = frame(br#"{"protocol_version":1,"kind":"error","ok":false,"error":"invalid_request"}"#);
    let mut cbor = Vec::new();
    Response::error(WireError::InvalidRequest).encode(Codec::Cbor, &mut cbor).unwrap();
    run(async {
        for answer in [frame(&cbor), json] {
            let server = RawServer::new();
            let (client, peer) = server.connect().await;
            let (refused, ()) = zip(client.send_items(SUM, &1), answer_probe(&peer, &answer)).await;
            let later = client.bidi(DOUBLE, &()).await.map(drop);
            for error in [refused.map(drop).unwrap_err(), later.unwrap_err()] {
                assert_eq!(error.kind(), &ErrorKind::Unsupported);
                assert_eq!(error.explanation(), Some("the peer does not take streams"));
                assert!(!error.may_have_run() && !error.is_retryable());
                assert!(error.method().is_some() && error.peer_address().is_some());
            }
            assert!(client.close_reason().is_none() && peer.close_reason().is_none());
            assert!(poll_once(peer.accept_bi()).await.is_none(), "nothing else was sent");
        }
    });
}

#[test]
fn an_answer_that_does_not_tell_is_an_error_and_the_next_call_asks_again() {
    run(async {
        let server = RawServer::new();
        let (client, peer) = server.connect().await;
        for error in [WireError::ResourceExhausted, WireError::Unavailable, WireError::Internal] {
            let answer = failure(error.clone(), 0);
            let (upload, ()) = zip(client.send_items(SUM, &1), answer_probe(&peer, &answer)).await;
            let refused = upload.map(drop).unwrap_err();
            assert_eq!(remote(&refused), &error);
            assert!(!refused.may_have_run(), "nothing but a question was sent");
        }
        // This one has read the request, and so knows the field.
        let denied = failure(WireError::PermissionDenied, 0);
        let peers = async {
            answer_probe(&peer, &denied).await;
            request(&peer).await
        };
        let (upload, _stream) = zip(client.send_items(SUM, &1), peers).await;
        drop(upload.unwrap());
    });
}

#[test]
fn an_early_failure_is_seen_by_the_sender() {
    run(async {
        let server = serve(router());
        let connection = server.connect().await;
        let check = |error: Error| {
            assert_eq!(remote(&error), &WireError::ResourceExhausted);
            assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
            assert_eq!((error.items_taken(), error.may_have_run()), (Some(1), true));
            assert_eq!(error.method(), Some("demo.fail"));
        };
        let mut upload = connection.send_items(FAIL, &()).await.unwrap();
        let error = loop {
            if let Err(error) = upload.send(&7).await {
                break error;
            }
        };
        check(error);
        check(upload.send(&7).await.unwrap_err());
        check(upload.finish().await.unwrap_err());
        check(connection.send_all(FAIL, &(), stream::repeat(7)).await.unwrap_err());
        // Also while the stream has nothing to send.
        check(connection.send_all(FAIL, &(), stream::once(7).chain(stream::pending())).await.unwrap_err());
    });
}

#[test]
fn an_early_result_ends_the_items_and_is_no_failure() {
    run(async {
        let server = serve(router());
        let connection = server.connect().await;
        let texts = || stream::repeat("text".to_owned());
        assert_eq!(connection.send_all(FIRST, &2, texts()).await.unwrap(), ["text", "text"]);
        let waiting = texts().take(3).chain(stream::pending());
        assert_eq!(connection.send_all(FIRST, &3, waiting).await.unwrap().len(), 3);
        assert!(connection.send_all(FIRST, &0, stream::pending()).await.unwrap().is_empty());

        let mut upload = connection.send_items(FIRST, &2).await.unwrap();
        let error = loop {
            if let Err(error) = upload.send(&"text".to_owned()).await {
                break error;
            }
        };
        assert_eq!(error.kind(), &ErrorKind::StreamReset(Code::NO_ERROR));
        assert_eq!(upload.finish().await.unwrap(), ["text", "text"]);
        // Fewer items than it waits for.
        assert!(connection.send_all(FIRST, &2, stream::empty()).await.unwrap().is_empty());

        let server = serve(router().serve_bidi_raw("demo.one", |_, _, _: Items, mut answers| async move {
            answers.send_raw("one").await?;
            Ok(())
        }));
        let connection = server.connect().await;
        let (mut items, mut answers) = connection.bidi_raw("demo.one", "").await.unwrap();
        let error = loop {
            if let Err(error) = items.send_raw("x").await {
                break error;
            }
        };
        assert_eq!(error.kind(), &ErrorKind::StreamReset(Code::NO_ERROR));
        assert_eq!(items.finish().await.unwrap_err().kind(), &ErrorKind::StreamReset(Code::NO_ERROR));
        assert_eq!(answers.next_raw().await.unwrap().unwrap(), "one");
        assert_eq!(answers.next_raw().await.unwrap(), None);
    });
}

#[test]
fn a_peer_that_does_not_read_makes_the_sender_wait() {
    run(async {
        let limits = TransportLimits::builder().stream_receive_window(16 * 1024).build().unwrap();
        let server = serve_within(limits, router());
        let connection = server.connect().await;
        let mut upload = connection.send_items_raw("demo.deaf", "").await.unwrap();
        let item = Bytes::from(vec![7; 1024]);
        // These fit into the windows, once those have arrived.
        for _ in 0..10 {
            upload.send_raw(item.clone()).await.unwrap();
        }
        let mut sent = 10;
        while let Some(result) = poll_once(upload.send_raw(item.clone())).await {
            result.unwrap();
            sent += 1;
            assert!(sent < 100, "no backpressure");
        }
        assert!(connection.health().await.unwrap().ok, "others are served");
        let error = upload.send_raw("x").await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Closed, "an item was given up half way");
        let error = upload.finish_raw().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Closed);
        assert!(error.may_have_run());
    });
}

#[test]
fn what_is_dropped_before_its_end_cancels_the_handler_and_never_looks_complete() {
    run(async {
        let (completed, completions) = signal();
        let (gone, goes) = signal();
        let router = Router::new().serve_bidi_raw(
            "demo.count",
            move |_, _, mut items: Items, mut answers: ResponseSink| {
                let (completed, guard) = (completed.clone(), DropGuard(gone.clone()));
                async move {
                    let _guard = guard;
                    while let Some(item) = items.next_raw().await? {
                        answers.send_raw(item).await?;
                    }
                    completed.try_send(()).unwrap();
                    Ok(())
                }
            },
        );
        let server = serve(router);
        let connection = server.connect().await;
        for drops in ["items", "answers", "both"] {
            let (mut items, mut answers) = connection.bidi_raw("demo.count", "").await.unwrap();
            items.send_raw("one").await.unwrap();
            assert_eq!(answers.next_raw().await.unwrap().unwrap(), "one");
            match drops {
                "items" => {
                    drop(items);
                    goes.recv().await.unwrap();
                    let error = answers.next_raw().await.unwrap_err();
                    assert_eq!(error.kind(), &ErrorKind::StreamReset(Code::CANCELLED));
                    assert_eq!((error.items_taken(), error.may_have_run()), (Some(1), true));
                }
                "answers" => {
                    drop(answers);
                    goes.recv().await.unwrap();
                    let error = loop {
                        if let Err(error) = items.send_raw("two").await {
                            break error;
                        }
                    };
                    assert_eq!(error.kind(), &ErrorKind::StreamReset(Code::CANCELLED));
                }
                _ => {
                    drop((items, answers));
                    goes.recv().await.unwrap();
                }
            }
        }
        assert!(completions.is_empty());
        let (items, mut answers) = connection.bidi_raw("demo.count", "").await.unwrap();
        items.finish().await.unwrap();
        assert_eq!(answers.next_raw().await.unwrap(), None);
        assert_eq!(completions.len(), 1, "the twin");
    });
}

#[test]
fn items_are_frames_behind_the_request() {
    run(async {
        let server = RawServer::new();
        let (client, peer) = server.connect().await;
        let sending = async {
            let call = client.request(SUM, &1).unwrap().timeout(Duration::from_secs(1000));
            let mut upload = call.send_items::<u32>().await.unwrap();
            upload.send(&7).await.unwrap();
            upload.send_raw("").await.unwrap();
            upload.finish().await.unwrap()
        };
        let peers = async {
            answer_probe(&peer, &health()).await;
            let (request, mut stream) = request(&peer).await;
            assert_eq!(request.more(), Some(true));
            assert!(request.timeout_ms.unwrap() > 900_000);
            let Answer::Whole(bytes) = stream.answer().await else { panic!("a reset") };
            let items = split(&bytes).into_iter().map(|body| Item::decode(&body.into()).unwrap());
            assert_eq!(items.collect::<Vec<_>>(), [Item::new(vec![7]), Item::default()]);
            stream.send(&payload(CountedResponse::new(Response::result(Some(vec![3].into())), 2))).await;
            stream.finish();
        };
        assert_eq!(zip(sending, peers).await.0, 3);
    });
}

#[test]
fn only_one_result_is_an_answer() {
    run(async {
        let server = RawServer::new();
        let (client, peer) = server.connect().await;
        let (first, ()) = zip(client.send_items_raw("m", ""), async {
            answer_probe(&peer, &health()).await;
        })
        .await;
        drop((first, request(&peer).await));
        let whole = result("sum", 1);
        let cut = &whole[..whole.len() - 1];
        let violation = Some(Code::PROTOCOL_VIOLATION);
        for (answer, kind, taken, stopped) in [
            (whole.clone(), None, None, None),
            (Vec::new(), Some(ErrorKind::Protocol), None, None),
            (health(), Some(ErrorKind::Protocol), None, violation),
            ([&*whole, &whole].concat(), Some(ErrorKind::Protocol), Some(1), violation),
            (frame(b"\x80"), Some(ErrorKind::Protocol), None, violation),
            (cut.to_vec(), Some(ErrorKind::Truncated), None, None),
            (failure(WireError::Internal, 4), Some(ErrorKind::Remote(WireError::Internal)), Some(4), None),
        ] {
            let sending = async {
                let upload = client.send_items_raw("m", "").await.unwrap();
                upload.finish_raw().await
            };
            let peers = async {
                let (_, mut stream) = request(&peer).await;
                assert_eq!(stream.answer().await, Answer::Whole(Vec::new()));
                stream.send(&answer).await;
                stream.finish();
                stream
            };
            let (finished, mut stream) = zip(sending, peers).await;
            match (finished, kind) {
                (Ok(payload), None) => assert_eq!(payload, "sum"),
                (Err(error), Some(kind)) => {
                    assert_eq!(error.kind(), &kind, "{answer:02x?}");
                    assert_eq!(error.items_taken(), taken, "{answer:02x?}");
                    assert!(error.may_have_run());
                }
                (finished, kind) => panic!("{finished:?} instead of {kind:?}"),
            }
            if stopped.is_some() {
                // What has been acknowledged already cannot be stopped.
                let seen = stream.stopped().await;
                assert!(seen == stopped || seen.is_none(), "{seen:?}");
            }
        }
    });
}

#[test]
fn a_peer_that_does_not_end_its_answer_is_not_waited_for_without_end() {
    run(async {
        let server = RawServer::new();
        let limits =
            TransportLimits::builder().request_read_timeout(Duration::from_millis(50)).build().unwrap();
        let (client, peer) = server.connect_from(Endpoint::builder().limits(limits)).await;
        let sending = async {
            let upload = client.send_items_raw("m", "").await.unwrap();
            upload.finish_raw().await.unwrap_err()
        };
        let peers = async {
            answer_probe(&peer, &health()).await;
            let (_, mut stream) = request(&peer).await;
            stream.send(&result("sum", 0)).await;
            stream
        };
        let (error, mut stream) = zip(sending, peers).await;
        assert_eq!(error.kind(), &ErrorKind::DeadlineExceeded);
        assert!(error.may_have_run());
        assert_eq!(stream.stopped().await, Some(Code::CANCELLED));
    });
}

#[test]
fn the_reason_for_a_reset_is_the_peers() {
    run(async {
        let server = RawServer::new();
        let (client, peer) = server.connect().await;
        let sending = async {
            let mut upload = client.send_items_raw("m", "").await.unwrap();
            let error = loop {
                if let Err(error) = upload.send_raw(vec![7; 1000]).await {
                    break error;
                }
            };
            (error, upload.finish_raw().await.unwrap_err())
        };
        let peers = async {
            answer_probe(&peer, &health()).await;
            let (_, mut stream) = request(&peer).await;
            stream.stop(Code::FRAME_TOO_LARGE);
            stream.reset(Code::FRAME_TOO_LARGE);
        };
        let ((first, second), ()) = zip(sending, peers).await;
        for error in [first, second] {
            assert_eq!(error.kind(), &ErrorKind::StreamReset(Code::FRAME_TOO_LARGE));
            assert!(error.may_have_run());
        }
    });
}

#[test]
fn refusals_say_that_nothing_has_run() {
    run(async {
        let limits = TransportLimits::builder().max_concurrent_item_exchanges(1).build().unwrap();
        let server = serve_within(limits, router());
        let connection = server.connect().await;
        let _open = connection.send_items_raw("demo.deaf", "").await.unwrap();
        for (method, expected) in [
            ("demo.deaf", WireError::ResourceExhausted),
            ("node.health", WireError::InvalidRequest),
            ("demo.other", WireError::UnsupportedMethod),
        ] {
            let upload = connection.send_items_raw(method, "").await.unwrap();
            let error = upload.finish_raw().await.unwrap_err();
            assert_eq!(remote(&error), &expected, "{method}");
            assert!(!error.may_have_run());
            assert_eq!(error.items_taken().unwrap_or(0), 0);
        }
        assert!(connection.health().await.unwrap().ok);
    });
}

#[test]
fn an_item_that_does_not_fit_a_frame_is_not_sent_and_others_are() {
    run(async {
        let limits = TransportLimits::builder().max_frame_bytes(1024).build().unwrap();
        let server = serve(router());
        let connection = server.connect_within(limits).await;
        let mut upload = connection.send_items_raw("demo.sum", vec![0]).await.unwrap();
        upload.send_raw(vec![1]).await.unwrap();
        let error = upload.send_raw(vec![7; 1024]).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::MessageTooLarge);
        upload.send_raw(vec![2]).await.unwrap();
        assert_eq!(upload.finish_raw().await.unwrap(), &[3][..]);
    });
}

#[test]
fn a_stream_of_items_ends_at_one_that_cannot_be_sent_and_those_before_it_arrive() {
    run(async {
        let limits = TransportLimits::builder().max_frame_bytes(1024).build().unwrap();
        let server = serve(router());
        let connection = server.connect_within(limits).await;
        // All are ready, and so are sent in few writes.
        let small = stream::repeat(Bytes::from_static(&[1])).take(100);
        let mut upload = connection.send_items_raw("demo.sum", vec![0]).await.unwrap();
        upload.send_all_raw(small.clone()).await.unwrap();
        let items = small.clone().chain(stream::once(Bytes::from(vec![7; 1024]))).chain(small.clone());
        let error = upload.send_all_raw(items).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::MessageTooLarge);
        upload.send_raw(vec![1]).await.unwrap();
        assert_eq!(upload.finish_raw().await.unwrap(), &[24, 201][..]);
    });
}

#[test]
fn many_items_that_are_ready_arrive_in_order() {
    run(async {
        let server = serve(router());
        let connection = server.connect().await;
        let texts = |count: u32| stream::iter(0..count).map(|number| format!("{number}-{}", "x".repeat(50)));
        let sent: Vec<_> = texts(5000).collect().await;
        let received = connection.send_all(FIRST, &5000, texts(6000)).await.unwrap();
        assert!(received == sent);
    });
}

#[test]
fn the_time_limit_of_a_call_is_for_all_of_it() {
    run(async {
        let server = serve(router());
        let connection = server.connect().await;
        // Long enough for a call to begin, however busy the computer is.
        let call = || connection.request_raw("demo.deaf", "").timeout(Duration::from_secs(2));
        let mut upload = call().send_items::<()>().await.unwrap();
        let error = loop {
            if let Err(error) = upload.send_raw(vec![7; 10_000]).await {
                break error;
            }
        };
        assert!(error.is_timeout() && error.may_have_run(), "{error}");
        let upload = call().send_items::<()>().await.unwrap();
        assert!(upload.finish_raw().await.unwrap_err().is_timeout());
        let (_items, mut answers) = call().bidi::<()>().await.unwrap();
        assert!(answers.next_raw().await.unwrap_err().is_timeout());
    });
}

#[test]
fn json_has_items_too() {
    run(async {
        let server = serve(router());
        let connection = server.connect().await;
        let call = connection.request(SUM, &1).unwrap().codec(Codec::Json);
        let mut upload = call.send_items::<u32>().await.unwrap();
        upload.send(&2).await.unwrap();
        assert_eq!(upload.finish().await.unwrap(), 3);
        assert!(!connection.is_json_only());
    });
}

#[test]
fn interceptors_are_around_calls_with_items() {
    run(async {
        let server = serve(router());
        let (seen, sees) = channel::unbounded();
        let builder = Endpoint::builder().client(server.pki.client_tls());
        let builder = builder.around_calls(move |call: OutgoingCall, next: NextCall| {
            seen.try_send((call.method().to_owned(), call.kind())).unwrap();
            async move {
                if call.params_len() == 1 { Err(call.refuse("one byte")) } else { next.run().await }
            }
        });
        let connection = builder.bind(loopback()).unwrap().connect(server.address()).await.unwrap();
        let sum = connection.send_all(SUM, &1000, stream::iter([1, 2])).await.unwrap();
        assert_eq!(sum, 1003);
        let error = connection.send_all(SUM, &1, stream::iter([1, 2])).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Intercepted);
        assert!(!error.may_have_run());
        drop(connection.bidi_raw("demo.double", "").await.unwrap());
        let kinds =
            [("demo.sum", MethodKind::Items); 2].into_iter().chain([("demo.double", MethodKind::Both)]);
        for (method, kind) in kinds {
            assert_eq!(sees.recv().await.unwrap(), (method.to_owned(), kind));
        }
        assert!(sees.is_empty(), "not around the question whether the peer takes items");
    });
}

#[test]
fn many_uploads_of_both_sides_run_side_by_side() {
    run(async {
        let server = serve(router());
        let connection = server.connect().await;
        let upload = |connection: Connection, count: u32| {
            smol::spawn(async move {
                let items = stream::repeat(1).take(count.try_into().unwrap());
                assert_eq!(connection.send_all(SUM, &0, items).await.unwrap(), u64::from(count));
            })
        };
        let uploads: Vec<_> = (0..16).map(|n| upload(connection.clone(), 100 * n)).collect();
        for upload in uploads {
            upload.await;
        }
    });
}

#[test]
fn a_cancelled_send_loses_no_item_before_it() {
    run(async {
        let taken = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&taken);
        let router = Router::new().serve_items_raw("demo.count", move |_, _, mut items: Items| {
            let taken = Arc::clone(&counted);
            async move {
                while items.next_raw().await?.is_some() {
                    taken.fetch_add(1, Ordering::SeqCst);
                }
                Ok(Bytes::new())
            }
        });
        let server = serve(router);
        let connection = server.connect().await;
        let mut upload = connection.send_items_raw("demo.count", "").await.unwrap();
        for _ in 0..10 {
            upload.send_raw("item").await.unwrap();
        }
        // Larger than all windows, so that it stops half way.
        let half = poll_once(upload.send_raw(vec![7; 500_000])).await;
        assert!(half.is_none());
        let error = upload.finish_raw().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Closed);
        connection.health().await.unwrap();
        assert!(taken.load(Ordering::SeqCst) <= 10, "the item that was cut off was none");
    });
}
