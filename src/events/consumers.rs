//! The consumers of a log: who has processed its events up to which one. Decided without a clock.

use std::time::Duration;

use crate::{
    error::{Error, Result},
    name_map::NameMap,
    protocol::is_consumer_len,
    sync::{Mutex, MutexGuard, lock},
};

/// How many consumers a log has at most, unless its owner says otherwise.
pub(super) const MAX_CONSUMERS: usize = 64;

/// A consumer of an [`EventLog`](crate::EventLog), for which events are kept until it has acknowledged them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// Its name.
    pub name: String,
    /// The newest event that it has acknowledged; 0 if there is none.
    pub acknowledged: u64,
    /// How many numbers of events it has not acknowledged.
    pub lag: u64,
    /// For how long it has not been heard of. Time while the log was not open does not count.
    pub silent_for: Duration,
}

/// Why an acknowledgement is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Name,
    OtherEpoch,
    /// The event does not exist yet.
    Future,
    TooMany,
}

/// What is left to do for an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acknowledged {
    /// The consumer is to be saved before this is answered: it may not be known after a restart.
    Unsaved,
    Saved,
}

/// Everybody for whom events are kept.
pub(super) struct Consumers {
    table: Mutex<Table>,
    max: usize,
    forget_after: Option<Duration>,
}

#[derive(Default)]
struct Table {
    by_name: NameMap<Consumer>,
    /// Whether there is something to save.
    is_changed: bool,
    /// Others may have been lost to damage, so that nothing may be given up on behalf of the known ones.
    is_incomplete: bool,
}

struct Consumer {
    acknowledged: u64,
    /// On the clock of the log.
    heard: Duration,
    /// Whether it is known after a restart.
    is_saved: bool,
}

impl Consumers {
    pub(super) fn new(max: usize, forget_after: Option<Duration>) -> Self {
        Self { table: Mutex::default(), max, forget_after }
    }

    /// A consumer that the owner declares, or that was saved, with what it has acknowledged.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for an impossible name, or one too many.
    pub(super) fn declare(&self, name: &str, acknowledged: u64, now: Duration) -> Result<()> {
        check_name(name)?;
        let mut table = self.table();
        let Some(consumer) = table.by_name.get_mut(name) else {
            let consumer = Consumer { acknowledged, heard: now, is_saved: true };
            return Ok(table.add(name, consumer, self.max)?);
        };
        consumer.acknowledged = consumer.acknowledged.max(acknowledged);
        consumer.is_saved = true;
        Ok(())
    }

    /// Keeps everything from now on: which consumers there were is not known.
    #[cfg(any(test, feature = "durable"))]
    pub(super) fn set_incomplete(&self) {
        self.table().is_incomplete = true;
    }

    /// A consumer has processed all events up to `seq`, of the epoch that `is_current` knows. `last` is the
    /// newest event.
    pub(super) fn acknowledge(
        &self,
        name: &str,
        seq: u64,
        last: u64,
        now: Duration,
        is_current: impl FnOnce() -> bool,
    ) -> std::result::Result<Acknowledged, Refused> {
        check_name(name)?;
        if seq > last {
            return Err(Refused::Future);
        }
        let mut table = self.table();
        if !is_current() {
            return Err(Refused::OtherEpoch);
        }
        let Some(consumer) = table.by_name.get_mut(name) else {
            table.add(name, Consumer { acknowledged: seq, heard: now, is_saved: false }, self.max)?;
            table.is_changed = true;
            return Ok(Acknowledged::Unsaved);
        };
        consumer.heard = now;
        let acknowledged = if consumer.is_saved { Acknowledged::Saved } else { Acknowledged::Unsaved };
        // Backwards changes nothing.
        if seq > consumer.acknowledged {
            consumer.acknowledged = seq;
            table.is_changed = true;
        }
        Ok(acknowledged)
    }

    /// Begins an epoch by `begin`, in which nobody has acknowledged anything.
    pub(super) fn begin_epoch(&self, begin: impl FnOnce()) {
        let mut table = self.table();
        table.by_name.values_mut().for_each(|consumer| consumer.acknowledged = 0);
        table.is_changed = true;
        begin();
    }

    /// What was taken last was saved, with this consumer.
    pub(super) fn set_saved(&self, name: &str) {
        if let Some(consumer) = self.table().by_name.get_mut(name) {
            consumer.is_saved = true;
        }
    }

    /// Calls this with the newest event that all have acknowledged, which does not change meanwhile.
    pub(super) fn with_acknowledged_by_all(&self, apply: impl FnOnce(u64)) {
        let table = self.table();
        apply(table.acknowledged_by_all());
    }

    /// Returns whether there was a consumer of this name.
    pub(super) fn remove(&self, name: &str) -> bool {
        let mut table = self.table();
        let was_there = table.by_name.remove(name).is_some();
        table.is_changed |= was_there;
        was_there
    }

    /// Forgets those that were not heard of for too long. Returns whether there were any.
    pub(super) fn forget_silent(&self, now: Duration) -> bool {
        let Some(limit) = self.forget_after else { return false };
        let mut table = self.table();
        let before = table.by_name.len();
        table.by_name.retain(|name, consumer| {
            let keeps = now.saturating_sub(consumer.heard) <= limit;
            if !keeps {
                tracing::warn!(consumer = name, "a consumer that was not heard of is forgotten");
            }
            keeps
        });
        let forgot = table.by_name.len() < before;
        table.is_changed |= forgot;
        forgot
    }

    /// The newest event that all have acknowledged; the greatest number if there is nobody.
    pub(super) fn acknowledged_by_all(&self) -> u64 {
        self.table().acknowledged_by_all()
    }

    /// What is to be saved, if anything changed since this was asked.
    #[cfg(feature = "durable")]
    pub(super) fn take_changes(&self) -> Option<Vec<(Box<str>, u64)>> {
        let mut table = self.table();
        let changed = std::mem::take(&mut table.is_changed);
        changed.then(|| {
            table.by_name.iter().map(|(name, consumer)| (name.into(), consumer.acknowledged)).collect()
        })
    }

    /// What was taken could not be saved.
    #[cfg(feature = "durable")]
    pub(super) fn not_saved(&self) {
        self.table().is_changed = true;
    }

    /// How many there are, and how many numbers of events the slowest one has not acknowledged.
    pub(super) fn lag(&self, last: u64) -> (usize, u64) {
        let table = self.table();
        let lags = table.by_name.values().map(|consumer| last.saturating_sub(consumer.acknowledged));
        (table.by_name.len(), lags.max().unwrap_or(0))
    }

    pub(super) fn status(&self, last: u64, now: Duration) -> Vec<ConsumerStatus> {
        let status = |name: &str, consumer: &Consumer| ConsumerStatus {
            name: name.to_string(),
            acknowledged: consumer.acknowledged,
            lag: last.saturating_sub(consumer.acknowledged),
            silent_for: now.saturating_sub(consumer.heard),
        };
        self.table().by_name.iter().map(|(name, consumer)| status(name, consumer)).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Table {
    fn acknowledged_by_all(&self) -> u64 {
        if self.is_incomplete {
            return 0;
        }
        self.by_name.values().map(|consumer| consumer.acknowledged).min().unwrap_or(u64::MAX)
    }

    /// Adds a consumer whose name is not there yet.
    fn add(&mut self, name: &str, consumer: Consumer, max: usize) -> std::result::Result<(), Refused> {
        if self.by_name.len() >= max {
            return Err(Refused::TooMany);
        }
        self.by_name.insert(name.into(), consumer);
        Ok(())
    }
}

fn check_name(name: &str) -> std::result::Result<(), Refused> {
    if is_consumer_len(name.len()) { Ok(()) } else { Err(Refused::Name) }
}

impl Refused {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Name => "the name of a consumer has 1 to 64 bytes",
            Self::OtherEpoch => "the log has another epoch",
            Self::Future => "there is no such event yet",
            Self::TooMany => "the log has all the consumers that it may have",
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::invalid_config(refused.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_slowest_consumer_decides() {
        let consumers = Consumers::new(3, None);
        assert_eq!(consumers.acknowledged_by_all(), u64::MAX, "nobody");
        assert_eq!(consumers.acknowledge("a", 10, 20, secs(1), || true), Ok(Acknowledged::Unsaved));
        assert_eq!(consumers.acknowledge("b", 5, 20, secs(2), || true), Ok(Acknowledged::Unsaved));
        assert_eq!(consumers.acknowledged_by_all(), 5);
        consumers.set_saved("b");
        assert_eq!(consumers.acknowledge("b", 15, 20, secs(3), || true), Ok(Acknowledged::Saved));
        assert_eq!(consumers.acknowledged_by_all(), 10);
        // Backwards is accepted, and changes nothing but when it was heard of.
        assert_eq!(consumers.acknowledge("a", 3, 20, secs(4), || true), Ok(Acknowledged::Unsaved), "still");
        assert_eq!(consumers.acknowledged_by_all(), 10);
        let a = &consumers.status(20, secs(9))[0];
        assert_eq!((&*a.name, a.acknowledged, a.lag, a.silent_for), ("a", 10, 10, secs(5)));
        assert!(consumers.remove("a") && !consumers.remove("a"));
        assert_eq!(consumers.acknowledged_by_all(), 15);
        consumers.set_incomplete();
        assert_eq!(consumers.acknowledged_by_all(), 0);
    }

    #[test]
    fn what_cannot_be_is_refused_and_leaves_no_consumer() {
        let consumers = Consumers::new(2, None);
        let acknowledge = |name: &str, seq| consumers.acknowledge(name, seq, 20, secs(1), || true);
        for name in [String::new(), "x".repeat(65)] {
            assert_eq!(acknowledge(&name, 1), Err(Refused::Name));
        }
        assert_eq!(acknowledge("a", 21), Err(Refused::Future));
        assert_eq!(acknowledge("a", u64::MAX), Err(Refused::Future));
        assert!(consumers.status(20, secs(1)).is_empty());
        assert_eq!(acknowledge(&"x".repeat(64), 0), Ok(Acknowledged::Unsaved));
        assert_eq!(acknowledge("b", 20), Ok(Acknowledged::Unsaved));
        assert_eq!(acknowledge("c", 1), Err(Refused::TooMany));
        assert_eq!(consumers.declare("c", 0, secs(1)).unwrap_err().kind(), &crate::ErrorKind::InvalidConfig);
    }

    #[test]
    fn silent_consumers_are_forgotten_after_their_time() {
        let consumers = Consumers::new(3, Some(secs(10)));
        consumers.declare("declared", 0, secs(0)).unwrap();
        consumers.acknowledge("a", 7, 20, secs(5), || true).unwrap();
        assert!(!consumers.forget_silent(secs(10)));
        assert_eq!(consumers.acknowledged_by_all(), 0);
        assert!(consumers.forget_silent(secs(11)));
        assert_eq!(consumers.acknowledged_by_all(), 7);
        assert!(consumers.forget_silent(secs(16)));
        assert_eq!(consumers.acknowledged_by_all(), u64::MAX);
    }

    #[cfg(feature = "durable")]
    #[test]
    fn what_changed_is_saved_once() {
        let consumers = Consumers::new(3, None);
        assert_eq!(consumers.take_changes(), None);
        consumers.acknowledge("a", 7, 20, secs(5), || true).unwrap();
        assert_eq!(consumers.take_changes(), Some(vec![("a".into(), 7)]));
        consumers.acknowledge("a", 6, 20, secs(5), || true).unwrap();
        assert_eq!(consumers.take_changes(), None, "backwards");
        consumers.not_saved();
        assert!(consumers.take_changes().is_some());
        consumers.remove("a");
        assert_eq!(consumers.take_changes(), Some(vec![]));
    }
}
