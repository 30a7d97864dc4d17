//! The serving half of a node: who gets in, what they ask, and how it ends.

mod accept;
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

use futures_lite::future;

pub(crate) use self::accept::accept_connections;
use self::drain::Drain;
use crate::{
    admission::Admission, connection::Link, limits::TransportLimits, router::Router, runtime::Clock,
    tls::ClientAuth,
};

/// What all connections of an endpoint share when they serve.
#[derive(Debug)]
pub(crate) struct Node {
    router: Router,
    limits: Arc<TransportLimits>,
    clock: Clock,
    client_auth: ClientAuth,
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
    requests: Counter,
    notifications: Counter,
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
        client_auth: ClientAuth,
    ) -> Self {
        Self {
            router,
            client_auth,
            admission: Admission::new(&limits),
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

    fn max_frame_len(&self) -> usize {
        self.limits.max_frame_len()
    }
}

/// Serves the streams that the peer opens, each in a task of its own, until the connection ends. QUIC's stream limits
/// bound how many there are.
pub(crate) async fn serve_connection(node: &Arc<Node>, link: &Arc<Link>) {
    let exchanges = async {
        while let Ok((send, recv)) = link.quinn().accept_bi().await {
            node.clock.spawn(exchange::serve(Arc::clone(node), Arc::clone(link), send, recv));
        }
    };
    let notifications = async {
        while let Ok(recv) = link.quinn().accept_uni().await {
            node.clock.spawn(notification::serve(Arc::clone(node), Arc::clone(link), recv));
        }
    };
    future::zip(exchanges, notifications).await;
}
