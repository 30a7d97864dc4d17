//! Writes events to a store in groups, so that flash is written rarely.

#[cfg(unix)]
use std::ops::Range;
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use event_listener::Listener;

use super::{
    closing::Closing,
    commit::{Commit, EndOnDrop, Waiter},
    commit_settings::CommitSettings,
    event_store::{Batch, EventStore, Extent},
    health::{LogHealth, LogState},
    history::{History, not_acknowledged},
    kept::Kept,
    on_thread::{catch_panic, on_thread, start_thread},
    pending::Pending,
    stored_event::StoredEvent,
};
use crate::{
    error::Result,
    runtime::{Clock, Elapsed},
    sync::{Event, Mutex, MutexGuard, lock},
};

/// A commit that takes longer is reported.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// Callers that waited for their events publish their next ones within this time, if they do so at all.
const MAX_GATHERING: Duration = Duration::from_millis(1);

/// Collects events, and writes them on a thread that may block while there are any.
///
/// The executor only lets the interval between two commits pass. When it is gone, events are written without
/// an interval.
///
/// When the store fails, the events that wait are given up with an error, and for a while that grows with
/// each failure nothing is accepted. The next event after that tries again.
pub(super) struct Committer {
    store: Arc<dyn EventStore>,
    closing: Closing,
    history: Arc<History>,
    clock: Clock,
    settings: CommitSettings,
    retention: Retention,
    /// `None` if no event is kept on anyone's behalf.
    kept: Option<Kept>,
    pending: Mutex<Pending>,
    /// Notified when pending events are to be written without waiting any longer.
    due: Event,
}

/// What a log keeps on disk, beyond what the store itself bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retention {
    pub(super) events: u64,
    pub(super) age: Option<Duration>,
}

impl Committer {
    pub(super) fn new(
        clock: Clock,
        store: Arc<dyn EventStore>,
        history: Arc<History>,
        settings: CommitSettings,
        retention: Retention,
        kept: Option<Kept>,
        max_pending_bytes: usize,
    ) -> Arc<Self> {
        let pending = Pending::new(history.last_seq(), max_pending_bytes, settings.commit_events);
        Arc::new(Self {
            closing: Closing::new(Arc::clone(&store)),
            store,
            history,
            clock,
            settings,
            retention,
            kept,
            pending: Mutex::new(pending),
            due: Event::new(),
        })
    }

    /// Takes an event for the next commit. Returns its number.
    pub(super) fn publish(self: &Arc<Self>, event: StoredEvent) -> Result<u64> {
        self.add(event, |_| ()).map(|(seq, ())| seq)
    }

    /// Takes an event for the next commit, and resolves to its number when it is written.
    pub(super) fn publish_durable(
        self: &Arc<Self>,
        event: StoredEvent,
    ) -> Result<Pin<Box<dyn Future<Output = Result<u64>> + Send>>> {
        let (seq, waiter) = self.add(event, Waiter::new)?;
        Ok(Box::pin(async move { waiter.ended().await.map(|()| seq) }))
    }

    fn add<T>(self: &Arc<Self>, event: StoredEvent, wait: fn(&Arc<Commit>) -> T) -> Result<(u64, T)> {
        if self.kept.as_ref().is_some_and(|kept| kept.is_full(&*self.store)) {
            return Err(not_acknowledged());
        }
        let (seq, waiter, idle, enough) = {
            let mut pending = self.pending();
            let seq = pending.add(event, || self.clock.now())?;
            (seq, wait(pending.commit()), pending.begin_committing(), pending.is_enough())
        };
        if idle {
            // Not under the lock: an executor that is gone drops the task here.
            self.start();
        } else if enough {
            self.due.notify(usize::MAX);
        }
        Ok((seq, waiter))
    }

    /// The number of the oldest event that the log holds, or of the next one if it holds none.
    pub(super) fn first_seq(&self) -> u64 {
        let Extent { first, next, .. } = self.store.extent();
        let next_to_subscribers = self.history.last_seq().saturating_add(1);
        // Whatever the store says, a subscriber is at a number that exists.
        let wanted = next.saturating_sub(self.retention.events).min(self.needed_from());
        first.max(wanted).clamp(1, next_to_subscribers)
    }

    /// The number of the newest event that was published, on disk or not.
    pub(super) fn last_seq(&self) -> u64 {
        self.pending().last()
    }

    pub(super) fn commits(&self) -> u64 {
        self.pending().commits
    }

    pub(super) fn health(&self) -> LogHealth {
        let now = self.clock.now();
        let pending = self.pending();
        let stalled = |began| now.saturating_duration_since(began) > STALLED_AFTER;
        let state = match pending.failure() {
            _ if pending.is_closed() => LogState::Closed,
            Some(failure) => LogState::Failing(failure.reason.to_string()),
            None if pending.running_since().is_some_and(stalled) => LogState::Stalled,
            None => LogState::Writable,
        };
        LogHealth {
            state,
            failed_commits: pending.failed_commits,
            unwritten_events: pending.unwritten_events,
            ..LogHealth::default()
        }
    }

    /// Writes the pending events without waiting for the interval between commits to end. Resolves when
    /// they are on disk.
    pub(super) async fn flush(&self) -> Result<()> {
        let (reported, before, commits) = self.pending().flush();
        self.due.notify(usize::MAX);
        // Whether an earlier commit failed is found below.
        let mut flushed = before.ended().await.or(Ok(()));
        for commit in commits.into_iter().flatten() {
            flushed = flushed.and(commit.ended().await);
        }
        let unreported = self.pending().take_unreported(reported);
        flushed.and(unreported.map_or(Ok(()), |error| Err(error.into())))
    }

    /// Leaves out numbers, so that the next event gets number `to`. Nobody publishes meanwhile.
    #[cfg(unix)]
    pub(super) async fn skip(&self, to: u64) -> Result<()> {
        self.flush().await?;
        let store = Arc::clone(&self.store);
        on_thread(move || store.skip(to)).await?;
        self.pending().skip(to);
        self.history.skip(to);
        Ok(())
    }

    /// The holes in what is kept, as far as the store knows them.
    #[cfg(unix)]
    pub(super) async fn holes(&self) -> io::Result<Vec<Range<u64>>> {
        let store = Arc::clone(&self.store);
        let holes = on_thread(move || Ok(store.holes())).await?;
        let kept_from = self.kept_from();
        let kept = holes.into_iter().map(|hole| hole.start.max(kept_from)..hole.end);
        Ok(kept.filter(|hole| hole.start < hole.end).collect())
    }

    /// Writes events into a hole, beside the commits.
    #[cfg(unix)]
    pub(super) async fn fill(&self, first: u64, events: Vec<StoredEvent>) -> io::Result<()> {
        let refused = if first < self.kept_from() {
            Some(format!("event {first} is no longer kept"))
        } else if self.kept.as_ref().is_some_and(|kept| kept.is_full(&*self.store)) {
            Some("consumers need the space".to_owned())
        } else {
            None
        };
        if let Some(text) = refused {
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        let batch = Batch { first, events, clocks: self.history.clock().clocks() };
        let store = Arc::clone(&self.store);
        on_thread(move || store.fill(&batch)).await
    }

    /// The number below which the next commit discards everything, or has discarded it.
    #[cfg(unix)]
    fn kept_from(&self) -> u64 {
        let surplus = self.kept.as_ref().map_or(0, |kept| kept.surplus(&*self.store));
        self.first_seq().max(self.unwanted_below(self.history.last_seq())).max(surplus)
    }

    pub(super) fn refuse_events(&self) {
        self.pending().close();
    }

    /// Writes the events that are pending, and closes the store. To be called when further events are
    /// [refused](Self::refuse_events).
    pub(super) async fn close(self: &Arc<Self>) -> Result<()> {
        let flushed = self.flush().await;
        let mut flushed = flushed.and(self.save_consumers().await);
        if self.kept.is_some() {
            // Before the store, so that a log which can open the store can open this file, too.
            let committer = Arc::clone(self);
            let release = move || committer.kept.as_ref().map(Kept::release).map_or(Ok(()), Ok);
            flushed = flushed.and(on_thread(release).await.map_err(Into::into));
        }
        let closed = self.closing.close().await;
        flushed?;
        closed.map_err(Into::into)
    }

    /// Has the pending events written, on a thread, when they are due.
    fn start(self: &Arc<Self>) {
        let begin = CommitOnDrop(Some(Arc::clone(self)));
        if self.is_due() {
            drop(begin);
        } else {
            self.clock.spawn(async move { begin.when_due().await });
        }
    }

    /// Writes pending events, group by group, until there are none or an interval has to pass. Blocks.
    fn run(self: Arc<Self>) {
        loop {
            self.gather();
            let Committed { commit, more } = self.commit();
            if !more {
                // Callers who learn that their event is on disk may drop their handles, and find the store
                // free.
                drop(self);
                return;
            }
            drop(commit);
            if !self.is_due() {
                self.start();
                return;
            }
        }
    }

    /// Waits a moment for those who waited for the commit before: their next events are then written
    /// together with the ones that are pending. Otherwise each commit would have the events of one half of
    /// the callers, while the other half waits.
    fn gather(&self) {
        let Some(until) = self.pending().expect_callers(Instant::now()) else { return };
        loop {
            let listener = self.due.listen();
            if self.is_complete() {
                return;
            }
            if listener.wait_deadline(until).is_none() {
                self.pending().expect_nobody();
                return;
            }
        }
    }

    /// Writes the pending events in one commit, and gives up old ones.
    fn commit(&self) -> Committed {
        let began = Instant::now();
        let (first, events) = self.pending().take(self.clock.now());
        let batch = Batch { first, events, clocks: self.history.clock().clocks() };
        if let Err(error) = catch_panic(|| self.store.append(&batch)) {
            tracing::warn!(%error, "events could not be written");
            let (commit, error) = self.pending().failed(error.to_string().into(), self.clock.now());
            let commit = EndOnDrop { commit, outcome: Err(error) };
            return Committed { commit, more: false };
        }
        let last = self.history.append(batch.events);
        let commit = self.pending().written(last, self.clock.now());
        let commit = EndOnDrop { commit, outcome: Ok(()) };
        if self.settings.commit_interval.is_zero() {
            let ended = Instant::now();
            let time = ended.saturating_duration_since(began).min(MAX_GATHERING);
            self.pending().release_callers(Clock::after(ended, time));
        }
        if let Err(error) = catch_panic(|| self.discard(last)) {
            tracing::warn!(%error, "old events could not be discarded");
        }
        // An error is told by the next call that has to save them.
        drop(self.kept.as_ref().map(Kept::save));
        Committed { commit, more: self.pending().continue_committing() }
    }

    /// The number of the first event that a consumer needs; above all numbers if there is none.
    fn needed_from(&self) -> u64 {
        self.kept.as_ref().map_or(u64::MAX, Kept::needed_from)
    }

    /// Whether a crash would lose acknowledgements without which events are refused.
    pub(super) fn is_full_after_crash(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.is_full_after_crash(&*self.store))
    }

    /// Writes the consumers, if they have changed.
    pub(super) async fn save_consumers(self: &Arc<Self>) -> Result<()> {
        if self.kept.is_none() {
            return Ok(());
        }
        let committer = Arc::clone(self);
        on_thread(move || Ok(committer.kept.as_ref().map_or(Ok(()), Kept::save))).await?
    }

    /// Gives the events and their numbers another epoch, in the store, too. What consumers acknowledge from
    /// now on is of this epoch.
    pub(super) async fn set_epoch(&self, epoch: u64) -> Result<()> {
        let store = Arc::clone(&self.store);
        on_thread(move || store.set_epoch(epoch)).await?;
        if let Some(kept) = &self.kept {
            kept.epoch.store(epoch, Ordering::Release);
        }
        Ok(())
    }

    /// Has the store give up events that are too many or too old.
    fn discard(&self, last: u64) -> io::Result<()> {
        let below = self.unwanted_below(last);
        let surplus = self.kept.as_ref().map_or(0, |kept| kept.surplus(&*self.store));
        // Not with each commit: subscribers do not get what is below anyway.
        let first = self.store.extent().first;
        let postponed = first.saturating_add((self.retention.events / 16).min(1024));
        if below > postponed || surplus > first { self.store.discard(below.max(surplus)) } else { Ok(()) }
    }

    /// The number below which events are too many or too old, and no consumer needs them.
    fn unwanted_below(&self, last: u64) -> u64 {
        let Retention { events, age } = self.retention;
        let mut below = last.saturating_add(1).saturating_sub(events);
        if let Some(age) = age {
            below = below.max(self.store.expired(self.history.clock().now().saturating_sub(age)));
        }
        below.min(self.needed_from())
    }

    /// Whether no interval has to pass before the pending events are written.
    fn is_due(&self) -> bool {
        self.interval_end().is_none_or(|end| end <= self.clock.now()) || self.is_complete()
    }

    /// When the interval ends that has to pass before the pending events are written.
    fn interval_end(&self) -> Option<Instant> {
        let CommitSettings { commit_interval, delays_first, .. } = self.settings;
        self.pending().interval_begins(delays_first)?.checked_add(commit_interval)
    }

    /// Whether the pending events are not to wait for others.
    fn is_complete(&self) -> bool {
        let pending = self.pending();
        pending.is_flushed() || pending.is_enough()
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }
}

/// What a commit leaves to do.
struct Committed {
    commit: EndOnDrop,
    /// Other events are pending.
    more: bool,
}

/// Has the pending events written when it is dropped, by an executor that drops its tasks, too.
struct CommitOnDrop(Option<Arc<Committer>>);

impl CommitOnDrop {
    /// Is dropped when the interval since the latest commit is over, enough events are pending, or a caller
    /// waits for them.
    async fn when_due(self) {
        let Some(committer) = &self.0 else { return };
        let end = committer.interval_end();
        let complete = crate::sync::wait_until(&committer.due, || committer.is_complete());
        match committer.clock.timeout_at(end, complete).await {
            Ok(()) | Err(Elapsed) => {}
        }
    }
}

impl Drop for CommitOnDrop {
    fn drop(&mut self) {
        if let Some(committer) = self.0.take() {
            start_thread(move || committer.run());
        }
    }
}
