//! Carries the event logs of palyra-quic nodes into NATS JetStream, and messages of JetStream into the log
//! of a node: each once and in order, whatever is killed or restarted in between.
//!
//! [`ToStream`] publishes logs, each under a subject of its own; [`FromStream`] fills a log from a subject.
//! Both keep no state but what is already in JetStream or in the log, so that there is no file that can
//! disagree with them: where to go on is read from the last message of the subject, or from the newest
//! event of the log.
//!
//! JetStream removes duplicates by `Nats-Msg-Id` only for as long as its deduplication window lasts.
//! [`ToStream`] does not rely on it: every message says which message must be the last of its subject, and
//! JetStream refuses it otherwise.
//!
//! What is promised from end to end, and with which settings, is in `docs/fleet.md` of palyra-quic.

mod backoff;
mod error;
mod from_stream;
mod message;
mod nats;
mod to_stream;

pub use self::{
    error::{BridgeError, Result},
    from_stream::{FromStream, InboundLog, Origin, StoredMessage},
    message::{GAP_FROM, GAP_MISSED, GAP_NEXT},
    nats::{Nats, NatsOptions},
    to_stream::{MissingStream, SourceLog, ToStream, ToStreamOptions},
};
