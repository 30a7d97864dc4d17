//! Registers methods and notifications, with handlers of values or of bytes.

use std::{fmt::Write, future::Future, sync::Arc};

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::{
    Router,
    context::Context,
    handler::{Handler, NotificationHandler, Streaming, Unary},
    method_error::MethodError,
    sink::ResponseSink,
};
use crate::{
    method::{Method, MethodName, NotificationMethod, StreamingMethod},
    value,
};

impl Router {
    /// Serves a method with one answer, decoded and encoded by minicbor.
    ///
    /// The method is a [`Method`](crate::Method), which brings the types of the handler, or a string.
    /// Parameters must be exactly one item of definite length, nested at most 16 deep. If they do not decode,
    /// the caller gets `invalid_request`, and the handler is not called. A handler of `()` or of an `Option`
    /// can be called without parameters: the caller may leave them out, or pass `()` or `None`.
    ///
    /// A later handler for the same name replaces this one. Binding the endpoint fails with
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if the name does not have 1 to 128 bytes, or starts
    /// with `node.`.
    #[must_use]
    pub fn serve<P, T, F, R>(self, method: impl MethodName<Method<P, T>>, handler: F) -> Self
    where
        P: for<'b> Decode<'b, ()> + Send + 'static,
        T: Encode<()> + Send + 'static,
        F: Fn(Context, P) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.serve_raw(method.method_name(), move |context, params| {
            let handler = Arc::clone(&handler);
            async move {
                let result = handler(context, decode_params(&params)?).await?;
                value::encode(&result).map_err(|_| MethodError::internal("the result cannot be encoded"))
            }
        })
    }

    /// Serves a method with one answer, bytes to bytes. Parameters that the caller left out are empty. See
    /// [`serve`](Self::serve).
    #[must_use]
    pub fn serve_raw<F, R>(mut self, method: impl AsRef<str>, handler: F) -> Self
    where
        F: Fn(Context, Bytes) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Bytes, MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let unary: Unary = Box::new(move |context, params| {
            let handler = Arc::clone(&handler);
            // Called within the future, so that a panic of the handler's first half is caught with the
            // second.
            Box::pin(async move { handler(context, params).await })
        });
        self.methods.insert(method.as_ref().into(), Handler::Unary(unary).into());
        self
    }

    /// Serves a method with any number of answers, decoded and encoded by minicbor. The node's
    /// `handler_timeout` covers all of them, waiting for a slow reader included. See [`serve`](Self::serve).
    ///
    /// ```
    /// use palyra_quic::{ResponseSink, Router, StreamingMethod};
    ///
    /// const COUNT: StreamingMethod<u32, u32> = StreamingMethod::new("demo.count");
    ///
    /// let router = Router::new().serve_stream(COUNT, |_, last, mut answers: ResponseSink<u32>| async move {
    ///     for n in 1..=last {
    ///         answers.send(&n).await?;
    ///     }
    ///     Ok(())
    /// });
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn serve_stream<P, T, F, R>(self, method: impl MethodName<StreamingMethod<P, T>>, handler: F) -> Self
    where
        P: for<'b> Decode<'b, ()> + Send + 'static,
        T: Encode<()> + 'static,
        F: Fn(Context, P, ResponseSink<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.serve_stream_raw(method.method_name(), move |context, params, sink| {
            let handler = Arc::clone(&handler);
            async move { handler(context, decode_params(&params)?, sink.of_values()).await }
        })
    }

    /// Serves a method with any number of answers, bytes to bytes. See [`serve_stream`](Self::serve_stream).
    #[must_use]
    pub fn serve_stream_raw<F, R>(mut self, method: impl AsRef<str>, handler: F) -> Self
    where
        F: Fn(Context, Bytes, ResponseSink) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let streaming: Streaming = Box::new(move |context, params, sink| {
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler(context, params, sink).await })
        });
        self.methods.insert(method.as_ref().into(), Handler::Streaming(streaming).into());
        self
    }

    /// Handles notifications: messages without an answer. Those on one stream are handled in order.
    ///
    /// The notification is a [`NotificationMethod`], which brings the type of the parameters, or a string.
    /// Parameters are decoded as in [`serve`](Self::serve). If they do not decode, the stream is stopped with
    /// PROTOCOL_VIOLATION.
    ///
    /// A notification that was acknowledged to its sender is handled even if the sender leaves, and also
    /// during a [`shutdown`](crate::Endpoint::shutdown), as far as its time limit allows. It is not handled
    /// if this node closes the connection with IDENTITY_REJECTED, IDENTITY_EXPIRED, EXCESSIVE_LOAD or
    /// RATE_LIMITED. Until it has been handled, its connection keeps its slot among `max_connections`, even
    /// if the connection is already closed.
    #[must_use]
    pub fn on_notification<P, F, R>(self, method: impl MethodName<NotificationMethod<P>>, handler: F) -> Self
    where
        P: for<'b> Decode<'b, ()> + Send + 'static,
        F: Fn(Context, P) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.fallible_notification(method.method_name(), move |context, params| {
            let handler = Arc::clone(&handler);
            async move {
                handler(context, decode_params(&params)?).await;
                Ok(())
            }
        })
    }

    /// Takes notifications with parameters of plain bytes, which are empty where the sender left them out.
    /// See [`on_notification`](Self::on_notification).
    #[must_use]
    pub fn on_notification_raw<F, R>(self, method: impl AsRef<str>, handler: F) -> Self
    where
        F: Fn(Context, Bytes) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.fallible_notification(method.as_ref(), move |context, params| {
            let handler = Arc::clone(&handler);
            async move {
                handler(context, params).await;
                Ok(())
            }
        })
    }

    fn fallible_notification<F, R>(mut self, name: &str, handler: F) -> Self
    where
        F: Fn(Context, Bytes) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let notification: NotificationHandler = Box::new(move |context, params| {
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler(context, params).await })
        });
        self.notifications.insert(name.into(), notification.into());
        self
    }
}

pub(super) fn decode_params<P: for<'b> Decode<'b, ()> + 'static>(params: &[u8]) -> Result<P, MethodError> {
    value::decode_params(params).map_err(|error| {
        let mut fault = String::new();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            // An error of the application's own is the cause of one that only says that decoding failed.
            let _ = write!(fault, ": {error}");
            cause = error.source();
        }
        if fault.is_empty() {
            let _ = write!(fault, ": {error}");
        }
        MethodError::invalid_request(format!("params{fault}")).not_run()
    })
}
