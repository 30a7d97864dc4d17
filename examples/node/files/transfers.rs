//! Which transfers run, and when one whose peer is silent ends.

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

/// How long the peer of a transfer has been waited for.
#[derive(Default)]
pub(crate) struct PeerWatch {
    /// `None` while the disk is busy.
    waiting_since: Mutex<Option<Instant>>,
}

impl PeerWatch {
    /// Waits for the peer.
    pub(crate) async fn wait<T>(&self, for_peer: impl Future<Output = T>) -> T {
        *lock(&self.waiting_since) = Some(Instant::now());
        let result = for_peer.await;
        *lock(&self.waiting_since) = None;
        result
    }

    /// Resolves when the peer has been waited for as long as this.
    pub(crate) async fn silent_for(&self, longest: Duration) {
        loop {
            let now = Instant::now();
            let until = lock(&self.waiting_since).unwrap_or(now) + longest;
            if until <= now {
                return;
            }
            Timer::at(until).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
