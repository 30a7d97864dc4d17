//! A subject of JetStream into the log of a node.

mod inbound_log;
mod stored_message;

use std::time::Duration;

use async_nats::jetstream::{
    AckKind, ErrorCode, Message,
    consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
    context::GetStreamErrorKind,
    stream::Stream,
};
use futures_util::StreamExt;
use palyra_quic::{Error, ErrorKind, EventLog};

use crate::{
    backoff::Backoff,
    error::{BridgeError, Result, chain},
    nats::{Nats, lost},
};

pub use self::{
    inbound_log::InboundLog,
    stored_message::{Origin, StoredMessage},
};

/// A message that was delivered and not acknowledged is delivered again after this time.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// The longest pause before a full log is tried again. Shorter than [`ACK_WAIT`], so that JetStream hears
/// in time that the message is still being worked on.
const MAX_LOG_PAUSE: Duration = Duration::from_secs(1);

/// Fills a log from a subject, each message once and in the order of the stream.
///
/// A durable pull consumer delivers one message at a time. It is acknowledged when the log has it on disk.
/// If the process is killed in between, JetStream delivers the message again; the log's newest event then
/// says that it is there already. See [`StoredMessage`] for what the events contain.
///
/// One message at a time, because JetStream delivers again what was not acknowledged *behind* newer
/// messages, which would then be out of order.
#[derive(Debug)]
pub struct FromStream {
    nats: Nats,
    stream: String,
    subject: String,
    durable: String,
    ack_wait: Duration,
    log: EventLog,
    newest: Option<Origin>,
}

/// Why a session ends.
enum SessionEnd {
    Retry(String),
    Stop(BridgeError),
}

impl FromStream {
    /// A bridge from the messages of `subject`, which may contain wildcards, in `stream`, with a durable
    /// consumer of the name `durable`, which is created if it does not exist.
    #[must_use]
    pub fn new(nats: Nats, stream: &str, subject: &str, durable: &str, log: InboundLog) -> Self {
        let InboundLog { log, newest } = log;
        Self {
            nats,
            stream: stream.to_owned(),
            subject: subject.to_owned(),
            durable: durable.to_owned(),
            ack_wait: ACK_WAIT,
            log,
            newest,
        }
    }

    /// A message that was delivered and not acknowledged is delivered again after this time, which a bridge
    /// that was killed has to wait. For a consumer that is created. Default: 10 s.
    #[must_use]
    pub fn ack_wait(self, ack_wait: Duration) -> Self {
        Self { ack_wait, ..self }
    }

    /// Fills the log until a failure that trying again does not repair. A stream that does not exist is
    /// waited for.
    ///
    /// # Errors
    ///
    /// What ended the bridge.
    ///
    /// # Cancellation
    ///
    /// Safe, like the end of the process; but for this log, another run needs an [`InboundLog`] that was
    /// opened again.
    pub async fn run(mut self) -> Result<()> {
        let mut backoff = Backoff::new();
        loop {
            let mut stored = false;
            match self.session(&mut stored).await {
                SessionEnd::Stop(error) => return Err(error),
                SessionEnd::Retry(reason) => tracing::warn!("{reason}; trying again"),
            }
            if stored {
                backoff.reset();
            }
            backoff.pause().await;
        }
    }

    async fn session(&mut self, stored: &mut bool) -> SessionEnd {
        let mut losses = self.nats.losses();
        match self.deliver(&mut losses, stored).await {
            Ok(reason) => SessionEnd::Retry(reason),
            Err(end) => end,
        }
    }

    async fn deliver(
        &mut self,
        losses: &mut tokio::sync::watch::Receiver<u64>,
        stored: &mut bool,
    ) -> Result<String, SessionEnd> {
        let stream = self.open_stream().await?;
        let created = stream.cached_info().created.unix_timestamp_nanos().to_be_bytes();
        let consumer = self.consumer(&stream).await?;
        let messages = consumer.messages().await;
        let mut messages = messages.map_err(|error| self.retry(&error))?;
        loop {
            let message = tokio::select! {
                biased;
                () = lost(losses) => return Ok("the connection to NATS was lost".into()),
                message = messages.next() => message,
            };
            let message = match message {
                None => return Ok(format!("the consumer {} has ended", self.durable)),
                Some(Err(error)) => return Err(self.retry(&error)),
                Some(Ok(message)) => message,
            };
            let stream_sequence = match message.info() {
                Ok(info) => info.stream_sequence,
                Err(error) => return Ok(format!("a message without a number: {error}")),
            };
            let origin = Origin { stream_created: created.into(), stream_sequence };
            if self.newest.is_some_and(|newest| origin.is_covered_by(&newest)) {
                tracing::debug!("message {stream_sequence} is in the log already");
            } else {
                self.store(&message, origin).await?;
                *stored = true;
            }
            if let Err(error) = message.ack().await {
                return Ok(format!("acknowledging message {stream_sequence}: {error}"));
            }
        }
    }

    async fn open_stream(&self) -> Result<Stream, SessionEnd> {
        self.nats.context.get_stream(&self.stream).await.map_err(|error| match error.kind() {
            GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => {
                SessionEnd::Stop(BridgeError::Options(format!("{}: {error}", self.stream)))
            }
            GetStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                SessionEnd::Retry(format!("there is no stream {}", self.stream))
            }
            _ => self.retry(&error),
        })
    }

    async fn consumer(&self, stream: &Stream) -> Result<Consumer<pull::Config>, SessionEnd> {
        let config = pull::Config {
            durable_name: Some(self.durable.clone()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            filter_subject: self.subject.clone(),
            max_ack_pending: 1,
            ..pull::Config::default()
        };
        let consumer = stream.get_or_create_consumer(&self.durable, config).await;
        let consumer = consumer.map_err(|error| self.retry(&error))?;
        let found = &consumer.cached_info().config;
        let mismatch = if found.max_ack_pending != 1 {
            Some(format!("max_ack_pending is {}, and must be 1", found.max_ack_pending))
        } else if found.ack_policy != AckPolicy::Explicit {
            Some("its messages are not acknowledged one by one".to_owned())
        } else if found.filter_subject != self.subject {
            Some(format!("it is for the subject {:?}", found.filter_subject))
        } else if found.max_deliver > 0 {
            Some("max_deliver gives messages up".to_owned())
        } else {
            None
        };
        match mismatch {
            Some(mismatch) => Err(SessionEnd::Stop(BridgeError::Consumer(self.durable.clone(), mismatch))),
            None => Ok(consumer),
        }
    }

    /// Resolves when the message is on disk.
    async fn store(&mut self, message: &Message, origin: Origin) -> Result<(), SessionEnd> {
        let stored = StoredMessage {
            payload: message.payload.to_vec().into(),
            origin,
            subject: message.subject.to_string(),
        };
        let sequence = origin.stream_sequence;
        let event = minicbor::to_vec(&stored).unwrap_or_default();
        loop {
            let Err(error) = self.log.publish_durable_raw(event.clone()).await else { break };
            if !is_temporary(&error) {
                return Err(SessionEnd::Stop(BridgeError::Log { sequence, source: error }));
            }
            tracing::warn!("message {sequence} is not stored yet: {}", chain(&error));
            // Otherwise JetStream would deliver the message again while the log is tried.
            if let Err(error) = message.ack_with(AckKind::Progress).await {
                return Err(SessionEnd::Retry(format!("message {sequence}: {error}")));
            }
            tokio::time::sleep(error.retry_after().unwrap_or(MAX_LOG_PAUSE).min(MAX_LOG_PAUSE)).await;
        }
        self.newest = Some(origin);
        Ok(())
    }

    fn retry(&self, error: &dyn std::error::Error) -> SessionEnd {
        SessionEnd::Retry(format!("stream {}, consumer {}: {}", self.stream, self.durable, chain(error)))
    }
}

/// A full disk may get room; a message that is too large for the log does not get smaller.
fn is_temporary(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Exhausted | ErrorKind::Io)
}
