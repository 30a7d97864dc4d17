//! The writer that a handler has in its sink, and its way back.

use futures_lite::future;

use super::exchange_state::ExchangeState;
use crate::{drain::Phase, router::Lender, stream::FrameWriter};

/// Takes back the writer that a handler had in its sink; `None` if a task that it left its sink to keeps it.
pub(super) async fn take_back(
    ExchangeState { node, link, .. }: &ExchangeState<'_>,
    lender: Lender<FrameWriter>,
) -> Option<FrameWriter> {
    // The task may be in the middle of a frame, but not for ever.
    let latest = node.clock.deadline(node.limits.handler_timeout());
    let returned = async { Some(lender.take_back().await) };
    let nobody_waits = async {
        let closed = async {
            link.quinn().closed().await;
        };
        future::or(closed, node.drain.reached(Phase::Aborting)).await;
        None
    };
    let returned = node.clock.timeout_at(Some(latest), future::or(returned, nobody_waits)).await;
    let Ok(Some(returned)) = returned else {
        lender.abandon();
        return None;
    };
    returned
}
