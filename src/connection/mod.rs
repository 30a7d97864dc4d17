//! A connection to a peer, whichever side dialled.

mod acks;
mod answer;
mod call;
#[cfg(feature = "streams")]
mod call_driver;
#[cfg(feature = "streams")]
mod call_stream;
mod describe;
mod events;
mod health;
mod intercepted;
#[cfg(feature = "streams")]
mod item_sink;
#[cfg(feature = "streams")]
mod items;
#[cfg(feature = "streams")]
mod items_call;
mod notify;
mod outgoing;
#[cfg(feature = "streams")]
mod pending_calls;
#[cfg(feature = "streams")]
mod pipeline;
#[cfg(feature = "streams")]
mod pipelined_call;
mod reader;
mod responses;
#[cfg(feature = "streams")]
mod takes_items;
#[cfg(feature = "streams")]
mod upload;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

pub(crate) use self::describe::not_described;
pub(crate) use self::outgoing::{AnswerKind, OutgoingRequest, payload};
#[cfg(feature = "streams")]
pub use self::pipeline::Pipeline;
pub use self::{
    call::Call,
    events::{EventItem, Events, EventsRequest},
    health::Health,
    notify::Notifier,
    responses::Responses,
};
#[cfg(feature = "streams")]
pub use self::{item_sink::ItemSink, upload::Upload};
use crate::{
    close_state::OpenEndpoint, code::Code, error::Error, link::Link, stats::ConnectionStats,
    tls::PeerIdentity,
};

/// An open connection, for calls and notifications to the peer.
///
/// Cloning gives another handle. A connection that this side dialled is closed with NO_ERROR when its last
/// handle is dropped. Calls in progress hold one. Where notifications have been sent and are not
/// acknowledged, it stays open until they are, for at most the `idle_timeout`. A connection that was accepted
/// lives until either side closes it.
///
/// Every method works on any executor, and dropping its future is safe: a call that is dropped is cancelled
/// at the peer. When the runtime of the endpoint is dropped, all that is awaited ends with
/// [`Closed`](crate::ErrorKind::Closed).
#[derive(Clone)]
pub struct Connection {
    link: Arc<Link>,
    keep: Option<Arc<CloseWithLastHandle>>,
}

/// Finds the handles of a dialled connection, and is none.
#[derive(Debug)]
pub(crate) struct WeakConnection(Weak<CloseWithLastHandle>);

impl WeakConnection {
    /// Another handle, unless the last one was dropped.
    pub(crate) fn upgrade(&self) -> Option<Connection> {
        let keep = self.0.upgrade()?;
        Some(Connection { link: Arc::clone(&keep.link), keep: Some(keep) })
    }

    pub(crate) fn has_handles(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// Closes a dialled connection with its last handle.
struct CloseWithLastHandle {
    link: Arc<Link>,
    /// Its endpoint must not close while a handle is left.
    endpoint: Arc<OpenEndpoint>,
}

impl Drop for CloseWithLastHandle {
    fn drop(&mut self) {
        let Self { link, endpoint } = self;
        // To close it takes back notifications that are not acknowledged yet.
        if link.is_open() && link.outstanding().has_unacknowledged() {
            close_when_acknowledged(Arc::clone(link), Arc::clone(endpoint));
        } else {
            link.close(Code::NO_ERROR, "");
        }
    }
}

/// Closes the connection once the peer has what was sent on it, or has not taken it within the idle timeout.
fn close_when_acknowledged(link: Arc<Link>, endpoint: Arc<OpenEndpoint>) {
    let clock = link.clock().clone();
    let drain = Arc::clone(link.outstanding().drain());
    let closing = async move {
        let limit = link.limits().idle_timeout();
        let _ = link.clock().timeout(limit, link.outstanding().acknowledged()).await;
        link.close(Code::NO_ERROR, "");
        drop(endpoint);
    };
    clock.spawn(drain.track(closing));
}

impl Connection {
    /// A handle that keeps the connection open.
    pub(crate) fn owned(link: Arc<Link>, endpoint: Arc<OpenEndpoint>) -> Self {
        let keep = CloseWithLastHandle { link: Arc::clone(&link), endpoint };
        Self { link, keep: Some(Arc::new(keep)) }
    }

    /// For finding the handles of a dialled connection later; `None` for an accepted one.
    pub(crate) fn downgrade(&self) -> Option<WeakConnection> {
        Some(WeakConnection(Arc::downgrade(self.keep.as_ref()?)))
    }

    /// A handle to a connection that others keep open.
    pub(crate) fn borrowed(link: Arc<Link>) -> Self {
        Self { link, keep: None }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The peer's verified certificates and the names in them; `None` where it showed none, which only a
    /// dialling peer may.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.link.peer()
    }

    /// Tells connections of one endpoint apart, as long as they are open.
    pub(crate) fn stable_id(&self) -> usize {
        self.link.quinn().stable_id()
    }

    /// Where the peer is at the moment; a connection may move ([RFC 9000, section
    /// 9](https://www.rfc-editor.org/rfc/rfc9000#section-9)).
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.link.remote_address()
    }

    /// The present estimate of the round-trip time ([RFC 9002, section
    /// 5](https://www.rfc-editor.org/rfc/rfc9002#section-5)).
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.link.quinn().rtt()
    }

    /// What the connection has seen until now, in numbers: round-trip times, bytes, losses, and what was
    /// asked on it.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        self.link.counters().read(&self.link.quinn().stats())
    }

    /// Whether the peer has shown, on this connection, that it is a node of the tokio implementation: it has
    /// answered a request in CBOR with `invalid_request` in JSON (in builds without the feature `json`, with
    /// anything in JSON). Nodes that can read CBOR answer in the encoding of the request.
    ///
    /// Such a node answers requests in [`Codec::Json`](crate::Codec) alone, and reads no notifications: from
    /// then on they fail with [`Unsupported`](crate::ErrorKind::Unsupported). `false` as long as nothing
    /// was asked in CBOR, since nodes of both kinds answer JSON in the same way.
    #[must_use]
    pub fn is_json_only(&self) -> bool {
        self.link.is_json_only()
    }

    /// Closes the connection immediately; the peer gets the code and the reason. Exchanges that are open fail
    /// on both sides, and what was not acknowledged yet may be lost.
    ///
    /// Notifications that were received are still handled, unless the code rejects the peer:
    /// IDENTITY_REJECTED, IDENTITY_EXPIRED, EXCESSIVE_LOAD or RATE_LIMITED. Then no request that was received
    /// is begun, either.
    pub fn close(&self, code: Code, reason: &str) {
        self.link.close(code, reason);
    }

    /// Resolves when the connection is closed, with who closed it and why.
    ///
    /// # Cancellation
    ///
    /// Safe: it can be awaited again.
    pub async fn closed(&self) -> Error {
        self.link.lost(&self.link.quinn().closed().await)
    }

    /// Why the connection is closed; `None` while it is open.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.link.quinn().close_reason().map(|reason| self.link.lost(&reason))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, keep } = self;
        f.debug_struct("Connection")
            .field("remote_address", &link.remote_address())
            .field("peer", &link.peer())
            .field("dialled", &keep.is_some())
            .finish()
    }
}
