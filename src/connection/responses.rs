//! The answers of a streaming method.

use std::fmt;

use bytes::Bytes;
use minicbor::Decode;
use tracing::Span;

use super::{
    Connection,
    answer::{Deadline, decode, read, record_end, remote_error, timed_out, violated},
};
use crate::{
    error::{Error, Result},
    link::OutstandingGuard,
    message::{Codec, MessageError, Response},
    stream::{FrameReader, FrameWriter},
    value,
};

/// The answers to one request, in order. See [`Call::stream`](super::Call::stream).
///
/// Dropping it before the end cancels the handler at the peer. Unless it follows something, it keeps an
/// [`Endpoint::shutdown`](crate::Endpoint::shutdown) of this side waiting, within the grace, until it has
/// brought its end or is dropped.
#[must_use = "dropping it cancels the handler at the peer"]
pub struct Responses {
    connection: Connection,
    /// Named in errors.
    method: Box<str>,
    /// Of the request.
    codec: Codec,
    reader: FrameReader,
    /// Resets the request's half, should it not have left whole.
    _writer: FrameWriter,
    deadline: Deadline,
    /// Of the call, until its end.
    span: Span,
    ended: bool,
    /// A response has come, so that the method has begun, whatever the peer says of it later.
    answered: bool,
    /// Until the end.
    outstanding: Option<OutstandingGuard>,
}

impl Responses {
    pub(super) fn new(
        connection: Connection,
        method: Box<str>,
        codec: Codec,
        (writer, reader): (FrameWriter, FrameReader),
        deadline: Deadline,
        span: Span,
        outstanding: Option<OutstandingGuard>,
    ) -> Self {
        Self {
            connection,
            method,
            codec,
            reader,
            _writer: writer,
            deadline,
            span,
            ended: false,
            answered: false,
            outstanding,
        }
    }

    /// The next answer's payload, or `None` once the peer has finished.
    ///
    /// # Errors
    ///
    /// As for [`Call::send`](super::Call::send). An error is the end: `None` follows. A stream that broke off
    /// never looks finished.
    ///
    /// # Cancellation
    ///
    /// Safe: no answer is lost if this is dropped and called again.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.next_response().await? {
            Some(Response::Result { payload }) => Ok(Some(payload.unwrap_or_default())),
            Some(_) => Err(self.fail(Error::protocol("the answer is not a result"))),
            None => Ok(None),
        }
    }

    /// The next answer, decoded by minicbor. See [`next`](Self::next).
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next), and [`Codec`](crate::ErrorKind::Codec) where the answer is no such
    /// value; then the one after it may still be read.
    pub async fn next_typed<T: for<'b> Decode<'b, ()>>(&mut self) -> Result<Option<T>> {
        let Some(payload) = self.next().await? else { return Ok(None) };
        value::decode(&payload).map(Some).map_err(|error| self.name(error.after_request()))
    }

    /// The next response of any kind but `error`. See [`next`](Self::next).
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next).
    pub async fn next_response(&mut self) -> Result<Option<Response>> {
        if let Some(arrived) = self.take_arrived() {
            return arrived.map(Some);
        }
        if self.ended {
            return Ok(None);
        }
        let link = self.connection.link();
        let read = link.clock().timeout_at(self.deadline, read(link, self.codec, &mut self.reader)).await;
        let response = match read.unwrap_or_else(|_elapsed| Err(timed_out(link.clock()))) {
            Ok(Some(response)) => response,
            Ok(None) => {
                self.end(None);
                return Ok(None);
            }
            Err(error) => return Err(self.fail(error)),
        };
        self.taken(response).map(Some)
    }

    /// The next response whose frame is here already.
    pub(crate) fn take_arrived(&mut self) -> Option<Result<Response>> {
        if self.ended {
            return None;
        }
        let (link, asked) = (self.connection.link(), self.codec);
        Some(match self.reader.take_arrived(|body| decode(link, asked, body))? {
            Ok(response) => self.taken(response),
            Err(error) => Err(self.fail(error)),
        })
    }

    fn taken(&mut self, response: std::result::Result<Response, MessageError>) -> Result<Response> {
        match response {
            Ok(Response::Error { .. }) if self.reader.has_more() => {
                Err(self.fail(Error::protocol("an error is the last answer, and something follows it")))
            }
            Ok(Response::Error { error, detail, retry_after, not_run }) => {
                Err(self.fail(remote_error(error, detail, retry_after, not_run)))
            }
            Ok(response) => {
                self.answered = true;
                let counters = self.connection.link().counters();
                match &response {
                    Response::Event { .. } => counters.events_received.add(),
                    Response::Gap { .. } => counters.gaps_received.add(),
                    _ => {}
                }
                Ok(response)
            }
            Err(error) => Err(self.fail(error.into())),
        }
    }

    /// Whether the end has come, or an error, which is one.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    fn end(&mut self, error: Option<&Error>) {
        self.ended = true;
        self.outstanding = None;
        record_end(&self.span, error);
    }

    pub(crate) fn fail(&mut self, error: Error) -> Error {
        self.end(Some(&error));
        let error = violated(&mut self.reader, error);
        self.name(if self.answered { error.after_answer() } else { error.after_request() })
    }

    fn name(&self, error: Error) -> Error {
        self.connection.link().name(error, &self.method)
    }
}

impl fmt::Debug for Responses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responses").field("ended", &self.ended).finish_non_exhaustive()
    }
}
