//! The bounds of an event log.

use std::{sync::Arc, time::Duration};

#[cfg(feature = "durable")]
use super::commit_settings::CommitSettings;
use super::{
    backing::InMemory,
    consumer_settings::ConsumerSettings,
    history::{History, random_epoch},
    log::EventLog,
    log_clock::{LogClock, system_clocks},
    ring::{Bounds, OVERHEAD, Unacknowledged},
};
use crate::{
    error::{Error, Result},
    limits::TransportLimits,
    message::largest_event_payload,
    runtime::monotonic_now,
};

const MAX_EVENTS: usize = 4096;
const MAX_BYTES: u64 = 1024 * 1024;
/// Of a log with a larger store, by default.
const MEMORY_BYTES: usize = 1024 * 1024;
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
    pub(super) max_events: usize,
    pub(super) max_bytes: u64,
    memory_bytes: Option<usize>,
    pub(super) max_age: Option<Duration>,
    pub(super) max_payload_bytes: usize,
    max_subscribers: usize,
    pub(super) consumers: ConsumerSettings,
    #[cfg(feature = "durable")]
    pub(super) commits: CommitSettings,
}

impl Default for EventLogBuilder {
    fn default() -> Self {
        Self {
            max_events: MAX_EVENTS,
            max_bytes: MAX_BYTES,
            memory_bytes: None,
            max_age: None,
            max_payload_bytes: MAX_PAYLOAD_BYTES,
            max_subscribers: MAX_SUBSCRIBERS,
            consumers: ConsumerSettings::default(),
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

    /// How many bytes the events held may take. Default: 1 MiB.
    ///
    /// In memory, each event counts its payload and 64 bytes more. In the files of a log that is opened
    /// (`EventLogBuilder::open`, feature `durable`), each event takes its payload and about 30 bytes more,
    /// and each commit about 60. The segments are kept within this size, or within that of the newest two if
    /// these are larger: a segment has at least 64 KiB, and as much as its first commit. Other files take up
    /// to 160 KiB.
    #[must_use]
    pub fn max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// How many bytes of memory the events may take, each with its payload and 64 bytes more. A log in memory
    /// holds no more than this; of a log with a store, these are the newest events, which followers get
    /// without reading the disk. As much again may be written at a time, and as much may wait for that.
    /// Default: `max_bytes`, but at most 1 MiB if there is a store.
    #[must_use]
    pub fn memory_bytes(self, memory_bytes: usize) -> Self {
        Self { memory_bytes: Some(memory_bytes), ..self }
    }

    /// How long an event is held at most. Default: for ever.
    ///
    /// Ages are measured by a clock that does not jump with the system's: the monotonic clock while the log
    /// exists, and by how much the wall clock advanced while it was closed, if that is plausible. An event
    /// may be held longer, but never less long because somebody set a clock. A store gives up old events a
    /// segment at a time, with the next commit.
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
    /// answered `resource_exhausted`. One that does not read holds 48 KiB, or 16 KiB and the largest
    /// event, and the send window of its connection.
    #[must_use]
    pub fn max_subscribers(self, max_subscribers: usize) -> Self {
        Self { max_subscribers, ..self }
    }

    /// Takes `memory_bytes` from the limits' [`event_log_bytes`](crate::TransportLimits::event_log_bytes),
    /// and makes `max_payload_bytes` the most that fits their frames, in JSON too. For the only log of a
    /// node; [`within_one_of`](Self::within_one_of) is for one of several.
    #[must_use]
    pub fn within(self, limits: &TransportLimits) -> Self {
        self.within_one_of(limits, 1)
    }

    /// As [`within`](Self::within), for one of this many logs of a node: `memory_bytes` is an equal share of
    /// the limits' [`event_log_bytes`](crate::TransportLimits::event_log_bytes), so that the logs together
    /// take no more than these. With a smaller share, `max_payload_bytes` may be smaller than what fits a
    /// frame.
    ///
    /// A log with a store may take three times its [`memory_bytes`](Self::memory_bytes). It stays within the
    /// promise of [`TransportLimits::within`] if it is counted as three logs. Subscriptions need no share:
    /// each is a stream of its connection, and what it is sent counts against `frame_budget_bytes`, whatever
    /// the log.
    ///
    /// The log cannot be [built](Self::build) if `logs` is zero, or the share holds no event.
    ///
    /// ```
    /// use palyra_quic::{EventLog, Router, TransportLimits};
    ///
    /// let limits = TransportLimits::within(16 * 1024 * 1024)?;
    /// let log = || EventLog::builder().within_one_of(&limits, 2).build();
    /// let router = Router::new().log("plant.temperature", log()?).log("plant.pressure", log()?);
    /// # drop(router);
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    #[must_use]
    pub fn within_one_of(self, limits: &TransportLimits, logs: u32) -> Self {
        // Of no logs, a share that holds no event, which is an error when the log is built.
        let share = limits.event_log_bytes().checked_div(logs).unwrap_or(0);
        let memory_bytes = usize::try_from(share).unwrap_or(usize::MAX);
        let largest =
            largest_event_payload(limits.max_frame_len()).min(memory_bytes.saturating_sub(OVERHEAD));
        Self { memory_bytes: Some(memory_bytes), max_payload_bytes: largest, ..self }
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
        if self.max_payload_bytes.saturating_add(OVERHEAD) > self.max_memory_bytes(MEMORY_BYTES) {
            return Err(Error::invalid_config(
                "max_bytes and memory_bytes do not hold one event of max_payload_bytes",
            ));
        }
        if self.consumers.max_bytes.is_some_and(|bytes| bytes < self.max_bytes) {
            return Err(Error::invalid_config("keep_unacknowledged is less than max_bytes"));
        }
        self.consumers.check()?;
        self.consumers.consumers(&[], Duration::ZERO).map(|_| ())
    }

    /// What events may take in memory; `default` bounds it if the caller did not.
    fn max_memory_bytes(&self, default: usize) -> usize {
        let most = usize::try_from(self.max_bytes).unwrap_or(usize::MAX);
        most.min(self.memory_bytes.unwrap_or(default))
    }

    pub(super) fn create(self) -> EventLog {
        let bytes = self.max_memory_bytes(usize::MAX);
        let unacknowledged = self.consumers.max_bytes.map(|max_bytes| Unacknowledged {
            bytes: usize::try_from(max_bytes)
                .unwrap_or(usize::MAX)
                .min(self.memory_bytes.unwrap_or(usize::MAX))
                .max(bytes),
            refuses: self.consumers.refuses,
        });
        let bounds = Bounds { events: self.max_events, bytes, age: self.max_age, unacknowledged };
        let clock = LogClock::starting(system_clocks(monotonic_now));
        // Checked before.
        let consumers = self.consumers.consumers(&[], clock.now()).unwrap_or_default();
        let history = History::new(random_epoch(), 1, bounds, self.max_subscribers, clock);
        if let Some(consumers) = &consumers {
            history.set_acknowledged(consumers.acknowledged_by_all());
        }
        let backing = Box::new(InMemory::new(Arc::clone(&history)));
        EventLog::with(history, backing, self.max_payload_bytes, consumers.map(Arc::new))
    }

    /// The newest events of a log with a store, which continues at number `next`.
    #[cfg(feature = "durable")]
    pub(super) fn newest(&self, epoch: u64, next: u64, clock: LogClock) -> Arc<History> {
        let bounds = Bounds {
            events: self.max_events,
            bytes: self.stored_memory_bytes(),
            age: None,
            unacknowledged: None,
        };
        History::new(epoch, next, bounds, self.max_subscribers, clock)
    }

    #[cfg(feature = "durable")]
    pub(super) fn stored_memory_bytes(&self) -> usize {
        self.max_memory_bytes(MEMORY_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn bytes_are_bounded_too() {
        let log = EventLog::builder().max_payload_bytes(100).max_bytes(3 * 164).build().unwrap();
        for _ in 0..10 {
            log.publish_raw(vec![0; 100]).unwrap();
        }
        assert_eq!((log.len(), log.first_seq()), (3, 8));
        assert_eq!(log.publish_raw(vec![0; 101]).unwrap_err().kind(), &ErrorKind::MessageTooLarge);
        assert_eq!(log.last_seq(), 10, "a refused event takes no number");
    }

    #[test]
    fn logs_that_share_the_memory_of_a_node_stay_within_it_together() {
        let limits = TransportLimits::within(16 * 1024 * 1024).unwrap();
        let granted = usize::try_from(limits.event_log_bytes()).unwrap();
        for count in [1, 2, 3, 7, 64] {
            let builder = EventLog::builder().within_one_of(&limits, count);
            let logs: Vec<_> = (0..count).map(|_| builder.clone().build().unwrap()).collect();
            let mut taken = 0;
            for log in &logs {
                let largest = log.max_payload_bytes().min(1000);
                for _ in 0..1000 {
                    log.publish_raw(vec![0; largest]).unwrap();
                }
                taken += log.len() * (largest + OVERHEAD);
            }
            assert!(taken <= granted, "{count} logs take {taken} of {granted} bytes");
            assert!(taken > granted / 2, "{count} logs take only {taken} of {granted} bytes");
        }
    }

    #[test]
    fn a_share_that_holds_no_event_is_refused() {
        let limits = TransportLimits::builder().event_log_bytes(1024).build().unwrap();
        let fault = |logs| EventLog::builder().within_one_of(&limits, logs).build().err();
        for logs in [0, 17, u32::MAX] {
            assert_eq!(
                fault(logs).map(|error| error.kind().clone()),
                Some(ErrorKind::InvalidConfig),
                "{logs}"
            );
        }
        for logs in [1, 10, 16] {
            assert_eq!(fault(logs).map(|error| error.to_string()), None, "{logs}");
        }
    }

    #[test]
    fn bounds_that_hold_no_event_are_refused() {
        for builder in [EventLog::builder().max_events(0), EventLog::builder().max_bytes(1024)] {
            assert_eq!(builder.build().unwrap_err().kind(), &ErrorKind::InvalidConfig);
        }
    }
}
