//! How a node goes away: in order, within its grace, and so that its peers know what to do.

use std::{pin::pin, time::Duration};

use futures_lite::future::{poll_once, zip};
use palyra_quic::{
    Bytes, Client, Code, CodeClass, Connection, Context, Endpoint, Error, ErrorKind, EventItem, EventLog,
    Response, Router, WireError,
};
use smol::channel::{Receiver, Sender, bounded};

use crate::common::{
    Answer, DropGuard, Server, attempt, entry, frame, json_request, loopback, map, request, run, serve,
    signal, stopped,
};

/// More than any test takes.
const LONG: Duration = Duration::from_secs(1000);
const SHORT: Duration = Duration::from_millis(50);

/// What tells a test about the handlers of a node, and lets them go on.
struct Handlers {
    entered: Receiver<()>,
    release: Sender<()>,
    gone: Receiver<()>,
}

/// A node whose method and notification `wait` end when they are released; with a log.
fn node() -> (Server, Handlers, EventLog) {
    let (enter, entered) = signal();
    let (release, gate) = signal();
    let (leave, gone) = signal();
    let wait = move || {
        let (gate, guard) = (gate.clone(), DropGuard(leave.clone()));
        enter.try_send(()).unwrap();
        async move {
            let _guard = guard;
            gate.recv().await.unwrap();
        }
    };
    let noted = wait.clone();
    let log = EventLog::new();
    let router = Router::new()
        .serve_raw("wait", move |_: Context, _| {
            let waiting = wait();
            async move {
                waiting.await;
                Ok(Bytes::from(vec![7; 400_000]))
            }
        })
        .on_notification_raw("wait", move |_: Context, _| noted())
        .events(log.clone());
    (serve(router), Handlers { entered, release, gone }, log)
}

fn call(connection: &Connection) -> smol::Task<Result<Bytes, Error>> {
    let connection = connection.clone();
    smol::spawn(async move { connection.call_raw("wait", "").await })
}

fn assert_is_shutdown(error: &Error) {
    let (ErrorKind::ConnectionClosed(code) | ErrorKind::StreamReset(code)) = *error.kind() else {
        panic!("{error}");
    };
    assert_eq!((code, code.class()), (Code::SHUTTING_DOWN, CodeClass::Retry));
    assert!(error.is_retryable());
}

#[test]
fn what_is_running_finishes_within_the_grace() {
    run(async {
        let (server, handlers, _) = node();
        let connection = server.connect().await;
        let running = call(&connection);
        handlers.entered.recv().await.unwrap();
        let mut shutdown = pin!(server.endpoint.shutdown(LONG));
        assert!(poll_once(&mut shutdown).await.is_none(), "something is running");
        assert!(connection.close_reason().is_none());
        handlers.release.try_send(()).unwrap();
        let (answer, ()) = zip(running, shutdown).await;
        assert_eq!(answer.unwrap().len(), 400_000, "the whole of a large answer");
        assert_is_shutdown(&connection.closed().await);
    });
}

#[test]
fn a_node_with_nothing_to_do_closes_immediately() {
    run(async {
        let (server, ..) = node();
        let connection = server.connect().await;
        assert!(connection.health().await.unwrap().ok);
        server.endpoint.shutdown(LONG).await;
        assert_is_shutdown(&connection.closed().await);
        assert_is_shutdown(&connection.close_reason().unwrap());
        assert_is_shutdown(&connection.health().await.unwrap_err());
        // And again, which changes nothing.
        server.endpoint.shutdown(LONG).await;
    });
}

#[test]
fn what_is_still_running_after_the_grace_is_given_up() {
    run(async {
        let (server, handlers, _) = node();
        let connection = server.connect().await;
        let running = call(&connection);
        handlers.entered.recv().await.unwrap();
        assert!(handlers.gone.is_empty());
        server.endpoint.shutdown(SHORT).await;
        let error = running.await.unwrap_err();
        assert_is_shutdown(&error);
        assert!(error.may_have_run());
        handlers.gone.recv().await.unwrap();
        assert_is_shutdown(&connection.closed().await);
    });
}

/// So that a program which waits for the end of its endpoint, and ends itself, cuts nothing short.
#[test]
fn an_endpoint_is_closed_when_its_shutdown_has_finished() {
    run(async {
        for grace in [Duration::ZERO, SHORT] {
            let (server, handlers, _log) = node();
            let connection = server.connect().await;
            let _call = call(&connection);
            handlers.entered.recv().await.unwrap();
            let endpoint = server.endpoint.clone();
            let shutdown = smol::spawn(async move { endpoint.shutdown(grace).await });
            assert_eq!(*server.endpoint.closed().await.kind(), ErrorKind::Closed);
            assert!(handlers.gone.try_recv().is_ok(), "its handler is still there");
            shutdown.await;
            assert!(server.endpoint.is_closed());
        }
    });
}

#[test]
fn new_requests_are_unavailable() {
    run(async {
        let (server, handlers, _) = node();
        let connection = server.connect().await;
        let peer = server.raw().await;
        let running = call(&connection);
        handlers.entered.recv().await.unwrap();
        peer.assert_is_served().await;
        let mut shutdown = pin!(server.endpoint.shutdown(LONG));
        assert!(poll_once(&mut shutdown).await.is_none());
        for method in ["node.health", "node.stream_events", "wait", "unknown"] {
            for body in [request(method), json_request(method)] {
                let error = peer.request(&body).await.error_in(palyra_quic::Codec::of(&body));
                assert_eq!(error, WireError::Unavailable, "{method}");
            }
        }
        let error = connection.call_raw("wait", "").await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Unavailable));
        assert!(error.is_retryable() && !error.may_have_run());
        assert!(handlers.entered.is_empty());
        // What is wrong with a request is said first.
        assert_eq!(peer.request(b"garbage").await.error(), WireError::InvalidRequest);
        let other_version = map(&[&entry(0, 2), &entry(1, "wait")]);
        assert_eq!(peer.request(&other_version).await.error(), WireError::ProtocolMismatch);
        assert_eq!(peer.exchange(&frame(b"")).await, Answer::Reset(Code::PROTOCOL_VIOLATION));
        handlers.release.try_send(()).unwrap();
        zip(shutdown, async { running.await.unwrap() }).await;
    });
}

#[test]
fn new_connections_are_refused() {
    run(async {
        let (server, handlers, _) = node();
        let connection = server.connect().await;
        let running = call(&connection);
        handlers.entered.recv().await.unwrap();
        let tls = server.pki.client_tls();
        assert!(attempt(&tls, server.address()).await.is_ok());
        let mut shutdown = pin!(server.endpoint.shutdown(LONG));
        assert!(poll_once(&mut shutdown).await.is_none());
        let error = attempt(&tls, server.address()).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Refused);
        assert!(error.is_retryable());
        handlers.release.try_send(()).unwrap();
        zip(shutdown, async { running.await.unwrap() }).await;
    });
}

#[test]
fn followed_events_end_with_the_code_that_says_come_back() {
    run(async {
        let (server, handlers, log) = node();
        log.publish_raw("before").unwrap();
        let connection = server.connect().await;
        let running = call(&connection);
        handlers.entered.recv().await.unwrap();
        let mut events = connection.events_raw().follow().open().await.unwrap();
        assert!(matches!(events.next_raw().await.unwrap(), Some(EventItem::Event { seq: 1, .. })));
        assert!(poll_once(events.next_raw()).await.is_none());
        let mut shutdown = pin!(server.endpoint.shutdown(LONG));
        assert!(poll_once(&mut shutdown).await.is_none());
        // While the connection is still there for what is running.
        assert_is_shutdown(&events.next_raw().await.unwrap_err());
        assert!(events.next_raw().await.unwrap().is_none());
        assert!(connection.close_reason().is_none());
        handlers.release.try_send(()).unwrap();
        zip(shutdown, async { running.await.unwrap() }).await;
    });
}

#[test]
fn followed_events_alone_hold_no_shutdown() {
    run(async {
        let (server, _, log) = node();
        log.publish_raw("before").unwrap();
        let connection = server.connect().await;
        let mut events = connection.events_raw().follow().open().await.unwrap();
        assert!(events.next_raw().await.unwrap().is_some());
        let ((), error) =
            zip(server.endpoint.shutdown(LONG), async { events.next_raw().await.unwrap_err() }).await;
        // Of the stream, or of the connection that followed it.
        assert_is_shutdown(&error);
    });
}

#[test]
fn notification_streams_are_stopped_and_what_is_handled_finishes() {
    run(async {
        let (server, handlers, _) = node();
        let peer = server.raw().await;
        let waiting = frame(&map(&[&entry(0, 1), &entry(1, "wait")]));
        let mut busy = peer.connection.open_uni().await.unwrap();
        busy.write_all(&waiting).await.unwrap();
        handlers.entered.recv().await.unwrap();
        let mut idle = peer.connection.open_uni().await.unwrap();
        idle.write_all(&frame(&map(&[&entry(0, 1), &entry(1, "unknown")]))).await.unwrap();
        peer.assert_is_served().await;
        let mut shutdown = pin!(server.endpoint.shutdown(LONG));
        assert!(poll_once(&mut shutdown).await.is_none(), "a notification is being handled");
        assert_eq!(stopped(&mut idle).await, Some(Code::SHUTTING_DOWN));
        assert!(handlers.gone.is_empty());
        handlers.release.try_send(()).unwrap();
        handlers.gone.recv().await.unwrap();
        shutdown.await;
    });
}

#[test]
fn a_shutdown_that_is_dropped_turns_new_work_away_all_the_same() {
    run(async {
        let (server, handlers, _) = node();
        let connection = server.connect().await;
        let running = call(&connection);
        handlers.entered.recv().await.unwrap();
        assert!(poll_once(server.endpoint.shutdown(LONG)).await.is_none());
        let error = connection.health().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Unavailable));
        handlers.release.try_send(()).unwrap();
        assert!(running.await.is_ok());
        assert!(connection.close_reason().is_none(), "it stays open until the endpoint is dropped");
        drop(server);
        assert_eq!(connection.closed().await.kind(), &ErrorKind::ConnectionClosed(Code::NO_ERROR));
    });
}

/// A node that hands over the connections it accepts.
fn lending() -> (Server, Receiver<Connection>) {
    let (lend, lent) = bounded(1);
    let router = Router::new().on_connection(move |connection| {
        let lend = lend.clone();
        async move { lend.send(connection).await.unwrap() }
    });
    (serve(router), lent)
}

#[test]
fn either_side_learns_that_the_other_shuts_down() {
    run(async {
        for server_leaves in [true, false] {
            let (server, lent) = lending();
            let dialler = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
            let dialled = dialler.connect(server.address()).await.unwrap();
            let accepted = lent.recv().await.unwrap();
            let (leaving, here, there) = match server_leaves {
                true => (&server.endpoint, accepted, dialled),
                false => (&dialler, dialled, accepted),
            };
            leaving.shutdown(LONG).await;
            assert_is_shutdown(&there.closed().await);
            assert_eq!(here.closed().await.kind(), &ErrorKind::Closed, "its own doing");
            assert!(there.request_raw("node.health", "").health().await.is_err());
        }
    });
}

#[test]
fn a_dialler_that_shuts_down_finishes_what_it_serves() {
    run(async {
        let (server, lent) = lending();
        let (enter, entered) = signal();
        let (release, gate) = signal();
        let router = Router::new().serve_raw("wait", move |_: Context, params| {
            let (enter, gate) = (enter.clone(), gate.clone());
            async move {
                enter.try_send(()).unwrap();
                gate.recv().await.unwrap();
                Ok(params)
            }
        });
        let dialler =
            Endpoint::builder().client(server.pki.client_tls()).router(router).bind(loopback()).unwrap();
        let _dialled = dialler.connect(server.address()).await.unwrap();
        let accepted = lent.recv().await.unwrap();
        let running = call(&accepted);
        entered.recv().await.unwrap();
        let mut shutdown = pin!(dialler.shutdown(LONG));
        assert!(poll_once(&mut shutdown).await.is_none());
        let error = accepted.health().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Unavailable));
        release.try_send(()).unwrap();
        let (answer, ()) = zip(running, shutdown).await;
        assert_eq!(answer.unwrap(), "");
        assert_is_shutdown(&accepted.closed().await);
    });
}

#[test]
fn dropping_the_endpoint_closes_everything_immediately() {
    run(async {
        let (server, handlers, _) = node();
        let connection = server.connect().await;
        let running = call(&connection);
        handlers.entered.recv().await.unwrap();
        // Another handle keeps it open.
        let another = server.endpoint.clone();
        drop(server);
        assert!(connection.health().await.unwrap().ok);
        drop(another);
        let done = ErrorKind::ConnectionClosed(Code::NO_ERROR);
        assert_eq!(running.await.unwrap_err().kind(), &done);
        assert_eq!(connection.closed().await.kind(), &done);
        handlers.gone.recv().await.unwrap();
    });
}

#[test]
fn a_dialled_connection_keeps_its_endpoint_until_it_is_dropped() {
    run(async {
        let (server, lent) = lending();
        let dialler = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
        let dialled = dialler.connect(server.address()).await.unwrap();
        let accepted = lent.recv().await.unwrap();
        drop(dialler);
        assert!(matches!(
            dialled.request_raw("node.health", "").respond().await.unwrap(),
            Response::Health { .. }
        ));
        let another = dialled.clone();
        drop(dialled);
        assert!(another.health().await.unwrap().ok);
        drop(another);
        assert_eq!(accepted.closed().await.kind(), &ErrorKind::ConnectionClosed(Code::NO_ERROR));
    });
}

#[test]
fn an_answer_that_was_given_as_the_shutdown_began_arrives() {
    run(async {
        let (hand_over, endpoints) = bounded::<Endpoint>(1);
        let (done, ended) = signal();
        // A handler that shuts its own node down: the shutdown begins once the answer is written, and before
        // it has left.
        let router = Router::new().serve_raw("leave", move |_: Context, params| {
            let (endpoints, done) = (endpoints.clone(), done.clone());
            async move {
                let endpoint = endpoints.recv().await.unwrap();
                let leaving = async move {
                    endpoint.shutdown(LONG).await;
                    done.try_send(()).unwrap();
                };
                smol::spawn(leaving).detach();
                Ok(params)
            }
        });
        let server = serve(router);
        hand_over.send(server.endpoint.clone()).await.unwrap();
        let connection = server.connect().await;
        assert_eq!(connection.call_raw("leave", "bye").await.unwrap(), "bye");
        ended.recv().await.unwrap();
        assert_is_shutdown(&connection.closed().await);
    });
}

/// The same over real sockets, whatever else the machine has to do.
#[test]
fn notifications_written_just_before_an_orderly_end_arrive() {
    run(async {
        let (told, notes) = signal();
        let server = serve(Router::new().on_notification_raw("note", move |_: Context, _| {
            let told = told.clone();
            async move { told.try_send(()).unwrap() }
        }));
        for round in 0..20 {
            let node = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
            match round % 4 {
                0 => {
                    let connection = node.connect(server.address()).await.unwrap();
                    connection.notify_raw("note", "hi").await.unwrap();
                    node.shutdown(LONG).await;
                }
                1 => {
                    let connection = node.connect(server.address()).await.unwrap();
                    connection.notify_raw("note", "hi").await.unwrap();
                    drop(connection);
                    node.shutdown(LONG).await;
                }
                2 => {
                    let client = Client::builder(node.clone()).address(server.address()).build().unwrap();
                    client.notify_raw("note", "hi").await.unwrap();
                    node.shutdown(LONG).await;
                }
                _ => {
                    let connection = node.connect(server.address()).await.unwrap();
                    connection.notify_raw("note", "hi").await.unwrap();
                    drop((node, connection));
                }
            }
            notes.recv().await.unwrap();
        }
    });
}

#[test]
fn an_own_call_is_answered_though_its_node_shuts_down() {
    run(async {
        let (server, handlers, _) = node();
        let dialler = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
        let connection = dialler.connect(server.address()).await.unwrap();
        let running = call(&connection);
        handlers.entered.recv().await.unwrap();
        let mut shutdown = pin!(dialler.shutdown(LONG));
        assert!(poll_once(&mut shutdown).await.is_none());
        assert!(connection.health().await.unwrap().ok, "further calls are possible");
        handlers.release.try_send(()).unwrap();
        let (answer, ()) = zip(running, shutdown).await;
        assert_eq!(answer.unwrap().len(), 400_000);
    });
}

/// A handler of the node that shuts down, on an executor of many threads.
#[test]
fn a_method_that_awaits_the_shutdown_of_its_node_answers() {
    run(async {
        for _ in 0..10 {
            let (hand_over, endpoints) = bounded::<Endpoint>(1);
            let router = Router::new().serve_raw("leave", move |_: Context, params| {
                let endpoints = endpoints.clone();
                async move {
                    let endpoint = endpoints.recv().await.unwrap();
                    endpoint.shutdown(LONG).await;
                    Ok(params)
                }
            });
            let server = serve(router);
            hand_over.send(server.endpoint.clone()).await.unwrap();
            let connection = server.connect().await;
            assert_eq!(connection.call_raw("leave", "bye").await.unwrap(), "bye");
            assert_is_shutdown(&connection.closed().await);
        }
    });
}
