//! Notifications: in order, unanswered, and what a stream of them must not bring.

use std::{future, time::Duration};

use futures_lite::future::{or, poll_once, zip};
use palyra_quic::{
    Bytes, Code, Codec, Context, ErrorKind, Notification, Response, Router, TransportLimits, WireError,
};
use smol::channel::{Receiver, Sender, unbounded};

use crate::common::{
    DropGuard, RawPeer, RawServer, RawStream, Server, counters, entry, frame, map, run, serve, serve_within,
    signal, stopped,
};

/// A node with a notification method that tells what it gets.
fn node() -> (Server, Receiver<Bytes>) {
    node_within(TransportLimits::default())
}

fn node_within(limits: TransportLimits) -> (Server, Receiver<Bytes>) {
    let (told, notes) = unbounded();
    (serve_within(limits, noting(Router::new(), told)), notes)
}

fn noting(router: Router, told: Sender<Bytes>) -> Router {
    router.on_notification_raw("note", move |_: Context, params| {
        let told = told.clone();
        async move { told.try_send(params).unwrap() }
    })
}

fn note_in(codec: Codec, params: &str) -> Vec<u8> {
    let note = Notification::new("note").with_params(params.to_owned());
    let mut body = Vec::new();
    note.encode(codec, &mut body).unwrap();
    frame(&body)
}

fn note(params: &str) -> Vec<u8> {
    note_in(Codec::Cbor, params)
}

fn named(method: &str) -> Vec<u8> {
    let mut body = Vec::new();
    Notification::new(method).encode(Codec::Cbor, &mut body).unwrap();
    frame(&body)
}

/// That a notification on a stream of its own is handled, on this connection and on others.
async fn assert_goes_on(server: &Server, peer: &RawPeer, notes: &Receiver<Bytes>) {
    peer.notify(&note("still here")).await;
    assert_eq!(notes.recv().await.unwrap(), "still here");
    peer.assert_is_served().await;
    server.assert_serves_others().await;
}

#[test]
fn notifications_on_one_stream_are_handled_in_order() {
    run(async {
        let (server, notes) = node();
        let mut notifier = server.connect().await.notifier().await.unwrap();
        for number in 0..1000 {
            notifier.send_raw("note", number.to_string()).await.unwrap();
        }
        notifier.finish().await.unwrap();
        for number in 0..1000 {
            assert_eq!(notes.recv().await.unwrap(), number.to_string());
        }
    });
}

#[test]
fn the_next_notification_waits_for_the_handler_and_other_streams_do_not() {
    run(async {
        let (entered, entries) = signal();
        let (release, gate) = signal();
        let (told, notes) = unbounded();
        let router = Router::new().on_notification_raw("wait", move |_: Context, _| {
            let (entered, gate) = (entered.clone(), gate.clone());
            async move {
                entered.try_send(()).unwrap();
                gate.recv().await.unwrap();
            }
        });
        let server = serve(noting(router, told));
        let peer = server.raw().await;
        peer.notify(&[named("wait"), note("behind it")].concat()).await;
        entries.recv().await.unwrap();
        peer.notify(&note("beside it")).await;
        assert_eq!(notes.recv().await.unwrap(), "beside it");
        assert!(notes.is_empty());
        release.try_send(()).unwrap();
        assert_eq!(notes.recv().await.unwrap(), "behind it");
    });
}

#[test]
fn either_codec_will_do_on_one_stream() {
    run(async {
        let (server, notes) = node();
        let peer = server.raw().await;
        let mixed = [note("a"), note_in(Codec::Json, "b"), note("c")].concat();
        assert_eq!(stopped(&mut peer.notify(&mixed).await).await, None);
        let connection = server.connect().await;
        let mut notifier = connection.notifier().await.unwrap().codec(Codec::Json);
        for text in ["a", "b", "c"] {
            assert_eq!(notes.recv().await.unwrap(), text);
        }
        notifier.send_raw("note", "d").await.unwrap();
        assert_eq!(notes.recv().await.unwrap(), "d");
    });
}

#[test]
fn a_notification_may_be_sent_and_left() {
    run(async {
        let (server, notes) = node();
        let connection = server.connect().await;
        connection.notify_raw("note", "plain").await.unwrap();
        assert_eq!(notes.recv().await.unwrap(), "plain");
        connection.notify("note", &42).await.unwrap();
        assert_eq!(notes.recv().await.unwrap(), &[0x18, 42][..]);
        connection.notify_raw("note", "").await.unwrap();
        assert_eq!(notes.recv().await.unwrap(), "");
    });
}

#[test]
fn a_method_that_nobody_handles_harms_nothing() {
    run(async {
        let (server, notes) = node();
        let peer = server.raw().await;
        let mut stream =
            peer.notify(&[named("unknown"), named("node.health"), note("behind")].concat()).await;
        assert_eq!(stopped(&mut stream).await, None);
        assert_eq!(notes.recv().await.unwrap(), "behind");
        assert_goes_on(&server, &peer, &notes).await;
        let counters = counters(&server.connect().await).await;
        let [all, unhandled] = ["notifications", "notifications_unhandled"].map(|name| counters[name]);
        assert_eq!((all, unhandled), (4, 2), "two of them, one behind them, and one that goes on");
    });
}

/// A good notification, then these bytes without FIN, then another good one: the first is handled, the stream
/// stopped with this code, and the last one lost.
fn stops(bad: &[Vec<u8>], code: Code) {
    run(async {
        let (server, notes) = node();
        let peer = server.raw().await;
        for bad in bad {
            let mut stream = peer.connection.open_uni().await.unwrap();
            let _ = stream.write_all(&[&note("before"), &bad[..], &note("behind")].concat()).await;
            assert_eq!(stopped(&mut stream).await, Some(code), "{bad:02x?}");
            assert_eq!(notes.recv().await.unwrap(), "before");
            assert_goes_on(&server, &peer, &notes).await;
        }
        assert!(notes.is_empty());
        let mut stream = peer.notify(&[note("before"), note("between"), note("behind")].concat()).await;
        assert_eq!(stopped(&mut stream).await, None, "without it nothing is lost");
        for text in ["before", "between", "behind"] {
            assert_eq!(notes.recv().await.unwrap(), text);
        }
    });
}

const VERSION: &[u8] = &[0x00, 0x01];

#[test]
fn a_body_that_is_no_notification_stops_the_stream() {
    let method = entry(1, "note");
    let bad = [
        b"garbage".to_vec(),
        b"{\"garbage\"".to_vec(),
        map(&[VERSION]),
        map(&[&method]),
        map(&[VERSION, &entry(1, "")]),
        map(&[VERSION, &entry(1, "m".repeat(129))]),
        map(&[VERSION, &method, &method]),
        map(&[VERSION, &method, &entry(3, "text")]),
        // What only a request may have, and what nobody knows.
        map(&[VERSION, &method, &entry(2, 1)]),
        map(&[VERSION, &method, &entry(4, 1)]),
        map(&[VERSION, &method, &entry(15, 1)]),
        map(&[VERSION, &method, &entry(-1, 1)]),
        [&map(&[VERSION, &method])[..], b"\0"].concat(),
        map(&[VERSION, &method, &[&[0x10][..], &[0x81; 15], &[0x80]].concat()]),
        br#"{"protocol_version":1,"method":"note","resume_from":null}"#.to_vec(),
    ];
    stops(&bad.map(|body| frame(&body)), Code::PROTOCOL_VIOLATION);
}

#[test]
fn keys_from_sixteen_on_are_ignored() {
    run(async {
        let (server, notes) = node();
        let peer = server.raw().await;
        let body = map(&[VERSION, &entry(1, "note"), &entry(16, "later"), &entry(1000, [1, 2])]);
        assert_eq!(stopped(&mut peer.notify(&frame(&body)).await).await, None);
        assert_eq!(notes.recv().await.unwrap(), "");
    });
}

#[test]
fn another_version_stops_the_stream() {
    let version = |version: u16| frame(&map(&[&entry(0, version), &entry(1, "note")]));
    stops(&[version(0), version(2)], Code::PROTOCOL_VIOLATION);
}

#[test]
fn frames_that_must_not_be_stop_the_stream() {
    stops(&[frame(b"")], Code::PROTOCOL_VIOLATION);
    stops(&[524_289_u32.to_be_bytes().to_vec(), u32::MAX.to_be_bytes().to_vec()], Code::FRAME_TOO_LARGE);
}

#[test]
fn a_notification_that_fin_cuts_short_is_not_handled() {
    run(async {
        let (server, notes) = node();
        let peer = server.raw().await;
        let whole = note("cut");
        for end in [1, 4, whole.len() - 1] {
            peer.notify(&[&note("before"), &whole[..end]].concat()).await;
            assert_eq!(notes.recv().await.unwrap(), "before");
            assert_goes_on(&server, &peer, &notes).await;
        }
        peer.notify(b"").await;
        assert_goes_on(&server, &peer, &notes).await;
        peer.notify(&[note("before"), whole].concat()).await;
        assert_eq!(notes.recv().await.unwrap(), "before");
        assert_eq!(notes.recv().await.unwrap(), "cut", "only its last byte was missing");
    });
}

#[test]
fn a_notification_that_is_reset_half_way_is_not_handled() {
    run(async {
        let (server, notes) = node();
        let peer = server.raw().await;
        let mut stream = peer.connection.open_uni().await.unwrap();
        stream.write_all(&[&note("before"), &note("cut")[..9]].concat()).await.unwrap();
        assert_eq!(notes.recv().await.unwrap(), "before");
        stream.reset(crate::common::varint(Code::CANCELLED)).unwrap();
        assert_goes_on(&server, &peer, &notes).await;
        assert!(notes.is_empty());
    });
}

#[test]
fn an_unfinished_notification_runs_out_of_time_and_an_idle_stream_does_not() {
    run(async {
        // Long enough for whole requests to arrive, however busy the computer is.
        let soon = Duration::from_secs(2);
        let (server, notes) =
            node_within(TransportLimits::builder().request_read_timeout(soon).build().unwrap());
        let peer = server.raw().await;
        let mut idle = peer.connection.open_uni().await.unwrap();
        idle.write_all(&note("idle")).await.unwrap();
        assert_eq!(notes.recv().await.unwrap(), "idle");
        for bytes in [&note("slow")[..9], &[note("before"), note("slow")[..9].to_vec()].concat()] {
            let mut slow = peer.connection.open_uni().await.unwrap();
            slow.write_all(bytes).await.unwrap();
            assert_eq!(stopped(&mut slow).await, Some(Code::DEADLINE_EXCEEDED));
        }
        assert_eq!(notes.recv().await.unwrap(), "before");
        // It has been idle for longer than those took.
        idle.write_all(&note("not idle")).await.unwrap();
        assert_eq!(notes.recv().await.unwrap(), "not idle");
        assert_goes_on(&server, &peer, &notes).await;
    });
}

#[test]
fn as_many_streams_as_the_limit_says_are_handled_concurrently() {
    run(async {
        let limits = TransportLimits::builder().max_concurrent_uni_streams(2).build().unwrap();
        let (server, notes) = node_within(limits);
        let connection = server.connect().await;
        let mut open = Vec::new();
        for text in ["first", "second"] {
            let mut notifier = connection.notifier().await.unwrap();
            notifier.send_raw("note", text).await.unwrap();
            assert_eq!(notes.recv().await.unwrap(), text);
            open.push(notifier);
        }
        let mut third = std::pin::pin!(connection.notifier());
        assert!(poll_once(&mut third).await.is_none(), "the third stream waits");
        server.assert_serves_others().await;
        assert!(poll_once(&mut third).await.is_none(), "still");
        open.pop().unwrap().finish().await.unwrap();
        let mut third = third.await.unwrap();
        third.send_raw("note", "third").await.unwrap();
        assert_eq!(notes.recv().await.unwrap(), "third");
        open[0].send_raw("note", "first again").await.unwrap();
        assert_eq!(notes.recv().await.unwrap(), "first again");
    });
}

/// quinn gives a peer the credit for another stream once the end of one is read, and so before its handler
/// has run.
#[test]
fn streams_that_end_immediately_do_not_get_around_the_limit() {
    run(async {
        let (started, starts) = unbounded();
        let (release, released) = unbounded::<()>();
        let router = Router::new().on_notification_raw("slow", move |_: Context, _| {
            let (started, released) = (started.clone(), released.clone());
            async move {
                started.try_send(()).unwrap();
                released.recv().await.unwrap();
            }
        });
        let limits = TransportLimits::builder().max_concurrent_uni_streams(2).build().unwrap();
        let server = serve_within(limits, router);
        let peer = server.raw().await;
        let sending = async {
            for _ in 0..20 {
                drop(peer.notify(&named("slow")).await);
            }
            future::pending().await
        };
        let counting = async {
            for _ in 0..2 {
                starts.recv().await.unwrap();
            }
            for left in (0..18).rev() {
                // Another exchange there and back, so that whatever else were to start would have.
                peer.assert_is_served().await;
                assert!(starts.is_empty(), "more run than may");
                release.send(()).await.unwrap();
                starts.recv().await.unwrap();
                assert!(starts.is_empty(), "{left} are left to run one by one");
            }
        };
        or(counting, sending).await;
    });
}

#[test]
fn a_notifier_that_is_dropped_resets_its_stream() {
    run(async {
        let server = crate::common::RawServer::new();
        let (client, peer) = server.connect().await;
        for finished in [false, true] {
            let mut notifier = client.notifier().await.unwrap();
            notifier.send_raw("note", "x").await.unwrap();
            let mut stream = peer.accept_uni().await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            if finished {
                let reading = crate::common::read_answer(&mut stream);
                let (end, answer) = futures_lite::future::zip(notifier.finish(), reading).await;
                end.unwrap();
                assert!(matches!(answer, crate::common::Answer::Whole(_)));
            } else {
                drop(notifier);
                let answer = crate::common::read_answer(&mut stream).await;
                assert_eq!(answer, crate::common::Answer::Reset(Code::CANCELLED));
            }
        }
    });
}

#[test]
fn a_notifier_learns_that_its_stream_was_stopped() {
    run(async {
        let server = crate::common::RawServer::new();
        let (client, peer) = server.connect().await;
        let stopped = ErrorKind::StreamReset(Code::RATE_LIMITED);
        for large in [false, true] {
            let mut notifier = client.notifier().await.unwrap();
            notifier.send_raw("note", vec![0; if large { 100_000 } else { 1 }]).await.unwrap();
            let stopping = async {
                let mut stream = peer.accept_uni().await.unwrap();
                stream.stop(crate::common::varint(Code::RATE_LIMITED)).unwrap();
                future::pending().await
            };
            let sending = async {
                loop {
                    if let Err(error) = notifier.send_raw("note", "x").await {
                        return error;
                    }
                    // Now and then what the peer has to say must get a turn.
                    smol::future::yield_now().await;
                }
            };
            assert_eq!(or(sending, stopping).await.kind(), &stopped);
            assert!(notifier.send_raw("note", "x").await.is_err(), "nothing more is sent");
            assert!(notifier.finish().await.is_err(), "and not everything was received");
        }
    });
}

#[test]
fn a_notification_that_was_given_up_half_way_is_not_finished() {
    run(async {
        let server = crate::common::RawServer::new();
        let (client, peer) = server.connect().await;
        let mut notifier = client.notifier().await.unwrap();
        // More than the windows, so that it cannot leave as a whole.
        let large = vec![0; 500_000];
        let giving_up = async {
            let mut stream = peer.accept_uni().await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            stream
        };
        let sending = async {
            loop {
                notifier.send_raw("note", large.clone()).await.unwrap();
            }
        };
        let mut stream = or(giving_up, sending).await;
        let reading = crate::common::read_answer(&mut stream);
        let (end, answer) = futures_lite::future::zip(notifier.finish(), reading).await;
        assert_eq!(answer, crate::common::Answer::Reset(Code::CANCELLED), "it never looks whole");
        assert!(end.is_err(), "and not everything was received");
    });
}

#[test]
fn a_handler_that_fails_stops_its_own_stream_alone() {
    run(async {
        let (told, notes) = unbounded();
        let (gone, endings) = signal();
        let router = Router::new()
            .on_notification_raw("panic", |_: Context, _| async { panic!("as the test wants it") })
            .on_notification_raw("panic at once", |_: Context, _| -> future::Ready<()> {
                panic!("as the test wants it")
            })
            .on_notification_raw("hang", move |_: Context, _| {
                let guard = DropGuard(gone.clone());
                async move {
                    let _guard = guard;
                    future::pending().await
                }
            })
            .on_notification("typed", |_: Context, _: u32| async {});
        let limits = TransportLimits::builder().handler_timeout(Duration::from_secs(1)).build().unwrap();
        let server = serve_within(limits, noting(router, told));
        let peer = server.raw().await;
        let typed = |params: &[u8]| frame(&map(&[VERSION, &entry(1, "typed"), &[&[0x03], params].concat()]));
        for (bad, code) in [
            (named("panic"), Code::INTERNAL),
            (named("panic at once"), Code::INTERNAL),
            (named("hang"), Code::DEADLINE_EXCEEDED),
            (named("typed"), Code::PROTOCOL_VIOLATION),
            (typed(&[0x42, 0x61, b'x']), Code::PROTOCOL_VIOLATION),
        ] {
            let mut stream = peer.connection.open_uni().await.unwrap();
            let _ = stream.write_all(&[bad, note("behind")].concat()).await;
            assert_eq!(stopped(&mut stream).await, Some(code));
            assert_goes_on(&server, &peer, &notes).await;
        }
        endings.recv().await.unwrap();
        peer.notify(&[typed(&[0x42, 0x18, 42]), note("behind")].concat()).await;
        assert_eq!(notes.recv().await.unwrap(), "behind", "what decodes stops nothing");
        assert!(notes.is_empty());
    });
}

#[test]
fn a_sender_may_be_gone_before_its_notification_is_handled() {
    run(async {
        let (entered, entries) = signal();
        let (release, gate) = signal();
        let (told, notes) = signal();
        let router = Router::new().on_notification_raw("wait", move |_: Context, _| {
            let (entered, gate, told) = (entered.clone(), gate.clone(), told.clone());
            async move {
                entered.try_send(()).unwrap();
                gate.recv().await.unwrap();
                told.try_send(()).unwrap();
            }
        });
        let server = serve(router);
        let connection = server.connect().await;
        connection.notify_raw("wait", "").await.unwrap();
        entries.recv().await.unwrap();
        connection.close(Code::NO_ERROR, "");
        drop(connection);
        server.assert_serves_others().await;
        release.try_send(()).unwrap();
        notes.recv().await.unwrap();
    });
}

/// Whether a node that answers a request in `codec` so is known to be one of the tokio implementation, and
/// what a notification to it comes to.
async fn is_json_only(codec: Codec, answer: &[u8]) -> bool {
    let node = RawServer::new();
    let (connection, peer) = node.connect().await;
    let mut opened_before = connection.notifier().await.unwrap();
    let answering = async {
        let mut stream = RawStream::accept(&peer).await;
        stream.send(&frame(answer)).await;
        stream.finish();
    };
    let (outcome, ()) = zip(connection.request_raw("demo.echo", "").codec(codec).send_raw(), answering).await;
    assert!(matches!(outcome.unwrap_err().kind(), ErrorKind::Remote(_)));

    let known = connection.is_json_only();
    for refused in [
        connection.notify_raw("note", "1").await.err(),
        connection.notifier().await.err(),
        opened_before.send_raw("note", "2").await.err(),
    ] {
        assert_eq!(refused.map(|error| error.kind().clone()), known.then_some(ErrorKind::Unsupported));
    }
    assert_eq!(connection.stats().notifications_sent, if known { 0 } else { 2 });
    known
}

#[test]
fn notifications_are_refused_where_the_peer_is_known_to_speak_json_alone() {
    let refusal = |error: &str| {
        format!(r#"{{"protocol_version":1,"kind":"error","ok":false,"error":"{error}"}}"#).into_bytes()
    };
    let mut in_cbor = Vec::new();
    let invalid_request = Response::error(WireError::InvalidRequest);
    invalid_request.encode(Codec::Cbor, &mut in_cbor).unwrap();
    run(async {
        assert!(is_json_only(Codec::Cbor, &refusal("invalid_request")).await);
        assert!(is_json_only(Codec::Cbor, &[b"\n ".to_vec(), refusal("invalid_request")].concat()).await);
        // A node that reads both answers the same to JSON, and any other error is none of such a node's.
        assert!(!is_json_only(Codec::Json, &refusal("invalid_request")).await);
        assert!(!is_json_only(Codec::Cbor, &refusal("internal")).await);
        assert!(!is_json_only(Codec::Cbor, &in_cbor).await);
    });
}

#[test]
fn a_client_does_not_try_again_to_notify_a_peer_that_reads_no_notifications() {
    run(async {
        let node = RawServer::new();
        let client = node.client();
        let serving = async {
            let connection = node.accept().await;
            let mut stream = RawStream::accept(&connection).await;
            let refusal = br#"{"protocol_version":1,"kind":"error","ok":false,"error":"invalid_request"}"#;
            stream.send(&frame(refusal)).await;
            stream.finish();
            connection
        };
        let (called, _connection) = zip(client.call_raw("demo.echo", ""), serving).await;
        assert_eq!(called.unwrap_err().kind(), &ErrorKind::Remote(WireError::InvalidRequest));
        let refused = client.notify_raw("note", "").await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::Unsupported);
        assert!(!refused.may_have_run() && !refused.is_retryable());
    });
}
