//! What an endpoint does around each of its calls.

use std::{fmt, sync::Arc};

use tracing::Span;

use crate::{call_interceptor::CallInterceptors, message::TraceContext};

type InjectTrace = Arc<dyn Fn(&Span) -> Option<TraceContext> + Send + Sync>;

/// What an endpoint does around each of its calls, whichever connection they are on.
#[derive(Clone, Default)]
pub(crate) struct CallHooks {
    pub(crate) interceptors: CallInterceptors,
    inject_trace: Option<InjectTrace>,
}

impl CallHooks {
    pub(crate) fn set_inject_trace<F>(&mut self, inject: F)
    where
        F: Fn(&Span) -> Option<TraceContext> + Send + Sync + 'static,
    {
        self.inject_trace = Some(Arc::new(inject));
    }

    /// Which trace a message belongs to that is sent in this span.
    #[inline]
    pub(crate) fn trace(&self, span: &Span) -> Option<TraceContext> {
        self.inject_trace.as_ref().and_then(|inject| inject(span))
    }

    /// The same for the current span.
    #[inline]
    pub(crate) fn current_trace(&self) -> Option<TraceContext> {
        // Without a hook, the span is not even looked up.
        self.inject_trace.as_ref().and_then(|inject| inject(&Span::current()))
    }
}

impl fmt::Debug for CallHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interceptors, inject_trace } = self;
        f.debug_struct("CallHooks")
            .field("interceptors", interceptors)
            .field("inject_trace", &inject_trace.is_some())
            .finish()
    }
}
