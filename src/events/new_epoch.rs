//! A log that begins another epoch while it is in use.

use super::{history::random_epoch, log::EventLog};
use crate::error::{Error, Result};

impl EventLog {
    /// Begins another epoch: the events that are held keep their numbers, and so does what is published
    /// later. Subscribers learn it by a [`Gap`](crate::Gap), and get what is held once more; consumers have
    /// acknowledged nothing of it. For a log that was restored from a backup, so that the numbers of events
    /// which the backup does not have are not given to others. Returns the epoch.
    ///
    /// [`Router::mirrors`](crate::Router::mirrors) does this where a mirror shows that it is needed.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for the log of a mirror, which has the epoch of its
    /// origin; [`Io`](crate::ErrorKind::Io) if the epoch could not be written, and for an
    /// [`EventStore`](crate::EventStore) that does not implement it. The epoch is unchanged then.
    ///
    /// # Cancellation
    ///
    /// The epoch may begin now, or when the log is opened again.
    pub async fn begin_epoch(&self) -> Result<u64> {
        let _one_at_a_time = self.epoch_change().lock().await;
        self.begin().await
    }

    /// Begins another epoch if a peer has events of this one that the log does not have.
    pub(crate) async fn begin_epoch_after(&self, resume_from: u64, epoch: u64) -> Result<()> {
        let _one_at_a_time = self.epoch_change().lock().await;
        if !self.lacks(resume_from, epoch) {
            return Ok(());
        }
        let begun = self.begin().await?;
        tracing::warn!(
            epoch,
            begun,
            last_seq = self.last_seq(),
            resume_from,
            "a mirror has more events than this log, which begins another epoch"
        );
        Ok(())
    }

    /// Whether this is an origin that has lost events of this epoch up to `resume_from`.
    pub(crate) fn lacks(&self, resume_from: u64, epoch: u64) -> bool {
        !self.is_mirror() && epoch == self.epoch() && resume_from > self.committed_seq()
    }

    async fn begin(&self) -> Result<u64> {
        if self.is_mirror() {
            return Err(Error::invalid_config("a mirror has the epoch of its origin"));
        }
        let epoch = random_epoch();
        #[cfg(feature = "durable")]
        if let Some(committer) = self.committer() {
            committer.set_epoch(epoch).await?;
        }
        match self.consumers_of() {
            Some(consumers) => {
                consumers.begin_epoch(|| self.history().set_epoch(epoch));
                consumers.with_acknowledged_by_all(|seq| self.backing().acknowledged_by_all(seq));
            }
            None => self.history().set_epoch(epoch),
        }
        Ok(epoch)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_lite::future::block_on;

    use super::*;
    use crate::events::{GapBefore, reader::EventReader};

    fn read(log: &EventLog, reader: &mut EventReader) -> (u64, Option<GapBefore>, Vec<u64>) {
        let mut batch: Vec<(u64, Bytes)> = Vec::new();
        let gap = block_on(log.read(reader, usize::MAX, &mut batch)).unwrap();
        (reader.epoch(), gap, batch.into_iter().map(|(seq, _)| seq).collect())
    }

    #[test]
    fn events_keep_their_numbers_in_another_epoch() {
        let log = EventLog::new();
        (0..3).for_each(|_| _ = log.publish("x").unwrap());
        let first = log.epoch();
        let mut reader = log.subscribe(Some(1), Some(first));
        assert_eq!(read(&log, &mut reader), (first, None, vec![2, 3]));
        let second = block_on(log.begin_epoch()).unwrap();
        assert!(second != first && log.epoch() == second);
        assert_eq!(log.publish("x").unwrap(), 4);
        let gap = Some(GapBefore { first_seq: 1, missed: None });
        assert_eq!(read(&log, &mut reader), (second, gap, vec![1, 2, 3, 4]));
        assert_eq!(read(&log, &mut reader), (second, None, vec![]));
        // A subscriber that comes later.
        let mut reader = log.subscribe(Some(2), Some(first));
        assert_eq!(read(&log, &mut reader), (second, gap, vec![1, 2, 3, 4]));
    }

    #[test]
    fn an_epoch_begins_for_a_cursor_ahead_of_the_log_alone() {
        let log = EventLog::new();
        (0..3).for_each(|_| _ = log.publish("x").unwrap());
        let first = log.epoch();
        for (seq, epoch) in [(3, first), (0, first), (4, first ^ 1), (u64::MAX, 0)] {
            block_on(log.begin_epoch_after(seq, epoch)).unwrap();
            assert_eq!(log.epoch(), first, "{seq} of {epoch}");
        }
        block_on(log.begin_epoch_after(4, first)).unwrap();
        let second = log.epoch();
        assert_ne!(second, first);
        block_on(log.begin_epoch_after(4, first)).unwrap();
        assert_eq!(log.epoch(), second, "once");
    }

    #[test]
    fn consumers_have_acknowledged_nothing_of_another_epoch() {
        let log = EventLog::builder().max_events(1).keep_unacknowledged(1 << 20).build().unwrap();
        (0..3).for_each(|_| _ = log.publish("x").unwrap());
        let cursor = |seq| crate::Cursor::new(Some(log.epoch()), seq);
        let before = cursor(3);
        block_on(log.acknowledge("a", before)).unwrap();
        block_on(log.begin_epoch()).unwrap();
        assert_eq!(log.consumers()[0].acknowledged, 0);
        (0..3).for_each(|_| _ = log.publish("x").unwrap());
        assert_eq!((log.first_seq(), log.last_seq()), (3, 6), "kept from then on");
        block_on(log.acknowledge("a", before)).unwrap_err();
        block_on(log.acknowledge("a", cursor(6))).unwrap();
        assert_eq!(log.first_seq(), 6);
    }
}
