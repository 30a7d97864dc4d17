//! Whole frames on quinn's streams: read as they arrive, written in one write each, reset unless finished.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use pin_project_lite::pin_project;
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};

use crate::{
    admission::{Charge, OpenStream},
    code::Code,
    error::{Error, ErrorKind, Result},
    frame::{self, Body, FrameBuffer},
    message::{Codec, Response},
    quinn_compat,
    runtime::Clock,
    tls::classify,
};

/// How many packets' worth of a stream are taken under one lock of the connection.
const CHUNKS: usize = 4;

/// Reads the frames of a stream. Tells the sender to stop if it is dropped before the end.
#[derive(Debug)]
pub(crate) struct FrameReader {
    stream: RecvStream,
    buffer: FrameBuffer,
    state: ReadState,
    abandon: Code,
    /// For what is in the buffer, and for the last body that was handed out.
    charge: Charge,
    /// How many bytes have come, which may wrap.
    received: usize,
    /// Whether the last look found no room, rather than nothing to read.
    waits_for_room: bool,
    /// In how many pieces the message has come so far that is being read.
    pieces: usize,
    _open: OpenStream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadState {
    Open,
    /// FIN has arrived, after whole frames alone.
    Finished,
    /// Failed, or stopped by this side.
    Closed,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, max_frame_len: usize, charge: Charge) -> Self {
        let open = charge.open_stream();
        Self {
            stream,
            buffer: FrameBuffer::new(max_frame_len),
            state: ReadState::Open,
            abandon: Code::CANCELLED,
            charge,
            received: 0,
            waits_for_room: false,
            pieces: 0,
            _open: open,
        }
    }

    /// What `read` makes of the next frame's body, or `None` at a clean end.
    ///
    /// Cancel-safe: what has arrived is kept for the next call.
    ///
    /// # Errors
    ///
    /// `Truncated` for an end within a frame, `FrameTooLarge` and `Protocol` for frames that must not be,
    /// `StreamReset`, or why the connection is gone.
    pub(crate) async fn next<T>(&mut self, mut read: impl FnMut(Body<'_>) -> T) -> Result<Option<T>> {
        self.forget_last_body();
        loop {
            if let Some(read) = self.buffer.next_with(&mut read).map_err(Error::from)? {
                self.pieces = 0;
                return Ok(Some(read));
            }
            if !self.fill_where_there_is_room().await? {
                self.buffer.finish().map_err(Error::from)?;
                self.state = ReadState::Finished;
                return Ok(None);
            }
        }
    }

    /// As [`next`](Self::next), with a time limit for each frame.
    ///
    /// A stream may stay silent between frames for as long as its connection lives, but not before its first
    /// frame (`DeadlineFrom::Now`), nor within one.
    pub(crate) async fn next_within<T>(
        &mut self,
        clock: &Clock,
        limit: Duration,
        pace: DeadlineFrom,
        mut read: impl FnMut(Body<'_>) -> T,
    ) -> Result<Option<T>> {
        self.forget_last_body();
        let mut deadline = (pace == DeadlineFrom::Now).then(|| clock.deadline(limit));
        loop {
            if let Some(read) = self.buffer.next_with(&mut read).map_err(Error::from)? {
                self.pieces = 0;
                return Ok(Some(read));
            }
            if deadline.is_none() && !self.buffer.is_empty() {
                deadline = Some(clock.deadline(limit));
            }
            let Ok(filled) = clock.timeout_at(deadline, self.fill_where_there_is_room()).await else {
                return Err(clock.timed_out(ErrorKind::DeadlineExceeded));
            };
            if !filled? {
                self.buffer.finish().map_err(Error::from)?;
                self.state = ReadState::Finished;
                return Ok(None);
            }
        }
    }

    /// What `read` makes of the next frame's body, if it has arrived whole already.
    ///
    /// The bytes of the frames before it count until nothing of what they arrived in is left: so long are
    /// they held.
    pub(crate) fn take_arrived<T>(&mut self, read: impl FnOnce(Body<'_>) -> T) -> Option<Result<T>> {
        let taken = self.buffer.next_with(read).map_err(Error::from).transpose();
        self.pieces = 0;
        if self.buffer.is_empty() {
            self.charge.settle(0);
        }
        taken
    }

    /// A number that changes with every byte that comes.
    pub(crate) fn received(&self) -> usize {
        self.received
    }

    /// Whether the last read that had to wait did so for room in memory, and not for the peer.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.waits_for_room
    }

    /// Whether bytes behind the last frame have arrived.
    pub(crate) fn has_more(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Awaits FIN; any byte before it is an error.
    pub(crate) async fn end(&mut self) -> Result<()> {
        while self.buffer.is_empty() {
            if !self.fill().await? {
                self.state = ReadState::Finished;
                return Ok(());
            }
        }
        Err(Error::protocol("bytes after the last frame that may come"))
    }

    /// Ends the charge for the last body, whose new owner accounts for its memory.
    pub(crate) fn forget_last_body(&mut self) {
        self.charge.settle(self.buffer.held());
    }

    /// Gives the charge for what was read to its holder from here on.
    pub(crate) fn take_charge(&mut self) -> Charge {
        self.charge.take()
    }

    /// As [`fill`](Self::fill), once the connection may hold more.
    async fn fill_where_there_is_room(&mut self) -> Result<bool> {
        let mut chunks: [Bytes; CHUNKS] = Default::default();
        let Self { stream, charge, waits_for_room, .. } = self;
        let read = charge.read_while_there_is_room(stream.read_chunks(&mut chunks), waits_for_room).await;
        self.take(read, &mut chunks)
    }

    /// Adds what has arrived; `false` at FIN.
    async fn fill(&mut self) -> Result<bool> {
        let mut chunks: [Bytes; CHUNKS] = Default::default();
        let read = self.stream.read_chunks(&mut chunks).await;
        self.take(read, &mut chunks)
    }

    fn take(&mut self, read: Result<Option<usize>, ReadError>, chunks: &mut [Bytes]) -> Result<bool> {
        match read {
            Ok(Some(count)) => {
                for chunk in chunks.iter_mut().take(count) {
                    self.charge.add_piece(chunk.len(), self.pieces);
                    self.pieces += 1;
                    self.received = self.received.wrapping_add(chunk.len());
                    self.buffer.push(std::mem::take(chunk));
                }
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                self.state = ReadState::Closed;
                Err(read_error(error))
            }
        }
    }

    /// Tells the sender that nothing more will be read, and why.
    pub(crate) fn stop(&mut self, code: Code) {
        if self.state == ReadState::Open {
            self.state = ReadState::Closed;
            self.discard_arrived();
            // The stream may be gone already, and then the sender has stopped.
            let _ = self.stream.stop(code.to_varint());
        }
    }

    /// Reads what has arrived, as quinn would discard it, so that nothing of it counts as unread.
    fn discard_arrived(&mut self) {
        let mut chunks: [Bytes; CHUNKS] = Default::default();
        loop {
            let read =
                pin!(self.stream.read_chunks(&mut chunks)).poll(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(Ok(Some(count))) = read else { return };
            for chunk in chunks.iter_mut().take(count) {
                self.charge.discard_piece(std::mem::take(chunk).len());
            }
        }
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        self.stop(self.abandon);
    }
}

/// From when the time for a frame runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadlineFrom {
    Now,
    FirstByte,
}

/// Writes frames to a stream. Resets it if it is dropped before [`finish`](Self::finish), so that an answer
/// that was cut off never looks whole; quinn alone would finish it.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    stream: SendStream,
    state: WriteState,
    abandon: Code,
    /// With what code the peer stopped the stream, if a write found that it did.
    stopped: Option<Code>,
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
        Self { stream, state: WriteState::BetweenWrites, abandon, stopped: None }
    }

    /// Writes whole frames. If this is cancelled, the stream can only be reset.
    pub(crate) async fn write(&mut self, frames: Vec<u8>) -> Result<()> {
        if self.state != WriteState::BetweenWrites {
            return Err(Error::new(ErrorKind::Closed).detail("the stream has ended"));
        }
        self.state = WriteState::Writing;
        match self.stream.write_chunk(Bytes::from(frames)).await {
            Ok(()) => {
                self.state = WriteState::BetweenWrites;
                Ok(())
            }
            Err(error) => {
                let error = write_error(error);
                if let ErrorKind::StreamReset(code) = error.kind() {
                    self.stopped = Some(*code);
                }
                Err(error)
            }
        }
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
                // Fails only where the peer has stopped the stream.
                let _ = self.stream.finish();
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
            let _ = self.stream.reset(self.stopped.unwrap_or(code).to_varint());
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

/// One response as one frame.
pub(crate) fn response_frame(response: &Response, codec: Codec, max_frame_len: usize) -> Result<Vec<u8>> {
    frame::encode(max_frame_len, |out| response.encode(codec, out).map_err(Error::from))
}

fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::Reset(code) => Error::new(ErrorKind::StreamReset(code.into())),
        ReadError::ConnectionLost(error) => classify(&error, None),
        ReadError::ClosedStream => Error::new(ErrorKind::Closed).caused_by(ReadError::ClosedStream),
        error @ (ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected) => never(error),
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

/// What cannot be without early data and unordered reads is still an error, and not a panic.
fn never(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Closed).caused_by(error)
}

#[cfg(all(feature = "cert", feature = "sim"))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cert::CertificateAuthority,
        endpoint::Endpoint,
        sim::{Link, Sim},
        tls::{ClientTls, ServerTls},
    };

    #[test]
    fn what_was_written_is_delivered_when_the_peer_has_acknowledged_all_of_it() {
        let (sim, ca) = (Sim::new(1), CertificateAuthority::new("ca").unwrap());
        sim.set_default_link(Link::new().delay(Duration::from_millis(10)));
        let builder = Endpoint::builder().server(ServerTls::new(ca.issue_server(&[]).unwrap().identity()));
        let node = sim.host([10, 0, 0, 1]).bind(builder, 7443).unwrap();
        let builder = Endpoint::builder().client(ClientTls::new(ca.trust()));
        let client = sim.host([10, 0, 0, 2]).bind(builder, 0).unwrap();
        sim.run(async {
            let connection = client.connect((node.local_addr().unwrap(), "localhost")).await.unwrap();
            let (stream, _answer) = connection.link().open_bi().await.unwrap();
            let mut writer = FrameWriter::new(stream, Code::CANCELLED);
            writer.write(vec![0, 0, 0, 1, 0xa0]).await.unwrap();
            sim.sleep(Duration::from_secs(1)).await;
            assert!(!writer.is_delivered(), "there may be more");
            writer.finish();
            assert!(!writer.is_delivered(), "it has not left yet");
            sim.sleep(Duration::from_secs(1)).await;
            assert!(writer.is_delivered());
        });
    }
}
