//! Frames, written to a stream.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Bytes;
use pin_project_lite::pin_project;
use quinn::{SendStream, StoppedError, VarInt, WriteError};

use super::never::never;
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    quinn_compat,
    tls::classify,
};

/// Writes frames to a stream. Resets it if it is dropped before [`finish`](Self::finish), so that an answer
/// that was cut off never looks whole; quinn alone would finish it.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    stream: SendStream,
    /// Of the reset where nobody chooses another: the peer's, once it has stopped the stream.
    abandon: Code,
    state: WriteState,
    /// Whether a write found that the peer stopped the stream. A bool and no code of its own, because each
    /// answer that waits to be acknowledged keeps its writer.
    is_stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteState {
    BetweenWrites,
    /// A write was begun and not completed, so that nothing may follow.
    Writing,
    Finished,
    Reset,
}

impl FrameWriter {
    /// `abandon` is the code of the reset where nobody chose another.
    pub(crate) fn new(stream: SendStream, abandon: Code) -> Self {
        Self { stream, abandon, state: WriteState::BetweenWrites, is_stopped: false }
    }

    /// Writes whole frames. If this is cancelled, the stream can only be reset.
    pub(crate) async fn write(&mut self, frames: Vec<u8>) -> Result<()> {
        if self.state != WriteState::BetweenWrites {
            return Err(Error::new(ErrorKind::Closed).detail("the stream has ended"));
        }
        self.state = WriteState::Writing;
        match write_unless_stopped(&mut self.stream, Bytes::from(frames)).await {
            Ok(()) => {
                self.state = WriteState::BetweenWrites;
                Ok(())
            }
            Err(error) => {
                let error = write_error(error);
                if let ErrorKind::StreamReset(code) = error.kind() {
                    (self.abandon, self.is_stopped) = (*code, true);
                }
                Err(error)
            }
        }
    }

    /// With what code the peer has stopped the stream, if a write found that it has.
    #[cfg(feature = "streams")]
    pub(crate) fn stopped_with(&self) -> Option<Code> {
        self.is_stopped.then_some(self.abandon)
    }

    /// Whether another frame may follow.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.state == WriteState::BetweenWrites
    }

    /// Marks what was written as complete.
    pub(crate) fn finish(&mut self) {
        match self.state {
            WriteState::BetweenWrites => {
                self.state = WriteState::Finished;
                quinn_compat::finish(&mut self.stream);
            }
            WriteState::Writing => self.reset(self.abandon),
            WriteState::Finished | WriteState::Reset => {}
        }
    }

    /// Whether what was written is complete.
    pub(crate) fn is_finished(&self) -> bool {
        self.state == WriteState::Finished
    }

    /// Whether the peer has everything that was written, complete with the end, or never will.
    pub(crate) fn is_delivered(&self) -> bool {
        self.is_finished() && quinn_compat::is_delivered(&self.stream)
    }

    /// Takes back what was not delivered yet, and says why: with the peer's own code where it had stopped the
    /// stream. Not after [`finish`](Self::finish).
    pub(crate) fn reset(&mut self, code: Code) {
        if matches!(self.state, WriteState::BetweenWrites | WriteState::Writing) {
            self.state = WriteState::Reset;
            let code = if self.is_stopped { self.abandon } else { code };
            let _ = self.stream.reset(code.to_varint());
        }
    }

    /// Resolves when the peer stops the stream, with its code; when it has everything, with `None`; or when
    /// the connection ends.
    pub(crate) fn stopped(&self) -> impl Future<Output = Result<Option<Code>>> + Send + Sync + 'static {
        StopFuture { stopped: self.stream.stopped() }
    }

    /// Resolves when nobody wants the answer any more, with the code to reset the stream with: the one that
    /// the peer stopped it with ([RFC 9000, section
    /// 3.5](https://www.rfc-editor.org/rfc/rfc9000#section-3.5)).
    pub(crate) fn given_up(&self) -> impl Future<Output = Code> + Send + 'static {
        CancelFuture { stopped: self.stopped() }
    }
}

/// Writes all of these bytes, or as many as can be until the peer stops the stream.
///
/// quinn-proto only looks whether the peer has stopped a stream if the peer's limit for the whole connection
/// (MAX_DATA) leaves room, so a write that waits for that limit looks itself.
async fn write_unless_stopped(stream: &mut SendStream, bytes: Bytes) -> std::result::Result<(), WriteError> {
    let mut bytes = [bytes];
    let mut stopped = None;
    loop {
        let written = poll_fn(|cx| {
            let written = pin!(stream.write_chunks(&mut bytes)).poll(cx);
            if written.is_ready() {
                return written.map_ok(|_| ());
            }
            poll_stopped(stream, &mut stopped, cx).map(Err)
        });
        written.await?;
        if bytes[0].is_empty() {
            return Ok(());
        }
    }
}

type Stopped = Pin<Box<dyn Future<Output = std::result::Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

/// Resolves when the peer stops the stream, as a failure to write. On the heap, because few writes wait.
#[cold]
fn poll_stopped(
    stream: &SendStream,
    stopped: &mut Option<Stopped>,
    cx: &mut Context<'_>,
) -> Poll<WriteError> {
    let stopped = stopped.get_or_insert_with(|| Box::pin(stream.stopped()));
    stopped.as_mut().poll(cx).map(|stopped| match stopped {
        Ok(Some(code)) => WriteError::Stopped(code),
        Ok(None) => WriteError::ClosedStream,
        Err(StoppedError::ConnectionLost(error)) => WriteError::ConnectionLost(error),
        Err(StoppedError::ZeroRttRejected) => WriteError::ZeroRttRejected,
    })
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        self.reset(self.abandon);
    }
}

pin_project! {
    /// See [`FrameWriter::stopped`]. As with [`CancelFuture`], an async block would keep what it awaits
    /// twice.
    struct StopFuture<F> {
        #[pin]
        stopped: F,
    }
}

impl<F: Future<Output = std::result::Result<Option<VarInt>, StoppedError>>> Future for StopFuture<F> {
    type Output = Result<Option<Code>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().stopped.poll(cx).map(|stopped| match stopped {
            Ok(code) => Ok(code.map(Code::from)),
            Err(StoppedError::ConnectionLost(error)) => Err(classify(&error, None)),
            Err(error @ StoppedError::ZeroRttRejected) => Err(never(error)),
        })
    }
}

pin_project! {
    /// See [`FrameWriter::given_up`].
    struct CancelFuture<F> {
        #[pin]
        stopped: F,
    }
}

impl<F: Future<Output = Result<Option<Code>>>> Future for CancelFuture<F> {
    type Output = Code;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Code> {
        let stopped = self.project().stopped.poll(cx);
        stopped.map(|stopped| stopped.ok().flatten().unwrap_or(Code::CANCELLED))
    }
}

fn write_error(error: WriteError) -> Error {
    match error {
        WriteError::Stopped(code) => Error::new(ErrorKind::StreamReset(code.into())),
        WriteError::ConnectionLost(error) => classify(&error, None),
        WriteError::ClosedStream => Error::new(ErrorKind::Closed).caused_by(WriteError::ClosedStream),
        error @ WriteError::ZeroRttRejected => never(error),
    }
}
