//! From an incoming packet to a connection that is served.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_lite::{FutureExt, future};
use quinn::{Incoming, ServerConfig};
use tracing::Instrument;

use super::{Node, authorize::authorized, serve_connection};
use crate::{
    admission::{Full, Handshake},
    code::Code,
    connection::{Connection, Link},
    error::{Error, ErrorKind, Result},
    limits::Serves,
    qlog::Recorder,
    tls::{HandshakeReport, Side, classify},
};

/// Takes connections until the endpoint closes, each by this configuration with the TLS of the moment in it.
pub(crate) async fn accept_connections(
    node: Arc<Node>,
    endpoint: quinn::Endpoint,
    config: ServerConfig,
    recorder: Recorder,
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
                let transport = || node.limits.transport_config(Serves::Requests);
                let (remote, now) = (incoming.remote_address(), node.clock.now());
                if let Some(recorded) = recorder.attach(transport, remote, quinn::Side::Server, now) {
                    config.transport_config(recorded);
                }
                node.clock.spawn(serve_incoming(Arc::clone(&node), incoming, config, handshake));
            }
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

async fn serve_incoming(node: Arc<Node>, incoming: Incoming, config: ServerConfig, mut handshake: Handshake) {
    let remote = incoming.remote_address();
    let given_up = async {
        handshake.given_up().await;
        Err(Error::new(ErrorKind::Exhausted).detail("another handshake needed its place"))
    };
    let failed = |error: Error| {
        node.counters.handshakes_failed.count(&error);
        tracing::debug!(%remote, %error, "handshake failed");
    };
    let link = match future::or(shake_hands(&node, incoming, config), given_up).await {
        Ok(link) => Arc::new(link),
        Err(error) => {
            if *error.kind() == ErrorKind::HandshakeTimeout {
                handshake.was_left_unfinished(node.clock.now());
            }
            return failed(error);
        }
    };
    let Some(mut slot) = handshake.complete() else {
        link.close(Code::CAPACITY, "");
        return failed(Error::new(ErrorKind::Exhausted).detail("another handshake needed its place"));
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
        return;
    }
    if !authorized(&node, &link).instrument(link.span().clone()).await {
        return;
    }
    node.counters.accepted.add();
    let _open = Open::new(&node);
    let fingerprint = link.peer().map(crate::tls::PeerIdentity::fingerprint);
    let span = link.span();
    span.in_scope(|| tracing::debug!(%remote, ?fingerprint, "connection accepted"));
    let on_connection = async {
        if let Some(handler) = node.router.connection_handler() {
            let handled = async { handler(Connection::borrowed(Arc::clone(&link))).await };
            if AssertUnwindSafe(handled).catch_unwind().await.is_err() {
                tracing::warn!(%remote, "a connection handler panicked");
            }
        }
        future::pending().await
    };
    let serving = future::or(serve_connection(&node, &link, Some(slot)), on_connection);
    let serving = async {
        serving.await;
        None
    };
    let staying = future::or(serving, link.closed_when_unwelcome(&node.security, Side::Accepted));
    let closed_for = staying.instrument(span.clone()).await;
    node.counters.closed_for(closed_for);
    span.in_scope(|| tracing::debug!(%remote, "connection ended"));
}

async fn shake_hands(node: &Node, incoming: Incoming, mut config: ServerConfig) -> Result<Link> {
    let report = HandshakeReport::default();
    config.crypto = node.security.accepting(&report)?;
    let connecting = incoming.accept_with(Arc::new(config)).map_err(|error| classify(&error, None))?;
    let deadline = node.clock.deadline(node.limits.handshake_timeout());
    match node.clock.timeout_at(Some(deadline), connecting).await {
        Ok(Ok(connection)) => {
            let link =
                Link::new(connection, node.clock.clone(), Arc::clone(&node.limits), |peer, address| {
                    node.admission.accepted(peer, address)
                });
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
