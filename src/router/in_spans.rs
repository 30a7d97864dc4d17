//! A span for each handler, which a tracing system makes a part of the caller's trace.

use std::sync::Arc;

use tracing::{Instrument, Span};

use super::{
    Router,
    assemble::assemble,
    interceptor::{Exchange, Interceptor, Next},
};
use crate::{message::TraceContext, span};

impl Router {
    /// Runs each handler, with its interceptors, in a span of its own, about which `extract` is told before
    /// it begins.
    pub(crate) fn in_spans<F>(mut self, extract: F) -> Self
    where
        F: Fn(&Span, Option<TraceContext>) + Send + Sync + 'static,
    {
        let interceptor: Interceptor = Arc::new(move |exchange: Exchange, next: Next| {
            let span = span::handler(exchange.method());
            extract(&span, exchange.context().trace());
            Box::pin(next.run().instrument(span))
        });
        self.interceptors.insert(0, interceptor);
        self.assemble = Some(assemble);
        self
    }
}
