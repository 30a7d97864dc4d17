//! A request, and the one answer to it or many.

use std::{fmt, marker::PhantomData, time::Duration};

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::{Connection, outgoing::OutgoingRequest, responses::Responses};
use crate::{
    error::Result,
    message::{Codec, Request, Response, TraceContext},
    method::{AnyMethod, Method, MethodName, StreamingMethod},
    value::{self, Raw},
};

impl Connection {
    /// Calls a method with parameters and a result that minicbor encodes and decodes.
    ///
    /// The method is a [`Method`], which brings the types, or a string:
    ///
    /// ```
    /// # async fn example(connection: palyra_quic::Connection) -> palyra_quic::Result<()> {
    /// use palyra_quic::Method;
    ///
    /// const ADD: Method<(u32, u32), u64> = Method::new("demo.add");
    ///
    /// let sum = connection.call(ADD, &(40, 2)).await?;
    /// let same: u64 = connection.call("demo.add", &(40, 2)).await?;
    /// # drop((sum, same));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Without a time limit of its own: the peer's limit for handlers and this side's `idle_timeout` end it,
    /// as long as the runtime of the endpoint is driven; otherwise nothing does. For limits and the rest
    /// see [`request`](Self::request).
    ///
    /// # Errors
    ///
    /// [`Remote`](crate::ErrorKind::Remote) with the peer's error;
    /// [`StreamReset`](crate::ErrorKind::StreamReset) where it broke off;
    /// [`ConnectionClosed`](crate::ErrorKind::ConnectionClosed),
    /// [`ConnectionLost`](crate::ErrorKind::ConnectionLost) and their kin where the connection is gone;
    /// [`Codec`](crate::ErrorKind::Codec) and [`MessageTooLarge`](crate::ErrorKind::MessageTooLarge) for
    /// values that do not fit.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run.
    pub async fn call<P, T>(&self, method: impl MethodName<Method<P, T>>, params: &P) -> Result<T>
    where
        P: Encode<()> + ?Sized,
        T: for<'b> Decode<'b, ()>,
    {
        self.prepare(method.method_name(), params)?.result().await
    }

    /// Calls a method with parameters and a result of plain bytes. Empty parameters are left out of the
    /// request.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_raw(&self, method: impl AsRef<str>, params: impl Into<Bytes>) -> Result<Bytes> {
        self.request_raw(method, params).result_raw().await
    }

    /// Calls a method with any number of answers, with parameters and answers that minicbor encodes and
    /// decodes. The method is a [`StreamingMethod`] or a string.
    ///
    /// ```
    /// # async fn example(connection: palyra_quic::Connection) -> palyra_quic::Result<()> {
    /// use palyra_quic::StreamingMethod;
    ///
    /// const COUNT: StreamingMethod<u32, u32> = StreamingMethod::new("demo.count");
    ///
    /// let mut answers = connection.stream(COUNT, &3).await?;
    /// while let Some(n) = answers.next().await? {
    ///     println!("{n}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Resolves when the request is sent. For limits and the rest see [`request`](Self::request).
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call); what the peer has to say comes with the first answer.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request, which may have begun to run.
    pub async fn stream<P, T>(
        &self,
        method: impl MethodName<StreamingMethod<P, T>>,
        params: &P,
    ) -> Result<Responses<T>>
    where
        P: Encode<()> + ?Sized,
    {
        self.prepare(method.method_name(), params)?.stream().await
    }

    /// Calls a method with any number of answers, with parameters and answers of plain bytes. Empty
    /// parameters are left out of the request. See [`stream`](Self::stream).
    ///
    /// # Errors
    ///
    /// As for [`stream`](Self::stream).
    pub async fn stream_raw(&self, method: impl AsRef<str>, params: impl Into<Bytes>) -> Result<Responses> {
        self.request_raw(method, params).stream().await
    }

    /// Prepares a request that needs more than parameters: a time limit, or another codec. The method is a
    /// [`Method`], a [`StreamingMethod`] or a string.
    ///
    /// ```
    /// # async fn example(connection: palyra_quic::Connection) -> palyra_quic::Result<()> {
    /// use std::time::Duration;
    /// use palyra_quic::Method;
    ///
    /// const ADD: Method<(u32, u32), u64> = Method::new("demo.add");
    ///
    /// let sum = connection.request(ADD, &(40, 2))?.timeout(Duration::from_secs(1)).send().await?;
    /// # drop(sum);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) where the parameters cannot be encoded.
    pub fn request<P, T>(&self, method: impl MethodName<AnyMethod<P, T>>, params: &P) -> Result<Call<T>>
    where
        P: Encode<()> + ?Sized,
    {
        self.prepare(method.method_name(), params)
    }

    /// Prepares a request with parameters of plain bytes. Empty ones are left out of the request. See
    /// [`request`](Self::request).
    pub fn request_raw(&self, method: impl AsRef<str>, params: impl Into<Bytes>) -> Call {
        Call::new(self, OutgoingRequest::new(method.as_ref(), params.into()))
    }

    fn prepare<P: Encode<()> + ?Sized, T>(&self, method: &str, params: &P) -> Result<Call<T>> {
        match value::encode(params) {
            Ok(params) => Ok(Call::new(self, OutgoingRequest::new(method, params))),
            Err(error) => Err(self.link().name(error, method)),
        }
    }
}

/// A request to be sent; see [`Connection::request`].
///
/// [`send`](Self::send) and the items of [`stream`](Self::stream) are of type `T`. A call of [`Raw`] brings
/// bytes, by [`send_raw`](Self::send_raw) and [`Responses::next_raw`].
#[must_use = "nothing is sent before `send`, `respond` or `stream`"]
pub struct Call<T = Raw> {
    connection: Connection,
    outgoing: OutgoingRequest,
    result: PhantomData<fn() -> T>,
}

impl<T> Call<T> {
    pub(super) fn new(connection: &Connection, outgoing: OutgoingRequest) -> Self {
        Self { connection: connection.clone(), outgoing, result: PhantomData }
    }

    /// How long to wait for the whole exchange. Default: for as long as the connection lives.
    ///
    /// The peer is told in CBOR, in whole milliseconds, so that it stops working when nobody waits: what is
    /// left when the peer lets a stream be opened. Not in JSON, since nodes that speak only JSON refuse
    /// the field.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.outgoing.timeout = Some(timeout);
        self
    }

    /// The codec of request and answers. Default: CBOR.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.outgoing.codec = codec;
        self
    }

    /// Says which trace the call belongs to. Default: what
    /// [`inject_trace`](crate::EndpointBuilder::inject_trace) says. Only CBOR can carry it.
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.outgoing.set_trace(trace);
        self
    }

    /// Sets `resume_from`, for methods that replay something.
    pub fn resume_from(mut self, seq: u64) -> Self {
        self.outgoing.request.resume_from = Some(seq);
        self
    }

    /// Sets the `epoch` that `resume_from` belongs to.
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.outgoing.request.epoch = Some(epoch);
        self
    }

    /// Asks the peer to keep the stream open for what is still to come.
    pub fn follow(mut self) -> Self {
        self.outgoing.request.follow = true;
        self
    }

    /// Sends the request, and gives the payload of the one `result` that comes back as bytes; empty where it
    /// has none. See [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run.
    pub async fn send_raw(mut self) -> Result<Bytes> {
        self.result_raw().await
    }

    /// Sends the request, and gives the one response that comes back, of whatever kind but `error`.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run.
    pub async fn respond(mut self) -> Result<Response> {
        self.outgoing.run(&self.connection).await
    }

    /// Sends the request, and gives the answers one after another.
    ///
    /// The time limit covers the whole stream.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); what the peer has to say comes with the first answer.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request, which may have begun to run.
    pub async fn stream(mut self) -> Result<Responses<T>> {
        self.outgoing.stream(&self.connection, None).await
    }

    /// By reference, since what a future takes by value it has twice.
    async fn result_raw(&mut self) -> Result<Bytes> {
        self.outgoing.result(&self.connection).await
    }

    /// What is to be sent.
    pub(super) fn message(&self) -> &Request {
        &self.outgoing.request
    }

    pub(super) fn parts(&mut self) -> (&Connection, &mut OutgoingRequest) {
        (&self.connection, &mut self.outgoing)
    }
}

impl<T: for<'b> Decode<'b, ()>> Call<T> {
    /// Sends the request, and gives the one `result` that comes back, decoded by minicbor.
    ///
    /// # Errors
    ///
    /// As for [`Connection::call`]; [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) where the time
    /// limit passed here; [`Protocol`](crate::ErrorKind::Protocol) for an answer of another kind.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run.
    pub async fn send(mut self) -> Result<T> {
        self.result().await
    }

    async fn result(&mut self) -> Result<T> {
        let result = self.result_raw().await?;
        value::decode(&result).map_err(|error| self.outgoing.name(&self.connection, error.after_request()))
    }
}

impl<T> Clone for Call<T> {
    fn clone(&self) -> Self {
        Self::new(&self.connection, self.outgoing.clone())
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, outgoing: OutgoingRequest { request, codec, timeout, .. }, result: _ } = self;
        f.debug_struct("Call")
            .field("connection", connection)
            .field("request", request)
            .field("codec", codec)
            .field("timeout", timeout)
            .finish()
    }
}
