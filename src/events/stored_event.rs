//! An event as a log keeps it.

use std::time::Duration;

use bytes::Bytes;

/// An event without its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The encoded event. A store does not look into it.
    pub payload: Bytes,
    /// When the event was published, on the clock of the log. Kept in whole milliseconds.
    pub published: Duration,
}
