//! tarpc over TLS with bincode, on tokio's current-thread runtime.

use std::sync::Arc;

use futures_util::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::{
    context::Context,
    server::{BaseChannel, Channel},
    tokio_serde::formats::Bincode,
    tokio_util::codec::LengthDelimitedCodec,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    Result, on_tokio,
    setup::{LOOPBACK, Setup, announce, large},
    tls,
};

/// Room for a large payload and what it has beside it.
const MAX_FRAME_BYTES: usize = 1024 * 1024;

#[tarpc::service]
pub trait Node {
    async fn echo(payload: ByteBuf) -> ByteBuf;
    async fn take(payload: ByteBuf);
    async fn give() -> ByteBuf;
}

#[derive(Clone)]
struct NodeServer;

impl Node for NodeServer {
    async fn echo(self, _: Context, payload: ByteBuf) -> ByteBuf {
        payload
    }

    async fn take(self, _: Context, _payload: ByteBuf) {}

    async fn give(self, _: Context) -> ByteBuf {
        ByteBuf::from(large().to_vec())
    }
}

pub fn serve(setup: &Setup) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::server(&setup.credentials("server")?, b"")?));
    on_tokio::current_thread()?.block_on(async {
        let listener = TcpListener::bind(LOOPBACK).await?;
        announce(listener.local_addr()?)?;
        loop {
            let (tcp, _) = listener.accept().await?;
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Whoever broke off is not answered.
                let _ = serve_connection(tcp, acceptor).await;
            });
        }
    })
}

async fn serve_connection(tcp: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.accept(tcp).await?;
    let framed = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_framed(tls);
    let transport = tarpc::serde_transport::new(framed, Bincode::default());
    let exchanges = BaseChannel::with_defaults(transport).execute(NodeServer.serve());
    exchanges
        .for_each(|exchange| async {
            tokio::spawn(exchange);
        })
        .await;
    Ok(())
}

#[cfg(feature = "harness")]
mod client {
    use std::net::SocketAddr;

    use bytes::Bytes;
    use rustls::pki_types::ServerName;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::{
        link::{self, Echo, Failure, Measured, NoEvents, NoStreams},
        on_tokio::client::{self, Connector},
        setup::{SERVER_NAME, SMALL},
    };

    const NO_STREAMS: &str = "has no streams";

    pub type Stack = client::Stack<Tls>;

    #[derive(Clone)]
    pub struct Tls {
        connector: TlsConnector,
        name: ServerName<'static>,
        address: SocketAddr,
    }

    impl Connector for Tls {
        type Link = NodeClient;

        fn new(setup: &Setup, address: SocketAddr) -> Result<Self> {
            let config = tls::client(&setup.credentials("client")?, b"")?;
            Ok(Self {
                connector: TlsConnector::from(Arc::new(config)),
                name: ServerName::try_from(SERVER_NAME)?,
                address,
            })
        }

        async fn connect(&self) -> Measured<NodeClient> {
            let tcp = TcpStream::connect(self.address).await?;
            tcp.set_nodelay(true)?;
            let tls = self.connector.connect(self.name.clone(), tcp).await?;
            let framed = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_framed(tls);
            let transport = tarpc::serde_transport::new(framed, Bincode::default());
            Ok(NodeClient::new(tarpc::client::Config::default(), transport).spawn())
        }
    }

    impl link::Link for NodeClient {
        type Events = NoEvents;
        type Pipeline = Self;
        type Bidi = NoStreams;

        async fn echo(&self) -> Measured<()> {
            let answer = Self::echo(self, tarpc::context::current(), ByteBuf::from(SMALL)).await?;
            if answer.len() == SMALL.len() { Ok(()) } else { Err("another echo".into()) }
        }

        /// All its calls share one stream, TCP's.
        async fn pipeline(&self) -> Measured<Self> {
            Ok(self.clone())
        }

        async fn take(&self, payload: Bytes) -> Measured<()> {
            let payload = ByteBuf::from(payload.to_vec());
            Ok(Self::take(self, tarpc::context::current(), payload).await?)
        }

        async fn give(&self) -> Measured<usize> {
            Ok(Self::give(self, tarpc::context::current()).await?.len())
        }

        async fn replay(&self) -> Measured<u64> {
            Err(Failure::NotOffered(NO_STREAMS))
        }

        async fn publish(&self) -> Measured<()> {
            Err(Failure::NotOffered(NO_STREAMS))
        }

        async fn follow(&self, _resume_from: u64) -> Measured<NoEvents> {
            Err(Failure::NotOffered(NO_STREAMS))
        }

        /// The connection goes with its last handle.
        fn close(self) {}
    }

    impl Echo for NodeClient {
        async fn echo(&mut self) -> Measured<()> {
            link::Link::echo(self).await
        }
    }
}

#[cfg(feature = "harness")]
pub use self::client::Stack;
