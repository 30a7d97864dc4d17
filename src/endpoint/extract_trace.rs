//! What an endpoint that is connected to a tracing system does to its router.

use std::fmt;

use crate::router::Router;

/// Puts the handlers of a router into spans. A closure, so that it is no part of programs without it.
#[derive(Default)]
pub(super) struct ExtractTrace(Option<Box<dyn FnOnce(Router) -> Router + Send + Sync>>);

impl ExtractTrace {
    pub(super) fn new(wrap: impl FnOnce(Router) -> Router + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(wrap)))
    }

    pub(super) fn apply(self, router: Router) -> Router {
        match self.0 {
            Some(wrap) => wrap(router),
            None => router,
        }
    }
}

impl fmt::Debug for ExtractTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExtractTrace").field(&self.0.is_some()).finish()
    }
}
