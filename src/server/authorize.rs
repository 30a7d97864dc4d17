//! Asks the application whether a peer whose handshake is over may stay.

use std::pin::pin;

use futures_lite::future;

use super::{
    node::Node,
    run_handler::{Outcome, ShutdownWaits, run_handler},
};
use crate::{
    code::Code,
    link::Link,
    router::{PendingPeer, Refusal},
};

/// Lets the peer in, and says whether it did. Where not, its connection is closed: by what the application
/// said, or by what became of asking it. Nothing but its word lets a peer in.
pub(super) async fn authorized(node: &Node, link: &Link) -> bool {
    let Some(authorizer) = node.router.authorizer() else {
        link.let_in(Box::new(()));
        return true;
    };
    let peer = PendingPeer::new(link.peer().cloned(), link.remote_address());
    let deadline = node.clock.deadline(node.limits.handshake_timeout());
    let expelled = async {
        node.counters
            .closed_for(link.enforce_certificate_validity(&node.security, quinn::Side::Server).await);
        Code::CANCELLED
    };
    let gone = async {
        link.ended(&node.drain).await;
        Code::CANCELLED
    };
    let gone = pin!(future::or(expelled, gone));
    let refusal = match run_handler(node, ShutdownWaits::No, Some(deadline), gone, authorizer(peer)).await {
        Outcome::Returned(Ok(state)) => {
            link.let_in(state);
            return true;
        }
        Outcome::Returned(Err(refusal)) => refusal,
        Outcome::TimedOut => {
            tracing::warn!(remote = %link.remote_address(), "an authorization took too long");
            Refusal::new(Code::DEADLINE_EXCEEDED, "")
        }
        Outcome::Panicked => {
            tracing::warn!(remote = %link.remote_address(), "an authorization panicked");
            Refusal::new(Code::INTERNAL, "")
        }
        Outcome::GivenUp(_) => return false,
    };
    node.counters.refused.not_authorized.add();
    tracing::debug!(remote = %link.remote_address(), code = %refusal.code(), reason = refusal.reason(), "connection not authorized");
    link.close(refusal.code(), refusal.reason());
    false
}
