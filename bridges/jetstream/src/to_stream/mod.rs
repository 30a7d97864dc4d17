//! Logs of nodes into a stream of JetStream.

mod acknowledge;
mod chain;
mod position;
mod session;
mod source;

use std::time::Duration;

use palyra_quic::Client;

use crate::{
    backoff::Backoff,
    error::{BridgeError, Result, chain as error_chain},
    nats::Nats,
};

use self::{acknowledge::Acknowledgements, session::Session};

/// At most this many messages are sent to JetStream before the first of them is acknowledged. Enough for
/// 25,000 messages per second at a round trip of 10 ms.
const MAX_IN_FLIGHT: usize = 256;
/// The default of nats-server.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// What to do if the stream does not exist, or has lost all messages of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingStream {
    /// The bridge stops with an error.
    #[default]
    Stop,
    /// The bridge creates the stream, and publishes again all that the nodes hold. A gap stands in front
    /// for events that they no longer hold.
    Recreate,
}

/// A log of a node, and the subject under which its events are published.
#[derive(Debug, Clone)]
pub struct SourceLog {
    /// The node.
    pub client: Client,
    /// The method name of the log: `node.stream_events` for the node's own.
    pub log: String,
    /// The subject, which belongs to this log alone.
    pub subject: String,
}

/// How a [`ToStream`] treats its stream and its nodes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ToStreamOptions {
    /// The stream. No other client should publish to it: its messages are accepted, but make the bridge
    /// slow.
    pub stream: String,
    /// What to do if the stream is missing. Default: stop.
    pub missing_stream: MissingStream,
    /// The deduplication window of a stream that the bridge creates. Default: 2 minutes.
    pub duplicate_window: Duration,
    /// At most this many messages wait for their acknowledgement. Default: 256, which is also the most;
    /// with 1, each message waits for the one before.
    pub max_in_flight: usize,
    /// The name under which events are acknowledged to the nodes. Default: none, and no acknowledgements.
    pub consumer: Option<String>,
}

impl ToStreamOptions {
    /// The defaults, for this stream.
    pub fn new(stream: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            missing_stream: MissingStream::Stop,
            duplicate_window: DUPLICATE_WINDOW,
            max_in_flight: MAX_IN_FLIGHT,
            consumer: None,
        }
    }
}

/// Publishes the logs of nodes to a stream, each event once and in order, or a gap in its place.
///
/// A message carries the payload of its event, and as its `Nats-Msg-Id` the cursor behind it, `epoch:seq`.
/// For events that the node no longer holds, and where an epoch begins after another one, a message without
/// payload has the headers [`GAP_FROM`](crate::GAP_FROM), [`GAP_NEXT`](crate::GAP_NEXT) and
/// [`GAP_MISSED`](crate::GAP_MISSED).
#[derive(Debug)]
pub struct ToStream {
    nats: Nats,
    options: ToStreamOptions,
    logs: Vec<LogState>,
}

/// A log, and what this process knows about it.
#[derive(Debug)]
pub(super) struct LogState {
    source: SourceLog,
    acknowledgements: Option<Acknowledgements>,
    /// The subject had a message of this bridge when it was last looked at.
    published_before: bool,
    /// Why the log is no longer followed.
    failure: Option<BridgeError>,
}

/// Why a session ends.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// It is uncertain what JetStream has: the subjects must be read again.
    Doubt(String),
    /// JetStream refused a message because another one was the last of its subject or of the stream.
    Refused(String),
    /// The bridge must stop.
    Stop(BridgeError),
}

impl ToStream {
    /// A bridge for these logs. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Options`](BridgeError::Options) without logs, or if two have the same subject.
    pub fn new(nats: Nats, options: ToStreamOptions, logs: Vec<SourceLog>) -> Result<Self> {
        let mut subjects: Vec<&str> = logs.iter().map(|log| log.subject.as_str()).collect();
        subjects.sort_unstable();
        if subjects.is_empty() {
            return Err(BridgeError::Options("a bridge needs a log".into()));
        }
        if let Some(pair) = subjects.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(BridgeError::Options(format!("two logs have the subject {}", pair[0])));
        }
        let logs = logs.into_iter().map(|source| {
            let acknowledgements =
                options.consumer.as_ref().map(|consumer| Acknowledgements::start(&source, consumer));
            LogState { source, acknowledgements, published_before: false, failure: None }
        });
        let logs = logs.collect();
        Ok(Self { nats, options, logs })
    }

    /// Publishes until a failure that trying again does not repair. A failure of one log is reported when
    /// it happens, and ends the bridge when no other log is left.
    ///
    /// # Errors
    ///
    /// What ended the bridge.
    ///
    /// # Cancellation
    ///
    /// Safe: another run, or another process, continues behind the last message of each subject.
    pub async fn run(mut self) -> Result<()> {
        let limit = self.options.max_in_flight.clamp(1, MAX_IN_FLIGHT);
        let mut window = limit;
        let mut backoff = Backoff::new();
        loop {
            if self.logs.iter().all(|log| log.failure.is_some()) {
                let first = self.logs.into_iter().find_map(|log| log.failure);
                return first.map_or(Ok(()), Err);
            }
            let Self { nats, options, logs } = &mut self;
            let mut session = Session::new(nats, options, logs, window);
            let end = session.run().await;
            let confirmed = session.confirmed();
            if confirmed > 0 {
                backoff.reset();
            }
            match end {
                SessionEnd::Stop(error) => return Err(error),
                SessionEnd::Refused(reason) => {
                    // Another client publishes to the stream, or the stream has replicas that check
                    // messages one at a time: fewer in flight are refused less often.
                    window = (window / 2).max(1);
                    tracing::warn!("{reason}; the subjects are read again, at most {window} in flight");
                }
                SessionEnd::Doubt(reason) => {
                    window = limit;
                    tracing::warn!("{reason}; the subjects are read again");
                }
            }
            if confirmed > u64::try_from(window).unwrap_or(u64::MAX) {
                window = window.saturating_mul(2).min(limit);
            }
            backoff.pause().await;
        }
    }
}

impl LogState {
    /// Follows the log no longer, and says why.
    pub(super) fn fail(&mut self, error: BridgeError) {
        tracing::error!("{}; this log is no longer followed", error_chain(&error));
        self.failure = Some(error);
    }
}
