//! Our frames and messages without anything that bounds, supervises or makes them safe, for those who bring
//! QUIC alone: one write for a frame, events gathered into large writes.

use std::future::Future;

use bytes::{Buf, Bytes, BytesMut};
use minicbor::{Decode, Encode};

use crate::{
    Result,
    log::Log,
    setup::{MAX_FRAME_BYTES, Setup, large},
};

const VERSION: u16 = 1;
const EPOCH: u64 = 0x1234_5678_9abc_def0;
/// What one write of events holds about.
const WRITE_BYTES: usize = 16 * 1024;
const EVENTS_AT_ONCE: usize = 256;

/// The sending half of a stream.
pub trait Sender: Send + 'static {
    fn send(&mut self, bytes: Bytes) -> impl Future<Output = Result<()>> + Send;

    fn finish(&mut self) -> Result<()>;
}

/// The receiving half of a stream.
pub trait Receiver: Send + 'static {
    /// What came; `None` at the end of the stream.
    fn receive(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Request<'a> {
    #[n(0)]
    version: u16,
    #[b(1)]
    method: &'a str,
    #[n(2)]
    resume_from: Option<u64>,
    #[cbor(b(3), with = "minicbor::bytes")]
    params: Option<&'a [u8]>,
    #[n(5)]
    follow: Option<bool>,
    #[n(7)]
    more: Option<bool>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Item<'a> {
    #[cbor(b(3), with = "minicbor::bytes")]
    params: Option<&'a [u8]>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Response<'a> {
    #[n(0)]
    version: u16,
    #[b(1)]
    kind: &'a str,
    #[n(2)]
    ok: bool,
    #[n(3)]
    seq: Option<u64>,
    #[cbor(b(6), with = "minicbor::bytes")]
    payload: Option<&'a [u8]>,
    #[n(7)]
    epoch: Option<u64>,
}

pub struct Node {
    log: Log,
}

impl Node {
    pub fn new(setup: &Setup) -> Self {
        Self { log: Log::new(setup) }
    }
}

/// One request, and its answer.
pub async fn serve_stream(mut send: impl Sender, mut recv: impl Receiver, node: &Node) -> Result<()> {
    let mut frames = Frames::default();
    let body = frames.next(&mut recv).await?.ok_or("no frame came")?;
    let request: Request<'_> = minicbor::decode(&body)?;
    if request.version != VERSION {
        return Err("another version".into());
    }
    if request.more == Some(true) {
        return match request.method {
            "bench.bidi" => echo_items(send, recv, frames).await,
            _ => Err("no such method with items".into()),
        };
    }
    if frames.next(&mut recv).await?.is_some() {
        return Err("one frame too many".into());
    }
    let payload = match request.method {
        "bench.echo" => request.params.unwrap_or_default(),
        "bench.take" => &[],
        "bench.give" => large(),
        "bench.publish" => {
            node.log.publish(Bytes::copy_from_slice(request.params.unwrap_or_default()));
            &[]
        }
        "node.stream_events" => {
            let follow = request.follow == Some(true);
            return stream_events(send, node, request.resume_from.unwrap_or(0), follow).await;
        }
        _ => return Err("no such method".into()),
    };
    send.send(result(payload)?).await?;
    send.finish()?;
    Ok(())
}

async fn echo_items(mut send: impl Sender, mut recv: impl Receiver, mut frames: Frames) -> Result<()> {
    while let Some(body) = frames.next(&mut recv).await? {
        let item: Item<'_> = minicbor::decode(&body)?;
        send.send(result(item.params.unwrap_or_default())?).await?;
    }
    send.finish()?;
    Ok(())
}

/// The frame of a result.
fn result(payload: &[u8]) -> Result<Bytes> {
    let payload = Some(payload);
    let result = Response { version: VERSION, kind: "result", ok: true, seq: None, payload, epoch: None };
    let mut frame = Vec::with_capacity(payload.map_or(0, <[u8]>::len) + 64);
    append(&result, &mut frame)?;
    Ok(frame.into())
}

async fn stream_events(mut send: impl Sender, node: &Node, mut position: u64, follow: bool) -> Result<()> {
    let mut frames = Vec::new();
    loop {
        let published = node.log.listen();
        loop {
            let events = node.log.after(position, EVENTS_AT_ONCE);
            let caught_up = events.is_empty();
            for (seq, payload) in events {
                let event = Response {
                    version: VERSION,
                    kind: "event",
                    ok: true,
                    seq: Some(seq),
                    payload: Some(&payload),
                    epoch: Some(EPOCH),
                };
                append(&event, &mut frames)?;
                position = seq;
            }
            if frames.len() >= WRITE_BYTES || (caught_up && !frames.is_empty()) {
                send.send(std::mem::take(&mut frames).into()).await?;
            } else if caught_up {
                break;
            }
        }
        if !follow {
            break;
        }
        published.await;
    }
    send.finish()?;
    Ok(())
}

/// Writes a frame behind what is there.
fn append(message: &impl Encode<()>, frame: &mut Vec<u8>) -> Result<()> {
    let start = frame.len();
    frame.extend_from_slice(&[0; 4]);
    minicbor::encode(message, &mut *frame)?;
    let length = u32::try_from(frame.len() - start - 4)?;
    frame[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Cuts frames out of chunks as they come; most chunks hold whole ones, which are not copied.
#[derive(Default)]
struct Frames {
    chunk: Bytes,
    partial: BytesMut,
}

impl Frames {
    /// The next frame's body; `None` at the end of the stream.
    async fn next(&mut self, recv: &mut impl Receiver) -> Result<Option<Bytes>> {
        loop {
            if let Some(body) = self.take()? {
                return Ok(Some(body));
            }
            match recv.receive().await? {
                Some(chunk) if self.partial.is_empty() && self.chunk.is_empty() => self.chunk = chunk,
                Some(chunk) => {
                    // What is left of the last chunk is less than a frame.
                    self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
                    self.partial.extend_from_slice(&chunk);
                    if length_of(&self.partial)?.is_some_and(|length| self.partial.len() >= 4 + length) {
                        self.chunk = std::mem::take(&mut self.partial).freeze();
                    }
                }
                None if self.chunk.is_empty() && self.partial.is_empty() => return Ok(None),
                None => return Err("the stream ended within a frame".into()),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>> {
        match length_of(&self.chunk)? {
            Some(length) if self.chunk.len() >= 4 + length => {
                self.chunk.advance(4);
                Ok(Some(self.chunk.split_to(length)))
            }
            _ => Ok(None),
        }
    }
}

fn length_of(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(prefix) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*prefix))?;
    if length == 0 || length > MAX_FRAME_BYTES {
        return Err("a frame of that length is refused".into());
    }
    Ok(Some(length))
}

#[cfg(feature = "harness")]
async fn read_only_frame(recv: &mut impl Receiver) -> Result<Bytes> {
    let mut frames = Frames::default();
    let body = frames.next(recv).await?.ok_or("no frame came")?;
    match frames.next(recv).await? {
        None => Ok(body),
        Some(_) => Err("one frame too many".into()),
    }
}

#[cfg(feature = "harness")]
pub mod client {
    use super::*;
    use crate::{
        link::{self, Echo, Failure, Items, Measured, NoStreams},
        setup::{EVENT_BYTES, SMALL},
    };

    /// A connection of a client.
    pub trait Connection: Clone + Send + Sync + 'static {
        type Send: Sender;
        type Receive: Receiver;

        fn open(&self) -> impl Future<Output = Result<(Self::Send, Self::Receive)>> + Send;

        fn close(&self);
    }

    #[derive(Clone)]
    pub struct Link<C>(pub C);

    impl<C: Connection> Link<C> {
        async fn ask(&self, request: &Request<'_>) -> Result<C::Receive> {
            let (mut send, recv) = self.begin(request).await?;
            send.finish()?;
            Ok(recv)
        }

        async fn begin(&self, request: &Request<'_>) -> Result<(C::Send, C::Receive)> {
            let (mut send, recv) = self.0.open().await?;
            let mut frame = Vec::with_capacity(request.params.map_or(0, <[u8]>::len) + 64);
            append(request, &mut frame)?;
            send.send(frame.into()).await?;
            Ok((send, recv))
        }

        /// The length of the result.
        async fn call(&self, method: &str, params: &[u8]) -> Result<usize> {
            let params = Some(params);
            let request = Request { params, ..request(method) };
            let mut recv = self.ask(&request).await?;
            result_len(&read_only_frame(&mut recv).await?)
        }

        async fn events(&self, resume_from: Option<u64>, follow: Option<bool>) -> Result<Events<C::Receive>> {
            let recv = self.ask(&Request { resume_from, follow, ..request("node.stream_events") }).await?;
            Ok(Events { recv, frames: Frames::default(), last: resume_from.unwrap_or(0) })
        }
    }

    fn request(method: &str) -> Request<'_> {
        Request { version: VERSION, method, resume_from: None, params: None, follow: None, more: None }
    }

    fn result_len(body: &[u8]) -> Result<usize> {
        let response: Response<'_> = minicbor::decode(body)?;
        if response.kind != "result" {
            return Err("not a result".into());
        }
        Ok(response.payload.map_or(0, <[u8]>::len))
    }

    impl<C: Connection> link::Link for Link<C> {
        type Events = Events<C::Receive>;
        type Pipeline = NoStreams;
        type Bidi = Bidi<C>;

        async fn echo(&self) -> Measured<()> {
            let length = self.call("bench.echo", &SMALL).await?;
            if length == SMALL.len() { Ok(()) } else { Err("another echo".into()) }
        }

        async fn take(&self, payload: Bytes) -> Measured<()> {
            self.call("bench.take", &payload).await?;
            Ok(())
        }

        async fn give(&self) -> Measured<usize> {
            Ok(self.call("bench.give", &[]).await?)
        }

        async fn replay(&self) -> Measured<u64> {
            let mut events = self.events(None, None).await?;
            while events.advance().await? {}
            Ok(events.last)
        }

        async fn publish(&self) -> Measured<()> {
            self.call("bench.publish", &[7; EVENT_BYTES]).await?;
            Ok(())
        }

        async fn follow(&self, resume_from: u64) -> Measured<Events<C::Receive>> {
            Ok(self.events(Some(resume_from), Some(true)).await?)
        }

        async fn bidi(&self) -> Measured<Bidi<C>> {
            let (send, recv) = self.begin(&Request { more: Some(true), ..request("bench.bidi") }).await?;
            Ok(Bidi { send, recv, frames: Frames::default() })
        }

        async fn upload(&self, _items: Items) -> Measured<u64> {
            Err(Failure::NotOffered("is not built with uploads"))
        }

        fn close(self) {
            self.0.close();
        }
    }

    pub struct Bidi<C: Connection> {
        send: C::Send,
        recv: C::Receive,
        frames: Frames,
    }

    impl<C: Connection> Echo for Bidi<C> {
        async fn echo(&mut self) -> Measured<()> {
            let mut frame = Vec::with_capacity(SMALL.len() + 16);
            append(&Item { params: Some(&SMALL) }, &mut frame)?;
            self.send.send(frame.into()).await?;
            let body = self.frames.next(&mut self.recv).await?.ok_or("the answers ended")?;
            if result_len(&body)? == SMALL.len() { Ok(()) } else { Err("another echo".into()) }
        }
    }

    pub struct Events<R> {
        recv: R,
        frames: Frames,
        last: u64,
    }

    impl<R: Receiver> Events<R> {
        async fn advance(&mut self) -> Result<bool> {
            let Some(body) = self.frames.next(&mut self.recv).await? else { return Ok(false) };
            let event: Response<'_> = minicbor::decode(&body)?;
            self.last += 1;
            if event.seq != Some(self.last)
                || event.payload.is_none_or(|payload| payload.len() != EVENT_BYTES)
            {
                return Err("not the next event".into());
            }
            Ok(true)
        }
    }

    impl<R: Receiver> link::Events for Events<R> {
        async fn next(&mut self) -> Measured<()> {
            if self.advance().await? { Ok(()) } else { Err("the events ended".into()) }
        }
    }
}
