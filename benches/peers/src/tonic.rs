//! gRPC over TLS with tonic, on tokio's current-thread runtime. What tonic-build would write is written by
//! hand here, so that nobody needs `protoc`.

use std::{convert::Infallible, future::Ready, sync::Arc};

use bytes::Bytes;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, BoxStream, Context, Poll, Service, http},
    server::{
        ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService,
    },
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

use crate::{
    Result,
    log::Log,
    on_tokio,
    setup::{Credentials, LOOPBACK, Setup, announce, large},
};

#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Subscribe {
    #[prost(uint64, tag = "1")]
    resume_from: u64,
    #[prost(bool, tag = "2")]
    follow: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Count {
    #[prost(uint64, tag = "1")]
    count: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(bytes = "bytes", tag = "2")]
    payload: Bytes,
}

struct Node {
    log: Log,
}

pub fn serve(setup: &Setup) -> Result<()> {
    let Credentials { authority, certificate, key } = setup.credentials("server")?;
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(authority));
    let node = Arc::new(Node { log: Log::new(setup) });
    on_tokio::current_thread()?.block_on(async {
        let incoming = TcpIncoming::bind(LOOPBACK)?.with_nodelay(Some(true));
        announce(incoming.local_addr()?)?;
        let server = Server::builder().tls_config(tls)?.add_service(NodeServer(node));
        Ok(server.serve_with_incoming(incoming).await?)
    })
}

#[derive(Clone)]
struct NodeServer(Arc<Node>);

impl NamedService for NodeServer {
    const NAME: &'static str = "peers.Node";
}

impl Service<http::Request<Body>> for NodeServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let node = Arc::clone(&self.0);
        match request.uri().path() {
            "/peers.Node/Echo" => unary(request, |payload| payload),
            "/peers.Node/Take" => unary(request, |_payload| Payload::default()),
            "/peers.Node/Give" => unary(request, |_| Payload { data: Bytes::from_static(large()) }),
            "/peers.Node/Publish" => unary(request, move |Payload { data }| {
                node.log.publish(data);
                Payload::default()
            }),
            "/peers.Node/Events" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::default());
                Ok(grpc.server_streaming(Events(node), request).await)
            }),
            "/peers.Node/Upload" => Box::pin(async move {
                Ok(Grpc::new(ProstCodec::default()).client_streaming(Upload, request).await)
            }),
            "/peers.Node/Bidi" => {
                Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).streaming(Bidi, request).await) })
            }
            _ => Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) }),
        }
    }
}

fn unary(
    request: http::Request<Body>,
    answer: impl FnMut(Payload) -> Payload + Send + 'static,
) -> BoxFuture<http::Response<Body>, Infallible> {
    Box::pin(async move {
        let mut grpc = Grpc::new(ProstCodec::default());
        Ok(grpc.unary(Unary(answer), request).await)
    })
}

struct Unary<F>(F);

impl<F: FnMut(Payload) -> Payload> UnaryService<Payload> for Unary<F> {
    type Response = Payload;
    type Future = Ready<std::result::Result<Response<Payload>, Status>>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        std::future::ready(Ok(Response::new((self.0)(request.into_inner()))))
    }
}

/// Counts what comes.
struct Upload;

impl ClientStreamingService<Payload> for Upload {
    type Response = Count;
    type Future = BoxFuture<Response<Count>, Status>;

    fn call(&mut self, request: Request<Streaming<Payload>>) -> Self::Future {
        Box::pin(async move {
            let mut items = request.into_inner();
            let mut count = 0;
            while items.message().await?.is_some() {
                count += 1;
            }
            Ok(Response::new(Count { count }))
        })
    }
}

/// Gives back what comes.
struct Bidi;

impl StreamingService<Payload> for Bidi {
    type Response = Payload;
    type ResponseStream = Streaming<Payload>;
    type Future = Ready<std::result::Result<Response<Streaming<Payload>>, Status>>;

    fn call(&mut self, request: Request<Streaming<Payload>>) -> Self::Future {
        std::future::ready(Ok(Response::new(request.into_inner())))
    }
}

struct Events(Arc<Node>);

impl ServerStreamingService<Subscribe> for Events {
    type Response = Event;
    type ResponseStream = BoxStream<Event>;
    type Future = Ready<std::result::Result<Response<BoxStream<Event>>, Status>>;

    fn call(&mut self, request: Request<Subscribe>) -> Self::Future {
        let node = Arc::clone(&self.0);
        let Subscribe { resume_from: mut position, follow } = request.into_inner();
        let events = async_stream::stream! {
            loop {
                let published = node.log.listen();
                loop {
                    let events = node.log.after(position, 256);
                    if events.is_empty() {
                        break;
                    }
                    for (seq, payload) in events {
                        position = seq;
                        yield Ok(Event { seq, payload });
                    }
                }
                if !follow {
                    break;
                }
                published.await;
            }
        };
        std::future::ready(Ok(Response::new(Box::pin(events))))
    }
}

#[cfg(feature = "harness")]
mod client {
    use std::{net::SocketAddr, time::Duration};

    use futures_util::StreamExt;
    use hyper_util::rt::TokioIo;
    use rustls::pki_types::ServerName;
    use tokio::net::TcpStream;
    use tokio_rustls::{TlsConnector, client::TlsStream};
    use tonic::{
        codegen::http::{Uri, uri::PathAndQuery},
        transport::{Channel, Endpoint},
    };

    use super::*;
    use crate::{
        Error,
        link::{self, Echo, Items, Measured, NoStreams},
        on_tokio::client,
        setup::{EVENT_BYTES, SERVER_NAME, SMALL},
        tls,
    };

    pub type Stack = client::Stack<Connector>;

    /// TLS that resumes nothing, as tonic's own does.
    #[derive(Clone)]
    pub struct Connector {
        tls: TlsConnector,
        name: ServerName<'static>,
        address: SocketAddr,
    }

    impl Service<Uri> for Connector {
        type Response = TokioIo<TlsStream<TcpStream>>;
        type Error = Error;
        type Future = BoxFuture<Self::Response, Error>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _uri: Uri) -> Self::Future {
            let Self { tls, name, address } = self.clone();
            Box::pin(async move {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Ok(TokioIo::new(tls.connect(name, tcp).await?))
            })
        }
    }

    impl client::Connector for Connector {
        type Link = Link;

        fn new(setup: &Setup, address: SocketAddr) -> Result<Self> {
            let config = tls::client(&setup.credentials("client")?, b"h2")?;
            Ok(Self {
                tls: TlsConnector::from(Arc::new(config)),
                name: ServerName::try_from(SERVER_NAME)?,
                address,
            })
        }

        async fn connect(&self) -> Measured<Link> {
            // The keep-alive is QUIC's, for idle links to do the same.
            let endpoint = Endpoint::from_static("http://localhost")
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_while_idle(true);
            Ok(Link(endpoint.connect_with_connector(self.clone()).await?))
        }
    }

    #[derive(Clone)]
    pub struct Link(Channel);

    impl Link {
        /// The length of the answer.
        async fn call(&self, path: &'static str, data: Bytes) -> Result<usize> {
            let mut grpc = tonic::client::Grpc::new(self.0.clone());
            grpc.ready().await?;
            let codec = ProstCodec::<Payload, Payload>::default();
            let path = PathAndQuery::from_static(path);
            let answer = grpc.unary(Request::new(Payload { data }), path, codec).await?;
            Ok(answer.get_ref().data.len())
        }

        async fn events(&self, resume_from: u64, follow: bool) -> Result<Events> {
            let mut grpc = tonic::client::Grpc::new(self.0.clone());
            grpc.ready().await?;
            let codec = ProstCodec::<Subscribe, Event>::default();
            let path = PathAndQuery::from_static("/peers.Node/Events");
            let request = Request::new(Subscribe { resume_from, follow });
            let events = grpc.server_streaming(request, path, codec).await?;
            Ok(Events { events: events.into_inner(), last: resume_from })
        }
    }

    impl link::Link for Link {
        type Events = Events;
        type Pipeline = NoStreams;
        type Bidi = Echoes;

        async fn echo(&self) -> Measured<()> {
            let length = self.call("/peers.Node/Echo", Bytes::from_static(&SMALL)).await?;
            if length == SMALL.len() { Ok(()) } else { Err("another echo".into()) }
        }

        async fn take(&self, payload: Bytes) -> Measured<()> {
            self.call("/peers.Node/Take", payload).await?;
            Ok(())
        }

        async fn give(&self) -> Measured<usize> {
            Ok(self.call("/peers.Node/Give", Bytes::new()).await?)
        }

        async fn replay(&self) -> Measured<u64> {
            let mut events = self.events(0, false).await?;
            while events.advance().await? {}
            Ok(events.last)
        }

        async fn publish(&self) -> Measured<()> {
            self.call("/peers.Node/Publish", Bytes::from_static(&[7; EVENT_BYTES])).await?;
            Ok(())
        }

        async fn follow(&self, resume_from: u64) -> Measured<Events> {
            Ok(self.events(resume_from, true).await?)
        }

        async fn bidi(&self) -> Measured<Echoes> {
            let mut grpc = tonic::client::Grpc::new(self.0.clone());
            grpc.ready().await?;
            let (sender, items) = async_channel::bounded(1);
            let path = PathAndQuery::from_static("/peers.Node/Bidi");
            let codec = ProstCodec::<Payload, Payload>::default();
            let answers = grpc.streaming(Request::new(items), path, codec).await?;
            Ok(Echoes { items: sender, answers: answers.into_inner() })
        }

        async fn upload(&self, items: Items) -> Measured<u64> {
            let mut grpc = tonic::client::Grpc::new(self.0.clone());
            grpc.ready().await?;
            let path = PathAndQuery::from_static("/peers.Node/Upload");
            let codec = ProstCodec::<Payload, Count>::default();
            let items = items.map(|data| Payload { data });
            Ok(grpc.client_streaming(Request::new(items), path, codec).await?.get_ref().count)
        }

        /// The connection goes with its last handle.
        fn close(self) {}
    }

    pub struct Echoes {
        items: async_channel::Sender<Payload>,
        answers: Streaming<Payload>,
    }

    impl Echo for Echoes {
        async fn echo(&mut self) -> Measured<()> {
            self.items.send(Payload { data: Bytes::from_static(&SMALL) }).await?;
            let answer = self.answers.message().await?.ok_or("the answers ended")?;
            if answer.data.len() == SMALL.len() { Ok(()) } else { Err("another echo".into()) }
        }
    }

    pub struct Events {
        events: Streaming<Event>,
        last: u64,
    }

    impl Events {
        async fn advance(&mut self) -> Result<bool> {
            let Some(event) = self.events.message().await? else { return Ok(false) };
            self.last += 1;
            if event.seq != self.last || event.payload.len() != EVENT_BYTES {
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

#[cfg(feature = "harness")]
pub use self::client::Stack;
