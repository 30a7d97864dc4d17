//! What the steps of one exchange share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::Span;

use super::node::Node;
use crate::{
    link::Link,
    message::Codec,
    runtime::Clock,
    span::{codec_name, record},
};

/// What the steps of one exchange share.
pub(super) struct ExchangeState<'a> {
    pub(super) node: &'a Node,
    pub(super) link: &'a Arc<Link>,
    /// Of the request, and so of the responses.
    pub(super) codec: Codec,
    pub(super) span: Span,
    /// When the request had been read.
    pub(super) began: Instant,
    /// When the caller stops waiting, if the request says so.
    pub(super) expires: Option<Instant>,
}

/// No handshake would succeed on a slower path, by the default limits.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);

impl<'a> ExchangeState<'a> {
    /// An exchange whose request has been read, and is counted here.
    #[inline]
    pub(super) fn begin(
        node: &'a Node,
        link: &'a Arc<Link>,
        codec: Codec,
        span: Span,
        timeout_ms: Option<u64>,
    ) -> Self {
        node.counters.requests.add();
        link.counters().requests.add();
        let began = node.clock.now();
        let expires = timeout_ms.map(|millis| Clock::after(began, Duration::from_millis(millis)));
        record(&span, "codec", codec_name(codec));
        Self { node, link, codec, span, began, expires }
    }

    /// Whether the caller waits for no more than another round trip.
    pub(super) fn expires_within_a_round_trip(&self) -> bool {
        self.expires.is_some_and(|expires| {
            let left = expires.saturating_duration_since(self.node.clock.now());
            // Most callers wait for longer, and then the connection's lock is spared.
            left <= MAX_ROUND_TRIP && left <= self.link.quinn().rtt()
        })
    }
}
