//! Methods that take items, asked by a peer that can say anything.

use std::{sync::Arc, time::Duration};

use futures_lite::{StreamExt, future};
use palyra_quic::{
    Bytes, Code, Codec, Context, CountedResponse, EventLog, Exchange, Item, Items, MethodError, MethodKind,
    MethodLimits, Next, Peers, Rate, Request, Response, ResponseSink, Router, TransportLimits,
    TransportLimitsBuilder, WireError,
};
use smol::{channel::Receiver, lock::Semaphore};

use crate::common::{
    Answer, DropGuard, RawPeer, RawStream, Server, counters, encode, frame, run, serve, serve_within, signal,
};

/// Sums, echoes, and a method that stops after its first item.
fn router() -> Router {
    Router::new()
        .serve_items("demo.sum", |_: Context, start: u64, mut items: Items<u64>| async move {
            let mut sum = start;
            while let Some(item) = items.next().await? {
                sum += item;
            }
            Ok(sum)
        })
        .serve_bidi_raw("demo.echo", |_, params, mut items: Items, mut answers: ResponseSink| async move {
            if !params.is_empty() {
                answers.send_raw(params).await?;
            }
            while let Some(item) = items.next_raw().await? {
                answers.send_raw(item).await?;
            }
            Ok(())
        })
        .serve_items_raw("demo.first", |_, _, mut items: Items| async move {
            items.next_raw().await.map(Option::unwrap_or_default)
        })
}

fn limits() -> TransportLimitsBuilder {
    TransportLimits::builder()
}

/// The frame of a request that items follow.
fn begin(method: &str) -> Vec<u8> {
    frame(&encode(&Request::new(method).with_more(true), Codec::Cbor))
}

fn begin_with(method: &str, params: impl Into<Bytes>) -> Vec<u8> {
    frame(&encode(&Request::new(method).with_params(params).with_more(true), Codec::Cbor))
}

fn item(params: impl Into<Bytes>) -> Vec<u8> {
    let mut body = Vec::new();
    Item::new(params).encode(Codec::Cbor, &mut body).unwrap();
    frame(&body)
}

/// A request, these items, and FIN.
async fn ask(peer: &RawPeer, request: &[u8], items: &[Vec<u8>]) -> Answer {
    peer.exchange(&[request, &items.concat()].concat()).await
}

fn counted(body: &[u8]) -> CountedResponse {
    CountedResponse::decode(&Bytes::copy_from_slice(body)).unwrap()
}

/// The one frame of an answer.
fn only(answer: &Answer) -> CountedResponse {
    let frames = answer.frames();
    let [body] = &*frames else { panic!("{} frames instead of one", frames.len()) };
    counted(body)
}

fn result(payload: &[u8], items: u64) -> CountedResponse {
    CountedResponse::new(Response::result(Some(Bytes::copy_from_slice(payload))), items)
}

/// The error, and whether the node says that no handler has started.
fn error(answer: &Answer) -> (WireError, bool) {
    match only(answer).response {
        Response::Error { error, not_run, .. } => (error, not_run),
        other => panic!("{other:?} instead of an error"),
    }
}

/// A node whose method never ends by itself, and reads items if `reads`; what tells that it has begun, and
/// that it is gone.
fn endless_within(limits: TransportLimits, reads: bool) -> (Server, Receiver<()>, Receiver<()>) {
    let ((begun, begins), (gone, goes)) = (signal(), signal());
    let router = Router::new().serve_items_raw("demo.endless", move |_, _, mut items: Items| {
        let (begun, guard) = (begun.clone(), DropGuard(gone.clone()));
        async move {
            let _guard = guard;
            begun.try_send(()).unwrap();
            while reads && items.next_raw().await?.is_some() {
                begun.try_send(()).unwrap();
            }
            future::pending().await
        }
    });
    (serve_within(limits, router), begins, goes)
}

fn endless(reads: bool) -> (Server, Receiver<()>, Receiver<()>) {
    endless_within(TransportLimits::default(), reads)
}

#[test]
fn a_handler_gets_the_items_in_order_and_its_answer_counts_them() {
    run(async {
        let server = serve(router());
        let peer = server.raw().await;
        for count in [0_u8, 1, 2, 200] {
            let items: Vec<_> = (0..count).map(|_| item(vec![0x02])).collect();
            let answer = ask(&peer, &begin_with("demo.sum", vec![0x05]), &items).await;
            let sum = minicbor_u64(5 + 2 * u64::from(count));
            assert_eq!(only(&answer), result(&sum, u64::from(count)));
        }
        let items: Vec<_> = (0..100_u8).map(|n| item(vec![n])).collect();
        let answer = ask(&peer, &begin_with("demo.echo", "params"), &items).await.frames();
        let payloads = answer.iter().map(|body| match counted(body).response {
            Response::Result { payload, .. } => payload.unwrap(),
            other => panic!("{other:?}"),
        });
        let expected = [Bytes::from("params")].into_iter().chain((0..100).map(|n| vec![n].into()));
        assert!(payloads.eq(expected));
        assert_eq!(counted(answer.last().unwrap()).items, Some(100));
        peer.assert_is_served().await;
    });
}

fn minicbor_u64(value: u64) -> Vec<u8> {
    palyra_quic::minicbor::to_vec(value).unwrap()
}

#[test]
fn a_request_without_more_has_no_items() {
    run(async {
        let server = serve(router());
        let peer = server.raw().await;
        for request in [Request::new("demo.sum"), Request::new("demo.sum").with_more(false)] {
            let body = encode(&request.with_params(vec![0x05]), Codec::Cbor);
            assert_eq!(only(&peer.request(&body).await), result(&[5], 0));
        }
        let echo = encode(&Request::new("demo.echo").with_params("one"), Codec::Cbor);
        assert_eq!(only(&peer.request(&echo).await), result(b"one", 0));
        let first = encode(&Request::new("demo.first"), Codec::Cbor);
        assert_eq!(only(&peer.request(&first).await), result(b"", 0));
        let with_bytes_behind = [frame(&echo), item("x")].concat();
        assert_eq!(peer.exchange(&with_bytes_behind).await, Answer::Reset(Code::PROTOCOL_VIOLATION));
    });
}

#[test]
fn answers_are_sent_before_the_last_item() {
    run(async {
        let server = serve(router());
        let peer = server.raw().await;
        let mut stream = peer.send(&begin("demo.echo")).await;
        for n in 0..50_u8 {
            stream.send(&item(vec![n])).await;
            assert_eq!(counted(&stream.next().await), result(&[n], u64::from(n) + 1));
        }
        stream.finish();
        assert_eq!(stream.answer().await, Answer::Whole(Vec::new()));
        assert_eq!(stream.stopped().await, None, "all of it was read");
    });
}

#[test]
fn a_handler_that_needs_no_more_items_stops_them_and_its_answer_arrives() {
    run(async {
        let server = serve(router());
        let peer = server.raw().await;
        let mut stream = peer.send(&[begin("demo.first"), item("one"), item("two")].concat()).await;
        assert_eq!(only(&stream.answer().await), result(b"one", 1));
        assert_eq!(stream.stopped().await, Some(Code::NO_ERROR));
        peer.assert_is_served().await;
    });
}

#[test]
fn a_method_that_takes_no_items_refuses_them() {
    run(async {
        let router = router()
            .serve_raw("demo.unary", |_, params| async move { Ok(params) })
            .serve_stream_raw("demo.stream", |_, _, _: ResponseSink| async move { Ok(()) })
            .serve_items_raw("demo.secret", |_, params, _: Items| async move { Ok(params) })
            .events(EventLog::new())
            .allow("demo.secret", Peers::nobody());
        let server = serve(router);
        let peer = server.raw().await;
        for (method, expected) in [
            ("demo.stream", WireError::InvalidRequest),
            ("node.health", WireError::InvalidRequest),
            ("node.stream_events", WireError::InvalidRequest),
            ("demo.other", WireError::UnsupportedMethod),
            ("demo.secret", WireError::PermissionDenied),
        ] {
            let mut stream = peer.send(&begin(method)).await;
            assert_eq!(error(&stream.answer().await), (expected, true), "{method}");
            assert_eq!(stream.stopped().await, Some(Code::NO_ERROR), "{method}");
        }
        let mut stream = peer.send(&frame(&map_of_version_2())).await;
        assert_eq!(error(&stream.answer().await), (WireError::ProtocolMismatch, true));
        assert_eq!(stream.stopped().await, Some(Code::NO_ERROR));
        let without_log = serve(Router::new());
        let answer = ask(&without_log.raw().await, &begin("node.stream_events"), &[]).await;
        assert_eq!(error(&answer), (WireError::UnsupportedMethod, true));
        peer.assert_is_served().await;
    });
}

fn map_of_version_2() -> Vec<u8> {
    let mut request = Request::new("demo.sum").with_more(true);
    request.protocol_version = 2;
    encode(&request, Codec::Cbor)
}

#[test]
fn more_that_is_false_asks_whether_the_node_knows_it() {
    run(async {
        let server = serve(Router::new());
        let peer = server.raw().await;
        let body = encode(&Request::new("node.health").with_more(false), Codec::Cbor);
        assert!(matches!(peer.request(&body).await.only(), Response::Health { ok: true, .. }));
    });
}

/// What is behind a request is refused with `code`, in the middle of a stream of items too, and ends the
/// handler.
fn refused(limits: TransportLimits, streams: &[Vec<u8>], fin: bool, code: Code) {
    run(async {
        let (server, begins, goes) = endless_within(limits, true);
        let peer = server.raw().await;
        for bytes in streams {
            for before in [vec![], item("one"), [item("one"), item("two")].concat()] {
                let mut stream = peer.send(&[&*begin("demo.endless"), &before, bytes].concat()).await;
                if fin {
                    stream.finish();
                }
                assert_eq!(stream.answer().await, Answer::Reset(code), "{bytes:02x?}");
                // After FIN there is nothing left to stop.
                let stopped = stream.stopped().await;
                assert!(stopped == Some(code) || (fin && stopped.is_none()), "{stopped:?}");
                begins.recv().await.unwrap();
                goes.recv().await.unwrap();
            }
        }
        peer.assert_is_served().await;
        server.assert_serves_others().await;
        assert!(goes.is_empty());
    });
}

#[test]
fn a_frame_that_is_no_item_resets_the_exchange() {
    let bodies: [&[u8]; 9] = [
        b"\xa1\x00\x01",
        b"\xa1\x03\xf6",
        b"\xa1\x04\x01",
        b"\xa1\x20\x01",
        b"\x80",
        b"\xa1\x03\x41x\x00",
        b"\xbf\xff",
        b"{\"params\":7}",
        b"{\"items\":[]}",
    ];
    let frames: Vec<_> = bodies.into_iter().map(frame).chain([vec![0; 4]]).collect();
    refused(TransportLimits::default(), &frames, false, Code::PROTOCOL_VIOLATION);
}

#[test]
fn an_item_above_the_limit_resets_the_exchange() {
    let limits = limits().max_frame_bytes(1024).build().unwrap();
    let header = 1025_u32.to_be_bytes().to_vec();
    refused(limits, &[header, item(vec![7; 1024])], false, Code::FRAME_TOO_LARGE);
}

#[test]
fn an_item_cut_short_by_the_end_resets_the_exchange() {
    let whole = item("whole");
    let cut: Vec<_> = (1..whole.len()).map(|end| whole[..end].to_vec()).collect();
    refused(TransportLimits::default(), &cut, true, Code::PROTOCOL_VIOLATION);
}

#[test]
fn an_item_that_does_not_get_on_resets_the_exchange() {
    let limits = limits().request_read_timeout(Duration::from_secs(1)).build().unwrap();
    let whole = item("whole");
    refused(limits, &[whole[..1].to_vec(), whole[..7].to_vec()], false, Code::DEADLINE_EXCEEDED);
}

#[test]
fn an_item_that_trickles_in_does_not_buy_time_even_if_the_handler_asks_again_and_again() {
    run(async {
        let limits = limits().request_read_timeout(Duration::from_secs(1)).build().unwrap();
        let router = Router::new().serve_items_raw("demo.busy", |_, _, mut items: Items| async move {
            let mut read = 0_u8;
            loop {
                let next = async { Some(items.next_raw().await) };
                let tick = async {
                    smol::Timer::after(Duration::from_millis(10)).await;
                    None
                };
                match future::or(next, tick).await {
                    Some(Err(error)) => return Err(error),
                    Some(Ok(None)) => return Ok(vec![read].into()),
                    Some(Ok(Some(_))) => read += 1,
                    None => {}
                }
            }
        });
        let server = serve_within(limits, router);
        let peer = server.raw().await;
        let mut stream = peer.send(&[begin("demo.busy"), item("one")].concat()).await;
        // One byte at a time, until the node stops the stream.
        let mut bytes = item(vec![7; 1000]).into_iter();
        while stream.send.write_all(&[bytes.next().expect("20 s")]).await.is_ok() {
            smol::Timer::after(Duration::from_millis(20)).await;
        }
        assert_eq!(stream.answer().await, Answer::Reset(Code::DEADLINE_EXCEEDED));
        // The twin: nothing was lost to the handler that asked again and again.
        let items: Vec<_> = (0..9).map(|_| item("x")).collect();
        assert_eq!(only(&ask(&peer, &begin("demo.busy"), &items).await), result(&[9], 9));
    });
}

#[test]
fn a_reset_at_any_byte_is_no_end_of_the_items() {
    run(async {
        let (completed, completions) = signal();
        let router = Router::new().serve_items_raw("demo.count", move |_, _, mut items: Items| {
            let completed = completed.clone();
            async move {
                let mut count = 0;
                while items.next_raw().await?.is_some() {
                    count += 1;
                }
                completed.try_send(()).unwrap();
                Ok(vec![count].into())
            }
        });
        let server = serve(router);
        let peer = server.raw().await;
        let stream_of_items = [begin("demo.count"), item("one"), item(""), item("three")].concat();
        for end in 0..=stream_of_items.len() {
            let mut stream = peer.send(&stream_of_items[..end]).await;
            // In half of the cases the node has read what there is before the reset arrives.
            if end % 2 == 0 {
                peer.assert_is_served().await;
            }
            stream.reset(Code::CANCELLED);
            assert_eq!(stream.answer().await, Answer::Reset(Code::CANCELLED), "{end} bytes");
        }
        assert!(completions.is_empty(), "a stream that broke off looked complete");
        assert_eq!(only(&peer.exchange(&stream_of_items).await), result(&[3], 3));
        assert_eq!(completions.len(), 1);
    });
}

#[test]
fn a_caller_that_resets_its_items_cancels_the_handler_whether_or_not_it_reads() {
    run(async {
        for reads in [true, false] {
            let (server, begins, goes) = endless(reads);
            let peer = server.raw().await;
            let mut stream = peer.send(&[begin("demo.endless"), item("one")].concat()).await;
            begins.recv().await.unwrap();
            assert!(goes.is_empty());
            stream.reset(Code::CANCELLED);
            goes.recv().await.unwrap();
            assert_eq!(stream.answer().await, Answer::Reset(Code::CANCELLED));
            peer.assert_is_served().await;
        }
    });
}

#[test]
fn a_caller_that_stops_the_answers_cancels_the_handler_and_is_told_to_send_no_more() {
    run(async {
        for reads in [true, false] {
            let (server, begins, goes) = endless(reads);
            let peer = server.raw().await;
            let mut stream = peer.send(&begin("demo.endless")).await;
            begins.recv().await.unwrap();
            stream.stop(Code::CANCELLED);
            goes.recv().await.unwrap();
            assert_eq!(stream.stopped().await, Some(Code::CANCELLED));
            peer.assert_is_served().await;
        }
    });
}

/// How long silence may last. Twelve steps take longer, and each is far shorter, however busy the computer is.
const SILENCE: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(300);

#[test]
fn silence_for_as_long_as_a_handler_may_run_ends_the_exchange() {
    run(async {
        let limits = limits().handler_timeout(SILENCE).build().unwrap();
        let (server, _begins, goes) = endless_within(limits, true);
        let peer = server.raw().await;
        let mut stream = peer.send(&begin("demo.endless")).await;
        for _ in 0..12 {
            smol::Timer::after(STEP).await;
            assert!(goes.is_empty());
            stream.send(&item("one")).await;
        }
        let answer = stream.answer().await;
        assert_eq!(error(&answer), (WireError::DeadlineExceeded, false));
        assert_eq!(only(&answer).items, Some(12));
        assert_eq!(stream.stopped().await, Some(Code::NO_ERROR), "an answer says why");
        goes.recv().await.unwrap();
    });
}

#[test]
fn bytes_of_an_item_are_no_silence_and_answers_are_none_either() {
    run(async {
        let limits = limits().handler_timeout(SILENCE).build().unwrap();
        let router = router().serve_bidi_raw("demo.tick", |_, _, _items: Items, mut answers| async move {
            for _ in 0..12 {
                smol::Timer::after(STEP).await;
                answers.send_raw("tick").await?;
            }
            Ok(())
        });
        let server = serve_within(limits, router);
        let peer = server.raw().await;
        let bytes = [begin("demo.first"), item(vec![7; 12])].concat();
        let (most, last) = bytes.split_at(bytes.len() - 12);
        let mut ticking = peer.send(&begin("demo.tick")).await;
        let mut stream = peer.send(most).await;
        for byte in last {
            smol::Timer::after(STEP).await;
            stream.send(&[*byte]).await;
        }
        assert_eq!(only(&stream.answer().await), result(&[7; 12], 1));
        assert_eq!(ticking.answer().await.frames().len(), 12);
    });
}

#[test]
fn the_callers_time_limits_the_whole_exchange() {
    run(async {
        let (server, _begins, goes) = endless(true);
        let peer = server.raw().await;
        let request = Request::new("demo.endless").with_timeout_ms(2000).with_more(true);
        let mut stream = peer.send(&frame(&encode(&request, Codec::Cbor))).await;
        // Until the node stops the items.
        while stream.send.write_all(&item("one")).await.is_ok() {
            smol::Timer::after(Duration::from_millis(20)).await;
        }
        assert_eq!(error(&stream.answer().await), (WireError::DeadlineExceeded, false));
        goes.recv().await.unwrap();

        let request = Request::new("demo.endless").with_timeout_ms(0).with_more(true);
        let mut stream = peer.send(&frame(&encode(&request, Codec::Cbor))).await;
        assert_eq!(error(&stream.answer().await), (WireError::DeadlineExceeded, true));
        assert_eq!(stream.stopped().await, Some(Code::NO_ERROR));
    });
}

#[test]
fn requests_with_items_leave_room_for_others() {
    run(async {
        let limits = limits().max_concurrent_bidi_streams(4).build().unwrap();
        let (server, begins, goes) = endless_within(limits, true);
        let peer = server.raw().await;
        let mut open = Vec::new();
        for _ in 0..2 {
            open.push(peer.send(&begin("demo.endless")).await);
            begins.recv().await.unwrap();
        }
        for _ in 0..20 {
            let mut stream = peer.send(&begin("demo.endless")).await;
            let answer = stream.answer().await;
            assert_eq!(error(&answer), (WireError::ResourceExhausted, true));
            let Response::Error { retry_after, .. } = only(&answer).response else { unreachable!() };
            assert_eq!(retry_after, Some(Duration::from_secs(1)));
            assert_eq!(stream.stopped().await, Some(Code::NO_ERROR));
            peer.assert_is_served().await;
        }
        // Other peers have their own.
        let other = server.raw().await;
        let _open = other.send(&begin("demo.endless")).await;
        begins.recv().await.unwrap();
        open.pop().unwrap().reset(Code::CANCELLED);
        goes.recv().await.unwrap();
        let _stream = until_begun(&peer, &begins).await;
    });
}

/// A permit is free again shortly after the handler that had it is gone.
async fn until_begun(peer: &RawPeer, begins: &Receiver<()>) -> RawStream {
    loop {
        let mut stream = peer.send(&begin("demo.endless")).await;
        let refused = async {
            assert_eq!(error(&stream.answer().await), (WireError::ResourceExhausted, true));
            false
        };
        let begun = async {
            begins.recv().await.unwrap();
            true
        };
        if future::or(refused, begun).await {
            return stream;
        }
    }
}

#[test]
fn a_handler_that_panics_resets_both_directions() {
    run(async {
        let router = Router::new().serve_items_raw("demo.panic", |_, _, mut items: Items| async move {
            items.next_raw().await?;
            panic!("as a test wants it");
        });
        let server = serve(router);
        let peer = server.raw().await;
        let mut stream = peer.send(&[begin("demo.panic"), item("one")].concat()).await;
        assert_eq!(stream.answer().await, Answer::Reset(Code::INTERNAL));
        assert_eq!(stream.stopped().await, Some(Code::INTERNAL));
        peer.assert_is_served().await;
    });
}

#[test]
fn an_item_of_another_type_is_an_invalid_request_and_the_next_may_still_be_read() {
    run(async {
        let router = router().serve_items("demo.skip", |_, (), mut items: Items<u64>| async move {
            let (mut read, mut skipped) = (0_u32, 0_u32);
            loop {
                match items.next().await {
                    Ok(Some(_)) => read += 1,
                    Ok(None) => return Ok((read, skipped)),
                    Err(error) if *error.error() == WireError::InvalidRequest => skipped += 1,
                    Err(error) => return Err(error),
                }
            }
        });
        let server = serve(router);
        let peer = server.raw().await;
        let items = [item(vec![1]), item("text"), item(vec![1, 1]), item(vec![2])];
        let answer = ask(&peer, &begin_with("demo.sum", vec![0]), &items).await;
        assert_eq!(error(&answer), (WireError::InvalidRequest, false), "the handler had begun");
        assert_eq!(only(&answer).items, Some(2));
        let answer = ask(&peer, &begin("demo.skip"), &items).await;
        assert_eq!(only(&answer), result(&[0x82, 2, 2], 4));
        let answer = ask(&peer, &begin_with("demo.sum", "no number"), &[]).await;
        assert_eq!(error(&answer), (WireError::InvalidRequest, true));
    });
}

#[test]
fn items_are_a_stream_and_may_be_read_by_another_task() {
    run(async {
        let router = router()
            .serve_items("demo.stream", |_, (), mut items: Items<u64>| async move {
                items.try_fold(0, |sum, item| Ok::<_, MethodError>(sum + item)).await
            })
            .serve_items_raw("demo.task", |_, _, mut items: Items| async move {
                let read = smol::spawn(async move {
                    items.try_fold(0_u8, |sum, item| Ok::<_, MethodError>(sum + item[0])).await
                });
                Ok(vec![read.await?].into())
            });
        let server = serve(router);
        let peer = server.raw().await;
        let items: Vec<_> = (0..20_u8).map(|n| item(vec![n])).collect();
        let answer = ask(&peer, &begin("demo.stream"), &items).await;
        assert_eq!(only(&answer), result(&[0x18, 190], 20));
        assert_eq!(only(&ask(&peer, &begin("demo.task"), &items).await), result(&[190], 20));
        // One by one, so that the task waits.
        let mut stream = peer.send(&begin("demo.task")).await;
        for item in &items {
            peer.assert_is_served().await;
            stream.send(item).await;
        }
        stream.finish();
        assert_eq!(only(&stream.answer().await), result(&[190], 20));
    });
}

/// A handler that gives its items to a task, and waits for ever.
fn with_task() -> (Server, Receiver<Option<bool>>, Receiver<()>) {
    let ((told, tells), (gone, goes)) = (smol::channel::unbounded(), signal());
    let router = Router::new().serve_items_raw("demo.task", move |_, params, mut items: Items| {
        let (told, guard) = (told.clone(), DropGuard(gone.clone()));
        async move {
            let _guard = guard;
            // Whether there was an item, or `None` for an error.
            let read = smol::spawn(async move {
                loop {
                    let next = items.next_raw().await.map(|item| item.is_some()).ok();
                    told.try_send(next).unwrap();
                    if next != Some(true) {
                        return;
                    }
                }
            });
            read.detach();
            if params.is_empty() { future::pending().await } else { Ok(params) }
        }
    });
    (serve(router), tells, goes)
}

#[test]
fn what_another_task_reads_ends_with_the_exchange() {
    run(async {
        let (server, tells, goes) = with_task();
        let peer = server.raw().await;
        // The caller resets the items, or sends what is no item, or stops the answers.
        for end in 0..3 {
            let mut stream = peer.send(&[begin("demo.task"), item("one")].concat()).await;
            assert_eq!(tells.recv().await.unwrap(), Some(true));
            match end {
                0 => stream.reset(Code::CANCELLED),
                1 => stream.send(&frame(b"\x80")).await,
                _ => stream.stop(Code::CANCELLED),
            }
            assert_eq!(tells.recv().await.unwrap(), None, "{end}: the exchange is over");
            goes.recv().await.unwrap();
        }
        // The handler answers, and leaves the task alone.
        let mut stream = peer.send(&begin_with("demo.task", "x")).await;
        assert_eq!(only(&stream.answer().await), result(b"x", 0));
        assert_eq!(tells.recv().await.unwrap(), None);
        assert_eq!(stream.stopped().await, Some(Code::NO_ERROR));
        peer.assert_is_served().await;
    });
}

#[test]
fn a_reset_is_noticed_while_another_task_has_the_items_and_does_not_read() {
    run(async {
        let (gate, (gone, goes)) = (Arc::new(Semaphore::new(0)), signal());
        let ((read, reads), opened) = (signal(), Arc::clone(&gate));
        let router = Router::new().serve_items_raw("demo.task", move |_, _, mut items: Items| {
            let (gate, read, guard) = (Arc::clone(&gate), read.clone(), DropGuard(gone.clone()));
            async move {
                let _guard = guard;
                let task = smol::spawn(async move {
                    items.next_raw().await?;
                    read.try_send(()).unwrap();
                    gate.acquire().await.forget();
                    items.next_raw().await
                });
                task.await?;
                future::pending().await
            }
        });
        let server = serve(router);
        let peer = server.raw().await;
        let mut stream = peer.send(&begin("demo.task")).await;
        peer.assert_is_served().await;
        stream.send(&item("one")).await;
        reads.recv().await.unwrap();
        stream.reset(Code::CANCELLED);
        goes.recv().await.unwrap();
        opened.add_permits(1);
        peer.assert_is_served().await;
    });
}

#[test]
fn items_wait_for_the_peers_rate() {
    run(async {
        let limits = limits().request_rate(Rate::per_second(20).burst(5)).build().unwrap();
        let server = serve_within(limits.clone(), router());
        let items: Vec<_> = (0..10).map(|_| item(vec![1])).collect();
        let began = std::time::Instant::now();
        let answer = ask(&server.raw().await, &begin_with("demo.sum", vec![0]), &items).await;
        assert_eq!(only(&answer), result(&[10], 10));
        assert!(began.elapsed() >= Duration::from_millis(290), "six tokens more than the burst");

        // A wait for the next token that is longer than the time for an item.
        let limits = limits.to_builder().request_rate(Rate::every(Duration::from_secs(9)).burst(5));
        let limits = limits.request_read_timeout(Duration::from_secs(1)).build().unwrap();
        let server = serve_within(limits, router());
        let peer = server.raw().await;
        let mut stream = peer.send(&[begin_with("demo.sum", vec![0]), items.concat()].concat()).await;
        assert_eq!(stream.answer().await, Answer::Reset(Code::RATE_LIMITED));
        assert_eq!(stream.stopped().await, Some(Code::RATE_LIMITED));
    });
}

#[test]
fn many_slow_uploads_stay_within_the_memory_for_frames() {
    run(async {
        let limits = TransportLimits::within(16 * 1024 * 1024).unwrap();
        let budget = u64::from(limits.frame_budget_bytes());
        let (largest, exempt) = (u64::from(limits.max_frame_bytes()), 8 * 1024);
        let (server, begins, _goes) = endless_within(limits, false);
        let watcher = server.connect().await;
        let mut open = Vec::new();
        for _ in 0..20 {
            let peer = server.raw().await;
            for _ in 0..2 {
                let mut stream = peer.send(&begin("demo.endless")).await;
                begins.recv().await.unwrap();
                // Nearly a whole item, as far as the windows let it through.
                let bytes = item(vec![7; 30 * 1024]);
                let sending = stream.send.write_all(&bytes[..30 * 1024]);
                future::or(async { drop(sending.await) }, async {
                    smol::Timer::after(Duration::from_millis(20)).await;
                })
                .await;
                open.push(stream);
            }
            open.push(peer.send(b"").await);
            let held = counters(&watcher).await["frame_bytes_held"];
            assert!(held <= budget + largest + 20 * exempt, "{held} bytes");
        }
        server.assert_serves_others().await;
    });
}

#[test]
fn json_has_items_too() {
    run(async {
        let server = serve(router());
        let peer = server.raw().await;
        let request = frame(br#"{"protocol_version":1,"method":"demo.echo","more":true}"#);
        let items = [frame(br#"{"params":"AQI="}"#), item("in CBOR"), frame(b" {} ")];
        let answer = ask(&peer, &request, &items).await.frames();
        let texts: Vec<_> = answer.iter().map(|body| String::from_utf8_lossy(body)).collect();
        assert_eq!(
            texts,
            [
                r#"{"protocol_version":1,"kind":"result","ok":true,"payload":"AQI=","items":1}"#,
                r#"{"protocol_version":1,"kind":"result","ok":true,"payload":"aW4gQ0JPUg==","items":2}"#,
                r#"{"protocol_version":1,"kind":"result","ok":true,"payload":"","items":3}"#,
            ]
        );
    });
}

#[test]
fn a_shutdown_waits_for_uploads_and_takes_no_new_ones() {
    run(async {
        let server = serve(router());
        let peer = server.raw().await;
        let mut stream = peer.send(&begin("demo.echo")).await;
        stream.send(&item("one")).await;
        assert_eq!(counted(&stream.next().await), result(b"one", 1));
        let closing = server.endpoint.shutdown(Duration::from_secs(1000));
        let uploading = async {
            loop {
                // Until the shutdown has begun.
                let answer = ask(&peer, &begin("demo.first"), &[]).await;
                if matches!(only(&answer).response, Response::Error { .. }) {
                    assert_eq!(error(&answer), (WireError::Unavailable, true));
                    break;
                }
            }
            stream.send(&item("two")).await;
            assert_eq!(counted(&stream.next().await), result(b"two", 2));
            stream.finish();
            assert_eq!(stream.answer().await, Answer::Whole(Vec::new()));
        };
        future::zip(closing, uploading).await;
    });
}

#[test]
fn interceptors_and_limits_are_around_items_too() {
    run(async {
        let router = router()
            .around(|exchange: Exchange, next: Next| async move {
                if exchange.params_len() == 1 {
                    return Err(MethodError::permission_denied("one byte"));
                }
                assert!(matches!(exchange.kind(), MethodKind::Items | MethodKind::Both));
                next.run().await
            })
            .limits("demo.first", MethodLimits::new().handler_timeout(Duration::from_secs(2)));
        let server = serve(router);
        let peer = server.raw().await;
        for method in ["demo.first", "demo.echo"] {
            let mut stream = peer.send(&begin_with(method, "x")).await;
            let answer = stream.answer().await;
            assert_eq!(error(&answer), (WireError::PermissionDenied, true), "{method}");
            assert_eq!(stream.stopped().await, Some(Code::NO_ERROR));
        }
        assert_eq!(only(&ask(&peer, &begin("demo.first"), &[item("one")]).await), result(b"one", 1));
        assert_eq!(only(&ask(&peer, &begin("demo.echo"), &[item("one")]).await), result(b"one", 1));
        let mut stream = peer.send(&begin("demo.first")).await;
        assert_eq!(error(&stream.answer().await), (WireError::DeadlineExceeded, false));
    });
}

#[test]
fn an_interceptor_answers_in_the_place_of_a_method_with_items() {
    run(async {
        let router = router().around(|_, _: Next| async move { Ok("instead".into()) });
        let server = serve(router);
        let peer = server.raw().await;
        for method in ["demo.first", "demo.echo"] {
            let mut stream = peer.send(&begin(method)).await;
            assert_eq!(only(&stream.answer().await), result(b"instead", 0), "{method}");
            assert_eq!(stream.stopped().await, Some(Code::NO_ERROR));
        }
    });
}

#[test]
fn a_node_describes_methods_that_take_items() {
    run(async {
        let server = serve(router());
        let description = server.connect().await.describe().await.unwrap();
        let kind = |name: &str| description.methods.iter().find(|method| *method.name == *name).unwrap().kind;
        assert_eq!((kind("demo.sum"), kind("demo.echo")), (MethodKind::Items, MethodKind::Both));
    });
}
