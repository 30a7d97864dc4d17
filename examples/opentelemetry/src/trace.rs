//! What connects OpenTelemetry to an endpoint, to be copied: two functions for
//! `EndpointBuilder::inject_trace` and `EndpointBuilder::extract_trace`.

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use palyra_quic::TraceContext;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The trace of a span of this node, for the peer. `None` if OpenTelemetry does not know the span.
pub(crate) fn inject(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    TraceContext::new(span.trace_id().to_bytes(), span.span_id().to_bytes(), span.trace_flags().to_u8())
}

/// Makes a span of the peer the parent of a span of this node that has not begun.
pub(crate) fn extract(span: &Span, trace: Option<TraceContext>) {
    let Some(trace) = trace else { return };
    let remote = SpanContext::new(
        TraceId::from_bytes(trace.trace_id()),
        SpanId::from_bytes(trace.parent_id()),
        TraceFlags::new(trace.flags()),
        true,
        TraceState::NONE,
    );
    // It fails for spans that nobody records.
    let _ = span.set_parent(Context::new().with_remote_span_context(remote));
}
