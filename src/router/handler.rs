//! What a router keeps of a handler.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

use super::{context::Context, method_error::MethodError, response_size::ResponseSize, sink::ResponseSink};
use crate::connection::Connection;

/// The future of a handler.
pub(crate) type HandlerFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub(crate) type Unary =
    Box<dyn Fn(Context, Bytes) -> HandlerFuture<Result<Bytes, MethodError>> + Send + Sync>;
pub(crate) type Streaming =
    Box<dyn Fn(Context, Bytes, ResponseSink) -> HandlerFuture<Result<(), MethodError>> + Send + Sync>;
pub(crate) type NotificationHandler =
    Box<dyn Fn(Context, Bytes) -> HandlerFuture<Result<(), MethodError>> + Send + Sync>;
pub(crate) type ConnectionHandler = Box<dyn Fn(Connection) -> HandlerFuture<()> + Send + Sync>;

pub(crate) struct Registration {
    pub(crate) handler: Handler,
    pub(crate) response_size: Arc<ResponseSize>,
}

impl From<Handler> for Registration {
    fn from(handler: Handler) -> Self {
        Self { handler, response_size: Arc::default() }
    }
}

pub(crate) enum Handler {
    Unary(Unary),
    Streaming(Streaming),
}
