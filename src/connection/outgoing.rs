//! A request on its way, whatever its parameters and answers are made of.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tracing::{Instrument, Span};

use super::{
    Connection,
    answer::{Deadline, earlier, read, record_end, remote_error, timed_out, violated},
    intercepted::Intercepted,
    reader::ResponseReader,
    responses::Responses,
};
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    frame,
    link::OutstandingGuard,
    message::{Codec, Request, Response, TraceContext},
    method::MethodKind,
    span::{self, record},
    stream::{FrameReader, FrameWriter},
};

/// What all calls share, once for all types of parameters and results, and apart from the connection, so that
/// the same request can be sent again on another one.
#[derive(Clone, Debug)]
pub(crate) struct OutgoingRequest {
    pub(crate) request: Request,
    pub(crate) codec: Codec,
    pub(crate) timeout: Option<Duration>,
    pub(super) answer_kind: AnswerKind,
    /// Whether the caller has said which trace the request belongs to.
    has_own_trace: bool,
}

/// Which answers but errors a method gives, as far as its caller knows. Any other is a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    Any,
    Result,
    Health,
}

impl AnswerKind {
    pub(super) fn check(self, response: Response) -> Result<Response> {
        match (self, &response) {
            (Self::Any, _)
            | (_, Response::Error { .. })
            | (Self::Result, Response::Result { .. })
            | (Self::Health, Response::Health { .. }) => Ok(response),
            (Self::Result, _) => Err(Error::protocol("the answer is not a result")),
            (Self::Health, _) => Err(Error::protocol("the answer is not about health")),
        }
    }
}

impl OutgoingRequest {
    /// Empty parameters are left out of the request.
    pub(crate) fn new(method: &str, params: Bytes) -> Self {
        let mut request = Request::new(method);
        request.params = (!params.is_empty()).then_some(params);
        Self {
            request,
            codec: Codec::Cbor,
            timeout: None,
            answer_kind: AnswerKind::Any,
            has_own_trace: false,
        }
    }

    pub(crate) fn set_trace(&mut self, trace: TraceContext) {
        self.request.set_trace(Some(trace));
        self.has_own_trace = true;
    }

    /// The payload of the one `result`; empty where it has none.
    pub(super) async fn result(&mut self, connection: &Connection) -> Result<Bytes> {
        self.answer_as(connection, AnswerKind::Result, payload).await
    }

    /// The one answer, of a kind that `read` takes.
    pub(crate) async fn answer_as<T>(
        &mut self,
        connection: &Connection,
        kind: AnswerKind,
        read: fn(Response) -> Result<T>,
    ) -> Result<T> {
        self.answer_kind = kind;
        let response = self.run(connection).await?;
        read(response).map_err(|error| self.name(connection, error.after_request()))
    }

    /// By reference, since what a future takes by value it has twice.
    pub(super) async fn run(&mut self, connection: &Connection) -> Result<Response> {
        self.tell_timeout();
        let span = self.span(connection);
        self.tell_trace(connection, &span);
        // Pinned, because what is brought along is moved.
        let outcome = if !connection.link().call_interceptors().is_empty() {
            Box::pin(self.intercepted(connection, &span)).instrument(span.clone()).await
        } else {
            let exchange = pin!(self.exchange(connection, &span));
            span::within(&span, exchange).await
        };
        record_end(&span, outcome.as_ref().err());
        match outcome {
            Err(error) => Err(self.name(connection, error)),
            answered => answered,
        }
    }

    /// The exchange, within interceptors.
    async fn intercepted(&self, connection: &Connection, span: &Span) -> Result<Response> {
        let intercepted = self.interceptors(connection, MethodKind::Unary);
        let deadline = intercepted.deadline();
        let exchange = async { self.with_time_left(connection, deadline).exchange(connection, span).await };
        intercepted.answer(exchange).await
    }

    /// The interceptors around this, and what they see of it.
    pub(super) fn interceptors<'a>(&self, connection: &'a Connection, kind: MethodKind) -> Intercepted<'a> {
        let Request { method, params, .. } = &self.request;
        let deadline = self.timeout.map(|timeout| connection.link().clock().deadline(timeout));
        Intercepted::new(connection.link(), kind, method, params.as_ref(), self.request.trace(), deadline)
    }

    /// The same request after its interceptors have taken some of its time.
    pub(super) fn with_time_left(&self, connection: &Connection, deadline: Deadline) -> Self {
        let now = connection.link().clock().now();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let mut request = Self { timeout, ..self.clone() };
        request.tell_timeout();
        request
    }

    pub(super) async fn exchange(&self, connection: &Connection, span: &Span) -> Result<Response> {
        let _outstanding = connection.link().outstanding().call();
        let clock = connection.link().clock();
        let deadline = self.timeout.map(|timeout| clock.deadline(timeout));
        let opened = {
            let opening = pin!(self.open(connection, span, deadline));
            clock.timeout_at(deadline, opening).await
        };
        let (_writer, mut reader) = opened.unwrap_or_else(|_elapsed| Err(timed_out(clock)))?;
        let answer = pin!(self.answer(connection, &mut reader));
        let answered = clock.timeout_at(deadline, answer).await;
        answered.unwrap_or_else(|_elapsed| Err(timed_out(clock))).map_err(Error::after_request)
    }

    /// The one answer, and the end of the stream.
    async fn answer(&self, connection: &Connection, reader: &mut FrameReader) -> Result<Response> {
        let Some(response) = read(connection.link(), self.codec, reader).await? else {
            return Err(Error::protocol("the stream ended without an answer"));
        };
        // Before the end, which such a peer may never send.
        let response = response.map_err(Error::from).and_then(|response| self.answer_kind.check(response));
        let response = response.map_err(|error| violated(reader, error))?;
        let link = connection.link();
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

    /// Sends the request within its time limit, and until `limit` at the latest. Gives what reads the
    /// answers. Where that succeeds, the request is used up.
    pub(crate) async fn stream<T>(
        &mut self,
        connection: &Connection,
        limit: Deadline,
    ) -> Result<Responses<T>> {
        let span = self.span(connection);
        self.tell_trace(connection, &span);
        let opened = if connection.link().call_interceptors().is_empty() {
            self.stream_now(connection, &span, limit).await
        } else {
            Box::pin(self.stream_intercepted(connection, &span, limit)).instrument(span.clone()).await
        };
        opened.map_err(|error| {
            record_end(&span, Some(&error));
            self.name(connection, error)
        })
    }

    async fn stream_intercepted<T>(
        &mut self,
        connection: &Connection,
        span: &Span,
        limit: Deadline,
    ) -> Result<Responses<T>> {
        let intercepted = self.interceptors(connection, MethodKind::Streaming).until(limit);
        let deadline = intercepted.deadline();
        let open =
            async { self.with_time_left(connection, deadline).stream_now(connection, span, limit).await };
        intercepted.stream(open).await
    }

    async fn stream_now<T>(
        &mut self,
        connection: &Connection,
        span: &Span,
        limit: Deadline,
    ) -> Result<Responses<T>> {
        self.tell_timeout();
        // Those who follow something do so until they are told to stop, or the node shuts down.
        let outstanding = (!self.request.follow).then(|| OutstandingGuard::new(connection.link()));
        let clock = connection.link().clock().clone();
        let deadline = self.timeout.map(|timeout| clock.deadline(timeout));
        let open = self.open(connection, span, deadline).instrument(span.clone());
        let opened = clock.timeout_at(earlier(deadline, limit), open).await;
        let (writer, reader) = opened.unwrap_or_else(|_elapsed| Err(timed_out(&clock)))?;
        let streams = (Some(writer), reader);
        let (connection, method) = (connection.clone(), mem::take(&mut self.request.method));
        let reader =
            ResponseReader::new(connection, method, self.codec, streams, deadline, span.clone(), outstanding);
        Ok(Responses::new(reader))
    }

    /// Says which method failed, and where.
    pub(super) fn name(&self, connection: &Connection, error: Error) -> Error {
        connection.link().name(error, &self.request.method)
    }

    pub(super) fn tell_timeout(&mut self) {
        if self.codec == Codec::Cbor {
            self.request.timeout_ms = self.timeout.map(millis_rounded_down);
        }
    }

    /// Says which trace the request belongs to, unless the caller has. An earlier attempt had another span.
    pub(super) fn tell_trace(&mut self, connection: &Connection, span: &Span) {
        if !self.has_own_trace && self.codec == Codec::Cbor {
            self.request.set_trace(connection.link().call_hooks().trace(span));
        }
    }

    fn encode(&self, connection: &Connection, request: &Request) -> Result<Vec<u8>> {
        let max = connection.link().limits().max_frame_len();
        let len = request.encoded_len(self.codec);
        frame::encode_with_len(len, max, |out| request.encode(self.codec, out).map_err(Error::from))
    }

    /// The request of a call that has waited for a stream: what it tells of its time is what is left of it.
    fn encode_with(&self, connection: &Connection, deadline: Instant) -> Result<Vec<u8>> {
        let left = deadline.saturating_duration_since(connection.link().clock().now());
        let told = self.request.timeout_ms.map(|told| told.min(millis_rounded_down(left)));
        self.encode(connection, &Request { timeout_ms: told, ..self.request.clone() })
    }

    pub(super) fn span(&self, connection: &Connection) -> Span {
        let link = connection.link();
        span::call(|| link.remote_address(), link.peer(), &self.request.method, self.codec)
    }

    /// Opens a stream and writes the request, complete with FIN unless items follow.
    pub(super) async fn open(
        &self,
        connection: &Connection,
        span: &Span,
        deadline: Deadline,
    ) -> Result<(FrameWriter, FrameReader)> {
        let link = connection.link();
        let max = link.limits().max_frame_len();
        // First, so that a request which cannot be sent opens no stream.
        let mut frame = self.encode(connection, &self.request)?;
        let (send, recv) = {
            let (mut opening, mut waited) = (pin!(link.open_bi()), false);
            let opened = poll_fn(|cx| {
                let polled = opening.as_mut().poll(cx);
                waited |= polled.is_pending();
                polled
            })
            .await?;
            if waited && let Some(deadline) = deadline {
                frame = self.encode_with(connection, deadline)?;
            }
            opened
        };
        link.counters().calls.add();
        record(span, "stream", u64::from(send.id()));
        let mut writer = FrameWriter::new(send, Code::CANCELLED);
        let reader = FrameReader::new(recv, max, link.allowance().charge());
        match writer.write(frame).await {
            #[cfg(feature = "streams")]
            Ok(()) if self.request.more() == Some(true) => {}
            Ok(()) => writer.finish(),
            // The peer may have answered without reading on; then its answer is what counts.
            Err(error) if matches!(error.kind(), ErrorKind::StreamReset(_)) => {}
            Err(error) => return Err(link.explain(error)),
        }
        Ok((writer, reader))
    }
}

/// The payload of a `result`; empty where it has none.
pub(crate) fn payload(response: Response) -> Result<Bytes> {
    match response {
        Response::Result { payload } => Ok(payload.unwrap_or_default()),
        _ => Err(Error::protocol("the answer is not a result")),
    }
}

/// So that the peer is never told more time than is left.
fn millis_rounded_down(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
}
