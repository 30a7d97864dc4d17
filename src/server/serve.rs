//! Serves one connection until it ends.

use std::{
    pin::{Pin, pin},
    sync::Arc,
};

use futures_lite::future;

use super::{connection_state::ConnectionState, dispatch, node::Node, notification};
use crate::{admission::ConnectionSlot, link::Link, runtime::OwnWaker, tls::Security};

/// What a node does about a connection beside its `work`, until that is over. It closes the connection when
/// the peer's certificate is no longer valid, and sees to it that a shutdown neither cuts off what was sent
/// nor waits for what is lost.
pub(crate) async fn attend(
    node: &Node,
    link: &Link,
    security: &Security,
    side: quinn::Side,
    work: Pin<&mut impl Future<Output = ()>>,
) {
    let work = async {
        work.await;
        None
    };
    let expelled = pin!(link.enforce_certificate_validity(security, side));
    let leaving = async {
        node.drain.begun().await;
        // Boxed, so that a connection needs no room for it before a shutdown.
        Box::pin(link.outstanding().follow_acknowledgements()).await;
    };
    let ended = async {
        future::or(link.ended(&node.drain), leaving).await;
        link.outstanding().end();
        link.allowance().abandon();
        future::pending().await
    };
    let beside = pin!(OwnWaker::new(future::or(ended, expelled)));
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
    let state = Arc::new(ConnectionState::new(node, link, slot));
    // A caller that is gone gets no answers, so that what it asked for at the end is not begun.
    let ended = async {
        link.quinn().closed().await;
    };
    let delivering = async {
        state.unacked.delivered(&node.drain).await;
        future::pending().await
    };
    let beside = pin!(OwnWaker::new(future::or(ended, delivering)));
    // Pinned and made where they are awaited, because a future that is brought along is kept twice: as it
    // came, and there.
    let exchanges = pin!(dispatch::serve_each(&state));
    let exchanges = async {
        future::or(exchanges, beside).await;
        state.unacked.end();
    };
    let notifications = pin!(notification::serve_each(&state));
    future::zip(exchanges, notifications).await;
}
