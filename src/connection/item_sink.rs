//! Where a caller puts the items of its request.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use minicbor::Encode;

use super::{
    Connection,
    answer::{Deadline, timed_out},
};
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    frame,
    message::{Codec, Item},
    stream::FrameWriter,
    value::{self, Raw},
};

/// The items of a request whose answers are read beside them; see [`Connection::bidi`].
///
/// [`send`](Self::send) takes values of the type `I`. A sink of [`Raw`] takes bytes, by
/// [`send_raw`](Self::send_raw) alone.
///
/// Dropping it without [`finish`](Self::finish) resets the stream, so that the items never look complete: the
/// handler at the peer is cancelled.
#[must_use = "dropping it cancels the handler at the peer"]
pub struct ItemSink<I = Raw> {
    connection: Connection,
    /// Named in errors.
    method: Box<str>,
    codec: Codec,
    writer: FrameWriter,
    deadline: Deadline,
    values: PhantomData<fn(&I)>,
}

impl<I: Encode<()>> ItemSink<I> {
    /// Sends one item, encoded by minicbor. Waits for room where the peer reads slowly.
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) where the value cannot be encoded, and
    /// [`MessageTooLarge`](ErrorKind::MessageTooLarge) where the item does not fit a frame; another may still
    /// be sent. [`StreamReset`](ErrorKind::StreamReset) where the peer takes no more items, with NO_ERROR if
    /// its answers say why; [`DeadlineExceeded`](ErrorKind::DeadlineExceeded) where the call's time limit
    /// passed; or why the connection is gone.
    ///
    /// # Cancellation
    ///
    /// If this is dropped half way, nothing more can be sent, and the request cannot be finished.
    pub async fn send(&mut self, item: &I) -> Result<()> {
        let mut frame = Vec::new();
        self.append_value(item, &mut frame)?;
        self.write(frame).await
    }

    /// Adds the frame of an item.
    pub(super) fn append_value(&self, item: &I, frames: &mut Vec<u8>) -> Result<()> {
        let params = value::encode(item).map_err(|error| self.name(error))?;
        self.append(params, frames)
    }
}

impl<I> ItemSink<I> {
    pub(super) fn new(
        connection: &Connection,
        method: &str,
        codec: Codec,
        writer: FrameWriter,
        deadline: Deadline,
    ) -> Self {
        let connection = connection.clone();
        Self { connection, method: method.into(), codec, writer, deadline, values: PhantomData }
    }

    /// Sends one item of plain bytes. See [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn send_raw(&mut self, params: impl Into<Bytes>) -> Result<()> {
        let mut frame = Vec::new();
        self.append(params.into(), &mut frame)?;
        self.write(frame).await
    }

    /// Tells the peer that there are no more items.
    ///
    /// Whether they have arrived, the answers tell.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) where a [`send`](Self::send) was dropped half way, so that the handler
    /// is cancelled; [`StreamReset`](ErrorKind::StreamReset) where the peer has said that it takes no more.
    pub async fn finish(mut self) -> Result<()> {
        self.end()
    }

    /// Marks the items as complete.
    pub(super) fn end(&mut self) -> Result<()> {
        let stopped = self.writer.stopped_with();
        self.writer.finish();
        match stopped {
            Some(code) => Err(self.name(no_more_items(code))),
            None if self.writer.is_finished() => Ok(()),
            None => {
                let broken = Error::new(ErrorKind::Closed).detail("an item was given up half way");
                Err(self.name(broken.after_request()))
            }
        }
    }

    /// Adds the frame of an item. Empty parameters are left out.
    pub(super) fn append(&self, params: Bytes, frames: &mut Vec<u8>) -> Result<()> {
        let item = if params.is_empty() { Item::default() } else { Item::new(params) };
        let max = self.connection.link().limits().max_frame_len();
        let appended = frame::append(frames, max, |out| item.encode(self.codec, out).map_err(Error::from));
        appended.map_err(|error| self.name(error))
    }

    pub(super) async fn write(&mut self, frames: Vec<u8>) -> Result<()> {
        let link = self.connection.link();
        let written = link.clock().timeout_at(self.deadline, self.writer.write(frames)).await;
        let written = written.unwrap_or_else(|_elapsed| Err(timed_out(link.clock())));
        written.map_err(|error| {
            let error = match error.kind() {
                ErrorKind::StreamReset(code) => no_more_items(*code),
                _ => link.explain(error).after_request(),
            };
            self.name(error)
        })
    }

    /// Says which method failed, and where. The request has begun.
    fn name(&self, error: Error) -> Error {
        self.connection.link().name(error.after_request(), &self.method)
    }
}

/// The peer has stopped the items.
pub(super) fn no_more_items(code: Code) -> Error {
    let error = Error::new(ErrorKind::StreamReset(code)).after_request();
    if code == Code::NO_ERROR { error.detail("the peer takes no more items") } else { error }
}

impl<I> fmt::Debug for ItemSink<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, method, codec, .. } = self;
        f.debug_struct("ItemSink")
            .field("connection", connection)
            .field("method", method)
            .field("codec", codec)
            .finish_non_exhaustive()
    }
}
