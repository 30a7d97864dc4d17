//! Connects a tracing system of the application.

use tracing::Span;

use super::{builder::EndpointBuilder, extract_trace::ExtractTrace};
use crate::{message::TraceContext, router::Router};

impl EndpointBuilder {
    /// Says which trace the requests and notifications of this side belong to. They carry it to the peer, in
    /// CBOR. Default: none.
    ///
    /// `inject` is called when a request is sent, with its span `call` (`docs/observability.md`), in the task
    /// of the caller; and when a notification is sent, with the current span. The span is disabled if no
    /// subscriber of `tracing` listens at level debug. It is not called for a request that has a trace from
    /// [`Call::trace`](crate::Call::trace) or [`ClientCall::trace`](crate::ClientCall::trace), nor for calls
    /// of a pipeline (`Connection::pipeline`), which carry no trace: only the request that opens their stream
    /// could, and callers of many traces share that stream. It must not block, and if it panics, so does the
    /// call.
    ///
    /// ```
    /// use palyra_quic::{Endpoint, TraceContext, tracing::Span};
    ///
    /// /// What a tracing system knows about the span.
    /// fn trace_of(span: &Span) -> Option<TraceContext> {
    ///     let parent_id = span.id()?.into_u64().to_be_bytes();
    ///     TraceContext::new([7; 16], parent_id, 1)
    /// }
    ///
    /// let builder = Endpoint::builder().inject_trace(trace_of);
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn inject_trace<F>(mut self, inject: F) -> Self
    where
        F: Fn(&Span) -> Option<TraceContext> + Send + Sync + 'static,
    {
        self.call_hooks.set_inject_trace(inject);
        self
    }

    /// Tells a tracing system which trace a request or notification of a peer belongs to.
    ///
    /// With this, each handler and its interceptors run in a span `handler` of their own. `extract` is called
    /// with that span before it is entered, and with the trace of the request, if it has one, so that it can
    /// make the caller's span its parent. The span is disabled if no subscriber of `tracing` listens at level
    /// debug. `extract` must not block, and if it panics, the exchange fails as if its handler had.
    ///
    /// Without this, a handler or an interceptor can ask for [`Context::trace`](crate::Context::trace). The
    /// package `examples/opentelemetry` connects both sides.
    ///
    /// ```
    /// use palyra_quic::{Endpoint, TraceContext, tracing::Span};
    ///
    /// fn continue_trace(span: &Span, trace: Option<TraceContext>) {
    ///     if let Some(trace) = trace {
    ///         println!("{:?} continues {trace}", span.id());
    ///     }
    /// }
    ///
    /// let builder = Endpoint::builder().extract_trace(continue_trace);
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn extract_trace<F>(mut self, extract: F) -> Self
    where
        F: Fn(&Span, Option<TraceContext>) + Send + Sync + 'static,
    {
        let wrap = |router: Router| router.in_spans(extract);
        self.extract_trace = ExtractTrace::new(wrap);
        self
    }
}
