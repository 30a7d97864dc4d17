//! A subscription of a client, before it is opened.

use std::{fmt, marker::PhantomData, time::Duration};

use super::{acks::Acks, reconnecting::Client, resumed_stream::ResumedStream, subscription::Subscription};
use crate::{
    events::{Cursor, Follower},
    message::Codec,
    method::{LogMethod, MethodName},
    protocol::STREAM_EVENTS,
    value::Raw,
};

impl Client {
    /// Prepares a subscription to an event log of the peer that survives the connection, with payloads that
    /// minicbor decodes. The log is a [`LogMethod`], which brings their type, or a string; with the type
    /// [`Raw`] and [`next_raw`](Subscription::next_raw), payloads are plain bytes.
    ///
    /// ```no_run
    /// # async fn example(client: palyra_quic::Client) -> palyra_quic::Result<()> {
    /// use palyra_quic::{LogMethod, SubscriptionItem};
    ///
    /// /// Degrees Celsius.
    /// const READINGS: LogMethod<i32> = LogMethod::NODE;
    ///
    /// let mut readings = client.subscribe(READINGS).open();
    /// loop {
    ///     match readings.next().await? {
    ///         SubscriptionItem::Event { seq, payload, .. } => println!("{seq}: {payload} degrees"),
    ///         SubscriptionItem::Gap(gap) => println!("readings before {} are lost", gap.next_seq),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    pub fn subscribe<T>(&self, log: impl MethodName<LogMethod<T>>) -> Subscribe<T> {
        Subscribe::new(self, log.method_name())
    }

    /// Prepares a subscription to the peer's own event log that survives the connection, with payloads of
    /// plain bytes. See [`subscribe`](Self::subscribe), which may also name another log:
    /// `subscribe::<Raw>("plant.temperature")`.
    pub fn subscribe_raw(&self) -> Subscribe {
        Subscribe::new(self, STREAM_EVENTS)
    }
}

/// A subscription to be opened; see [`Client::subscribe`].
#[must_use = "nothing happens before `open`"]
pub struct Subscribe<T = Raw> {
    client: Client,
    log: Box<str>,
    cursor: Option<Cursor>,
    codec: Codec,
    heartbeat_interval: Duration,
    consumer: Option<Box<str>>,
    payloads: PhantomData<fn() -> T>,
}

impl<T> Subscribe<T> {
    fn new(client: &Client, log: &str) -> Self {
        let heartbeat_interval = client.heartbeat_interval();
        Self {
            client: client.clone(),
            log: log.into(),
            cursor: None,
            codec: Codec::Cbor,
            heartbeat_interval,
            consumer: None,
            payloads: PhantomData,
        }
    }

    /// The name of 1 to 64 bytes under which [`Subscription::ack`] acknowledges events, so that the peer
    /// keeps them until then. The peer decides who may speak for it. Default: none, and nothing is
    /// acknowledged.
    pub fn consumer(self, name: impl Into<Box<str>>) -> Self {
        Self { consumer: Some(name.into()), ..self }
    }

    /// Begins behind the last event processed. Default: with the oldest event that the peer holds.
    pub fn resume(self, cursor: Cursor) -> Self {
        Self { cursor: Some(cursor), ..self }
    }

    /// The codec of requests and events. Default: CBOR. Nodes of the tokio implementation cannot be followed
    /// in either: they answer `invalid_request`. [`Connection::events`](crate::Connection::events) reads what
    /// they hold.
    pub fn codec(self, codec: Codec) -> Self {
        Self { codec, ..self }
    }

    /// How often the peer is expected to send heartbeats: its own `heartbeat_interval`, or longer. Default:
    /// this endpoint's. A connection that brings nothing for two of these is given up.
    pub fn heartbeat_interval(self, interval: Duration) -> Self {
        Self { heartbeat_interval: interval, ..self }
    }

    /// The subscription, which dials when it is first asked.
    pub fn open(self) -> Subscription<T> {
        let Self { client, log, cursor, codec, heartbeat_interval, consumer, payloads: _ } = self;
        let silence_limit = heartbeat_interval.saturating_mul(2);
        let acks = consumer.map(|consumer| Acks::new(client.clone(), log.clone(), consumer));
        let stream = ResumedStream::new(client, log, codec, Follower::new(cursor), silence_limit);
        Subscription::new(stream, cursor, acks)
    }
}

impl<T> Clone for Subscribe<T> {
    fn clone(&self) -> Self {
        let Self { client, log, cursor, codec, heartbeat_interval, consumer, payloads } = self;
        Self {
            consumer: consumer.clone(),
            client: client.clone(),
            log: log.clone(),
            cursor: *cursor,
            codec: *codec,
            heartbeat_interval: *heartbeat_interval,
            payloads: *payloads,
        }
    }
}

impl<T> fmt::Debug for Subscribe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, log, cursor, codec, heartbeat_interval, consumer, payloads: _ } = self;
        f.debug_struct("Subscribe")
            .field("client", client)
            .field("log", log)
            .field("cursor", cursor)
            .field("codec", codec)
            .field("heartbeat_interval", heartbeat_interval)
            .field("consumer", consumer)
            .finish()
    }
}
