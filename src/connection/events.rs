//! Subscriptions to the event log of a peer.

use std::fmt;

use bytes::Bytes;

use super::{Connection, call::Call, responses::Responses};
use crate::{
    error::Result,
    events::{Cursor, Delivery, Follower, Gap, ended_without_reason, fmt_event},
    message::Codec,
    protocol::STREAM_EVENTS,
};

impl Connection {
    /// Prepares a subscription to the peer's event log: all events held, then the end.
    ///
    /// ```no_run
    /// # async fn example(connection: palyra_quic::Connection) -> palyra_quic::Result<()> {
    /// use palyra_quic::EventItem;
    ///
    /// let mut events = connection.events().resume_from(41).follow().open().await?;
    /// while let Some(item) = events.next().await? {
    ///     match item {
    ///         EventItem::Event { seq, payload, .. } => println!("{seq}: {} bytes", payload.len()),
    ///         EventItem::Gap(gap) => println!("missed {:?}", gap.missed),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> EventsRequest {
        EventsRequest(self.request(STREAM_EVENTS))
    }
}

/// A subscription to be opened; see [`Connection::events`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent before `open`"]
pub struct EventsRequest(Call);

impl EventsRequest {
    /// Asks for what comes after this sequence number, the last one processed. Default: everything that is
    /// held.
    pub fn resume_from(self, seq: u64) -> Self {
        Self(self.0.resume_from(seq))
    }

    /// The epoch that `resume_from` belongs to. Without it a log that began anew may go unnoticed.
    pub fn epoch(self, epoch: u64) -> Self {
        Self(self.0.epoch(epoch))
    }

    /// Stays subscribed for the events to come. Default: ends after the newest.
    pub fn follow(self) -> Self {
        Self(self.0.follow())
    }

    /// The codec of request and events. Default: CBOR.
    pub fn codec(self, codec: Codec) -> Self {
        Self(self.0.codec(codec))
    }

    /// Sends the request.
    ///
    /// # Errors
    ///
    /// As for [`Connection::call`]; what the peer has to say comes with the first item.
    pub async fn open(self) -> Result<Events> {
        let request = self.0.request();
        let resumes_from = request.resume_from.map(|seq| Cursor::new(request.epoch, seq));
        let (follower, follow) = (Follower::new(resumes_from), request.follow);
        Ok(Events { responses: self.0.stream().await?, follower, follow })
    }
}

/// The events of a peer, in order. See [`EventsRequest::open`].
///
/// Dropping it ends the subscription.
#[must_use = "dropping it ends the subscription"]
pub struct Events {
    responses: Responses,
    follower: Follower,
    follow: bool,
}

/// What a subscription brings. Both kinds are there to be matched: a subscriber that overlooks gaps loses
/// events in silence.
#[derive(Clone, PartialEq, Eq)]
pub enum EventItem {
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
}

impl Events {
    /// The next event or gap; `None` after the newest event, unless the subscription follows.
    ///
    /// # Errors
    ///
    /// As for [`Responses::next`]; [`StreamReset`](crate::ErrorKind::StreamReset) with SHUTTING_DOWN where
    /// the peer is going away, [`Truncated`](crate::ErrorKind::Truncated) where a followed stream ends
    /// without a reason, and [`Protocol`](crate::ErrorKind::Protocol) where the peer skips, repeats or
    /// takes back events, or changes the epoch, without a gap. An error is the end: `None` follows.
    ///
    /// # Cancellation
    ///
    /// Safe: no item is lost if this is dropped and called again.
    pub async fn next(&mut self) -> Result<Option<EventItem>> {
        while !self.responses.has_ended() {
            let Some(response) = self.responses.next_response().await? else {
                return if self.follow { Err(self.responses.fail(ended_without_reason())) } else { Ok(None) };
            };
            let received = self.follower.receive(response).map_err(|error| self.responses.fail(error))?;
            match received {
                Some(Delivery::Event { seq, epoch, payload }) => {
                    return Ok(Some(EventItem::Event { seq, epoch, payload }));
                }
                Some(Delivery::Gap(gap)) => return Ok(Some(EventItem::Gap(gap))),
                None => {}
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { responses, follower, follow } = self;
        f.debug_struct("Events")
            .field("responses", responses)
            .field("cursor", &follower.cursor())
            .field("follow", follow)
            .finish()
    }
}

impl fmt::Debug for EventItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { seq, epoch, payload } => fmt_event(f, *seq, *epoch, payload),
            Self::Gap(gap) => f.debug_tuple("Gap").field(gap).finish(),
        }
    }
}
