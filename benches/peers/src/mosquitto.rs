//! A client of mosquitto: MQTT 3.1.1 with quality of service 1. MQTT has no log; what comes nearest to stored
//! messages that can be read again and again are retained ones, of which each topic has one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_channel::{Receiver, Sender, unbounded};
use bytes::Bytes;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, QoS, TlsConfiguration, Transport,
};

use crate::{
    Result,
    link::{self, Failure, Measured, NoStreams},
    on_tokio::client::{self, Connector},
    setup::{EVENT_BYTES, SERVER_NAME, Setup, event},
    tls,
};

const EVENTS: &str = "events";
/// Behind it, each retained message has a topic of its own.
const STORED: &str = "stored/";
const ALL_STORED: &str = "stored/#";
/// How many messages wait for their acknowledgement while the broker is filled.
const FILLED_AT_ONCE: u16 = 1000;
const NO_CALLS: &str = "is a broker and has no calls";

pub type Stack = client::Stack<Broker>;

#[derive(Clone)]
pub struct Broker {
    tls: Arc<rustls::ClientConfig>,
    address: SocketAddr,
    events: u32,
    filled: Arc<AtomicBool>,
    /// How many clients there were, for their names.
    clients: Arc<AtomicU32>,
}

impl Connector for Broker {
    type Link = Link;

    fn new(setup: &Setup, address: SocketAddr) -> Result<Self> {
        Ok(Self {
            tls: Arc::new(tls::client(&setup.credentials("client")?, b"")?),
            address,
            events: setup.events,
            filled: Arc::default(),
            clients: Arc::default(),
        })
    }

    /// The first connection fills the broker.
    async fn connect(&self) -> Measured<Link> {
        let name = format!("client-{}", self.clients.fetch_add(1, Ordering::Relaxed));
        let mut options = MqttOptions::new(name, SERVER_NAME, self.address.port());
        let tls = TlsConfiguration::Rustls(Arc::clone(&self.tls));
        options.set_transport(Transport::tls_with_config(tls));
        options.set_keep_alive(Duration::from_secs(5)).set_inflight(FILLED_AT_ONCE);
        let (client, mut event_loop) = AsyncClient::new(options, usize::from(FILLED_AT_ONCE));
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        event_loop.set_network_options(network);
        let (events, received) = unbounded();
        let (stored, stored_received) = unbounded();
        let (answers, answered) = unbounded();
        tokio::spawn(receive(event_loop, events, stored, answers));
        let link = Link { client, events: received, stored: stored_received, answered, count: self.events };
        link.answer().await?;
        if !self.filled.swap(true, Ordering::Relaxed) {
            link.fill().await?;
        }
        Ok(link)
    }
}

/// Sorts what comes, until the connection ends.
async fn receive(
    mut event_loop: EventLoop,
    events: Sender<Bytes>,
    stored: Sender<Bytes>,
    answers: Sender<()>,
) {
    while let Ok(event) = event_loop.poll().await {
        let sent = match event {
            Event::Incoming(Packet::Publish(message)) if message.topic.starts_with(STORED) => {
                stored.try_send(message.payload).is_ok()
            }
            Event::Incoming(Packet::Publish(message)) => events.try_send(message.payload).is_ok(),
            Event::Incoming(
                Packet::ConnAck(_) | Packet::PubAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_),
            ) => answers.try_send(()).is_ok(),
            _ => true,
        };
        if !sent {
            return;
        }
    }
}

#[derive(Clone)]
pub struct Link {
    client: AsyncClient,
    events: Receiver<Bytes>,
    stored: Receiver<Bytes>,
    /// One for each answer to what this connection asked for, in the order of the asking.
    answered: Receiver<()>,
    /// How many messages are retained.
    count: u32,
}

impl Link {
    async fn answer(&self) -> Result<()> {
        Ok(self.answered.recv().await?)
    }

    async fn fill(&self) -> Result<()> {
        for n in 0..self.count {
            let payload = event(usize::try_from(n)?);
            self.client.publish(format!("{STORED}{n}"), QoS::AtLeastOnce, true, payload).await?;
        }
        for _ in 0..self.count {
            self.answer().await?;
        }
        Ok(())
    }
}

impl link::Link for Link {
    type Events = Events;
    type Pipeline = NoStreams;
    type Bidi = NoStreams;

    /// The broker has, with the answer that the connection waited for.
    async fn accepted(&self) -> Measured<()> {
        Ok(())
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
        self.client.subscribe(ALL_STORED, QoS::AtLeastOnce).await?;
        for _ in 0..self.count {
            if self.stored.recv().await?.len() != EVENT_BYTES {
                return Err("not an event".into());
            }
        }
        self.client.unsubscribe(ALL_STORED).await?;
        self.answer().await?;
        self.answer().await?;
        Ok(u64::from(self.count))
    }

    async fn publish(&self) -> Measured<()> {
        let payload = Bytes::from_static(&[7; EVENT_BYTES]);
        self.client.publish_bytes(EVENTS, QoS::AtLeastOnce, false, payload).await?;
        Ok(self.answer().await?)
    }

    /// What was published before is not to be had.
    async fn follow(&self, _resume_from: u64) -> Measured<Events> {
        self.client.subscribe(EVENTS, QoS::AtLeastOnce).await?;
        self.answer().await?;
        Ok(Events(self.events.clone()))
    }

    /// The event loop ends with the receivers of what it sorts.
    fn close(self) {}
}

pub struct Events(Receiver<Bytes>);

impl link::Events for Events {
    async fn next(&mut self) -> Measured<()> {
        let event = self.0.recv().await?;
        if event.len() == EVENT_BYTES { Ok(()) } else { Err("not an event".into()) }
    }
}
