//! Routers merged into others under a prefix: names, rules, and what cannot be merged.

use futures_lite::StreamExt;
use palyra_quic::{
    Bytes, Connection, Context, Endpoint, ErrorKind, EventLog, Method, Peers, Refusal, ResponseSink, Router,
    WireError,
};

use crate::common::{loopback, run, serve, signal};

type Add = Method<(u32, u32), u64>;

/// By its name in the nested router, and by its name in the node.
const ADD: Add = Add::new("add");
const FULL_ADD: Add = Add::new("math.add");

fn math() -> Router {
    Router::new().serve(ADD, |_: Context, (a, b)| async move { Ok(u64::from(a) + u64::from(b)) })
}

fn with(router: Router, name: &str) -> Router {
    router.serve_raw(name, |_: Context, params| async move { Ok(params) })
}

fn serving(name: &str) -> Router {
    with(Router::new(), name)
}

async fn call(connection: &Connection, name: &str) -> Result<Bytes, ErrorKind> {
    connection.call_raw(name, "x").await.map_err(|error| error.kind().clone())
}

async fn assert_answered(connection: &Connection, name: &str) {
    assert_eq!(call(connection, name).await.as_deref(), Ok(&b"x"[..]), "{name}");
}

async fn assert_refused(connection: &Connection, name: &str, why: WireError) {
    assert_eq!(call(connection, name).await, Err(ErrorKind::Remote(why)), "{name}");
}

#[test]
fn nested_methods_are_called_by_their_full_names_alone() {
    run(async {
        let (heard, hears) = signal();
        let nested = math()
            .serve_stream("count", |_: Context, last: u32, mut answers: ResponseSink<u32>| async move {
                for n in 1..=last {
                    answers.send(&n).await?;
                }
                Ok(())
            })
            .on_notification_raw("note", move |_: Context, _| {
                let heard = heard.clone();
                async move { heard.send(()).await.unwrap() }
            });
        let server = serve(serving("echo").nest("math", nested));
        let connection = server.connect().await;
        assert_eq!(connection.call(FULL_ADD, &(40, 2)).await.unwrap(), 42);
        let counted = connection.stream::<_, u32>("math.count", &3).await.unwrap();
        assert_eq!(counted.try_collect::<_, _, Vec<_>>().await.unwrap(), [1, 2, 3]);
        connection.notify_raw("math.note", "").await.unwrap();
        hears.recv().await.unwrap();
        assert_answered(&connection, "echo").await;
        for name in ["add", "count", "math.echo", "mathadd", "math..add"] {
            assert_refused(&connection, name, WireError::UnsupportedMethod).await;
        }
    });
}

#[test]
fn prefixes_of_nested_routers_add_up() {
    run(async {
        let inner = serving("c").allow("c", Peers::nobody());
        let middle = serving("x").nest("b", inner);
        let server = serve(Router::new().nest("a", middle).nest("a", serving("y")));
        let connection = server.connect().await;
        for name in ["a.x", "a.y"] {
            assert_answered(&connection, name).await;
        }
        assert_refused(&connection, "a.b.c", WireError::PermissionDenied).await;
        assert_refused(&connection, "b.c", WireError::UnsupportedMethod).await;
    });
}

#[test]
fn a_rule_of_a_nested_router_is_for_its_own_method() {
    run(async {
        let nested = with(serving("one"), "other").allow("one", Peers::nobody());
        let server = serve(serving("one").nest("a", nested));
        let connection = server.connect().await;
        assert_refused(&connection, "a.one", WireError::PermissionDenied).await;
        for name in ["one", "a.other"] {
            assert_answered(&connection, name).await;
        }
    });
}

#[test]
fn the_default_rule_of_a_nested_router_is_for_its_methods_without_a_rule() {
    run(async {
        let nested = ["closed", "open", "opened"].into_iter().fold(Router::new(), with);
        let nested = nested.allow("open", Peers::anybody()).allow_by_default(Peers::nobody());
        let outer = serving("open").allow("a.opened", Peers::anybody());
        let server = serve(outer.nest("a", nested).nest("b", serving("open")));
        let connection = server.connect().await;
        for name in ["open", "a.open", "a.opened", "b.open"] {
            assert_answered(&connection, name).await;
        }
        assert_refused(&connection, "a.closed", WireError::PermissionDenied).await;
        assert_refused(&connection, "a.unknown", WireError::UnsupportedMethod).await;
    });
}

#[test]
fn nested_methods_without_a_rule_follow_the_default_rule_around_them() {
    run(async {
        let nested = with(serving("open"), "closed").allow("open", Peers::anybody());
        let server = serve(Router::new().nest("a", nested).allow_by_default(Peers::nobody()));
        let connection = server.connect().await;
        assert_answered(&connection, "a.open").await;
        for name in ["a.closed", "a.unknown"] {
            assert_refused(&connection, name, WireError::PermissionDenied).await;
        }
    });
}

#[test]
fn what_is_set_after_nesting_replaces_what_was_nested() {
    run(async {
        let nested = with(serving("one"), "two").allow("one", Peers::nobody());
        let router = Router::new()
            .nest("a", nested)
            .allow("a.one", Peers::anybody())
            .serve_raw("a.two", |_: Context, _| async { Ok(Bytes::from_static(b"replaced")) });
        let server = serve(router);
        let connection = server.connect().await;
        assert_answered(&connection, "a.one").await;
        assert_eq!(connection.call_raw("a.two", "x").await.unwrap(), "replaced");
    });
}

/// What an endpoint says that is bound with this router.
fn fault(router: Router) -> Option<String> {
    let error = Endpoint::builder().router(router).bind(loopback()).err()?;
    assert_eq!(*error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    Some(error.explanation().unwrap().to_owned())
}

#[test]
fn what_cannot_be_merged_is_found_when_the_endpoint_is_bound() {
    run(async {
        let nobody = Peers::nobody;
        let nest = |other| Router::new().nest("a", other);
        let note = || Router::new().on_notification_raw("x", |_, _| async {});
        let ruled = || serving("x").allow("x", nobody());
        let faults = [
            (nest(Router::new().events(EventLog::new())), "the node's event log"),
            (nest(Router::new().authorize(|_| async { Err::<(), _>(Refusal::rejected("")) })), "`authorize`"),
            (nest(Router::new().on_connection(|_| async {})), "`on_connection`"),
            (nest(serving("")), "has no name"),
            (nest(Router::new().allow("x", nobody())), "does not serve: \"x\""),
            (serving("a.x").nest("a", Router::new().allow("x", nobody())), "does not serve: \"x\""),
            (nest(Router::new().allow("node.health", nobody())), "does not serve: \"node.health\""),
            (serving("a.x").nest("a", serving("x")), "two routers serve \"a.x\""),
            (serving("a.x").nest("a", note()), "two routers serve \"a.x\""),
            (nest(serving("x")).nest("a", serving("x")), "two routers serve \"a.x\""),
            (Router::new().allow("a.x", nobody()).nest("a", ruled()), "two routers have a rule for \"a.x\""),
            (nest(serving("x").allow_by_default(nobody().uri(""))), "the rule for \"a.x\" has an empty name"),
            (nest(serving(&"x".repeat(127))), "1 to 128 bytes"),
            (Router::new().nest("node", serving("x")), "are reserved: \"node.x\""),
            (Router::new().nest("node.a", serving("x")), "are reserved: \"node.a.x\""),
            // However deep it is.
            (Router::new().nest("b", nest(serving(""))), "has no name"),
            (Router::new().nest("b", nest(Router::new().events(EventLog::new()))), "the node's event log"),
        ];
        for (router, what) in faults {
            let described = format!("{router:?}");
            let fault = fault(router).unwrap_or_else(|| panic!("{what}: {described}"));
            assert!(fault.contains(what), "{fault:?}, not {what:?}");
        }
        for prefix in ["", ".", "a.", ".a"] {
            assert!(
                fault(Router::new().nest(prefix, serving("x"))).unwrap().contains("prefix"),
                "{prefix:?}"
            );
        }
    });
}

/// What resembles the faults above, and is none.
#[test]
fn what_can_be_merged_is_accepted_when_the_endpoint_is_bound() {
    run(async {
        let nobody = Peers::nobody;
        let outer = Router::new().events(EventLog::new()).on_connection(|_| async {});
        let routers = [
            outer.allow("node.health", nobody()).nest("a", serving("x")),
            Router::new().nest("a", serving(&"x".repeat(126))),
            Router::new().nest("nodes", serving("x")).nest("a.b", serving("x")).nest("a", serving("x")),
            serving("x").allow("x", nobody()).nest("a", serving("x").allow("x", nobody())),
            Router::new().allow("a.x", nobody()).nest("a", serving("x").allow_by_default(nobody())),
            Router::new().nest("a", serving("x").allow("x", nobody())).allow("a.x", nobody()),
            Router::new().nest("a", Router::new()),
        ];
        for router in routers {
            let described = format!("{router:?}");
            assert_eq!(fault(router), None, "{described}");
        }
    });
}
