//! Frames: a four-byte length, then that many bytes of body. Pure bytes, no I/O.
//!
//! The reader's contract: no input makes it panic, a length is judged before a byte of its body is
//! kept, and what is kept grows with the bytes that arrived, whatever length was announced.

#![cfg_attr(
    not(any(fuzzing, feature = "__internals")),
    allow(unreachable_pub, reason = "public for `fuzzing`")
)]

use std::{collections::VecDeque, fmt};

use bytes::{Buf, Bytes};

use crate::error::{Error, ErrorKind, Result};

/// The length in front of each body: `u32`, big-endian.
pub(crate) const PREFIX_LEN: usize = 4;

/// What is wrong with the frames of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A length of zero was announced; a body has at least one byte.
    #[error("empty frame")]
    Empty,
    /// More was announced than this side accepts.
    #[error("frame of {announced} bytes announced, at most {max} accepted")]
    TooLarge {
        /// The length in the prefix.
        announced: u32,
        /// The limit of this side.
        max: usize,
    },
    /// The stream ended within a frame.
    #[error("stream ended within a frame")]
    Truncated,
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        let kind = match error {
            FrameError::Empty => ErrorKind::Protocol,
            FrameError::TooLarge { .. } => ErrorKind::FrameTooLarge,
            FrameError::Truncated => ErrorKind::Truncated,
        };
        Self::new(kind).caused_by(error)
    }
}

/// Reads a length prefix: the length of the body to come, from 1 to `max`.
pub(crate) fn decode_prefix(prefix: [u8; PREFIX_LEN], max: usize) -> Result<usize, FrameError> {
    let announced = u32::from_be_bytes(prefix);
    match usize::try_from(announced) {
        Ok(0) => Err(FrameError::Empty),
        Ok(length) if length <= max => Ok(length),
        _ => Err(FrameError::TooLarge { announced, max }),
    }
}

/// Room for most requests and answers, so that they are written without moving; what is larger is so by one
/// payload, which makes its own room.
const SMALL_FRAME: usize = 128;

/// Writes one frame into a buffer of its own: the prefix, and behind it what `write_body` appends.
///
/// # Errors
///
/// [`ErrorKind::MessageTooLarge`] for a body of more than `max` bytes, [`ErrorKind::Codec`] for an empty one,
/// and whatever `write_body` fails with.
pub fn encode(max: usize, write_body: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Vec<u8>> {
    encode_with_room(SMALL_FRAME, max, write_body)
}

/// The same for a body whose length is known, as far as it is: a buffer without room to spare is sent as it
/// is, and another one with an allocation more.
pub(crate) fn encode_with_len(
    body_len: Option<usize>,
    max: usize,
    write_body: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<Vec<u8>> {
    encode_with_room(body_len.map_or(SMALL_FRAME, |len| PREFIX_LEN + len), max, write_body)
}

fn encode_with_room(
    room: usize,
    max: usize,
    write_body: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<Vec<u8>> {
    let mut buf = Vec::with_capacity(room);
    append(&mut buf, max, write_body)?;
    Ok(buf)
}

/// Writes one frame behind the bytes that `buf` holds already.
///
/// # Errors
///
/// [`ErrorKind::MessageTooLarge`] for a body of more than `max` bytes, [`ErrorKind::Codec`] for an
/// empty one, and whatever `write_body` fails with. `buf` is then as it was before.
#[inline]
pub(crate) fn append(
    buf: &mut Vec<u8>,
    max: usize,
    write_body: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    let start = buf.len();
    buf.extend_from_slice(&[0; PREFIX_LEN]);
    let written = write_body(buf).and_then(|()| fill_prefix(buf, start, max));
    if written.is_err() {
        buf.truncate(start);
    }
    written
}

fn fill_prefix(buf: &mut [u8], start: usize, max: usize) -> Result<()> {
    let frame = buf.get_mut(start..).and_then(<[u8]>::split_first_chunk_mut::<PREFIX_LEN>);
    let Some((prefix, body)) = frame else {
        return Err(Error::new(ErrorKind::Codec).detail("the body writer shortened the buffer"));
    };
    if body.is_empty() {
        return Err(Error::new(ErrorKind::Codec).detail("a frame cannot be empty"));
    }
    match u32::try_from(body.len()) {
        Ok(length) if body.len() <= max => {
            *prefix = length.to_be_bytes();
            Ok(())
        }
        _ => Err(Error::new(ErrorKind::MessageTooLarge)
            .detail(format!("{} bytes, at most {max} may be sent", body.len()))),
    }
}

/// Cuts the bytes of a stream into frame bodies, in whatever pieces they arrive.
///
/// Push each chunk, then take bodies with `next` until there are none; at the end of
/// the stream ask [`finish`](Self::finish). An error is final: the stream cannot be read on.
#[doc(hidden)]
pub struct FrameBuffer {
    max: usize,
    /// Empty if there is none. Apart, since most streams bring one chunk in all, which then needs no
    /// list.
    first: Bytes,
    later: VecDeque<Bytes>,
    state: State,
}

enum State {
    /// Between frames, or with some bytes of a prefix that is split between chunks.
    Prefix {
        bytes: [u8; PREFIX_LEN],
        filled: usize,
    },
    /// Within a body that is split between chunks.
    Body {
        bytes: Vec<u8>,
        length: usize,
    },
    Failed(FrameError),
}

impl State {
    const BETWEEN_FRAMES: Self = Self::Prefix { bytes: [0; PREFIX_LEN], filled: 0 };
}

impl FrameBuffer {
    /// A buffer that refuses bodies of more than `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max, first: Bytes::new(), later: VecDeque::new(), state: State::BETWEEN_FRAMES }
    }

    /// Adds the bytes that the stream brought next.
    pub fn push(&mut self, chunk: Bytes) {
        if matches!(self.state, State::Failed(_)) {
            return;
        }
        if self.first.is_empty() {
            self.first = chunk;
        } else if !chunk.is_empty() {
            self.later.push_back(chunk);
        }
    }

    /// The next complete body, or `None` until more is pushed.
    ///
    /// The body owns its bytes and nothing else: a small one never keeps the buffer alive that a
    /// batch of datagrams was received into.
    ///
    /// # Errors
    ///
    /// [`FrameError::Empty`] or [`FrameError::TooLarge`] as soon as a prefix says so; from then on
    /// the same again.
    #[cfg(any(test, fuzzing, feature = "__internals"))]
    #[allow(clippy::should_implement_trait, reason = "an iterator would be over for good after its `None`")]
    pub fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.next_with(|body| body.into_bytes())
    }

    /// The next complete body, as `read` sees it where it lies, or `None` until more is pushed.
    ///
    /// # Errors
    ///
    /// As for `next`.
    pub(crate) fn next_with<T>(&mut self, read: impl FnOnce(Body<'_>) -> T) -> Result<Option<T>, FrameError> {
        let next = self.advance(read);
        if let Err(error) = next {
            self.first = Bytes::new();
            self.later = VecDeque::new();
            self.state = State::Failed(error);
        }
        next
    }

    /// What `read` makes of the next body, if that has arrived whole in one chunk. Where it has not, or
    /// `read` makes nothing of it, all stays as it is.
    #[inline]
    pub(crate) fn next_if<T>(&mut self, read: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        if !matches!(self.state, State::Prefix { filled: 0, .. }) {
            return None;
        }
        let (prefix, rest) = self.first.split_first_chunk()?;
        let length = decode_prefix(*prefix, self.max).ok()?;
        let taken = read(rest.get(..length)?)?;
        self.first.advance(PREFIX_LEN + length);
        self.next_chunk();
        Some(taken)
    }

    /// Checks that the stream may end here. To be asked once `next` gave `None`.
    ///
    /// # Errors
    ///
    /// [`FrameError::Truncated`] if a frame was begun, be it only its prefix, or the error that
    /// `next` failed with.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.state {
            State::Failed(error) => Err(error),
            _ if self.is_empty() => Ok(()),
            _ => Err(FrameError::Truncated),
        }
    }

    /// Whether every byte pushed has been handed out as part of a frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && matches!(self.state, State::Prefix { filled: 0, .. } | State::Failed(_))
    }

    /// How many bytes are held, prefixes included, that no body handed out has.
    #[must_use]
    pub fn held(&self) -> usize {
        let begun = match &self.state {
            State::Prefix { filled, .. } => *filled,
            State::Body { bytes, .. } => PREFIX_LEN + bytes.len(),
            State::Failed(_) => 0,
        };
        begun + self.first.len() + self.later.iter().map(Bytes::len).sum::<usize>()
    }

    fn advance<T>(&mut self, read: impl FnOnce(Body<'_>) -> T) -> Result<Option<T>, FrameError> {
        if let State::Failed(error) = self.state {
            return Err(error);
        }
        while !self.first.is_empty() {
            if let (State::Prefix { filled: 0, .. }, Some((prefix, rest))) =
                (&self.state, self.first.split_first_chunk())
            {
                let length = decode_prefix(*prefix, self.max)?;
                let Some(body) = rest.get(..length) else {
                    self.state = State::Body { bytes: rest.to_vec(), length };
                    self.first.clear();
                    self.next_chunk();
                    continue;
                };
                let taken = read(Body::Within(body));
                self.first.advance(PREFIX_LEN + length);
                self.next_chunk();
                return Ok(Some(taken));
            }
            let body = take_across(&mut self.first, &mut self.state, self.max)?;
            self.next_chunk();
            if let Some(body) = body {
                return Ok(Some(read(Body::Whole(body))));
            }
        }
        Ok(None)
    }

    /// Goes on to the next chunk where nothing is left of the first.
    fn next_chunk(&mut self) {
        if self.first.is_empty() {
            // What is left of it may be empty, and still hold the memory of a batch of datagrams.
            self.first = self.later.pop_front().unwrap_or_default();
        }
    }
}

/// The body of a frame, where it lies.
pub(crate) enum Body<'a> {
    /// Among other bytes, whose memory nothing of it may keep.
    Within(&'a [u8]),
    /// Put together, in memory of its own.
    Whole(Bytes),
}

impl Body<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Within(body) => body,
            Self::Whole(body) => body,
        }
    }

    /// In memory of its own, to be kept.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Within(body) => Bytes::copy_from_slice(body),
            Self::Whole(body) => body,
        }
    }
}

impl fmt::Debug for FrameBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max, first: _, later: _, state } = self;
        let failed = match state {
            State::Failed(error) => Some(error),
            State::Prefix { .. } | State::Body { .. } => None,
        };
        f.debug_struct("FrameBuffer")
            .field("max", max)
            .field("held", &self.held())
            .field("failed", &failed)
            .finish()
    }
}

/// Takes from `chunk` what the frame begun in `state` lacks.
fn take_across(chunk: &mut Bytes, state: &mut State, max: usize) -> Result<Option<Bytes>, FrameError> {
    match state {
        State::Prefix { bytes, filled } => {
            while let (Some(slot), Some(&byte)) = (bytes.get_mut(*filled), chunk.first()) {
                *slot = byte;
                *filled += 1;
                chunk.advance(1);
            }
            if *filled == PREFIX_LEN {
                *state = State::Body { bytes: Vec::new(), length: decode_prefix(*bytes, max)? };
            }
            Ok(None)
        }
        State::Body { bytes, length } => {
            let missing = length.saturating_sub(bytes.len());
            let piece = chunk.split_to(missing.min(chunk.len()));
            reserve(bytes, piece.len(), missing);
            bytes.extend_from_slice(&piece);
            if bytes.len() < *length {
                return Ok(None);
            }
            let body = Bytes::from(std::mem::take(bytes));
            *state = State::BETWEEN_FRAMES;
            Ok(Some(body))
        }
        State::Failed(error) => Err(*error),
    }
}

/// Makes room for `arrived` bytes of the `missing` ones.
///
/// Growing by half of what is there keeps the copying linear. `Vec` alone would double, and go past
/// the end of the frame.
fn reserve(body: &mut Vec<u8>, arrived: usize, missing: usize) {
    if body.capacity() - body.len() < arrived {
        body.reserve_exact((body.len() / 2).max(arrived).min(missing));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 512 * 1024;

    fn frame(body: &[u8]) -> Vec<u8> {
        encode(MAX, |out| {
            out.extend_from_slice(body);
            Ok(())
        })
        .unwrap()
    }

    /// Pushes the chunks one by one; gives the bodies and how the stream ended.
    fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Bytes>, Result<(), FrameError>) {
        let mut buffer = FrameBuffer::new(MAX);
        let mut bodies = Vec::new();
        for chunk in chunks {
            buffer.push(Bytes::copy_from_slice(chunk));
            while let Ok(Some(body)) = buffer.next() {
                bodies.push(body);
            }
        }
        (bodies, buffer.finish())
    }

    #[test]
    fn a_frame_is_its_length_in_big_endian_and_its_body() {
        assert_eq!(frame(b"abc"), b"\0\0\0\x03abc");
        assert_eq!(frame(&[7; 0x0102])[..5], [0, 0, 1, 2, 7]);
    }

    #[test]
    fn a_body_of_the_limit_is_written_and_one_byte_more_is_not() {
        let write = |length: usize| {
            let mut buf = b"before".to_vec();
            let written = append(&mut buf, 8, |out| {
                out.resize(out.len() + length, 1);
                Ok(())
            });
            (buf.len(), written.map_err(|error| error.kind().clone()))
        };
        assert_eq!(write(8), (6 + PREFIX_LEN + 8, Ok(())));
        assert_eq!(write(9), (6, Err(ErrorKind::MessageTooLarge)));
        assert_eq!(write(0), (6, Err(ErrorKind::Codec)));
    }

    #[test]
    fn a_body_that_fails_half_way_leaves_the_frames_before_it() {
        let mut buf = frame(b"first");
        let failed = append(&mut buf, MAX, |out| {
            out.push(0);
            Err(Error::new(ErrorKind::Codec))
        });
        assert!(failed.is_err());
        assert_eq!(buf, frame(b"first"));
    }

    #[test]
    fn a_body_writer_that_shortens_the_buffer_is_an_error() {
        let failed = encode(MAX, |out| {
            out.clear();
            Ok(())
        });
        assert_eq!(failed.unwrap_err().kind(), &ErrorKind::Codec);
    }

    #[test]
    fn a_length_of_zero_is_refused_and_of_one_is_not() {
        let mut buffer = FrameBuffer::new(MAX);
        buffer.push(Bytes::from_static(&[0, 0, 0, 1, 9, 0, 0, 0, 0]));
        assert_eq!(buffer.next(), Ok(Some(Bytes::from_static(&[9]))));
        assert_eq!(buffer.next(), Err(FrameError::Empty));
        assert_eq!(buffer.finish(), Err(FrameError::Empty));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_any_of_its_body_is_held() {
        for pieces in [&[&[0, 0, 0, 9][..]][..], &[&[0, 0], &[0, 9]], &[&[0, 0, 0, 9, 1, 2, 3]]] {
            let mut buffer = FrameBuffer::new(8);
            for piece in pieces {
                assert_eq!(buffer.next(), Ok(None));
                buffer.push(Bytes::copy_from_slice(piece));
            }
            let refused = Err(FrameError::TooLarge { announced: 9, max: 8 });
            assert_eq!(buffer.next(), refused);
            buffer.push(Bytes::from_static(b"more"));
            assert_eq!((buffer.next(), buffer.held()), (refused, 0), "an error is final");
        }
        let mut buffer = FrameBuffer::new(9);
        buffer.push(Bytes::from_static(b"\0\0\0\x09123456789"));
        assert_eq!(buffer.next(), Ok(Some(Bytes::from_static(b"123456789"))));
    }

    #[test]
    fn a_stream_may_end_between_frames_and_nowhere_else() {
        let bytes = frame(b"body");
        for cut in 0..=bytes.len() {
            let expected = if cut == 0 || cut == bytes.len() { Ok(()) } else { Err(FrameError::Truncated) };
            assert_eq!(read([&bytes[..cut]]).1, expected, "cut at {cut}");
        }
    }

    #[test]
    fn memory_follows_the_bytes_that_arrived_not_the_length_announced() {
        let mut buffer = FrameBuffer::new(MAX);
        buffer.push(Bytes::from_static(&[0, 8, 0, 0]));
        for arrived in 1..=1000 {
            buffer.push(Bytes::from_static(&[0; 100]));
            assert_eq!(buffer.next(), Ok(None));
            let State::Body { bytes, length } = &buffer.state else { panic!("within a body") };
            assert_eq!((*length, bytes.len()), (MAX, arrived * 100));
            assert!(bytes.capacity() <= (bytes.len() * 3 / 2).max(100), "{} held", bytes.capacity());
            assert_eq!(buffer.held(), PREFIX_LEN + arrived * 100);
        }
    }

    #[test]
    fn a_body_never_shares_the_buffer_of_its_chunk() {
        let chunk = Bytes::from([frame(b"one"), frame(b"two")].concat());
        let mut buffer = FrameBuffer::new(MAX);
        buffer.push(chunk.clone());
        let bodies = [buffer.next().unwrap().unwrap(), buffer.next().unwrap().unwrap()];
        assert_eq!(buffer.next(), Ok(None));
        assert!(chunk.is_unique(), "nothing else holds the chunk");
        assert_eq!(bodies, ["one", "two"]);
    }

    #[test]
    fn a_body_in_one_piece_is_taken_only_if_something_is_made_of_it() {
        let stream = [frame(b"one"), frame(b"two")].concat();
        let mut buffer = FrameBuffer::new(3);
        buffer.push(Bytes::copy_from_slice(&stream[..9]));
        buffer.push(Bytes::copy_from_slice(&stream[9..]));
        assert_eq!(buffer.next_if(|_| None::<()>), None);
        assert_eq!((buffer.held(), buffer.next_if(|body| Some(body.len()))), (stream.len(), Some(3)));
        assert_eq!(buffer.next_if(|body| Some(body.len())), None, "split between two chunks");
        assert_eq!(buffer.next(), Ok(Some(Bytes::from_static(b"two"))));
        buffer.push(frame(b"four").into());
        assert_eq!(buffer.next_if(|body| Some(body.len())), None, "too long");
        assert_eq!(buffer.next(), Err(FrameError::TooLarge { announced: 4, max: 3 }));
    }

    #[test]
    fn errors_keep_their_kind_and_cause() {
        for (error, kind) in [
            (FrameError::Empty, ErrorKind::Protocol),
            (FrameError::TooLarge { announced: 9, max: 8 }, ErrorKind::FrameTooLarge),
            (FrameError::Truncated, ErrorKind::Truncated),
        ] {
            let outer = Error::from(error);
            assert_eq!(outer.kind(), &kind);
            let source = std::error::Error::source(&outer).and_then(|source| source.downcast_ref());
            assert_eq!(source, Some(&error));
        }
    }

    proptest! {
        #[test]
        fn bodies_survive_any_chunking(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let stream: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let (read, end) = read(cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]));
            prop_assert_eq!(read, bodies);
            prop_assert_eq!(end, Ok(()));
        }

        #[test]
        fn no_bytes_make_it_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let (_, _) = read(chunks.iter().map(Vec::as_slice));
        }
    }
}
