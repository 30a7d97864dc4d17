//! Calls with items, of a client.

use bytes::Bytes;
use futures_lite::Stream;
use minicbor::{Decode, Encode};

use super::{attempts::Attempts, call::ClientCall, reconnecting::Client};
use crate::{
    connection::{ItemSink, OutgoingRequest, Responses, Upload},
    error::Result,
    method::{BidiMethod, ItemsMethod, MethodKind, MethodName},
};

impl Client {
    /// Calls a method that takes items and answers once, as
    /// [`Connection::send_items`](crate::Connection::send_items) does, on the connection that the client has
    /// or dials.
    ///
    /// Resolves when the request is sent, within the client's
    /// [`call_timeout`](super::ClientBuilder::call_timeout), which does not limit the upload. From then on,
    /// the upload belongs to that connection, and nothing of it is repeated: see [`ClientCall::send_items`].
    ///
    /// # Errors
    ///
    /// As for [`Connection::send_items`](crate::Connection::send_items) and
    /// [`Endpoint::connect`](crate::Endpoint::connect).
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

    /// Calls a method that takes items and answers once, with all items of a stream, as
    /// [`Connection::send_all`](crate::Connection::send_all) does. See [`send_items`](Self::send_items).
    ///
    /// # Errors
    ///
    /// As for [`send_items`](Self::send_items), [`Upload::send_all`] and [`Upload::finish`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run. The connection stays.
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
        let result = upload.finish().await?;
        self.succeeded();
        Ok(result)
    }

    /// Calls a method that takes items and answers any number of times, as
    /// [`Connection::bidi`](crate::Connection::bidi) does. See [`send_items`](Self::send_items).
    ///
    /// # Errors
    ///
    /// As for [`send_items`](Self::send_items); what the peer has to say comes with the answers.
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

    /// Repeats the request until it has been sent, and so has begun.
    async fn open_items<I, T>(
        &self,
        outgoing: &mut OutgoingRequest,
        kind: MethodKind,
    ) -> Result<(ItemSink<I>, Responses<T>)> {
        let mut attempts = Attempts::new(self, outgoing.timeout.unwrap_or(self.shared.call_timeout));
        loop {
            let next = attempts.next().await;
            let (connection, left) = next.map_err(|error| self.name(error, &outgoing.request.method))?;
            // Unless it was asked for, there is no limit for what comes on the stream.
            outgoing.timeout = outgoing.timeout.and(Some(left));
            let opened = outgoing.items(&connection, kind, Some(attempts.deadline())).await;
            let opened = opened.map_err(|error| self.name(error, &outgoing.request.method));
            if let Some(outcome) = attempts.conclude(&connection, opened) {
                return outcome;
            }
        }
    }
}

impl<T> ClientCall<T> {
    /// Sends the request, and gives where its items go, with the one answer at the end. The items are of
    /// type `I`.
    ///
    /// It is repeated until a stream is open and the request is sent on it, and so has begun. The upload then
    /// belongs to that connection: when this is lost, the upload ends with an error, whatever the client does
    /// next. [`Error::may_have_run`](crate::Error::may_have_run) and
    /// [`Error::items_taken`](crate::Error::items_taken) say what the peer may have done.
    ///
    /// # Errors
    ///
    /// As for [`Connection::send_items`](crate::Connection::send_items), of what prevents the request from
    /// being sent. What the peer has to say about it comes with the upload; `unavailable` too, after which
    /// nothing is repeated.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request, which has not run, unless an
    /// [interceptor](crate::EndpointBuilder::around_calls) still waits after it was sent.
    pub async fn send_items<I>(mut self) -> Result<Upload<I, T>> {
        let (client, outgoing) = self.parts();
        let (sink, responses) = client.open_items(outgoing, MethodKind::Items).await?;
        Ok(Upload::new(sink, responses))
    }

    /// Sends the request, and gives where its items go and what reads the answers. The items are of type
    /// `I`. See [`send_items`](Self::send_items).
    ///
    /// # Errors
    ///
    /// As for [`send_items`](Self::send_items).
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request, which has not run, unless an
    /// [interceptor](crate::EndpointBuilder::around_calls) still waits after it was sent.
    pub async fn bidi<I>(mut self) -> Result<(ItemSink<I>, Responses<T>)> {
        let (client, outgoing) = self.parts();
        client.open_items(outgoing, MethodKind::Both).await
    }
}
