//! Code of the application around every call.

use std::future::Future;

use bytes::Bytes;

use super::builder::EndpointBuilder;
#[cfg(doc)]
use crate::error::Error;
use crate::{
    call_interceptor::{NextCall, OutgoingCall},
    error::Result,
};

impl EndpointBuilder {
    /// Runs this around every call and notification that this side sends, on connections that it dialled or
    /// accepted. An interceptor can measure, log, delay or refuse the call, and replace its answer.
    ///
    /// It is an async closure or function that takes the [`OutgoingCall`] and the [`NextCall`], which sends
    /// the call. What it returns is what the caller gets. Interceptors nest in the order in which they are
    /// added: the first is the outermost.
    ///
    /// A [`Client`](crate::Client) that repeats a call runs them for each attempt, once it has a connection.
    /// They also run for the built-in methods. A subscription to events is a stream.
    ///
    /// # The answer
    ///
    /// - **Calls with one answer**: the bytes are the payload of the result. Other answers, such as that of
    ///   `node.health`, are not replaced.
    /// - **Streams of answers**: [`NextCall::run`] ends when the request has been sent. The caller reads what
    ///   the stream brings without the interceptor. There is no stream without `run`: the call fails with
    ///   [`Intercepted`](crate::ErrorKind::Intercepted).
    /// - **Notifications**: bytes are ignored. Without `run`, nothing is sent, and the caller is not told.
    ///
    /// # Errors and time
    ///
    /// [`OutgoingCall::refuse`] and [`refuse_for`](OutgoingCall::refuse_for) make errors. Whichever error an
    /// interceptor returns, [`may_have_run`](Error::may_have_run) is `false` if the call was not sent, and
    /// stays `true` if the call may have run.
    ///
    /// The time that an interceptor takes counts towards the time limit of the call, at which the interceptor
    /// is dropped. It is also dropped with the future of the call. A panic reaches the caller.
    ///
    /// ```
    /// use palyra_quic::{Endpoint, NextCall, OutgoingCall};
    ///
    /// let builder = Endpoint::builder().around_calls(|call: OutgoingCall, next: NextCall| async move {
    ///     if call.params_len() > 64 * 1024 {
    ///         return Err(call.refuse("too large for this link"));
    ///     }
    ///     let answer = next.run().await;
    ///     println!("{} at {}: {}", call.method(), call.remote_address(), answer.is_ok());
    ///     answer
    /// });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn around_calls<F, R>(mut self, interceptor: F) -> Self
    where
        F: Fn(OutgoingCall, NextCall) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Bytes>> + Send + 'static,
    {
        self.call_hooks.interceptors.add(interceptor);
        self
    }
}
