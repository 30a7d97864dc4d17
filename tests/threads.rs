//! Which threads there are: the library starts none. Alone in its binary, so that no other test starts any.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use futures_lite::future;
use palyra_quic::{AsyncIoRuntime, Connection, Context, Endpoint, EventLog, Router, quinn::Runtime};
use smol::Executor;

use common::{Pki, in_time, loopback};

/// The thread of async-io's reactor: one for the process.
const REACTOR: &str = "async-io";
/// The threads of smol's global executor: as many as `SMOL_THREADS` says, one by default; none before a
/// task is spawned there.
const GLOBAL_EXECUTOR: &str = "smol-1";

/// The threads of this process, by number, with the first 15 bytes of their names.
fn threads() -> BTreeMap<u32, String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let named = tasks.filter_map(|task| {
        let task = task.unwrap();
        // A thread may end while it is looked at.
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, name.trim_end().to_owned()))
    });
    named.collect()
}

/// The names of the threads that were not there `before`.
fn started_since(before: &BTreeMap<u32, String>) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let new: Vec<_> = threads()
            .into_iter()
            .filter(|(number, _)| !before.contains_key(number))
            .map(|(_, name)| name)
            .collect();
        // A thread bears the name of the one that started it until it has taken its own.
        let unnamed = new.iter().any(|name| before.values().any(|inherited| inherited == name));
        if !unnamed || Instant::now() > deadline {
            return new;
        }
        thread::yield_now();
    }
}

/// Everything that a node does, on both ends of a link; asks `check` after each step.
async fn use_everything(runtime: Arc<dyn Runtime>, check: impl Fn(&str)) {
    let pki = Pki::new();
    let log = EventLog::new();
    let router = || {
        let streaming = |_: Context, params, mut answers: palyra_quic::ResponseSink| async move {
            answers.send_raw(params).await.map_err(|_| palyra_quic::MethodError::internal("not sent"))
        };
        Router::new()
            .serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
            .serve_raw("demo.hang", |_: Context, _| future::pending())
            .serve_stream_raw("demo.stream", streaming)
            .on_notification_raw("demo.note", |_: Context, _| async {})
            .on_connection(|connection: Connection| async move { drop(connection.closed().await) })
            .events(log.clone())
    };
    let node = || {
        let builder = Endpoint::builder().server(pki.server_tls()).client(pki.client_tls());
        builder.router(router()).shared_runtime(Arc::clone(&runtime)).bind(loopback()).unwrap()
    };
    let (server, client) = (node(), node());
    check("bind");
    let connection = client.connect(server.local_addr().unwrap()).await.unwrap();
    check("connect");
    for _ in 0..10 {
        assert_eq!(connection.call_raw("demo.echo", vec![7; 100_000]).await.unwrap().len(), 100_000);
    }
    let mut answers = connection.stream_raw("demo.stream", "x").await.unwrap();
    while answers.next_raw().await.unwrap().is_some() {}
    check("call");
    let hanging = connection.request_raw("demo.hang", "").timeout(Duration::from_millis(20));
    assert!(hanging.send_raw().await.unwrap_err().is_timeout());
    check("time limit");
    connection.notifier().await.unwrap().send_raw("demo.note", "x").await.unwrap();
    check("notify");
    log.publish_raw("door opened").unwrap();
    let mut events = connection.events_raw().resume_from(0).open().await.unwrap();
    while events.next_raw().await.unwrap().is_some() {}
    check("events");
    server.shutdown(Duration::from_secs(1)).await;
    client.shutdown(Duration::from_secs(1)).await;
    check("shutdown");
}

#[test]
fn the_library_starts_no_thread_of_its_own() {
    let before = threads();
    assert!(!before.is_empty());

    let executor = Arc::new(Executor::new());
    let runtime = Arc::new(AsyncIoRuntime::on(Arc::clone(&executor)));
    let reactor_alone = |step: &str| assert_eq!(started_since(&before), [REACTOR], "after {step}");
    future::block_on(executor.run(in_time(use_everything(runtime, reactor_alone))));

    let known = |step: &str| {
        let mut started = started_since(&before);
        started.sort();
        assert_eq!(started, [REACTOR, GLOBAL_EXECUTOR], "after {step}");
    };
    let runtime = Arc::new(AsyncIoRuntime::global());
    future::block_on(in_time(use_everything(runtime, known)));

    // The twin: one more is seen, named or not.
    for name in [Some("one-more"), None] {
        let (stop, stopped) = mpsc::channel::<()>();
        let builder = name.map_or_else(thread::Builder::new, |name| thread::Builder::new().name(name.into()));
        let seen_before = threads();
        let one_more = builder.spawn(move || stopped.recv().is_err()).unwrap();
        let seen = threads().into_keys().filter(|number| !seen_before.contains_key(number)).count();
        assert_eq!(seen, 1, "a thread was not seen");
        if let Some(name) = name {
            assert!(started_since(&before).iter().any(|seen| seen == name));
        }
        drop(stop);
        assert!(one_more.join().unwrap());
    }
}
