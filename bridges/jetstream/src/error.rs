//! Why a bridge stops.

/// A `Result` with [`BridgeError`].
pub type Result<T, E = BridgeError> = std::result::Result<T, E>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A failure that trying again does not repair. All others are reported through `tracing`, and tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// The options contradict each other, or name files that cannot be read.
    #[error("{0}")]
    Options(String),
    /// NATS cannot be connected to with these options.
    #[error("connecting to NATS failed")]
    Connect(#[source] BoxError),
    /// The stream does not exist, and the bridge may not create it.
    #[error("there is no stream {0}")]
    StreamMissing(String),
    /// The stream exists, but has lost all messages of a subject to which this bridge has published.
    #[error("the subject {0} was emptied")]
    SubjectEmptied(String),
    /// The last message of a subject does not come from this bridge.
    #[error("message {sequence} of {subject} has no id of the form `epoch:seq`")]
    ForeignMessage {
        /// The subject.
        subject: String,
        /// The stream sequence of the message.
        sequence: u64,
    },
    /// The log of a node ends before the event that was published last, in the same epoch: it was restored
    /// from a backup, for instance. Its numbers may now mean other events.
    #[error("the log of {subject} ends before event {published}, which was published, in the same epoch")]
    Diverged {
        /// The subject.
        subject: String,
        /// The number of the event that was published last.
        published: u64,
    },
    /// The node sends events without an epoch. Without one, a restart of the node would go unnoticed.
    #[error("the log of {0} has no epoch")]
    NoEpoch(String),
    /// An event is larger than a message that NATS accepts.
    #[error("event {seq} of {subject} makes a message of {bytes} bytes; NATS accepts {max_payload}")]
    TooLarge {
        /// The subject.
        subject: String,
        /// The number of the event.
        seq: u64,
        /// The size of the message.
        bytes: usize,
        /// The largest that the server accepts.
        max_payload: usize,
    },
    /// A node refuses the bridge, or breaks the protocol.
    #[error("the log of {subject} cannot be followed")]
    Node {
        /// The subject.
        subject: String,
        /// What the node or its connection says.
        #[source]
        source: palyra_quic::Error,
    },
    /// The log of this node does not accept a message, and will not accept it later.
    #[error("message {sequence} cannot be stored")]
    Log {
        /// The stream sequence of the message.
        sequence: u64,
        /// What the log says.
        #[source]
        source: palyra_quic::Error,
    },
    /// The log cannot be opened.
    #[error("the log cannot be opened")]
    Open(#[source] BoxError),
    /// The log holds events that do not come from this bridge.
    #[error("event {0} of the log is no message of JetStream")]
    ForeignEvent(u64),
    /// The durable consumer exists, with settings under which messages could be lost or change their order.
    #[error("the consumer {0} exists with other settings: {1}")]
    Consumer(String, String),
}

/// An error with all its causes on one line, for reports. async-nats repeats causes in its texts; they are
/// left out here.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
