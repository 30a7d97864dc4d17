//! The runtime on async-io's reactor and any executor.

mod socket;
mod timer;

use std::{
    fmt,
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::{Arc, Weak},
    time::Instant,
};

use async_executor::Executor;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};

#[cfg(feature = "smol")]
use self::socket::or_error;
use self::{socket::Socket, timer::LazyTimer};
use super::socket_core::Offload;

/// Runs quinn on async-io's reactor and on an executor of the caller's choice.
///
/// It receives before it registers with the reactor, sends until the kernel would block, and rearms a timer
/// only if the deadline moves closer; so a busy connection makes few system calls besides `recvmmsg` and
/// `sendmsg`.
///
/// Like quinn's other runtimes, it passes errors of the socket on. An [`Endpoint`](crate::Endpoint)
/// survives temporary errors by itself, and reports a permanent one by [`closed`](crate::Endpoint::closed).
/// A socket that is falsely reported readable again and again is left alone for up to 20 ms at a time.
///
/// It starts no thread. async-io runs one reactor thread for the whole process while nothing else drives its
/// reactor, and smol's global executor runs as many as `SMOL_THREADS` says (one by default).
///
/// ```
/// use std::sync::Arc;
/// use palyra_quic::AsyncIoRuntime;
///
/// let executor = Arc::new(smol::Executor::new());
/// let runtime = AsyncIoRuntime::on(Arc::clone(&executor)).without_gro();
/// smol::block_on(executor.run(async {
///     // Endpoints are bound and used here, with `EndpointBuilder::runtime(runtime)`.
/// # drop(runtime);
/// }));
/// ```
#[derive(Clone)]
pub struct AsyncIoRuntime {
    spawner: Spawner,
    offload: Offload,
}

#[derive(Clone)]
enum Spawner {
    #[cfg(feature = "smol")]
    Global,
    /// Weak, because the tasks hold this: otherwise the executor could never be dropped.
    Executor(Weak<Executor<'static>>),
}

impl AsyncIoRuntime {
    /// Spawns on smol's global executor.
    #[cfg(feature = "smol")]
    #[must_use]
    pub fn global() -> Self {
        Self::with_spawner(Spawner::Global)
    }

    /// Spawns on `executor`, which the caller drives, from one thread or many, and keeps.
    ///
    /// When the last other handle to it is dropped, the endpoints on it end without closing their
    /// connections. Every future of them that is awaited elsewhere ends with
    /// [`Closed`](crate::ErrorKind::Closed): calls, streams, events, dials, [`Connection::closed`] and
    /// [`Endpoint::shutdown`]. So do later calls, and binding another endpoint.
    ///
    /// An executor that is not driven, or whose threads are blocked, is not reported. Time limits pass
    /// nevertheless: the future that waits is woken by the thread that drives async-io's reactor. So
    /// `connect` and calls that have a time limit end in time on another executor; [`Connection::call`],
    /// which has none, waits for as long as the executor stands still.
    ///
    /// [`Connection::closed`]: crate::Connection::closed
    /// [`Connection::call`]: crate::Connection::call
    /// [`Endpoint::shutdown`]: crate::Endpoint::shutdown
    #[must_use]
    pub fn on(executor: Arc<Executor<'static>>) -> Self {
        Self::with_spawner(Spawner::Executor(Arc::downgrade(&executor)))
    }

    fn with_spawner(spawner: Spawner) -> Self {
        Self { spawner, offload: Offload { gso: true, gro: true } }
    }

    /// Sends every datagram with a system call of its own. For network cards and tunnels whose GSO is
    /// broken.
    #[must_use]
    pub fn without_gso(mut self) -> Self {
        self.offload.gso = false;
        self
    }

    /// Receives every datagram in a buffer of its own. Shrinks an endpoint's receive buffer from 2 MiB to
    /// 46 KiB, and costs system calls under load.
    #[must_use]
    pub fn without_gro(mut self) -> Self {
        self.offload.gro = false;
        self
    }
}

/// The runtime of an endpoint for which none was chosen.
#[cfg(feature = "smol")]
pub(crate) fn default_runtime() -> Option<Arc<dyn Runtime>> {
    Some(Arc::new(AsyncIoRuntime::global()))
}

#[cfg(not(feature = "smol"))]
pub(crate) fn default_runtime() -> Option<Arc<dyn Runtime>> {
    None
}

impl Runtime for AsyncIoRuntime {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(LazyTimer::new(deadline))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        match &self.spawner {
            #[cfg(feature = "smol")]
            Spawner::Global => smol::spawn(future).detach(),
            Spawner::Executor(executor) => {
                if let Some(executor) = executor.upgrade() {
                    executor.spawn(future).detach();
                }
            }
        }
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = Socket::new(socket, self.offload)?;
        #[cfg(feature = "smol")]
        if matches!(self.spawner, Spawner::Global) {
            or_error("smol's global executor", || smol::spawn(async {}).detach())?;
        }
        Ok(Arc::new(socket))
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl fmt::Debug for AsyncIoRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spawner, offload } = self;
        let spawner = match spawner {
            #[cfg(feature = "smol")]
            Spawner::Global => "smol's global executor",
            Spawner::Executor(_) => "the caller's executor",
        };
        f.debug_struct("AsyncIoRuntime").field("spawner", &spawner).field("offload", offload).finish()
    }
}
