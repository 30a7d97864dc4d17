//! The reference protocol on tokio: JSON bodies, a write each for length and body and then a flush, the
//! streams of a connection one after another, frames read into buffers of the announced length.

use std::{future::pending, sync::Arc, time::Duration};

use quinn::{Endpoint, IdleTimeout, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, runtime::Runtime, sync::Semaphore};

use crate::{
    Result,
    setup::{ALPN, LOOPBACK, MAX_FRAME_BYTES, Setup, announce},
    tls,
};

const VERSION: u16 = 1;
const HEALTH: &str = "node.health";
const EVENTS: &str = "node.stream_events";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    protocol_version: u16,
    method: String,
    resume_from: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Response {
    protocol_version: u16,
    kind: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_rpc_mtls_required: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Response {
    fn new(kind: &str, ok: bool) -> Self {
        Self {
            protocol_version: VERSION,
            kind: kind.to_owned(),
            ok,
            seq: None,
            node_rpc_mtls_required: None,
            error: None,
        }
    }

    fn error(error: &str) -> Self {
        Self { error: Some(error.to_owned()), ..Self::new("error", false) }
    }
}

fn transport() -> Result<Arc<TransportConfig>> {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::try_from(Duration::from_secs(30))?))
        .keep_alive_interval(Some(Duration::from_secs(5)))
        .max_concurrent_bidi_streams(VarInt::from_u32(32))
        .max_concurrent_uni_streams(VarInt::from_u32(32));
    Ok(Arc::new(config))
}

pub fn serve(runtime: &Runtime, setup: &Setup) -> Result<()> {
    let crypto = tls::server(&setup.credentials("server")?, ALPN)?;
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(crypto)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport()?);
    let guard = runtime.enter();
    let endpoint = Endpoint::server(config, LOOPBACK)?;
    drop(guard);
    announce(endpoint.local_addr()?)?;
    let slots = Arc::new(Semaphore::new(usize::try_from(setup.connections)?));
    runtime.spawn(accept(endpoint, slots, u64::from(setup.events)));
    runtime.block_on(pending())
}

async fn accept(endpoint: Endpoint, slots: Arc<Semaphore>, events: u64) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        tokio::spawn(async move {
            // Whoever broke off is not answered.
            let _ = serve_connection(incoming, events).await;
            drop(slot);
        });
    }
}

async fn serve_connection(incoming: Incoming, events: u64) -> Result<()> {
    let connection = incoming.await?;
    loop {
        let (mut send, mut recv) = connection.accept_bi().await?;
        // A stream that fails does not end the connection.
        if serve_stream(&mut send, &mut recv, events).await.is_err() {
            let _ = write_frame(&mut send, &Response::error("stream_failure")).await;
        }
        let _ = send.finish();
    }
}

async fn serve_stream(send: &mut SendStream, recv: &mut RecvStream, events: u64) -> Result<()> {
    let body = read_frame(recv).await?;
    match serde_json::from_slice::<Request>(&body) {
        Err(_) => write_frame(send, &Response::error("invalid_request")).await?,
        Ok(request) if request.protocol_version != VERSION => {
            write_frame(send, &Response::error("protocol_mismatch")).await?;
        }
        Ok(request) => match request.method.as_str() {
            HEALTH => {
                let health = Response { node_rpc_mtls_required: Some(true), ..Response::new("health", true) };
                write_frame(send, &health).await?;
            }
            EVENTS => {
                for seq in request.resume_from.unwrap_or(0).saturating_add(1)..=events {
                    write_frame(send, &Response { seq: Some(seq), ..Response::new("event", true) }).await?;
                }
            }
            _ => write_frame(send, &Response::error("unsupported_method")).await?,
        },
    }
    Ok(())
}

async fn read_frame(recv: &mut RecvStream) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await?;
    read_body(recv, length).await
}

async fn read_body(recv: &mut RecvStream, length: [u8; 4]) -> Result<Vec<u8>> {
    let length = usize::try_from(u32::from_be_bytes(length))?;
    if length > MAX_FRAME_BYTES {
        return Err("frame too large".into());
    }
    let mut body = vec![0; length];
    recv.read_exact(&mut body).await?;
    Ok(body)
}

async fn write_frame<T: Serialize>(send: &mut SendStream, message: &T) -> Result<()> {
    let body = serde_json::to_vec(message)?;
    send.write_all(&u32::try_from(body.len())?.to_be_bytes()).await?;
    send.write_all(&body).await?;
    send.flush().await?;
    Ok(())
}

#[cfg(feature = "harness")]
mod client {
    use std::net::SocketAddr;

    use bytes::Bytes;
    use quinn::{Connection, ReadExactError};

    use super::*;
    use crate::{
        link::{self, Failure, Measured, NoEvents, NoStreams},
        on_tokio::client::{self, Connector},
        setup::SERVER_NAME,
    };

    const NO_PAYLOADS: &str = "carries no payloads";
    const NO_FOLLOWING: &str = "its event stream ends";

    /// With one thread, or with two workers.
    pub type Stack<const WORKERS: usize> = client::Stack<Client, WORKERS>;

    #[derive(Clone)]
    pub struct Client {
        endpoint: Endpoint,
        address: SocketAddr,
    }

    impl Connector for Client {
        type Link = Connection;

        fn new(setup: &Setup, address: SocketAddr) -> Result<Self> {
            let crypto = tls::client(&setup.credentials("client")?, ALPN)?;
            let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(crypto)?;
            let mut config = quinn::ClientConfig::new(Arc::new(crypto));
            config.transport_config(transport()?);
            let mut endpoint = Endpoint::client(LOOPBACK)?;
            endpoint.set_default_client_config(config);
            Ok(Self { endpoint, address })
        }

        async fn connect(&self) -> Measured<Connection> {
            Ok(self.endpoint.connect(self.address, SERVER_NAME)?.await?)
        }
    }

    async fn ask(connection: &Connection, method: &str) -> Result<RecvStream> {
        let (mut send, recv) = connection.open_bi().await?;
        let request = Request { protocol_version: VERSION, method: method.to_owned(), resume_from: None };
        write_frame(&mut send, &request).await?;
        send.finish()?;
        Ok(recv)
    }

    impl link::Link for Connection {
        type Events = NoEvents;
        type Pipeline = NoStreams;
        type Bidi = NoStreams;

        async fn echo(&self) -> Measured<()> {
            let mut recv = ask(self, HEALTH).await?;
            let response: Response = serde_json::from_slice(&read_frame(&mut recv).await?)?;
            if response.ok { Ok(()) } else { Err("not well".into()) }
        }

        async fn take(&self, _payload: Bytes) -> Measured<()> {
            Err(Failure::NotOffered(NO_PAYLOADS))
        }

        async fn give(&self) -> Measured<usize> {
            Err(Failure::NotOffered(NO_PAYLOADS))
        }

        async fn replay(&self) -> Measured<u64> {
            let mut recv = ask(self, EVENTS).await?;
            let mut count = 0;
            loop {
                let mut length = [0; 4];
                match recv.read_exact(&mut length).await {
                    Ok(()) => {}
                    Err(ReadExactError::FinishedEarly(0)) => return Ok(count),
                    Err(error) => return Err(error.into()),
                }
                let event: Response = serde_json::from_slice(&read_body(&mut recv, length).await?)?;
                count += 1;
                if event.seq != Some(count) {
                    return Err("out of sequence".into());
                }
            }
        }

        async fn publish(&self) -> Measured<()> {
            Err(Failure::NotOffered(NO_FOLLOWING))
        }

        async fn follow(&self, _resume_from: u64) -> Measured<NoEvents> {
            Err(Failure::NotOffered(NO_FOLLOWING))
        }

        fn close(self) {
            Self::close(&self, VarInt::from_u32(0), b"");
        }
    }
}

#[cfg(feature = "harness")]
pub use self::client::Stack;
