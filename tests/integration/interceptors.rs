//! Interceptors of a router: what they see, in which order, and what becomes of what they answer.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_lite::{StreamExt, future};
use palyra_quic::{
    Bytes, Code, Connection, Context, Error, ErrorKind, EventLog, Exchange, MethodError, MethodKind, Next,
    Peers, Router, TransportLimits, WireError, minicbor, sim::Link,
};

use crate::{
    common::{run, serve, signal},
    journal::{Journal, noting},
    simulation::{Pair, SECOND},
};

/// An interceptor that notes that it has begun and ended.
fn named(router: Router, journal: &Journal, name: &'static str) -> Router {
    let journal = journal.clone();
    router.around(move |exchange: Exchange, next: Next| {
        let journal = journal.clone();
        async move {
            journal.note(format!("{name} {}", exchange.method()));
            let answer = next.run().await;
            journal.note(format!("{name} ends"));
            answer
        }
    })
}

fn refusing(router: Router, error: impl Fn() -> MethodError + Send + Sync + 'static) -> Router {
    router.around(move |_, _| {
        let error = error();
        async move { Err(error) }
    })
}

async fn counted(connection: &Connection, last: u32) -> Result<Vec<u32>, Error> {
    connection.stream::<_, u32>("count", &last).await?.try_collect::<_, _, Vec<_>>().await
}

async fn double(connection: &Connection) -> Result<u32, Error> {
    connection.call("double", &21_u32).await
}

#[test]
fn interceptors_see_exchanges_of_every_kind() {
    run(async {
        let (seen, sees) = smol::channel::unbounded();
        let router = noting(&Journal::default()).around(move |exchange: Exchange, next: Next| {
            let context = exchange.context();
            let peer = context.peer().unwrap().common_name().map(ToOwned::to_owned);
            let has_time = context.time_left().is_some_and(|left| left > Duration::from_secs(20));
            let row = (exchange.method().to_owned(), exchange.kind(), exchange.params_len(), peer, has_time);
            seen.try_send(row).unwrap();
            next.run()
        });
        let server = serve(router);
        let connection = server.connect().await;
        assert_eq!(double(&connection).await.unwrap(), 42);
        assert_eq!(counted(&connection, 3).await.unwrap(), [1, 2, 3]);
        connection.notify("note", "hello").await.unwrap();
        let peer = Some("Palyra Device sensor-7".to_owned());
        for (method, kind, params_len) in [
            ("double", MethodKind::Unary, 1),
            ("count", MethodKind::Streaming, 1),
            ("note", MethodKind::Notification, 1 + 5),
        ] {
            let row = (method.to_owned(), kind, params_len, peer.clone(), true);
            assert_eq!(sees.recv().await.unwrap(), row);
        }
    });
}

#[test]
fn the_first_interceptor_is_the_outermost() {
    run(async {
        let journal = Journal::default();
        let router = named(named(noting(&journal), &journal, "outer"), &journal, "inner");
        let late = journal.clone();
        let router = router.serve_raw("late", move |_: Context, params| {
            late.note("late");
            async move { Ok(params) }
        });
        let server = serve(router);
        let connection = server.connect().await;
        for (method, params) in [("double", "\x15"), ("late", "x")] {
            connection.call_raw(method, params).await.unwrap();
            let (outer, inner) = (format!("outer {method}"), format!("inner {method}"));
            assert_eq!(journal.take(), [&*outer, &inner, method, "inner ends", "outer ends"]);
        }
    });
}

#[test]
fn interceptors_of_a_nested_router_are_for_its_own_methods() {
    run(async {
        let journal = Journal::default();
        let deepest = named(noting(&journal), &journal, "deepest");
        let nested = named(Router::new().nest("b", deepest), &journal, "nested");
        let other = noting(&journal);
        let router = noting(&journal).nest("a", nested).nest("c", other);
        let router = named(router, &journal, "outer");
        // Of the node, instead of the nested router's.
        let router = router.serve_raw("a.b.count", |_: Context, params| async move { Ok(params) });
        let server = serve(router);
        let connection = server.connect().await;
        let around = async |method: &str| {
            connection.call_raw(method, "\x15").await.unwrap();
            journal.take()
        };
        assert_eq!(around("double").await, ["outer double", "double", "outer ends"]);
        assert_eq!(around("c.double").await, ["outer c.double", "double", "outer ends"]);
        assert_eq!(around("a.b.count").await, ["outer a.b.count", "outer ends"]);
        let [outer, nested, deepest] =
            ["outer", "nested", "deepest"].map(|name| format!("{name} a.b.double"));
        let ends = ["deepest ends", "nested ends", "outer ends"];
        let begins = [&*outer, &nested, &deepest, "double"];
        assert_eq!(around("a.b.double").await, [&begins[..], &ends].concat());
        connection.notify("a.b.note", "hello").await.unwrap();
        while journal.len() < 7 {
            future::yield_now().await;
        }
        assert_eq!(journal.take()[2..4], ["deepest a.b.note", "hello"]);
    });
}

#[test]
fn a_refused_request_has_not_run_and_says_so() {
    run(async {
        let journal = Journal::default();
        let errors = [
            WireError::PermissionDenied,
            WireError::ResourceExhausted,
            WireError::Unavailable,
            WireError::Other("novelty".into()),
        ];
        for wire_error in errors {
            let error = MethodError::new(wire_error.clone()).retry_after(3 * SECOND).detail("not now");
            let server = serve(refusing(noting(&journal), move || error.clone()));
            let connection = server.connect().await;
            for failure in
                [double(&connection).await.unwrap_err(), counted(&connection, 3).await.unwrap_err()]
            {
                assert_eq!(failure.kind(), &ErrorKind::Remote(wire_error.clone()));
                assert_eq!(failure.retry_after(), Some(3 * SECOND));
                assert_eq!(failure.explanation(), Some("not now"));
                assert!(!failure.may_have_run(), "{failure}");
            }
            assert_eq!(journal.take(), [""; 0]);
        }
    });
}

#[test]
fn an_error_after_the_handler_says_that_it_may_have_run() {
    run(async {
        let journal = Journal::default();
        let router = noting(&journal).around(|_, next: Next| async move {
            next.run().await?;
            Err(MethodError::new(WireError::Unavailable))
        });
        let server = serve(router);
        let connection = server.connect().await;
        for failure in [double(&connection).await.unwrap_err(), counted(&connection, 1).await.unwrap_err()] {
            let exhausted = ErrorKind::Remote(WireError::ResourceExhausted);
            assert_eq!(failure.kind(), &exhausted, "`unavailable` would say that it has not run");
            assert!(failure.may_have_run());
        }
        assert_eq!(journal.take(), ["double", "count"]);
    });
}

/// The handler is not called if its parameters do not decode, which only the rest of the exchange knows.
#[test]
fn an_interceptor_cannot_keep_the_word_that_nothing_has_run() {
    run(async {
        let kept = Arc::new(Mutex::new(None));
        let router = noting(&Journal::default()).around(move |_, next: Next| {
            let kept = Arc::clone(&kept);
            async move {
                let answer = next.run().await;
                let mut kept = kept.lock().unwrap();
                match answer {
                    Err(error) => Err(kept.insert(error).clone()),
                    Ok(_) => Err(kept.take().unwrap()),
                }
            }
        });
        let server = serve(router);
        let connection = server.connect().await;
        let not_decoded = connection.call::<_, u32>("double", "text").await.unwrap_err();
        assert_eq!(not_decoded.kind(), &ErrorKind::Remote(WireError::InvalidRequest));
        assert!(!not_decoded.may_have_run());
        let kept = double(&connection).await.unwrap_err();
        assert_eq!(kept.kind(), &ErrorKind::Remote(WireError::InvalidRequest));
        assert!(kept.may_have_run());
    });
}

#[test]
fn a_handler_does_not_begin_once_its_request_is_refused() {
    run(async {
        let journal = Journal::default();
        let (left, later) = smol::channel::unbounded::<Next>();
        let router = noting(&journal).around(move |_, next: Next| {
            let left = left.clone();
            async move {
                left.try_send(next).unwrap();
                Err(MethodError::permission_denied("no"))
            }
        });
        let server = serve(router);
        let connection = server.connect().await;
        assert!(!double(&connection).await.unwrap_err().may_have_run());
        let late = later.recv().await.unwrap().run().await;
        assert_eq!(late.unwrap_err().error(), &WireError::Internal);
        assert_eq!(journal.take(), [""; 0]);
    });
}

#[test]
fn an_interceptor_may_replace_the_answer() {
    run(async {
        let journal = Journal::default();
        let router = noting(&journal).around(|exchange: Exchange, next: Next| async move {
            let bytes = minicbor::to_vec(7_u32).unwrap();
            if exchange.params_len() == 1 {
                next.run().await?;
            }
            Ok(Bytes::from(bytes))
        });
        let server = serve(router);
        let connection = server.connect().await;
        assert_eq!(connection.call::<_, u32>("double", &5).await.unwrap(), 7);
        assert_eq!(counted(&connection, 2).await.unwrap(), [1, 2, 7]);
        assert_eq!(journal.take(), ["double", "count"]);
        assert_eq!(connection.call::<_, u32>("double", &500).await.unwrap(), 7);
        assert_eq!(counted(&connection, 500).await.unwrap(), [7], "in the place of all answers");
        assert_eq!(journal.take(), [""; 0]);
    });
}

#[test]
fn a_panic_of_an_interceptor_is_the_exchanges() {
    run(async {
        let router = noting(&Journal::default()).around(|exchange: Exchange, next: Next| {
            assert_ne!(exchange.params_len(), 3, "in the first half");
            async move {
                let answer = next.run().await;
                assert_eq!(exchange.params_len(), 1, "in the second half");
                answer
            }
        });
        let server = serve(router);
        let connection = server.connect().await;
        for n in [50_u32, 500] {
            let failure = connection.call::<_, u32>("double", &n).await.unwrap_err();
            assert_eq!(failure.kind(), &ErrorKind::StreamReset(Code::INTERNAL));
            assert_eq!(
                counted(&connection, n).await.unwrap_err().kind(),
                &ErrorKind::StreamReset(Code::INTERNAL)
            );
        }
        assert_eq!(double(&connection).await.unwrap(), 42);
    });
}

#[test]
fn the_deadline_is_for_interceptors_too() {
    let pair = Pair::new(1, Link::new().delay(Duration::from_millis(5)));
    let begun = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&begun);
    let router = noting(&Journal::default()).around(move |_, _: Next| {
        count.fetch_add(1, Ordering::SeqCst);
        future::pending()
    });
    let limits = TransportLimits::builder().handler_timeout(2 * SECOND).build().unwrap();
    let node = pair.serve(router, limits);
    let dialler = pair.dialler(TransportLimits::default());
    pair.sim.run(async {
        let connection = dialler.connect(node.local_addr().unwrap()).await.unwrap();
        let asked = pair.sim.now();
        for failure in [double(&connection).await.unwrap_err(), counted(&connection, 1).await.unwrap_err()] {
            assert_eq!(failure.kind(), &ErrorKind::Remote(WireError::DeadlineExceeded));
        }
        let took = pair.sim.now() - asked;
        assert!((4 * SECOND..5 * SECOND).contains(&took), "{took:?}");
        // A caller that leaves takes its interceptor with it.
        let waits = future::or(async { drop(double(&connection).await) }, pair.sim.sleep(SECOND / 2));
        waits.await;
        assert_eq!(begun.load(Ordering::SeqCst), 3);
        assert!(connection.health().await.unwrap().ok);
    });
}

#[test]
fn a_refused_notification_ends_its_stream() {
    run(async {
        for (error, code) in [
            (MethodError::permission_denied("no"), Code::IDENTITY_REJECTED),
            (MethodError::resource_exhausted("later"), Code::RATE_LIMITED),
            (MethodError::invalid_request("what"), Code::PROTOCOL_VIOLATION),
            (MethodError::internal("no"), Code::INTERNAL),
        ] {
            let journal = Journal::default();
            let server = serve(refusing(noting(&journal), move || error.clone()));
            let connection = server.connect().await;
            let mut notifier = connection.notifier().await.unwrap();
            let stopped = loop {
                match notifier.send("note", "hello").await {
                    Ok(()) => future::yield_now().await,
                    Err(error) => break error,
                }
            };
            assert_eq!(stopped.kind(), &ErrorKind::StreamReset(code));
            assert_eq!(journal.take(), [""; 0]);
            assert!(connection.health().await.unwrap().ok);
        }
    });
}

#[test]
fn what_is_refused_before_and_the_built_in_methods_are_not_seen() {
    run(async {
        let journal = Journal::default();
        let log = EventLog::new();
        log.publish("an event").unwrap();
        let router = named(noting(&journal), &journal, "seen");
        let router = router.events(log).allow("count", Peers::nobody());
        let server = serve(router);
        let connection = server.connect().await;
        assert!(connection.health().await.unwrap().ok);
        let mut events = connection.events_raw().resume_from(0).open().await.unwrap();
        assert!(events.next_raw().await.unwrap().is_some());
        assert!(counted(&connection, 1).await.is_err());
        assert!(connection.call_raw("unknown", "").await.is_err());
        assert_eq!(journal.take(), [""; 0]);
        double(&connection).await.unwrap();
        assert_eq!(journal.take().len(), 3, "the check can fail");
    });
}

#[test]
fn an_interceptor_may_delay_an_exchange() {
    run(async {
        let journal = Journal::default();
        let (go_on, gate) = signal();
        let router = noting(&journal).around(move |_, next: Next| {
            let gate = gate.clone();
            async move {
                gate.recv().await.unwrap();
                next.run().await
            }
        });
        let server = serve(router);
        let connection = server.connect().await;
        let calls = future::zip(double(&connection), async {
            connection.health().await.unwrap();
            assert_eq!(journal.take(), [""; 0]);
            go_on.send(()).await.unwrap();
        });
        assert_eq!(calls.await.0.unwrap(), 42);
    });
}
