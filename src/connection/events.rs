//! Subscriptions to the event log of a peer.

use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_lite::Stream;
use minicbor::Decode;

use super::{Connection, call::Call, responses::Responses};
use crate::{
    error::Result,
    events::{Cursor, Delivery, Follower, Gap, ended_without_reason},
    message::{Codec, Response},
    method::{LogMethod, MethodName},
    protocol::STREAM_EVENTS,
    value::{self, Raw},
};

impl Connection {
    /// Prepares a subscription to an event log of the peer, with payloads that minicbor decodes: all events
    /// held, then the end. The log is a [`LogMethod`], which brings their type, or a string; with the type
    /// [`Raw`] and [`next_raw`](Events::next_raw), payloads are plain bytes.
    ///
    /// ```no_run
    /// # async fn example(connection: palyra_quic::Connection) -> palyra_quic::Result<()> {
    /// use palyra_quic::{EventItem, LogMethod};
    ///
    /// /// Degrees Celsius.
    /// const READINGS: LogMethod<i32> = LogMethod::NODE;
    ///
    /// let mut events = connection.events(READINGS).resume_from(41).follow().open().await?;
    /// while let Some(item) = events.next().await? {
    ///     match item {
    ///         EventItem::Event { seq, payload, .. } => println!("{seq}: {payload} degrees"),
    ///         EventItem::Gap(gap) => println!("missed {:?}", gap.missed),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events<T>(&self, log: impl MethodName<LogMethod<T>>) -> EventsRequest<T> {
        EventsRequest::new(self.request_raw(log.method_name(), Bytes::new()))
    }

    /// Prepares a subscription to the peer's own event log, with payloads of plain bytes. See
    /// [`events`](Self::events), which may also name another log: `events::<Raw>("plant.temperature")`.
    pub fn events_raw(&self) -> EventsRequest {
        EventsRequest::new(self.request_raw(STREAM_EVENTS, Bytes::new()))
    }
}

/// A subscription to be opened; see [`Connection::events`].
#[must_use = "nothing is sent before `open`"]
pub struct EventsRequest<T = Raw> {
    call: Call,
    payloads: PhantomData<fn() -> T>,
}

impl<T> EventsRequest<T> {
    fn new(call: Call) -> Self {
        Self { call, payloads: PhantomData }
    }

    /// Asks for what comes after this sequence number, the last one processed. Default: everything that is
    /// held.
    pub fn resume_from(self, seq: u64) -> Self {
        Self::new(self.call.resume_from(seq))
    }

    /// The epoch that `resume_from` belongs to. Without it a log that began anew may go unnoticed.
    pub fn epoch(self, epoch: u64) -> Self {
        Self::new(self.call.epoch(epoch))
    }

    /// Stays subscribed for the events to come. Default: ends after the newest. Nodes of the tokio
    /// implementation answer `invalid_request` to this.
    pub fn follow(self) -> Self {
        Self::new(self.call.follow())
    }

    /// The codec of request and events. Default: CBOR.
    pub fn codec(self, codec: Codec) -> Self {
        Self::new(self.call.codec(codec))
    }

    /// Sends the request.
    ///
    /// # Errors
    ///
    /// As for [`Connection::call`]; what the peer has to say comes with the first item.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request.
    pub async fn open(self) -> Result<Events<T>> {
        let request = self.call.message();
        let resumes_from = request.resume_from.map(|seq| Cursor::new(request.epoch, seq));
        let (follower, follow) = (Follower::new(resumes_from), request.follow);
        Ok(Events { responses: self.call.stream().await?, follower, follow, payloads: PhantomData })
    }
}

impl<T> Clone for EventsRequest<T> {
    fn clone(&self) -> Self {
        Self::new(self.call.clone())
    }
}

impl<T> fmt::Debug for EventsRequest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventsRequest").field(&self.call).finish()
    }
}

/// The events of a peer, in order. See [`EventsRequest::open`].
///
/// A [`Stream`], and by [`next`](Self::next) usable without one: with payloads of type `T`, or, with
/// [`next_raw`](Self::next_raw) and as a stream of [`Raw`], of bytes. Dropping it ends the subscription.
#[must_use = "dropping it ends the subscription"]
pub struct Events<T = Raw> {
    responses: Responses,
    follower: Follower,
    follow: bool,
    payloads: PhantomData<fn() -> T>,
}

/// What a subscription brings. Both kinds are there to be matched: a subscriber that overlooks gaps loses
/// events in silence.
#[derive(Clone, PartialEq, Eq)]
pub enum EventItem<T = Bytes> {
    /// An event.
    Event {
        /// Its place in the log, from 1 by 1 within an epoch.
        seq: u64,
        /// The history that it belongs to; `None` from peers that have no epochs.
        epoch: Option<u64>,
        /// What was published.
        payload: T,
    },
    /// Events that this subscriber will not get.
    Gap(Gap),
}

impl From<Delivery> for EventItem {
    fn from(delivery: Delivery) -> Self {
        match delivery {
            Delivery::Event { seq, epoch, payload } => Self::Event { seq, epoch, payload },
            Delivery::Gap(gap) => Self::Gap(gap),
        }
    }
}

impl EventItem {
    fn decode<T: for<'b> Decode<'b, ()>>(self) -> Result<EventItem<T>> {
        Ok(match self {
            Self::Event { seq, epoch, payload } => {
                EventItem::Event { seq, epoch, payload: value::decode(&payload)? }
            }
            Self::Gap(gap) => EventItem::Gap(gap),
        })
    }
}

impl<T: for<'b> Decode<'b, ()>> Events<T> {
    /// The next event, decoded by minicbor, or gap; `None` after the newest event, unless the subscription
    /// follows.
    ///
    /// # Errors
    ///
    /// As for [`Responses::next`]; [`StreamReset`](crate::ErrorKind::StreamReset) with SHUTTING_DOWN where
    /// the peer is going away, [`Truncated`](crate::ErrorKind::Truncated) where a followed stream ends
    /// without a reason, and [`Protocol`](crate::ErrorKind::Protocol) where the peer skips, repeats or
    /// takes back events, or changes the epoch, without a gap. An error is the end: `None` follows. Only
    /// after [`Codec`](crate::ErrorKind::Codec), for an event whose payload is no such value, may the one
    /// after it still be read.
    ///
    /// # Cancellation
    ///
    /// Safe: no item is lost if this is dropped and called again.
    pub async fn next(&mut self) -> Result<Option<EventItem<T>>> {
        let item = self.next_raw().await?;
        self.decode(item)
    }

    fn decode(&self, item: Option<EventItem>) -> Result<Option<EventItem<T>>> {
        let item = item.map(EventItem::decode).transpose();
        item.map_err(|error| self.responses.name(error.after_answer()))
    }
}

impl<T> Events<T> {
    /// The next event, with its payload as bytes, or gap. See [`next`](Self::next).
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next).
    pub async fn next_raw(&mut self) -> Result<Option<EventItem>> {
        if let Some(event) = self.take_event() {
            return event.map(Some);
        }
        while !self.responses.has_ended() {
            let response = self.responses.next_response().await?;
            if let Some(item) = self.receive(response)? {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    fn poll_next_raw(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<EventItem>>> {
        if let Some(event) = self.take_event() {
            return Poll::Ready(event.map(Some));
        }
        while !self.responses.has_ended() {
            let Poll::Ready(response) = self.responses.poll_response(cx) else { return Poll::Pending };
            if let Some(item) = response.and_then(|response| self.receive(response)).transpose() {
                return Poll::Ready(item.map(Some));
            }
        }
        Poll::Ready(Ok(None))
    }

    /// What the subscriber gets of a response, or of the end of the stream.
    fn receive(&mut self, response: Option<Response>) -> Result<Option<EventItem>> {
        let received = match response {
            Some(response) => self.follower.receive(response),
            None if self.follow => Err(ended_without_reason()),
            None => Ok(None),
        };
        let received = received.map_err(|error| self.responses.fail(error))?;
        Ok(received.map(EventItem::from))
    }

    /// The next event, if it is here already. Most of a replay goes this way.
    #[inline]
    fn take_event(&mut self) -> Option<Result<EventItem>> {
        let (seq, epoch, payload) = self.responses.take_event()?;
        let received = self.follower.event(seq, epoch, payload);
        Some(received.map(EventItem::from).map_err(|error| self.responses.fail(error)))
    }
}

impl<T: for<'b> Decode<'b, ()>> Stream for Events<T> {
    type Item = Result<EventItem<T>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = self.poll_next_raw(cx);
        item.map(|item| self.decode(item?)).map(Result::transpose)
    }
}

impl Stream for Events {
    type Item = Result<EventItem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_next_raw(cx).map(Result::transpose)
    }
}

impl<T> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { responses, follower, follow, payloads: _ } = self;
        f.debug_struct("Events")
            .field("responses", responses)
            .field("cursor", &follower.cursor())
            .field("follow", follow)
            .finish()
    }
}

impl<T> fmt::Debug for EventItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { seq, epoch, payload: _ } => {
                f.debug_struct("Event").field("seq", seq).field("epoch", epoch).finish_non_exhaustive()
            }
            Self::Gap(gap) => f.debug_tuple("Gap").field(gap).finish(),
        }
    }
}
