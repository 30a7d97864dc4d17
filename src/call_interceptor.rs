//! Interceptors around the calls of an endpoint.

use std::{
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    error::{Error, ErrorKind, Result},
    handoff::{HandedOff, Handoff, Wish},
    message::TraceContext,
    method::MethodKind,
    runtime::{Clock, Elapsed},
    tls::PeerIdentity,
};

type CallFuture = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;
type CallInterceptor = Arc<dyn Fn(OutgoingCall, NextCall) -> CallFuture + Send + Sync>;

/// A call or notification of this side, as interceptors see it before it is sent. See
/// [`EndpointBuilder::around_calls`](crate::EndpointBuilder::around_calls).
#[derive(Clone, Debug)]
pub struct OutgoingCall {
    pub(crate) method: Arc<str>,
    pub(crate) kind: MethodKind,
    pub(crate) params_len: usize,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) peer: Option<PeerIdentity>,
    pub(crate) remote_address: SocketAddr,
}

impl OutgoingCall {
    /// The name of the method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// What the caller takes the method for: [`Unary`](MethodKind::Unary) if it waits for one answer, also in
    /// a pipeline; [`Streaming`](MethodKind::Streaming) if it reads a stream of answers or events;
    /// [`Items`](MethodKind::Items) or [`Both`](MethodKind::Both) if it sends items; or
    /// [`Notification`](MethodKind::Notification).
    #[must_use]
    pub fn kind(&self) -> MethodKind {
        self.kind
    }

    /// The length of the encoded parameters in bytes; 0 if there are none.
    #[must_use]
    pub fn params_len(&self) -> usize {
        self.params_len
    }

    /// The trace that the call belongs to, and that the peer is told of.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// When the caller stops waiting, on the clock of the endpoint's runtime; `None` for calls without a time
    /// limit and for notifications.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The peer's verified certificates and the names in them; `None` where it showed none.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    /// Where the peer is at the moment.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.remote_address
    }

    /// The error of an interceptor that does not let the call pass: [`Intercepted`](ErrorKind::Intercepted),
    /// which no repetition mends.
    #[must_use]
    pub fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::new(ErrorKind::Intercepted).detail(reason)
    }

    /// The error of an interceptor that does not let the call pass now: [`Exhausted`](ErrorKind::Exhausted),
    /// with the time after which it may.
    #[must_use]
    pub fn refuse_for(&self, delay: Duration, reason: impl Into<String>) -> Error {
        Error::new(ErrorKind::Exhausted).detail(reason).after(Some(delay))
    }
}

/// The rest of a call: the interceptors further inside, and the peer. See
/// [`EndpointBuilder::around_calls`](crate::EndpointBuilder::around_calls).
///
/// Dropping it, or the future of [`run`](Self::run), cancels that rest.
#[must_use = "without `run`, nothing is sent"]
pub struct NextCall {
    interceptors: Arc<[CallInterceptor]>,
    /// How many interceptors have passed the call on.
    passed: usize,
    call: OutgoingCall,
    result: HandedOff<Result<Bytes>>,
}

impl NextCall {
    /// Sends the call and gives the payload of the answer. The bytes are empty for a `result` without a
    /// payload and for an answer of another kind, such as that of `node.health`. For a stream of answers,
    /// and for a request with items, this resolves with no bytes when the request has been sent; for a
    /// notification, when QUIC has taken it.
    ///
    /// # Errors
    ///
    /// Those of the call, or what an interceptor further inside returns.
    pub async fn run(mut self) -> Result<Bytes> {
        if let Some(interceptor) = self.interceptors.get(self.passed) {
            self.passed += 1;
            let (interceptor, call) = (Arc::clone(interceptor), self.call.clone());
            return interceptor(call, self).await;
        }
        let too_late = || Err(Error::new(ErrorKind::Closed).detail("the call is over"));
        self.result.await.unwrap_or_else(too_late)
    }
}

impl fmt::Debug for NextCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NextCall").field("call", &self.call).finish_non_exhaustive()
    }
}

/// The interceptors of an endpoint, outermost first. Without any, this is nothing but a null pointer.
#[derive(Clone, Default)]
pub(crate) struct CallInterceptors(Option<Arc<[CallInterceptor]>>);

impl CallInterceptors {
    pub(crate) fn add<F, R>(&mut self, interceptor: F)
    where
        F: Fn(OutgoingCall, NextCall) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Bytes>> + Send + 'static,
    {
        let interceptor: CallInterceptor = Arc::new(move |call, next| Box::pin(interceptor(call, next)));
        let before = self.0.iter().flat_map(|interceptors| interceptors.iter().cloned());
        self.0 = Some(before.chain([interceptor]).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Runs the interceptors around `work`, which sends the call, until `limit`. Gives what the work did, if
    /// it was done, and the bytes that the outermost interceptor returned.
    pub(crate) async fn around<T>(
        &self,
        clock: &Clock,
        call: OutgoingCall,
        limit: Option<Instant>,
        payload: fn(&T) -> Bytes,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(Option<T>, Bytes)> {
        let interceptors = self.0.iter().flat_map(|interceptors| interceptors.iter().cloned()).collect();
        let (handoff, result) = Handoff::new();
        let mut chain = pin!(NextCall { interceptors, passed: 0, call, result }.run());
        let mut work = Work { handoff, work: pin!(Some(work)), progress: Progress::NotBegun };
        let concluded = poll_fn(|cx| {
            loop {
                if let Poll::Ready(answer) = chain.as_mut().poll(cx) {
                    return Poll::Ready(work.conclude(answer));
                }
                if work.poll(cx, payload).is_pending() {
                    return Poll::Pending;
                }
            }
        });
        // The work has the same time limit, and knows more about its end. So this is for the interceptors.
        let concluded = clock.timeout_at(limit, concluded).await;
        concluded.unwrap_or_else(|Elapsed| work.conclude(Err(clock.timed_out(ErrorKind::DeadlineExceeded))))
    }
}

impl fmt::Debug for CallInterceptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.as_ref().map_or(0, |interceptors| interceptors.len());
        f.debug_tuple("CallInterceptors").field(&count).finish()
    }
}

/// What sends the call, once the interceptors let it.
struct Work<'a, T, F> {
    handoff: Handoff<Result<Bytes>>,
    work: Pin<&'a mut Option<F>>,
    progress: Progress<T>,
}

enum Progress<T> {
    NotBegun,
    /// It is being sent, or was given up halfway.
    Begun,
    Done(T),
    Failed {
        may_have_run: bool,
    },
}

impl<T, F: Future<Output = Result<T>>> Work<'_, T, F> {
    /// Ready when the interceptors have something new to see.
    fn poll(&mut self, cx: &mut Context<'_>, payload: fn(&T) -> Bytes) -> Poll<()> {
        match self.handoff.wish(cx) {
            Wish::Wait => return Poll::Pending,
            Wish::GiveUp => self.work.set(None),
            Wish::Work => {}
        }
        let Some(work) = self.work.as_mut().as_pin_mut() else { return Poll::Pending };
        if matches!(self.progress, Progress::NotBegun) {
            self.progress = Progress::Begun;
        }
        let Poll::Ready(result) = work.poll(cx) else { return Poll::Pending };
        self.work.set(None);
        let (progress, result) = match result {
            Ok(done) => {
                let payload = payload(&done);
                (Progress::Done(done), Ok(payload))
            }
            Err(error) => (Progress::Failed { may_have_run: error.may_have_run() }, Err(error)),
        };
        self.progress = progress;
        self.handoff.finish(result);
        Poll::Ready(())
    }

    /// What came of the call. An error tells whether the call may have run, even if it is not the call's own.
    fn conclude(&mut self, answer: Result<Bytes>) -> Result<(Option<T>, Bytes)> {
        match (answer, std::mem::replace(&mut self.progress, Progress::NotBegun)) {
            (Ok(bytes), Progress::Done(done)) => Ok((Some(done), bytes)),
            (Ok(bytes), _) => Ok((None, bytes)),
            (Err(error), Progress::NotBegun) => Err(error.before_request()),
            (Err(error), Progress::Failed { may_have_run: false }) => Err(error),
            (Err(error), _) if error.may_have_run() => Err(error),
            (Err(error), _) => Err(error.after_answer()),
        }
    }
}
