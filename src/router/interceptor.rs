//! What interceptors see of an exchange, and how they pass it on.

use std::{
    fmt,
    future::pending,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{context::Context, handler_future::HandlerFuture, method_error::MethodError};
use crate::{message::WireError, method::MethodKind, runtime::Elapsed, sync::AtomicU8};

/// One of [`Router::around`](super::Router::around).
pub(crate) type Interceptor =
    Arc<dyn Fn(Exchange, Next) -> HandlerFuture<Result<Bytes, MethodError>> + Send + Sync>;

/// Calls the handler of a method. What has no payload to answer with gives no bytes.
pub(super) type CallHandler = Box<dyn FnOnce() -> HandlerFuture<Result<Bytes, MethodError>> + Send>;

/// A request or notification that was admitted and has a handler, as interceptors see it. See
/// [`Router::around`](super::Router::around). Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Exchange {
    method: Arc<str>,
    kind: MethodKind,
    context: Context,
    params_len: usize,
}

impl Exchange {
    /// The full name of the method, with the prefixes of [`nest`](super::Router::nest).
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// What kind of method it is.
    #[must_use]
    pub fn kind(&self) -> MethodKind {
        self.kind
    }

    /// What the handler gets, too: the peer, the deadline, the trace, the connection.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The length of the parameters in bytes, before they are decoded; 0 where the caller left them out.
    #[must_use]
    pub fn params_len(&self) -> usize {
        self.params_len
    }
}

/// The rest of an exchange: the interceptors further inside, and the handler. See
/// [`Router::around`](super::Router::around).
///
/// Dropping it, or the future of [`run`](Self::run), cancels that rest. The handler runs at most once:
///
/// ```compile_fail,E0382
/// async fn twice(next: palyra_quic::Next) {
///     let _ = next.run().await;
///     let _ = next.run().await;
/// }
/// ```
#[must_use = "without `run`, the handler does not run"]
pub struct Next {
    chain: Arc<Chain>,
    /// How many interceptors have passed the exchange on.
    passed: usize,
    exchange: Exchange,
    call_handler: CallHandler,
    progress: Arc<Progress>,
}

impl Next {
    /// Runs the rest of the exchange, and gives what it answers: the payload of a method with one answer. The
    /// bytes are empty for a method that streams its answers, which have been sent by then, and for a
    /// notification.
    ///
    /// # Errors
    ///
    /// What the handler, or an interceptor further inside, answers instead of a result.
    pub async fn run(mut self) -> Result<Bytes, MethodError> {
        if let Some(interceptor) = self.chain.interceptors.get(self.passed) {
            self.passed += 1;
            let (interceptor, exchange) = (Arc::clone(interceptor), self.exchange.clone());
            return interceptor(exchange, self).await;
        }
        let Self { call_handler, progress, .. } = self;
        if !progress.begin() {
            // Nobody waits for it: the interceptor that had this has answered meanwhile.
            return Err(MethodError::internal("the exchange is over"));
        }
        let result = call_handler().await;
        result.map_err(|error| {
            let (error, not_run) = error.without_not_run();
            if not_run {
                progress.take_back();
            }
            error
        })
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

/// The interceptors around one method.
pub(super) struct Chain {
    method: Arc<str>,
    kind: MethodKind,
    /// Outermost first.
    interceptors: Vec<Interceptor>,
}

impl Chain {
    pub(super) fn new(method: &str, kind: MethodKind, interceptors: Vec<Interceptor>) -> Arc<Self> {
        Arc::new(Self { method: method.into(), kind, interceptors })
    }

    /// Runs the interceptors, and the handler within them. An error says that the handler has not run if it
    /// was not called, or has said so itself. So it does if the deadline passes in an interceptor.
    pub(super) async fn run(
        self: Arc<Self>,
        context: Context,
        params_len: usize,
        call_handler: CallHandler,
    ) -> Result<Bytes, MethodError> {
        let progress = Arc::new(Progress::default());
        let (link, deadline) = (Arc::clone(context.link()), context.deadline());
        let exchange = Exchange { method: Arc::clone(&self.method), kind: self.kind, context, params_len };
        let next = Next { chain: self, passed: 0, exchange, call_handler, progress: Arc::clone(&progress) };
        let result = link.clock().timeout_at(deadline, next.run()).await;
        let has_run = progress.end();
        match result {
            Ok(result) => result.map_err(|error| if has_run { error } else { error.not_run() }),
            // What runs the handler has the same deadline, and tells of it.
            Err(Elapsed) if has_run => pending().await,
            Err(Elapsed) => Err(MethodError::new(WireError::DeadlineExceeded).not_run()),
        }
    }
}

/// Whether the handler has run. Not only the task of the exchange changes it, because an interceptor may hand
/// [`Next`] to another.
#[derive(Default)]
struct Progress(AtomicU8);

impl Progress {
    const WAITING: u8 = 0;
    const RUNNING: u8 = 1;
    /// The exchange was answered before the handler began, and the handler must not begin any more.
    const OVER: u8 = 2;

    /// The handler begins, unless the exchange is over.
    fn begin(&self) -> bool {
        self.change(Self::WAITING, Self::RUNNING)
    }

    /// The handler says that it has done nothing.
    fn take_back(&self) {
        self.change(Self::RUNNING, Self::WAITING);
    }

    /// The exchange is answered. Says whether the handler has run.
    fn end(&self) -> bool {
        !self.change(Self::WAITING, Self::OVER)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_does_not_begin_after_the_answer() {
        let progress = Progress::default();
        assert!(!progress.end(), "it has not run");
        assert!(!progress.begin());
    }

    #[test]
    fn a_handler_that_did_nothing_has_not_run() {
        let progress = Progress::default();
        assert!(progress.begin());
        progress.take_back();
        assert!(!progress.end());
        let progress = Progress::default();
        assert!(progress.begin() && progress.end(), "the check can fail");
    }
}
