//! Registers methods that take items.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::{
    Router,
    context::Context,
    handler::{Bidi, Handler, ItemsHandler, ItemsOnce},
    items::Items,
    method_error::MethodError,
    registration::decode_params,
    sink::ResponseSink,
};
use crate::{
    method::{BidiMethod, ItemsMethod, MethodName},
    value,
};

impl Router {
    /// Serves a method that takes any number of items from its caller, and answers once.
    ///
    /// The handler starts with the request, and asks for the items with [`Items::next`]. It may answer before
    /// the last one: the caller is told to send no more, and gets the answer. A request without items, which
    /// any caller can send, is one with an empty stream.
    ///
    /// The exchange has no time limit as a whole, but for the caller's: the node's `handler_timeout` begins
    /// anew with everything that is received, and with every answer. At most
    /// [`max_concurrent_item_exchanges`](crate::TransportLimits::max_concurrent_item_exchanges) of a peer run
    /// at a time. For the rest see [`serve`](Self::serve).
    ///
    /// ```
    /// use palyra_quic::{Items, ItemsMethod, Router};
    ///
    /// const SUM: ItemsMethod<(), u32, u64> = ItemsMethod::new("demo.sum");
    ///
    /// let router = Router::new().serve_items(SUM, |_, (), mut numbers: Items<u32>| async move {
    ///     let mut sum = 0;
    ///     while let Some(number) = numbers.next().await? {
    ///         sum += u64::from(number);
    ///     }
    ///     Ok(sum)
    /// });
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn serve_items<P, I, T, F, R>(self, method: impl MethodName<ItemsMethod<P, I, T>>, handler: F) -> Self
    where
        P: for<'b> Decode<'b, ()> + Send + 'static,
        I: for<'b> Decode<'b, ()> + 'static,
        T: Encode<()> + Send + 'static,
        F: Fn(Context, P, Items<I>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.serve_items_raw(method.method_name(), move |context, params, items| {
            let handler = Arc::clone(&handler);
            async move {
                let result = handler(context, decode_params(&params)?, items.of_values()).await?;
                value::encode(&result).map_err(|_| MethodError::internal("the result cannot be encoded"))
            }
        })
    }

    /// Serves a method that takes items and answers once, bytes to bytes. See
    /// [`serve_items`](Self::serve_items).
    #[must_use]
    pub fn serve_items_raw<F, R>(mut self, method: impl AsRef<str>, handler: F) -> Self
    where
        F: Fn(Context, Bytes, Items) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Bytes, MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let once: ItemsOnce = Box::new(move |context, params, items| {
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler(context, params, items).await })
        });
        self.methods.insert(method.as_ref().into(), Handler::Items(ItemsHandler::Once(once)).into());
        self
    }

    /// Serves a method that takes items from its caller, and answers any number of times, before, between and
    /// behind them. See [`serve_items`](Self::serve_items) and [`serve_stream`](Self::serve_stream).
    ///
    /// ```
    /// use palyra_quic::{BidiMethod, Items, ResponseSink, Router};
    ///
    /// const DOUBLE: BidiMethod<(), u32, u64> = BidiMethod::new("demo.double");
    ///
    /// let router = Router::new().serve_bidi(
    ///     DOUBLE,
    ///     |_, (), mut numbers: Items<u32>, mut answers: ResponseSink<u64>| async move {
    ///         while let Some(number) = numbers.next().await? {
    ///             answers.send(&(2 * u64::from(number))).await?;
    ///         }
    ///         Ok(())
    ///     },
    /// );
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn serve_bidi<P, I, T, F, R>(self, method: impl MethodName<BidiMethod<P, I, T>>, handler: F) -> Self
    where
        P: for<'b> Decode<'b, ()> + Send + 'static,
        I: for<'b> Decode<'b, ()> + 'static,
        T: Encode<()> + 'static,
        F: Fn(Context, P, Items<I>, ResponseSink<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.serve_bidi_raw(method.method_name(), move |context, params, items, sink| {
            let handler = Arc::clone(&handler);
            async move {
                handler(context, decode_params(&params)?, items.of_values(), sink.of_values()).await
            }
        })
    }

    /// Serves a method that takes items and answers any number of times, bytes to bytes. See
    /// [`serve_bidi`](Self::serve_bidi).
    #[must_use]
    pub fn serve_bidi_raw<F, R>(mut self, method: impl AsRef<str>, handler: F) -> Self
    where
        F: Fn(Context, Bytes, Items, ResponseSink) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let bidi: Bidi = Box::new(move |context, params, items, sink| {
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler(context, params, items, sink).await })
        });
        self.methods.insert(method.as_ref().into(), Handler::Items(ItemsHandler::Bidi(bidi)).into());
        self
    }
}
