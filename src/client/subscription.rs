//! Events that survive the connection.

use std::{
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_lite::Stream;

use super::reconnecting::Client;
use crate::{
    connection::{Connection, Responses},
    error::{Error, ErrorKind, Result},
    events::{Cursor, Delivery, Follower, Gap, ended_without_reason, fmt_event},
    message::Response,
    protocol::STREAM_EVENTS,
    runtime::Elapsed,
};

/// A subscription to be opened; see [`Client::subscribe`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `open`"]
pub struct Subscribe {
    client: Client,
    cursor: Option<Cursor>,
    heartbeat_interval: Duration,
}

/// The events of a peer: each once and in order, or a gap in its place, across any number of connections.
///
/// A [`Stream`], and by [`next`](Self::next) usable without one. It does nothing while nobody asks: what the
/// peer has published in the meantime waits there, as far as its log reaches. Dropping it ends the
/// subscription.
///
/// ```no_run
/// # async fn example(client: palyra_quic::Client, kept: &[u8]) -> palyra_quic::Result<()> {
/// use palyra_quic::{Cursor, SubscriptionItem};
///
/// let mut subscription = client.subscribe().resume(Cursor::from_bytes(kept)?).open();
/// loop {
///     match subscription.next().await? {
///         SubscriptionItem::Event { seq, payload, .. } => println!("{seq}: {} bytes", payload.len()),
///         SubscriptionItem::Gap(gap) => println!("{} to {} are lost", gap.from, gap.next_seq - 1),
///         SubscriptionItem::Connected { address } => println!("connected to {address}"),
///         SubscriptionItem::Disconnected { error } => println!("{error}; trying again"),
///     }
///     let _to_be_kept = subscription.cursor().map(Cursor::to_bytes);
/// }
/// # }
/// ```
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    state: State,
    cursor: Option<Cursor>,
}

/// What a [`Subscription`] brings.
pub enum SubscriptionItem {
    /// An event.
    Event {
        /// Its place in the log, from 1 by 1 within an epoch.
        seq: u64,
        /// The history that it belongs to; `None` from peers that have no epochs.
        epoch: Option<u64>,
        /// What was published.
        payload: Bytes,
    },
    /// Events that this subscriber will not get.
    Gap(Gap),
    /// The peer was asked for what follows the cursor.
    Connected {
        /// Where it is.
        address: SocketAddr,
    },
    /// Connecting failed, or the connection or stream was lost. The subscription tries again, after a pause.
    Disconnected {
        /// Why.
        error: Error,
    },
}

enum State {
    Idle(Box<Inner>),
    Busy(Pin<Box<dyn Future<Output = Step> + Send>>),
    Closed,
}

/// Taken out to be worked with, and given back with what came of it.
type Step = (Box<Inner>, Result<SubscriptionItem>);

struct Inner {
    client: Client,
    follower: Follower,
    /// A connection that brings nothing for this long is given up.
    silence_limit: Duration,
    stream: Option<(Connection, Responses)>,
    /// When a stream that still brings something has shown that the peer is well.
    proven_at: Option<Instant>,
    /// Set where the connection lives on and its stream has failed.
    not_before: Option<Instant>,
}

impl Client {
    /// Prepares a subscription to the peer's events that survives the connection.
    pub fn subscribe(&self) -> Subscribe {
        Subscribe::new(self.clone())
    }
}

impl Subscribe {
    pub(super) fn new(client: Client) -> Self {
        let heartbeat_interval = client.heartbeat_interval();
        Self { client, cursor: None, heartbeat_interval }
    }

    /// Begins behind the last event processed. Default: with the oldest event that the peer holds.
    pub fn resume(self, cursor: Cursor) -> Self {
        Self { cursor: Some(cursor), ..self }
    }

    /// How often the peer is expected to send heartbeats: its own `heartbeat_interval`, or longer. Default:
    /// this endpoint's. A connection that brings nothing for two of these is given up.
    pub fn heartbeat_interval(self, interval: Duration) -> Self {
        Self { heartbeat_interval: interval, ..self }
    }

    /// The subscription, which dials when it is first asked.
    pub fn open(self) -> Subscription {
        let Self { client, cursor, heartbeat_interval } = self;
        let follower = Follower::new(cursor);
        let silence_limit = heartbeat_interval.saturating_mul(2);
        let inner =
            Inner { client, follower, silence_limit, stream: None, proven_at: None, not_before: None };
        Subscription { state: State::Idle(Box::new(inner)), cursor }
    }
}

impl Subscription {
    /// The next event, gap or change. Never comes to an end by itself.
    ///
    /// # Errors
    ///
    /// Failures that trying again does not mend: of identity, of the protocol, or with a terminal code. They
    /// end the subscription; asked again it is [`Closed`](ErrorKind::Closed).
    ///
    /// # Cancellation
    ///
    /// Safe: nothing is lost if this is dropped and called again.
    pub async fn next(&mut self) -> Result<SubscriptionItem> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// Behind the last event or gap that was handed out; `None` before the first. Keep it to
    /// [resume](Subscribe::resume) in another process.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<SubscriptionItem>> {
        loop {
            match &mut self.state {
                State::Idle(inner) => {
                    if let Some(item) = inner.take_arrived() {
                        self.cursor = inner.follower.cursor();
                        return Poll::Ready(self.ends_with(item));
                    }
                    let State::Idle(mut inner) = std::mem::replace(&mut self.state, State::Closed) else {
                        continue;
                    };
                    self.state = State::Busy(Box::pin(async move {
                        let item = inner.step().await;
                        (inner, item)
                    }));
                }
                State::Busy(step) => {
                    let Poll::Ready((inner, item)) = step.as_mut().poll(cx) else { return Poll::Pending };
                    self.cursor = inner.follower.cursor();
                    self.state = State::Idle(inner);
                    return Poll::Ready(self.ends_with(item));
                }
                State::Closed => {
                    return Poll::Ready(Err(
                        Error::new(ErrorKind::Closed).detail("the subscription has ended")
                    ));
                }
            }
        }
    }

    fn ends_with(&mut self, item: Result<SubscriptionItem>) -> Result<SubscriptionItem> {
        if item.is_err() {
            self.state = State::Closed;
        }
        item
    }
}

impl Stream for Subscription {
    type Item = Result<SubscriptionItem>;

    /// Ends after an error.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.state {
            State::Closed => Poll::Ready(None),
            State::Idle(_) | State::Busy(_) => self.poll_item(cx).map(Some),
        }
    }
}

impl Inner {
    /// An item whose frame is here already. Most of a replay goes this way, which allocates nothing.
    fn take_arrived(&mut self) -> Option<Result<SubscriptionItem>> {
        loop {
            let (_, responses) = self.stream.as_mut()?;
            match responses.take_arrived()? {
                Ok(response) => {
                    if let Some(item) = self.receive(response).transpose() {
                        return Some(item);
                    }
                }
                Err(error) => return Some(self.broken(error)),
            }
        }
    }

    async fn step(&mut self) -> Result<SubscriptionItem> {
        loop {
            let Some((connection, responses)) = &mut self.stream else {
                return self.connect().await;
            };
            let clock = self.client.clock();
            let deadline = clock.deadline(self.silence_limit);
            let response = match clock.timeout_at(Some(deadline), responses.next_response()).await {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => return self.broken(ended_without_reason()),
                Ok(Err(error)) => return self.broken(error),
                Err(Elapsed) => {
                    let error = Error::new(ErrorKind::ConnectionLost).detail("no heartbeat came");
                    self.client.retire(connection, &error);
                    return self.broken(error);
                }
            };
            if let Some(item) = self.receive(response)? {
                return Ok(item);
            }
        }
    }

    fn receive(&mut self, response: Response) -> Result<Option<SubscriptionItem>> {
        let received = match self.follower.receive(response) {
            Ok(received) => received,
            Err(error) => {
                let failed = self.stream.take().map(|(_, mut responses)| responses.fail(error));
                return Err(failed.unwrap_or_else(|| Error::new(ErrorKind::Protocol)));
            }
        };
        // A peer that answers and leaves immediately is not well, however often it does.
        if self.proven_at.is_some_and(|proven_at| self.client.clock().now() >= proven_at) {
            self.proven_at = None;
            self.client.succeeded();
        }
        Ok(received.map(|received| match received {
            Delivery::Event { seq, epoch, payload } => SubscriptionItem::Event { seq, epoch, payload },
            Delivery::Gap(gap) => SubscriptionItem::Gap(gap),
        }))
    }

    /// The stream is over, one way or the other.
    fn broken(&mut self, error: Error) -> Result<SubscriptionItem> {
        let stream = self.stream.take();
        let error = match &stream {
            Some((connection, _)) => connection.link().name(error, STREAM_EVENTS),
            None => error.of_method(STREAM_EVENTS),
        };
        if error.is_terminal() {
            return Err(error);
        }
        let alive = stream.is_some_and(|(connection, _)| connection.close_reason().is_none());
        // A connection that is gone is the client's own to put off.
        self.not_before = alive.then(|| self.client.pause_stream(&error));
        Ok(SubscriptionItem::Disconnected { error })
    }

    async fn connect(&mut self) -> Result<SubscriptionItem> {
        if let Some(not_before) = self.not_before {
            self.client.wait_until(not_before).await?;
            self.not_before = None;
        }
        let connection = match self.client.connection().await {
            Ok(connection) => connection,
            // Not the connection's end, but the endpoint's.
            Err(error) if *error.kind() == ErrorKind::Closed => return Err(error.of_method(STREAM_EVENTS)),
            Err(error) => return self.broken(error),
        };
        let mut call = connection.request_raw(STREAM_EVENTS, Bytes::new()).follow();
        if let Some(cursor) = self.follower.cursor() {
            call = call.resume_from(cursor.seq());
            if let Some(epoch) = cursor.epoch() {
                call = call.epoch(epoch);
            }
        }
        // A peer may let a stream wait to be opened for as long as it likes.
        let clock = self.client.clock();
        let opened = clock.timeout_at(Some(clock.deadline(self.silence_limit)), call.stream()).await;
        match opened {
            Ok(Ok(responses)) => {
                let address = connection.remote_address();
                self.follower.begin();
                self.stream = Some((connection, responses));
                self.proven_at = Some(self.client.clock().deadline(self.silence_limit / 2));
                Ok(SubscriptionItem::Connected { address })
            }
            Ok(Err(error)) => self.broken(error),
            Err(Elapsed) => {
                let error =
                    Error::new(ErrorKind::DeadlineExceeded).detail("the peer lets no stream be opened");
                self.client.retire(&connection, &error);
                self.broken(connection.link().name(error, STREAM_EVENTS))
            }
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, cursor } = self;
        f.debug_struct("Subscription")
            .field("cursor", cursor)
            .field("ended", &matches!(state, State::Closed))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SubscriptionItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { seq, epoch, payload } => fmt_event(f, *seq, *epoch, payload),
            Self::Gap(gap) => f.debug_tuple("Gap").field(gap).finish(),
            Self::Connected { address } => f.debug_struct("Connected").field("address", address).finish(),
            Self::Disconnected { error } => f.debug_struct("Disconnected").field("error", error).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventItem;

    #[test]
    fn items_are_shown_without_their_payloads() {
        let payload = Bytes::from_static(b"secret");
        let item = SubscriptionItem::Event { seq: 41, epoch: Some(5), payload: payload.clone() };
        let of_connection = EventItem::Event { seq: 41, epoch: Some(5), payload };
        assert_eq!(format!("{item:?}"), "Event { seq: 41, epoch: Some(5), payload_bytes: 6 }");
        // Its payload may be of any type, which has no length.
        assert_eq!(format!("{of_connection:?}"), "Event { seq: 41, epoch: Some(5), .. }");
    }
}
