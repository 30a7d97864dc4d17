//! Publishes from one look at the subjects to the next.

use std::{
    collections::{HashMap, VecDeque},
    future::IntoFuture,
    pin::Pin,
};

use async_nats::jetstream::{
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
    publish::PublishAck,
};
use palyra_quic::Cursor;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    LogState, SessionEnd, ToStreamOptions,
    chain::Chain,
    position::{Position, position, stream},
    source::{Arrival, follow},
};
use crate::{
    error::{BridgeError, chain as error_chain},
    message::Outgoing,
    nats::{Nats, lost},
};

/// Events that were read from the nodes and not yet published, for all logs together. The window of the
/// nodes' streams holds what follows.
const READ_AHEAD: usize = 64;
/// More than the subject and the headers of a message need besides their own length.
const MESSAGE_OVERHEAD: usize = 512;

/// Publishes what comes from the logs. Ends at the first doubt about what JetStream has.
pub(super) struct Session<'a> {
    nats: &'a Nats,
    options: &'a ToStreamOptions,
    logs: &'a mut [LogState],
    window: usize,
    in_flight: VecDeque<InFlight>,
    confirmed: u64,
}

struct InFlight {
    log: usize,
    cursor: Cursor,
    ack: Pin<Box<dyn Future<Output = Result<PublishAck, PublishError>> + Send>>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        nats: &'a Nats,
        options: &'a ToStreamOptions,
        logs: &'a mut [LogState],
        window: usize,
    ) -> Self {
        Self { nats, options, logs, window, in_flight: VecDeque::new(), confirmed: 0 }
    }

    /// How many messages JetStream has acknowledged.
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    pub(super) async fn run(&mut self) -> SessionEnd {
        match self.publish().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn publish(&mut self) -> Result<std::convert::Infallible, SessionEnd> {
        // Before the subjects are read: a loss in between leaves the session in doubt, too.
        let mut losses = self.nats.losses();
        let positions = self.positions().await?;
        let mut chain = Chain::new(positions.iter().map(|position| position.sequence).collect());
        let (sender, mut arrivals) = mpsc::channel::<Arrival>(READ_AHEAD);
        // Dropped with the session, which ends the subscriptions.
        let mut sources = JoinSet::new();
        let mut followed = HashMap::new();
        for (index, (log, position)) in self.logs.iter().zip(&positions).enumerate() {
            if log.failure.is_none() {
                let source = follow(index, log.source.clone(), position.cursor, sender.clone());
                followed.insert(index, sources.spawn(source));
            }
        }
        drop(sender);
        loop {
            let may_send = chain.is_ready() && self.in_flight.len() < self.window;
            tokio::select! {
                biased;
                () = lost(&mut losses) => {
                    return Err(SessionEnd::Doubt("the connection to NATS was lost".into()));
                }
                ack = first_ack(&mut self.in_flight), if !self.in_flight.is_empty() => {
                    self.confirm(ack, &mut chain)?;
                }
                arrival = arrivals.recv(), if may_send => match arrival {
                    Some((log, Ok(message))) => {
                        self.send(log, message, &mut chain).await?;
                        if self.logs[log].failure.is_some() && let Some(source) = followed.remove(&log) {
                            source.abort();
                        }
                    }
                    Some((log, Err(error))) => self.logs[log].fail(error),
                    None if self.in_flight.is_empty() => {
                        return Err(SessionEnd::Doubt("no log is left".into()));
                    }
                    // The last acknowledgements are still to come.
                    None => {
                        let ack = first_ack(&mut self.in_flight).await;
                        self.confirm(ack, &mut chain)?;
                    }
                },
            }
        }
    }

    async fn positions(&mut self) -> Result<Vec<Position>, SessionEnd> {
        let stream = stream(self.nats, self.options, self.logs).await?;
        let mut positions = Vec::with_capacity(self.logs.len());
        for log in self.logs.iter_mut() {
            let position = match log.failure {
                None => position(&stream, self.options, log).await?.unwrap_or_default(),
                Some(_) => Position::default(),
            };
            if let Some((acknowledgements, cursor)) = log.acknowledgements.as_ref().zip(position.cursor) {
                acknowledgements.confirm(cursor);
            }
            positions.push(position);
        }
        Ok(positions)
    }

    async fn send(&mut self, log: usize, message: Outgoing, chain: &mut Chain) -> Result<(), SessionEnd> {
        let state = &mut self.logs[log];
        if state.failure.is_some() {
            return Ok(());
        }
        let subject = state.source.subject.clone();
        let bytes = message.payload.len() + subject.len() + MESSAGE_OVERHEAD;
        if let Some(max_payload) = self.nats.max_payload().filter(|max_payload| bytes > *max_payload) {
            let seq = message.cursor.seq();
            state.fail(BridgeError::TooLarge { subject, seq, bytes, max_payload });
            return Ok(());
        }
        let Some(expected) = chain.push(log, &message) else {
            return Err(SessionEnd::Doubt("a message was to be sent too early".into()));
        };
        let headers = message.headers(&expected);
        let Outgoing { cursor, payload, .. } = message;
        let publish = PublishMessage::build().headers(headers).payload(payload);
        let ack = self.nats.context.send_publish(subject, publish).await;
        let ack = ack.map_err(|error| SessionEnd::Doubt(format!("publishing {cursor}: {error}")))?;
        self.in_flight.push_back(InFlight { log, cursor, ack: ack.into_future() });
        Ok(())
    }

    /// Takes the answer to the oldest message in flight.
    fn confirm(
        &mut self,
        ack: Result<PublishAck, PublishError>,
        chain: &mut Chain,
    ) -> Result<(), SessionEnd> {
        let Some(InFlight { log, cursor, .. }) = self.in_flight.pop_front() else { return Ok(()) };
        let subject = &self.logs[log].source.subject;
        let ack = ack.map_err(|error| match error.kind() {
            PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence => {
                SessionEnd::Refused(format!("{subject}: JetStream expected no {cursor}"))
            }
            _ => SessionEnd::Doubt(format!("{subject}: publishing {cursor}: {}", error_chain(&error))),
        })?;
        if ack.duplicate {
            // Another bridge was faster, or this one before it was killed. What follows in flight is
            // refused.
            return Err(SessionEnd::Refused(format!("{subject}: JetStream had {cursor} already")));
        }
        chain.confirm(ack.sequence);
        self.confirmed += 1;
        let state = &mut self.logs[log];
        state.published_before = true;
        if let Some(acknowledgements) = &state.acknowledgements {
            acknowledgements.confirm(cursor);
        }
        Ok(())
    }
}

/// The answer to the oldest message in flight, which stays in the queue.
async fn first_ack(in_flight: &mut VecDeque<InFlight>) -> Result<PublishAck, PublishError> {
    match in_flight.front_mut() {
        Some(first) => first.ack.as_mut().await,
        None => std::future::pending().await,
    }
}
