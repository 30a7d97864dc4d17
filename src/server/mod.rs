//! The serving half of a node: who gets in, what they ask, and how it ends.

mod accept;
mod authorize;
mod drain;
mod events;
mod exchange;
mod health;
mod inline;
mod notification;
mod supervise;

use std::{pin::pin, sync::Arc, time::Instant};

use async_lock::{Semaphore, SemaphoreGuardArc};
use futures_lite::future;
use tracing::Instrument;

pub(crate) use self::accept::accept_connections;
use self::{
    drain::{Drain, Undelivered},
    inline::Tempo,
};
use crate::{
    admission::{Admission, ConnectionSlot},
    code::Code,
    connection::Link,
    limits::TransportLimits,
    router::Router,
    runtime::Clock,
    span,
    stats::Counters,
    stream::FrameWriter,
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
        if !link.allowance().forgives(self.clock.now()) && link.is_open() {
            self.counters.excessive.add();
            tracing::debug!(remote = %link.remote_address(), "too many streams to no purpose");
            link.close(Code::EXCESSIVE_LOAD, "too many streams to no purpose");
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Resets a stream for a reason of this side.
    fn reset(&self, writer: &mut FrameWriter, code: Code) {
        self.counters.streams_reset.count(code);
        writer.reset(code);
    }

    fn max_frame_len(&self) -> usize {
        self.limits.max_frame_len()
    }
}

/// A connection that is served, as its tasks have it.
pub(super) struct Served {
    node: Arc<Node>,
    link: Arc<Link>,
    places: Arc<Semaphore>,
    undelivered: Undelivered,
    tempo: Tempo,
    /// If it has one, it is free again when the last of the tasks has ended, too.
    _slot: Option<ConnectionSlot>,
}

/// One exchange's, of those that the peer may have under way.
type Place = SemaphoreGuardArc;

/// Serves the streams that the peer opens, side by side, until the connection ends.
///
/// QUIC's stream limit bounds the exchanges, whose streams are open until they are answered. It does not bound the
/// notifications: quinn lets the peer open another stream once this side has read the end of one, and so before its
/// handler has run.
pub(crate) async fn serve_connection(node: &Arc<Node>, link: &Arc<Link>, slot: Option<ConnectionSlot>) {
    let served = Arc::new(Served {
        node: Arc::clone(node),
        link: Arc::clone(link),
        places: semaphore(node.limits.max_concurrent_bidi_streams()),
        undelivered: Undelivered::new(node.limits.max_concurrent_bidi_streams()),
        tempo: Tempo::default(),
        _slot: slot,
    });
    // Pinned and made where they are awaited, because a future that is brought along is kept twice: as it came, and there.
    let exchanges = pin!(inline::serve_each(&served));
    let places = semaphore(node.limits.max_concurrent_uni_streams());
    let notifications = pin!(async {
        loop {
            let place = places.acquire_arc().await;
            let Ok(recv) = link.quinn().accept_uni().await else { return };
            let span = span::notifications(link, recv.id());
            let served = Arc::clone(&served);
            node.clock.spawn(async move {
                notification::serve(&served, recv, span.clone()).instrument(span).await;
                drop(place);
            });
        }
    });
    let serving = async { _ = future::zip(exchanges, notifications).await };
    let delivering = async {
        served.undelivered.delivered(&node.drain).await;
        future::pending().await
    };
    // Whoever waits for a place must not miss the end.
    let ended = async {
        link.quinn().closed().await;
    };
    future::or(future::or(serving, delivering), ended).await;
}

fn semaphore(places: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(usize::MAX)))
}
