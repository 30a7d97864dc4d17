//! A client of nats-server with JetStream: a stream in memory is what a node's event log is.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::{
    Client, ConnectOptions,
    jetstream::{
        self, Context,
        consumer::{
            DeliverPolicy,
            push::{Ordered, OrderedConfig},
        },
        stream::{Config, StorageType},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::{
    Result,
    link::{self, Failure, Measured, NoStreams},
    on_tokio::client::{self, Connector},
    setup::{EVENT_BYTES, SERVER_NAME, Setup, event},
    tls,
};

const STREAM: &str = "EVENTS";
const SUBJECT: &str = "bench.events";
/// How many messages wait for their acknowledgement while the stream is filled.
const FILLED_AT_ONCE: usize = 1000;
const NO_CALLS: &str = "is a broker and has no calls";

pub type Stack = client::Stack<Broker>;

#[derive(Clone)]
pub struct Broker {
    tls: rustls::ClientConfig,
    address: SocketAddr,
    events: usize,
    stored: Arc<AtomicU64>,
}

impl Connector for Broker {
    type Link = Link;

    fn new(setup: &Setup, address: SocketAddr) -> Result<Self> {
        Ok(Self {
            tls: tls::client(&setup.credentials("client")?, b"")?,
            address,
            events: setup.event_count(),
            stored: Arc::default(),
        })
    }

    /// The first connection makes and fills the stream.
    async fn connect(&self) -> Measured<Link> {
        let options = ConnectOptions::new().require_tls(true).tls_client_config(self.tls.clone());
        let client = options.connect(format!("tls://{SERVER_NAME}:{}", self.address.port())).await?;
        let jetstream = jetstream::new(client.clone());
        let link = Link { client, jetstream, stored: Arc::clone(&self.stored) };
        if self.stored.load(Ordering::Relaxed) == 0 {
            link.fill(self.events).await?;
        }
        Ok(link)
    }
}

#[derive(Clone)]
pub struct Link {
    client: Client,
    jetstream: Context,
    /// How many messages are in the stream.
    stored: Arc<AtomicU64>,
}

impl Link {
    async fn fill(&self, events: usize) -> Result<()> {
        let config = Config {
            name: STREAM.into(),
            subjects: vec![SUBJECT.into()],
            storage: StorageType::Memory,
            ..Config::default()
        };
        self.jetstream.create_stream(config).await?;
        for start in (0..events).step_by(FILLED_AT_ONCE) {
            let mut acknowledgements = Vec::new();
            for n in start..events.min(start + FILLED_AT_ONCE) {
                acknowledgements.push(self.jetstream.publish(SUBJECT, event(n).into()).await?);
            }
            for acknowledgement in acknowledgements {
                self.stored.store(acknowledgement.await?.sequence, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// By an ordered consumer, which delivers without acknowledgements, and begins anew at a gap.
    async fn read(&self, deliver_policy: DeliverPolicy) -> Result<Ordered> {
        let stream = self.jetstream.get_stream_no_info(STREAM).await?;
        let deliver_subject = self.client.new_inbox();
        let config = OrderedConfig { deliver_subject, deliver_policy, ..OrderedConfig::default() };
        Ok(stream.create_consumer(config).await?.messages().await?)
    }
}

impl link::Link for Link {
    type Events = Events;
    type Pipeline = NoStreams;
    type Bidi = NoStreams;

    async fn accepted(&self) -> Measured<()> {
        Ok(self.client.flush().await?)
    }

    async fn echo(&self) -> Measured<()> {
        Err(Failure::NotOffered(NO_CALLS))
    }

    async fn take(&self, _payload: Bytes) -> Measured<()> {
        Err(Failure::NotOffered(NO_CALLS))
    }

    async fn give(&self) -> Measured<usize> {
        Err(Failure::NotOffered(NO_CALLS))
    }

    async fn replay(&self) -> Measured<u64> {
        let mut events = Events(self.read(DeliverPolicy::All).await?);
        let stored = self.stored.load(Ordering::Relaxed);
        for _ in 0..stored {
            link::Events::next(&mut events).await?;
        }
        Ok(stored)
    }

    async fn publish(&self) -> Measured<()> {
        let payload = Bytes::from_static(&[7; EVENT_BYTES]);
        let acknowledgement = self.jetstream.publish(SUBJECT, payload).await?.await?;
        self.stored.store(acknowledgement.sequence, Ordering::Relaxed);
        Ok(())
    }

    async fn follow(&self, resume_from: u64) -> Measured<Events> {
        let start_sequence = resume_from + 1;
        Ok(Events(self.read(DeliverPolicy::ByStartSequence { start_sequence }).await?))
    }

    /// The connection goes with its last handle.
    fn close(self) {}
}

pub struct Events(Ordered);

impl link::Events for Events {
    async fn next(&mut self) -> Measured<()> {
        let message = self.0.next().await.ok_or("the messages ended")??;
        if message.payload.len() == EVENT_BYTES { Ok(()) } else { Err("not an event".into()) }
    }
}
