//! What all connections of an endpoint share when they serve.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::unread_watch::UnreadWatch;
use crate::{
    admission::Admission, call_hooks::CallHooks, close_state::CloseState, code::Code, drain::Drain,
    error::Error, events::EventLog, limits::TransportLimits, link::Link, router::Router, runtime::Clock,
    stats::Counters, stream::FrameWriter, sync::lock, tls::Security,
};

/// The least time between two warnings that peers can cause.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// What all connections of an endpoint share when they serve.
#[derive(Debug)]
pub(crate) struct Node {
    pub(super) router: Router,
    pub(super) limits: Arc<TransportLimits>,
    pub(super) clock: Clock,
    pub(super) security: Arc<Security>,
    pub(super) admission: Admission,
    pub(super) drain: Arc<Drain>,
    pub(super) counters: Counters,
    pub(super) close_state: Arc<CloseState>,
    call_hooks: CallHooks,
    pub(super) started: Instant,
    warned_of_doubt: Mutex<Option<Instant>>,
    pub(super) watched: UnreadWatch,
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
            close_state: Arc::default(),
            call_hooks: CallHooks::default(),
            started: clock.now(),
            warned_of_doubt: Mutex::default(),
            watched: UnreadWatch::default(),
            limits,
            clock,
        }
    }

    pub(crate) fn drain(&self) -> &Arc<Drain> {
        &self.drain
    }

    /// The logs that this node serves.
    pub(crate) fn event_logs(&self) -> impl Iterator<Item = EventLog> {
        self.router.event_logs()
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The accepted connections that are open, those included that are not let in yet.
    pub(crate) fn accepted(&self) -> Vec<Arc<Link>> {
        self.watched.open()
    }

    /// The end of the endpoint.
    pub(crate) fn close_state(&self) -> &Arc<CloseState> {
        &self.close_state
    }

    /// Puts these around the calls of this node.
    pub(crate) fn with_call_hooks(self, call_hooks: CallHooks) -> Self {
        Self { call_hooks, ..self }
    }

    /// What is around the calls of this node.
    pub(crate) fn call_hooks(&self) -> &CallHooks {
        &self.call_hooks
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Spawns a task, which a shutdown waits for.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.clock.spawn(self.drain.track(future));
    }

    pub(super) fn max_frame_len(&self) -> usize {
        self.limits.max_frame_len()
    }

    /// Counts a stream that a peer opened to no purpose, and closes the connection if there were too many.
    pub(super) fn record_fault(&self, link: &Link) {
        if !link.allowance().try_consume_fault(self.clock.now()) && link.is_open() {
            self.counters.excessive.add();
            tracing::debug!(remote = %link.remote_address(), "too many streams to no purpose");
            link.close(Code::EXCESSIVE_LOAD, "too many streams to no purpose");
        }
    }

    /// Resets a stream for a reason of this side.
    pub(super) fn reset(&self, writer: &mut FrameWriter, code: Code) {
        self.counters.streams_reset.count(code);
        writer.reset(code);
    }

    /// Logs that this node cannot judge a peer's certificate. That may be the fault of the node itself, so
    /// that its operator is warned, but not once for each peer.
    pub(super) fn warn_of_doubt(&self, link: &Link, doubt: &Error) {
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
}
