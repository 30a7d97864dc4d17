//! Calls with items: sent by a connection, or prepared before.

use bytes::Bytes;
use futures_lite::Stream;
use minicbor::{Decode, Encode};

use super::{Connection, call::Call, item_sink::ItemSink, responses::Responses, upload::Upload};
use crate::{
    error::Result,
    method::{BidiMethod, ItemsMethod, MethodKind, MethodName},
};

impl Connection {
    /// Calls a method that takes items and answers once. The method is an [`ItemsMethod`] or a string.
    ///
    /// ```
    /// # async fn example(connection: palyra_quic::Connection) -> palyra_quic::Result<()> {
    /// use palyra_quic::ItemsMethod;
    ///
    /// const SUM: ItemsMethod<(), u32, u64> = ItemsMethod::new("demo.sum");
    ///
    /// let mut upload = connection.send_items(SUM, &()).await?;
    /// for number in 1..=3 {
    ///     upload.send(&number).await?;
    /// }
    /// assert_eq!(upload.finish().await?, 6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Resolves when the request is sent; the method begins with it. Before the first request with items on a
    /// connection, this asks the peer whether it takes any, which costs a round trip. Without a time limit of
    /// its own: the peer ends the exchange when nothing is sent and nothing answered for its limit for
    /// handlers. For limits and the rest see [`request`](Self::request) and [`Call::send_items`].
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call); [`Unsupported`](crate::ErrorKind::Unsupported) where the peer takes no
    /// items: it is a node of the tokio implementation, of an earlier release, or without the feature
    /// `streams`. What the peer has to say about the request comes with [`Upload::send`] or
    /// [`Upload::finish`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request, which may have begun to run.
    pub async fn send_items<P, I, T>(
        &self,
        method: impl MethodName<ItemsMethod<P, I, T>>,
        params: &P,
    ) -> Result<Upload<I, T>>
    where
        P: Encode<()> + ?Sized,
    {
        self.request::<P, T>(method.method_name(), params)?.send_items().await
    }

    /// Calls a method that takes items and answers once, with parameters, items and a result of plain bytes.
    /// Empty parameters are left out of the request. See [`send_items`](Self::send_items).
    ///
    /// # Errors
    ///
    /// As for [`send_items`](Self::send_items).
    pub async fn send_items_raw(&self, method: impl AsRef<str>, params: impl Into<Bytes>) -> Result<Upload> {
        self.request_raw(method, params).send_items().await
    }

    /// Calls a method that takes items and answers once, with all items of a stream. If the method answers
    /// before the stream has ended, the rest is dropped. See [`send_items`](Self::send_items).
    ///
    /// ```
    /// # async fn example(connection: palyra_quic::Connection) -> palyra_quic::Result<()> {
    /// use futures_lite::stream;
    /// use palyra_quic::ItemsMethod;
    ///
    /// const SUM: ItemsMethod<(), u32, u64> = ItemsMethod::new("demo.sum");
    ///
    /// let sum = connection.send_all(SUM, &(), stream::iter(1..=3)).await?;
    /// assert_eq!(sum, 6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`send_items`](Self::send_items), [`Upload::send_all`] and [`Upload::finish`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run.
    pub async fn send_all<P, I, T>(
        &self,
        method: impl MethodName<ItemsMethod<P, I, T>>,
        params: &P,
        items: impl Stream<Item = I>,
    ) -> Result<T>
    where
        P: Encode<()> + ?Sized,
        I: Encode<()>,
        T: for<'b> Decode<'b, ()>,
    {
        let mut upload = self.send_items(method, params).await?;
        upload.send_all(items).await?;
        upload.finish().await
    }

    /// Calls a method that takes items and answers any number of times. The method is a [`BidiMethod`] or a
    /// string.
    ///
    /// ```
    /// # async fn example(connection: palyra_quic::Connection) -> palyra_quic::Result<()> {
    /// use palyra_quic::BidiMethod;
    ///
    /// const DOUBLE: BidiMethod<(), u32, u64> = BidiMethod::new("demo.double");
    ///
    /// let (mut numbers, mut doubles) = connection.bidi(DOUBLE, &()).await?;
    /// for number in 1..=3 {
    ///     numbers.send(&number).await?;
    ///     assert_eq!(doubles.next().await?, Some(2 * u64::from(number)));
    /// }
    /// numbers.finish().await?;
    /// assert_eq!(doubles.next().await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A peer whose answers are not read may stop reading items, so a caller that sends many must read
    /// meanwhile: both halves can be used by different tasks. Dropping either before its end cancels the
    /// handler. For the rest see [`send_items`](Self::send_items).
    ///
    /// # Errors
    ///
    /// As for [`send_items`](Self::send_items); what the peer has to say comes with the answers.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request, which may have begun to run.
    pub async fn bidi<P, I, T>(
        &self,
        method: impl MethodName<BidiMethod<P, I, T>>,
        params: &P,
    ) -> Result<(ItemSink<I>, Responses<T>)>
    where
        P: Encode<()> + ?Sized,
    {
        self.request::<P, T>(method.method_name(), params)?.bidi().await
    }

    /// Calls a method that takes items and answers any number of times, with parameters, items and answers of
    /// plain bytes. Empty parameters are left out of the request. See [`bidi`](Self::bidi).
    ///
    /// # Errors
    ///
    /// As for [`bidi`](Self::bidi).
    pub async fn bidi_raw(
        &self,
        method: impl AsRef<str>,
        params: impl Into<Bytes>,
    ) -> Result<(ItemSink, Responses)> {
        self.request_raw(method, params).bidi().await
    }
}

impl<T> Call<T> {
    /// Sends the request, and gives where its items go, with the one answer at the end. The items are of
    /// type `I`.
    ///
    /// The time limit covers all of it. See [`Connection::send_items`].
    ///
    /// # Errors
    ///
    /// As for [`Connection::send_items`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request, which may have begun to run.
    pub async fn send_items<I>(mut self) -> Result<Upload<I, T>> {
        let (connection, outgoing) = self.parts();
        let (sink, responses) = outgoing.items(connection, MethodKind::Items, None).await?;
        Ok(Upload::new(sink, responses))
    }

    /// Sends the request, and gives where its items go and what reads the answers. The items are of type
    /// `I`.
    ///
    /// The time limit covers all of it. See [`Connection::bidi`].
    ///
    /// # Errors
    ///
    /// As for [`Connection::bidi`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request, which may have begun to run.
    pub async fn bidi<I>(mut self) -> Result<(ItemSink<I>, Responses<T>)> {
        let (connection, outgoing) = self.parts();
        outgoing.items(connection, MethodKind::Both, None).await
    }
}
