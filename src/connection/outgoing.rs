//! A request on its way, whatever its parameters and answers are made of.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tracing::{Instrument, Span};

use super::{
    Connection,
    answer::{Deadline, read, record_end, remote_error, timed_out, violated},
    reader::ResponseReader,
};
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    frame,
    link::OutstandingGuard,
    message::{Codec, Request, Response},
    span::{self, record},
    stream::{FrameReader, FrameWriter},
};

/// What all calls share, once for all types of parameters and results.
#[derive(Clone, Debug)]
pub(super) struct OutgoingRequest {
    pub(super) connection: Connection,
    pub(super) request: Request,
    pub(super) codec: Codec,
    pub(super) timeout: Option<Duration>,
}

impl OutgoingRequest {
    /// Empty parameters are left out of the request.
    pub(super) fn new(connection: &Connection, method: &str, params: Bytes) -> Self {
        let mut request = Request::new(method);
        request.params = (!params.is_empty()).then_some(params);
        Self { connection: connection.clone(), request, codec: Codec::Cbor, timeout: None }
    }

    /// The payload of the one `result`; empty where it has none.
    pub(super) async fn result(&mut self) -> Result<Bytes> {
        match self.run().await? {
            Response::Result { payload } => Ok(payload.unwrap_or_default()),
            _ => Err(self.name(Error::protocol("the answer is not a result").after_request())),
        }
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

    /// Sends the request, and gives what reads the answers.
    pub(super) async fn stream(mut self) -> Result<ResponseReader> {
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
        Ok(ResponseReader::new(connection, method, codec, streams, deadline, span, outstanding))
    }

    /// Says which method failed, and where.
    pub(super) fn name(&self, error: Error) -> Error {
        self.connection.link().name(error, &self.request.method)
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
