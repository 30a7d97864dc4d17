//! A network and a clock inside the process, for tests of nodes on bad links: hours pass in seconds, and a
//! seed repeats them.
//!
//! A [`Sim`] is a [`quinn::Runtime`] with virtual time, an executor of one thread and a network between any
//! number of [`Host`]s. When nothing can run, time jumps to the next timer or datagram. What chance decides,
//! the order of tasks that are ready and the fate of datagrams, follows from the seed; the keys of TLS alone
//! do not, so that runs of one seed differ in the bytes of a packet, and in its length where signatures are
//! ECDSA.
//!
//! Only sockets of hosts, timers of the runtime and [`Sim::sleep`] count as something that will happen.
//! Timers of the system, threads and disks do not, so that logs in files and a simulation do not go
//! together.
//!
//! ```
//! use std::time::Duration;
//! use palyra_quic::{CertificateAuthority, ClientTls, Endpoint, Router, ServerTls, sim::{Link, Sim}};
//!
//! let sim = Sim::new(7);
//! sim.set_default_link(Link::new().delay(Duration::from_millis(750)).loss(0.02));
//! let (gateway, sensor) = (sim.host([10, 0, 0, 1]), sim.host([10, 0, 0, 2]));
//!
//! let ca = CertificateAuthority::new("Simulated CA")?;
//! let tls = ServerTls::new(ca.issue_server(&["gateway.example"])?.identity());
//! let node = gateway.bind(Endpoint::builder().server(tls).router(Router::new()), 7443)?;
//! let tls = ClientTls::new(ca.trust());
//! let client = sensor.bind(Endpoint::builder().client(tls), 0)?;
//!
//! let address = (node.local_addr()?, "gateway.example");
//! let health = sim.run(async { client.connect(address).await?.health().await })?;
//! assert!(health.ok);
//! assert!(sim.elapsed() > Duration::from_secs(3), "two round trips, none of them waited for");
//! # Ok::<(), palyra_quic::Error>(())
//! ```

mod agenda;
mod executor;
mod link;
mod network;
mod runtime;
mod socket;
mod world;

use std::{
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use quinn::{AsyncUdpSocket, Runtime};

pub use self::{link::Link, network::Stats};
use self::{
    runtime::{SimRuntime, Sleep},
    socket::SimSocket,
    world::{ClearOnDrop, World},
};

/// Virtual time, an executor, and a network of hosts. See the [module's documentation](self).
///
/// Cloning gives another handle. One thread drives it, by [`run`](Self::run). Dropping the last handle drops
/// all tasks; a task that never ends must hold none, or the simulation stays in memory.
#[derive(Clone)]
pub struct Sim {
    world: Arc<World>,
    _end: Arc<ClearOnDrop>,
}

/// A place in the network, with one address and any number of ports.
#[derive(Clone)]
pub struct Host {
    world: Arc<World>,
    ip: IpAddr,
}

impl Sim {
    /// A network without hosts whose links are perfect: no delay, no loss, no end of bandwidth.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let world = World::new(seed);
        Self { _end: Arc::new(ClearOnDrop(Arc::clone(&world))), world }
    }

    /// The seed that all chance follows from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.world.seed
    }

    /// The host with this address, which is on the network from now on.
    #[must_use]
    pub fn host(&self, ip: impl Into<IpAddr>) -> Host {
        Host { world: Arc::clone(&self.world), ip: ip.into() }
    }

    /// Sets the link of every pair of hosts that has none of its own. Applies to datagrams sent from now on.
    pub fn set_default_link(&self, link: Link) {
        self.world.network().set_default_link(link);
    }

    /// Sets the link from one host to another; the way back is another link. Applies to datagrams sent from
    /// now on.
    pub fn set_link(&self, from: &Host, to: &Host, link: Link) {
        self.world.network().set_link(from.ip, to.ip, link);
    }

    /// Counts of the datagrams so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.world.network().stats()
    }

    /// Runs `future` and everything spawned, until `future` is ready.
    ///
    /// # Panics
    ///
    /// If nothing can ever happen again, because no task is ready, no timer is set and no datagram is in
    /// flight; and if a task panics.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        loop {
            if woken.0.swap(false, Ordering::Relaxed)
                && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
            {
                return output;
            }
            let idle = !self.world.run_one() && !woken.0.load(Ordering::Relaxed);
            assert!(
                !idle || self.world.advance(),
                "the simulation with seed {} is stuck: no task, timer or datagram is left",
                self.world.seed
            );
        }
    }

    /// Runs `future` beside everything else, while a thread is in [`run`](Self::run).
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.world.spawn(Box::pin(future));
    }

    /// Waits in virtual time.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        Sleep::new(&self.world, self.world.now() + duration)
    }

    /// The virtual present.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.world.now()
    }

    /// How much virtual time has passed since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now() - self.world.start
    }

    /// The runtime, for anything else that runs on quinn. Its sockets come from [`Host::socket`].
    #[must_use]
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(SimRuntime::new(&self.world))
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Host {
    /// A socket on a port of this host; 0 takes a free one. The port is free again when the socket is
    /// dropped.
    ///
    /// # Errors
    ///
    /// `AddrInUse` where the port is taken.
    pub fn socket(&self, port: u16) -> std::io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(SimSocket::bind(&self.world, self.ip, port)?))
    }

    /// The host's address, with a port.
    #[must_use]
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// Closes all sockets of the host without a packet to any peer, as a loss of power does. The ports are
    /// free again.
    pub fn crash(&self) {
        let wakers = self.world.network().crash(self.ip);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Takes the host off the network: datagrams from and to it are lost.
    pub fn unplug(&self) {
        self.world.network().unplug(self.ip);
    }

    /// Puts the host on the network again.
    pub fn plug_in(&self) {
        self.world.network().plug_in(self.ip);
    }

    /// The simulation's runtime, for an endpoint that is bound here.
    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(SimRuntime::new(&self.world))
    }

    /// Makes the random choices of one endpoint follow from the simulation's seed.
    pub(crate) fn endpoint_seed(&self) -> [u8; 32] {
        self.world.network().endpoint_seed()
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("seed", &self.seed())
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { world: _, ip } = self;
        f.debug_struct("Host").field("ip", ip).finish_non_exhaustive()
    }
}
