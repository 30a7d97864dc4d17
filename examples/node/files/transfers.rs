//! Which transfers run, and when one whose peer is too slow ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use palyra_quic::{Context, Fingerprint};
use smol::{
    Timer,
    lock::{Semaphore, SemaphoreGuardArc},
};

/// How many transfers run at a time in each direction, for all peers; further ones wait. Each holds two
/// batches of pieces.
const MAX_TRANSFERS: usize = 4;

/// How many of them one client may have, so that it leaves some to others.
const MAX_OF_A_CLIENT: usize = 2;

/// The transfers of one direction.
#[derive(Clone)]
pub(crate) struct Transfers(Arc<Shared>);

struct Shared {
    all: Arc<Semaphore>,
    /// Of clients that have a transfer, or wait for one.
    of_clients: Mutex<BTreeMap<Option<Fingerprint>, Weak<Semaphore>>>,
}

/// While this value exists, a transfer runs.
pub(crate) struct TransferSlot {
    _of_client: SemaphoreGuardArc,
    _of_all: SemaphoreGuardArc,
}

impl Transfers {
    pub(crate) fn new() -> Self {
        let all = Arc::new(Semaphore::new(MAX_TRANSFERS));
        Self(Arc::new(Shared { all, of_clients: Mutex::default() }))
    }

    /// Waits until a transfer of this client may run. A client is who owns a certificate.
    pub(crate) async fn begin(&self, context: &Context) -> TransferSlot {
        let client = context.peer().map(palyra_quic::PeerIdentity::fingerprint);
        // First, so that a transfer which waits for another one of its client takes no place from others.
        let of_client = self.of_client(client).acquire_arc().await;
        TransferSlot { _of_client: of_client, _of_all: self.0.all.acquire_arc().await }
    }

    fn of_client(&self, client: Option<Fingerprint>) -> Arc<Semaphore> {
        let mut of_clients = lock(&self.0.of_clients);
        of_clients.retain(|_, transfers| transfers.strong_count() > 0);
        if let Some(transfers) = of_clients.get(&client).and_then(Weak::upgrade) {
            return transfers;
        }
        let transfers = Arc::new(Semaphore::new(MAX_OF_A_CLIENT));
        of_clients.insert(client, Arc::downgrade(&transfers));
        transfers
    }
}

/// How fast the peer of a transfer has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerLimits {
    /// How long a transfer waits for the next piece of its peer, or until the peer takes one.
    pub(crate) silence: Duration,
    /// How many bytes have to move in each second for which the transfer waits for its peer.
    pub(crate) min_rate: u32,
    /// How far the peer may be behind that rate.
    pub(crate) max_lag: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            // As for other methods.
            silence: Duration::from_secs(30),
            // Half of what the slowest radio links carry.
            min_rate: 512,
            // Several times as long as the peer may be silent, so that a link that fails now and then is not
            // taken for a peer that holds a place with a byte from time to time.
            max_lag: Duration::from_secs(120),
        }
    }
}

/// Why a transfer does not wait for its peer any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooSlow {
    Silent,
    BelowMinRate,
}

/// Compares what has moved with how long the peer was waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    limits: PeerLimits,
    /// How much longer the peer may be waited for if nothing moves. At most [`PeerLimits::max_lag`], so that
    /// a fast beginning does not pay for a slow rest.
    spare: Duration,
}

impl Pace {
    pub(crate) fn new(limits: PeerLimits) -> Self {
        Self { limits, spare: limits.max_lag }
    }

    pub(crate) fn waited(&mut self, time: Duration) {
        self.spare = self.spare.saturating_sub(time);
    }

    pub(crate) fn moved(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let due = Duration::from_secs(bytes.into()) / self.limits.min_rate.max(1);
        self.spare = self.spare.saturating_add(due).min(self.limits.max_lag);
    }

    /// How long the next wait may last, and what it means if it lasts longer.
    pub(crate) fn longest_wait(&self) -> (Duration, TooSlow) {
        if self.spare < self.limits.silence {
            (self.spare, TooSlow::BelowMinRate)
        } else {
            (self.limits.silence, TooSlow::Silent)
        }
    }
}

/// Notices when the peer of a transfer is too slow.
pub(crate) struct PeerWatch(Mutex<Watched>);

struct Watched {
    pace: Pace,
    /// `None` while the disk is busy.
    waiting_since: Option<Instant>,
}

impl PeerWatch {
    pub(crate) fn new(limits: PeerLimits) -> Self {
        Self(Mutex::new(Watched { pace: Pace::new(limits), waiting_since: None }))
    }

    /// Waits for the peer.
    pub(crate) async fn wait<T>(&self, for_peer: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        lock(&self.0).waiting_since = Some(begun);
        let result = for_peer.await;
        let mut watched = lock(&self.0);
        watched.waiting_since = None;
        watched.pace.waited(begun.elapsed());
        result
    }

    /// The peer has sent or taken this many bytes.
    pub(crate) fn moved(&self, bytes: usize) {
        lock(&self.0).pace.moved(bytes);
    }

    /// Resolves when the peer is too slow.
    pub(crate) async fn too_slow(&self) -> TooSlow {
        loop {
            let now = Instant::now();
            let (until, reason) = {
                let watched = lock(&self.0);
                let (longest, reason) = watched.pace.longest_wait();
                (watched.waiting_since.unwrap_or(now) + longest, reason)
            };
            if until <= now {
                return reason;
            }
            Timer::at(until).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
