//! Subscriptions to the event log of a peer.

use std::fmt;

use bytes::Bytes;

use super::{call::Call, responses::Responses};
use crate::{
    connection::Connection,
    error::{Error, Result},
    message::{Codec, Response},
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
    ///         EventItem::Gap { missed, .. } => println!("missed {missed:?}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> EventsRequest {
        EventsRequest(self.request("node.stream_events"))
    }
}

/// A subscription to be opened; see [`Connection::events`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent before `open`"]
pub struct EventsRequest(Call);

impl EventsRequest {
    /// Asks for what comes after this sequence number, the last one processed. Default: everything that is held.
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
        let last = self.0.resumes_from();
        Ok(Events { responses: self.0.stream().await?, last })
    }
}

/// The events of a peer, in order. See [`EventsRequest::open`].
///
/// Dropping it ends the subscription.
#[must_use = "dropping it ends the subscription"]
pub struct Events {
    responses: Responses,
    /// The last event that the caller has, to see that the next one follows it.
    last: Option<u64>,
}

/// What a subscription brings. Both kinds are there to be matched: a subscriber that overlooks gaps loses events in silence.
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
    /// Events that this subscriber will not get. What follows starts at `first_seq`.
    Gap {
        /// The oldest event still held, or the next one.
        first_seq: u64,
        /// The history that follows.
        epoch: u64,
        /// How many are missing, where the peer knows.
        missed: Option<u64>,
    },
}

impl Events {
    /// The next event or gap; `None` after the newest event, unless the subscription follows.
    ///
    /// # Errors
    ///
    /// As for [`Responses::next`]; [`StreamReset`](crate::ErrorKind::StreamReset) with SHUTTING_DOWN where the peer is
    /// going away, and [`Protocol`](crate::ErrorKind::Protocol) where it skips or repeats events without a word.
    ///
    /// # Cancellation
    ///
    /// Safe: no item is lost if this is dropped and called again.
    pub async fn next(&mut self) -> Result<Option<EventItem>> {
        loop {
            let Some(response) = self.responses.next_response().await? else { return Ok(None) };
            match response {
                Response::Event { seq, epoch, payload } => {
                    if self.last.is_some_and(|last| last.checked_add(1) != Some(seq)) {
                        return Err(self
                            .responses
                            .fail(Error::protocol(format!("event {seq} is out of sequence"))));
                    }
                    self.last = Some(seq);
                    return Ok(Some(EventItem::Event { seq, epoch, payload: payload.unwrap_or_default() }));
                }
                Response::Gap { first_seq, epoch, missed } => {
                    let Some(last) = first_seq.checked_sub(1) else {
                        return Err(self.responses.fail(Error::protocol("events begin with number 1")));
                    };
                    self.last = Some(last);
                    return Ok(Some(EventItem::Gap { first_seq, epoch, missed }));
                }
                Response::Heartbeat { seq, .. } => {
                    if self.last.is_some_and(|last| last != seq) {
                        return Err(self
                            .responses
                            .fail(Error::protocol(format!("the log is at {seq}, and this stream is not"))));
                    }
                    self.last = Some(seq);
                }
                _ => return Err(self.responses.fail(Error::protocol("the answer is not an event"))),
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { responses, last } = self;
        f.debug_struct("Events").field("responses", responses).field("last", last).finish()
    }
}

impl fmt::Debug for EventItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { seq, epoch, payload } => f
                .debug_struct("Event")
                .field("seq", seq)
                .field("epoch", epoch)
                .field("payload_bytes", &payload.len())
                .finish(),
            Self::Gap { first_seq, epoch, missed } => f
                .debug_struct("Gap")
                .field("first_seq", first_seq)
                .field("epoch", epoch)
                .field("missed", missed)
                .finish(),
        }
    }
}
