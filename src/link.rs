//! What serving and calling share of a connection.

use std::{
    any::Any,
    fmt,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, SystemTime},
};

#[cfg(feature = "streams")]
use crate::sync::AsyncMutex;
use event_listener::{Event, EventListener};
use futures_lite::future;
use quinn::{RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use tracing::Span;

use crate::{
    address::canonical,
    admission::Allowance,
    call_hooks::CallHooks,
    call_interceptor::CallInterceptors,
    close_state::CloseState,
    code::Code,
    drain::{Drain, Phase},
    error::{Error, ErrorKind, Result},
    limits::TransportLimits,
    outstanding::Outstanding,
    retry_after,
    runtime::Clock,
    span,
    stats::LinkCounters,
    sync::wait_until,
    tls::{OnExpiry, PeerIdentity, Security, ValidityPolicy, WallClock, classify, not_after},
};

/// What serving and calling share of a connection.
pub(crate) struct Link {
    quinn: quinn::Connection,
    clock: Clock,
    limits: Arc<TransportLimits>,
    peer: Option<PeerIdentity>,
    /// Set when an accepted peer was let in.
    peer_state: OnceLock<PeerState>,
    allowance: Allowance,
    counters: LinkCounters,
    outstanding: Outstanding,
    /// Whether this side has closed the connection with one of [`REJECTING_CODES`].
    rejected: AtomicBool,
    rejection: Event,
    /// Whether the peer has shown that it speaks JSON alone.
    json_only: AtomicBool,
    /// Whether the peer has answered a streaming method, or acknowledged a stream of notifications.
    answered: AtomicBool,
    /// The end of the endpoint.
    close_state: Arc<CloseState>,
    call_hooks: CallHooks,
    /// Whether the peer takes items, once it was asked.
    #[cfg(feature = "streams")]
    takes_items: AsyncMutex<Option<bool>>,
    span: Span,
}

/// What the application knows of a peer that it let in: a value of its own type. Without one, `()`, which
/// needs no memory.
pub(crate) type PeerState = Box<dyn Any + Send + Sync>;

/// Closing a connection with one of these rejects the peer: what it has sent is not handled any more.
const REJECTING_CODES: [Code; 4] =
    [Code::IDENTITY_REJECTED, Code::IDENTITY_EXPIRED, Code::EXCESSIVE_LOAD, Code::RATE_LIMITED];

/// Closes the connection when the task that holds this is dropped. A runtime that is dropped drops its tasks,
/// quinn's own task for the connection included, which then wakes none of those who wait.
#[derive(Debug)]
pub(crate) struct CloseOnDrop(Arc<Link>);

const SECOND: Duration = Duration::from_secs(1);
/// A wall clock may be set at any time without notice, so it is read at least this often.
const MAX_CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// A call or stream that counts until this is dropped.
pub(crate) struct OutstandingGuard {
    link: Arc<Link>,
}

impl Link {
    pub(crate) fn new(
        quinn: quinn::Connection,
        drain: &Arc<Drain>,
        clock: Clock,
        limits: Arc<TransportLimits>,
        close_state: Arc<CloseState>,
        path: Option<Vec<CertificateDer<'static>>>,
        allowance: impl FnOnce(Option<&PeerIdentity>, IpAddr) -> Allowance,
    ) -> Self {
        // Without a path no verifier has seen the peer's certificate, which is found out where the handshake
        // is checked.
        let chain = path.or_else(|| presented(&quinn));
        let peer = chain.and_then(PeerIdentity::from_chain);
        let allowance = allowance(peer.as_ref(), quinn.remote_address().ip());
        let span = span::connection(&quinn, peer.as_ref());
        Self {
            quinn,
            clock,
            limits,
            peer,
            peer_state: OnceLock::new(),
            allowance,
            counters: LinkCounters::default(),
            outstanding: Outstanding::new(Arc::clone(drain)),
            rejected: AtomicBool::new(false),
            rejection: Event::new(),
            json_only: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            close_state,
            call_hooks: CallHooks::default(),
            #[cfg(feature = "streams")]
            takes_items: AsyncMutex::new(None),
            span,
        }
    }

    /// Whether the peer takes items; `None` until it was asked. The caller that asks keeps the lock
    /// meanwhile.
    #[cfg(feature = "streams")]
    pub(crate) fn takes_items(&self) -> &AsyncMutex<Option<bool>> {
        &self.takes_items
    }

    /// Puts these around the calls of this side.
    pub(crate) fn with_call_hooks(self, call_hooks: &CallHooks) -> Self {
        Self { call_hooks: call_hooks.clone(), ..self }
    }

    pub(crate) fn call_hooks(&self) -> &CallHooks {
        &self.call_hooks
    }

    pub(crate) fn call_interceptors(&self) -> &CallInterceptors {
        &self.call_hooks.interceptors
    }

    pub(crate) fn quinn(&self) -> &quinn::Connection {
        &self.quinn
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn limits(&self) -> &TransportLimits {
        &self.limits
    }

    /// What the events about this connection are in.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    pub(crate) fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    /// Lets an accepted peer in, with what the application knows of it.
    pub(crate) fn let_in(&self, state: PeerState) {
        // The application is asked once about each connection.
        let _ = self.peer_state.set(state);
    }

    /// What the application knows of the peer; `None` before an accepted peer was let in, and for dialled
    /// ones.
    pub(crate) fn peer_state(&self) -> Option<&PeerState> {
        self.peer_state.get()
    }

    /// What the peer may take.
    pub(crate) fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    /// What this side has asked for or sent, and has no answer or acknowledgement for.
    pub(crate) fn outstanding(&self) -> &Outstanding {
        &self.outstanding
    }

    /// Resolves when the connection has ended, which the end of a shutdown's grace makes it do.
    pub(crate) async fn ended(&self, drain: &Drain) {
        let closed = async {
            self.quinn.closed().await;
        };
        // quinn's endpoint tells its connections in its own time, and not at all when its driver has ended.
        let closing = async {
            drain.reached(Phase::Closing).await;
            self.close(Code::SHUTTING_DOWN, "");
        };
        future::or(closed, closing).await;
    }

    /// Closes the connection when the peer's certificate is no longer valid, because it was revoked or has
    /// expired, by the session policy of this side, which may change meanwhile. Resolves then, also if the
    /// peer has closed the connection before: with the code if the connection was closed for this.
    pub(crate) async fn enforce_certificate_validity(
        &self,
        security: &Security,
        side: quinn::Side,
    ) -> Option<Code> {
        let Some(peer) = &self.peer else { return future::pending().await };
        // Where the path that was found in the handshake is no longer good, the peer may have shown another.
        let mut another: Option<Vec<CertificateDer<'static>>> = None;
        loop {
            let rotated = security.changed();
            let policy = security.validity_policy(side);
            let path = another.as_deref().unwrap_or(peer.chain());
            let invalid = self.wait_while_valid(path, &policy, security.wall_clock(), rotated).await;
            let Some((code, reason)) = invalid else { continue };
            // A connection that may stay after a certificate has expired is checked as if the certificate had
            // not expired.
            let now = security.wall_clock().now();
            let at = match (policy.on_expiry, not_after(path)) {
                (OnExpiry::Stay, Some(last_second)) => now.map(|now| now.min(last_second)),
                _ => now,
            };
            let presented = presented(&self.quinn);
            let found = policy.paths.zip(at).and_then(|(paths, at)| {
                paths.find_again(presented.as_deref()?, policy.revocations.as_deref(), at)
            });
            if found.is_some() {
                another = found;
                continue;
            }
            tracing::debug!(remote = %self.remote_address(), reason, "the peer's certificate is no longer valid");
            let was_open = self.is_open();
            self.close(code, reason);
            return was_open.then_some(code);
        }
    }

    /// Resolves when a certificate of this path is revoked or has expired, with the code and the reason to
    /// close the connection with; or with `None` at the next rotation.
    ///
    /// Every connection waits here for as long as it lives, so this polls its three futures itself:
    /// `future::or` of async blocks takes three times the memory.
    async fn wait_while_valid(
        &self,
        path: &[CertificateDer<'static>],
        policy: &ValidityPolicy,
        wall_clock: &WallClock,
        mut rotated: EventListener,
    ) -> Option<(Code, &'static str)> {
        let last_second = match policy.on_expiry {
            OnExpiry::Close => not_after(path),
            OnExpiry::Stay => None,
        };
        loop {
            // Listens before it looks, or it could miss what is revoked in between.
            let mut changed = policy.revocations.as_ref().map(|list| list.changed());
            if policy.revocations.as_ref().is_some_and(|list| list.has_revoked(path)) {
                return Some((Code::IDENTITY_REJECTED, "revoked"));
            }
            let left = last_second.map(|last_second| time_left(last_second, wall_clock));
            if left == Some(Duration::ZERO) {
                return Some((Code::IDENTITY_EXPIRED, "expired"));
            }
            let mut sleep = left.map(|left| self.clock.sleep(left));
            let is_rotated = poll_fn(|cx| {
                let is_changed =
                    changed.as_mut().is_some_and(|changed| Pin::new(changed).poll(cx).is_ready());
                if is_changed || sleep.as_mut().is_some_and(|sleep| Pin::new(sleep).poll(cx).is_ready()) {
                    return Poll::Ready(false);
                }
                Pin::new(&mut rotated).poll(cx).map(|()| true)
            });
            if is_rotated.await {
                return None;
            }
        }
    }

    /// How many pieces of streams quinn keeps that are not read, about.
    pub(crate) fn unread_pieces(&self) -> usize {
        self.allowance.unread_pieces(self.quinn.stats().frame_rx.stream, self.clock.now())
    }

    /// Whether this side has rejected the peer, so that nothing it has sent is handled any more.
    pub(crate) fn is_rejected(&self) -> bool {
        self.rejected.load(Ordering::SeqCst)
    }

    pub(crate) fn is_json_only(&self) -> bool {
        // Nothing else hangs on it.
        self.json_only.load(Ordering::Relaxed)
    }

    /// Remembers that the peer speaks JSON alone.
    pub(crate) fn note_json_only(&self) {
        self.json_only.store(true, Ordering::Relaxed);
    }

    /// Whether the peer has answered a streaming method, or acknowledged a stream of notifications.
    pub(crate) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn note_answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Resolves when the peer is rejected.
    pub(crate) async fn rejected(&self) {
        wait_until(&self.rejection, || self.is_rejected()).await;
    }

    pub(crate) fn remote_address(&self) -> SocketAddr {
        canonical(self.quinn.remote_address())
    }

    /// Opens a stream for an exchange; waits while the peer's limit of streams is reached.
    pub(crate) async fn open_bi(&self) -> Result<(SendStream, RecvStream)> {
        self.quinn.open_bi().await.map_err(|error| self.lost(&error))
    }

    /// The same for notifications.
    pub(crate) async fn open_uni(&self) -> Result<SendStream> {
        self.quinn.open_uni().await.map_err(|error| self.lost(&error))
    }

    /// Why the connection is gone.
    pub(crate) fn lost(&self, error: &quinn::ConnectionError) -> Error {
        self.explain(classify(error, None))
    }

    /// Says which method failed, and at which peer.
    #[cold]
    pub(crate) fn name(&self, error: Error, method: &str) -> Error {
        error.of_method(method).at(self.remote_address())
    }

    /// Gives an error of the connection, or of one of its streams, the cause that its endpoint ended for.
    /// quinn knows only that this side closed the connection.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match self.close_state.failure() {
            Some(failure) if *error.kind() == ErrorKind::Closed && !self.is_open() => {
                error.explained_by(failure)
            }
            _ => error,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.quinn.close_reason().is_none()
    }

    pub(crate) fn close(&self, code: Code, reason: &str) {
        if REJECTING_CODES.contains(&code) {
            self.rejected.store(true, Ordering::SeqCst);
            self.rejection.notify(usize::MAX);
        }
        // The first reason counts.
        if self.is_open() {
            self.quinn.close(code.to_varint(), reason.as_bytes());
        }
    }

    /// Closes the connection with a code of the class [`Retry`](crate::CodeClass::Retry), and says when to
    /// come back.
    pub(crate) fn close_until(&self, code: Code, delay: Duration) {
        self.close(code, &retry_after::reason(delay));
    }
}

/// How long to wait until this second is over, or the wall clock has to be read again; zero when it is over.
fn time_left(last_second: SystemTime, wall_clock: &WallClock) -> Duration {
    // A clock that has failed lets nobody in, and is no reason to throw anybody out.
    let left = match wall_clock.now() {
        Some(now) => (last_second + SECOND).duration_since(now).unwrap_or_default(),
        None => MAX_CLOCK_CHECK_INTERVAL,
    };
    left.min(MAX_CLOCK_CHECK_INTERVAL)
}

/// The certificates that the peer sent, whichever of them its path needs.
fn presented(connection: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    let presented = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Some(*presented)
}

impl CloseOnDrop {
    pub(crate) fn new(link: &Arc<Link>) -> Self {
        Self(Arc::clone(link))
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.0
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        // A task that comes to its end finds the connection closed, and must not replace the reason.
        if self.0.is_open() {
            self.0.close(Code::NO_ERROR, "");
        }
        self.0.allowance.abandon();
    }
}

impl OutstandingGuard {
    pub(crate) fn new(link: &Arc<Link>) -> Self {
        link.outstanding().enter();
        Self { link: Arc::clone(link) }
    }
}

impl Drop for OutstandingGuard {
    fn drop(&mut self) {
        self.link.outstanding().exit();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("remote_address", &self.remote_address()).finish_non_exhaustive()
    }
}
