//! Nodes on one thread, which waits for its sockets by itself.

use std::{
    future::{Future, poll_fn},
    net::UdpSocket,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use futures_lite::future;
use palyra_quic::{
    Code, Connection, Context, Endpoint, ErrorKind, PollRuntime, Router,
    quinn::{AsyncTimer, Runtime},
};

use crate::common::{DropGuard, Pki, in_time, loopback, signal};

fn echo() -> Router {
    Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
}

fn node_with(pki: &Pki, runtime: Arc<dyn Runtime>, router: Router) -> Endpoint {
    let builder = Endpoint::builder().server(pki.server_tls()).client(pki.client_tls());
    builder.router(router).shared_runtime(runtime).bind(loopback()).unwrap()
}

fn node(pki: &Pki, runtime: Arc<dyn Runtime>) -> Endpoint {
    node_with(pki, runtime, echo())
}

async fn assert_echoes(connection: &Connection) {
    assert_eq!(connection.call_raw("demo.echo", "hello").await.unwrap(), "hello");
    assert!(connection.health().await.unwrap().ok);
}

fn runtime() -> PollRuntime {
    PollRuntime::new().unwrap()
}

/// A runtime with a node that has a connection to itself.
fn linked() -> (PollRuntime, Endpoint, Connection) {
    let mut runtime = runtime();
    let pki = Pki::new();
    let endpoint = node(&pki, runtime.handle());
    let address = endpoint.local_addr().unwrap();
    let connection = runtime.block_on(in_time_of(endpoint.connect(address))).unwrap();
    (runtime, endpoint, connection)
}

/// What `future` gives, if it does not hang.
async fn in_time_of<T>(future: impl Future<Output = T>) -> T {
    let mut output = None;
    in_time(async { output = Some(future.await) }).await;
    output.unwrap()
}

/// Never done, and always ready to go on.
async fn never_idle() {
    loop {
        future::yield_now().await;
    }
}

#[test]
fn two_nodes_on_one_thread_call_each_other_and_end_in_order() {
    let mut runtime = runtime();
    let pki = Pki::new();
    let server = node(&pki, runtime.handle());
    let handle = runtime.handle();
    runtime.block_on(in_time(async {
        let client = node(&pki, handle);
        let connection = client.connect(server.local_addr().unwrap()).await.unwrap();
        assert_echoes(&connection).await;
        server.shutdown(Duration::from_secs(1)).await;
        assert_eq!(*connection.closed().await.kind(), ErrorKind::ConnectionClosed(Code::SHUTTING_DOWN));
    }));
}

#[test]
fn what_was_begun_goes_on_when_the_thread_comes_back() {
    let (mut runtime, _endpoint, connection) = linked();
    let mut call = std::pin::pin!(assert_echoes(&connection));
    runtime.block_on(async { assert!(future::poll_once(&mut call).await.is_none()) });
    runtime.block_on(in_time(call));
}

#[test]
fn large_payloads_go_both_ways_with_and_without_offloads() {
    let payload: Vec<u8> = (0..=255).cycle().take(500_000).collect();
    let pki = Pki::new();
    for plain in [|| runtime(), || runtime().without_gso(), || runtime().without_gro()] {
        let mut runtime = plain();
        let (server, client) = (node(&pki, runtime.handle()), node(&pki, runtime.handle()));
        let echoed = runtime.block_on(in_time_of(async {
            let connection = client.connect(server.local_addr().unwrap()).await.unwrap();
            connection.call_raw("demo.echo", payload.clone()).await.unwrap()
        }));
        assert!(echoed == payload, "{} bytes came back, and not the same", echoed.len());
    }
}

#[test]
fn two_threads_with_a_runtime_each_talk_to_each_other() {
    let pki = Pki::new();
    let (tell, told) = mpsc::channel();
    let (done, until) = signal();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut runtime = runtime();
            let server = node(&pki, runtime.handle());
            tell.send(server.local_addr().unwrap()).unwrap();
            runtime.block_on(in_time(async { until.recv().await.unwrap() }));
        });
        let mut runtime = runtime();
        let client = node(&pki, runtime.handle());
        runtime.block_on(in_time(async {
            let connection = client.connect(told.recv().unwrap()).await.unwrap();
            for _ in 0..100 {
                assert_echoes(&connection).await;
            }
        }));
        done.try_send(()).unwrap();
    });
}

#[test]
fn futures_of_its_endpoints_are_awaited_on_other_threads() {
    let (mut runtime, _endpoint, connection) = linked();
    let (done, until) = signal();
    let elsewhere = thread::spawn(move || {
        for _ in 0..100 {
            future::block_on(in_time(assert_echoes(&connection)));
        }
        done.try_send(()).unwrap();
    });
    runtime.block_on(in_time(async { until.recv().await.unwrap() }));
    elsewhere.join().unwrap();
}

#[test]
fn no_wakeup_from_another_thread_is_lost() {
    /// As many of them as fit into five seconds: each waits for the scheduler twice.
    const ROUNDS: usize = 20_000;
    let mut runtime = runtime();
    let (ping, pings) = smol::channel::bounded::<usize>(1);
    let (pong, pongs) = smol::channel::bounded::<usize>(1);
    let other = thread::spawn(move || {
        future::block_on(async {
            for round in 0.. {
                ping.send(round).await.unwrap();
                let Ok(back) = pongs.recv().await else { break };
                assert_eq!(back, round);
            }
        });
    });
    // One end is a task, so that both kinds of waker are used.
    let (relay, relayed) = smol::channel::bounded(1);
    runtime.handle().spawn(Box::pin(async move {
        while let Ok(round) = pings.recv().await {
            relay.send(round).await.unwrap();
        }
    }));
    runtime.block_on(in_time(async {
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            pong.send(relayed.recv().await.unwrap()).await.unwrap();
            if begun.elapsed() > Duration::from_secs(5) {
                break;
            }
        }
        drop(pong);
    }));
    other.join().unwrap();
}

async fn expire(timer: &mut Pin<Box<dyn AsyncTimer>>) {
    poll_fn(|cx| timer.as_mut().poll(cx)).await;
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines_and_not_before() {
    let mut runtime = runtime();
    let start = Instant::now();
    let (fired, order) = smol::channel::unbounded();
    for millis in [30, 10, 20, 0] {
        let (handle, fired) = (runtime.handle(), fired.clone());
        runtime.handle().spawn(Box::pin(async move {
            let deadline = start + Duration::from_millis(millis);
            expire(&mut handle.new_timer(deadline)).await;
            assert!(Instant::now() >= deadline);
            fired.send(millis).await.unwrap();
        }));
    }
    runtime.block_on(in_time(async {
        for expected in [0, 10, 20, 30] {
            assert_eq!(order.recv().await.unwrap(), expected);
        }
    }));
}

#[test]
fn a_timer_can_be_moved_both_ways_and_fires_again() {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut runtime = runtime();
    let handle = runtime.handle();
    runtime.block_on(in_time(async {
        let start = Instant::now();
        let mut timer = handle.new_timer(start + HOUR);
        assert!(future::poll_once(expire(&mut timer)).await.is_none());
        timer.as_mut().reset(start);
        expire(&mut timer).await;
        for millis in [5, 10] {
            let deadline = Instant::now() + Duration::from_millis(millis);
            timer.as_mut().reset(Instant::now());
            assert!(future::poll_once(expire(&mut timer)).await.is_none());
            timer.as_mut().reset(deadline);
            expire(&mut timer).await;
            assert!(Instant::now() >= deadline);
        }
    }));
}

#[test]
fn a_busy_task_starves_neither_sockets_nor_timers() {
    let (mut runtime, _endpoint, connection) = linked();
    runtime.handle().spawn(Box::pin(never_idle()));
    let handle = runtime.handle();
    runtime.block_on(in_time(async {
        assert_echoes(&connection).await;
        expire(&mut handle.new_timer(Instant::now() + Duration::from_millis(1))).await;
    }));
    // Nor does the future that the thread was given.
    let call = thread::spawn(move || future::block_on(in_time(assert_echoes(&connection))));
    runtime.block_on(future::or(never_idle(), async {
        while !call.is_finished() {
            future::yield_now().await;
        }
    }));
    call.join().unwrap();
}

/// How long this thread has had a processor.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

#[cfg(target_os = "linux")]
#[test]
fn a_thread_with_nothing_to_do_does_nothing() {
    const WHILE: Duration = Duration::from_millis(300);
    let (mut runtime, endpoint, connection) = linked();
    runtime.block_on(in_time(assert_echoes(&connection)));
    let (handle, before) = (runtime.handle(), processor_time());
    runtime.block_on(async { expire(&mut handle.new_timer(Instant::now() + WHILE)).await });
    let idle = processor_time() - before;
    assert!(idle < WHILE / 10, "{idle:?} for doing nothing");
    // The twin: something to do takes as much in the end, however seldom this thread gets a processor.
    let before = processor_time();
    runtime.block_on(in_time(future::or(never_idle(), async {
        while processor_time() - before < WHILE / 10 {
            future::yield_now().await;
        }
    })));
    drop(endpoint);
}

#[test]
fn a_runtime_that_is_dropped_takes_its_tasks_and_sockets_along() {
    let (mut runtime, endpoint, connection) = linked();
    let address = endpoint.local_addr().unwrap();
    let (gone, heard) = signal();
    let guard = DropGuard(gone);
    runtime.handle().spawn(Box::pin(async move {
        future::pending::<()>().await;
        drop(guard);
    }));
    runtime.block_on(future::yield_now());
    let handle = runtime.handle();
    drop(runtime);
    heard.try_recv().expect("the task is still there");

    future::block_on(in_time(async {
        assert_eq!(*endpoint.connect(address).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(*connection.closed().await.kind(), ErrorKind::Closed);
        assert_eq!(*connection.health().await.unwrap_err().kind(), ErrorKind::Closed);
    }));
    drop((endpoint, connection));
    assert!(UdpSocket::bind(address).is_ok(), "the runtime is gone, and its socket still open");

    let (gone, heard) = signal();
    let guard = DropGuard(gone);
    handle.spawn(Box::pin(async move { drop(guard) }));
    heard.try_recv().expect("a task that never runs is kept");
}

#[test]
fn an_endpoint_that_is_dropped_lets_go_of_its_socket() {
    let (mut runtime, endpoint, connection) = linked();
    let address = endpoint.local_addr().unwrap();
    assert!(UdpSocket::bind(address).is_err(), "the socket was closed too early");
    // On another thread, while this one waits.
    let dropping = thread::spawn(move || drop((connection, endpoint)));
    runtime.block_on(in_time(async {
        while UdpSocket::bind(address).is_err() {
            smol::Timer::after(Duration::from_millis(1)).await;
        }
    }));
    dropping.join().unwrap();
}

#[test]
fn a_panic_of_a_task_costs_that_task_alone() {
    let (mut runtime, _endpoint, connection) = linked();
    runtime.handle().spawn(Box::pin(async { panic!("on purpose") }));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(future::pending::<()>());
    }));
    assert!(panicked.is_err());
    runtime.block_on(in_time(assert_echoes(&connection)));
}
