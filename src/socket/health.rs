//! What an endpoint knows of its socket.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use event_listener::Event;
use quinn::udp::RecvMeta;

use crate::{
    close_state::duplicate,
    counter::Counter,
    sync::{lock, wait_until},
};

/// After this many datagrams, a task that waits for datagrams checks their count.
const DATAGRAMS_PER_NOTIFICATION: usize = 32;

/// Counts what an endpoint's socket sends and receives, and tells of its errors.
#[derive(Default)]
pub(crate) struct SocketHealth {
    not_sent: Counter,
    receive_errors: Counter,
    /// Datagrams received, which may wrap.
    received: AtomicUsize,
    received_some: Event,
    watches: Mutex<Watches>,
    on_failure: OnceLock<OnFailure>,
}

type OnFailure = Box<dyn Fn(io::Error) + Send + Sync>;

/// The latest send error of each destination that a [`SendWatch`] watches.
#[derive(Debug, Default)]
struct Watches {
    errors: BTreeMap<(Destination, u64), Option<io::Error>>,
    next_id: u64,
}

/// An address in the form that IPv4 and IPv6 sockets have in common, and without its scope.
type Destination = (IpAddr, u16);

fn destination(address: SocketAddr) -> Destination {
    (address.ip().to_canonical(), address.port())
}

impl SocketHealth {
    /// Has `callback` called once, when the socket has failed for good. quinn's endpoint is locked during
    /// the call.
    pub(crate) fn on_failure(&self, callback: impl Fn(io::Error) + Send + Sync + 'static) {
        // There is one endpoint, which calls this once.
        let _ = self.on_failure.set(Box::new(callback));
    }

    /// Datagrams that the system did not send.
    pub(crate) fn datagrams_not_sent(&self) -> u64 {
        self.not_sent.value()
    }

    pub(crate) fn receive_errors(&self) -> u64 {
        self.receive_errors.value()
    }

    /// Resolves when at least `datagrams` have been received since the count was `since`, or somewhat later.
    /// Returns the current count. For one task at a time.
    pub(crate) async fn received(&self, datagrams: usize, since: usize) -> usize {
        let count = || self.received.load(Ordering::Relaxed);
        let datagrams = datagrams.max(DATAGRAMS_PER_NOTIFICATION);
        wait_until(&self.received_some, || count().wrapping_sub(since) >= datagrams).await;
        count()
    }

    /// Keeps the latest send error of this destination from now on.
    pub(crate) fn watch(self: &Arc<Self>, address: SocketAddr) -> SendWatch {
        let mut watches = lock(&self.watches);
        let id = watches.next_id;
        watches.next_id += 1;
        let key = (destination(address), id);
        watches.errors.insert(key, None);
        SendWatch { health: Arc::clone(self), key }
    }

    pub(super) fn record_received<'a>(&self, metas: impl Iterator<Item = &'a RecvMeta>) {
        let datagrams: usize = metas.map(|meta| meta.len.div_ceil(meta.stride.max(1))).sum();
        let before = self.received.fetch_add(datagrams, Ordering::Relaxed);
        let after = before.wrapping_add(datagrams);
        if before / DATAGRAMS_PER_NOTIFICATION != after / DATAGRAMS_PER_NOTIFICATION {
            self.received_some.notify(1);
        }
    }

    pub(super) fn record_not_sent(&self, error: &io::Error, address: SocketAddr, datagrams: usize) {
        tracing::trace!(%error, %address, "datagram not sent");
        self.not_sent.add_many(datagrams);
        let destination = destination(address);
        let mut watches = lock(&self.watches);
        for (_, latest) in watches.errors.range_mut((destination, 0)..=(destination, u64::MAX)) {
            *latest = Some(duplicate(error));
        }
    }

    pub(super) fn record_receive_error(&self, error: &io::Error) {
        tracing::trace!(%error, "nothing received");
        self.receive_errors.add();
    }

    /// The socket has failed for good.
    pub(super) fn fail(&self, error: io::Error) {
        if let Some(callback) = self.on_failure.get() {
            callback(error);
        }
    }
}

impl fmt::Debug for SocketHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { not_sent, receive_errors, received: _, received_some: _, watches: _, on_failure: _ } =
            self;
        f.debug_struct("SocketHealth")
            .field("not_sent", not_sent)
            .field("receive_errors", receive_errors)
            .finish_non_exhaustive()
    }
}

/// Keeps the latest send error of one destination, until it is dropped.
#[derive(Debug)]
pub(crate) struct SendWatch {
    health: Arc<SocketHealth>,
    key: (Destination, u64),
}

impl SendWatch {
    /// The latest error since the last call.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        lock(&self.health.watches).errors.get_mut(&self.key)?.take()
    }
}

impl Drop for SendWatch {
    fn drop(&mut self) {
        lock(&self.health.watches).errors.remove(&self.key);
    }
}
