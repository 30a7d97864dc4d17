//! Where the futures run and what moves the packets: any executor, any of quinn's runtimes, any kind of
//! socket.

use std::{
    error::Error as _,
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_lite::future::{self, yield_now};
use palyra_quic::{
    AsyncIoRuntime, Connection, Context, Endpoint, ErrorKind, Router, TransportLimits,
    quinn::{AsyncTimer, AsyncUdpSocket, Runtime, SmolRuntime},
};
use smol::{Executor, LocalExecutor, channel::Sender};

use crate::common::{Pki, in_time, loopback, run};

fn echo() -> Router {
    Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) }).serve_raw(
        "demo.later",
        |_: Context, params| async move {
            yield_now().await;
            Ok(params)
        },
    )
}

/// A node that accepts and dials on this runtime.
fn node_at(pki: &Pki, runtime: Arc<dyn Runtime>, address: SocketAddr) -> palyra_quic::Result<Endpoint> {
    let builder = Endpoint::builder().server(pki.server_tls()).client(pki.client_tls());
    builder.router(echo()).shared_runtime(runtime).bind(address)
}

fn node(pki: &Pki, runtime: Arc<dyn Runtime>) -> Endpoint {
    node_at(pki, runtime, loopback()).unwrap()
}

/// Makes a link between two new nodes, and uses it in both directions.
async fn assert_works(runtime: Arc<dyn Runtime>) {
    let pki = Pki::new();
    let (server, client) = (node(&pki, Arc::clone(&runtime)), node(&pki, runtime));
    let connection = client.connect(server.local_addr().unwrap()).await.unwrap();
    assert_echoes(&connection).await;
    server.shutdown(Duration::ZERO).await;
    connection.closed().await;
}

async fn assert_echoes(connection: &Connection) {
    assert_eq!(connection.call_raw("demo.echo", "hello").await.unwrap(), "hello");
    assert!(connection.health().await.unwrap().ok);
}

#[test]
fn a_node_serves_on_a_socket_that_was_bound_for_it() {
    let socket = UdpSocket::bind(loopback()).unwrap();
    let address = socket.local_addr().unwrap();
    run(async {
        let pki = Pki::new();
        let server = Endpoint::builder().server(pki.server_tls()).router(echo()).bind_socket(socket).unwrap();
        assert_eq!(server.local_addr().unwrap(), address);
        let client = Endpoint::builder().client(pki.client_tls()).bind(loopback()).unwrap();
        assert_echoes(&client.connect(address).await.unwrap()).await;
        server.shutdown(Duration::ZERO).await;
    });
}

/// An executor that a thread of the test's own drives.
struct Driven {
    executor: Arc<Executor<'static>>,
    _stop: Sender<()>,
}

impl Driven {
    fn new() -> Self {
        let executor = Arc::new(Executor::new());
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        let driven = Arc::clone(&executor);
        thread::spawn(move || future::block_on(driven.run(async { stopped.recv().await.is_err() })));
        Self { executor, _stop: stop }
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(AsyncIoRuntime::on(Arc::clone(&self.executor)))
    }
}

#[test]
fn futures_are_awaited_on_any_executor() {
    let driven = Driven::new();
    let works = || in_time(assert_works(driven.runtime()));
    future::block_on(works());
    smol::block_on(works());
    smol::block_on(LocalExecutor::new().run(works()));
    future::block_on(driven.executor.run(works()));
    future::block_on(smol::spawn(works()));
    thread::scope(|scope| drop(scope.spawn(|| future::block_on(works()))));
}

#[test]
fn a_connection_moves_between_executors() {
    let driven = Driven::new();
    let pki = Pki::new();
    let (server, client) = (node(&pki, driven.runtime()), node(&pki, driven.runtime()));
    let address = server.local_addr().unwrap();
    let connection = future::block_on(client.connect(address)).unwrap();
    smol::block_on(in_time(assert_echoes(&connection)));
    let moved = thread::spawn(move || {
        future::block_on(in_time(assert_echoes(&connection)));
        connection
    });
    future::block_on(in_time(async { assert_echoes(&moved.join().unwrap()).await }));
}

#[test]
fn one_thread_drives_two_endpoints_and_their_callers() {
    let executor = Arc::new(Executor::new());
    let runtime = || Arc::new(AsyncIoRuntime::on(Arc::clone(&executor)));
    future::block_on(executor.run(in_time(assert_works(runtime()))));
    smol::block_on(executor.run(in_time(assert_works(runtime()))));
}

#[test]
fn an_executor_that_nobody_drives_serves_nobody() {
    run(async {
        let pki = Pki::new();
        let executor = Arc::new(Executor::new());
        let server = node(&pki, Arc::new(AsyncIoRuntime::on(Arc::clone(&executor))));
        let limits = TransportLimits::builder().handshake_timeout(Duration::from_millis(300)).build();
        let client = Endpoint::builder().client(pki.client_tls());
        let (hasty, patient) = (client.limits(limits.unwrap()), Endpoint::builder().client(pki.client_tls()));
        let (hasty, patient) = (hasty.bind(loopback()).unwrap(), patient.bind(loopback()).unwrap());
        let address = server.local_addr().unwrap();
        // Were anything of the server's run elsewhere, this would connect.
        assert_eq!(*hasty.connect(address).await.unwrap_err().kind(), ErrorKind::HandshakeTimeout);
        executor.run(async { assert_echoes(&patient.connect(address).await.unwrap()).await }).await;
    });
}

#[test]
fn any_of_quinns_runtimes_will_do() {
    run(async {
        assert_works(Arc::new(SmolRuntime)).await;
        assert_works(Arc::new(AsyncIoRuntime::global())).await;
        assert_works(Arc::new(Counting::new(SmolRuntime))).await;
    });
}

/// A runtime that counts what is asked of it.
#[derive(Debug)]
struct Counting<R> {
    runtime: R,
    spawned: AtomicUsize,
    timers: AtomicUsize,
    sockets: AtomicUsize,
    looks: AtomicUsize,
}

impl<R> Counting<R> {
    fn new(runtime: R) -> Self {
        let [spawned, timers, sockets, looks] = [const { AtomicUsize::new(0) }; 4];
        Self { runtime, spawned, timers, sockets, looks }
    }
}

impl<R: Runtime> Runtime for Counting<R> {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.timers.fetch_add(1, Ordering::SeqCst);
        self.runtime.new_timer(deadline)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.spawned.fetch_add(1, Ordering::SeqCst);
        self.runtime.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.sockets.fetch_add(1, Ordering::SeqCst);
        self.runtime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.runtime.now()
    }
}

#[test]
fn tasks_timers_sockets_and_time_all_come_from_the_runtime() {
    let executor = Arc::new(Executor::new());
    let counting = Arc::new(Counting::new(AsyncIoRuntime::on(Arc::clone(&executor))));
    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    smol::block_on(executor.run(in_time(async {
        let pki = Pki::new();
        let client = node(&pki, Arc::new(SmolRuntime));
        let server = node(&pki, counting.clone());
        assert_eq!(count(&counting.sockets), 1);
        let connection = client.connect(server.local_addr().unwrap()).await.unwrap();
        assert_echoes(&connection).await;
        let (spawned, looks) = (count(&counting.spawned), count(&counting.looks));
        for _ in 0..10 {
            connection.call_raw("demo.later", "hello").await.unwrap();
        }
        assert_eq!(count(&counting.spawned) - spawned, 10, "a task for each exchange that has to wait");
        assert!(count(&counting.looks) > looks && count(&counting.timers) > 0);
    })));
}

#[test]
fn large_payloads_go_both_ways_with_and_without_offloads() {
    run(async {
        let pki = Pki::new();
        let runtimes = || {
            let plain = AsyncIoRuntime::global;
            [plain(), plain().without_gso(), plain().without_gro(), plain().without_gso().without_gro()]
        };
        let payload: Vec<u8> = (0..=255).cycle().take(500_000).collect();
        for server in runtimes() {
            let server = node(&pki, Arc::new(server));
            for client in runtimes() {
                let client = node(&pki, Arc::new(client));
                let connection = client.connect(server.local_addr().unwrap()).await.unwrap();
                let echoed = connection.call_raw("demo.echo", payload.clone()).await.unwrap();
                assert!(echoed == payload, "{} bytes came back, and not the same", echoed.len());
            }
        }
    });
}

#[test]
fn peers_meet_over_ipv6() {
    run(async {
        if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            return; // This host has none.
        }
        let pki = Pki::new();
        let at = |ip: IpAddr| node_at(&pki, Arc::new(AsyncIoRuntime::global()), (ip, 0).into()).unwrap();
        let (v6, other) = (at(Ipv6Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into()));
        let connection = other.connect(v6.local_addr().unwrap()).await.unwrap();
        assert_eq!(connection.remote_address(), v6.local_addr().unwrap());
        assert_echoes(&connection).await;
    });
}

#[test]
fn an_ipv4_peer_of_a_socket_for_both_families_has_its_own_address() {
    run(async {
        let pki = Pki::new();
        let (told, tells) = smol::channel::unbounded();
        let router = Router::new().serve_raw("demo.whence", move |context: Context, _| {
            told.try_send(context.remote_address()).unwrap();
            async { Ok("told".into()) }
        });
        let builder = Endpoint::builder().server(pki.server_tls()).router(router);
        let Ok(both) = builder.bind((Ipv6Addr::UNSPECIFIED, 0).into()) else {
            return; // This host has no IPv6.
        };
        let client = node(&pki, Arc::new(AsyncIoRuntime::global()));
        let address = SocketAddr::new(loopback().ip(), both.local_addr().unwrap().port());
        let Ok(connection) = client.connect(address).await else {
            return; // This host keeps the two families apart.
        };
        connection.call_raw("demo.whence", "").await.unwrap();
        assert_eq!(tells.recv().await.unwrap(), client.local_addr().unwrap());
    });
}

#[test]
fn an_address_that_cannot_be_had_is_an_io_error() {
    run(async {
        let pki = Pki::new();
        let bind = |address| node_at(&pki, Arc::new(AsyncIoRuntime::global()), address);
        let taken = UdpSocket::bind(loopback()).unwrap();
        // TEST-NET-1, which no host has (RFC 5737).
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
        for (address, cause) in [
            (taken.local_addr().unwrap(), io::ErrorKind::AddrInUse),
            (elsewhere, io::ErrorKind::AddrNotAvailable),
        ] {
            let error = bind(address).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Io);
            let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            assert_eq!(source.map(io::Error::kind), Some(cause));
        }
        let address = taken.local_addr().unwrap();
        drop(taken);
        assert_eq!(bind(address).unwrap().local_addr().unwrap(), address);
    });
}

#[test]
fn one_socket_dials_and_accepts() {
    run(async {
        let pki = Pki::new();
        let [a, b] = [(); 2].map(|()| node(&pki, Arc::new(AsyncIoRuntime::global())));
        let (at_a, at_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
        let (to_b, to_a) = future::zip(a.connect(at_b), b.connect(at_a)).await;
        let (to_a, to_b) = (to_a.unwrap(), to_b.unwrap());
        assert_eq!((to_a.remote_address(), to_b.remote_address()), (at_a, at_b));
        future::zip(assert_echoes(&to_a), assert_echoes(&to_b)).await;
        let to_itself = a.connect(at_a).await.unwrap();
        assert_echoes(&to_itself).await;
    });
}

/// What is left of a node with a link, once its executor has stopped.
fn stopped() -> (Arc<Executor<'static>>, Endpoint, Connection, SocketAddr) {
    let executor = Arc::new(Executor::new());
    let pki = Pki::new();
    let runtime = Arc::new(AsyncIoRuntime::on(Arc::clone(&executor)));
    let endpoint = node(&pki, runtime);
    let address = endpoint.local_addr().unwrap();
    let connection = smol::block_on(executor.run(endpoint.connect(address))).unwrap();
    smol::block_on(executor.run(in_time(assert_echoes(&connection))));
    (executor, endpoint, connection, address)
}

#[test]
fn an_endpoint_that_is_dropped_before_its_executor_closes_the_socket() {
    run(async {
        let (executor, endpoint, connection, address) = stopped();
        assert!(UdpSocket::bind(address).is_err(), "the socket was closed too early");
        drop((connection, endpoint));
        executor
            .run(async {
                while UdpSocket::bind(address).is_err() {
                    future::yield_now().await;
                }
            })
            .await;
    });
}

#[test]
fn an_executor_that_is_dropped_takes_its_tasks_along() {
    let (executor, endpoint, connection, address) = stopped();
    drop((connection, endpoint));
    drop(executor);
    assert!(UdpSocket::bind(address).is_ok(), "the executor is gone, and its socket still open");
}

#[test]
fn handles_that_outlive_their_executor_say_that_all_is_closed() {
    run(async {
        let (executor, endpoint, connection, address) = stopped();
        drop(executor);
        assert_eq!(*endpoint.connect(address).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(*connection.closed().await.kind(), ErrorKind::Closed);
        assert_eq!(*connection.health().await.unwrap_err().kind(), ErrorKind::Closed);
        endpoint.shutdown(Duration::from_millis(1)).await;
    });
}
