//! A link over loopback with mutual TLS, both nodes in this process: `cargo bench --bench transport`.
//!
//! The two nodes share the executor, and so compete for its one thread; `compare` keeps them apart.

mod support;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use palyra_quic::{AsyncIoRuntime, Bytes, CertificateAuthority, Code, Connection, Context, Endpoint, Router};

use self::support::{ECHO, dialler, event_log, serve};

const EVENTS: usize = 100_000;
const LARGE: usize = 512 * 1024;
/// A frame has a few bytes beside the payload.
const LARGE_PAYLOAD: usize = LARGE - 64;

/// A node, and a client that is connected to it.
struct Link {
    _server: Endpoint,
    client: Endpoint,
    address: SocketAddr,
    connection: Connection,
}

fn connect(router: Router) -> Link {
    let authority = CertificateAuthority::new("Bench CA").expect("an authority");
    let server = authority.issue_server(&[]).expect("a certificate").identity();
    let client = authority.issue_client("bench").expect("a certificate").identity();
    let runtime = Arc::new(AsyncIoRuntime::global());
    let server = serve(runtime.clone(), server, authority.trust(), router).expect("a server");
    let client = dialler(runtime, client, authority.trust()).expect("a client");
    let address = server.local_addr().expect("an address");
    let connection = smol::block_on(client.connect(address)).expect("a connection");
    Link { _server: server, client, address, connection }
}

/// Runs `calls` calls, divided among `in_flight` tasks on the executor, and takes the time.
fn timed_calls(connection: &Connection, in_flight: u64, calls: u64) -> Duration {
    smol::block_on(async {
        let start = Instant::now();
        let tasks: Vec<_> = (0..in_flight)
            .map(|task| {
                let connection = connection.clone();
                let share = calls / in_flight + u64::from(task < calls % in_flight);
                smol::spawn(async move {
                    for _ in 0..share {
                        connection.call_raw(ECHO, Bytes::from_static(&[7; 64])).await.expect("an echo");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        start.elapsed()
    })
}

fn calls(c: &mut Criterion) {
    let link = connect(Router::new());
    let mut group = c.benchmark_group("unary call, 64 B each way");
    group.throughput(Throughput::Elements(1));
    for in_flight in [1, 32] {
        group.bench_function(format!("{in_flight} in flight"), |b| {
            b.iter_custom(|calls| timed_calls(&link.connection, in_flight, calls));
        });
    }
    group.finish();
}

fn large_payloads(c: &mut Criterion) {
    let router = Router::new()
        .serve_raw("bench.take", |_: Context, _params| async { Ok(Bytes::new()) })
        .serve_raw("bench.give", |_: Context, _params| async { Ok(Bytes::from(vec![7; LARGE_PAYLOAD])) });
    let link = connect(router);
    let payload = Bytes::from(vec![7; LARGE_PAYLOAD]);
    let mut group = c.benchmark_group("512 KiB payload");
    group.throughput(Throughput::Bytes(u64::try_from(LARGE).expect("a length")));
    for (direction, method, params) in
        [("to the node", "bench.take", payload), ("from the node", "bench.give", Bytes::new())]
    {
        group.bench_function(direction, |b| {
            b.iter(|| {
                let (connection, params) = (link.connection.clone(), params.clone());
                let call = async move { connection.call_raw(method, params).await.expect("an answer") };
                smol::block_on(smol::spawn(call))
            });
        });
    }
    group.finish();
}

fn event_replay(c: &mut Criterion) {
    let link = connect(Router::new().events(event_log(EVENTS).expect("a log")));
    let mut group = c.benchmark_group("event replay");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    group.throughput(Throughput::Elements(u64::try_from(EVENTS).expect("a count")));
    group.bench_function("100,000 events of 32 B", |b| {
        b.iter(|| {
            let connection = link.connection.clone();
            let count = smol::block_on(smol::spawn(async move {
                let mut events = connection.events_raw().open().await.expect("a subscription");
                let mut count = 0;
                while events.next_raw().await.expect("an event").is_some() {
                    count += 1;
                }
                count
            }));
            assert_eq!(count, EVENTS);
        });
    });
    group.finish();
}

fn handshakes(c: &mut Criterion) {
    let link = connect(Router::new());
    let mut group = c.benchmark_group("handshake");
    group.sample_size(20);
    group.bench_function("connect and close", |b| {
        b.iter(|| {
            let (client, address) = (link.client.clone(), link.address);
            smol::block_on(smol::spawn(async move {
                let connection = client.connect(address).await.expect("a connection");
                connection.close(Code::NO_ERROR, "");
            }));
        });
    });
    group.finish();
}

criterion_group!(benches, calls, large_payloads, event_replay, handshakes);
criterion_main!(benches);
