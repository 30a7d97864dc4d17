//! Frames that must not be, on the streams of requests: what comes back, and that the node goes on.

use std::time::{Duration, Instant};

use palyra_quic::{Code, Codec, Context, Request, Response, Router, TransportLimits, WireError};
use smol::channel::Receiver;

use crate::common::{Answer, Server, encode, frame, json_request, request, run, serve, serve_within, signal};

const MAX: u32 = 524_288;

/// A node with one method, and what tells that it ran.
fn node() -> (Server, Receiver<()>) {
    node_within(TransportLimits::default())
}

fn node_within(limits: TransportLimits) -> (Server, Receiver<()>) {
    let (ran, runs) = signal();
    let router = Router::new().serve_raw("demo.run", move |_: Context, params| {
        let ran = ran.clone();
        async move {
            ran.try_send(()).unwrap();
            Ok(params)
        }
    });
    (serve_within(limits, router), runs)
}

/// Each of these, with FIN behind it, is reset with `code`, runs nothing and harms nobody.
fn refused(streams: &[Vec<u8>], code: Code) {
    run(async {
        let (server, runs) = node();
        let peer = server.raw().await;
        for bytes in streams {
            assert_eq!(peer.exchange(bytes).await, Answer::Reset(code), "{bytes:02x?}");
            peer.assert_is_served().await;
        }
        server.assert_serves_others().await;
        assert!(runs.is_empty(), "the method ran");
    });
}

fn bodies() -> [Vec<u8>; 2] {
    [request("demo.run"), json_request("demo.run")]
}

#[test]
fn a_whole_frame_is_served() {
    run(async {
        let (server, runs) = node();
        let peer = server.raw().await;
        for (body, codec) in bodies().iter().zip([Codec::Cbor, Codec::Json]) {
            let answer = peer.exchange(&frame(body)).await;
            assert!(matches!(answer.only_in(codec), Response::Result { .. }));
        }
        assert_eq!(runs.len(), 2);
    });
}

#[test]
fn a_frame_over_the_limit_is_refused_by_its_header() {
    run(async {
        let (server, runs) = node();
        let peer = server.raw().await;
        for announced in [MAX + 1, u32::MAX] {
            // Neither body nor FIN: nothing but the length has arrived when the refusal comes.
            let mut stream = peer.send(&announced.to_be_bytes()).await;
            assert_eq!(stream.answer().await, Answer::Reset(Code::FRAME_TOO_LARGE));
            assert_eq!(stream.stopped().await, Some(Code::FRAME_TOO_LARGE));
        }
        peer.assert_is_served().await;
        server.assert_serves_others().await;
        assert!(runs.is_empty());
    });
}

#[test]
fn a_frame_over_the_limit_is_refused_with_its_body_behind_it() {
    refused(&[frame(&vec![0; usize::try_from(MAX + 1).unwrap()])], Code::FRAME_TOO_LARGE);
}

/// A body for `demo.run` of just this length.
fn body_of(length: usize) -> Vec<u8> {
    let with = |params: usize| Request::new("demo.run").with_params(vec![7; params]);
    let around = encode(&with(length), Codec::Cbor).len() - length;
    let body = encode(&with(length - around), Codec::Cbor);
    assert_eq!(body.len(), length);
    body
}

#[test]
fn a_frame_of_just_the_limit_is_read() {
    run(async {
        let (server, runs) = node();
        let peer = server.raw().await;
        let mut stream = peer.send(&frame(&body_of(usize::try_from(MAX).unwrap()))).await;
        stream.finish();
        // The echo of it fits a frame, too: a result has shorter keys than the request's method.
        assert!(stream.answer().await.result().len() > 524_000);
        assert_eq!(runs.len(), 1);
    });
}

#[test]
fn the_limit_is_the_configured_one() {
    run(async {
        let limits = TransportLimits::builder().max_frame_bytes(1024).build().unwrap();
        let (server, runs) = node_within(limits);
        let peer = server.raw().await;
        assert_eq!(peer.exchange(&frame(&body_of(1025))).await, Answer::Reset(Code::FRAME_TOO_LARGE));
        assert!(runs.is_empty());
        assert!(matches!(peer.exchange(&frame(&body_of(1024))).await.only(), Response::Result { .. }));
        assert_eq!(runs.len(), 1);
    });
}

#[test]
fn an_empty_frame_is_a_violation() {
    refused(&[frame(b""), [frame(b""), frame(&request("demo.run"))].concat()], Code::PROTOCOL_VIOLATION);
}

#[test]
fn an_empty_frame_is_refused_by_its_header() {
    run(async {
        let (server, _) = node();
        let peer = server.raw().await;
        let mut stream = peer.send(&[0; 4]).await;
        assert_eq!(stream.answer().await, Answer::Reset(Code::PROTOCOL_VIOLATION));
        assert_eq!(stream.stopped().await, Some(Code::PROTOCOL_VIOLATION));
        peer.assert_is_served().await;
    });
}

#[test]
fn a_frame_cut_short_by_fin_is_a_violation() {
    let cut = bodies().into_iter().flat_map(|body| {
        let frame = frame(&body);
        // Within the length, behind it, within the body, before its last byte.
        [1, 3, 4, 5, frame.len() / 2, frame.len() - 1].map(|end| frame[..end].to_vec())
    });
    refused(&cut.collect::<Vec<_>>(), Code::PROTOCOL_VIOLATION);
}

#[test]
fn bytes_behind_the_request_are_a_violation() {
    let followed = bodies().into_iter().flat_map(|body| {
        let frame = frame(&body);
        [b"\0".to_vec(), b"\n".to_vec(), frame[..4].to_vec(), frame.clone()]
            .map(|behind| [frame.clone(), behind].concat())
    });
    refused(&followed.collect::<Vec<_>>(), Code::PROTOCOL_VIOLATION);
}

#[test]
fn bytes_that_follow_the_request_later_are_a_violation_too() {
    run(async {
        let (server, runs) = node();
        let peer = server.raw().await;
        let mut stream = peer.send(&frame(&request("demo.run"))).await;
        // Once this is answered the frame has long arrived; still it is no request before its FIN.
        peer.assert_is_served().await;
        assert!(runs.is_empty());
        stream.send(b"\0").await;
        assert_eq!(stream.answer().await, Answer::Reset(Code::PROTOCOL_VIOLATION));
        assert_eq!(stream.stopped().await, Some(Code::PROTOCOL_VIOLATION));
        peer.assert_is_served().await;
        assert!(runs.is_empty());
    });
}

#[test]
fn a_stream_without_a_request_is_a_violation() {
    refused(&[Vec::new()], Code::PROTOCOL_VIOLATION);
}

#[test]
fn a_request_that_its_sender_resets_does_not_run() {
    run(async {
        let (server, runs) = node();
        let peer = server.raw().await;
        for bytes in [Vec::new(), frame(&request("demo.run"))[..7].to_vec(), frame(&request("demo.run"))] {
            let mut stream = peer.send(&bytes).await;
            stream.reset(Code::INTERNAL);
            assert_eq!(stream.answer().await, Answer::Reset(Code::CANCELLED));
        }
        peer.assert_is_served().await;
        server.assert_serves_others().await;
        assert!(runs.is_empty());
    });
}

#[test]
fn a_frame_is_read_in_whatever_pieces_it_arrives() {
    run(async {
        let (server, runs) = node();
        let peer = server.raw().await;
        let [byte, rest @ ..] = &*frame(&request("demo.run")) else { unreachable!() };
        let mut stream = peer.send(&[*byte]).await;
        for byte in rest {
            // A round trip in between, so that each byte travels alone.
            peer.assert_is_served().await;
            stream.send(&[*byte]).await;
        }
        peer.assert_is_served().await;
        assert!(runs.is_empty(), "complete only with its FIN");
        stream.finish();
        assert!(matches!(stream.answer().await.only(), Response::Result { .. }));
        assert_eq!(runs.len(), 1);
    });
}

/// Long enough for whole requests to arrive, however busy the computer is.
const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_request_that_does_not_arrive_in_time_is_reset() {
    run(async {
        let limits = TransportLimits::builder().request_read_timeout(SOON).build().unwrap();
        let (server, runs) = node_within(limits);
        let peer = server.raw().await;
        let whole = frame(&request("demo.run"));
        let mut streams = Vec::new();
        for end in [1, 4, whole.len() - 1, whole.len()] {
            streams.push((end, Instant::now(), peer.send(&whole[..end]).await));
        }
        for (end, begun, mut stream) in streams {
            assert_eq!(stream.answer().await, Answer::Reset(Code::DEADLINE_EXCEEDED), "{end} bytes");
            assert!(begun.elapsed() >= SOON);
            assert_eq!(stream.stopped().await, Some(Code::DEADLINE_EXCEEDED));
        }
        peer.assert_is_served().await;
        server.assert_serves_others().await;
        assert!(runs.is_empty());
    });
}

#[test]
fn a_request_that_trickles_in_does_not_buy_time() {
    run(async {
        let limits = TransportLimits::builder().request_read_timeout(SOON).build().unwrap();
        let (server, _) = node_within(limits);
        let peer = server.raw().await;
        let mut stream = peer.send(&frame(&[b'{'; 100_000])[..4]).await;
        // A byte at a time, until the node stops the stream.
        while stream.send.write_all(b"{").await.is_ok() {
            peer.assert_is_served().await;
            smol::Timer::after(Duration::from_millis(20)).await;
        }
        assert_eq!(stream.answer().await, Answer::Reset(Code::DEADLINE_EXCEEDED));
        peer.assert_is_served().await;
    });
}

#[test]
fn streams_that_were_refused_make_room_for_others() {
    run(async {
        let (server, runs) = node();
        let peer = server.raw().await;
        // Three times as many as may be open at once.
        for _ in 0..96 {
            let mut stream = peer.send(&u32::MAX.to_be_bytes()).await;
            assert_eq!(stream.answer().await, Answer::Reset(Code::FRAME_TOO_LARGE));
        }
        assert!(matches!(peer.request(&request("demo.run")).await.only(), Response::Result { .. }));
        assert_eq!(runs.len(), 1);
    });
}

#[test]
fn the_frame_is_checked_before_the_body() {
    run(async {
        let server = serve(Router::new());
        let peer = server.raw().await;
        let garbage = frame(b"garbage");
        assert_eq!(peer.exchange(&garbage).await.error(), WireError::InvalidRequest);
        let followed = [&*garbage, b"\0"].concat();
        assert_eq!(peer.exchange(&followed).await, Answer::Reset(Code::PROTOCOL_VIOLATION));
    });
}
