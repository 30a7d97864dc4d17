//! The orderly end of an endpoint.

use std::{
    future::{Future, poll_fn},
    task::Poll,
    time::{Duration, Instant},
};

use futures_lite::future;

use super::{Endpoint, Inner};
use crate::{close_state::Cause, code::Code, drain::Phase, server::Node};

/// What is left to say after everything was closed is said within a few round trips, or not heard at all.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Endpoint {
    /// Ends everything in order. What the node has accepted it finishes, for at most `grace`:
    ///
    /// - exchanges that it serves, until their answers are acknowledged;
    /// - notifications that it has received, whether or not their senders are still there;
    /// - its own calls, and answers of streaming methods that have not ended;
    /// - its own notifications, until they are acknowledged;
    /// - what the router's event logs have not written yet.
    ///
    /// Meanwhile new connections are refused, new requests are `unavailable`, and followed event streams end
    /// with SHUTTING_DOWN. Handlers may still make calls. This side's own subscriptions do not count.
    /// Then all connections are closed with SHUTTING_DOWN. Handlers that are still running at the end of
    /// the grace are dropped, in the middle of what they await; one that blocks its thread cannot be
    /// stopped, and is not waited for.
    ///
    /// Takes up to `grace` and a second, and returns sooner when there is nothing left to do; afterwards no
    /// handler and no task of the endpoint is running. It affects every handle. Of several shutdowns, the
    /// one whose grace ends first decides. Where the runtime was dropped, it returns immediately, since
    /// nothing is left to wait for.
    ///
    /// # In a handler
    ///
    /// A handler of this endpoint may await this. It returns when everything but the exchange of that handler
    /// is finished, or when the grace is over; the connections close when the answer of the handler has
    /// been delivered. A task of the endpoint sees to that, so that it also happens if the caller leaves
    /// and the handler is dropped. Handlers are known by the thread that polls them: a handler that
    /// awaits a task of its own making, in which this is awaited, waits until the grace is over, since
    /// the two wait for each other. Let such a task finish the shutdown by itself instead.
    ///
    /// # Cancellation
    ///
    /// If this is dropped, new work is turned away all the same, and the connections stay open until the
    /// endpoint is dropped, or until it is shut down again.
    pub async fn shutdown(&self, grace: Duration) {
        let Inner { clock, node, .. } = &*self.inner;
        let deadline = clock.deadline(grace);
        let drain = node.drain();
        drain.advance(Phase::Draining);
        let Some(own) = drain.handling() else { return self.finish(deadline).await };
        let endpoint = self.clone();
        clock.spawn(async move { endpoint.finish(deadline).await });
        let _ = clock.timeout_at(Some(deadline), drain.idle_beside(own)).await;
    }

    /// Closes all connections when no work is left, and waits for the rest.
    async fn finish(&self, deadline: Instant) {
        let Inner { open, clock, node, .. } = &*self.inner;
        let quinn = open.quinn();
        let drain = node.drain();
        let _unfinished = node.close_state().shutdown();
        // Another shutdown may have less time.
        let drained = future::or(drain.idle(), drain.reached(Phase::Closing));
        let drained = clock.timeout_at(Some(deadline), drained).await.is_ok();
        tracing::debug!(drained, "closing all connections");
        drain.advance(Phase::Closing);
        node.close_state().end(Cause::Shutdown);
        quinn.close(Code::SHUTTING_DOWN.to_varint(), b"");
        // Until this moment, quinn has acknowledged what came. Once it is all handled, nothing more is
        // published.
        let handled = async {
            drain.tasks_ended().await;
            flush(node).await;
            true
        };
        let aborted = async {
            drain.reached(Phase::Aborting).await;
            false
        };
        let handled = clock.timeout_at(Some(deadline), future::or(handled, aborted)).await.unwrap_or(false);
        if !handled {
            tracing::debug!("dropping the handlers that are still running");
        }
        drain.advance(Phase::Aborting);
        let last_words = clock.deadline(LAST_WORDS);
        let ended = async {
            // A peer that has not heard by then finds out by its idle timeout.
            quinn.wait_idle().await;
            drain.tasks_ended().await;
        };
        let flushed = async {
            if !handled {
                flush(node).await;
            }
        };
        let _ = clock.timeout_at(Some(last_words), future::zip(ended, flushed)).await;
    }
}

/// Writes what was published, to all logs at the same time: one whose disk hangs holds up no other. An error
/// is the log's to report.
async fn flush(node: &Node) {
    let mut flushes: Vec<_> =
        node.event_logs().map(|log| Box::pin(async move { log.flush().await })).collect();
    poll_fn(|cx| {
        flushes.retain_mut(|flush| flush.as_mut().poll(cx).is_pending());
        if flushes.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
