//! Where a streaming handler puts its answers.

use std::{fmt, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use minicbor::Encode;

#[cfg(feature = "streams")]
use super::item_source::ItemSource;
use super::{loan::Borrower, response_size::ResponseSize};
#[cfg(feature = "streams")]
use crate::stream::counted_frame;
use crate::{
    admission::Charge,
    error::{Error, ErrorKind, Result},
    link::Link,
    message::{Codec, Response},
    stream::{FrameWriter, response_frame},
    value::{self, Raw},
};

/// The answers of a streaming method, one `result` frame each.
///
/// [`send`](Self::send) takes values of the type `T`. A sink of [`Raw`] takes bytes, by
/// [`send_raw`](Self::send_raw) alone.
///
/// The stream is finished when the handler returns, and a sink that outlives it only fails.
pub struct ResponseSink<T = Raw> {
    results: ResultWriter,
    values: PhantomData<fn(&T)>,
}

impl<T: Encode<()>> ResponseSink<T> {
    /// Sends one answer, encoded by minicbor. Waits for room where the caller reads slowly.
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) where the value cannot be encoded, and
    /// [`MessageTooLarge`](ErrorKind::MessageTooLarge) where the answer does not fit a frame; another may
    /// still be sent. Any other error means that the caller is gone.
    ///
    /// # Cancellation
    ///
    /// If this is dropped half way, the stream can only be reset, and the caller will know that answers are
    /// missing.
    pub async fn send(&mut self, value: &T) -> Result<()> {
        self.results.write(value::encode(value)?).await
    }
}

impl<T> ResponseSink<T> {
    /// Sends one answer of plain bytes. See [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn send_raw(&mut self, payload: impl Into<Bytes>) -> Result<()> {
        self.results.write(payload.into()).await
    }

    /// The same sink, for values of another type.
    pub(super) fn of_values<V>(self) -> ResponseSink<V> {
        ResponseSink { results: self.results, values: PhantomData }
    }
}

impl ResponseSink {
    pub(crate) fn new(
        writer: Borrower<FrameWriter>,
        codec: Codec,
        max_frame_len: usize,
        charge: Charge,
        response_size: Arc<ResponseSize>,
    ) -> Self {
        let results = ResultWriter {
            writer,
            codec,
            max_frame_len,
            charge,
            response_size,
            #[cfg(feature = "streams")]
            items: None,
        };
        Self { results, values: PhantomData }
    }

    /// Another sink for the same stream.
    pub(super) fn another(&self, link: &Link) -> Self {
        let ResultWriter { writer, codec, max_frame_len, response_size, .. } = &self.results;
        let charge = link.allowance().charge();
        let another = Self::new(writer.clone(), *codec, *max_frame_len, charge, Arc::clone(response_size));
        #[cfg(feature = "streams")]
        if let Some(items) = &self.results.items {
            return another.beside(Arc::clone(items));
        }
        another
    }

    /// Says with each answer how many of these items have been taken.
    #[cfg(feature = "streams")]
    pub(crate) fn beside(mut self, items: Arc<ItemSource>) -> Self {
        self.results.items = Some(items);
        self
    }
}

impl<T> fmt::Debug for ResponseSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseSink").field("codec", &self.results.codec).finish_non_exhaustive()
    }
}

/// What sinks of all types share.
struct ResultWriter {
    writer: Borrower<FrameWriter>,
    codec: Codec,
    max_frame_len: usize,
    /// For the answer that is being sent.
    charge: Charge,
    response_size: Arc<ResponseSize>,
    #[cfg(feature = "streams")]
    items: Option<Arc<ItemSource>>,
}

impl ResultWriter {
    #[cfg(feature = "streams")]
    #[cold]
    fn counted_frame(&self, response: &Response, items: &ItemSource) -> Result<Vec<u8>> {
        counted_frame(response.clone(), items.handed(), self.codec, self.max_frame_len)
    }

    async fn write(&mut self, payload: Bytes) -> Result<()> {
        let response = Response::result(Some(payload));
        #[cfg(feature = "streams")]
        let frame = match &self.items {
            None => response_frame(&response, self.codec, self.max_frame_len)?,
            Some(items) => self.counted_frame(&response, items)?,
        };
        #[cfg(not(feature = "streams"))]
        let frame = response_frame(&response, self.codec, self.max_frame_len)?;
        // What an earlier call that was cancelled held is gone.
        self.charge.settle(0);
        self.charge.add(frame.len());
        self.response_size.observe(frame.len());
        let sent = match self.writer.get().await.as_mut() {
            Some(writer) => writer.write(frame).await,
            None => Err(Error::new(ErrorKind::Closed).detail("the exchange is over")),
        };
        self.charge.settle(0);
        #[cfg(feature = "streams")]
        if let (Ok(()), Some(items)) = (&sent, &self.items) {
            items.note_activity();
        }
        sent
    }
}
