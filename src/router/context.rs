//! What a handler knows about the exchange that it serves.

use std::{
    any::Any,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use event_listener::Event;

use crate::{connection::Connection, link::Link, sync::wait_until, tls::PeerIdentity};

/// Who calls, and for how long it matters. Cloning is cheap.
///
/// A handler is dropped when the caller resets the stream, stops it or goes away, and when its deadline
/// passes; most handlers need nothing else. One of a notification is dropped when its deadline passes, and
/// not when the sender leaves, since nobody waits for it. The end of the grace of an
/// [`Endpoint::shutdown`](crate::Endpoint::shutdown) drops all. Handlers that start work elsewhere take a
/// clone along and ask it.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    link: Arc<Link>,
    deadline: Option<Instant>,
    over: AtomicBool,
    /// Whether anybody ever waited for the end: to tell nobody of it costs an allocation.
    is_awaited: AtomicBool,
    ended: Event,
}

impl Context {
    pub(crate) fn new(link: Arc<Link>, deadline: Option<Instant>) -> Self {
        Self {
            inner: Arc::new(Inner {
                link,
                deadline,
                over: AtomicBool::new(false),
                is_awaited: AtomicBool::new(false),
                ended: Event::new(),
            }),
        }
    }

    /// The peer's verified certificates and the names in them; `None` where it showed none.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.inner.link.peer()
    }

    /// What [`Router::authorize`](super::Router::authorize) returned for this connection, if it has this
    /// type. It is dropped with the connection.
    ///
    /// `None` for another type, and for peers that this node dialled, about which `authorize` is not asked.
    #[must_use]
    pub fn state<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.inner.link.peer_state()?.downcast_ref()
    }

    /// Where the peer is at the moment; a connection may move ([RFC 9000, section
    /// 9](https://www.rfc-editor.org/rfc/rfc9000#section-9)).
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.inner.link.remote_address()
    }

    /// When the handler will be dropped, on the clock of the endpoint's runtime: the lower of the caller's
    /// `timeout_ms` and the node's `handler_timeout`. `Some` in every method and notification.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.deadline
    }

    /// How long the handler may still run; zero where the deadline has passed. `Some` in every method and
    /// notification.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let deadline = self.inner.deadline?;
        Some(deadline.saturating_duration_since(self.inner.link.clock().now()))
    }

    /// The connection that the exchange came on, for calls in the other direction.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection::borrowed(Arc::clone(&self.inner.link))
    }

    /// Whether the exchange is over: answered, given up by the caller, or out of time.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.inner.over.load(Ordering::SeqCst)
    }

    /// Resolves when the exchange is over and nobody waits for its result any more.
    pub async fn over(&self) {
        // Before the look whether it is over, so that the task that ends the exchange sees one of the two.
        self.inner.is_awaited.store(true, Ordering::SeqCst);
        wait_until(&self.inner.ended, || self.is_over()).await;
    }

    /// Ends the exchange for those who hold this context when the guard is dropped.
    pub(crate) fn guard(&self) -> ExchangeGuard {
        ExchangeGuard(self.clone())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("peer", &self.peer())
            .field("remote_address", &self.remote_address())
            .field("time_left", &self.time_left())
            .field("is_over", &self.is_over())
            .finish()
    }
}

/// See [`Context::guard`].
#[derive(Debug)]
pub(crate) struct ExchangeGuard(Context);

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        let inner = &self.0.inner;
        inner.over.store(true, Ordering::SeqCst);
        if inner.is_awaited.load(Ordering::SeqCst) {
            inner.ended.notify(usize::MAX);
        }
    }
}
