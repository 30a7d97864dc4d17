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

use crate::{connection::Connection, link::Link, message::TraceContext, sync::wait_until, tls::PeerIdentity};

/// What a handler can ask about its call: the peer, the connection, the deadline, and whether the exchange is
/// over. Cloning is cheap.
///
/// The node drops the handler of a method when the caller resets or stops the stream, when the connection is
/// lost, and when the deadline passes. It drops the handler of a notification when the deadline passes, and
/// not when the sender leaves. It drops all handlers when the time limit of
/// [`Endpoint::shutdown`](crate::Endpoint::shutdown) has passed.
///
/// Work that a handler starts elsewhere is not dropped with it. Give such work a clone of the context, which
/// says when to stop:
///
/// ```
/// use palyra_quic::{Context, MethodError, Router};
///
/// async fn sum(context: Context, numbers: Vec<u64>) -> Result<u64, MethodError> {
///     let sum = move || {
///         let mut sum = 0_u64;
///         for n in numbers {
///             if context.is_over() {
///                 return Err(MethodError::internal("nobody waits for the sum"));
///             }
///             sum = sum.wrapping_add(n);
///         }
///         Ok(sum)
///     };
///     smol::unblock(sum).await
/// }
///
/// let router = Router::new().serve("demo.sum", sum);
/// # drop(router);
/// ```
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    link: Arc<Link>,
    deadline: Option<Instant>,
    trace: Option<TraceContext>,
    over: AtomicBool,
    /// Whether anybody ever waited for the end: to tell nobody of it costs an allocation.
    is_awaited: AtomicBool,
    ended: Event,
}

impl Context {
    pub(crate) fn new(link: Arc<Link>, deadline: Option<Instant>) -> Self {
        Self::traced(link, deadline, None)
    }

    /// The context of a request or notification that belongs to this trace.
    pub(crate) fn traced(link: Arc<Link>, deadline: Option<Instant>, trace: Option<TraceContext>) -> Self {
        Self {
            inner: Arc::new(Inner {
                link,
                deadline,
                trace,
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

    /// What [`Router::authorize`](super::Router::authorize) returned for this connection. It is dropped with
    /// the connection.
    ///
    /// `None` if it returned another type, and for peers that this node dialled, for which it does not run.
    ///
    /// ```
    /// use palyra_quic::{Context, MethodError, PendingPeer, Router};
    ///
    /// struct Account {
    ///     name: String,
    /// }
    ///
    /// async fn who_am_i(context: Context, (): ()) -> Result<String, MethodError> {
    ///     let account = context.state::<Account>();
    ///     let account = account.ok_or_else(|| MethodError::permission_denied("no account"))?;
    ///     Ok(account.name.clone())
    /// }
    ///
    /// let router = Router::new()
    ///     .authorize(|peer: PendingPeer| async move {
    ///         let name = peer.peer().and_then(|peer| peer.common_name()).unwrap_or("guest");
    ///         Ok(Account { name: name.to_owned() })
    ///     })
    ///     .serve("demo.who_am_i", who_am_i);
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn state<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.inner.link.peer_state()?.downcast_ref()
    }

    /// The peer's current address. It changes when the connection migrates ([RFC 9000, section
    /// 9](https://www.rfc-editor.org/rfc/rfc9000#section-9)).
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.inner.link.remote_address()
    }

    /// When the handler will be dropped, on the clock of the endpoint's runtime: the lower of the caller's
    /// `timeout_ms` and the `handler_timeout` of the node, or of the method if it has
    /// [one](crate::MethodLimits::handler_timeout). `Some` in every method and notification, except in a
    /// method that items are sent to: there, only the caller's counts, and `None` is no limit.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.deadline
    }

    /// How long the handler may still run; zero where the deadline has passed. `None` as for
    /// [`deadline`](Self::deadline).
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let deadline = self.inner.deadline?;
        Some(deadline.saturating_duration_since(self.inner.link.clock().now()))
    }

    /// The trace that the request or notification belongs to, as its sender says
    /// ([W3C trace context](https://www.w3.org/TR/trace-context-1/)). `None` if it does not say, and always
    /// in JSON. A sender can say anything.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.inner.trace
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
    ///
    /// # Cancellation
    ///
    /// Safe: it can be awaited again.
    pub async fn over(&self) {
        // Before the look whether it is over, so that the task that ends the exchange sees one of the two.
        self.inner.is_awaited.store(true, Ordering::SeqCst);
        wait_until(&self.inner.ended, || self.is_over()).await;
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.inner.link
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

impl ExchangeGuard {
    /// Ends the exchange, and gives the context of another one on the same connection: in the same memory, if
    /// nobody has kept the one before.
    #[cfg(feature = "streams")]
    pub(crate) fn renew(&mut self, deadline: Instant, trace: Option<TraceContext>) -> Context {
        self.end();
        let deadline = Some(deadline);
        match Arc::get_mut(&mut self.0.inner) {
            Some(Inner { link: _, deadline: of_before, trace: trace_before, over, is_awaited, ended: _ }) => {
                (*of_before, *trace_before) = (deadline, trace);
                (*over.get_mut(), *is_awaited.get_mut()) = (false, false);
            }
            None => self.0 = Context::traced(Arc::clone(self.0.link()), deadline, trace),
        }
        self.0.clone()
    }

    /// Ends the exchange for those who hold its context.
    pub(crate) fn end(&self) {
        let inner = &self.0.inner;
        // Most handlers keep nothing of it, and then nobody is left to ask.
        if Arc::strong_count(inner) == 1 {
            return;
        }
        inner.over.store(true, Ordering::SeqCst);
        if inner.is_awaited.load(Ordering::SeqCst) {
            inner.ended.notify(usize::MAX);
        }
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        self.end();
    }
}
