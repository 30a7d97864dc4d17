//! A thread that the system does not let wait for its sockets. By itself in its process, whose limit of
//! descriptors it changes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![cfg(target_os = "linux")]

mod common;
#[path = "common/faulty.rs"]
mod faulty;

use std::{
    net::UdpSocket,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use palyra_quic::{ClientTls, Connection, Context, Endpoint, PollRuntime, Router, quinn::Runtime};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use common::{Pki, loopback, signal};
use faulty::{Faults, Faulty};

/// Waits for as long, by the runtime's own timer.
async fn sleep(runtime: &dyn Runtime, duration: Duration) {
    let mut timer = runtime.new_timer(Instant::now() + duration);
    std::future::poll_fn(|cx| timer.as_mut().poll(cx)).await;
}

/// Longer than anything here takes, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(10);

/// How often the client's socket is looked at in half a second of silence.
fn looks(runtime: &mut PollRuntime, faults: &Faults) -> usize {
    let handle = runtime.handle();
    let before = faults.receive.count();
    let start = Instant::now();
    runtime.block_on(sleep(&*handle, Duration::from_millis(500)));
    let took = start.elapsed();
    assert!(took < LIMIT, "a timer of half a second took {took:?}");
    faults.receive.count() - before
}

fn assert_answers(runtime: &mut PollRuntime, connection: &Connection) {
    for _ in 0..5 {
        let answer = runtime
            .block_on(connection.request_raw("demo.echo", "").timeout(Duration::from_secs(5)).send_raw());
        assert_eq!(answer.unwrap(), "");
    }
}

#[test]
fn a_thread_whose_waits_are_refused_goes_on_at_a_slower_pace_and_recovers() {
    let pki = Pki::new();
    let mut runtime = PollRuntime::new().unwrap();
    let handle = runtime.handle();
    let server = Endpoint::builder()
        .shared_runtime(Arc::clone(&handle))
        .server(pki.server_tls())
        .router(Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) }))
        .bind(loopback())
        .unwrap();
    let socket = handle.wrap_udp_socket(UdpSocket::bind(loopback()).unwrap()).unwrap();
    let (socket, faults) = Faulty::around(socket);
    let tls: ClientTls = pki.client_tls();
    let client = Endpoint::builder().shared_runtime(handle).client(tls).bind_abstract_socket(socket).unwrap();
    let connection = runtime.block_on(client.connect(server.local_addr().unwrap())).unwrap();
    assert_answers(&mut runtime, &connection);
    assert!(looks(&mut runtime, &faults) < 10, "a silent socket is not looked at");

    let limit = getrlimit(Resource::Nofile);
    for fewer in [2, 1, 0] {
        setrlimit(Resource::Nofile, Rlimit { current: Some(fewer), maximum: limit.maximum }).unwrap();
        assert_answers(&mut runtime, &connection);
        let (start, mut looks) = (Instant::now(), 0);
        while looks <= 5 {
            assert!(start.elapsed() < LIMIT, "the wait was not refused");
            looks = self::looks(&mut runtime, &faults);
            assert!(looks < 200, "{looks} looks in half a second");
        }

        // What other threads wake is noticed, too.
        let (sender, receiver) = signal();
        let waking = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(sender);
        });
        let start = Instant::now();
        assert!(runtime.block_on(receiver.recv()).is_err(), "nothing was sent");
        assert!(start.elapsed() < LIMIT);
        waking.join().unwrap();

        setrlimit(Resource::Nofile, limit).unwrap();
        assert_answers(&mut runtime, &connection);
        assert!(self::looks(&mut runtime, &faults) < 10, "the thread waits again");
    }
}
