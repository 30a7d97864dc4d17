//! What is counted.

use std::hint::black_box;

use palyra_quic::{
    Bytes, Codec, Request, Response,
    fuzzing::{FrameBuffer, encode_frame},
};

use super::{
    Result,
    callgrind::counted,
    dispatch::{Exchange, dispatch},
};

/// Rounds that are not counted: during the first, memory is got from the system.
pub(crate) const WARM_UP: u32 = 20;

#[derive(Clone, Copy)]
pub(crate) enum Case {
    /// Nothing of this crate: what changes it is the compiler, the C library or the machine.
    Yardstick,
    Encode(Message, Codec),
    Decode(Message, Codec),
    /// A frame around so many bytes.
    Frame(usize),
    /// Such a frame again, from the packets that it came in.
    Unframe(usize),
    /// Frames of 60 bytes, as many as a chunk holds.
    UnframeMany,
    Dispatch(Exchange),
}

#[derive(Clone, Copy)]
pub(crate) enum Message {
    Request,
    Result,
    Event,
}

pub(crate) const YARDSTICK: &str = "yardstick";

/// By the names in the record.
pub(crate) const CASES: [(&str, Case); 23] = [
    ("encode request, CBOR", Case::Encode(Message::Request, Codec::Cbor)),
    ("encode request, JSON", Case::Encode(Message::Request, Codec::Json)),
    ("encode result, CBOR", Case::Encode(Message::Result, Codec::Cbor)),
    ("encode result, JSON", Case::Encode(Message::Result, Codec::Json)),
    ("encode event, CBOR", Case::Encode(Message::Event, Codec::Cbor)),
    ("encode event, JSON", Case::Encode(Message::Event, Codec::Json)),
    ("decode request, CBOR", Case::Decode(Message::Request, Codec::Cbor)),
    ("decode request, JSON", Case::Decode(Message::Request, Codec::Json)),
    ("decode result, CBOR", Case::Decode(Message::Result, Codec::Cbor)),
    ("decode result, JSON", Case::Decode(Message::Result, Codec::Json)),
    ("decode event, CBOR", Case::Decode(Message::Event, Codec::Cbor)),
    ("decode event, JSON", Case::Decode(Message::Event, Codec::Json)),
    ("frame, 64 B", Case::Frame(64)),
    ("frame, 64 KiB", Case::Frame(64 * 1024)),
    ("unframe, 64 B", Case::Unframe(64)),
    ("unframe, 64 KiB in packets", Case::Unframe(64 * 1024)),
    ("unframe, 256 of 60 B in a chunk", Case::UnframeMany),
    ("dispatch bytes, CBOR", Case::Dispatch(Exchange::Bytes(Codec::Cbor))),
    ("dispatch bytes, JSON", Case::Dispatch(Exchange::Bytes(Codec::Json))),
    ("dispatch values", Case::Dispatch(Exchange::Values)),
    ("dispatch, 8 answers", Case::Dispatch(Exchange::Answers)),
    ("dispatch to nobody", Case::Dispatch(Exchange::Unknown)),
    ("dispatch notification", Case::Dispatch(Exchange::Notification)),
];

pub(crate) fn run(name: &str, rounds: u32) -> Result<()> {
    let all = [(YARDSTICK, Case::Yardstick)].into_iter().chain(CASES);
    let (_, case) = all.into_iter().find(|(known, _)| *known == name).ok_or("no such case")?;
    match case {
        Case::Yardstick => repeat(rounds, yardstick),
        Case::Encode(message, codec) => encode(message, codec, rounds),
        Case::Decode(message, codec) => decode(message, codec, rounds),
        Case::Frame(length) => {
            let body = vec![7; length];
            repeat(rounds, || drop(black_box(frame(black_box(&body)))));
        }
        Case::Unframe(length) => unframe(&packets(&vec![7; length]), rounds),
        Case::UnframeMany => unframe(&[Bytes::from(frame(&[7; 60]).repeat(256))], rounds),
        Case::Dispatch(exchange) => dispatch(exchange, rounds)?,
    }
    Ok(())
}

fn repeat(rounds: u32, mut work: impl FnMut()) {
    (0..WARM_UP).for_each(|_| work());
    counted(&mut || (0..rounds).for_each(|_| work()));
}

/// Memory that is got, set, copied, grown and compared, in the sizes of messages and frames.
fn yardstick() {
    for length in [7, 64, 300, 1200, 16 * 1024] {
        let bytes = vec![7_u8; black_box(length)];
        let mut copy = vec![0; 16];
        bytes.chunks(100).for_each(|chunk| copy.extend_from_slice(chunk));
        black_box(copy[16..] == bytes[..]);
    }
}

fn encode(message: Message, codec: Codec, rounds: u32) {
    let write = writer(message, codec);
    let mut out = Vec::with_capacity(1024);
    repeat(rounds, || {
        out.clear();
        write(black_box(&mut out));
    });
}

fn decode(message: Message, codec: Codec, rounds: u32) {
    let mut body = Vec::new();
    writer(message, codec)(&mut body);
    let body = Bytes::from(body);
    match message {
        Message::Request => repeat(rounds, || {
            drop(black_box(Request::decode(black_box(&body)).expect("what was encoded")));
        }),
        Message::Result | Message::Event => repeat(rounds, || {
            drop(black_box(Response::decode(black_box(&body)).expect("what was encoded")));
        }),
    }
}

type Write = Box<dyn Fn(&mut Vec<u8>)>;

fn writer(message: Message, codec: Codec) -> Write {
    let response = match message {
        Message::Request => {
            let params = Bytes::from_static(&[7; 64]);
            let request = Request::new("demo.echo").with_params(params).with_timeout_ms(5000);
            return Box::new(move |out| request.encode(codec, out).expect("a method of fair length"));
        }
        Message::Result => Response::result(Some(Bytes::from_static(&[7; 64]))),
        Message::Event => {
            let payload = Some(Bytes::from_static(&[7; 32]));
            Response::event(123_456, Some(1 << 52), payload)
        }
    };
    Box::new(move |out| response.encode(codec, out).expect("no error in this version"))
}

fn frame(body: &[u8]) -> Vec<u8> {
    encode_frame(MAX_FRAME, |out| {
        out.extend_from_slice(body);
        Ok(())
    })
    .expect("a body within the limit")
}

const MAX_FRAME: usize = 512 * 1024;

fn packets(body: &[u8]) -> Vec<Bytes> {
    let bytes = Bytes::from(frame(body));
    bytes.chunks(1200).map(|packet| bytes.slice_ref(packet)).collect()
}

fn unframe(chunks: &[Bytes], rounds: u32) {
    repeat(rounds, || {
        let mut buffer = FrameBuffer::new(MAX_FRAME);
        for chunk in chunks {
            buffer.push(chunk.clone());
            while let Some(body) = buffer.next().expect("whole frames") {
                black_box(body);
            }
        }
    });
}
