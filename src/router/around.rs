//! Code of the application around every exchange.

use std::{future::Future, sync::Arc};

use bytes::Bytes;

use super::{
    Router,
    assemble::assemble,
    interceptor::{Exchange, Interceptor, Next},
    method_error::MethodError,
};

impl Router {
    /// Runs this around every exchange that has a handler: requests of unary and streaming methods,
    /// requests with items, each call of a pipeline, and notifications. An interceptor can measure, log,
    /// delay or refuse the exchange, and replace its answer.
    ///
    /// It is an async closure or function that takes the [`Exchange`] and the [`Next`], which runs the rest.
    /// What it returns is the answer. Interceptors nest in the order in which they are added: the first is
    /// the outermost. It does not matter whether a method is added before or after them. Those of a router
    /// that is [nested](Self::nest) run within those of the router around it, and only for the methods that
    /// came with their own router.
    ///
    /// # What it sees
    ///
    /// The rules of [`allow`](Self::allow), the rates of peers and a shutdown come first: an interceptor does
    /// not see a request that they refuse, or one whose method does not exist. It sees parameters that do not
    /// decode, as the error `invalid_request`. The limits of [`limits`](Self::limits) apply within it. It
    /// does not run for the built-in methods `node.health`, `node.describe` and `node.stream_events`, nor for
    /// the logs of [`log`](Self::log): use [`allow`](Self::allow) to say who may use these.
    ///
    /// # The answer
    ///
    /// - **Unary methods**, by single calls and by pipelines, and **methods that take items and answer
    ///   once**: the bytes are the payload of the one result. The interceptor runs before the items
    ///   arrive.
    /// - **Streaming methods**, and those that answer as items arrive: [`Next::run`] ends when all
    ///   answers have been sent, and gives no bytes. Bytes that the interceptor returns are sent as one
    ///   further answer. An error ends the stream.
    /// - **Notifications**: bytes are ignored. An error stops the stream of the notification, with
    ///   IDENTITY_REJECTED for `permission_denied`, RATE_LIMITED for `resource_exhausted`,
    ///   PROTOCOL_VIOLATION for `invalid_request`, and INTERNAL for others; what follows on the stream is not
    ///   handled.
    ///
    /// If the handler has not run, the caller learns with the error that it may safely
    /// [repeat](crate::Error::may_have_run) the request. Only then may an interceptor answer `unavailable`.
    ///
    /// # Time and panics
    ///
    /// The interceptor is a part of the exchange. The time that it takes counts towards the deadline, at
    /// which it is dropped with the handler and the answer is `deadline_exceeded`. If it panics, the stream
    /// is reset with INTERNAL. Like a handler, it is dropped when the caller leaves, and must not block.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Instant;
    /// use palyra_quic::{Exchange, MethodError, Next, Router};
    ///
    /// let router = Router::new()
    ///     .serve("demo.double", |_, n: u32| async move { Ok(u64::from(n) * 2) })
    ///     .around(|exchange: Exchange, next: Next| async move {
    ///         let began = Instant::now();
    ///         let answer = next.run().await;
    ///         println!("{}: {:?}, {}", exchange.method(), began.elapsed(), answer.is_ok());
    ///         answer
    ///     })
    ///     .around(|exchange: Exchange, next: Next| async move {
    ///         if exchange.params_len() > 1024 {
    ///             return Err(MethodError::invalid_request("too many parameters"));
    ///         }
    ///         next.run().await
    ///     });
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn around<F, R>(mut self, interceptor: F) -> Self
    where
        F: Fn(Exchange, Next) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Bytes, MethodError>> + Send + 'static,
    {
        let interceptor: Interceptor = Arc::new(move |exchange, next| Box::pin(interceptor(exchange, next)));
        self.interceptors.push(interceptor);
        self.assemble = Some(assemble);
        self
    }
}
