//! The events that wait to be written, and where the log stands. Decided without a clock and without a store.

use std::{sync::Arc, time::Instant};

use super::{
    commit::{Commit, WriteError},
    failure::{FIRST_PAUSE, Failure},
    history::closed_error,
    ring::cost,
    stored_event::StoredEvent,
};
use crate::error::{Error, ErrorKind, Result};

/// Waiting in vain for other callers makes one commit of this many slower.
const COMMITS_WITHOUT_CALLERS: u8 = 16;

pub(super) struct Pending {
    events: Vec<StoredEvent>,
    /// What the events count for.
    bytes: usize,
    max_bytes: usize,
    /// When the first of the events came.
    since: Option<Instant>,
    /// The number of the newest event, pending or not.
    last: u64,
    /// The number of the newest event on disk.
    committed: u64,
    latest_commit: Option<Instant>,
    /// The commit that will write the events.
    next: Arc<Commit>,
    running: Option<Running>,
    /// The commit before, whose thread may still have to release the store.
    before: Arc<Commit>,
    /// A thread commits, or a task waits until one is to. Invariant: true while events are pending.
    committing: bool,
    /// A caller waits for the pending events, which are to be written now.
    flush: bool,
    /// This many pending events are written without waiting for others.
    enough: usize,
    /// That number again for the next commit.
    commit_events: usize,
    callers: Callers,
    closed: bool,
    /// Of the latest commit.
    failure: Option<Failure>,
    unreported: Unreported,
    pub(super) commits: u64,
    pub(super) failed_commits: u64,
    pub(super) unwritten_events: u64,
}

/// A commit whose events are being written.
struct Running {
    commit: Arc<Commit>,
    events: usize,
    since: Instant,
}

/// Callers that waited for the commit before, and may publish again as soon as they run.
#[derive(Default)]
struct Callers {
    /// How many of them have not done so yet.
    count: usize,
    until: Option<Instant>,
    /// For how many commits no caller is expected, since the last expectation was wrong.
    ignored: u8,
}

/// Events that were given up, and for which no caller waited.
#[derive(Default)]
struct Unreported {
    count: usize,
    /// How many of them a flush has reported.
    reported: usize,
    error: Option<WriteError>,
}

impl Pending {
    /// Of a log whose newest event is `committed`.
    pub(super) fn new(committed: u64, max_bytes: usize, commit_events: usize) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            max_bytes,
            since: None,
            last: committed,
            committed,
            latest_commit: None,
            next: Arc::default(),
            running: None,
            before: finished(),
            committing: false,
            flush: false,
            enough: commit_events,
            commit_events,
            callers: Callers::default(),
            closed: false,
            failure: None,
            unreported: Unreported::default(),
            commits: 0,
            failed_commits: 0,
            unwritten_events: 0,
        }
    }

    /// Takes an event for the next commit, and returns its number.
    pub(super) fn add(&mut self, event: StoredEvent, now: impl Fn() -> Instant) -> Result<u64> {
        if self.closed {
            return Err(closed_error());
        }
        if let Some(failure) = &self.failure {
            let left = failure.left(now());
            if !left.is_zero() {
                let reason = Arc::clone(&failure.reason);
                return Err(WriteError { reason, retry_after: left }.into());
            }
        }
        let bytes = self.bytes + cost(&event.payload);
        if bytes > self.max_bytes {
            let full = Error::new(ErrorKind::Exhausted).detail("too many events wait to be written");
            return Err(full.after(Some(FIRST_PAUSE)));
        }
        self.bytes = bytes;
        if self.events.is_empty() {
            self.since = Some(now());
        }
        self.events.push(event);
        self.callers.count = self.callers.count.saturating_sub(1);
        self.last += 1;
        Ok(self.last)
    }

    /// The next event gets number `to`. No event is pending.
    #[cfg(unix)]
    pub(super) fn skip(&mut self, to: u64) {
        self.last = to.saturating_sub(1);
        self.committed = self.last;
    }

    /// The commit that will write the events that were added.
    pub(super) fn commit(&self) -> &Arc<Commit> {
        &self.next
    }

    /// Whether nobody is committing yet, so that the caller has to see to it.
    pub(super) fn begin_committing(&mut self) -> bool {
        !std::mem::replace(&mut self.committing, true)
    }

    /// Whether enough events are pending that they are to be written without waiting for others.
    pub(super) fn is_enough(&self) -> bool {
        self.events.len() >= self.enough
    }

    /// Those who wait for the latest commit are about to learn of it, and may publish again until then.
    pub(super) fn release_callers(&mut self, until: Instant) {
        let Callers { ignored, .. } = self.callers;
        self.callers = match ignored {
            0 => Callers { count: self.before.waiters(), until: Some(until), ignored },
            _ => Callers { count: 0, until: None, ignored: ignored - 1 },
        };
    }

    /// Until when the pending events are to wait for those of more callers, if at all. The log has
    /// [enough](Self::is_enough) when these have published.
    pub(super) fn expect_callers(&mut self, now: Instant) -> Option<Instant> {
        let Callers { count, until, .. } = self.callers;
        let until = until.filter(|until| count > 0 && *until > now)?;
        self.enough = self.enough.min(self.events.len().saturating_add(count));
        Some(until)
    }

    /// The callers did not publish in time, and so are not waited for after the next few commits.
    pub(super) fn expect_nobody(&mut self) {
        self.callers = Callers { count: 0, until: None, ignored: COMMITS_WITHOUT_CALLERS };
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Whether no more events are published.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Since when events are being written.
    pub(super) fn running_since(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.since)
    }

    /// From when the interval counts that passes before the events are written; `None` to write them
    /// immediately.
    pub(super) fn interval_begins(&self, delays_first: bool) -> Option<Instant> {
        let begins = if delays_first { self.since } else { self.latest_commit };
        begins.filter(|_| !self.flush && self.failure.is_none())
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.flush
    }

    /// Asks for the events to be written now. Returns what was [reported](Self::take_unreported) until now,
    /// the commit before, whose outcome is known, and the commits that write all events that were added.
    pub(super) fn flush(&mut self) -> (usize, Arc<Commit>, [Option<Arc<Commit>>; 2]) {
        self.flush = !self.events.is_empty();
        let running = self.running.as_ref().map(|running| Arc::clone(&running.commit));
        let commits = [running, self.flush.then(|| Arc::clone(&self.next))];
        (self.unreported.reported, Arc::clone(&self.before), commits)
    }

    /// Why events were given up, if that happened to more of them than were reported to the caller before.
    pub(super) fn take_unreported(&mut self, reported: usize) -> Option<WriteError> {
        let unreported = &mut self.unreported;
        unreported.reported = unreported.count;
        unreported.error.clone().filter(|_| unreported.count != reported)
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Takes the events to write, with the number of the first.
    pub(super) fn take(&mut self, now: Instant) -> (u64, Vec<StoredEvent>) {
        let events = std::mem::take(&mut self.events);
        self.bytes = 0;
        self.flush = false;
        self.enough = self.commit_events;
        let commit = std::mem::take(&mut self.next);
        self.running = Some(Running { commit, events: events.len(), since: now });
        (self.committed + 1, events)
    }

    /// The events up to number `last` are written. Returns their commit.
    pub(super) fn written(&mut self, last: u64, now: Instant) -> Arc<Commit> {
        if let Some(Failure { reason, .. }) = self.failure.take() {
            tracing::warn!(%reason, "events are written again");
        }
        self.committed = last;
        self.commits += 1;
        self.latest_commit = Some(now);
        if let Some(Running { commit, .. }) = self.running.take() {
            self.before = commit;
        }
        Arc::clone(&self.before)
    }

    /// Whether the thread that commits has to go on, since other events are pending.
    pub(super) fn continue_committing(&mut self) -> bool {
        self.committing = !self.events.is_empty();
        self.committing
    }

    /// Gives up all events that are not written. Returns their commit and its error. Nothing is accepted for
    /// a while.
    pub(super) fn failed(&mut self, reason: Arc<str>, now: Instant) -> (Arc<Commit>, WriteError) {
        let failure = Failure::after(self.failure.as_ref(), Arc::clone(&reason), now);
        let error = WriteError { reason, retry_after: failure.pause };
        self.failure = Some(failure);
        let next = std::mem::take(&mut self.next);
        let running = self.running.take();
        let mut lost = std::mem::take(&mut self.events).len();
        let mut waiters = next.waiters();
        if let Some(Running { commit, events, .. }) = &running {
            lost += events;
            waiters += commit.waiters();
        }
        if lost > waiters {
            self.unreported.count = self.unreported.count.wrapping_add(lost - waiters);
            self.unreported.error = Some(error.clone());
        }
        self.failed_commits += 1;
        self.unwritten_events += u64::try_from(lost).unwrap_or(u64::MAX);
        self.bytes = 0;
        self.flush = false;
        self.enough = self.commit_events;
        self.committing = false;
        // Neither subscribers nor callers of `publish_durable` have got these numbers.
        self.last = self.committed;
        let Some(Running { commit, .. }) = running else { return (next, error) };
        next.end(Err(error.clone()));
        self.before = Arc::clone(&commit);
        (commit, error)
    }
}

fn finished() -> Arc<Commit> {
    let commit = Arc::<Commit>::default();
    commit.end(Ok(()));
    commit
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures_lite::future::{block_on, poll_once};

    use super::{
        super::{commit::Waiter, failure::MAX_PAUSE},
        *,
    };

    fn event() -> StoredEvent {
        StoredEvent { payload: Bytes::from_static(b"event"), published: Duration::ZERO }
    }

    fn add(pending: &mut Pending, now: Instant) -> Result<u64> {
        pending.add(event(), || now)
    }

    fn fail(pending: &mut Pending, now: Instant) {
        let (commit, error) = pending.failed("no space left".into(), now);
        commit.end(Err(error));
    }

    #[test]
    fn a_commit_has_the_events_of_its_time_and_no_others() {
        let (mut pending, now) = (Pending::new(41, 1000, 1024), Instant::now());
        assert_eq!(add(&mut pending, now).unwrap(), 42);
        assert!(pending.begin_committing() && !pending.begin_committing());
        let first = Arc::clone(pending.commit());
        let (number, events) = pending.take(now);
        assert_eq!((number, events.len(), pending.running_since()), (42, 1, Some(now)));
        assert_eq!(add(&mut pending, now).unwrap(), 43);
        let second = Arc::clone(pending.commit());
        let written = pending.written(42, now);
        assert!(
            pending.continue_committing() && Arc::ptr_eq(&written, &first) && !Arc::ptr_eq(&first, &second)
        );
        // What is written is not ended: its thread has to release the store.
        let (_, before, [running, _]) = pending.flush();
        assert!(Arc::ptr_eq(&before, &first) && running.is_none());
        assert!(block_on(poll_once(before.ended())).is_none());
        written.end(Ok(()));
        block_on(async {
            first.ended().await.unwrap();
            assert!(poll_once(second.ended()).await.is_none());
        });
    }

    #[test]
    fn a_failure_gives_up_what_is_not_written_and_its_numbers() {
        let (mut pending, now) = (Pending::new(0, 1000, 1024), Instant::now());
        add(&mut pending, now).unwrap();
        pending.begin_committing();
        let commits = [Arc::clone(pending.commit()), {
            pending.take(now);
            add(&mut pending, now).unwrap();
            Arc::clone(pending.commit())
        }];
        fail(&mut pending, now);
        for commit in commits {
            let error = block_on(commit.ended()).unwrap_err();
            assert_eq!((error.kind(), error.retry_after()), (&ErrorKind::Exhausted, Some(FIRST_PAUSE)));
        }
        assert_eq!((pending.last(), pending.unwritten_events, pending.failed_commits), (0, 2, 1));
        // The next events get the numbers, and their commit is another one.
        assert_eq!(add(&mut pending, now + FIRST_PAUSE).unwrap(), 1);
        assert!(pending.begin_committing());
        assert_eq!(pending.interval_begins(true), None, "the attempt is not put off");
        pending.take(now);
        pending.written(1, now).end(Ok(()));
        assert!(!pending.continue_committing());
        assert!(pending.failure().is_none());
    }

    #[test]
    fn pauses_grow_while_commits_fail_and_begin_anew_after_a_success() {
        let (mut pending, mut now) = (Pending::new(0, 1000, 1024), Instant::now());
        for pause in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000] {
            add(&mut pending, now).unwrap();
            pending.take(now);
            fail(&mut pending, now);
            let refused = add(&mut pending, now).unwrap_err();
            let pause = Duration::from_millis(pause);
            assert_eq!((refused.kind(), refused.retry_after()), (&ErrorKind::Exhausted, Some(pause)));
            now += pause;
        }
        add(&mut pending, now).unwrap();
        pending.take(now);
        pending.written(1, now);
        fail(&mut pending, now);
        assert_eq!(add(&mut pending, now).unwrap_err().retry_after(), Some(FIRST_PAUSE));
    }

    #[test]
    fn all_who_flush_learn_of_events_that_were_lost_unless_their_publishers_know() {
        let (mut pending, now) = (Pending::new(0, 1000, 1024), Instant::now());
        add(&mut pending, now).unwrap();
        let waiter = Waiter::new(pending.commit());
        pending.take(now);
        let (reported, ..) = pending.flush();
        fail(&mut pending, now);
        assert_eq!(pending.take_unreported(reported), None, "the one who waits knows");

        let later = now + MAX_PAUSE;
        add(&mut pending, later).unwrap();
        pending.take(later);
        add(&mut pending, later).unwrap();
        let [first, second] = [pending.flush().0, pending.flush().0];
        fail(&mut pending, later);
        assert!(pending.take_unreported(first).is_some() && pending.take_unreported(second).is_some());
        let (third, ..) = pending.flush();
        assert_eq!(pending.take_unreported(third), None, "it was reported");
        drop(waiter);
    }

    #[test]
    fn a_waiter_that_left_knows_nothing() {
        let (mut pending, now) = (Pending::new(0, 1000, 1024), Instant::now());
        add(&mut pending, now).unwrap();
        drop(Waiter::new(pending.commit()));
        let (reported, ..) = pending.flush();
        fail(&mut pending, now);
        assert!(pending.take_unreported(reported).is_some());
    }

    #[test]
    fn the_next_commit_waits_for_the_callers_of_the_one_before() {
        let (mut pending, now) = (Pending::new(0, 1000, 3), Instant::now());
        add(&mut pending, now).unwrap();
        assert!(!pending.is_enough());
        add(&mut pending, now).unwrap();
        let waiters = [Waiter::new(pending.commit()), Waiter::new(pending.commit())];
        pending.take(now);
        pending.written(2, now);
        let until = now + FIRST_PAUSE;
        pending.release_callers(until);
        drop(waiters);
        assert_eq!((pending.expect_callers(until), pending.expect_callers(now)), (None, Some(until)));
        for enough in [false, true] {
            add(&mut pending, now).unwrap();
            assert_eq!(pending.is_enough(), enough);
        }
        assert_eq!(pending.expect_callers(now), None, "all are back");
        pending.take(now);
        pending.written(4, now);
        for enough in [false, false, true] {
            add(&mut pending, now).unwrap();
            assert_eq!(pending.is_enough(), enough);
        }
    }

    #[test]
    fn callers_that_did_not_come_back_are_not_waited_for_again_soon() {
        let (mut pending, now) = (Pending::new(0, 1000, 3), Instant::now());
        let until = now + FIRST_PAUSE;
        let commit = |pending: &mut Pending| {
            let seq = add(pending, now).unwrap();
            let _waiter = Waiter::new(pending.commit());
            pending.take(now);
            pending.written(seq, now);
            pending.release_callers(until);
        };
        commit(&mut pending);
        assert!(pending.expect_callers(now).is_some());
        pending.expect_nobody();
        for _ in 0..COMMITS_WITHOUT_CALLERS {
            commit(&mut pending);
            assert_eq!(pending.expect_callers(now), None);
        }
        commit(&mut pending);
        assert!(pending.expect_callers(now).is_some());
    }

    #[test]
    fn a_closed_log_takes_nothing() {
        let mut pending = Pending::new(0, 1000, 1024);
        pending.close();
        assert_eq!(add(&mut pending, Instant::now()).unwrap_err().kind(), &ErrorKind::Closed);
        assert!(pending.is_closed());
    }

    #[test]
    fn the_interval_runs_from_the_latest_commit_or_from_the_first_event() {
        let (mut pending, now) = (Pending::new(0, 1000, 1024), Instant::now());
        add(&mut pending, now).unwrap();
        assert_eq!((pending.interval_begins(false), pending.interval_begins(true)), (None, Some(now)));
        pending.take(now);
        let later = now + Duration::from_secs(1);
        pending.written(1, later);
        add(&mut pending, later + Duration::from_secs(1)).unwrap();
        assert_eq!(pending.interval_begins(false), Some(later));
        assert_eq!(pending.interval_begins(true), Some(later + Duration::from_secs(1)));
        assert_eq!(pending.flush().2.into_iter().flatten().count(), 1);
        assert_eq!(pending.interval_begins(true), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut pending = Pending::new(0, 2 * cost(&event().payload), 1024);
        let now = Instant::now();
        assert!(add(&mut pending, now).is_ok() && add(&mut pending, now).is_ok());
        assert_eq!(add(&mut pending, now).unwrap_err().kind(), &ErrorKind::Exhausted);
        pending.take(now);
        assert!(add(&mut pending, now).is_ok());
    }
}
