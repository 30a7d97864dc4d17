//! A request, and the one answer to it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use minicbor::{Decode, Encode};
use tracing::{Instrument, Span};

use super::{
    Connection,
    answer::{Deadline, read, record_end, remote_error, timed_out, violated},
    responses::Responses,
};
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    frame,
    link::OutstandingGuard,
    message::{Codec, Request, Response},
    span::{self, record},
    stream::{FrameReader, FrameWriter},
    value,
};

impl Connection {
    /// Calls a method with parameters and a result that minicbor encodes and decodes.
    ///
    /// Without a time limit of its own: the peer's limit for handlers and this side's `idle_timeout` end it,
    /// as long as the runtime of the endpoint is driven; otherwise nothing does. For limits and the rest
    /// see [`request`](Self::request).
    ///
    /// # Errors
    ///
    /// [`Remote`](ErrorKind::Remote) with the peer's error; [`StreamReset`](ErrorKind::StreamReset) where it
    /// broke off; [`ConnectionClosed`](ErrorKind::ConnectionClosed),
    /// [`ConnectionLost`](ErrorKind::ConnectionLost) and their kin where the connection is gone;
    /// [`Codec`](ErrorKind::Codec) and [`MessageTooLarge`](ErrorKind::MessageTooLarge) for values that do
    /// not fit.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run.
    pub async fn call<P, T>(&self, method: &str, params: &P) -> Result<T>
    where
        P: Encode<()> + ?Sized,
        T: for<'b> Decode<'b, ()>,
    {
        let request = self.request(method).params(params)?;
        let result = request.send().await?;
        value::decode(&result).map_err(|error| self.link().name(error.after_request(), method))
    }

    /// Calls a method with parameters and a result of plain bytes. Empty parameters are left out of the
    /// request.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_raw(&self, method: &str, params: impl Into<Bytes>) -> Result<Bytes> {
        let params = params.into();
        let request = self.request(method);
        let request = if params.is_empty() { request } else { request.raw_params(params) };
        request.send().await
    }

    /// Prepares a request that needs more than parameters: a time limit, another codec, many answers.
    pub fn request(&self, method: &str) -> Call {
        Call { connection: self.clone(), request: Request::new(method), codec: Codec::Cbor, timeout: None }
    }
}

/// A request to be sent; see [`Connection::request`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent before `send`, `respond` or `stream`"]
pub struct Call {
    connection: Connection,
    request: Request,
    codec: Codec,
    timeout: Option<Duration>,
}

impl Call {
    /// The parameters, encoded by minicbor. Default: none.
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) where they cannot be encoded.
    pub fn params<P: Encode<()> + ?Sized>(self, params: &P) -> Result<Self> {
        match value::encode(params) {
            Ok(params) => Ok(self.raw_params(params)),
            Err(error) => Err(self.name(error)),
        }
    }

    /// The parameters as bytes, which the method may define as anything. Default: none.
    pub fn raw_params(mut self, params: impl Into<Bytes>) -> Self {
        self.request.params = Some(params.into());
        self
    }

    /// How long to wait for the whole exchange. Default: for as long as the connection lives.
    ///
    /// The peer is told in CBOR, in whole milliseconds, so that it stops working when nobody waits: what is
    /// left when the peer lets a stream be opened. Not in JSON, since nodes that speak only JSON refuse
    /// the field.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The codec of request and answers. Default: CBOR.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets `resume_from`, for methods that replay something.
    pub fn resume_from(mut self, seq: u64) -> Self {
        self.request.resume_from = Some(seq);
        self
    }

    /// Sets the `epoch` that `resume_from` belongs to.
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.request.epoch = Some(epoch);
        self
    }

    /// Asks the peer to keep the stream open for what is still to come.
    pub fn follow(mut self) -> Self {
        self.request.follow = true;
        self
    }

    /// Sends the request, and gives the payload of the one `result` that comes back; empty where it has none.
    ///
    /// # Errors
    ///
    /// As for [`Connection::call`]; [`DeadlineExceeded`](ErrorKind::DeadlineExceeded) where the time limit
    /// passed here; [`Protocol`](ErrorKind::Protocol) for an answer of another kind.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run.
    pub async fn send(mut self) -> Result<Bytes> {
        match self.run().await? {
            Response::Result { payload } => Ok(payload.unwrap_or_default()),
            _ => Err(self.name(Error::protocol("the answer is not a result").after_request())),
        }
    }

    /// Says which method failed, and where.
    pub(super) fn name(&self, error: Error) -> Error {
        self.connection.link().name(error, &self.request.method)
    }

    /// Sends the request, and gives the one response that comes back, of whatever kind but `error`.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn respond(mut self) -> Result<Response> {
        self.run().await
    }

    /// By reference, since what a future takes by value it has twice.
    pub(super) async fn run(&mut self) -> Result<Response> {
        self.tell_timeout();
        let span = self.span();
        // Pinned, because what is brought along is moved.
        let exchange = pin!(self.exchange(&span));
        let outcome = exchange.instrument(span.clone()).await;
        record_end(&span, outcome.as_ref().err());
        match outcome {
            Err(error) => Err(self.name(error)),
            answered => answered,
        }
    }

    async fn exchange(&self, span: &Span) -> Result<Response> {
        let _outstanding = OutstandingGuard::new(self.connection.link());
        let clock = self.connection.link().clock();
        let deadline = self.timeout.map(|timeout| clock.deadline(timeout));
        let opened = {
            let opening = pin!(self.open(span, deadline));
            clock.timeout_at(deadline, opening).await
        };
        let (_writer, mut reader) = opened.unwrap_or_else(|_elapsed| Err(timed_out(clock)))?;
        let answer = pin!(self.answer(&mut reader));
        let answered = clock.timeout_at(deadline, answer).await;
        answered.unwrap_or_else(|_elapsed| Err(timed_out(clock))).map_err(Error::after_request)
    }

    /// The one answer, and the end of the stream.
    async fn answer(&self, reader: &mut FrameReader) -> Result<Response> {
        let Some(response) = read(self.connection.link(), self.codec, reader).await? else {
            return Err(Error::protocol("the stream ended without an answer"));
        };
        let response = response.map_err(|error| violated(reader, error.into()))?;
        let link = self.connection.link();
        // The peer has answered, whatever has gone wrong behind that.
        let ended = reader.end().await;
        ended.map_err(|error| link.explain(violated(reader, error)).after_answer())?;
        match response {
            Response::Error { error, detail, retry_after, not_run } => {
                Err(remote_error(error, detail, retry_after, not_run))
            }
            response => Ok(response),
        }
    }

    /// Sends the request, and gives the answers one after another.
    ///
    /// The time limit covers the whole stream.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); what the peer has to say comes with the first answer.
    pub async fn stream(mut self) -> Result<Responses> {
        self.tell_timeout();
        // Those who follow something do so until they are told to stop, or the node shuts down.
        let outstanding = (!self.request.follow).then(|| OutstandingGuard::new(self.connection.link()));
        let clock = self.connection.link().clock().clone();
        let deadline = self.timeout.map(|timeout| clock.deadline(timeout));
        let span = self.span();
        let opened = clock.timeout_at(deadline, self.open(&span, deadline).instrument(span.clone())).await;
        let opened = opened.unwrap_or_else(|_elapsed| Err(timed_out(&clock)));
        let streams = opened.map_err(|error| {
            record_end(&span, Some(&error));
            self.name(error)
        })?;
        let Self { connection, codec, request: Request { method, .. }, .. } = self;
        Ok(Responses::new(connection, method, codec, streams, deadline, span, outstanding))
    }

    fn tell_timeout(&mut self) {
        if self.codec == Codec::Cbor {
            self.request.timeout_ms = self.timeout.map(whole_millis);
        }
    }

    fn encode(&self, request: &Request) -> Result<Vec<u8>> {
        let max = self.connection.link().limits().max_frame_len();
        frame::encode(max, |out| request.encode(self.codec, out).map_err(Error::from))
    }

    /// The request of a call that has waited for a stream: what it tells of its time is what is left of it.
    fn encode_with(&self, deadline: Instant) -> Result<Vec<u8>> {
        let left = deadline.saturating_duration_since(self.connection.link().clock().now());
        let told = self.request.timeout_ms.map(|told| told.min(whole_millis(left)));
        self.encode(&Request { timeout_ms: told, ..self.request.clone() })
    }

    fn span(&self) -> Span {
        let link = self.connection.link();
        span::call(|| link.remote_address(), link.peer(), &self.request.method, self.codec)
    }

    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    /// Opens a stream and writes the request, complete with FIN.
    async fn open(&self, span: &Span, deadline: Deadline) -> Result<(FrameWriter, FrameReader)> {
        let link = self.connection.link();
        let max = link.limits().max_frame_len();
        // First, so that a request which cannot be sent opens no stream.
        let mut frame = self.encode(&self.request)?;
        let (send, recv) = {
            let (mut opening, mut waited) = (pin!(link.open_bi()), false);
            let opened = poll_fn(|cx| {
                let polled = opening.as_mut().poll(cx);
                waited |= polled.is_pending();
                polled
            })
            .await?;
            if waited && let Some(deadline) = deadline {
                frame = self.encode_with(deadline)?;
            }
            opened
        };
        link.counters().calls.add();
        record(span, "stream", u64::from(send.id()));
        let mut writer = FrameWriter::new(send, Code::CANCELLED);
        let reader = FrameReader::new(recv, max, link.allowance().charge());
        match writer.write(frame).await {
            Ok(()) => writer.finish(),
            // The peer may have answered without reading on; then its answer is what counts.
            Err(error) if matches!(error.kind(), ErrorKind::StreamReset(_)) => {}
            Err(error) => return Err(link.explain(error)),
        }
        Ok((writer, reader))
    }
}

/// Rounded down: nobody is told more time than is left.
fn whole_millis(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
}
