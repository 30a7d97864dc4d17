//! A runtime that is dropped while others wait: all that they wait for ends with `Closed`.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use futures_lite::future;
use palyra_quic::{
    AsyncIoRuntime, Backoff, Client, Connection, Context, Endpoint, Error, ErrorKind, EventLog, PollRuntime,
    Result, Router, SubscriptionItem, TransportLimits, quinn::Runtime,
};
use smol::Executor;

use crate::common::{Pki, loopback};

/// No time limit of these tests passes before the test fails.
const NEVER: Duration = Duration::from_secs(3600);
/// What takes this long hangs.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A runtime that its owner drives, and may drop.
enum Owned {
    Poll(Box<PollRuntime>),
    Executor(Arc<Executor<'static>>),
}

impl Owned {
    fn all() -> [(&'static str, Self); 2] {
        [
            ("PollRuntime", Self::Poll(Box::new(PollRuntime::new().unwrap()))),
            ("AsyncIoRuntime", Self::Executor(Arc::default())),
        ]
    }

    fn handle(&self) -> Arc<dyn Runtime> {
        match self {
            Self::Poll(runtime) => runtime.handle(),
            Self::Executor(executor) => Arc::new(AsyncIoRuntime::on(Arc::clone(executor))),
        }
    }

    fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let hung = async {
            smol::Timer::after(TIMEOUT).await;
            panic!("still not done after {TIMEOUT:?}")
        };
        let future = future::or(future, hung);
        match self {
            Self::Poll(runtime) => runtime.block_on(future),
            Self::Executor(executor) => smol::block_on(executor.run(future)),
        }
    }
}

fn limits() -> TransportLimits {
    let limits = TransportLimits::builder().handshake_timeout(NEVER).idle_timeout(NEVER);
    limits.keep_alive_interval(NEVER / 4).handler_timeout(NEVER).heartbeat_interval(NEVER).build().unwrap()
}

/// A node that never answers `demo.slow`, on smol's global executor.
fn slow_node(pki: &Pki) -> Endpoint {
    node(pki, limits(), Arc::new(AsyncIoRuntime::global()))
}

fn node(pki: &Pki, limits: TransportLimits, runtime: Arc<dyn Runtime>) -> Endpoint {
    let router = Router::new()
        .events(EventLog::new())
        .on_notification_raw("demo.note", |_, _| async {})
        .serve_raw("demo.slow", |_, _| future::pending());
    let builder = Endpoint::builder().server(pki.server_tls()).client(pki.client_tls());
    builder.limits(limits).router(router).shared_runtime(runtime).bind(loopback()).unwrap()
}

/// Something that is waited for, and what it ended with.
type Waiter = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Futures on threads of their own, each of which has been polled, and is pending.
struct Waiting {
    outcomes: mpsc::Receiver<(&'static str, Result<()>)>,
    left: Vec<&'static str>,
}

impl Waiting {
    fn begin(waiters: Vec<(&'static str, Waiter)>) -> Self {
        let (outcome, outcomes) = mpsc::channel();
        let left = waiters.iter().map(|(name, _)| *name).collect();
        for (name, mut waiter) in waiters {
            let pending = future::block_on(future::poll_once(waiter.as_mut())).is_none();
            assert!(pending, "{name} does not wait");
            let outcome = outcome.clone();
            // Without a reactor, so that only what wakes the future can end it.
            thread::spawn(move || _ = outcome.send((name, future::block_on(waiter))));
        }
        Self { outcomes, left }
    }

    fn assert_all_closed(mut self, runtime: &str) {
        while !self.left.is_empty() {
            let Ok((name, outcome)) = self.outcomes.recv_timeout(TIMEOUT) else {
                panic!("on {runtime}, {:?} still wait", self.left);
            };
            let kind = outcome.as_ref().map_err(Error::kind);
            assert_eq!(kind, Err(&ErrorKind::Closed), "{name} on {runtime}: {outcome:?}");
            self.left.retain(|left| *left != name);
        }
    }
}

/// Closed, or still open after all that a test waits.
fn assert_closed<T>(what: &str, future: impl Future<Output = Result<T>> + Send + 'static)
where
    T: std::fmt::Debug + Send + 'static,
{
    let (outcome, outcomes) = mpsc::channel();
    thread::spawn(move || _ = outcome.send(future::block_on(future)));
    let outcome = outcomes.recv_timeout(TIMEOUT).unwrap_or_else(|_| panic!("{what} still waits"));
    assert_eq!(outcome.as_ref().map_err(Error::kind).err(), Some(&ErrorKind::Closed), "{what}: {outcome:?}");
}

/// Only a node that is nobody's: what is sent there is lost.
fn nobody() -> (std::net::UdpSocket, std::net::SocketAddr) {
    let socket = std::net::UdpSocket::bind(loopback()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn call(connection: &Connection) -> Waiter {
    let connection = connection.clone();
    Box::pin(async move { connection.call_raw("demo.slow", "x").await.map(drop) })
}

fn closed(connection: &Connection) -> Waiter {
    let connection = connection.clone();
    Box::pin(async move { Err(connection.closed().await) })
}

fn client(endpoint: &Endpoint, address: std::net::SocketAddr) -> Client {
    let client = Client::builder(endpoint.clone()).address(address).call_timeout(NEVER);
    client.backoff(Backoff::new().first(NEVER).cap(NEVER)).build().unwrap()
}

#[test]
fn every_future_awaited_on_another_thread_ends_with_the_runtime() {
    for (name, mut runtime) in Owned::all() {
        let pki = Pki::new();
        let server = slow_node(&pki);
        let address = server.local_addr().unwrap();
        let (_nobody, silent) = nobody();
        let endpoint = Endpoint::builder()
            .limits(limits())
            .shared_runtime(runtime.handle())
            .client(pki.client_tls())
            .bind(loopback());
        let endpoint = endpoint.unwrap();
        let mut waiters: Vec<(&'static str, Waiter)> = Vec::new();

        let connection = runtime.run(endpoint.connect(address)).unwrap();
        waiters.push(("a call", call(&connection)));
        waiters.push(("closed()", closed(&connection)));
        let timed = connection.request_raw("demo.slow", "").timeout(NEVER);
        waiters.push(("a call with a time limit", Box::pin(async move { timed.send_raw().await.map(drop) })));
        let mut responses = runtime.run(connection.stream_raw("demo.slow", "")).unwrap();
        waiters
            .push(("a response of a stream", Box::pin(async move { responses.next_raw().await.map(drop) })));
        let mut responses =
            runtime.run(connection.request_raw("demo.slow", "").timeout(NEVER).stream()).unwrap();
        waiters.push((
            "a response with a time limit",
            Box::pin(async move { responses.next_raw().await.map(drop) }),
        ));
        let mut events = runtime.run(connection.events_raw().follow().open()).unwrap();
        waiters.push(("an event", Box::pin(async move { events.next_raw().await.map(drop) })));
        let mut notifier = runtime.run(connection.notifier()).unwrap();
        runtime.run(notifier.send_raw("demo.note", "x")).unwrap();
        let notified = Box::pin(async move { notifier.finish().await });

        let full = runtime.run(endpoint.connect(address)).unwrap();
        let mut held = Vec::new();
        for _ in 0..32 {
            let stream = runtime.run(full.stream_raw("demo.slow", "")).unwrap();
            held.push((stream, runtime.run(full.notifier()).unwrap()));
        }
        waiters.push(("a call that waits for a stream", call(&full)));
        let opening = full.clone();
        waiters
            .push(("a stream of notifications", Box::pin(async move { opening.notifier().await.map(drop) })));
        let opening = full.clone();
        waiters.push(("a notification", Box::pin(async move { opening.notify_raw("demo.note", "x").await })));
        let opening = full.request_raw("demo.slow", "").timeout(NEVER);
        waiters
            .push(("a timed stream that opens", Box::pin(async move { opening.stream().await.map(drop) })));

        let dialling = endpoint.clone();
        waiters.push(("connect", Box::pin(async move { dialling.connect(silent).await.map(drop) })));
        let dialling = endpoint.clone();
        let unconfirmed = async move { dialling.connect_unconfirmed(silent).await.map(drop) };
        waiters.push(("connect_unconfirmed", Box::pin(unconfirmed)));

        let connected = client(&endpoint, address);
        runtime.run(connected.connection()).unwrap();
        waiters.push((
            "Client::call",
            Box::pin(async move { connected.call_raw("demo.slow", "x").await.map(drop) }),
        ));
        let lonely = client(&endpoint, silent);
        let second = lonely.clone();
        waiters.push((
            "Client::call that dials",
            Box::pin(async move { lonely.call_raw("demo.slow", "x").await.map(drop) }),
        ));
        waiters.push((
            "Client::notify_raw behind another dial",
            Box::pin(async move { second.notify_raw("demo.note", "x").await }),
        ));
        let mut subscription = client(&endpoint, address).subscribe_raw().heartbeat_interval(NEVER).open();
        let first = runtime.run(subscription.next_raw()).unwrap();
        assert!(matches!(first, SubscriptionItem::Connected { .. }), "{first:?}");
        waiters.push((
            "a subscription",
            Box::pin(async move {
                loop {
                    subscription.next_raw().await?;
                }
            }),
        ));
        let mut lonely = client(&endpoint, silent).subscribe_raw().open();
        waiters.push((
            "a subscription that dials",
            Box::pin(async move {
                loop {
                    lonely.next_raw().await?;
                }
            }),
        ));
        // Last, so that nothing that runs above sends it.
        waiters.push(("Notifier::finish", notified));

        let watched = endpoint.clone();
        waiters.push(("Endpoint::closed", Box::pin(async move { Err(watched.closed().await) })));
        assert!(!endpoint.is_closed());

        let waiting = Waiting::begin(waiters);
        drop(runtime);
        waiting.assert_all_closed(name);
        assert!(endpoint.is_closed());

        assert_eq!(
            connection.close_reason().map(|error| error.kind().clone()),
            Some(ErrorKind::Closed),
            "{name}"
        );
        assert_closed("a new call", call(&connection));
        assert_closed("closed() afterwards", closed(&connection));
        let dialling = endpoint.clone();
        assert_closed("a new dial", async move { dialling.connect(address).await });
        let late = client(&endpoint, address);
        assert_closed("a new Client::call", async move { late.call_raw("demo.slow", "x").await });
        let ending = endpoint.clone();
        assert_closed("shutdown", async move {
            ending.shutdown(NEVER).await;
            Err::<(), _>(ending.connect(address).await.unwrap_err())
        });
        drop((held, server));
    }
}

#[test]
fn a_pause_between_attempts_ends_with_the_runtime() {
    for (name, mut runtime) in Owned::all() {
        let pki = Pki::new();
        let limits = TransportLimits::builder().max_connections(1).build().unwrap();
        let server = node(&pki, limits, Arc::new(AsyncIoRuntime::global()));
        let address = server.local_addr().unwrap();
        let endpoint = Endpoint::builder()
            .shared_runtime(runtime.handle())
            .client(pki.client_tls())
            .bind(loopback())
            .unwrap();
        let _only = runtime.run(endpoint.connect(address)).unwrap();

        let mut waiters: Vec<(&'static str, Waiter)> = Vec::new();
        for name in ["connection()", "call", "subscription"] {
            let client = client(&endpoint, address);
            let refused = runtime.run(client.connection()).unwrap_err();
            assert_eq!(*refused.kind(), ErrorKind::Refused);
            waiters.push((
                name,
                match name {
                    "connection()" => Box::pin(async move { client.connection().await.map(drop) }),
                    "call" => Box::pin(async move { client.call_raw("demo.slow", "x").await.map(drop) }),
                    _ => Box::pin(async move { client.subscribe_raw().open().next_raw().await.map(drop) }),
                },
            ));
        }
        let waiting = Waiting::begin(waiters);
        drop(runtime);
        waiting.assert_all_closed(name);
    }
}

#[test]
fn a_context_that_a_handler_gave_away_ends_with_the_runtime() {
    for (name, mut runtime) in Owned::all() {
        let pki = Pki::new();
        let (hand, handed) = smol::channel::unbounded::<Context>();
        let router = Router::new().serve_raw("demo.hand", move |context: Context, _| {
            let hand = hand.clone();
            async move {
                hand.send(context).await.unwrap();
                future::pending().await
            }
        });
        let server = Endpoint::builder().server(pki.server_tls()).router(router).limits(limits());
        let server = server.shared_runtime(runtime.handle()).bind(loopback()).unwrap();
        let dialler = slow_node(&pki);
        let address = server.local_addr().unwrap();
        let asking = smol::spawn(async move {
            let connection = dialler.connect(address).await.unwrap();
            connection.call_raw("demo.hand", "x").await
        });
        let context = runtime.run(handed.recv()).unwrap();
        let connection = context.connection();

        let over = async move {
            context.over().await;
            // The connection ends with it.
            call(&context.connection()).await
        };
        let waiting = Waiting::begin(vec![
            ("a call in the other direction", call(&connection)),
            ("closed()", closed(&connection)),
            ("over()", Box::pin(over)),
        ]);
        drop(runtime);
        waiting.assert_all_closed(name);
        assert_eq!(connection.close_reason().map(|error| error.kind().clone()), Some(ErrorKind::Closed));
        drop(asking);
    }
}

#[test]
fn a_shutdown_that_waits_ends_with_the_runtime() {
    for (name, mut runtime) in Owned::all() {
        let pki = Pki::new();
        let node = node(&pki, limits(), runtime.handle());
        let address = node.local_addr().unwrap();
        let connection = runtime.run(node.connect(address)).unwrap();
        let _running = runtime.run(async {
            // An exchange that runs, since its stream is there before that of the health that is answered.
            let running = connection.stream_raw("demo.slow", "").await.unwrap();
            connection.health().await.unwrap();
            running
        });
        let ending = node.clone();
        let waiting = Waiting::begin(vec![(
            "shutdown",
            Box::pin(async move {
                ending.shutdown(NEVER).await;
                ending.connect(address).await.map(drop)
            }),
        )]);
        drop(runtime);
        waiting.assert_all_closed(name);
    }
}

#[test]
fn an_endpoint_cannot_be_bound_to_a_runtime_that_is_gone() {
    for (name, runtime) in Owned::all() {
        let handle = runtime.handle();
        drop(runtime);
        let pki = Pki::new();
        for builder in [
            Endpoint::builder().client(pki.client_tls()),
            Endpoint::builder().server(pki.server_tls()),
            Endpoint::builder().server(pki.server_tls()).client(pki.client_tls()),
        ] {
            let refused = builder.shared_runtime(Arc::clone(&handle)).bind(loopback()).unwrap_err();
            assert_eq!(*refused.kind(), ErrorKind::Closed, "{name}: {refused}");
        }
    }
}

#[test]
fn an_endpoint_that_is_dropped_leaves_no_task_behind() {
    let executor: Arc<Executor<'static>> = Arc::default();
    let mut runtime = Owned::Executor(Arc::clone(&executor));
    let pki = Pki::new();
    for round in 0..3 {
        let node = node(&pki, limits(), runtime.handle());
        let address = node.local_addr().unwrap();
        let connection = runtime.run(node.connect(address)).unwrap();
        runtime.run(async {
            connection.health().await.unwrap();
            drop((connection, node));
            while !executor.is_empty() {
                future::yield_now().await;
            }
        });
        assert!(executor.is_empty(), "round {round}");
    }
}

#[test]
fn a_connection_keeps_its_reason_when_the_runtime_is_dropped_later() {
    for (name, mut runtime) in Owned::all() {
        let pki = Pki::new();
        let node = node(&pki, limits(), runtime.handle());
        let address = node.local_addr().unwrap();
        let server = slow_node(&pki);
        let connection = runtime.run(node.connect(server.local_addr().unwrap())).unwrap();
        let other = runtime.run(node.connect(address)).unwrap();
        runtime.run(async {
            server.shutdown(Duration::ZERO).await;
            connection.closed().await;
        });
        drop(runtime);
        let reason = connection.close_reason().unwrap();
        assert!(matches!(reason.kind(), ErrorKind::ConnectionClosed(_)), "{name}: {reason}");
        assert_eq!(*other.close_reason().unwrap().kind(), ErrorKind::Closed);
    }
}

/// Time limits of futures that are awaited elsewhere, while nobody drives the executor of the endpoint.
#[test]
fn time_limits_fire_while_the_executor_is_not_driven() {
    // Long enough for what is begun while it is driven, however busy the computer is.
    const LIMIT: Duration = Duration::from_secs(2);
    let mut runtime = Owned::Executor(Arc::default());
    let pki = Pki::new();
    let server = slow_node(&pki);
    let address = server.local_addr().unwrap();
    let brief = TransportLimits::builder().handshake_timeout(LIMIT).build().unwrap();
    let dialler = Endpoint::builder().limits(limits()).client(pki.client_tls());
    let dialler = dialler.shared_runtime(runtime.handle()).bind(loopback()).unwrap();
    let hasty = Endpoint::builder().limits(brief).client(pki.client_tls());
    let hasty = hasty.shared_runtime(runtime.handle()).bind(loopback()).unwrap();
    let connection = runtime.run(dialler.connect(address)).unwrap();
    let mut responses = runtime.run(connection.request_raw("demo.slow", "").timeout(LIMIT).stream()).unwrap();
    let client = Client::builder(dialler.clone()).address(address).call_timeout(LIMIT).build().unwrap();
    runtime.run(client.connection()).unwrap();
    // From here on, nobody drives it.
    let timed = connection.request_raw("demo.slow", "").timeout(LIMIT);
    let waiters: Vec<(&'static str, Waiter, ErrorKind)> = vec![
        ("a call", Box::pin(async move { timed.send_raw().await.map(drop) }), ErrorKind::DeadlineExceeded),
        (
            "a response",
            Box::pin(async move { responses.next_raw().await.map(drop) }),
            ErrorKind::DeadlineExceeded,
        ),
        (
            "Client::call",
            Box::pin(async move { client.call_raw("demo.slow", "x").await.map(drop) }),
            ErrorKind::DeadlineExceeded,
        ),
        (
            "connect",
            Box::pin(async move { hasty.connect(address).await.map(drop) }),
            ErrorKind::HandshakeTimeout,
        ),
    ];
    let begin = |(name, waiter, expected): (_, Waiter, _)| {
        let (outcome, outcomes) = mpsc::channel();
        thread::spawn(move || _ = outcome.send(future::block_on(waiter)));
        (name, outcomes, expected)
    };
    let assert_ended = |(name, outcomes, expected): (&str, mpsc::Receiver<Result<()>>, ErrorKind)| {
        let outcome = outcomes.recv_timeout(TIMEOUT).unwrap_or_else(|_| panic!("{name} still waits"));
        assert_eq!(*outcome.unwrap_err().kind(), expected, "{name}");
    };
    waiters.into_iter().map(begin).collect::<Vec<_>>().into_iter().for_each(assert_ended);
    let shutdown = async move {
        dialler.shutdown(LIMIT).await;
        dialler.connect(address).await.map(drop)
    };
    assert_ended(begin(("shutdown", Box::pin(shutdown), ErrorKind::Closed)));
}

/// The same while its only thread is blocked by a task.
#[test]
fn time_limits_fire_while_the_executor_is_blocked() {
    let executor: Arc<Executor<'static>> = Arc::default();
    let pki = Pki::new();
    let server = slow_node(&pki);
    let endpoint = Endpoint::builder().limits(limits()).client(pki.client_tls());
    let endpoint = endpoint.runtime(AsyncIoRuntime::on(Arc::clone(&executor))).bind(loopback()).unwrap();
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    let driven = Arc::clone(&executor);
    let driver = thread::spawn(move || future::block_on(driven.run(async { stopped.recv().await.is_err() })));
    let connection = smol::block_on(endpoint.connect(server.local_addr().unwrap())).unwrap();

    let (unblock, blocked) = mpsc::channel::<()>();
    let (block, is_blocked) = mpsc::channel();
    executor.spawn(async move { (block.send(()).unwrap(), blocked.recv().is_ok()) }).detach();
    is_blocked.recv_timeout(TIMEOUT).unwrap();
    for limit in [1, 20, 100].map(Duration::from_millis) {
        let call = connection.request_raw("demo.slow", "").timeout(limit);
        let (outcome, outcomes) = mpsc::channel();
        thread::spawn(move || _ = outcome.send(smol::block_on(call.send_raw())));
        let outcome = outcomes.recv_timeout(TIMEOUT).expect("the call still waits");
        assert_eq!(*outcome.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    }
    unblock.send(()).unwrap();
    drop(stop);
    driver.join().unwrap();
}
