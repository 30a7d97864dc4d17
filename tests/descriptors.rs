//! A process without file descriptors or threads to spare: what cannot be had is an error, and can be had
//! later.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{env, fs, fs::File, net::UdpSocket, process::Command, sync::Arc};

use palyra_quic::{AsyncIoRuntime, Endpoint, ErrorKind, PollRuntime, Result, Router, quinn::Runtime};

use common::{Pki, in_time, loopback};

/// Which part of this test a process is, since limits count for a whole process, and async-io's reactor
/// starts only once in it.
const PART: &str = "PALYRA_DESCRIPTORS_PART";

/// Runs one test of this binary, in a process of its own.
fn in_a_process_of_its_own(test: &str, part: &str) {
    let mut alone = Command::new(env::current_exe().unwrap());
    let output = alone.args([test, "--exact", "--nocapture"]).env(PART, part).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{part}: {out}{err}");
}

/// Takes every descriptor but `spare`, until it is dropped.
fn take_all_but(spare: usize) -> Vec<File> {
    let mut taken: Vec<File> = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - spare);
    taken
}

fn bind(pki: &Pki, runtime: Arc<dyn Runtime>) -> Result<Endpoint> {
    let router = Router::new().serve_raw("demo.echo", |_, params| async move { Ok(params) });
    let builder = Endpoint::builder().server(pki.server_tls()).client(pki.client_tls());
    builder.router(router).shared_runtime(runtime).bind(loopback())
}

fn assert_echoes(endpoint: &Endpoint) -> impl Future<Output = ()> {
    in_time(async {
        let connection = endpoint.connect(endpoint.local_addr().unwrap()).await.unwrap();
        assert_eq!(connection.call_raw("demo.echo", "hello").await.unwrap(), "hello");
    })
}

/// As `ulimit -n` does.
fn limit_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[test]
fn a_reactor_that_gets_no_descriptors_is_an_error_and_starts_later() {
    const TEST: &str = "a_reactor_that_gets_no_descriptors_is_an_error_and_starts_later";
    let Ok(part) = env::var(PART) else {
        for part in ["global", "executor"] {
            in_a_process_of_its_own(TEST, part);
        }
        return;
    };
    limit_descriptors();
    let pki = Pki::new();
    let executor = Arc::new(smol::Executor::new());
    let runtime = || -> Arc<dyn Runtime> {
        match part.as_str() {
            "global" => Arc::new(AsyncIoRuntime::global()),
            _ => Arc::new(AsyncIoRuntime::on(Arc::clone(&executor))),
        }
    };
    // None for the socket itself; then too few for the reactor.
    for spare in 0..5 {
        let taken = take_all_but(spare);
        let refused = bind(&pki, runtime()).map(drop).unwrap_err();
        assert_eq!(*refused.kind(), ErrorKind::Io, "{spare} to spare: {refused:?}");
        drop(taken);
        let open = fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open < 10, "{spare} to spare: {open} descriptors are left open");
    }
    let endpoint = bind(&pki, runtime()).unwrap();
    smol::block_on(executor.run(assert_echoes(&endpoint)));
    // A reactor that runs needs none for another endpoint.
    let taken = take_all_but(1);
    let another = bind(&pki, runtime()).unwrap();
    drop(taken);
    smol::block_on(executor.run(assert_echoes(&another)));
}

#[test]
fn a_poll_runtime_that_gets_no_descriptors_is_an_error_and_works_later() {
    const TEST: &str = "a_poll_runtime_that_gets_no_descriptors_is_an_error_and_works_later";
    if env::var(PART).is_err() {
        return in_a_process_of_its_own(TEST, "poll");
    }
    limit_descriptors();
    let pki = Pki::new();
    let taken = take_all_but(0);
    assert_eq!(*PollRuntime::new().unwrap_err().kind(), ErrorKind::Io);
    drop(taken);
    let mut runtime = PollRuntime::new().unwrap();
    let taken = take_all_but(0);
    let refused = bind(&pki, runtime.handle()).map(drop).unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::Io);
    drop(taken);
    let endpoint = bind(&pki, runtime.handle()).unwrap();
    // `in_time` keeps time by async-io.
    runtime.block_on(assert_echoes(&endpoint));
    assert!(UdpSocket::bind(loopback()).is_ok());
}
