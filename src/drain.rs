//! What a node has accepted and not finished, and how far its shutdown has come.

use std::{
    cell::Cell,
    pin::Pin,
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::sync::{AtomicU8, AtomicUsize, Event, Mutex, lock, thread_local, wait_until};

/// Counts the work and the tasks of a node, so that a shutdown can wait for them.
///
/// *Work* is what needs open connections: exchanges until their answers are acknowledged, notifications that
/// were received before the shutdown began, and what this node itself has asked for or sent. *Tasks* are
/// everything that the node has spawned.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    phase: AtomicU8,
    phase_changed: Event,
    work: AtomicUsize,
    tasks: AtomicUsize,
    /// Told of every end of work or of a task while a shutdown is in progress, and of every change of
    /// `leaving`.
    changed: Event,
    /// The exchanges whose handlers await the shutdown, which must not wait for them.
    leaving: Mutex<Vec<ExchangeId>>,
}

/// How far a shutdown has come. It only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// New work is turned away, and accepted work goes on.
    Draining,
    /// The connections close. Notifications that were received on them are still handled.
    Closing,
    /// The grace is over: handlers are dropped.
    Aborting,
}

impl Phase {
    /// Zero is a node that is not shutting down.
    const fn number(self) -> u8 {
        match self {
            Self::Draining => 1,
            Self::Closing => 2,
            Self::Aborting => 3,
        }
    }
}

/// Keeps a shutdown waiting until it is dropped.
#[derive(Debug)]
pub(crate) struct WorkGuard {
    drain: Arc<Drain>,
}

impl Drain {
    /// Goes on to this phase, unless the shutdown is there already.
    pub(crate) fn advance(&self, phase: Phase) {
        if self.phase.fetch_max(phase.number(), SeqCst) < phase.number() {
            self.phase_changed.notify(usize::MAX);
        }
    }

    pub(crate) fn has_reached(&self, phase: Phase) -> bool {
        self.phase.load(SeqCst) >= phase.number()
    }

    /// Resolves when the shutdown has come to this phase.
    pub(crate) async fn reached(&self, phase: Phase) {
        wait_until(&self.phase_changed, || self.has_reached(phase)).await;
    }

    /// Whether new work is turned away.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_reached(Phase::Draining)
    }

    /// Resolves when the shutdown begins.
    pub(crate) async fn begun(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Accepts work. To be called before asking [`has_begun`](Self::has_begun), so that a shutdown waits for
    /// work that was told "no".
    pub(crate) fn accept(self: &Arc<Self>) -> WorkGuard {
        self.add_work();
        WorkGuard { drain: Arc::clone(self) }
    }

    pub(crate) fn add_work(&self) {
        self.work.fetch_add(1, SeqCst);
    }

    pub(crate) fn remove_work(&self, amount: usize) {
        self.work.fetch_sub(amount, SeqCst);
        self.tell_shutdown();
    }

    /// Resolves when no work is left. After the shutdown has begun.
    pub(crate) async fn idle(&self) {
        wait_until(&self.changed, || self.work.load(SeqCst) == 0).await;
    }

    /// Resolves when all work that is left belongs to exchanges which await the shutdown. After it has begun.
    async fn others_idle(&self) {
        let leaving = || {
            let leaving = lock(&self.leaving);
            let mut counted = Vec::with_capacity(leaving.len());
            for handling in leaving.iter().filter(|handling| handling.is_work) {
                if !counted.contains(&handling.exchange) {
                    counted.push(handling.exchange);
                }
            }
            counted.len()
        };
        wait_until(&self.changed, || self.work.load(SeqCst) <= leaving()).await;
    }

    /// What [`others_idle`](Self::others_idle) says, for the shutdown that `own` awaits in its handler.
    pub(crate) async fn idle_beside(&self, own: ExchangeId) {
        lock(&self.leaving).push(own);
        self.tell_shutdown();
        let _leaving = ShutdownWaiter { drain: self, own };
        self.others_idle().await;
    }

    /// Resolves when a handler awaits the shutdown.
    pub(crate) async fn awaited_in_a_handler(&self) {
        wait_until(&self.changed, || !lock(&self.leaving).is_empty()).await;
    }

    /// The exchange of this node whose handler is being polled on this thread, if one is.
    pub(crate) fn handling(&self) -> Option<ExchangeId> {
        HANDLING.with(Cell::get).filter(|handling| handling.drain == std::ptr::from_ref(self).addr())
    }

    /// Has to be held by a task until everything of it is dropped.
    pub(crate) fn task(self: &Arc<Self>) -> TaskGuard {
        self.tasks.fetch_add(1, SeqCst);
        TaskGuard { drain: Arc::clone(self) }
    }

    /// A task that is counted until it is dropped.
    pub(crate) fn track<F>(self: &Arc<Self>, future: F) -> TrackedFuture<F> {
        TrackedFuture { future, _task: self.task() }
    }

    /// Resolves when every task has ended. After the shutdown has begun.
    pub(crate) async fn tasks_ended(&self) {
        wait_until(&self.changed, || self.tasks.load(SeqCst) == 0).await;
    }

    fn tell_shutdown(&self) {
        if self.has_begun() {
            self.changed.notify(usize::MAX);
        }
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.drain.remove_work(1);
    }
}

/// See [`Drain::task`].
#[derive(Debug)]
pub(crate) struct TaskGuard {
    drain: Arc<Drain>,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.drain.tasks.fetch_sub(1, SeqCst);
        self.drain.tell_shutdown();
    }
}

pin_project! {
    /// See [`Drain::track`].
    pub(crate) struct TrackedFuture<F> {
        // Before the guard, since fields are dropped in their order.
        #[pin]
        future: F,
        _task: TaskGuard,
    }
}

impl<F: Future> Future for TrackedFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

/// An exchange whose handler is being polled, as numbers that tell it from all others at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExchangeId {
    /// Of the node: where its [`Drain`] is.
    drain: usize,
    /// Of the exchange: where its future is.
    exchange: usize,
    /// Whether the exchange holds one [`WorkGuard`].
    is_work: bool,
}

thread_local! {
    static HANDLING: Cell<Option<ExchangeId>> = const { Cell::new(None) };
}

impl ExchangeId {
    /// For a handler in a future that does not move any more, at `place`.
    pub(crate) fn new<T>(drain: &Drain, place: &T, is_work: bool) -> Self {
        let (drain, exchange) = (std::ptr::from_ref(drain).addr(), std::ptr::from_ref(place).addr());
        Self { drain, exchange, is_work }
    }

    /// Polls something of the handler, which must not panic.
    pub(crate) fn poll<T>(self, poll: impl FnOnce() -> T) -> T {
        // Handlers may run executors of their own, with other nodes on them.
        let outer = HANDLING.with(|handling| handling.replace(Some(self)));
        let polled = poll();
        HANDLING.with(|handling| handling.set(outer));
        polled
    }
}

/// Takes an exchange out of those that await the shutdown.
struct ShutdownWaiter<'a> {
    drain: &'a Drain,
    own: ExchangeId,
}

impl Drop for ShutdownWaiter<'_> {
    fn drop(&mut self) {
        let mut leaving = lock(&self.drain.leaving);
        if let Some(place) = leaving.iter().position(|handling| *handling == self.own) {
            leaving.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    fn is_ready(future: impl Future) -> bool {
        block_on(poll_once(future)).is_some()
    }

    #[test]
    fn phases_only_go_forward() {
        let drain = Drain::default();
        assert!(!drain.has_begun());
        drain.advance(Phase::Closing);
        drain.advance(Phase::Draining);
        assert!(drain.has_begun() && drain.has_reached(Phase::Closing));
        assert!(!is_ready(drain.reached(Phase::Aborting)));
        drain.advance(Phase::Aborting);
        assert!(is_ready(drain.reached(Phase::Aborting)));
    }

    #[test]
    fn the_last_guard_ends_the_wait_for_work() {
        let drain = Arc::new(Drain::default());
        drain.advance(Phase::Draining);
        let (first, second) = (drain.accept(), drain.accept());
        let mut idle = Box::pin(drain.idle());
        assert!(!is_ready(&mut idle));
        drop(second);
        assert!(!is_ready(&mut idle));
        drop(first);
        assert!(is_ready(&mut idle));
    }

    #[test]
    fn a_task_counts_until_all_of_it_is_dropped() {
        let drain = Arc::new(Drain::default());
        drain.advance(Phase::Draining);
        /// Looks, when it is dropped, whether the task counts.
        struct Looks(Arc<Drain>);
        impl Drop for Looks {
            fn drop(&mut self) {
                assert!(!is_ready(self.0.tasks_ended()));
            }
        }
        let looks = Looks(Arc::clone(&drain));
        let task = drain.track(async move {
            let _looks = looks;
            std::future::pending::<()>().await
        });
        assert!(!is_ready(drain.tasks_ended()));
        drop(task);
        assert!(is_ready(drain.tasks_ended()));
    }

    #[test]
    fn a_shutdown_in_a_handler_waits_for_all_work_but_that_of_such_handlers() {
        let drain = Arc::new(Drain::default());
        drain.advance(Phase::Draining);
        let (places, work) = ([0_u8; 2], [drain.accept(), drain.accept()]);
        let other = drain.accept();
        let [first, second] = places.each_ref().map(|place| ExchangeId::new(&drain, place, true));
        let mut one = Box::pin(drain.idle_beside(first));
        assert!(!is_ready(&mut one));
        // Twice by the same exchange is one piece of work all the same.
        let mut again = Box::pin(drain.idle_beside(first));
        assert!(!is_ready(&mut again));
        drop(other);
        assert!(!is_ready(&mut one) && !is_ready(&mut again), "the second exchange is other work");
        let mut two = Box::pin(drain.idle_beside(second));
        assert!(is_ready(&mut two));
        assert!(!is_ready(&mut one), "the second handler goes on, and has to answer yet");
        let [work_of_first, work_of_second] = work;
        drop(work_of_second);
        assert!(is_ready(&mut one) && is_ready(&mut again));
        assert!(lock(&drain.leaving).is_empty());
        assert!(!is_ready(drain.idle()), "the connections stay open for the answer of the first");
        drop(work_of_first);
        assert!(is_ready(drain.idle()));
    }

    #[test]
    fn a_handler_is_known_only_while_it_is_polled_and_only_to_its_own_node() {
        let (drain, another) = (Drain::default(), Drain::default());
        let (inner, outer) = (0_u8, 0_u8);
        let [inner, outer] = [&inner, &outer].map(|place| ExchangeId::new(&drain, place, true));
        assert_eq!(drain.handling(), None);
        outer.poll(|| {
            assert_eq!(drain.handling(), Some(outer));
            assert_eq!(another.handling(), None);
            inner.poll(|| assert_eq!(drain.handling(), Some(inner)));
            assert_eq!(drain.handling(), Some(outer));
        });
        assert_eq!(drain.handling(), None);
    }
}
