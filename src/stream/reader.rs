//! Frames, read from a stream as they arrive.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};
#[cfg(feature = "streams")]
use std::{task::ready, time::Instant};

use bytes::Bytes;
use quinn::{ReadError, RecvStream};

use super::never::never;
use crate::{
    admission::{Charge, OpenStream},
    code::Code,
    error::{Error, ErrorKind, Result},
    frame::{Body, FrameBuffer},
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
        if taken.is_some() {
            self.pieces = 0;
        }
        if self.buffer.is_empty() {
            self.charge.settle(0);
        }
        taken
    }

    /// The same for what `read` makes of a body that lies in one piece; where it makes nothing, the frame
    /// stays.
    #[inline]
    pub(crate) fn take_arrived_if<T>(&mut self, read: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        let taken = self.buffer.next_if(read)?;
        self.pieces = 0;
        if self.buffer.is_empty() {
            self.charge.settle(0);
        }
        Some(taken)
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

/// What one step towards the next frame brought.
#[cfg(feature = "streams")]
pub(crate) enum Progress<T> {
    /// What was made of the frame.
    Frame(T),
    /// Some bytes.
    Bytes,
    /// A clean end.
    End,
}

#[cfg(feature = "streams")]
impl FrameReader {
    /// Reads what arrives next, towards a frame that has to be complete at `deadline`, which is set when it
    /// begins.
    ///
    /// Cancel-safe: neither bytes nor the deadline are lost.
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next), and `DeadlineExceeded`.
    pub(crate) async fn advance<T>(
        &mut self,
        clock: &Clock,
        limit: Duration,
        deadline: &mut Option<Instant>,
        read: impl FnOnce(Body<'_>) -> T,
    ) -> Result<Progress<T>> {
        self.forget_last_body();
        if let Some(read) = self.buffer.next_with(read).map_err(Error::from)? {
            self.pieces = 0;
            *deadline = None;
            return Ok(Progress::Frame(read));
        }
        if !self.buffer.is_empty() {
            deadline.get_or_insert_with(|| clock.deadline(limit));
        }
        let Ok(filled) = clock.timeout_at(*deadline, self.fill_where_there_is_room()).await else {
            return Err(clock.timed_out(ErrorKind::DeadlineExceeded));
        };
        if filled? {
            return Ok(Progress::Bytes);
        }
        self.buffer.finish().map_err(Error::from)?;
        self.state = ReadState::Finished;
        Ok(Progress::End)
    }

    /// Whether there may be more to read.
    pub(crate) fn is_open(&self) -> bool {
        self.state == ReadState::Open
    }

    /// The same reader, which counts the bytes that it holds anew, and stops the sender with NO_ERROR if it
    /// is dropped: an answer says why.
    pub(crate) fn until_answered(mut self) -> Self {
        self.abandon = Code::NO_ERROR;
        self.charge.add(self.buffer.held());
        self
    }

    /// Reads ahead while little is held and there is room, and so finds out whether the sender has reset the
    /// stream. Ready with `false` if there is nothing to find out for now; then nothing wakes the caller.
    ///
    /// Not by `received_reset`: that leaves a waker behind in quinn's connection if the end of the stream is
    /// read next.
    pub(crate) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while self.state == ReadState::Open && self.buffer.held() < READ_AHEAD && self.charge.has_room() {
            let mut chunks: [Bytes; CHUNKS] = Default::default();
            let read = ready!(pin!(self.stream.read_chunks(&mut chunks)).poll(cx));
            match self.take(read, &mut chunks) {
                Ok(true) => {}
                // The end is found again behind what is held.
                Ok(false) => break,
                Err(error) => return Poll::Ready(matches!(error.kind(), ErrorKind::StreamReset(_))),
            }
        }
        Poll::Ready(false)
    }
}

/// How many bytes of a stream are read before anybody asks for them, about.
#[cfg(feature = "streams")]
const READ_AHEAD: usize = 16 * 1024;

/// From when the time for a frame runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadlineFrom {
    Now,
    FirstByte,
}

fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::Reset(code) => Error::new(ErrorKind::StreamReset(code.into())),
        ReadError::ConnectionLost(error) => classify(&error, None),
        ReadError::ClosedStream => Error::new(ErrorKind::Closed).caused_by(ReadError::ClosedStream),
        error @ (ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected) => never(error),
    }
}
