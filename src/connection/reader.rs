//! How the answers of a streaming method are read.

use bytes::Bytes;
use tracing::Span;

#[cfg(feature = "streams")]
use super::answer::decode_counted;
use super::{
    Connection,
    answer::{Deadline, decode, read_with, record_end, remote_error, timed_out, violated},
};
use crate::{
    error::{Error, Result},
    frame::Body,
    link::OutstandingGuard,
    message::{Codec, MessageError, Response, read_usual_event},
    stream::{FrameReader, FrameWriter},
};

/// Reads the responses to one request, whatever is made of their payloads.
pub(super) struct ResponseReader {
    connection: Connection,
    /// Named in errors.
    method: Box<str>,
    /// Of the request.
    codec: Codec,
    reader: FrameReader,
    /// Resets the request's half, should it not have left whole; `None` if items follow.
    _writer: Option<FrameWriter>,
    /// Of a request with items, how many of them have been taken as far as the peer has said.
    #[cfg(feature = "streams")]
    items_taken: Option<Option<u64>>,
    deadline: Deadline,
    /// Of the call, until its end.
    span: Span,
    ended: bool,
    /// A response has come, so that the method has begun, whatever the peer says of it later.
    answered: bool,
    /// Until the end.
    outstanding: Option<OutstandingGuard>,
}

impl ResponseReader {
    pub(super) fn new(
        connection: Connection,
        method: Box<str>,
        codec: Codec,
        (writer, reader): (Option<FrameWriter>, FrameReader),
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
            #[cfg(feature = "streams")]
            items_taken: None,
            deadline,
            span,
            ended: false,
            answered: false,
            outstanding,
        }
    }

    /// Reads the responses to a request with items.
    #[cfg(feature = "streams")]
    pub(super) fn beside_items(self) -> Self {
        Self { items_taken: Some(None), ..self }
    }

    /// The next response of any kind but `error`, or `None` once the peer has finished.
    ///
    /// Cancel-safe: what has arrived is kept for the next call.
    pub(super) async fn next(&mut self) -> Result<Option<Response>> {
        if let Some(arrived) = self.take_arrived() {
            return arrived.map(Some);
        }
        if self.ended {
            return Ok(None);
        }
        let link = self.connection.link();
        let Self { codec, reader, .. } = self;
        #[cfg(feature = "streams")]
        let decode = |body: Body<'_>| match &mut self.items_taken {
            Some(taken) => decode_counted(body, taken),
            None => decode(link, *codec, body),
        };
        #[cfg(not(feature = "streams"))]
        let decode = |body: Body<'_>| decode(link, *codec, body);
        let read = link.clock().timeout_at(self.deadline, read_with(link, reader, decode)).await;
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

    /// Waits for the end behind an answer that is the only one. The peer has no longer for it than for the
    /// rest of a frame that it has begun.
    #[cfg(feature = "streams")]
    pub(super) async fn end_of_answer(&mut self) -> Result<()> {
        let (clock, limits) = (self.connection.link().clock().clone(), self.connection.link().limits());
        match clock.timeout(limits.request_read_timeout(), self.next()).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(_))) => Err(self.fail(Error::protocol("more than one answer"))),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(self.fail(timed_out(&clock))),
        }
    }

    /// The next response whose frame is here already.
    pub(super) fn take_arrived(&mut self) -> Option<Result<Response>> {
        if self.ended {
            return None;
        }
        let (link, asked) = (self.connection.link(), self.codec);
        #[cfg(feature = "streams")]
        let decode = |body: Body<'_>| match &mut self.items_taken {
            Some(taken) => decode_counted(body, taken),
            None => decode(link, asked, body),
        };
        #[cfg(not(feature = "streams"))]
        let decode = |body: Body<'_>| decode(link, asked, body);
        Some(match self.reader.take_arrived(decode)? {
            Ok(response) => self.taken(response),
            Err(error) => Err(self.fail(error)),
        })
    }

    /// The sequence number, epoch and payload of the next response, if its frame is here already and is an
    /// event in its usual form.
    #[inline]
    pub(super) fn take_event(&mut self) -> Option<(u64, Option<u64>, Bytes)> {
        if self.ended {
            return None;
        }
        let event = self.reader.take_arrived_if(read_usual_event)?;
        self.answered = true;
        self.connection.link().counters().events_received.add();
        Some(event)
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
                let link = self.connection.link();
                match &response {
                    Response::Result { .. } => link.note_answer(),
                    Response::Event { .. } => link.counters().events_received.add(),
                    Response::Gap { .. } => link.counters().gaps_received.add(),
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

    pub(super) fn fail(&mut self, error: Error) -> Error {
        self.end(Some(&error));
        let error = violated(&mut self.reader, error);
        #[cfg(feature = "streams")]
        let error = error.after_items(self.items_taken.flatten());
        self.name(if self.answered { error.after_answer() } else { error.after_request() })
    }

    /// Says which method failed, and where.
    pub(super) fn name(&self, error: Error) -> Error {
        self.connection.link().name(error, &self.method)
    }
}
