//! What a router keeps of a handler.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

#[cfg(feature = "streams")]
use super::items::Items;
use super::{
    context::Context, handler_future::HandlerFuture, interceptor::Interceptor, method_error::MethodError,
    response_size::ResponseSize, sink::ResponseSink,
};
use crate::{connection::Connection, method::MethodKind};

pub(crate) type Unary =
    Box<dyn Fn(Context, Bytes) -> HandlerFuture<Result<Bytes, MethodError>> + Send + Sync>;
pub(crate) type Streaming =
    Box<dyn Fn(Context, Bytes, ResponseSink) -> HandlerFuture<Result<(), MethodError>> + Send + Sync>;
#[cfg(feature = "streams")]
pub(crate) type ItemsOnce =
    Box<dyn Fn(Context, Bytes, Items) -> HandlerFuture<Result<Bytes, MethodError>> + Send + Sync>;
#[cfg(feature = "streams")]
pub(crate) type Bidi =
    Box<dyn Fn(Context, Bytes, Items, ResponseSink) -> HandlerFuture<Result<(), MethodError>> + Send + Sync>;
pub(crate) type NotificationHandler =
    Box<dyn Fn(Context, Bytes) -> HandlerFuture<Result<(), MethodError>> + Send + Sync>;
pub(crate) type ConnectionHandler = Box<dyn Fn(Connection) -> HandlerFuture<()> + Send + Sync>;

pub(crate) struct Registration {
    pub(crate) handler: Handler,
    pub(crate) response_size: Arc<ResponseSize>,
    /// Instead of the node's `handler_timeout`.
    pub(crate) timeout: Option<Duration>,
    /// Of the nested routers that this came with, outermost first, until the endpoint is bound.
    pub(super) interceptors: Vec<Interceptor>,
}

impl From<Handler> for Registration {
    fn from(handler: Handler) -> Self {
        Self { handler, response_size: Arc::default(), timeout: None, interceptors: Vec::new() }
    }
}

pub(crate) struct NotificationRegistration {
    pub(crate) handler: NotificationHandler,
    /// As in [`Registration`].
    pub(super) interceptors: Vec<Interceptor>,
}

impl From<NotificationHandler> for NotificationRegistration {
    fn from(handler: NotificationHandler) -> Self {
        Self { handler, interceptors: Vec::new() }
    }
}

pub(crate) enum Handler {
    Unary(Unary),
    Streaming(Streaming),
    #[cfg(feature = "streams")]
    Items(ItemsHandler),
}

/// A handler that takes items.
#[cfg(feature = "streams")]
pub(crate) enum ItemsHandler {
    /// It answers once.
    Once(ItemsOnce),
    /// It answers any number of times.
    Bidi(Bidi),
}

impl Handler {
    pub(super) fn kind(&self) -> MethodKind {
        match self {
            Self::Unary(_) => MethodKind::Unary,
            Self::Streaming(_) => MethodKind::Streaming,
            #[cfg(feature = "streams")]
            Self::Items(ItemsHandler::Once(_)) => MethodKind::Items,
            #[cfg(feature = "streams")]
            Self::Items(ItemsHandler::Bidi(_)) => MethodKind::Both,
        }
    }
}
