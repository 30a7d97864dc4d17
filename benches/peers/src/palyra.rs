//! palyra-quic, on its own runtime for one thread.

use std::{future::pending, time::Duration};

use palyra_quic::{
    Bytes, Endpoint, EventLog, Identity, MethodError, PollRuntime, Router, ServerTls, TransportLimits,
    TransportLimitsBuilder, Trust,
};

use crate::{
    Result,
    setup::{Credentials, DATAGRAM_BYTES, LOOPBACK, Setup, announce, event, large},
};

/// Limits as they are by default, but for the size of datagrams.
fn limits(datagram_bytes: u16) -> TransportLimitsBuilder {
    TransportLimits::builder().max_datagram_bytes(datagram_bytes)
}

fn runtime<const SLEEPS: bool>() -> Result<PollRuntime> {
    let runtime = PollRuntime::new()?;
    Ok(if SLEEPS { runtime.busy_poll(Duration::ZERO) } else { runtime })
}

pub fn serve<const SLEEPS: bool>(setup: &Setup) -> Result<()> {
    serve_with::<SLEEPS, DATAGRAM_BYTES>(setup)
}

pub fn serve_with<const SLEEPS: bool, const DATAGRAM: u16>(setup: &Setup) -> Result<()> {
    let mut runtime = runtime::<SLEEPS>()?;
    let Credentials { authority, certificate, key } = setup.credentials("server")?;
    let identity = Identity::from_pem(&certificate, &key)?;
    let tls = ServerTls::new(identity).require_client_certificates(Trust::from_pem(&authority)?);
    let limits = limits(DATAGRAM).max_connections(setup.connections).build()?;
    let endpoint = Endpoint::builder()
        .shared_runtime(runtime.handle())
        .server(tls)
        .limits(limits)
        .router(router(setup)?)
        .bind(LOOPBACK)?;
    announce(endpoint.local_addr()?)?;
    runtime.block_on(pending())
}

fn router(setup: &Setup) -> Result<Router> {
    let events = setup.event_count();
    // Twice what the events count for with their overhead, and room for those published later.
    let log = EventLog::builder()
        .max_events(events + 100_000)
        .max_bytes(u64::try_from(256 * events + 16 * 1024 * 1024).unwrap_or(u64::MAX))
        .build()?;
    for n in 0..events {
        log.publish_raw(event(n))?;
    }
    let published = log.clone();
    let router = Router::new();
    #[cfg(feature = "harness")]
    let router = with_items(router);
    Ok(router
        .serve_raw("bench.echo", |_, params| async move { Ok(params) })
        .serve_raw("bench.take", |_, _params| async move { Ok(Bytes::new()) })
        .serve_raw("bench.give", |_, _params| async { Ok(Bytes::from_static(large())) })
        .serve_raw("bench.publish", move |_, params| {
            let log = published.clone();
            async move {
                let published = log.publish_raw(params).map_err(|_| MethodError::internal("not published"));
                published.map(|_seq| Bytes::new())
            }
        })
        .events(log))
}

/// Not in the node whose size and memory is measured.
#[cfg(feature = "harness")]
fn with_items(router: Router) -> Router {
    router
        .serve_items_raw("bench.upload", |_, _params, mut items| async move {
            let mut count = 0_u64;
            while items.next_raw().await?.is_some() {
                count += 1;
            }
            Ok(Bytes::copy_from_slice(&count.to_be_bytes()))
        })
        .serve_bidi_raw("bench.bidi", |_, _params, mut items, mut answers| async move {
            while let Some(item) = items.next_raw().await? {
                answers.send_raw(item).await?;
            }
            Ok(())
        })
}

#[cfg(feature = "harness")]
mod client {
    use std::{
        net::SocketAddr,
        sync::{Arc, Mutex, PoisonError},
    };

    use palyra_quic::{
        Bytes, ClientTls, Code, Connection, Endpoint, EventItem, Identity, ItemSink, Pipeline, PollRuntime,
        Responses, Trust, quinn::Runtime,
    };

    use crate::{
        Result,
        link::{self, Echo, Items, Measured},
        setup::{Credentials, DATAGRAM_BYTES, EVENT_BYTES, LOOPBACK, SERVER_NAME, SMALL, Setup},
    };

    #[derive(Clone)]
    pub struct Stack<const SLEEPS: bool, const DATAGRAM: u16 = DATAGRAM_BYTES> {
        runtime: Arc<Mutex<PollRuntime>>,
        /// For the tasks of the measurement, too.
        handle: Arc<dyn Runtime>,
        endpoint: Endpoint,
        address: SocketAddr,
    }

    impl<const SLEEPS: bool, const DATAGRAM: u16> link::Stack for Stack<SLEEPS, DATAGRAM> {
        type Link = Connection;

        fn new(setup: &Setup, address: &str) -> Result<Self> {
            let runtime = super::runtime::<SLEEPS>()?;
            let Credentials { authority, certificate, key } = setup.credentials("client")?;
            let identity = Identity::from_pem(&certificate, &key)?;
            let tls = ClientTls::new(Trust::from_pem(&authority)?).identity(identity);
            let handle = runtime.handle();
            let endpoint = Endpoint::builder()
                .shared_runtime(Arc::clone(&handle))
                .client(tls)
                .limits(super::limits(DATAGRAM).build()?)
                .bind(LOOPBACK)?;
            let runtime = Arc::new(Mutex::new(runtime));
            Ok(Self { runtime, handle, endpoint, address: address.parse()? })
        }

        fn block_on<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
            let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
            runtime.block_on(future)
        }

        fn spawn<T: Send + 'static>(
            &self,
            future: impl Future<Output = T> + Send + 'static,
        ) -> impl Future<Output = T> + Send + 'static {
            let (sender, receiver) = async_channel::bounded(1);
            self.handle.spawn(Box::pin(async move {
                // Fails only where nobody wants to know.
                let _ = sender.send(future.await).await;
            }));
            async move { receiver.recv().await.expect("a task runs to its end") }
        }

        async fn connect(&self) -> Measured<Connection> {
            Ok(self.endpoint.connect_unconfirmed((self.address, SERVER_NAME)).await?)
        }
    }

    impl link::Link for Connection {
        type Events = palyra_quic::Events;
        type Pipeline = Pipeline;
        type Bidi = (ItemSink, Responses);

        async fn echo(&self) -> Measured<()> {
            echoed(&self.call_raw("bench.echo", Bytes::from_static(&SMALL)).await?)
        }

        async fn take(&self, payload: Bytes) -> Measured<()> {
            self.call_raw("bench.take", payload).await?;
            Ok(())
        }

        async fn give(&self) -> Measured<usize> {
            Ok(self.call_raw("bench.give", Bytes::new()).await?.len())
        }

        async fn replay(&self) -> Measured<u64> {
            let mut events = self.events_raw().open().await?;
            let mut count = 0;
            while events.next_raw().await?.is_some() {
                count += 1;
            }
            Ok(count)
        }

        async fn publish(&self) -> Measured<()> {
            self.call_raw("bench.publish", Bytes::from_static(&[7; EVENT_BYTES])).await?;
            Ok(())
        }

        async fn follow(&self, resume_from: u64) -> Measured<palyra_quic::Events> {
            Ok(self.events_raw().resume_from(resume_from).follow().open().await?)
        }

        async fn pipeline(&self) -> Measured<Pipeline> {
            Ok(self.pipeline_raw("bench.echo"))
        }

        async fn bidi(&self) -> Measured<Self::Bidi> {
            Ok(self.bidi_raw("bench.bidi", Bytes::new()).await?)
        }

        async fn upload(&self, items: Items) -> Measured<u64> {
            let mut upload = self.send_items_raw("bench.upload", Bytes::new()).await?;
            upload.send_all_raw(items).await?;
            let answer = upload.finish_raw().await?;
            Ok(u64::from_be_bytes(answer.as_ref().try_into()?))
        }

        fn close(self) {
            Self::close(&self, Code::NO_ERROR, "");
        }
    }

    fn echoed(answer: &[u8]) -> Measured<()> {
        if answer.len() == SMALL.len() { Ok(()) } else { Err("another echo".into()) }
    }

    impl Echo for Pipeline {
        async fn echo(&mut self) -> Measured<()> {
            echoed(&self.call_raw(Bytes::from_static(&SMALL)).await?)
        }
    }

    impl Echo for (ItemSink, Responses) {
        async fn echo(&mut self) -> Measured<()> {
            let (items, answers) = self;
            items.send_raw(Bytes::from_static(&SMALL)).await?;
            echoed(&answers.next_raw().await?.ok_or("the answers ended")?)
        }
    }

    impl link::Events for palyra_quic::Events {
        async fn next(&mut self) -> Measured<()> {
            match Self::next_raw(self).await? {
                Some(EventItem::Event { .. }) => Ok(()),
                other => Err(format!("not an event: {other:?}").into()),
            }
        }
    }
}

#[cfg(feature = "harness")]
pub use self::client::Stack;
