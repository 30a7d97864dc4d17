//! The serving half of a node: who gets in, what they ask, and how it ends.

mod accept;
mod authorize;
mod drain;
mod events;
mod exchange;
mod health;
mod inline;
mod notification;
mod pieces;
mod supervise;

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_lock::{Semaphore, SemaphoreGuardArc};
use futures_lite::future;

pub(crate) use self::accept::accept_connections;
use self::{drain::Undelivered, inline::Tempo, pieces::Watched};
use crate::{
    admission::{Admission, ConnectionSlot},
    closure::Closure,
    code::Code,
    drain::Drain,
    error::Error,
    events::EventLog,
    limits::TransportLimits,
    link::Link,
    router::Router,
    runtime::{Clock, OwnWaker},
    stats::Counters,
    stream::FrameWriter,
    sync::lock,
    tls::{Security, Side},
};

/// Warnings that peers can cause come no more often than this.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// What all connections of an endpoint share when they serve.
#[derive(Debug)]
pub(crate) struct Node {
    router: Router,
    limits: Arc<TransportLimits>,
    clock: Clock,
    security: Arc<Security>,
    admission: Admission,
    drain: Arc<Drain>,
    counters: Counters,
    closure: Arc<Closure>,
    started: Instant,
    warned_of_doubt: Mutex<Option<Instant>>,
    watched: Watched,
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
            drain: Arc::default(),
            counters: Counters::default(),
            closure: Arc::default(),
            started: clock.now(),
            warned_of_doubt: Mutex::default(),
            watched: Watched::default(),
            limits,
            clock,
        }
    }

    pub(crate) fn drain(&self) -> &Arc<Drain> {
        &self.drain
    }

    /// Says that this node cannot judge a peer's certificate: to the operator, since it may be this node's
    /// own fault, but not for each of the peers.
    fn warn_of_doubt(&self, link: &Link, doubt: &Error) {
        let now = self.clock.now();
        let due = {
            let mut warned = lock(&self.warned_of_doubt);
            let due = warned.is_none_or(|warned| now.saturating_duration_since(warned) >= BETWEEN_WARNINGS);
            if due {
                *warned = Some(now);
            }
            due
        };
        let (remote, reason) = (link.remote_address(), doubt.explanation().unwrap_or_default());
        if due {
            tracing::warn!(%remote, reason, "the certificates of peers cannot be judged, and they are not served");
        } else {
            tracing::debug!(%remote, reason, "the certificate of the peer cannot be judged, and it is not served");
        }
    }

    /// Spawns a task, which a shutdown waits for.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.clock.spawn(self.drain.track(future));
    }

    /// What this node publishes, if it has a log.
    pub(crate) fn event_log(&self) -> Option<&EventLog> {
        self.router.event_log()
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The end of the endpoint.
    pub(crate) fn closure(&self) -> &Arc<Closure> {
        &self.closure
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

/// One exchange's, of those that the peer may have open.
type Place = SemaphoreGuardArc;

/// What a node does about a connection beside its `work`, until that is over: turns the peer out when it is
/// no longer welcome, and sees to it that a shutdown neither cuts off what was sent nor waits for what is
/// lost.
pub(crate) async fn attend(
    node: &Node,
    link: &Link,
    security: &Security,
    side: Side,
    work: Pin<&mut impl Future<Output = ()>>,
) {
    let work = async {
        work.await;
        None
    };
    let unwelcome = pin!(link.turned_out_when_unwelcome(security, side));
    let leaving = async {
        node.drain.begun().await;
        link.outstanding().follow_acknowledgements().await;
    };
    let ended = async {
        future::or(link.ended(&node.drain), leaving).await;
        link.outstanding().end();
        link.allowance().abandon();
        future::pending().await
    };
    let beside = pin!(OwnWaker::new(future::or(ended, unwelcome)));
    let code = future::or(work, beside).await;
    // For what became outstanding in between, if the work noticed the end first.
    link.outstanding().end();
    link.allowance().abandon();
    node.counters.closed_for(code);
}

/// Serves the streams that the peer opens, side by side, until the connection ends and all notifications that
/// were received on it have their tasks.
///
/// QUIC's stream limit bounds the exchanges, whose streams are open until they are answered. It does not
/// bound the notifications: quinn lets the peer open another stream once this side has read the end of one,
/// and so before its handler has run.
pub(crate) async fn serve_connection(node: &Arc<Node>, link: &Arc<Link>, slot: Option<ConnectionSlot>) {
    let served = Arc::new(Served {
        node: Arc::clone(node),
        link: Arc::clone(link),
        places: semaphore(node.limits.max_concurrent_bidi_streams()),
        undelivered: Undelivered::new(node.limits.max_concurrent_bidi_streams()),
        tempo: Tempo::default(),
        _slot: slot,
    });
    // A caller that is gone gets no answers, so that what it asked for at the end is not begun.
    let ended = async {
        link.quinn().closed().await;
    };
    let delivering = async {
        served.undelivered.delivered(&node.drain).await;
        future::pending().await
    };
    let beside = pin!(OwnWaker::new(future::or(ended, delivering)));
    // Pinned and made where they are awaited, because a future that is brought along is kept twice: as it
    // came, and there.
    let exchanges = pin!(inline::serve_each(&served));
    let exchanges = async {
        future::or(exchanges, beside).await;
        served.undelivered.end();
    };
    let notifications = pin!(notification::serve_each(&served));
    future::zip(exchanges, notifications).await;
}

fn semaphore(places: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(usize::MAX)))
}
