//! A stream of events that is opened again behind the last event whenever it breaks.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{reconnecting::Client, subscription_item::SubscriptionItem};
use crate::{
    connection::{Connection, Responses},
    error::{Error, ErrorKind, Result},
    events::{Cursor, Delivery, Follower, ended_without_reason},
    message::{Codec, Response, WireError},
    runtime::Elapsed,
};

/// Opens a stream behind the last event, and another one on the next connection where it breaks.
pub(super) struct ResumedStream {
    client: Client,
    /// The method that serves the log.
    log: Box<str>,
    codec: Codec,
    follower: Follower,
    /// The peer has had this event: if it says that its log ends before, it has lost it.
    #[cfg(all(feature = "durable", unix))]
    expected: Option<u64>,
    /// The stream has ended because the peer does not have the event that was expected.
    #[cfg(all(feature = "durable", unix))]
    is_behind: bool,
    /// A connection that brings nothing for this long is given up.
    silence_limit: Duration,
    stream: Option<(Connection, Responses)>,
    /// When a stream that still brings something has shown that the peer is well.
    proven_at: Option<Instant>,
    /// Set where the connection lives on and its stream has failed.
    not_before: Option<Instant>,
}

impl ResumedStream {
    pub(super) fn new(
        client: Client,
        log: Box<str>,
        codec: Codec,
        follower: Follower,
        silence_limit: Duration,
    ) -> Self {
        Self {
            client,
            log,
            codec,
            follower,
            #[cfg(all(feature = "durable", unix))]
            expected: None,
            #[cfg(all(feature = "durable", unix))]
            is_behind: false,
            silence_limit,
            stream: None,
            proven_at: None,
            not_before: None,
        }
    }

    /// Behind the last event or gap that was received.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        self.follower.cursor()
    }

    /// Goes on behind this cursor with another stream, which ends if the peer says that its log ends before
    /// event `expected`.
    #[cfg(all(feature = "durable", unix))]
    pub(super) fn resume_at(&mut self, cursor: Option<Cursor>, expected: Option<u64>) {
        (self.follower, self.expected, self.stream) = (Follower::new(cursor), expected, None);
        self.is_behind = false;
    }

    /// Whether the last stream has ended because the peer does not have the event that was expected.
    #[cfg(all(feature = "durable", unix))]
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Says which log an error comes from, and where it is.
    pub(super) fn name(&self, error: Error) -> Error {
        match &self.stream {
            Some((connection, _)) => connection.link().name(error, &self.log),
            None => error.of_method(&self.log),
        }
    }

    /// An item whose frame is here already. Most of a replay goes this way, which allocates nothing.
    pub(super) fn take_arrived(&mut self) -> Option<Result<SubscriptionItem>> {
        loop {
            let (_, responses) = self.stream.as_mut()?;
            if let Some((seq, epoch, payload)) = responses.take_event() {
                let received = self.follower.event(seq, epoch, payload).map(Some);
                return self.deliver(received).transpose();
            }
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

    pub(super) async fn step(&mut self) -> Result<SubscriptionItem> {
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
        #[cfg(all(feature = "durable", unix))]
        let ends_at = match response {
            Response::Heartbeat { seq, .. } => {
                self.expected.is_some_and(|expected| seq < expected).then_some(seq)
            }
            _ => None,
        };
        let received = self.follower.receive(response);
        let delivered = self.deliver(received)?;
        #[cfg(all(feature = "durable", unix))]
        if let Some(seq) = ends_at {
            (self.stream, self.is_behind) = (None, true);
            let error = Error::new(ErrorKind::Truncated).detail(format!("the log ends with event {seq}"));
            return Ok(Some(SubscriptionItem::Disconnected { error: error.of_method(&self.log) }));
        }
        Ok(delivered)
    }

    /// What the subscriber gets of what the follower has made of a frame.
    fn deliver(&mut self, received: Result<Option<Delivery>>) -> Result<Option<SubscriptionItem>> {
        let received = match received {
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
        let error = self.name(error);
        let stream = self.stream.take();
        if error.is_terminal() {
            return Err(error);
        }
        let connection = stream.map(|(connection, _)| connection);
        if let Some(connection) = &connection
            && *error.kind() == ErrorKind::Remote(WireError::Unavailable)
        {
            // Another holder of the log may have what follows the cursor.
            self.client.retire(connection, &error);
            return Ok(SubscriptionItem::Disconnected { error });
        }
        let alive = connection.is_some_and(|connection| connection.close_reason().is_none());
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
            Err(error) if *error.kind() == ErrorKind::Closed => return Err(error.of_method(&self.log)),
            Err(error) => return self.broken(error),
        };
        let mut call = connection.request_raw(&self.log, Bytes::new()).codec(self.codec).follow();
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
                self.broken(connection.link().name(error, &self.log))
            }
        }
    }
}
