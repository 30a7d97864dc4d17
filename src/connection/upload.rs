//! A request with items and one answer.

use std::{fmt, marker::PhantomData, pin::pin};

use bytes::Bytes;
use futures_lite::{Stream, StreamExt, future};
use minicbor::{Decode, Encode};

use super::{
    item_sink::{ItemSink, no_more_items},
    responses::Responses,
};
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    message::Response,
    value::{self, Raw},
};

/// A request whose items are being sent, and that gets one answer; see
/// [`Connection::send_items`](super::Connection::send_items).
///
/// Items are values of the type `I`, and the answer is one of type `T`. An upload of [`Raw`] takes and gives
/// bytes, by [`send_raw`](Self::send_raw) and [`finish_raw`](Self::finish_raw).
///
/// Dropping it before [`finish`](Self::finish) has resolved cancels the handler at the peer, which may have
/// run; what was sent never looks complete.
#[must_use = "dropping it cancels the handler at the peer"]
pub struct Upload<I = Raw, T = Raw> {
    sink: ItemSink<I>,
    responses: Responses,
    answer: Option<Answer>,
    result: PhantomData<fn() -> T>,
}

/// No more items are added to a write that has this many bytes.
const WRITE_BYTES: usize = 16 * 1024;

/// What the peer has said already.
enum Answer {
    Result(Bytes),
    Failed(Error),
}

/// What comes first.
enum First<T> {
    Response(Result<Option<Response>>),
    Other(T),
}

impl<I: Encode<()>, T> Upload<I, T> {
    /// Sends one item, encoded by minicbor. Waits for room where the peer reads slowly, and no longer than
    /// until the peer answers.
    ///
    /// # Errors
    ///
    /// As for [`ItemSink::send`]. If the peer has answered with an error, this is that error, and
    /// [`finish`](Self::finish) returns it again. If it has answered with a result, and needs no more items,
    /// [`StreamReset`](ErrorKind::StreamReset) with NO_ERROR, and `finish` returns the result.
    ///
    /// # Cancellation
    ///
    /// If this is dropped half way, nothing more can be sent, and the request cannot be finished.
    pub async fn send(&mut self, item: &I) -> Result<()> {
        let mut frame = Vec::new();
        self.sink.append_value(item, &mut frame)?;
        self.write(frame).await
    }

    /// Sends all items of a stream. Returns when the stream has ended or the peer has answered with a result,
    /// whichever is first. Items that the stream has ready are sent together, about 16 KiB at a time, which
    /// costs less than [`send`](Self::send) for each.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), but not for an early result.
    ///
    /// # Cancellation
    ///
    /// Items that have been taken from the stream are lost, and [`send`](Self::send) says what that means.
    pub async fn send_all(&mut self, items: impl Stream<Item = I>) -> Result<()> {
        self.send_each(items, |sink, item, frames| sink.append_value(&item, frames)).await
    }
}

impl<I, T> Upload<I, T> {
    pub(crate) fn new(sink: ItemSink<I>, responses: Responses) -> Self {
        Self { sink, responses, answer: None, result: PhantomData }
    }

    /// Sends one item of plain bytes. See [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn send_raw(&mut self, params: impl Into<Bytes>) -> Result<()> {
        let mut frame = Vec::new();
        self.sink.append(params.into(), &mut frame)?;
        self.write(frame).await
    }

    /// Sends all items of a stream of bytes. See [`send_all`](Self::send_all).
    ///
    /// # Errors
    ///
    /// As for [`send_all`](Self::send_all).
    pub async fn send_all_raw(&mut self, items: impl Stream<Item = impl Into<Bytes>>) -> Result<()> {
        self.send_each(items, |sink, item, frames| sink.append(item.into(), frames)).await
    }

    /// Tells the peer that there are no more items, and gives the payload of its answer. See
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    ///
    /// As for [`finish`](Self::finish).
    pub async fn finish_raw(mut self) -> Result<Bytes> {
        self.conclude().await
    }

    /// By reference, since what a future takes by value it has twice.
    async fn conclude(&mut self) -> Result<Bytes> {
        if self.answer.is_none() {
            match self.sink.end() {
                // The peer has stopped the items, and says why.
                Err(error) if !matches!(error.kind(), ErrorKind::StreamReset(_)) => return Err(error),
                _ => {}
            }
            let response = self.responses.next_response().await;
            self.keep(response);
        }
        match self.answer.take() {
            Some(Answer::Result(payload)) => {
                self.responses.end_of_answer().await?;
                Ok(payload)
            }
            Some(Answer::Failed(error)) => Err(error),
            None => Err(self.responses.fail(Error::protocol("the stream ended without an answer"))),
        }
    }

    /// Sends items, whose frames `append` makes, until the peer answers.
    async fn send_each<V>(
        &mut self,
        items: impl Stream<Item = V>,
        append: impl Fn(&ItemSink<I>, V, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut items = pin!(items.fuse());
        while let Some(item) = self.next_of(&mut items).await? {
            let mut frames = Vec::new();
            let mut appended = append(&self.sink, item, &mut frames);
            while appended.is_ok()
                && frames.len() < WRITE_BYTES
                && let Some(Some(item)) = future::poll_once(items.next()).await
            {
                appended = append(&self.sink, item, &mut frames);
            }
            // The items before one that cannot be sent are, as by themselves.
            if !frames.is_empty() {
                self.write_unless_answered(frames).await?;
            }
            appended?;
        }
        Ok(())
    }

    /// Writes the frame of an item, unless the peer answers before; then that is the error.
    async fn write(&mut self, frame: Vec<u8>) -> Result<()> {
        self.write_unless_answered(frame).await?;
        match &self.answer {
            Some(_) => Err(self.responses.name(no_more_items(Code::NO_ERROR))),
            None => Ok(()),
        }
    }

    /// The same, but for a result, which is kept.
    async fn write_unless_answered(&mut self, frame: Vec<u8>) -> Result<()> {
        if self.answer.is_none() {
            let written = {
                let response = pin!(self.responses.next_response());
                let response = async { First::Response(response.await) };
                let written = pin!(self.sink.write(frame));
                future::or(async { First::Other(written.await) }, response).await
            };
            match written {
                First::Response(response) => self.keep(response),
                First::Other(Ok(())) => return Ok(()),
                // The answer says why the peer has stopped the items.
                First::Other(Err(error)) if matches!(error.kind(), ErrorKind::StreamReset(_)) => {
                    let response = self.responses.next_response().await;
                    self.keep(response);
                }
                First::Other(Err(error)) => return Err(error),
            }
        }
        self.failure()
    }

    /// The next item of a stream, or `None` if there is none or it is not needed.
    async fn next_of<V>(&mut self, items: &mut (impl Stream<Item = V> + Unpin)) -> Result<Option<V>> {
        if self.answer.is_none() {
            let next = {
                let response = pin!(self.responses.next_response());
                let response = async { First::Response(response.await) };
                future::or(async { First::Other(items.next().await) }, response).await
            };
            match next {
                First::Response(response) => self.keep(response),
                First::Other(item) => return Ok(item),
            }
        }
        self.failure().map(|()| None)
    }

    fn failure(&self) -> Result<()> {
        match &self.answer {
            Some(Answer::Failed(error)) => Err(error.duplicate()),
            Some(Answer::Result(_)) | None => Ok(()),
        }
    }

    fn keep(&mut self, response: Result<Option<Response>>) {
        let fault = match response {
            Ok(Some(Response::Result { payload })) => {
                self.answer = Some(Answer::Result(payload.unwrap_or_default()));
                return;
            }
            Ok(Some(_)) => self.responses.fail(Error::protocol("the answer is not a result")),
            Ok(None) => self.responses.fail(Error::protocol("the stream ended without an answer")),
            Err(error) => error,
        };
        self.answer = Some(Answer::Failed(fault));
    }
}

impl<I, T: for<'b> Decode<'b, ()>> Upload<I, T> {
    /// Tells the peer that there are no more items, and gives its answer, decoded by minicbor.
    ///
    /// # Errors
    ///
    /// As for [`Call::send`](super::Call::send); [`Error::items_taken`] says how many items the handler had
    /// received. [`Closed`](ErrorKind::Closed) where a [`send`](Self::send) was dropped half way.
    /// [`DeadlineExceeded`](ErrorKind::DeadlineExceeded) also if the peer does not end the stream behind its
    /// answer within [`request_read_timeout`](crate::TransportLimits::request_read_timeout); the method has
    /// run then.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run.
    pub async fn finish(mut self) -> Result<T> {
        let result = self.conclude().await?;
        value::decode(&result).map_err(|error| self.responses.name(error.after_answer()))
    }
}

impl<I, T> fmt::Debug for Upload<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sink, answer, .. } = self;
        f.debug_struct("Upload")
            .field("sink", sink)
            .field("answered", &answer.is_some())
            .finish_non_exhaustive()
    }
}
