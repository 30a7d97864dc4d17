//! A stream of notifications, handled in their order.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use futures_lite::future;
use quinn::RecvStream;
use tracing::Span;

use super::{
    Node, Served,
    drain::Running,
    exchange::{fault_code, is_fault},
    supervise::{Outcome, supervise},
};
use crate::{
    code::Code,
    connection::Link,
    message::{Notification, PROTOCOL_VERSION, WireError},
    router::Context,
    span::record,
    stream::{FrameReader, Pace},
};

pub(super) async fn serve(served: &Served, recv: RecvStream, span: Span) {
    let Served { node, link, .. } = served;
    let mut reader = FrameReader::new(recv, node.max_frame_len(), link.allowance().charge());
    let mut pace = Pace::Opening;
    loop {
        let limit = node.limits.request_read_timeout();
        let next = reader.next_within(&node.clock, limit, pace, |body| body.into_bytes());
        let stopping = async {
            node.drain.begun().await;
            Ok(None)
        };
        // What has arrived before the shutdown is still read.
        let code = match future::or(next, stopping).await {
            Ok(Some(body)) => notify(node, link, &body).await.err(),
            Ok(None) if node.drain.has_begun() => Some(Code::SHUTTING_DOWN),
            Ok(None) => {
                if pace == Pace::Opening {
                    node.count_fault(link);
                }
                return record(&span, "outcome", "ok");
            }
            Err(error) => {
                tracing::debug!(remote = %link.remote_address(), %error, "notification not read");
                if is_fault(&error, link) {
                    node.count_fault(link);
                }
                let code = fault_code(&error);
                node.counters.unread(&error, code);
                record(&span, "outcome", code);
                return reader.stop(code);
            }
        };
        if let Some(code) = code {
            node.counters.streams_reset.count(code);
            record(&span, "outcome", code);
            return reader.stop(code);
        }
        pace = Pace::Between;
    }
}

/// Handles one notification, or gives the code to stop its stream with.
async fn notify(node: &Arc<Node>, link: &Arc<Link>, body: &Bytes) -> Result<(), Code> {
    let its_turn = async {
        let comes = link.allowance().notification(&node.clock).await;
        comes.then_some(()).ok_or(Code::RATE_LIMITED)
    };
    // What was taken on before the shutdown is handled, and need not wait any more.
    let stopping = async {
        node.drain.begun().await;
        Ok(())
    };
    let gone = async {
        link.quinn().closed().await;
        Err(Code::CANCELLED)
    };
    future::or(future::or(its_turn, stopping), gone).await?;
    let _running = Running::enter(node);
    let notification = Notification::decode(body).map_err(|error| violation(node, link, &error))?;
    if notification.protocol_version != PROTOCOL_VERSION {
        return Err(violation(node, link, &"another protocol version"));
    }
    node.counters.notifications.add();
    link.counters().notifications.add();
    if !node.router.allows(link.peer(), &notification.method) {
        node.counters.notifications_denied.add();
        tracing::debug!(remote = %link.remote_address(), "a notification that the peer may not send");
        return Err(Code::IDENTITY_REJECTED);
    }
    let Some(handler) = node.router.notification_handler(&notification.method) else {
        tracing::debug!(remote = %link.remote_address(), "a notification that nobody handles");
        return Ok(());
    };
    let deadline = node.clock.deadline(node.limits.handler_timeout());
    let context = Context::new(Arc::clone(link), Some(deadline));
    let _guard = context.guard();
    let running = handler(context, notification.params.unwrap_or_default());
    // Nobody waits, so nobody gives up: a sender may notify and leave.
    match supervise(&node.clock, Some(deadline), pin!(future::pending()), running).await {
        Outcome::Returned(Ok(())) => Ok(()),
        Outcome::Returned(Err(error)) if *error.error() == WireError::InvalidRequest => {
            Err(violation(node, link, &error))
        }
        Outcome::Returned(Err(_)) | Outcome::Panicked => {
            tracing::warn!(remote = %link.remote_address(), "a notification handler failed");
            Err(Code::INTERNAL)
        }
        Outcome::TimedOut | Outcome::GivenUp(_) => Err(Code::DEADLINE_EXCEEDED),
    }
}

fn violation(node: &Node, link: &Link, fault: &dyn std::fmt::Display) -> Code {
    node.count_fault(link);
    tracing::debug!(remote = %link.remote_address(), %fault, "notification refused");
    Code::PROTOCOL_VIOLATION
}
