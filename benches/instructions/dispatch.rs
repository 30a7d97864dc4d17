//! Requests to a node: what it does for each, from the bytes that have arrived to the answer that is ready to
//! be sent.
//!
//! Everything around it, which is packets, encryption, timers and the client, runs in tasks of its own, and
//! in virtual time. It is the runtime that tells them apart: the task that shakes hands spawns quinn's driver
//! of the connection, and at last what serves it; and once that stands, whatever else the node spawns is a
//! task for a request that has to wait.

use std::{
    fmt,
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use palyra_quic::{
    Bytes, CertificateAuthority, ClientTls, Codec, Connection, Endpoint, MethodError, Router, ServerTls,
    minicbor,
    quinn::{AsyncTimer, AsyncUdpSocket, Runtime},
    sim::{Link, Sim},
};

use super::{Result, callgrind::counted, cases::WARM_UP};

#[derive(Clone, Copy)]
pub(crate) enum Exchange {
    Bytes(Codec),
    Values,
    Answers,
    /// A method that the node does not have.
    Unknown,
    Notification,
}

const ANSWERS: u32 = 8;
/// Methods beside those that are called, as a node has.
const OTHER_METHODS: u32 = 32;
/// Until everything that an exchange leaves behind is done, such as to hear that the answer has arrived.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn dispatch(exchange: Exchange, rounds: u32) -> Result<()> {
    let sim = Sim::new(1);
    sim.set_default_link(Link::new().delay(Duration::from_millis(5)));
    let shared = Arc::<Shared>::default();
    let meter = Arc::new(Meter { runtime: sim.runtime(), shared: Arc::clone(&shared) });
    let authority = CertificateAuthority::new("Instructions CA")?;
    let tls = ServerTls::new(authority.issue_server(&["node.example"])?.identity())
        .require_client_certificates(authority.trust());
    let node = Endpoint::builder().shared_runtime(meter).server(tls).router(router());
    let node = node.bind_abstract_socket(sim.host([10, 0, 0, 1]).socket(7443)?)?;
    let tls = ClientTls::new(authority.trust()).identity(authority.issue_client("instructions")?.identity());
    let client = sim.host([10, 0, 0, 2]).bind(Endpoint::builder().client(tls), 0)?;
    sim.run(async {
        let connection = client.connect((node.local_addr()?, "node.example")).await?;
        for round in 0..WARM_UP + rounds {
            shared.counts.store(round >= WARM_UP, Ordering::Relaxed);
            ask(exchange, &connection).await?;
            sim.sleep(PAUSE).await;
        }
        Ok(())
    })
}

fn router() -> Router {
    let router = Router::new()
        .serve_raw("demo.echo", |_, params| async move { Ok(params) })
        .serve("demo.add", |_, (a, b): (u32, u32)| async move { Ok(u64::from(a) + u64::from(b)) })
        .serve_stream_raw("demo.count", |_, _, mut answers| async move {
            for n in 0..ANSWERS {
                let answer = minicbor::to_vec(n).map_err(|_| MethodError::internal("not encoded"))?;
                answers.send_raw(answer).await?;
            }
            Ok(())
        })
        .on_notification_raw("demo.log", |_, _| async {});
    (0..OTHER_METHODS).fold(router, |router, n| {
        router.serve_raw(format!("demo.other_{n}"), |_, params| async move { Ok(params) })
    })
}

async fn ask(exchange: Exchange, connection: &Connection) -> Result<()> {
    let params = Bytes::from_static(&[7; 64]);
    match exchange {
        Exchange::Bytes(codec) => {
            connection.request_raw("demo.echo", params).codec(codec).send_raw().await?;
        }
        Exchange::Values => {
            let _: u64 = connection.call("demo.add", &(40, 2)).await?;
        }
        Exchange::Answers => {
            let mut answers = connection.stream_raw("demo.count", "").await?;
            while answers.next_raw().await?.is_some() {}
        }
        Exchange::Unknown => {
            connection.call_raw("demo.none", params).await.err().ok_or("nobody has answered")?;
        }
        Exchange::Notification => connection.notify_raw("demo.log", params).await?,
    }
    Ok(())
}

/// Has the tasks counted that serve.
struct Meter {
    runtime: Arc<dyn Runtime>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    counts: AtomicBool,
    /// Of the task that runs, all being on one thread; 0 for none.
    generation: AtomicUsize,
    /// What the task that shakes hands has spawned.
    by_handshake: AtomicUsize,
}

/// The first generation is what the endpoint was built with: what accepts connections is, and what shakes
/// hands comes of it.
const SHAKES_HANDS: usize = 2;
/// After quinn's driver of the connection.
const SERVES: usize = 1;

impl Runtime for Meter {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.runtime.new_timer(deadline)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let shared = Arc::clone(&self.shared);
        let by = shared.generation.load(Ordering::Relaxed);
        let serves = by == SHAKES_HANDS && shared.by_handshake.fetch_add(1, Ordering::Relaxed) == SERVES;
        let serves = serves || shared.counts.load(Ordering::Relaxed);
        self.runtime.spawn(Box::pin(Metered { task, generation: by + 1, serves, shared }));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.runtime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

struct Metered {
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
    generation: usize,
    serves: bool,
    shared: Arc<Shared>,
}

impl Future for Metered {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { task, generation, serves, shared } = &mut *self;
        let before = shared.generation.swap(*generation, Ordering::Relaxed);
        let mut poll = Poll::Pending;
        if *serves && shared.counts.load(Ordering::Relaxed) {
            counted(&mut || poll = task.as_mut().poll(cx));
        } else {
            poll = task.as_mut().poll(cx);
        }
        shared.generation.store(before, Ordering::Relaxed);
        poll
    }
}
