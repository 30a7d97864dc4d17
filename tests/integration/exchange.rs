//! Requests and their handlers: concurrent, given up, failing, streaming, large, and in both directions.

use std::{
    future,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_lite::future::{poll_once, zip};
use palyra_quic::{
    AsyncIoRuntime, Bytes, Code, Codec, Connection, Context, Endpoint, Error, ErrorKind, Health, MethodError,
    Request, Response, ResponseSink, Router, StreamingMethod, TransportLimits, WireError,
};
use smol::{
    Executor,
    channel::{Receiver, Sender, bounded},
    lock::Barrier,
};

use crate::common::{DropGuard, Pki, Server, loopback, request, run, serve, serve_within, signal};

const SHORT: Duration = Duration::from_millis(50);
/// Long enough for a request to arrive, however busy the computer is.
const A_WHILE: Duration = Duration::from_secs(2);

fn echo() -> Router {
    Router::new().serve_raw("echo", |_: Context, params| async move { Ok(params) })
}

async fn assert_echoes(connection: &Connection) {
    assert_eq!(connection.call_raw("echo", "still here").await.unwrap(), "still here");
}

/// A node with `echo`, and with `hang` and `hang streaming`, which tell when they begin and when they are
/// gone.
fn hanging(limits: TransportLimits) -> (Server, Receiver<()>, Receiver<()>) {
    let (began, beginnings) = signal();
    let (gone, endings) = signal();
    let hang = move || {
        let guard = DropGuard(gone.clone());
        began.try_send(()).unwrap();
        async move {
            let _guard = guard;
            future::pending::<()>().await;
        }
    };
    let streaming = hang.clone();
    let router = echo()
        .serve_raw("hang", move |_: Context, _| {
            let hanging = hang();
            async move {
                hanging.await;
                Ok(Bytes::new())
            }
        })
        .serve_stream_raw("hang streaming", move |_: Context, _, mut sink: ResponseSink| {
            let hanging = streaming();
            async move {
                sink.send_raw("first").await.unwrap();
                hanging.await;
                Ok(())
            }
        });
    (serve_within(limits, router), beginnings, endings)
}

#[test]
fn thirty_two_exchanges_run_concurrently() {
    run(async {
        let barrier = Arc::new(Barrier::new(32));
        let router = Router::new().serve_raw("meet", move |_: Context, params| {
            let barrier = Arc::clone(&barrier);
            async move {
                barrier.wait().await;
                Ok(params)
            }
        });
        let server = serve(router);
        let connection = server.connect().await;
        let calls = (0..32).map(|number: u8| {
            let connection = connection.clone();
            smol::spawn(async move { connection.call_raw("meet", vec![number + 1]).await.unwrap() })
        });
        let calls: Vec<_> = calls.collect();
        for (number, call) in (1..).zip(calls) {
            assert_eq!(call.await, vec![number], "each gets its own answer");
        }
    });
}

/// Handlers that block their thread are not what async is for, and must not hold up each other for longer
/// than it takes to notice.
#[test]
fn after_a_handler_that_took_its_time_others_run_on_threads_of_their_own() {
    let executor = Arc::new(Executor::new());
    let (stop, stopped) = bounded::<()>(1);
    let threads = [(); 4].map(|()| {
        let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
        thread::spawn(move || smol::block_on(executor.run(stopped.recv())))
    });
    run(async {
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let router = Router::new()
            .serve_raw("take time", |_: Context, params| async move {
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_millis(1) {
                    std::hint::spin_loop();
                }
                Ok(params)
            })
            .serve_raw("meet", move |_: Context, params| {
                let barrier = Arc::clone(&barrier);
                async move {
                    barrier.wait();
                    Ok(params)
                }
            });
        let pki = Pki::new();
        let runtime = Arc::new(AsyncIoRuntime::on(executor));
        let server = Endpoint::builder().server(pki.server_tls()).router(router).shared_runtime(runtime);
        let server = server.bind(loopback()).unwrap();
        let client = Endpoint::builder().client(pki.client_tls()).bind(loopback()).unwrap();
        let connection = client.connect(server.local_addr().unwrap()).await.unwrap();
        for _ in 0..3 {
            connection.call_raw("take time", "").await.unwrap();
        }
        let (one, other) =
            zip(connection.call_raw("meet", "one"), connection.call_raw("meet", "other")).await;
        assert_eq!((one.unwrap(), other.unwrap()), ("one".into(), "other".into()));
        server.shutdown(Duration::ZERO).await;
    });
    drop(stop);
    for thread in threads {
        thread.join().unwrap().unwrap_err();
    }
}

#[test]
fn the_exchange_beyond_the_limit_waits_for_one_to_end() {
    run(async {
        let (entered, entries) = signal();
        let (release, gate) = signal();
        let router = Router::new().serve_raw("wait", move |_: Context, params| {
            let (entered, gate) = (entered.clone(), gate.clone());
            async move {
                entered.try_send(()).unwrap();
                gate.recv().await.unwrap();
                Ok(params)
            }
        });
        let server = serve(router);
        let connection = server.connect().await;
        let call = || {
            let connection = connection.clone();
            smol::spawn(async move { connection.call_raw("wait", "x").await.unwrap() })
        };
        let calls: Vec<_> = (0..32).map(|_| call()).collect();
        for _ in 0..32 {
            entries.recv().await.unwrap();
        }
        let mut beyond = std::pin::pin!(connection.call_raw("wait", "x"));
        assert!(poll_once(&mut beyond).await.is_none());
        server.assert_serves_others().await;
        assert!(poll_once(&mut beyond).await.is_none());
        assert!(entries.is_empty(), "the 33rd has not begun");
        // quinn tells the peer about room once an eighth of the limit is free.
        (0..5).for_each(|_| release.try_send(()).unwrap());
        let entering = async {
            entries.recv().await.unwrap();
            (0..28).for_each(|_| release.try_send(()).unwrap());
        };
        let (answer, ()) = zip(beyond, entering).await;
        assert_eq!(answer.unwrap(), "x");
        for call in calls {
            assert_eq!(call.await, "x");
        }
    });
}

#[test]
fn dropping_a_call_stops_its_handler() {
    run(async {
        let (server, began, gone) = hanging(TransportLimits::default());
        let connection = server.connect().await;
        let caller = connection.clone();
        let call = smol::spawn(async move { caller.call_raw("hang", "").await });
        began.recv().await.unwrap();
        assert_echoes(&connection).await;
        assert!(gone.is_empty(), "it runs for as long as somebody waits");
        drop(call);
        gone.recv().await.unwrap();
        assert_echoes(&connection).await;
    });
}

#[test]
fn dropping_the_answers_half_way_stops_the_handler() {
    run(async {
        let (server, began, gone) = hanging(TransportLimits::default());
        let connection = server.connect().await;
        let mut answers = connection.stream_raw("hang streaming", "").await.unwrap();
        assert_eq!(answers.next_raw().await.unwrap().unwrap(), "first");
        began.recv().await.unwrap();
        assert!(gone.is_empty());
        drop(answers);
        gone.recv().await.unwrap();
        assert_echoes(&connection).await;
    });
}

#[test]
fn a_peer_that_stops_the_answer_stops_the_handler() {
    run(async {
        let (server, began, gone) = hanging(TransportLimits::default());
        let peer = server.raw().await;
        for method in ["hang", "hang streaming"] {
            let mut stream = peer.send(&crate::common::frame(&request(method))).await;
            stream.finish();
            began.recv().await.unwrap();
            assert!(gone.is_empty());
            stream.stop(Code::RATE_LIMITED);
            gone.recv().await.unwrap();
            peer.assert_is_served().await;
        }
        server.assert_serves_others().await;
    });
}

#[test]
fn a_connection_that_is_closed_stops_its_handlers_alone() {
    run(async {
        let (server, began, gone) = hanging(TransportLimits::default());
        let bystander = server.connect().await;
        let waiting = bystander.clone();
        let waiting = smol::spawn(async move { waiting.call_raw("hang", "").await });
        began.recv().await.unwrap();
        let peer = server.raw().await;
        for method in ["hang", "hang streaming"] {
            peer.send(&crate::common::frame(&request(method))).await.finish();
            began.recv().await.unwrap();
        }
        peer.connection.close(crate::common::varint(Code::NO_ERROR), b"");
        gone.recv().await.unwrap();
        gone.recv().await.unwrap();
        assert_echoes(&bystander).await;
        assert!(gone.is_empty() && !waiting.is_finished());
    });
}

#[test]
fn a_peer_that_falls_silent_stops_its_handlers() {
    run(async {
        let limits = TransportLimits::builder()
            .idle_timeout(Duration::from_secs(5))
            .keep_alive_interval(Duration::from_secs(1))
            .build()
            .unwrap();
        let (server, began, gone) = hanging(limits);
        // Its tasks run while this test drives them, and not a moment longer.
        let executor = Arc::new(Executor::new());
        let connection = executor
            .run(async {
                let runtime = Arc::new(AsyncIoRuntime::on(Arc::clone(&executor)));
                let client = Endpoint::builder().shared_runtime(runtime).client(server.pki.client_tls());
                let connection = client.bind(loopback()).unwrap().connect(server.address()).await.unwrap();
                let calling = connection.clone();
                executor.spawn(async move { calling.call_raw("hang", "").await }).detach();
                began.recv().await.unwrap();
                connection
            })
            .await;
        gone.recv().await.unwrap();
        server.assert_serves_others().await;
        drop(connection);
    });
}

#[test]
fn a_context_that_outlives_its_exchange_knows_that_it_is_over() {
    run(async {
        let (lent, contexts) = bounded(1);
        let (release, gate) = signal();
        let router = Router::new().serve_raw("lend", move |context: Context, params| {
            let (lent, gate) = (lent.clone(), gate.clone());
            async move {
                lent.send(context).await.unwrap();
                gate.recv().await.unwrap();
                Ok(params)
            }
        });
        let server = serve(router);
        let connection = server.connect().await;
        for answered in [true, false] {
            let caller = connection.clone();
            let call = smol::spawn(async move { caller.call_raw("lend", "x").await.unwrap() });
            let context = contexts.recv().await.unwrap();
            assert!(!context.is_over());
            if answered {
                release.try_send(()).unwrap();
                assert_eq!(call.await, "x");
            } else {
                drop(call);
            }
            context.over().await;
            assert!(context.is_over());
        }
    });
}

#[test]
fn a_handler_that_panics_resets_its_own_stream_alone() {
    run(async {
        let (entered, entries) = signal();
        let (release, gate) = signal();
        let router = echo()
            .serve_raw("panic", |_: Context, _| async { panic!("as the test wants it") })
            .serve_raw("panic at once", |_: Context, _| -> future::Ready<Result<Bytes, MethodError>> {
                panic!("as the test wants it")
            })
            .serve_stream_raw("panic later", |_: Context, _, mut sink: ResponseSink| async move {
                sink.send_raw("first").await.unwrap();
                panic!("as the test wants it")
            })
            .serve_raw("wait", move |_: Context, params| {
                let (entered, gate) = (entered.clone(), gate.clone());
                async move {
                    entered.try_send(()).unwrap();
                    gate.recv().await.unwrap();
                    Ok(params)
                }
            });
        let server = serve(router);
        let connection = server.connect().await;
        let caller = connection.clone();
        let waiting = smol::spawn(async move { caller.call_raw("wait", "x").await.unwrap() });
        entries.recv().await.unwrap();
        let internal = ErrorKind::StreamReset(Code::INTERNAL);
        for method in ["panic", "panic at once"] {
            let error = connection.call_raw(method, "").await.unwrap_err();
            assert_eq!(error.kind(), &internal);
            assert!(error.may_have_run());
            assert_echoes(&connection).await;
        }
        let mut answers = connection.stream_raw("panic later", "").await.unwrap();
        // The reset may overtake the first answer, and is never taken for the end.
        let error = match answers.next_raw().await {
            Ok(answer) => {
                assert_eq!(answer.unwrap(), "first");
                answers.next_raw().await.unwrap_err()
            }
            Err(error) => error,
        };
        assert_eq!(error.kind(), &internal);
        assert_echoes(&connection).await;
        release.try_send(()).unwrap();
        assert_eq!(waiting.await, "x");
        server.assert_serves_others().await;
    });
}

/// Up to this number, and what then.
const COUNT: StreamingMethod<(u32, String), u32> = StreamingMethod::new("count");

/// A node that sends numbers from 1 up to the one asked for, then what else is asked for.
fn counting() -> (Server, Sender<()>) {
    let (go_on, gate) = signal();
    let router = echo().serve_stream(COUNT, move |_: Context, (count, then), mut sink: ResponseSink<u32>| {
        let gate = gate.clone();
        async move {
            for number in 1..=count {
                sink.send(&number).await?;
            }
            match &*then {
                "end" => Ok(()),
                "wait" => {
                    gate.recv().await.unwrap();
                    sink.send(&0).await.unwrap();
                    Ok(())
                }
                _ => Err(MethodError::resource_exhausted("no more").retry_after(SHORT)),
            }
        }
    });
    (serve(router), go_on)
}

#[test]
fn a_streaming_method_answers_as_often_as_it_likes() {
    run(async {
        let (server, _) = counting();
        let connection = server.connect().await;
        for codec in [Codec::Cbor, Codec::Json] {
            for count in [0, 1, 10_000] {
                let call = connection.request(COUNT, &(count, "end".into())).unwrap().codec(codec);
                let mut answers = call.stream().await.unwrap();
                for number in 1..=count {
                    assert_eq!(answers.next().await.unwrap(), Some(number));
                }
                assert_eq!(answers.next().await.unwrap(), None);
                assert_eq!(answers.next().await.unwrap(), None, "and it stays so");
            }
        }
    });
}

#[test]
fn an_answer_leaves_before_the_next_one_is_known() {
    run(async {
        let (server, go_on) = counting();
        let connection = server.connect().await;
        let mut answers = connection.stream(COUNT, &(2, "wait".into())).await.unwrap();
        assert_eq!(answers.next().await.unwrap(), Some(1));
        assert_eq!(answers.next().await.unwrap(), Some(2));
        assert!(poll_once(answers.next()).await.is_none());
        go_on.try_send(()).unwrap();
        assert_eq!(answers.next().await.unwrap(), Some(0), "nothing was lost with the one dropped");
        assert_eq!(answers.next().await.unwrap(), None);
    });
}

#[test]
fn an_error_after_some_answers_is_the_last_of_them() {
    run(async {
        let (server, _) = counting();
        let connection = server.connect().await;
        let mut answers = connection.stream(COUNT, &(3, "fail".into())).await.unwrap();
        for number in 1..=3 {
            assert_eq!(answers.next().await.unwrap(), Some(number));
        }
        let error = answers.next().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::ResourceExhausted));
        assert_eq!(error.retry_after(), Some(SHORT));
        assert_eq!(answers.next().await.unwrap(), None);
        assert_echoes(&connection).await;
    });
}

#[test]
fn handlers_choose_their_errors() {
    run(async {
        let router = echo().serve_raw("fail", |_: Context, params: Bytes| async move {
            Err(MethodError::new(WireError::from(std::str::from_utf8(&params).unwrap()))
                .detail("x".repeat(300)))
        });
        let server = serve(router);
        let connection = server.connect().await;
        let same = [
            WireError::InvalidRequest,
            WireError::StreamFailure,
            WireError::PermissionDenied,
            WireError::Internal,
            WireError::Other("the_applications_own".into()),
        ];
        // Callers take it to mean that the method has not run, so only the node says it.
        let replaced = (WireError::Unavailable, WireError::ResourceExhausted);
        for (chosen, sent) in same.into_iter().map(|error| (error.clone(), error)).chain([replaced]) {
            let call = connection.call_raw("fail", chosen.as_str().to_owned());
            let remote = call.await.unwrap_err();
            assert_eq!(remote.kind(), &ErrorKind::Remote(sent));
            assert_eq!(remote.explanation().unwrap().len(), 256, "cut to what may be sent");
        }
        assert_echoes(&connection).await;
    });
}

#[test]
fn parameters_that_do_not_decode_never_reach_the_handler() {
    run(async {
        let (ran, runs) = signal();
        let router = Router::new().serve("add", move |_: Context, (a, b): (u32, u32)| {
            ran.try_send(()).unwrap();
            async move { Ok(u64::from(a) + u64::from(b)) }
        });
        let server = serve(router);
        let connection = server.connect().await;
        // A number, text, three, a negative one, indefinite, followed by something, cut short, nothing at
        // all.
        for params in [
            &[0x01][..],
            &[0x61, b'x'],
            &[0x83, 1, 2, 3],
            &[0x82, 1, 0x20],
            &[0x9f, 1, 2, 0xff],
            &[0x82, 1, 2, 0],
            &[0x82, 1],
            &[],
        ] {
            let error = connection.call_raw("add", params.to_vec()).await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Remote(WireError::InvalidRequest), "{params:02x?}");
        }
        assert!(runs.is_empty());
        assert_eq!(connection.call::<_, u64>("add", &(40, 2)).await.unwrap(), 42);
        assert_eq!(runs.len(), 1);
    });
}

#[test]
fn both_sides_of_a_connection_call_each_other() {
    run(async {
        let router = echo().serve_raw("call back", |context: Context, params| async move {
            let answer = context.connection().call_raw("reverse", params).await;
            answer.map_err(|error| MethodError::internal(error.to_string()))
        });
        let server = serve(router);
        let reverse = Router::new().serve_raw("reverse", |context: Context, params: Bytes| async move {
            // And the other way again, three exchanges deep.
            let params = params.iter().rev().copied().collect::<Bytes>();
            context.connection().call_raw("echo", params).await.map_err(|_| MethodError::internal("no echo"))
        });
        let dialler =
            Endpoint::builder().client(server.pki.client_tls()).router(reverse).bind(loopback()).unwrap();
        let connection = dialler.connect(server.address()).await.unwrap();
        assert_eq!(connection.call_raw("call back", "abc").await.unwrap(), "cba");
        assert!(connection.health().await.unwrap().ok);
    });
}

/// A node that asks those who dial it for their health, with this time limit, and what came of it.
fn asking(limit: Duration) -> (Server, Receiver<Result<Health, Error>>) {
    let (told, outcomes) = bounded(1);
    let router = Router::new().on_connection(move |connection: Connection| {
        let told = told.clone();
        async move {
            let call = connection.request_raw("node.health", "").timeout(limit);
            told.send(call.health().await).await.unwrap();
        }
    });
    (serve(router), outcomes)
}

#[test]
fn a_dialler_without_a_router_is_not_called() {
    run(async {
        let (server, outcomes) = asking(SHORT);
        let _connection = server.connect().await;
        let error = outcomes.recv().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::DeadlineExceeded);
        assert!(!error.may_have_run());
        let (server, outcomes) = asking(Duration::from_secs(1000));
        let dialler = Endpoint::builder().client(server.pki.client_tls()).router(Router::new());
        let dialler = dialler.bind(loopback()).unwrap();
        let _connection = dialler.connect(server.address()).await.unwrap();
        assert!(outcomes.recv().await.unwrap().unwrap().ok);
    });
}

#[test]
fn a_call_that_takes_too_long_fails_here_and_stops_there() {
    run(async {
        let (server, began, gone) = hanging(TransportLimits::default());
        let connection = server.connect().await;
        for codec in [Codec::Cbor, Codec::Json] {
            let error = connection
                .request_raw("hang", "")
                .codec(codec)
                .timeout(A_WHILE)
                .send_raw()
                .await
                .unwrap_err();
            assert!(error.is_timeout() && error.may_have_run(), "{error}");
            if codec == Codec::Json {
                assert_eq!(error.kind(), &ErrorKind::DeadlineExceeded, "the peer was not told");
            }
            began.recv().await.unwrap();
            gone.recv().await.unwrap();
            let call = connection.request_raw("hang streaming", "").codec(codec).timeout(A_WHILE);
            let mut answers = call.stream().await.unwrap();
            let error = loop {
                if let Err(error) = answers.next_raw().await {
                    break error;
                }
            };
            assert!(error.is_timeout(), "{error}");
            drop(answers);
            began.recv().await.unwrap();
            gone.recv().await.unwrap();
        }
        let in_time = connection.request_raw("echo", "x").timeout(Duration::from_secs(1000));
        assert_eq!(in_time.send_raw().await.unwrap(), "x");
    });
}

const MAX: usize = 524_288;

/// How many bytes of parameters fill a request for `count` to this many bytes.
fn params_for(body: usize) -> usize {
    let request = |params| Request::new("count").with_params(vec![0; params]);
    let params = body - (crate::common::encode(&request(body), Codec::Cbor).len() - body);
    assert_eq!(crate::common::encode(&request(params), Codec::Cbor).len(), body);
    params
}

#[test]
fn parameters_may_be_as_large_as_a_frame() {
    run(async {
        let router = echo().serve_raw("count", |_: Context, params: Bytes| async move {
            let as_sent = params.iter().zip(pattern(params.len())).all(|(byte, expected)| *byte == expected);
            Ok(Bytes::from(format!("{as_sent} {}", params.len())))
        });
        let server = serve(router);
        let connection = server.connect().await;
        let most = params_for(MAX);
        for length in [1, 1200, 65_536, 300_000, most] {
            let answer = connection.call_raw("count", pattern(length).collect::<Bytes>()).await.unwrap();
            assert_eq!(answer, format!("true {length}"));
        }
        let error = connection.call_raw("count", vec![0; most + 1]).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::MessageTooLarge);
        assert!(!error.may_have_run());
        assert_echoes(&connection).await;
    });
}

/// Bytes that would not look the same were a packet lost or swapped.
fn pattern(length: usize) -> impl Iterator<Item = u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap())
}

#[test]
fn an_answer_that_does_not_fit_a_frame_is_an_error_and_not_half_an_answer() {
    run(async {
        let (told, kinds) = bounded(1);
        let fill = |length: &[u8]| vec![0; std::str::from_utf8(length).unwrap().parse().unwrap()];
        let router = echo()
            .serve_raw("fill", move |_: Context, length: Bytes| async move { Ok(fill(&length).into()) });
        let router =
            router.serve_stream_raw("stream", move |_: Context, length: Bytes, mut sink: ResponseSink| {
                let told = told.clone();
                async move {
                    let too_large = sink.send_raw(fill(&length)).await.unwrap_err();
                    told.send(too_large.kind().clone()).await.unwrap();
                    sink.send_raw("smaller").await.unwrap();
                    Ok(())
                }
            });
        let server = serve(router);
        let connection = server.connect().await;
        let mut body = Vec::new();
        Response::result(Some(vec![0; 400_000].into())).encode(Codec::Cbor, &mut body).unwrap();
        let most = MAX - (body.len() - 400_000);
        assert_eq!(connection.call_raw("fill", most.to_string()).await.unwrap().len(), most);
        let error = connection.call_raw("fill", (most + 1).to_string()).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Internal));
        // In base64 the same is a third larger.
        let in_json = |length: usize| connection.request_raw("fill", length.to_string()).codec(Codec::Json);
        let error = in_json(most).send_raw().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Internal));
        assert_eq!(in_json(390_000).send_raw().await.unwrap().len(), 390_000);
        let mut answers = connection.stream_raw("stream", (most + 1).to_string()).await.unwrap();
        assert_eq!(answers.next_raw().await.unwrap().unwrap(), "smaller");
        assert_eq!(answers.next_raw().await.unwrap(), None);
        assert_eq!(kinds.recv().await.unwrap(), ErrorKind::MessageTooLarge);
        assert_echoes(&connection).await;
    });
}

#[test]
fn the_callers_own_limit_refuses_larger_answers() {
    run(async {
        let (gone, endings) = signal();
        let router = echo().serve_stream_raw("large", move |_: Context, _, mut sink: ResponseSink| {
            let guard = DropGuard(gone.clone());
            async move {
                let _guard = guard;
                loop {
                    sink.send_raw(vec![0; 2000]).await?;
                }
            }
        });
        let server = serve(router);
        let limits = TransportLimits::builder().max_frame_bytes(1024).build().unwrap();
        let connection = server.connect_within(limits).await;
        let mut answers = connection.stream_raw("large", "").await.unwrap();
        assert_eq!(answers.next_raw().await.unwrap_err().kind(), &ErrorKind::FrameTooLarge);
        endings.recv().await.unwrap();
        assert_echoes(&connection).await;
    });
}

#[test]
fn a_caller_that_does_not_read_holds_the_handler_and_no_other() {
    run(async {
        let (gone, endings) = signal();
        let (sent, sendings) = signal();
        let router = echo().serve_stream_raw("flood", move |_: Context, _, mut sink: ResponseSink| {
            let (guard, sent) = (DropGuard(gone.clone()), sent.clone());
            async move {
                let _guard = guard;
                for _ in 0..1000 {
                    sink.send_raw(vec![0; 10_000]).await?;
                    sent.try_send(()).unwrap();
                }
                Ok(())
            }
        });
        let server = serve(router);
        let connection = server.connect().await;
        let mut answers = connection.stream_raw("flood", "").await.unwrap();
        sendings.recv().await.unwrap();
        // On the same connection: the window of one stream is half the connection's.
        assert_echoes(&connection).await;
        assert!(sendings.len() < 999 && endings.is_empty(), "10 MB are more than the windows");
        for _ in 0..1000 {
            assert_eq!(answers.next_raw().await.unwrap().unwrap().len(), 10_000);
        }
        assert_eq!(answers.next_raw().await.unwrap(), None);
        endings.recv().await.unwrap();
    });
}
