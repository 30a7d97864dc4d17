//! The bounds of an event log.

use std::{sync::Arc, time::Duration};

#[cfg(feature = "durable")]
use super::committer::CommitSettings;
use super::{
    backing::Backing,
    history::{History, random_epoch},
    log::EventLog,
    ring::{Bounds, OVERHEAD, Ring},
};
use crate::{
    error::{Error, Result},
    limits::TransportLimits,
    message::largest_event_payload,
};

const MAX_EVENTS: usize = 4096;
const MAX_BYTES: usize = 1024 * 1024;
/// The same number as there are connections by default.
const MAX_SUBSCRIBERS: usize = 256;
/// Base64 makes this a third larger, and the result must still fit a frame of the default size.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

impl EventLog {
    /// A log with the default bounds: 4,096 events and 1 MiB.
    #[must_use]
    pub fn new() -> Self {
        EventLogBuilder::default().create()
    }

    /// Chooses the bounds.
    #[must_use]
    pub fn builder() -> EventLogBuilder {
        EventLogBuilder::default()
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}

/// Collects the bounds of an [`EventLog`]; see [`EventLog::builder`].
#[derive(Clone, Debug)]
pub struct EventLogBuilder {
    max_events: usize,
    max_bytes: usize,
    max_age: Option<Duration>,
    pub(super) max_payload_bytes: usize,
    max_subscribers: usize,
    #[cfg(feature = "durable")]
    pub(super) commits: CommitSettings,
}

impl Default for EventLogBuilder {
    fn default() -> Self {
        Self {
            max_events: MAX_EVENTS,
            max_bytes: MAX_BYTES,
            max_age: None,
            max_payload_bytes: MAX_PAYLOAD_BYTES,
            max_subscribers: MAX_SUBSCRIBERS,
            #[cfg(feature = "durable")]
            commits: CommitSettings::default(),
        }
    }
}

impl EventLogBuilder {
    /// How many events are held at most. Default: 4,096.
    #[must_use]
    pub fn max_events(self, max_events: usize) -> Self {
        Self { max_events, ..self }
    }

    /// How many bytes the events held may take: each counts its payload and 64 more. Default: 1 MiB. A
    /// durable log takes as much of the disk, and while events are written and others wait, twice as much
    /// memory again.
    #[must_use]
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// How long an event is held at most, by the calendar's clock. Default: for ever.
    #[must_use]
    pub fn max_age(self, max_age: Duration) -> Self {
        Self { max_age: Some(max_age), ..self }
    }

    /// The largest payload of an event, in bytes. Default: 256 KiB, which fits a frame of the default size
    /// even in JSON.
    #[must_use]
    pub fn max_payload_bytes(self, max_payload_bytes: usize) -> Self {
        Self { max_payload_bytes, ..self }
    }

    /// How many subscriptions may be open at a time, of all peers together. Default: 256. Further ones are
    /// answered `resource_exhausted`. One that does not read holds 32 KiB, or 16 KiB and the largest
    /// event, and the send window of its connection.
    #[must_use]
    pub fn max_subscribers(self, max_subscribers: usize) -> Self {
        Self { max_subscribers, ..self }
    }

    /// Takes `max_bytes` from the limits' [`event_log_bytes`](crate::TransportLimits::event_log_bytes), and
    /// makes `max_payload_bytes` the most that fits their frames, in JSON too.
    #[must_use]
    pub fn within(self, limits: &TransportLimits) -> Self {
        let max_bytes = usize::try_from(limits.event_log_bytes()).unwrap_or(usize::MAX);
        let largest = largest_event_payload(limits.max_frame_len()).min(max_bytes.saturating_sub(OVERHEAD));
        Self { max_bytes, max_payload_bytes: largest, ..self }
    }

    /// Checks the bounds and makes the log. Memory grows with the events, up to the bounds.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if `max_events` or `max_subscribers` is zero, or a
    /// single event of `max_payload_bytes` would not fit into `max_bytes`.
    pub fn build(self) -> Result<EventLog> {
        self.check()?;
        Ok(self.create())
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.max_events == 0 {
            return Err(Error::invalid_config("max_events is zero"));
        }
        if self.max_subscribers == 0 {
            return Err(Error::invalid_config("max_subscribers is zero"));
        }
        if self.max_payload_bytes.saturating_add(OVERHEAD) > self.max_bytes {
            return Err(Error::invalid_config("max_bytes does not hold one event of max_payload_bytes"));
        }
        Ok(())
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds { events: self.max_events, bytes: self.max_bytes, age: self.max_age }
    }

    pub(super) fn create(self) -> EventLog {
        let ring = Ring::new(self.bounds(), 1);
        let history = self.history(random_epoch(), ring);
        EventLog::with(history, Backing::memory(), self.max_payload_bytes)
    }

    pub(super) fn history(&self, epoch: u64, ring: Ring) -> Arc<History> {
        History::new(epoch, self.bounds(), self.max_subscribers, ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn bytes_are_bounded_too() {
        let log = EventLog::builder().max_payload_bytes(100).max_bytes(3 * (100 + OVERHEAD)).build().unwrap();
        for _ in 0..10 {
            log.publish_raw(vec![0; 100]).unwrap();
        }
        assert_eq!((log.len(), log.first_seq()), (3, 8));
        assert_eq!(log.publish_raw(vec![0; 101]).unwrap_err().kind(), &ErrorKind::MessageTooLarge);
        assert_eq!(log.last_seq(), 10, "a refused event takes no number");
    }

    #[test]
    fn bounds_that_hold_no_event_are_refused() {
        for builder in [EventLog::builder().max_events(0), EventLog::builder().max_bytes(1024)] {
            assert_eq!(builder.build().unwrap_err().kind(), &ErrorKind::InvalidConfig);
        }
    }
}
