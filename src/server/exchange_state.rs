//! What the steps of one exchange share, and how an exchange finishes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::Span;

use super::{node::Node, supervise::Outcome};
use crate::{link::Link, message::Codec, message::Response, router::ExchangeGuard, stream::FrameWriter};

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

/// How an exchange finished. A final frame is written in one place, since a future has room for everything
/// that it may wait for.
pub(super) enum ExchangeResult {
    /// The stream has still to be ended, by what the outcome says.
    Respond {
        outcome: Outcome<Option<Response>>,
        writer: FrameWriter,
        /// The context of the handler is over when this is dropped.
        guard: Option<ExchangeGuard>,
    },
    /// The stream was reset.
    Reset,
    /// A task that the handler left its sink to still has the writer, and ends the stream by dropping it.
    WriterNotReturned,
}

impl ExchangeResult {
    pub(super) const fn respond(response: Response, writer: FrameWriter) -> Self {
        Self::Respond { outcome: Outcome::Returned(Ok(Some(response))), writer, guard: None }
    }
}

/// No handshake would succeed on a slower path, by the default limits.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);

impl ExchangeState<'_> {
    /// Whether the caller waits for no more than another round trip.
    pub(super) fn expires_within_a_round_trip(&self) -> bool {
        self.expires.is_some_and(|expires| {
            let left = expires.saturating_duration_since(self.node.clock.now());
            // Most callers wait for longer, and then the connection's lock is spared.
            left <= MAX_ROUND_TRIP && left <= self.link.quinn().rtt()
        })
    }
}
