//! From an incoming packet to a connection that is served.

use std::{convert::Infallible, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use futures_lite::future;
use quinn::{Incoming, ServerConfig};
use tracing::Instrument;

use super::{
    authorize::authorized,
    node::Node,
    run_handler::{Outcome, ShutdownWaits, run_handler},
    serve::{attend, serve_connection},
    unread_watch,
};
use crate::{
    admission::{ConnectionSlot, Full, HandshakeSlot},
    code::Code,
    connection::Connection,
    error::{Error, ErrorKind, Result},
    limits::PeerStreams,
    link::{CloseOnDrop, Link},
    qlog::Recorder,
    router::ConnectionHandler,
    runtime::OwnWaker,
    socket::SocketHealth,
    tls::{HandshakeReport, classify},
};

/// Takes connections until the endpoint closes, each by this configuration with the TLS of the moment in it.
pub(crate) async fn accept_connections(
    node: Arc<Node>,
    endpoint: quinn::Endpoint,
    config: ServerConfig,
    recorder: Recorder,
    socket: Arc<SocketHealth>,
) {
    let accepting = pin!(accept_each(&node, &endpoint, &config, &recorder));
    let watching =
        pin!(OwnWaker::new(unread_watch::watch(&node.watched, &node.limits, &node.counters, &socket)));
    future::or(accepting, watching).await;
}

async fn accept_each(
    node: &Arc<Node>,
    endpoint: &quinn::Endpoint,
    config: &ServerConfig,
    recorder: &Recorder,
) {
    while let Some(incoming) = endpoint.accept().await {
        // Anyone can write any sender's address on a datagram; only who is there answers a Retry
        // ([RFC 9000, section 8.1.2](https://www.rfc-editor.org/rfc/rfc9000#section-8.1.2)).
        let known_to_quinn = endpoint.open_connections();
        if node.admission.asks_for_address(known_to_quinn) && incoming.may_retry() {
            // Fails only where a retry may not be sent.
            if incoming.retry().is_ok() {
                node.counters.retries.add();
            }
            continue;
        }
        let address = incoming.remote_address().ip();
        let validated = incoming.remote_address_validated().then_some(address);
        let closed = node.drain.has_begun() || node.security.wall_clock().now().is_none();
        let admitted = if closed { None } else { Some(node.admission.admit(validated, known_to_quinn)) };
        match admitted {
            Some(Ok(handshake)) => {
                let mut config = config.clone();
                let transport = || node.limits.transport_config(PeerStreams::Accepted);
                let (remote, now) = (incoming.remote_address(), node.clock.now());
                if let Some(recorded) = recorder.attach(transport, remote, quinn::Side::Server, now) {
                    config.transport_config(recorded);
                }
                node.spawn(serve_incoming(Arc::clone(node), incoming, config, handshake));
            }
            // The client repeats itself, and gets in when some of those are forgotten.
            Some(Err(Full::Draining)) => incoming.ignore(),
            Some(Err(full)) => {
                node.counters.refused.count(full);
                incoming.refuse();
            }
            None => {
                node.counters.refused.shutting_down.add();
                incoming.refuse();
            }
        }
    }
}

/// Shakes hands, and serves who is let in, in a task of its own: what the handshake needed is not held for as
/// long as the connection.
async fn serve_incoming(node: Arc<Node>, incoming: Incoming, config: ServerConfig, handshake: HandshakeSlot) {
    if let Some((link, slot)) = let_in(&node, incoming, config, handshake).await {
        let serving = serve_accepted(Arc::clone(&node), CloseOnDrop::new(&link), slot);
        node.spawn(serving);
    }
}

async fn let_in(
    node: &Node,
    incoming: Incoming,
    config: ServerConfig,
    mut handshake: HandshakeSlot,
) -> Option<(Arc<Link>, ConnectionSlot)> {
    let remote = incoming.remote_address();
    let given_up = async {
        handshake.evicted().await;
        Err(Error::new(ErrorKind::Exhausted).detail("another handshake needed its place"))
    };
    let failed = |error: Error| {
        node.counters.handshakes_failed.count(&error);
        tracing::debug!(%remote, %error, "handshake failed");
    };
    let link = match future::or(shake_hands(node, incoming, config), given_up).await {
        Ok(link) => {
            let link = Arc::new(link);
            node.watched.add(&link);
            link
        }
        Err(error) => {
            if *error.kind() == ErrorKind::HandshakeTimeout {
                handshake.was_left_unfinished(node.clock.now());
            }
            failed(error);
            return None;
        }
    };
    let Some(mut slot) = handshake.complete() else {
        link.close(Code::CAPACITY, "");
        failed(Error::new(ErrorKind::Exhausted).detail("another handshake needed its place"));
        return None;
    };
    if let Some(peer) = link.peer()
        && let Err(full) = node.admission.identify(&mut slot, peer)
    {
        node.counters.refused.count(full);
        tracing::debug!(%remote, ?full, "connection refused");
        match full {
            Full::Rate(wait) => link.close_until(Code::RATE_LIMITED, wait),
            _ => link.close(Code::CAPACITY, ""),
        }
        return None;
    }
    let authorized = authorized(node, &link).instrument(link.span().clone()).await;
    authorized.then_some((link, slot))
}

async fn serve_accepted(node: Arc<Node>, held: CloseOnDrop, slot: ConnectionSlot) {
    let link = held.link();
    let remote = link.remote_address();
    node.counters.accepted.add();
    let _open = Open::new(&node);
    let span = link.span();
    span.in_scope(|| {
        let fingerprint = link.peer().map(crate::tls::PeerIdentity::fingerprint);
        tracing::debug!(%remote, ?fingerprint, "connection accepted");
    });
    // In memory of its own: most nodes have no such handler, and most handlers end before the connection.
    let handler = node.router.connection_handler();
    let mut handling =
        handler.map(|handler| Box::pin(OwnWaker::new(run_connection_handler(&node, link, handler))));
    let handling = poll_fn(|cx| {
        if handling.as_mut().is_some_and(|handling| handling.as_mut().poll(cx).is_ready()) {
            handling = None;
        }
        Poll::Pending
    });
    // Pinned, because what is brought along is kept twice.
    let serving = pin!(serve_connection(&node, link, Some(slot)));
    let work = pin!(future::or(serving, handling));
    attend(&node, link, &node.security, quinn::Side::Server, work).instrument(span.clone()).await;
    span.in_scope(|| tracing::debug!(%remote, "connection ended"));
}

async fn run_connection_handler(node: &Node, link: &Arc<Link>, handler: &ConnectionHandler) {
    // Ends with the connection, however much of what was received on that is still to be handled.
    let gone = pin!(async {
        link.ended(&node.drain).await;
        Code::CANCELLED
    });
    let handled = Box::pin(async {
        handler(Connection::borrowed(Arc::clone(link))).await;
        Ok::<(), Infallible>(())
    });
    // A shutdown that is awaited in the handler must not wait for the handler's task.
    let outcome = run_handler(node, ShutdownWaits::No, None, gone, handled).await;
    if let Outcome::Panicked = outcome {
        tracing::warn!(remote = %link.remote_address(), "a connection handler panicked");
    }
}

async fn shake_hands(node: &Node, incoming: Incoming, mut config: ServerConfig) -> Result<Link> {
    let report = HandshakeReport::default();
    config.crypto = node.security.server_config(&report)?;
    let connecting = incoming.accept_with(Arc::new(config)).map_err(|error| classify(&error, None))?;
    let deadline = node.clock.deadline(node.limits.handshake_timeout());
    match node.clock.timeout_at(Some(deadline), connecting).await {
        Ok(Ok(connection)) => {
            let link = Link::new(
                connection,
                &node.drain,
                node.clock.clone(),
                Arc::clone(&node.limits),
                Arc::clone(&node.close_state),
                report.take_path(),
                |peer, address| node.admission.accepted(peer, address),
            )
            .with_call_hooks(node.call_hooks());
            if let Some(doubt) = report.inconclusive() {
                link.close(Code::INTERNAL, doubt.explanation().unwrap_or_default());
                node.warn_of_doubt(&link, &doubt);
                return Err(doubt);
            }
            if link.peer().is_some() {
                let full = report.check_full_handshake();
                full.inspect_err(|_| link.close(Code::IDENTITY_REJECTED, "unverified"))?;
            }
            Ok(link)
        }
        Ok(Err(error)) => Err(classify(&error, Some(&report))),
        Err(_elapsed) => Err(Error::new(ErrorKind::HandshakeTimeout)),
    }
}

/// Counts a connection as open while it lives.
struct Open<'a>(&'a Node);

impl<'a> Open<'a> {
    fn new(node: &'a Node) -> Self {
        node.counters.open.add();
        Self(node)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.counters.open.subtract();
    }
}
