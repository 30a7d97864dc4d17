//! The event log of a node.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use minicbor::Encode;

#[cfg(feature = "durable")]
use super::committer::Committer;
use super::{
    backing::Backing,
    consumers::Consumers,
    health::LogHealth,
    history::{GapBefore, History, SubscriberSlot},
    log_stats::LogStats,
    reader::EventReader,
    stored_event::StoredEvent,
};
use crate::{
    counter::Counter,
    error::{Error, ErrorKind, Result},
    sync::{AsyncMutex, AtomicBool, EventListener},
    value,
};

/// Events that peers subscribe to, oldest first: with `node.stream_events`, or under a name of the
/// application's, as the [`Router`](crate::Router) says.
///
/// Each event gets a sequence number, from 1 by 1, and the log as a whole a random epoch, so that a
/// subscriber can tell this history from another one. The newest events are kept, up to a number and up to a
/// size; subscribers that come too late for an event are told how many they missed. The log lives in memory,
/// and a process that restarts begins a new epoch; with feature `durable` it may live in files or another
/// store, go on, and be larger than memory.
///
/// Cloning gives another handle to the same log. Publishing works from any thread, and waits for no
/// subscriber.
///
/// ```
/// use palyra_quic::EventLog;
///
/// let log = EventLog::builder().max_events(100).build()?;
/// assert_eq!(log.publish("door opened")?, 1);
/// assert_eq!(log.publish("door closed")?, 2);
/// assert_eq!((log.first_seq(), log.last_seq()), (1, 2));
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
}

struct Shared {
    history: Arc<History>,
    backing: Box<dyn Backing>,
    max_payload_bytes: usize,
    /// `None` if no event is kept on anyone's behalf.
    consumers: Option<Arc<Consumers>>,
    /// The newest number when the log was made or opened.
    last_at_start: u64,
    sent: Counter,
    gaps_sent: Counter,
    /// Whether the events come from another node, with their numbers.
    is_mirror: bool,
    /// Whether another log is served in its place.
    is_replaced: AtomicBool,
    /// Held while another epoch begins.
    epoch_change: AsyncMutex<()>,
}

impl EventLog {
    /// Appends an event, encoded by minicbor, and wakes the subscribers; gives its sequence number.
    ///
    /// The event may have any type. [`publisher`](Self::publisher) takes only events of the type that a
    /// [`LogMethod`](crate::LogMethod) states.
    ///
    /// ```
    /// use palyra_quic::EventLog;
    ///
    /// let log = EventLog::new();
    /// assert_eq!(log.publish("door opened")?, 1);
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    ///
    /// Never waits, neither for subscribers nor for a disk. If a bound is reached, the oldest events are
    /// dropped. In a durable log the event is written, and subscribers get it, with the next commit; until
    /// then it does not survive the process.
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) if the event cannot be encoded;
    /// [`MessageTooLarge`](ErrorKind::MessageTooLarge) if it is larger than
    /// [`max_payload_bytes`](crate::EventLogBuilder::max_payload_bytes); [`Closed`](ErrorKind::Closed) once
    /// the log is [closed](Self::close). Of a durable log, [`Exhausted`](ErrorKind::Exhausted) while its
    /// store fails, or more events wait to be written than may be in memory; [`Error::retry_after`] says
    /// when to try again.
    pub fn publish<T: Encode<()> + ?Sized>(&self, event: &T) -> Result<u64> {
        self.publish_raw(value::encode(event)?)
    }

    /// Appends an event of plain bytes. See [`publish`](Self::publish).
    ///
    /// The log counts only the payload itself: a payload that is a slice of a larger buffer keeps that
    /// whole buffer in memory. Parameters of methods and notifications are never such slices.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish).
    pub fn publish_raw(&self, payload: impl Into<Bytes>) -> Result<u64> {
        self.shared.backing.publish(self.event(payload.into())?)
    }

    /// As [`publish`](Self::publish), and resolves when the event survives the process and the machine: in a
    /// durable log with the commit that writes it; in memory immediately, since no event there ever does.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish), also when the event was taken and then could not be written. Its
    /// number is then given to another event. Only if the process ends before that one is written, the log
    /// may have the event after all when it is opened again.
    ///
    /// # Cancellation
    ///
    /// The event is published all the same.
    pub async fn publish_durable<T: Encode<()> + ?Sized>(&self, event: &T) -> Result<u64> {
        self.publish_durable_raw(value::encode(event)?).await
    }

    /// Appends an event of plain bytes, and resolves when it survives the process and the machine. See
    /// [`publish_durable`](Self::publish_durable).
    ///
    /// # Errors
    ///
    /// As for [`publish_durable`](Self::publish_durable).
    ///
    /// # Cancellation
    ///
    /// The event is published all the same.
    pub async fn publish_durable_raw(&self, payload: impl Into<Bytes>) -> Result<u64> {
        let event = self.event(payload.into())?;
        #[cfg(feature = "durable")]
        if let Some(committer) = self.committer() {
            return committer.publish_durable(event)?.await;
        }
        self.shared.backing.publish(event)
    }

    /// Resolves when every event published so far survives the process; see
    /// [`publish_durable`](Self::publish_durable). Pending events are written now, and not when the
    /// interval between commits is over.
    ///
    /// # Errors
    ///
    /// As for [`publish_durable`](Self::publish_durable), also if events that were published since the last
    /// flush ended could not be written. Not for events whose publisher awaited
    /// [`publish_durable`](Self::publish_durable), and so got the error.
    ///
    /// # Cancellation
    ///
    /// The events are written all the same.
    pub async fn flush(&self) -> Result<()> {
        #[cfg(feature = "durable")]
        if let Some(committer) = self.committer() {
            return committer.flush().await;
        }
        Ok(())
    }

    /// Refuses further events, writes those that are pending, and releases the file of a durable log even
    /// if other handles are left. Subscribers still get the events that are held in memory. Further calls
    /// have no other effect, and each waits until the file is released.
    ///
    /// Dropping the last handle releases the file, too: once pending events are written, and otherwise
    /// immediately, for which the drop waits for the disk, up to a second. A log that an
    /// [`Endpoint`](crate::Endpoint) serves has a handle there, until the endpoint is dropped.
    ///
    /// # Errors
    ///
    /// As for [`flush`](Self::flush), and [`Io`](ErrorKind::Io) if the store was not closed in order. It is
    /// released all the same.
    ///
    /// # Cancellation
    ///
    /// No more events are published, and those that are pending are written. The file is released, if not
    /// now, then by the next call or with the last handle.
    pub async fn close(&self) -> Result<()> {
        self.shared.backing.close();
        #[cfg(feature = "durable")]
        if let Some(committer) = self.committer() {
            return committer.close().await;
        }
        Ok(())
    }

    /// Identifies this history. Random, never 0, and below 2^53, which JSON can still tell exactly. Another
    /// one begins with [`begin_epoch`](Self::begin_epoch).
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.history.epoch()
    }

    /// The sequence number of the oldest event still held, or of the next event if none is held.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.shared.backing.first_seq()
    }

    /// The sequence number of the newest event that was published; 0 before the first. In a durable log, it
    /// may still have to be written: see [`committed_seq`](Self::committed_seq).
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.shared.backing.last_seq()
    }

    /// The sequence number of the newest event that subscribers can get; 0 before the first. In a durable
    /// log, it and all before it are on disk; in memory, it is [`last_seq`](Self::last_seq).
    #[must_use]
    pub fn committed_seq(&self) -> u64 {
        self.shared.history.last_seq()
    }

    /// How many events are held: all that subscribers can get, and those in between that were lost to damage.
    #[must_use]
    pub fn len(&self) -> usize {
        let held = (self.committed_seq() + 1).saturating_sub(self.first_seq());
        usize::try_from(held).unwrap_or(usize::MAX)
    }

    /// Whether no event is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often events were written since the log was opened; 0 for logs in memory.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.shared.backing.commits()
    }

    /// Whether events can be published, and what was lost since the log was opened. A log in memory is always
    /// well.
    #[must_use]
    pub fn health(&self) -> LogHealth {
        self.shared.backing.health()
    }

    /// What the events in memory count for.
    #[cfg(all(test, feature = "durable", feature = "cert", feature = "sim"))]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.shared.history.memory_bytes()
    }

    /// How many subscriptions are open.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.shared.history.subscribers()
    }

    /// What the log holds, and what it has done since it was made or opened. The numbers may be of slightly
    /// different times.
    ///
    /// ```
    /// use palyra_quic::EventLog;
    ///
    /// let log = EventLog::builder().max_events(100).build()?;
    /// (0..150).try_for_each(|_| log.publish("x").map(drop))?;
    /// let stats = log.stats();
    /// assert_eq!((stats.published, stats.held, stats.first_seq, stats.last_seq), (150, 100, 51, 150));
    /// assert_eq!((stats.subscribers, stats.sent, stats.gaps_sent), (0, 0, 0));
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let Shared { last_at_start, sent, gaps_sent, .. } = &*self.shared;
        let (first_seq, last_seq) = (self.first_seq(), self.last_seq());
        LogStats {
            first_seq,
            last_seq,
            held: (self.committed_seq() + 1).saturating_sub(first_seq),
            published: last_seq.saturating_sub(*last_at_start),
            subscribers: u64::try_from(self.subscribers()).unwrap_or(u64::MAX),
            sent: sent.value(),
            gaps_sent: gaps_sent.value(),
        }
    }

    /// Counts events that were put into the answer to a subscriber.
    pub(crate) fn record_sent(&self, events: usize) {
        self.shared.sent.add_many(events);
    }

    /// Counts a gap that was put into the answer to a subscriber.
    pub(crate) fn record_gap(&self) {
        self.shared.gaps_sent.add();
    }

    pub(super) fn consumers_of(&self) -> Option<&Consumers> {
        self.shared.consumers.as_deref()
    }

    pub(crate) fn max_payload_bytes(&self) -> usize {
        self.shared.max_payload_bytes
    }

    /// The place of a subscriber that has processed everything up to `resume_from` in `epoch`.
    pub(crate) fn subscribe(&self, resume_from: Option<u64>, epoch: Option<u64>) -> EventReader {
        let Shared { history, backing, .. } = &*self.shared;
        EventReader::new(history.position(backing.first_seq(), resume_from, epoch))
    }

    /// Puts the reader's next events into `batch`, until their payloads together reach `enough` bytes. If the
    /// next event is lost, returns what was missed, and goes on after the gap.
    ///
    /// Ready immediately if the events are in memory.
    pub(crate) async fn read(
        &self,
        reader: &mut EventReader,
        enough: usize,
        batch: &mut Vec<(u64, Bytes)>,
    ) -> Result<Option<GapBefore>> {
        let Shared { history, backing, .. } = &*self.shared;
        reader.read(history, &**backing, enough, batch).await
    }

    /// A slot for a subscriber, until it is dropped; `None` if all are taken.
    pub(crate) fn admit_subscriber(&self) -> Option<SubscriberSlot> {
        self.shared.history.admit_subscriber()
    }

    /// Resolves when subscribers can get an event that was published after this call.
    pub(crate) fn listen(&self) -> EventListener {
        self.shared.history.listen()
    }

    pub(super) fn with(
        history: Arc<History>,
        backing: Box<dyn Backing>,
        max_payload_bytes: usize,
        consumers: Option<Arc<Consumers>>,
    ) -> Self {
        let last_at_start = backing.last_seq();
        let (sent, gaps_sent) = (Counter::default(), Counter::default());
        let (is_mirror, is_replaced) = (false, AtomicBool::new(false));
        let shared = Shared {
            history,
            backing,
            max_payload_bytes,
            consumers,
            last_at_start,
            sent,
            gaps_sent,
            is_mirror,
            is_replaced,
            epoch_change: AsyncMutex::new(()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sends the followers of this log to the one that is served in its place.
    #[cfg(all(feature = "durable", unix))]
    pub(crate) fn replace(&self) {
        self.shared.is_replaced.store(true, Ordering::Release);
        self.shared.history.wake();
    }

    pub(super) fn is_mirror(&self) -> bool {
        self.shared.is_mirror
    }

    pub(super) fn epoch_change(&self) -> &AsyncMutex<()> {
        &self.shared.epoch_change
    }

    pub(super) fn history(&self) -> &History {
        &self.shared.history
    }

    pub(crate) fn is_replaced(&self) -> bool {
        self.shared.is_replaced.load(Ordering::Acquire)
    }

    /// The same log, to which only a mirror appends. `None` if it has other handles.
    #[cfg(all(feature = "durable", unix))]
    pub(super) fn into_mirror(self) -> Option<Self> {
        let shared = Arc::into_inner(self.shared)?;
        Some(Self { shared: Arc::new(Shared { is_mirror: true, ..shared }) })
    }

    /// Whether this is a mirror that does not have what the subscriber has: another holder of the history
    /// may, and this one may have it later.
    pub(crate) fn is_behind(&self, resume_from: Option<u64>, epoch: Option<u64>) -> bool {
        let is_of_this_epoch = epoch.is_none_or(|epoch| epoch == self.epoch());
        self.shared.is_mirror && is_of_this_epoch && resume_from.is_some_and(|seq| seq > self.committed_seq())
    }

    fn event(&self, payload: Bytes) -> Result<StoredEvent> {
        if self.shared.is_mirror {
            return Err(Error::new(ErrorKind::Closed).detail("the log is a mirror: its origin publishes"));
        }
        self.check_payload(&payload)?;
        let published = self.now();
        if let Some(consumers) = self.consumers_of()
            && consumers.forget_silent(published)
        {
            consumers.with_acknowledged_by_all(|seq| self.backing().acknowledged_by_all(seq));
        }
        Ok(StoredEvent { payload, published })
    }

    /// The time on the clock of the log.
    pub(super) fn now(&self) -> Duration {
        self.shared.history.clock().now()
    }

    /// What writes the events to a store, if the log has one.
    #[cfg(feature = "durable")]
    pub(super) fn committer(&self) -> Option<&Arc<Committer>> {
        self.shared.backing.committer()
    }

    pub(super) fn backing(&self) -> &dyn Backing {
        &*self.shared.backing
    }

    pub(super) fn check_payload(&self, payload: &Bytes) -> Result<()> {
        let max_payload_bytes = self.shared.max_payload_bytes;
        if payload.len() > max_payload_bytes {
            let length = payload.len();
            return Err(Error::new(ErrorKind::MessageTooLarge).detail(format!(
                "an event of {length} bytes, at most {max_payload_bytes} may be published"
            )));
        }
        Ok(())
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("epoch", &self.epoch())
            .field("first_seq", &self.first_seq())
            .field("last_seq", &self.last_seq())
            .finish_non_exhaustive()
    }
}
