//! Where a streaming handler puts its answers.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use minicbor::Encode;

use super::{Answers, loan::Borrower};
use crate::{
    admission::Charge,
    error::{Error, ErrorKind, Result},
    message::{Codec, Response},
    stream::{FrameWriter, response_frame},
    value,
};

/// The answers of a streaming method, one `result` frame each.
///
/// The stream is finished when the handler returns, and a sink that outlives it only fails.
pub struct ResponseSink {
    writer: Borrower<FrameWriter>,
    codec: Codec,
    max_frame_len: usize,
    /// For the answer that is being sent.
    charge: Charge,
    answers: Arc<Answers>,
}

impl ResponseSink {
    pub(crate) fn new(
        writer: Borrower<FrameWriter>,
        codec: Codec,
        max_frame_len: usize,
        charge: Charge,
        answers: Arc<Answers>,
    ) -> Self {
        Self { writer, codec, max_frame_len, charge, answers }
    }

    /// Sends one answer. Waits for room where the caller reads slowly.
    ///
    /// If this is cancelled, the stream can only be reset, and the caller will know that answers are missing.
    ///
    /// # Errors
    ///
    /// [`MessageTooLarge`](crate::ErrorKind::MessageTooLarge) where the answer does not fit a frame; another
    /// may still be sent. Any other error means that the caller is gone.
    pub async fn send(&mut self, payload: impl Into<Bytes>) -> Result<()> {
        let response = Response::Result { payload: Some(payload.into()) };
        let frame = response_frame(&response, self.codec, self.max_frame_len)?;
        // What an earlier call that was cancelled held is gone.
        self.charge.settle(0);
        self.charge.add(frame.len());
        self.answers.observe(frame.len());
        let sent = match self.writer.get().await.as_mut() {
            Some(writer) => writer.write(frame).await,
            None => Err(Error::new(ErrorKind::Closed).detail("the exchange is over")),
        };
        self.charge.settle(0);
        sent
    }

    /// Sends one answer as CBOR. See [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), and [`Codec`](crate::ErrorKind::Codec) where the value cannot be encoded.
    pub async fn send_typed<T: Encode<()>>(&mut self, value: &T) -> Result<()> {
        self.send(value::encode(value)?).await
    }
}

impl fmt::Debug for ResponseSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseSink").field("codec", &self.codec).finish_non_exhaustive()
    }
}
