//! Calls and notifications of a client.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::{attempts::Attempts, call::ClientCall, reconnecting::Client};
use crate::{
    connection::{AnswerKind, Health, Notifier, OutgoingRequest, Responses, not_described},
    error::Result,
    message::Description,
    method::{AnyMethod, Method, MethodName, NotificationMethod, StreamingMethod},
    protocol::{DESCRIBE, HEALTH},
    value,
};

impl Client {
    /// Calls a method with parameters and a result that minicbor encodes and decodes, within the client's
    /// [`call_timeout`](super::ClientBuilder::call_timeout). The method is a [`Method`] or a string, as for
    /// [`Connection::call`](crate::Connection::call).
    ///
    /// # Errors
    ///
    /// As for [`Connection::call`](crate::Connection::call) and
    /// [`Endpoint::connect`](crate::Endpoint::connect);
    /// [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) where the time limit passed. Failures that
    /// another attempt may mend are reported when the time limit has passed, or immediately where the call
    /// [may have run](crate::Error::may_have_run). What the peer answers is reported immediately,
    /// `resource_exhausted` included, save for `unavailable`, after which the client tries elsewhere.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run. The connection stays.
    pub async fn call<P, T>(&self, method: impl MethodName<Method<P, T>>, params: &P) -> Result<T>
    where
        P: Encode<()> + ?Sized,
        T: for<'b> Decode<'b, ()>,
    {
        self.value(&mut self.prepare(method.method_name(), params)?).await
    }

    /// Calls a method with parameters and a result of plain bytes. Empty parameters are left out of the
    /// request. See [`call`](Self::call).
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_raw(&self, method: impl AsRef<str>, params: impl Into<Bytes>) -> Result<Bytes> {
        self.result(&mut OutgoingRequest::new(method.as_ref(), params.into())).await
    }

    /// Calls a method with any number of answers, with parameters and answers that minicbor encodes and
    /// decodes. The method is a [`StreamingMethod`] or a string, as for
    /// [`Connection::stream`](crate::Connection::stream).
    ///
    /// Resolves when the request is sent, within the client's
    /// [`call_timeout`](super::ClientBuilder::call_timeout), which does not limit the answers. These end
    /// when their connection is lost: see [`ClientCall::stream`]. For events that continue on the next
    /// connection, see [`subscribe`](Self::subscribe).
    ///
    /// # Errors
    ///
    /// As for [`ClientCall::stream`].
    ///
    /// # Cancellation
    ///
    /// As for [`ClientCall::stream`].
    pub async fn stream<P, T>(
        &self,
        method: impl MethodName<StreamingMethod<P, T>>,
        params: &P,
    ) -> Result<Responses<T>>
    where
        P: Encode<()> + ?Sized,
    {
        self.open_stream(&mut self.prepare(method.method_name(), params)?).await
    }

    /// Calls a method with any number of answers, with parameters and answers of plain bytes. Empty
    /// parameters are left out of the request. See [`stream`](Self::stream).
    ///
    /// # Errors
    ///
    /// As for [`stream`](Self::stream).
    pub async fn stream_raw(&self, method: impl AsRef<str>, params: impl Into<Bytes>) -> Result<Responses> {
        self.open_stream(&mut OutgoingRequest::new(method.as_ref(), params.into())).await
    }

    /// Prepares a request that needs more than parameters: a time limit of its own, or another codec. The
    /// method is a [`Method`], a [`StreamingMethod`] or a string.
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) where the parameters cannot be encoded.
    pub fn request<P, T>(&self, method: impl MethodName<AnyMethod<P, T>>, params: &P) -> Result<ClientCall<T>>
    where
        P: Encode<()> + ?Sized,
    {
        Ok(ClientCall::new(self, self.prepare(method.method_name(), params)?))
    }

    /// Prepares a request with parameters of plain bytes. Empty ones are left out of the request. See
    /// [`request`](Self::request).
    pub fn request_raw(&self, method: impl AsRef<str>, params: impl Into<Bytes>) -> ClientCall {
        ClientCall::new(self, OutgoingRequest::new(method.as_ref(), params.into()))
    }

    fn prepare<P: Encode<()> + ?Sized>(&self, method: &str, params: &P) -> Result<OutgoingRequest> {
        match value::encode(params) {
            Ok(params) => Ok(OutgoingRequest::new(method, params)),
            Err(error) => Err(self.name(error, method)),
        }
    }

    /// Sends a notification with parameters that minicbor encodes, once there is a connection, within the
    /// client's [`call_timeout`](super::ClientBuilder::call_timeout). The notification is a
    /// [`NotificationMethod`] or a string, as for [`Connection::notify`](crate::Connection::notify).
    ///
    /// It is sent again only where the connection ended before QUIC had taken all of it, and so handled at
    /// most once.
    ///
    /// # Errors
    ///
    /// As for [`Connection::notify`](crate::Connection::notify) and
    /// [`Endpoint::connect`](crate::Endpoint::connect);
    /// [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) where the time limit passed.
    ///
    /// # Cancellation
    ///
    /// The notification may arrive, or not.
    pub async fn notify<P>(&self, method: impl MethodName<NotificationMethod<P>>, params: &P) -> Result<()>
    where
        P: Encode<()> + ?Sized,
    {
        let method = method.method_name();
        let params = value::encode(params).map_err(|error| self.name(error, method))?;
        self.notify_bytes(method, params).await
    }

    /// Sends a notification with parameters of plain bytes. Empty ones are left out. See
    /// [`notify`](Self::notify).
    ///
    /// # Errors
    ///
    /// As for [`notify`](Self::notify).
    pub async fn notify_raw(&self, method: impl AsRef<str>, params: impl Into<Bytes>) -> Result<()> {
        self.notify_bytes(method.as_ref(), params.into()).await
    }

    async fn notify_bytes(&self, method: &str, params: Bytes) -> Result<()> {
        let mut attempts = Attempts::new(self, self.shared.call_timeout);
        loop {
            let (connection, _) = attempts.next().await.map_err(|error| self.name(error, method))?;
            let limit = Some(attempts.deadline());
            let sent = connection.notify_until(method, params.clone(), limit).await;
            let sent = sent.map_err(|error| self.name(error, method));
            if let Some(outcome) = attempts.conclude(&connection, sent) {
                return outcome;
            }
        }
    }

    /// Opens a stream for notifications, which the peer handles in order, within the client's
    /// [`call_timeout`](super::ClientBuilder::call_timeout).
    ///
    /// The stream belongs to the connection that the client has now, or dials. When that is lost, the
    /// notifier fails with the reason, and opens no other stream: [`Notifier::finish`] is the only sign
    /// that what was sent has arrived, and without it, any part of that may have been handled. Another
    /// `notifier` of the client uses the next connection.
    ///
    /// # Errors
    ///
    /// As for [`Connection::notifier`](crate::Connection::notifier) and
    /// [`Endpoint::connect`](crate::Endpoint::connect);
    /// [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) where the time limit passed.
    ///
    /// # Cancellation
    ///
    /// Safe: nothing is sent before the notifier is used.
    pub async fn notifier(&self) -> Result<Notifier> {
        let mut attempts = Attempts::new(self, self.shared.call_timeout);
        loop {
            let (connection, left) = attempts.next().await.map_err(|error| self.name_peer(error))?;
            let opened = self.within(&connection, left, connection.notifier()).await;
            if let Some(outcome) = attempts.conclude(&connection, opened) {
                return outcome;
            }
        }
    }

    /// Asks the peer for its methods and limits, within the client's
    /// [`call_timeout`](super::ClientBuilder::call_timeout). See
    /// [`Connection::describe`](crate::Connection::describe).
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call), and for [`Connection::describe`](crate::Connection::describe).
    pub async fn describe(&self) -> Result<Description> {
        let described = self.value(&mut OutgoingRequest::new(DESCRIBE, Bytes::new())).await;
        described.map_err(|error| match not_described(&error) {
            Some(error) => self.name(error, DESCRIBE),
            None => error,
        })
    }

    /// Asks the peer how it is, within the client's [`call_timeout`](super::ClientBuilder::call_timeout).
    /// After a lost connection this dials, as every call does. For another time limit or JSON, see
    /// [`ClientCall::health`].
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn health(&self) -> Result<Health> {
        let mut request = OutgoingRequest::new(HEALTH, Bytes::new());
        self.exchange(&mut request, AnswerKind::Health, Health::read).await
    }
}
