//! The futures of handlers, which a router keeps without their types.

use std::{future::Future, pin::Pin};

/// The future of a handler.
pub(crate) type HandlerFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
