//! The answers of a streaming method.

use std::{
    fmt,
    future::{Future, poll_fn},
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_lite::Stream;
use minicbor::Decode;

use super::reader::ResponseReader;
use crate::{
    error::{Error, ErrorKind, Result},
    message::Response,
    value::{self, Raw},
};

/// The answers to one request, in order. See [`Connection::stream`](super::Connection::stream).
///
/// A [`Stream`], and by [`next`](Self::next) usable without one: of values of type `T`, or, with
/// [`next_raw`](Self::next_raw) and as a stream of [`Raw`], of bytes.
///
/// Dropping it before the end cancels the handler at the peer. Unless it follows something, it keeps an
/// [`Endpoint::shutdown`](crate::Endpoint::shutdown) of this side waiting, within the grace, until it has
/// brought its end or is dropped.
#[must_use = "dropping it cancels the handler at the peer"]
pub struct Responses<T = Raw> {
    state: State,
    values: PhantomData<fn() -> T>,
}

/// What a wait for the next response ends with.
type NextResponse = Result<Option<Response>>;
/// A wait that owns the reader, and gives it back.
type Wait = Pin<Box<dyn Future<Output = (Box<ResponseReader>, NextResponse)> + Send>>;

enum State {
    /// Nothing waits, or a future that borrows the reader.
    Idle(Box<ResponseReader>),
    /// A poll of the [`Stream`] waits. It has to go on where it was at the next poll, and gives the reader
    /// back at its end. In a mutex, which is never locked, so that `Responses` can be shared.
    Waiting(Mutex<Wait>),
    /// The reader is on its way into a wait.
    Taken,
}

impl<T: for<'b> Decode<'b, ()>> Responses<T> {
    /// The next answer, decoded by minicbor, or `None` once the peer has finished.
    ///
    /// # Errors
    ///
    /// As for [`Call::send`](super::Call::send). An error is the end: `None` follows. A stream that broke off
    /// never looks finished. Only after [`Codec`](crate::ErrorKind::Codec), for an answer that is no such
    /// value, may the one after it still be read.
    ///
    /// # Cancellation
    ///
    /// Safe: no answer is lost if this is dropped and called again.
    pub async fn next(&mut self) -> Result<Option<T>> {
        let payload = self.next_raw().await?;
        self.decode(payload)
    }

    fn decode(&self, payload: Option<Bytes>) -> Result<Option<T>> {
        let value = payload.map(|payload| value::decode(&payload)).transpose();
        value.map_err(|error| self.name(error.after_request()))
    }
}

impl<T> Responses<T> {
    pub(super) fn new(reader: ResponseReader) -> Self {
        Self { state: State::Idle(Box::new(reader)), values: PhantomData }
    }

    /// The next answer's payload as bytes, or `None` once the peer has finished. See [`next`](Self::next).
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next).
    pub async fn next_raw(&mut self) -> Result<Option<Bytes>> {
        let response = self.next_response().await?;
        self.payload(response)
    }

    /// The next response of any kind but `error`. See [`next`](Self::next).
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next).
    pub async fn next_response(&mut self) -> Result<Option<Response>> {
        match &mut self.state {
            State::Idle(reader) => reader.next().await,
            State::Waiting(_) | State::Taken => poll_fn(|cx| self.poll_response(cx)).await,
        }
    }

    /// The next response, at whichever poll it arrives.
    pub(super) fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<NextResponse> {
        loop {
            match &mut self.state {
                State::Idle(reader) => {
                    if let Some(arrived) = reader.take_arrived() {
                        return Poll::Ready(arrived.map(Some));
                    }
                    if reader.has_ended() {
                        return Poll::Ready(Ok(None));
                    }
                    let State::Idle(mut reader) = mem::replace(&mut self.state, State::Taken) else {
                        continue;
                    };
                    self.state = State::Waiting(Mutex::new(Box::pin(async move {
                        let arrived = reader.next().await;
                        (reader, arrived)
                    })));
                }
                State::Waiting(wait) => {
                    let wait = wait.get_mut().unwrap_or_else(PoisonError::into_inner);
                    let Poll::Ready((reader, arrived)) = wait.as_mut().poll(cx) else { return Poll::Pending };
                    self.state = State::Idle(reader);
                    return Poll::Ready(arrived);
                }
                State::Taken => return Poll::Ready(Err(Error::new(ErrorKind::Closed))),
            }
        }
    }

    fn poll_payload(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        self.poll_response(cx).map(|arrived| self.payload(arrived?))
    }

    fn payload(&mut self, response: Option<Response>) -> Result<Option<Bytes>> {
        match response {
            Some(Response::Result { payload }) => Ok(Some(payload.unwrap_or_default())),
            Some(_) => Err(self.fail(Error::protocol("the answer is not a result"))),
            None => Ok(None),
        }
    }

    /// Waits for the end behind the only answer of a request with items, no longer than for the rest of a
    /// frame.
    #[cfg(feature = "streams")]
    pub(super) async fn end_of_answer(&mut self) -> Result<()> {
        match &mut self.state {
            State::Idle(reader) => reader.end_of_answer().await,
            // Nobody has polled it as a stream, and nobody will.
            State::Waiting(_) | State::Taken => Ok(()),
        }
    }

    /// The next response whose frame is here already.
    pub(crate) fn take_arrived(&mut self) -> Option<Result<Response>> {
        match &mut self.state {
            State::Idle(reader) => reader.take_arrived(),
            State::Waiting(_) | State::Taken => None,
        }
    }

    /// The sequence number, epoch and payload of the next response, if its frame is here already and is an
    /// event in its usual form. Much faster than [`next_response`](Self::next_response), which takes whatever
    /// this leaves.
    #[inline]
    pub(crate) fn take_event(&mut self) -> Option<(u64, Option<u64>, Bytes)> {
        match &mut self.state {
            State::Idle(reader) => reader.take_event(),
            State::Waiting(_) | State::Taken => None,
        }
    }

    /// Ends the stream for what was found in its last response.
    pub(crate) fn fail(&mut self, error: Error) -> Error {
        match &mut self.state {
            State::Idle(reader) => reader.fail(error),
            State::Waiting(_) | State::Taken => error,
        }
    }

    /// Says which method failed, and where.
    pub(super) fn name(&self, error: Error) -> Error {
        match &self.state {
            State::Idle(reader) => reader.name(error),
            State::Waiting(_) | State::Taken => error,
        }
    }

    /// Whether the end has come, or an error, which is one.
    pub(super) fn has_ended(&self) -> bool {
        match &self.state {
            State::Idle(reader) => reader.has_ended(),
            State::Waiting(_) => false,
            State::Taken => true,
        }
    }
}

impl<T: for<'b> Decode<'b, ()>> Stream for Responses<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let payload = self.poll_payload(cx);
        payload.map(|payload| self.decode(payload?)).map(Result::transpose)
    }
}

impl Stream for Responses {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_payload(cx).map(Result::transpose)
    }
}

impl<T> fmt::Debug for Responses<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responses").field("ended", &self.has_ended()).finish_non_exhaustive()
    }
}
