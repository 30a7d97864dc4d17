//! What consumers say of a log, and what its owner asks about them.

use super::{
    consumers::{Acknowledged, ConsumerStatus, Consumers, Refused},
    cursor::Cursor,
    log::EventLog,
};
use crate::error::{Error, Result};

/// Why an acknowledgement did not count.
pub(crate) enum NotAcknowledged {
    /// The log keeps nothing on anyone's behalf.
    NoConsumers,
    Refused(Refused),
    /// A new consumer could not be written.
    NotSaved(Error),
}

impl EventLog {
    /// Says that a consumer has processed all events up to this cursor, so that they need not be kept for
    /// it any longer. A peer does so with [`Connection::ack_events`](crate::Connection::ack_events). A cursor
    /// behind an earlier one changes nothing.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if the log was built without
    /// [`keep_unacknowledged`](crate::EventLogBuilder::keep_unacknowledged), for a cursor of another epoch or
    /// ahead of the log, for a name without 1 to 64 bytes, and for one consumer too many;
    /// [`Io`](crate::ErrorKind::Io) if a new consumer could not be written.
    ///
    /// # Cancellation
    ///
    /// The acknowledgement counts once this was polled; a new consumer may not be durable yet.
    pub async fn acknowledge(&self, consumer: &str, cursor: Cursor) -> Result<()> {
        self.acknowledge_as(consumer, cursor).await.map_err(|error| match error {
            NotAcknowledged::NoConsumers => Error::invalid_config("the log has no consumers"),
            NotAcknowledged::Refused(refused) => refused.into(),
            NotAcknowledged::NotSaved(error) => error,
        })
    }

    pub(crate) async fn acknowledge_as(
        &self,
        consumer: &str,
        cursor: Cursor,
    ) -> std::result::Result<(), NotAcknowledged> {
        let consumers = self.consumers_of().ok_or(NotAcknowledged::NoConsumers)?;
        let is_current = || cursor.epoch().is_none_or(|epoch| epoch == self.epoch());
        if !is_current() {
            return Err(NotAcknowledged::Refused(Refused::OtherEpoch));
        }
        let acknowledged = consumers
            .acknowledge(consumer, cursor.seq(), self.committed_seq(), self.now(), is_current)
            .map_err(NotAcknowledged::Refused)?;
        consumers.with_acknowledged_by_all(|seq| self.backing().acknowledged_by_all(seq));
        if acknowledged == Acknowledged::Unsaved || self.is_full_after_crash() {
            self.save_consumers().await.map_err(NotAcknowledged::NotSaved)?;
            consumers.set_saved(consumer);
        }
        Ok(())
    }

    /// Everybody for whom events are kept, by name.
    #[must_use]
    pub fn consumers(&self) -> Vec<ConsumerStatus> {
        let status = |consumers: &Consumers| consumers.status(self.committed_seq(), self.now());
        self.consumers_of().map(status).unwrap_or_default()
    }

    /// How many consumers there are, and the largest lag among them. `None` if the log keeps no events for
    /// consumers.
    pub(crate) fn consumer_lag(&self) -> Option<(usize, u64)> {
        self.consumers_of().map(|consumers| consumers.lag(self.committed_seq()))
    }

    /// Keeps no more events for this consumer. Returns whether there was one of this name; it exists again
    /// when it acknowledges an event.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if that could not be written; it is dropped all the same, until the log
    /// is opened again.
    pub async fn drop_consumer(&self, name: &str) -> Result<bool> {
        let Some(consumers) = self.consumers_of() else { return Ok(false) };
        if !consumers.remove(name) {
            return Ok(false);
        }
        consumers.with_acknowledged_by_all(|seq| self.backing().acknowledged_by_all(seq));
        self.save_consumers().await.map(|()| true)
    }

    /// Whether a crash would lose acknowledgements without which events are refused.
    fn is_full_after_crash(&self) -> bool {
        #[cfg(feature = "durable")]
        return self.committer().is_some_and(|committer| committer.is_full_after_crash());
        #[cfg(not(feature = "durable"))]
        false
    }

    /// Makes the consumers as durable as they get.
    async fn save_consumers(&self) -> Result<()> {
        #[cfg(feature = "durable")]
        if let Some(committer) = self.committer() {
            return committer.save_consumers().await;
        }
        Ok(())
    }

    /// Whether events are kept on behalf of consumers.
    pub(crate) fn has_consumers(&self) -> bool {
        self.consumers_of().is_some()
    }
}
