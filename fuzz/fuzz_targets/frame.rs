//! Streams cut into chunks of any size: the bodies and the end are those of the stream as a whole.
//!
//! Input: the limit in two bytes, big-endian, less 1; how many cuts there are; the cuts, one byte each;
//! the stream. A cut says how long a chunk is (its lower seven bits, 0 for one that is empty), and
//! whether the bodies are taken out behind it (the highest bit). They are used in turn.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use palyra_quic::{
    Bytes,
    fuzzing::{FrameBuffer, FrameError, encode_frame},
};

const PREFIX_LEN: usize = 4;

fuzz_target!(|input: &[u8]| -> Corpus { run(input).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(input: &[u8]) -> Option<()> {
    let ([high, low, cuts], rest) = input.split_first_chunk()?;
    let max = usize::from(u16::from_be_bytes([*high, *low])) + 1;
    let (cuts, stream) = rest.split_at_checked(usize::from(*cuts))?;

    let (bodies, end) = expected(stream, max);
    let mut whole = Fed::new(max);
    whole.push(stream);
    whole.take();
    whole.compare(&bodies, end);

    let mut chunked = Fed::new(max);
    let mut left = stream;
    // A cut that moves on, at the end, so that cuts of nothing do not go round for ever.
    for cut in cuts.iter().copied().chain([0xff]).cycle() {
        let (chunk, rest) = left.split_at(usize::from(cut & 0x7f).min(left.len()));
        left = rest;
        chunked.push(chunk);
        if cut & 0x80 != 0 {
            chunked.take();
        }
        if left.is_empty() {
            break;
        }
    }
    chunked.take();
    chunked.compare(&bodies, end);

    let written: Vec<u8> = bodies.iter().flat_map(|body| frame(body, max)).collect();
    assert!(stream.starts_with(&written), "bodies do not make up the stream again");
    assert!(end.is_err() || written.len() == stream.len());
    Some(())
}

/// The stream read as docs/protocol.md, section 4, has it, all at once.
fn expected(mut stream: &[u8], max: usize) -> (Vec<&[u8]>, Result<(), FrameError>) {
    let mut bodies = Vec::new();
    loop {
        if stream.is_empty() {
            return (bodies, Ok(()));
        }
        let Some((prefix, rest)) = stream.split_first_chunk::<PREFIX_LEN>() else {
            return (bodies, Err(FrameError::Truncated));
        };
        let announced = u32::from_be_bytes(*prefix);
        let length = usize::try_from(announced).unwrap();
        if length == 0 {
            return (bodies, Err(FrameError::Empty));
        }
        if length > max {
            return (bodies, Err(FrameError::TooLarge { announced, max }));
        }
        let Some((body, rest)) = rest.split_at_checked(length) else {
            return (bodies, Err(FrameError::Truncated));
        };
        bodies.push(body);
        stream = rest;
    }
}

/// A buffer, with the books kept on it.
struct Fed {
    buffer: FrameBuffer,
    max: usize,
    pushed: usize,
    bodies: Vec<Bytes>,
    failed: Option<FrameError>,
}

impl Fed {
    fn new(max: usize) -> Self {
        Self { buffer: FrameBuffer::new(max), max, pushed: 0, bodies: Vec::new(), failed: None }
    }

    fn push(&mut self, chunk: &[u8]) {
        self.buffer.push(Bytes::copy_from_slice(chunk));
        self.pushed += chunk.len();
        self.balance();
    }

    fn take(&mut self) {
        loop {
            match self.buffer.next() {
                Ok(Some(body)) => {
                    assert!(self.failed.is_none(), "a body behind an error");
                    assert!((1..=self.max).contains(&body.len()), "a body of {} bytes", body.len());
                    self.bodies.push(body);
                }
                Ok(None) => {
                    assert!(self.failed.is_none(), "an error is forgotten");
                    break;
                }
                Err(error) => {
                    assert_eq!(*self.failed.get_or_insert(error), error, "another error than before");
                    break;
                }
            }
            self.balance();
        }
        self.balance();
    }

    /// Each byte pushed is either held or part of a body handed out; none is held for a stream that failed.
    fn balance(&self) {
        let given: usize = self.bodies.iter().map(|body| PREFIX_LEN + body.len()).sum();
        let held = if self.failed.is_some() { 0 } else { self.pushed - given };
        assert_eq!(self.buffer.held(), held);
        assert_eq!(self.buffer.is_empty(), held == 0);
    }

    fn compare(&self, bodies: &[&[u8]], end: Result<(), FrameError>) {
        assert_eq!(self.bodies, bodies);
        assert_eq!(self.buffer.finish(), end);
        // To be cut short is no error before the end is known.
        assert_eq!(self.failed, end.err().filter(|error| *error != FrameError::Truncated));
    }
}

fn frame(body: &[u8], max: usize) -> Vec<u8> {
    let write = |out: &mut Vec<u8>| {
        out.extend_from_slice(body);
        Ok(())
    };
    assert!(encode_frame(body.len() - 1, write).is_err(), "a frame over the limit is written");
    encode_frame(max, write).unwrap()
}
