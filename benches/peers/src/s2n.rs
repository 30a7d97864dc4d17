//! s2n-quic with our frames and messages, on tokio's current-thread runtime; TLS by rustls with *ring*, as
//! for the others.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use s2n_quic::{
    Connection, Server,
    provider::{io, limits::Limits, tls::rustls},
    stream::{ReceiveStream, SendStream},
};

use crate::{
    Result,
    cbor::{Node, Receiver, Sender, serve_stream},
    on_tokio,
    setup::{ALPN, LOOPBACK, RECEIVE_BUFFER_BYTES, Setup, announce},
    tls,
};

impl Sender for SendStream {
    async fn send(&mut self, bytes: Bytes) -> Result<()> {
        Ok(Self::send(self, bytes).await?)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(Self::finish(self)?)
    }
}

impl Receiver for ReceiveStream {
    async fn receive(&mut self) -> Result<Option<Bytes>> {
        Ok(Self::receive(self).await?)
    }
}

/// As those of bare quinn, but for the number of streams: with as many as there are calls in flight, each
/// call would wait for the acknowledgement of another before its stream may be opened.
fn limits() -> Result<Limits> {
    Ok(Limits::default()
        .with_max_idle_timeout(Duration::from_secs(30))?
        .with_max_keep_alive_period(Duration::from_secs(5))?)
}

/// Within a runtime, on which its tasks then are.
fn socket(address: SocketAddr) -> Result<io::tokio::Provider> {
    Ok(io::tokio::Builder::default()
        .with_receive_address(address)?
        .with_recv_buffer_size(RECEIVE_BUFFER_BYTES)?
        .build()?)
}

pub fn serve(setup: &Setup) -> Result<()> {
    let mut crypto = tls::server(&setup.credentials("server")?, ALPN)?;
    crypto.send_tls13_tickets = 0;
    let node = Arc::new(Node::new(setup));
    on_tokio::current_thread()?.block_on(async {
        let mut server = Server::builder()
            .with_tls(rustls::Server::from(Arc::new(crypto)))?
            .with_io(socket(LOOPBACK)?)?
            .with_limits(limits()?)?
            .start()?;
        announce(server.local_addr()?)?;
        while let Some(connection) = server.accept().await {
            tokio::spawn(serve_connection(connection, Arc::clone(&node)));
        }
        Err("the server ended".into())
    })
}

async fn serve_connection(mut connection: Connection, node: Arc<Node>) {
    // Whoever broke off is not answered.
    while let Ok(Some(stream)) = connection.accept_bidirectional_stream().await {
        let node = Arc::clone(&node);
        let (recv, send) = stream.split();
        tokio::spawn(async move {
            let _ = serve_stream(send, recv, &node).await;
        });
    }
}

#[cfg(feature = "harness")]
mod client {
    use s2n_quic::{Client, application, client::Connect, connection::Handle};

    use super::*;
    use crate::{
        cbor::client::{self, Link},
        link::Measured,
        on_tokio::client::{self as tokio_client, Connector},
        setup::SERVER_NAME,
    };

    impl client::Connection for Handle {
        type Send = SendStream;
        type Receive = ReceiveStream;

        async fn open(&self) -> Result<(SendStream, ReceiveStream)> {
            let (recv, send) = self.clone().open_bidirectional_stream().await?.split();
            Ok((send, recv))
        }

        fn close(&self) {
            Self::close(self, application::Error::UNKNOWN);
        }
    }

    pub type Stack = tokio_client::Stack<Endpoint>;

    #[derive(Clone)]
    pub struct Endpoint {
        client: Client,
        address: SocketAddr,
    }

    impl Connector for Endpoint {
        type Link = Link<Handle>;

        fn new(setup: &Setup, address: SocketAddr) -> Result<Self> {
            let crypto = tls::client(&setup.credentials("client")?, ALPN)?;
            let client = Client::builder()
                .with_tls(rustls::Client::from(Arc::new(crypto)))?
                .with_io(socket(LOOPBACK)?)?
                .with_limits(limits()?)?
                .start()?;
            Ok(Self { client, address })
        }

        async fn connect(&self) -> Measured<Link<Handle>> {
            let connect = Connect::new(self.address).with_server_name(SERVER_NAME);
            let mut connection = self.client.connect(connect).await?;
            connection.keep_alive(true)?;
            Ok(Link(connection.handle()))
        }
    }
}

#[cfg(feature = "harness")]
pub use self::client::Stack;
