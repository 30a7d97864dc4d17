//! A request of a client, to be sent on whichever connection it has.

use std::{fmt, marker::PhantomData, time::Duration};

use bytes::Bytes;
use minicbor::Decode;

use super::{attempts::Attempts, reconnecting::Client};
use crate::{
    connection::{AnswerKind, Health, OutgoingRequest, Responses, payload},
    error::Result,
    message::{Codec, Response, TraceContext},
    value::{self, Raw},
};

/// A request to be sent by a [`Client`]; see [`Client::request`].
///
/// As a [`Call`](crate::Call) on a connection, but it dials, and it is repeated on another connection where
/// it was certainly not processed, within its time limit; never where it [may have
/// run](crate::Error::may_have_run).
///
/// [`send`](Self::send) and the items of [`stream`](Self::stream) are of type `T`. A call of [`Raw`] brings
/// bytes, by [`send_raw`](Self::send_raw) and [`Responses::next_raw`].
#[must_use = "nothing is sent before `send`, `respond` or `stream`"]
pub struct ClientCall<T = Raw> {
    client: Client,
    outgoing: OutgoingRequest,
    result: PhantomData<fn() -> T>,
}

impl<T> ClientCall<T> {
    pub(super) fn new(client: &Client, outgoing: OutgoingRequest) -> Self {
        Self { client: client.clone(), outgoing, result: PhantomData }
    }

    /// How long the call may take, dialling and repeating included; of a [`stream`](Self::stream), how long
    /// all of it may take. Default: the client's [`call_timeout`](super::ClientBuilder::call_timeout), 30 s
    /// unless it was set, which does not limit a stream once it is open.
    ///
    /// With each attempt the peer is told, in CBOR, how much of it is left: see
    /// [`Call::timeout`](crate::Call::timeout).
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

    /// Sends the request, and gives the payload of the one `result` that comes back as bytes; empty where
    /// it has none. See [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn send_raw(mut self) -> Result<Bytes> {
        self.client.result(&mut self.outgoing).await
    }

    /// Sends the request, and gives the one response that comes back, of whatever kind but `error`. See
    /// [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn respond(mut self) -> Result<Response> {
        self.client.exchange(&mut self.outgoing, AnswerKind::Any, Ok).await
    }

    /// Sends the request, and gives the answers one after another.
    ///
    /// It is repeated until a stream is open and the request is sent on it. The stream then belongs to that
    /// connection: when this is lost, the stream ends with an error, whatever the client does next.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), of what prevents the request from being sent. What the peer has to say
    /// comes with the first answer; `unavailable` too, after which nothing is repeated.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request, which has not run, unless an
    /// [interceptor](crate::EndpointBuilder::around_calls) still waits after it was sent.
    pub async fn stream(mut self) -> Result<Responses<T>> {
        self.client.open_stream(&mut self.outgoing).await
    }

    #[cfg(feature = "streams")]
    pub(super) fn parts(&mut self) -> (&Client, &mut OutgoingRequest) {
        (&self.client, &mut self.outgoing)
    }
}

impl<T: for<'b> Decode<'b, ()>> ClientCall<T> {
    /// Sends the request, and gives the one `result` that comes back, decoded by minicbor.
    ///
    /// # Errors
    ///
    /// As for [`Client::call`]; [`Protocol`](crate::ErrorKind::Protocol) for an answer of another kind.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run. The connection stays.
    pub async fn send(mut self) -> Result<T> {
        self.client.value(&mut self.outgoing).await
    }
}

impl ClientCall {
    /// Sends the request, and gives the `health` that comes back; for `node.health` with a time limit of
    /// its own or in JSON.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn health(mut self) -> Result<Health> {
        self.client.exchange(&mut self.outgoing, AnswerKind::Health, Health::read).await
    }
}

/// What calls with and without a [`ClientCall`] share. By reference, since what a future takes by value it
/// has twice.
impl Client {
    pub(super) async fn value<T>(&self, outgoing: &mut OutgoingRequest) -> Result<T>
    where
        T: for<'b> Decode<'b, ()>,
    {
        let result = self.result(outgoing).await?;
        value::decode(&result).map_err(|error| self.name(error.after_request(), &outgoing.request.method))
    }

    pub(super) async fn result(&self, outgoing: &mut OutgoingRequest) -> Result<Bytes> {
        self.exchange(outgoing, AnswerKind::Result, payload).await
    }

    /// Sends a request with one answer, of a kind that `read` takes.
    pub(super) async fn exchange<T>(
        &self,
        outgoing: &mut OutgoingRequest,
        kind: AnswerKind,
        read: fn(Response) -> Result<T>,
    ) -> Result<T> {
        let mut attempts = Attempts::new(self, outgoing.timeout.unwrap_or(self.shared.call_timeout));
        loop {
            let next = attempts.next().await;
            let (connection, left) = next.map_err(|error| self.name(error, &outgoing.request.method))?;
            outgoing.timeout = Some(left);
            let outcome = outgoing.answer_as(&connection, kind, read).await;
            if outcome.is_ok() {
                self.succeeded();
            }
            if let Some(outcome) = attempts.conclude(&connection, outcome) {
                return outcome;
            }
        }
    }

    pub(super) async fn open_stream<T>(&self, outgoing: &mut OutgoingRequest) -> Result<Responses<T>> {
        let mut attempts = Attempts::new(self, outgoing.timeout.unwrap_or(self.shared.call_timeout));
        loop {
            let next = attempts.next().await;
            let (connection, left) = next.map_err(|error| self.name(error, &outgoing.request.method))?;
            // Unless it was asked for, there is no limit for what comes on the stream.
            outgoing.timeout = outgoing.timeout.and(Some(left));
            let opened = outgoing.stream(&connection, Some(attempts.deadline())).await;
            let opened = opened.map_err(|error| self.name(error, &outgoing.request.method));
            if let Some(outcome) = attempts.conclude(&connection, opened) {
                return outcome;
            }
        }
    }
}

impl<T> Clone for ClientCall<T> {
    fn clone(&self) -> Self {
        Self::new(&self.client, self.outgoing.clone())
    }
}

impl<T> fmt::Debug for ClientCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, outgoing, result: _ } = self;
        let OutgoingRequest { request, codec, timeout, .. } = outgoing;
        f.debug_struct("ClientCall")
            .field("client", client)
            .field("request", request)
            .field("codec", codec)
            .field("timeout", timeout)
            .finish()
    }
}
