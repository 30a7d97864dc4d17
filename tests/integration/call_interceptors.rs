//! Interceptors around the calls of an endpoint: what they see, and what becomes of what they return.

use std::time::Duration;

use futures_lite::{StreamExt, future};
use palyra_quic::{
    Bytes, Client, Connection, Context, Endpoint, EndpointBuilder, Error, ErrorKind, EventLog, ItemsMethod,
    MethodKind, NextCall, OutgoingCall, Router, TransportLimits, WireError, sim::Link,
};

use crate::{
    common::{Server, loopback, run, serve, signal},
    journal::{Journal, noting},
    simulation::{Pair, SECOND, client_tls},
};

/// An interceptor that notes that it has begun and ended.
fn named(builder: EndpointBuilder, journal: &Journal, name: &'static str) -> EndpointBuilder {
    let journal = journal.clone();
    builder.around_calls(move |call: OutgoingCall, next: NextCall| {
        let journal = journal.clone();
        async move {
            journal.note(format!("{name} {}", call.method()));
            let answer = next.run().await;
            journal.note(format!("{name} ends"));
            answer
        }
    })
}

async fn connect(server: &Server, builder: EndpointBuilder) -> Connection {
    let endpoint = builder.client(server.pki.client_tls()).bind(loopback()).unwrap();
    endpoint.connect(server.address()).await.unwrap()
}

async fn counted(connection: &Connection, last: u32) -> Result<Vec<u32>, Error> {
    connection.stream::<_, u32>("count", &last).await?.try_collect::<_, _, Vec<_>>().await
}

async fn double(connection: &Connection) -> Result<u32, Error> {
    connection.call("double", &21_u32).await
}

#[test]
fn interceptors_see_calls_of_every_kind() {
    run(async {
        let log = EventLog::new();
        log.publish("an event").unwrap();
        let server = serve(noting(&Journal::default()).events(log));
        let (seen, sees) = smol::channel::unbounded();
        let address = server.address();
        let builder = Endpoint::builder().around_calls(move |call: OutgoingCall, next: NextCall| {
            assert_eq!(call.remote_address(), address);
            assert!(call.peer().unwrap().dns_names().any(|name| name == "gateway.example"));
            let row = (call.method().to_owned(), call.kind(), call.params_len(), call.deadline().is_some());
            seen.try_send(row).unwrap();
            next.run()
        });
        let connection = connect(&server, builder).await;
        assert_eq!(double(&connection).await.unwrap(), 42);
        let call = connection.request_raw("double", "\x18\x32").timeout(10 * SECOND);
        assert_eq!(call.send_raw().await.unwrap(), "\x18\x64");
        assert_eq!(counted(&connection, 3).await.unwrap(), [1, 2, 3]);
        connection.notify("note", "hello").await.unwrap();
        let mut notifier = connection.notifier().await.unwrap();
        notifier.send("note", "bye").await.unwrap();
        notifier.finish().await.unwrap();
        assert!(connection.health().await.unwrap().ok);
        let mut events = connection.events_raw().resume_from(0).open().await.unwrap();
        assert!(events.next_raw().await.unwrap().is_some());
        let (unary, streaming) = (MethodKind::Unary, MethodKind::Streaming);
        for (method, kind, params_len, has_deadline) in [
            ("double", unary, 1, false),
            ("double", unary, 2, true),
            ("count", streaming, 1, false),
            ("note", MethodKind::Notification, 6, false),
            ("note", MethodKind::Notification, 4, false),
            ("node.health", unary, 0, false),
            ("node.stream_events", streaming, 0, false),
        ] {
            assert_eq!(sees.try_recv().unwrap(), (method.to_owned(), kind, params_len, has_deadline));
        }
        assert!(sees.is_empty());
    });
}

#[test]
fn the_first_interceptor_is_the_outermost_in_both_directions() {
    run(async {
        let (journal, here) = (Journal::default(), Journal::default());
        let pki = crate::common::Pki::new();
        let calls_back = Router::new().serve("call_back", |context: Context, (): ()| async move {
            Ok(context.connection().call::<_, u32>("double", &4_u32).await?)
        });
        let builder = named(named(Endpoint::builder(), &journal, "outer"), &journal, "inner");
        let node = builder.server(pki.server_tls()).router(calls_back).bind(loopback()).unwrap();
        let client = Endpoint::builder().client(pki.client_tls()).router(noting(&here)).bind(loopback());
        let connection = client.unwrap().connect(node.local_addr().unwrap()).await.unwrap();
        assert_eq!(connection.call::<_, u32>("call_back", &()).await.unwrap(), 8);
        assert_eq!(journal.take(), ["outer double", "inner double", "inner ends", "outer ends"]);
        assert_eq!(here.take(), ["double"]);
    });
}

#[test]
fn a_refused_call_is_not_sent() {
    run(async {
        let journal = Journal::default();
        let server = serve(noting(&journal));
        for later in [false, true] {
            let builder = Endpoint::builder().around_calls(move |call: OutgoingCall, _| async move {
                Err(if later { call.refuse_for(SECOND, "not now") } else { call.refuse("never") })
            });
            let connection = connect(&server, builder).await;
            let mut notifier = connection.notifier().await.unwrap();
            let failures = [
                ("double", double(&connection).await.unwrap_err()),
                ("count", counted(&connection, 3).await.unwrap_err()),
                ("note", connection.notify("note", "hello").await.unwrap_err()),
                ("note", notifier.send("note", "hello").await.unwrap_err()),
            ];
            for (method, failure) in failures {
                let (kind, reason, after) = match later {
                    true => (ErrorKind::Exhausted, "not now", Some(SECOND)),
                    false => (ErrorKind::Intercepted, "never", None),
                };
                assert_eq!((failure.kind(), failure.explanation()), (&kind, Some(reason)));
                assert_eq!((failure.retry_after(), failure.is_retryable()), (after, later));
                assert_eq!(
                    (failure.method(), failure.peer_address()),
                    (Some(method), Some(server.address()))
                );
                assert!(!failure.may_have_run());
            }
            assert_eq!(server.endpoint.stats().requests, 0);
        }
        assert_eq!(journal.take(), [""; 0]);
    });
}

#[test]
fn an_interceptor_may_replace_answers_but_no_streams() {
    run(async {
        let journal = Journal::default();
        let server = serve(noting(&journal));
        let builder = Endpoint::builder().around_calls(|call: OutgoingCall, next: NextCall| async move {
            if call.params_len() == 1 {
                next.run().await?;
            }
            Ok(Bytes::from_static(&[7]))
        });
        let connection = connect(&server, builder).await;
        assert_eq!(double(&connection).await.unwrap(), 7);
        assert_eq!(counted(&connection, 2).await.unwrap(), [1, 2]);
        assert_eq!(journal.take(), ["double", "count"]);
        assert_eq!(connection.call::<_, u32>("double", &500_u32).await.unwrap(), 7);
        let no_stream = counted(&connection, 500).await.unwrap_err();
        assert_eq!(no_stream.kind(), &ErrorKind::Intercepted);
        assert!(!no_stream.may_have_run());
        connection.notify("note", "kept back").await.unwrap();
        connection.notify("note", "").await.unwrap();
        while journal.is_empty() {
            future::yield_now().await;
        }
        assert_eq!(journal.take(), [""]);
        assert_eq!(server.endpoint.stats().notifications, 1);
    });
}

/// A client repeats what has certainly not run. So an interceptor must not be able to say so.
#[test]
fn whatever_an_interceptor_returns_a_call_that_has_run_may_have_run() {
    run(async {
        let journal = Journal::default();
        let server = serve(noting(&journal));
        let builder = Endpoint::builder().around_calls(|call: OutgoingCall, next: NextCall| async move {
            let answer = next.run().await;
            // Without parameters that decode, the node says that nothing has run.
            answer.and_then(|_| Err(call.refuse_for(SECOND, "after it has run")))
        });
        let endpoint = builder.client(server.pki.client_tls()).bind(loopback()).unwrap();
        let client = Client::builder(endpoint).address(server.address()).build().unwrap();
        let failure = client.call::<_, u32>("double", &21_u32).await.unwrap_err();
        assert_eq!(failure.kind(), &ErrorKind::Exhausted);
        assert!(failure.may_have_run());
        assert_eq!(journal.take(), ["double"], "it is not repeated");
        let not_run = client.call::<_, u32>("double", "text").await.unwrap_err();
        assert_eq!(not_run.kind(), &ErrorKind::Remote(WireError::InvalidRequest));
        assert!(!not_run.may_have_run(), "the node's own word stays");
    });
}

#[test]
fn an_interceptor_that_stops_waiting_cancels_the_call() {
    run(async {
        let (began, begins) = signal();
        let (cancelled, cancels) = signal();
        let router = Router::new().serve_raw("hang", move |context: Context, _| {
            let (began, cancelled) = (began.clone(), cancelled.clone());
            smol::spawn(async move {
                context.over().await;
                cancelled.send(()).await.unwrap();
            })
            .detach();
            async move {
                began.send(()).await.unwrap();
                future::pending().await
            }
        });
        let server = serve(router);
        let (given_up, gives_up) = signal();
        let builder = Endpoint::builder().around_calls(move |call: OutgoingCall, next: NextCall| {
            let (begins, given_up, cancels) = (begins.clone(), given_up.clone(), cancels.clone());
            async move {
                let gives_up = async {
                    begins.recv().await.unwrap();
                    Err(call.refuse("too slow"))
                };
                let answer = future::or(next.run(), gives_up).await;
                // The call is over before its interceptor is.
                cancels.recv().await.unwrap();
                given_up.send(()).await.unwrap();
                answer
            }
        });
        let connection = connect(&server, builder).await;
        let failure = connection.call_raw("hang", "").await.unwrap_err();
        assert_eq!(failure.kind(), &ErrorKind::Intercepted);
        assert!(failure.may_have_run());
        gives_up.recv().await.unwrap();
    });
}

#[test]
fn the_time_limit_of_a_call_is_for_interceptors_too() {
    let pair = Pair::new(1, Link::new().delay(Duration::from_millis(5)));
    let router = Router::new().serve("time_left", |context: Context, (): ()| async move {
        let left = context.time_left().unwrap();
        Ok(u64::try_from(left.as_millis()).unwrap())
    });
    let node = pair.serve(router, TransportLimits::default());
    let sim = pair.sim.clone();
    let builder = Endpoint::builder().around_calls(move |call: OutgoingCall, next: NextCall| {
        let sim = sim.clone();
        async move {
            if call.params_len() > 1 {
                return future::pending().await;
            }
            sim.sleep(3 * SECOND).await;
            next.run().await
        }
    });
    let dialler = pair.sensor.bind(builder.client(client_tls()), 0).unwrap();
    pair.sim.run(async {
        let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        let call = connection.request::<_, u64>("time_left", &()).unwrap().timeout(10 * SECOND);
        let left = call.send().await.unwrap();
        assert!((6_000..=7_000).contains(&left), "the node is told what is left: {left}");
        for hangs in [false, true] {
            let began = pair.sim.now();
            let params = if hangs { "long" } else { "" };
            let call = connection.request_raw("time_left", params).timeout(2 * SECOND);
            let failures = [call.clone().send_raw().await.unwrap_err(), call.stream().await.unwrap_err()];
            for failure in failures {
                assert_eq!(failure.kind(), &ErrorKind::DeadlineExceeded);
                assert!(!failure.may_have_run(), "it was not sent");
            }
            let took = pair.sim.now() - began;
            assert!((4 * SECOND..5 * SECOND).contains(&took), "{took:?}");
        }
    });
}

#[test]
fn an_answer_that_is_no_result_passes_unchanged() {
    run(async {
        let server = serve(Router::new());
        let builder = Endpoint::builder().around_calls(|_, next: NextCall| async move {
            assert_eq!(next.run().await?, "");
            Ok(Bytes::from_static(b"replaced"))
        });
        let connection = connect(&server, builder).await;
        let health = connection.health().await.unwrap();
        assert!(health.ok && health.payload.is_some());
    });
}

/// Neither may a client say so where the time limit passes that is only for sending a request.
#[test]
fn a_client_whose_time_limit_passes_tells_whether_a_request_has_left() {
    const GATHER: ItemsMethod<(), u32, u32> = ItemsMethod::new("gather");
    let pair = Pair::new(1, Link::new().delay(Duration::from_millis(5)));
    let journal = Journal::default();
    let gathers = journal.clone();
    let router = noting(&journal).serve_items(GATHER, move |_, (), _| {
        gathers.note("gather");
        future::pending()
    });
    let node = pair.serve(router, TransportLimits::default());
    for waits_before in [false, true] {
        let builder =
            Endpoint::builder().around_calls(move |call: OutgoingCall, next: NextCall| async move {
                if call.method().starts_with("node.") {
                    return next.run().await;
                }
                if !waits_before {
                    next.run().await?;
                }
                future::pending().await
            });
        let dialler = pair.sensor.bind(builder.client(client_tls()), 0).unwrap();
        let client = Client::builder(dialler).address(node.local_addr().unwrap());
        let client = client.call_timeout(2 * SECOND).build().unwrap();
        let failures = async {
            [
                client.stream::<_, u32>("count", &1_u32).await.unwrap_err(),
                client.send_items(GATHER, &()).await.unwrap_err(),
                client.notify("note", "hello").await.unwrap_err(),
            ]
        };
        let endless = async {
            pair.sim.sleep(60 * SECOND).await;
            panic!("a request has no time limit");
        };
        pair.sim.run(async {
            let failures = future::or(failures, endless).await;
            for failure in failures {
                assert_eq!(failure.kind(), &ErrorKind::DeadlineExceeded);
                assert_eq!(failure.may_have_run(), !waits_before, "{failure:?}");
            }
        });
        let ran: &[_] = if waits_before { &[] } else { &["count", "gather", "hello"] };
        assert_eq!(journal.take(), ran);
    }
}
