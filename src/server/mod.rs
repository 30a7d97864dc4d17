//! The serving half of a node: who gets in, what they ask, and how it ends.

mod accept;
mod authorize;
mod drain;
mod events;
mod exchange;
mod health;
mod notification;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use async_lock::Semaphore;
use futures_lite::future;

pub(crate) use self::accept::accept_connections;
use self::drain::Drain;
use crate::{
    admission::{Admission, ConnectionSlot},
    code::Code,
    connection::Link,
    limits::TransportLimits,
    router::Router,
    runtime::Clock,
    tls::Security,
};

/// What all connections of an endpoint share when they serve.
#[derive(Debug)]
pub(crate) struct Node {
    router: Router,
    limits: Arc<TransportLimits>,
    clock: Clock,
    security: Arc<Security>,
    admission: Admission,
    drain: Drain,
    counters: Counters,
    started: Instant,
}

/// What `node.health` counts, since the endpoint was bound.
#[derive(Debug, Default)]
struct Counters {
    open: Counter,
    accepted: Counter,
    refused: Counter,
    handshakes_failed: Counter,
    not_authorized: Counter,
    requests: Counter,
    notifications: Counter,
    notifications_denied: Counter,
}

#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Node {
    pub(crate) fn new(
        router: Router,
        limits: Arc<TransportLimits>,
        clock: Clock,
        security: Arc<Security>,
    ) -> Self {
        Self {
            router,
            security,
            admission: Admission::new(Arc::clone(&limits), clock.clone()),
            drain: Drain::default(),
            counters: Counters::default(),
            started: clock.now(),
            limits,
            clock,
        }
    }

    pub(crate) fn drain(&self) -> &Drain {
        &self.drain
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Counts what a peer did to no purpose, and has it out when it was too much.
    fn count_fault(&self, link: &Link) {
        if !link.allowance().forgives(self.clock.now()) {
            tracing::debug!(remote = %link.remote_address(), "too many streams to no purpose");
            link.close(Code::EXCESSIVE_LOAD, "too many streams to no purpose");
        }
    }

    fn max_frame_len(&self) -> usize {
        self.limits.max_frame_len()
    }
}

/// Serves the streams that the peer opens, each in a task of its own, until the connection ends. Its slot, if it has one,
/// is free again when the last of the tasks has ended, too.
///
/// QUIC's stream limit bounds the exchanges, whose streams are open until they are answered. It does not bound the
/// notifications: quinn lets the peer open another stream once this side has read the end of one, and so before its
/// handler has run.
pub(crate) async fn serve_connection(node: &Arc<Node>, link: &Arc<Link>, slot: Option<ConnectionSlot>) {
    let slot = Arc::new(slot);
    let exchanges = async {
        while let Ok((send, recv)) = link.quinn().accept_bi().await {
            let serving = exchange::serve(Arc::clone(node), Arc::clone(link), send, recv);
            let slot = Arc::clone(&slot);
            node.clock.spawn(async move {
                serving.await;
                drop(slot);
            });
        }
    };
    let places = usize::try_from(node.limits.max_concurrent_uni_streams()).unwrap_or(usize::MAX);
    let places = Arc::new(Semaphore::new(places));
    let notifications = async {
        loop {
            let place = places.acquire_arc().await;
            let Ok(recv) = link.quinn().accept_uni().await else { return };
            let serving = notification::serve(Arc::clone(node), Arc::clone(link), recv);
            let slot = Arc::clone(&slot);
            node.clock.spawn(async move {
                serving.await;
                drop((place, slot));
            });
        }
    };
    // Whoever waits for a place must not miss the end.
    let ended = async {
        link.quinn().closed().await;
    };
    future::or(async { _ = future::zip(exchanges, notifications).await }, ended).await;
}
