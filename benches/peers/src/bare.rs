//! Bare quinn with our frames and messages, on quinn's `SmolRuntime` or on tokio: a task for a stream. What
//! remains of our protocol when nothing is bounded, supervised or made safe.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, MtuDiscoveryConfig, RecvStream, Runtime, SendStream,
    TransportConfig, VarInt,
};

use crate::{
    Result,
    cbor::{Node, Receiver, Sender, serve_stream},
    setup::{ALPN, DATAGRAM_BYTES, LARGE_DATAGRAM_BYTES, Setup, announce, udp_socket},
    tls,
};

impl Sender for SendStream {
    async fn send(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.write_chunk(bytes).await?)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(Self::finish(self)?)
    }
}

impl Receiver for RecvStream {
    async fn receive(&mut self) -> Result<Option<Bytes>> {
        Ok(self.read_chunk(usize::MAX, true).await?.map(|chunk| chunk.bytes))
    }
}

/// Where tasks go.
pub trait Spawn: Copy + Send + Sync + 'static {
    fn spawn(self, future: impl Future<Output = ()> + Send + 'static);
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
    let socket = udp_socket()?;
    let endpoint = Endpoint::new(endpoint_config::<T>()?, Some(config), socket, runtime)?;
    let node = Arc::new(Node::new(setup));
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
        cbor::client::{self, Link},
        link::{self, Measured},
        on_tokio::client::{Connector, Stack},
        setup::SERVER_NAME,
    };

    impl client::Connection for Connection {
        type Send = SendStream;
        type Receive = RecvStream;

        async fn open(&self) -> Result<(SendStream, RecvStream)> {
            Ok(self.open_bi().await?)
        }

        fn close(&self) {
            Self::close(self, VarInt::from_u32(0), b"");
        }
    }

    fn endpoint<T: Tuning>(setup: &Setup, runtime: Arc<dyn Runtime>) -> Result<Endpoint> {
        let crypto = tls::client(&setup.credentials("client")?, ALPN)?;
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(crypto)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport::<T>()?);
        let mut endpoint = Endpoint::new(endpoint_config::<T>()?, None, udp_socket()?, runtime)?;
        endpoint.set_default_client_config(config);
        Ok(endpoint)
    }

    #[derive(Clone)]
    pub struct OnSmol {
        endpoint: Endpoint,
        address: SocketAddr,
    }

    impl link::Stack for OnSmol {
        type Link = Link<Connection>;

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

        async fn connect(&self) -> Measured<Link<Connection>> {
            Ok(Link(self.endpoint.connect(self.address, SERVER_NAME)?.await?))
        }
    }

    pub type OnTokio<Tuned> = Stack<TunedClient<Tuned>>;

    #[derive(Clone)]
    pub struct TunedClient<Tuned> {
        endpoint: Endpoint,
        address: SocketAddr,
        tuning: PhantomData<fn() -> Tuned>,
    }

    impl<Tuned: Tuning> Connector for TunedClient<Tuned> {
        type Link = Link<Connection>;

        fn new(setup: &Setup, address: SocketAddr) -> Result<Self> {
            let endpoint = endpoint::<Tuned>(setup, Arc::new(quinn::TokioRuntime))?;
            Ok(Self { endpoint, address, tuning: PhantomData })
        }

        async fn connect(&self) -> Measured<Link<Connection>> {
            Ok(Link(self.endpoint.connect(self.address, SERVER_NAME)?.await?))
        }
    }
}
