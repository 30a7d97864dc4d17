//! Bare quinn with our frames and messages, on quinn's `SmolRuntime` or on tokio: one write for a frame, a
//! task for a stream, events gathered into large writes. What remains of our protocol when nothing is
//! bounded, supervised or made safe.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use minicbor::{Decode, Encode};
use nix::sys::socket::{setsockopt, sockopt::RcvBuf};
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, MtuDiscoveryConfig, RecvStream, Runtime, SendStream,
    TransportConfig, VarInt,
};

use crate::{
    Result,
    log::Log,
    setup::{ALPN, DATAGRAM_BYTES, LARGE_DATAGRAM_BYTES, LOOPBACK, MAX_FRAME_BYTES, Setup, announce, large},
    tls,
};

const VERSION: u16 = 1;
const EPOCH: u64 = 0x1234_5678_9abc_def0;
/// What one write of events holds about.
const WRITE_BYTES: usize = 16 * 1024;
const EVENTS_AT_ONCE: usize = 256;

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

/// Where tasks go.
pub trait Spawn: Copy + Send + Sync + 'static {
    fn spawn(self, future: impl Future<Output = ()> + Send + 'static);
}

struct Node {
    log: Log,
}

/// How an endpoint is tuned.
pub trait Tuning: Clone + Send + Sync + 'static {
    const DATAGRAM_BYTES: u16 = DATAGRAM_BYTES;
    /// Whether the windows are those that palyra has by default, or else quinn's.
    const SMALL_WINDOWS: bool = true;
}

/// As palyra is by default.
#[derive(Clone)]
pub struct Equal;
/// As palyra is with large datagrams.
#[derive(Clone)]
pub struct Large;
/// With quinn's defaults.
#[derive(Clone)]
pub struct Untuned;

impl Tuning for Equal {}

impl Tuning for Large {
    const DATAGRAM_BYTES: u16 = LARGE_DATAGRAM_BYTES;
}

impl Tuning for Untuned {
    const SMALL_WINDOWS: bool = false;
}

/// With the receive buffer that palyra asks for, because few large datagrams fit the usual one.
fn socket() -> Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(LOOPBACK)?;
    setsockopt(&socket, RcvBuf, &(4 * 1024 * 1024))?;
    Ok(socket)
}

fn endpoint_config<T: Tuning>() -> Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(T::DATAGRAM_BYTES)?;
    Ok(config)
}

fn transport<T: Tuning>() -> Result<Arc<TransportConfig>> {
    let mut config = TransportConfig::default();
    let mut mtu_discovery = MtuDiscoveryConfig::default();
    mtu_discovery.upper_bound(T::DATAGRAM_BYTES);
    config.mtu_discovery_config(Some(mtu_discovery));
    if T::SMALL_WINDOWS {
        config
            .stream_receive_window(VarInt::from_u32(128 * 1024))
            .receive_window(VarInt::from_u32(256 * 1024))
            .send_window(256 * 1024);
    }
    config
        .max_idle_timeout(Some(IdleTimeout::try_from(Duration::from_secs(30))?))
        .keep_alive_interval(Some(Duration::from_secs(5)))
        .max_concurrent_bidi_streams(VarInt::from_u32(32))
        .max_concurrent_uni_streams(VarInt::from_u32(32));
    Ok(Arc::new(config))
}

/// Binds a server on this runtime, and serves from now on.
pub fn serve<T: Tuning>(setup: &Setup, runtime: Arc<dyn Runtime>, spawn: impl Spawn) -> Result<()> {
    let mut crypto = tls::server(&setup.credentials("server")?, ALPN)?;
    crypto.send_tls13_tickets = 0;
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(crypto)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport::<T>()?);
    let endpoint = Endpoint::new(endpoint_config::<T>()?, Some(config), socket()?, runtime)?;
    let node = Arc::new(Node { log: Log::new(setup) });
    announce(endpoint.local_addr()?)?;
    spawn.spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let node = Arc::clone(&node);
            spawn.spawn(async move {
                // Whoever broke off is not answered.
                let _ = serve_connection(incoming, node, spawn).await;
            });
        }
    });
    Ok(())
}

async fn serve_connection(incoming: Incoming, node: Arc<Node>, spawn: impl Spawn) -> Result<()> {
    let connection = incoming.await?;
    loop {
        let (send, recv) = connection.accept_bi().await?;
        let node = Arc::clone(&node);
        spawn.spawn(async move {
            let _ = serve_stream(send, recv, &node).await;
        });
    }
}

async fn serve_stream(mut send: SendStream, mut recv: RecvStream, node: &Node) -> Result<()> {
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
    send.write_chunk(result(payload)?).await?;
    send.finish()?;
    Ok(())
}

async fn echo_items(mut send: SendStream, mut recv: RecvStream, mut frames: Frames) -> Result<()> {
    while let Some(body) = frames.next(&mut recv).await? {
        let item: Item<'_> = minicbor::decode(&body)?;
        send.write_chunk(result(item.params.unwrap_or_default())?).await?;
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

async fn stream_events(mut send: SendStream, node: &Node, mut position: u64, follow: bool) -> Result<()> {
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
                send.write_chunk(std::mem::take(&mut frames).into()).await?;
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
    async fn next(&mut self, recv: &mut RecvStream) -> Result<Option<Bytes>> {
        loop {
            if let Some(body) = self.take()? {
                return Ok(Some(body));
            }
            match recv.read_chunk(usize::MAX, true).await? {
                Some(chunk) if self.partial.is_empty() && self.chunk.is_empty() => self.chunk = chunk.bytes,
                Some(chunk) => {
                    // What is left of the last chunk is less than a frame.
                    self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
                    self.partial.extend_from_slice(&chunk.bytes);
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
async fn read_only_frame(recv: &mut RecvStream) -> Result<Bytes> {
    let mut frames = Frames::default();
    let body = frames.next(recv).await?.ok_or("no frame came")?;
    match frames.next(recv).await? {
        None => Ok(body),
        Some(_) => Err("one frame too many".into()),
    }
}

/// quinn's `SmolRuntime`, which runs on smol's global executor: one thread, unless `SMOL_THREADS` says
/// otherwise.
#[cfg(feature = "quinn-smol")]
pub mod on_smol {
    use super::*;

    #[derive(Clone, Copy)]
    struct Global;

    impl Spawn for Global {
        fn spawn(self, future: impl Future<Output = ()> + Send + 'static) {
            smol::spawn(future).detach();
        }
    }

    pub fn serve(setup: &Setup) -> Result<()> {
        super::serve::<Equal>(setup, Arc::new(quinn::SmolRuntime), Global)?;
        loop {
            // All work is the executor's.
            std::thread::park();
        }
    }
}

#[cfg(feature = "quinn-tokio")]
pub mod on_tokio {
    use super::*;

    #[derive(Clone, Copy)]
    struct Tokio;

    impl Spawn for Tokio {
        fn spawn(self, future: impl Future<Output = ()> + Send + 'static) {
            tokio::spawn(future);
        }
    }

    pub fn serve<T: Tuning>(setup: &Setup) -> Result<()> {
        let runtime = crate::on_tokio::current_thread()?;
        runtime.block_on(async {
            super::serve::<T>(setup, Arc::new(quinn::TokioRuntime), Tokio)?;
            std::future::pending().await
        })
    }
}

#[cfg(feature = "harness")]
pub mod client {
    use std::{marker::PhantomData, net::SocketAddr};

    use quinn::Connection;

    use super::*;
    use crate::{
        link::{self, Echo, Failure, Items, Measured, NoStreams},
        on_tokio::{self, client::Executor},
        setup::{EVENT_BYTES, SERVER_NAME, SMALL},
    };

    fn endpoint<T: Tuning>(setup: &Setup, runtime: Arc<dyn Runtime>) -> Result<Endpoint> {
        let crypto = tls::client(&setup.credentials("client")?, ALPN)?;
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(crypto)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport::<T>()?);
        let mut endpoint = Endpoint::new(endpoint_config::<T>()?, None, socket()?, runtime)?;
        endpoint.set_default_client_config(config);
        Ok(endpoint)
    }

    #[derive(Clone)]
    pub struct OnSmol {
        endpoint: Endpoint,
        address: SocketAddr,
    }

    impl link::Stack for OnSmol {
        type Link = Link;

        fn new(setup: &Setup, address: &str) -> Result<Self> {
            Ok(Self {
                endpoint: endpoint::<Equal>(setup, Arc::new(quinn::SmolRuntime))?,
                address: address.parse()?,
            })
        }

        fn block_on<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
            // Without smol's reactor, so that only the executor's thread drives it.
            let (sender, receiver) = std::sync::mpsc::channel();
            smol::spawn(async move {
                let _ = sender.send(future.await);
            })
            .detach();
            receiver.recv().expect("the task does not panic")
        }

        fn spawn<T: Send + 'static>(
            &self,
            future: impl Future<Output = T> + Send + 'static,
        ) -> impl Future<Output = T> + Send + 'static {
            smol::spawn(future)
        }

        async fn connect(&self) -> Measured<Link> {
            Ok(Link(self.endpoint.connect(self.address, SERVER_NAME)?.await?))
        }
    }

    #[derive(Clone)]
    pub struct OnTokio<Tuned> {
        executor: Executor,
        endpoint: Endpoint,
        address: SocketAddr,
        tuning: PhantomData<fn() -> Tuned>,
    }

    impl<Tuned: Tuning> link::Stack for OnTokio<Tuned> {
        type Link = Link;

        fn new(setup: &Setup, address: &str) -> Result<Self> {
            let runtime = on_tokio::current_thread()?;
            let guard = runtime.enter();
            let endpoint = endpoint::<Tuned>(setup, Arc::new(quinn::TokioRuntime))?;
            drop(guard);
            Ok(Self {
                executor: Executor::new(runtime),
                endpoint,
                address: address.parse()?,
                tuning: PhantomData,
            })
        }

        fn block_on<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
            self.executor.block_on(future)
        }

        fn spawn<T: Send + 'static>(
            &self,
            future: impl Future<Output = T> + Send + 'static,
        ) -> impl Future<Output = T> + Send + 'static {
            self.executor.spawn(future)
        }

        async fn connect(&self) -> Measured<Link> {
            Ok(Link(self.endpoint.connect(self.address, SERVER_NAME)?.await?))
        }
    }

    #[derive(Clone)]
    pub struct Link(Connection);

    impl Link {
        async fn ask(&self, request: &Request<'_>) -> Result<RecvStream> {
            let (mut send, recv) = self.begin(request).await?;
            send.finish()?;
            Ok(recv)
        }

        async fn begin(&self, request: &Request<'_>) -> Result<(SendStream, RecvStream)> {
            let (mut send, recv) = self.0.open_bi().await?;
            let mut frame = Vec::with_capacity(request.params.map_or(0, <[u8]>::len) + 64);
            append(request, &mut frame)?;
            send.write_chunk(frame.into()).await?;
            Ok((send, recv))
        }

        /// The length of the result.
        async fn call(&self, method: &str, params: &[u8]) -> Result<usize> {
            let params = Some(params);
            let request = Request { params, ..request(method) };
            let mut recv = self.ask(&request).await?;
            result_len(&read_only_frame(&mut recv).await?)
        }

        async fn events(&self, resume_from: Option<u64>, follow: Option<bool>) -> Result<Events> {
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

    impl link::Link for Link {
        type Events = Events;
        type Pipeline = NoStreams;
        type Bidi = Bidi;

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

        async fn follow(&self, resume_from: u64) -> Measured<Events> {
            Ok(self.events(Some(resume_from), Some(true)).await?)
        }

        async fn bidi(&self) -> Measured<Bidi> {
            let (send, recv) = self.begin(&Request { more: Some(true), ..request("bench.bidi") }).await?;
            Ok(Bidi { send, recv, frames: Frames::default() })
        }

        async fn upload(&self, _items: Items) -> Measured<u64> {
            Err(Failure::NotOffered("is not built with uploads"))
        }

        fn close(self) {
            Connection::close(&self.0, VarInt::from_u32(0), b"");
        }
    }

    pub struct Bidi {
        send: SendStream,
        recv: RecvStream,
        frames: Frames,
    }

    impl Echo for Bidi {
        async fn echo(&mut self) -> Measured<()> {
            let mut frame = Vec::with_capacity(SMALL.len() + 16);
            append(&Item { params: Some(&SMALL) }, &mut frame)?;
            self.send.write_chunk(frame.into()).await?;
            let body = self.frames.next(&mut self.recv).await?.ok_or("the answers ended")?;
            if result_len(&body)? == SMALL.len() { Ok(()) } else { Err("another echo".into()) }
        }
    }

    pub struct Events {
        recv: RecvStream,
        frames: Frames,
        last: u64,
    }

    impl Events {
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

    impl link::Events for Events {
        async fn next(&mut self) -> Measured<()> {
            if self.advance().await? { Ok(()) } else { Err("the events ended".into()) }
        }
    }
}
