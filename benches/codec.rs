//! Frames and messages, without a network: `cargo bench --bench codec`.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use palyra_quic::{
    Bytes, Codec, Request, Response,
    fuzzing::{FrameBuffer, encode_frame, validate_body},
};

const MAX_FRAME: usize = 512 * 1024;
/// What quinn hands over at a time is at most a GSO train.
const CHUNK: usize = 16 * 1024;

fn throughput(bytes: usize) -> Throughput {
    Throughput::Bytes(u64::try_from(bytes).expect("a length"))
}

fn frame(body: &[u8]) -> Vec<u8> {
    encode_frame(MAX_FRAME, |out| {
        out.extend_from_slice(body);
        Ok(())
    })
    .expect("a body within the limit")
}

/// Everything that `chunks` complete.
fn read(chunks: impl IntoIterator<Item = Bytes>) -> usize {
    let mut buffer = FrameBuffer::new(MAX_FRAME);
    let mut frames = 0;
    for chunk in chunks {
        buffer.push(chunk);
        while let Some(body) = buffer.next().expect("whole frames") {
            black_box(body);
            frames += 1;
        }
    }
    frames
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame encode");
    for (name, length) in [("64 B", 64), ("64 KiB", 64 * 1024)] {
        let body = vec![7; length];
        group.throughput(throughput(length));
        group.bench_function(name, |b| b.iter(|| frame(black_box(&body))));
    }
    group.finish();

    let mut group = c.benchmark_group("frame decode");
    for (name, length) in [("64 B", 64), ("64 KiB in packets", 64 * 1024)] {
        let bytes = Bytes::from(frame(&vec![7; length]));
        let packets: Vec<Bytes> = bytes.chunks(1200).map(|packet| bytes.slice_ref(packet)).collect();
        group.throughput(throughput(length));
        group.bench_function(name, |b| {
            b.iter_batched(|| packets.clone(), read, BatchSize::SmallInput);
        });
    }
    let small = frame(&[7; 60]);
    let chunk = Bytes::from(small.repeat(CHUNK / small.len()));
    group.throughput(Throughput::Elements(u64::try_from(CHUNK / small.len()).expect("a count")));
    group.bench_function("60 B, many in a chunk", |b| b.iter(|| read([chunk.clone()])));
    group.finish();
}

fn request() -> Request {
    Request::new("demo.echo").with_params(Bytes::from_static(&[7; 64])).with_timeout_ms(5000)
}

fn result() -> Response {
    Response::result(Some(Bytes::from_static(&[7; 64])))
}

fn event() -> Response {
    Response::event(123_456, Some(1 << 52), Some(Bytes::from_static(&[7; 32])))
}

fn messages(c: &mut Criterion) {
    type Encode = fn(Codec, &mut Vec<u8>);
    type Decode = fn(&Bytes);
    let messages: [(&str, Encode, Decode); 3] = [
        (
            "request",
            |codec, out| request().encode(codec, out).expect("a method of fair length"),
            |body| drop(black_box(Request::decode(body).expect("what was encoded"))),
        ),
        (
            "result",
            |codec, out| result().encode(codec, out).expect("no error in this version"),
            |body| drop(black_box(Response::decode(body).expect("what was encoded"))),
        ),
        (
            "event",
            |codec, out| event().encode(codec, out).expect("no error in this version"),
            |body| drop(black_box(Response::decode(body).expect("what was encoded"))),
        ),
    ];
    for (name, encode, decode) in messages {
        let mut group = c.benchmark_group(format!("message {name}"));
        for codec in [Codec::Cbor, Codec::Json] {
            let mut body = Vec::new();
            encode(codec, &mut body);
            group.bench_function(BenchmarkId::new("encode", format!("{codec:?}")), |b| {
                let mut out = Vec::with_capacity(body.len());
                b.iter(|| {
                    out.clear();
                    encode(codec, black_box(&mut out));
                });
            });
            let body = Bytes::from(body.clone());
            group.bench_function(BenchmarkId::new("decode", format!("{codec:?}")), |b| {
                b.iter(|| decode(black_box(&body)));
            });
        }
        group.finish();
    }
}

fn validator(c: &mut Criterion) {
    let mut small = Vec::new();
    request().encode(Codec::Cbor, &mut small).expect("a method of fair length");
    // Keys that go down are the costly ones: behind the sixteenth they are refused.
    let unordered = (0..=16_u8).flat_map(|n| [0x19, 0x03, 0xe8 - n, 0x00]);
    let unordered: Vec<u8> = [0xb1].into_iter().chain(unordered).collect();
    // `{0: [0, 1, 2, ...]}`.
    let items = (0..=u16::MAX).flat_map(|n| [0x19].into_iter().chain(n.to_be_bytes()));
    let wide: Vec<u8> = [0xa1, 0x00, 0x9a, 0x00, 0x01, 0x00, 0x00].into_iter().chain(items).collect();

    let mut group = c.benchmark_group("CBOR validator");
    for (name, body) in
        [("request", small), ("17 keys in falling order", unordered), ("array of 65,536 integers", wide)]
    {
        validate_body(&body).expect("a body to be accepted");
        group.throughput(throughput(body.len()));
        group.bench_function(name, |b| b.iter(|| validate_body(black_box(&body))));
    }
    group.finish();
}

criterion_group!(benches, frames, messages, validator);
criterion_main!(benches);
