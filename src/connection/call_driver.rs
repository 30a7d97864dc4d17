//! The task of a pipeline's stream.

use std::{mem, sync::Arc};

use futures_lite::future;

use super::{
    Connection,
    answer::{decode, read, violated},
    call_stream::{CallStream, End, NextWrite},
    takes_items,
};
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    frame,
    message::{Codec, Request},
    stream::{FrameReader, FrameWriter},
};

/// The task of a stream. The stream has ended when this is dropped.
pub(super) struct Driver {
    stream: Arc<CallStream>,
    /// `None` if an executor drops the task before.
    end: Option<End>,
}

impl Driver {
    pub(super) fn new(stream: Arc<CallStream>) -> Self {
        Self { stream, end: None }
    }

    pub(super) async fn run(mut self) {
        self.end = Some(match self.drive().await {
            Ok(()) => End::Finished,
            Err(error) => End::Failed(self.stream.link().explain(error)),
        });
    }

    async fn drive(&self) -> Result<()> {
        let link = self.stream.link();
        let opening = async {
            takes_items::ensure(&Connection::borrowed(Arc::clone(link)), None).await?;
            link.open_bi().await.map(Some)
        };
        // Without an end, a peer that answers nothing, or allows no streams, would keep the task for ever.
        let left = async {
            self.stream.finishing().await;
            Ok(None)
        };
        let Some((send, recv)) = future::or(opening, left).await? else { return Ok(()) };
        let mut writer = FrameWriter::new(send, Code::CANCELLED);
        let mut reader = FrameReader::new(recv, link.limits().max_frame_len(), link.allowance().charge());
        let request = Request::new(self.stream.method()).with_more(true);
        let request = frame::encode(link.limits().max_frame_len(), |out| {
            request.encode(Codec::Cbor, out).map_err(Error::from)
        })?;
        let writing = async {
            match self.write(&mut writer, request).await {
                // The peer takes no more calls, and may still answer some.
                Err(error) if matches!(error.kind(), ErrorKind::StreamReset(_)) => {
                    self.stream.finishing().await;
                    Ok(())
                }
                written => written,
            }
        };
        future::or(writing, self.read(&mut reader)).await
    }

    /// Writes calls as they come. Resolves when there is nobody left who makes calls or waits for answers.
    async fn write(&self, writer: &mut FrameWriter, mut frames: Vec<u8>) -> Result<()> {
        let (stream, link) = (&*self.stream, self.stream.link());
        loop {
            let writing = async { writer.write(mem::take(&mut frames)).await.map(|()| true) };
            // Neither may a peer that does not read.
            let left = async {
                stream.finishing().await;
                Ok(false)
            };
            let is_written = future::or(writing, left).await?;
            if !is_written {
                return Ok(());
            }
            frames = match future::poll_fn(|cx| stream.poll_write(cx)).await {
                NextWrite::Calls(frames) => frames,
                NextWrite::End => {
                    writer.finish();
                    // The peer finishes, too, and has nothing left to do before.
                    link.clock().sleep(link.limits().handler_timeout()).await;
                    return Ok(());
                }
                NextWrite::Reset => return Ok(()),
            };
        }
    }

    /// Reads answers until the peer finishes.
    async fn read(&self, reader: &mut FrameReader) -> Result<()> {
        let link = self.stream.link();
        let mut callers = Vec::new();
        loop {
            let arrived = reader.take_arrived(|body| decode(link, Codec::Cbor, body));
            let first = match arrived {
                Some(response) => response.map_err(|error| violated(reader, error))?,
                None => match read(link, Codec::Cbor, reader).await? {
                    Some(response) => response,
                    None => return Ok(()),
                },
            };
            let answered = self.stream.answer(first, reader, &mut callers);
            answered.map_err(|error| violated(reader, error))?;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let end = self.end.take();
        self.stream.end(end.unwrap_or_else(|| End::Failed(Error::new(ErrorKind::Closed))));
    }
}
