//! Limits of single methods.

use std::{sync::Arc, time::Duration};

use super::{
    context::Context,
    interceptor::{Exchange, Interceptor, Next},
    method_error::MethodError,
};
use crate::{
    admission::{Accounts, MAX_ABSENT_BYTES, Payer},
    limits::Rate,
    message::WireError,
    sync::{Semaphore, SemaphoreGuardArc},
};

/// Longer time limits are mistakes, as in [`TransportLimits`](crate::TransportLimits).
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Limits of one method, in addition to those of the node; see
/// [`Router::limits`](super::Router::limits).
///
/// ```
/// use std::time::Duration;
/// use palyra_quic::{MethodLimits, Rate, Router};
///
/// let limits = MethodLimits::new()
///     .handler_timeout(Duration::from_secs(120))
///     .concurrency(1)
///     .rate_per_peer(Rate::every(Duration::from_secs(10)).burst(3));
/// let router = Router::new()
///     .serve_raw("demo.calibrate", |_, params| async move { Ok(params) })
///     .limits("demo.calibrate", limits);
/// # drop(router);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodLimits {
    handler_timeout: Option<Duration>,
    concurrency: Option<u32>,
    rate_per_peer: Option<Rate>,
}

impl MethodLimits {
    /// No limits but those of the node.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long an exchange of this method may take, interceptors included: instead of the node's
    /// `handler_timeout`, which may be shorter or longer. A caller's shorter `timeout_ms` still applies. At
    /// the limit, the handler is dropped, and the answer is `deadline_exceeded`. Default: the node's
    /// `handler_timeout`.
    #[must_use]
    pub fn handler_timeout(self, limit: Duration) -> Self {
        Self { handler_timeout: Some(limit), ..self }
    }

    /// How many handlers of this method run at a time, for all peers together. Further requests wait, within
    /// their deadline and the peer's `max_concurrent_bidi_streams`, and keep the memory of their parameters.
    /// When a caller leaves, its request no longer waits. If the deadline passes before the handler has
    /// begun, the answer is `deadline_exceeded`, which tells the caller that nothing has run. Requests do not
    /// necessarily begin in the order in which they came. Default: no limit.
    #[must_use]
    pub fn concurrency(self, handlers: u32) -> Self {
        Self { concurrency: Some(handlers), ..self }
    }

    /// How often a peer may call this method, in addition to `request_rate`. A request above the rate is
    /// answered with `resource_exhausted`, which tells the caller when to come back and that nothing has run.
    ///
    /// A peer is the owner of a certificate, or an address (64 bits of an IPv6 address) if it presented none.
    /// Its share outlasts its connections. A method with a rate keeps the shares of at most 2,048 peers, 256
    /// bytes each; when there are more, those that have the least to wait are forgotten. Default: no limit.
    #[must_use]
    pub fn rate_per_peer(self, rate: Rate) -> Self {
        Self { rate_per_peer: Some(rate), ..self }
    }

    /// The bytes that these limits may cost at worst, beside
    /// [`TransportLimits::worst_case_bytes`](crate::TransportLimits::worst_case_bytes): 512 KiB for the
    /// shares of peers if there is a [`rate_per_peer`](Self::rate_per_peer), and nothing otherwise.
    ///
    /// ```
    /// use palyra_quic::{MethodLimits, Rate, TransportLimits};
    ///
    /// let calibrate = MethodLimits::new().rate_per_peer(Rate::per_second(1));
    /// let memory: u64 = 16 * 1024 * 1024;
    /// let limits = TransportLimits::within(memory - calibrate.worst_case_bytes())?;
    /// assert!(limits.worst_case_bytes() + calibrate.worst_case_bytes() <= memory);
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    #[must_use]
    pub fn worst_case_bytes(&self) -> u64 {
        self.rate_per_peer.map_or(0, |_| u64::try_from(MAX_ABSENT_BYTES).unwrap_or(u64::MAX))
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        self.handler_timeout
    }

    /// What keeps the handler to the limits, if it has any to keep to.
    pub(super) fn interceptor(&self) -> Option<Interceptor> {
        let limiter = Limiter {
            places: self
                .concurrency
                .map(|handlers| Arc::new(Semaphore::new(usize::try_from(handlers).unwrap_or(usize::MAX)))),
            rate: self.rate_per_peer.map(|rate| (rate, Accounts::new())),
        };
        if limiter.places.is_none() && limiter.rate.is_none() {
            return None;
        }
        let limiter = Arc::new(limiter);
        Some(Arc::new(move |exchange: Exchange, next: Next| {
            let limiter = Arc::clone(&limiter);
            Box::pin(async move {
                let _place = limiter.admit(exchange.context()).await?;
                next.run().await
            })
        }))
    }

    /// What is wrong with the limits.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let Self { handler_timeout, concurrency, rate_per_peer } = self;
        let is_wrong = [
            (handler_timeout.is_some_and(|limit| limit.is_zero()), "handler_timeout is zero"),
            (handler_timeout.is_some_and(|limit| limit > LONGEST), "handler_timeout is longer than a year"),
            (*concurrency == Some(0), "concurrency is zero"),
            (
                rate_per_peer.is_some_and(|rate| rate.is_never() || rate.period() > LONGEST),
                "rate_per_peer is zero, or once in more than a year",
            ),
        ];
        is_wrong.into_iter().find_map(|(is_wrong, fault)| is_wrong.then_some(fault))
    }
}

/// Lets requests of one method run, one after another or as often as they may.
struct Limiter {
    places: Option<Arc<Semaphore>>,
    rate: Option<(Rate, Accounts)>,
}

impl Limiter {
    /// What an exchange holds while its handler runs.
    async fn admit(&self, context: &Context) -> Result<Option<SemaphoreGuardArc>, MethodError> {
        let link = context.link();
        if let Some((rate, accounts)) = &self.rate {
            let now = link.clock().now();
            let account = accounts.of(Payer::of(link.peer(), link.remote_address().ip()), now);
            account.take_request(*rate, now).map_err(|wait| {
                MethodError::resource_exhausted("this method is called too often").retry_after(wait)
            })?;
        }
        let Some(places) = &self.places else { return Ok(None) };
        let place = link.clock().timeout_at(context.deadline(), places.acquire_arc()).await;
        place.map(Some).map_err(|_elapsed| MethodError::new(WireError::DeadlineExceeded))
    }
}
