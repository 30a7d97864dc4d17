//! Work that one future hands to another, and whose result it gets back.
//!
//! An interceptor of the application is a future that borrows nothing, because its type is not known here. A
//! call borrows what it is made from. So the interceptor does not contain the call: it waits for the result
//! of a [`Handoff`], and the future around both polls the call meanwhile.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::sync::{Mutex, lock};

/// One piece of work, whose result is a `T`. Held by the side that does the work.
pub(crate) struct Handoff<T> {
    shared: Arc<Shared<T>>,
}

/// Resolves with the result of the work, or with `None` if it is too late to begin. Dropping it gives up the
/// work.
pub(crate) struct HandedOff<T> {
    shared: Arc<Shared<T>>,
}

/// Invariant: nothing of the application is called or dropped while `state` is locked. A result or a waker
/// may own either side, whose drop locks it.
struct Shared<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    progress: Progress<T>,
    /// Of the side that does the work.
    worker: Option<Waker>,
    /// Of the side that waits for the result.
    waiter: Option<Waker>,
}

enum Progress<T> {
    NotWanted,
    Wanted,
    Done(T),
    /// The result was taken, or the work was given up.
    Over,
}

/// What is to be done about the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Nobody waits for the result yet, or it is there already.
    Wait,
    Work,
    GiveUp,
}

impl<T> Handoff<T> {
    /// The work, and what waits for its result.
    pub(crate) fn new() -> (Self, HandedOff<T>) {
        let state = State { progress: Progress::NotWanted, worker: None, waiter: None };
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        (Self { shared: Arc::clone(&shared) }, HandedOff { shared })
    }

    /// What is to be done. A change wakes this task.
    pub(crate) fn wish(&self, cx: &Context<'_>) -> Wish {
        let worker = Some(cx.waker().clone());
        let mut state = lock(&self.shared.state);
        let before = std::mem::replace(&mut state.worker, worker);
        let wish = match state.progress {
            Progress::NotWanted | Progress::Done(_) => Wish::Wait,
            Progress::Wanted => Wish::Work,
            Progress::Over => Wish::GiveUp,
        };
        drop(state);
        drop(before);
        wish
    }

    /// The work is done.
    pub(crate) fn finish(&self, result: T) {
        let mut state = lock(&self.shared.state);
        if !matches!(state.progress, Progress::Wanted) {
            return;
        }
        state.progress = Progress::Done(result);
        let wakers = state.take_wakers();
        drop(state);
        wake(wakers);
    }
}

impl<T> Drop for Handoff<T> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl<T> Future for HandedOff<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut worker = None;
        let waiter = Some(cx.waker().clone());
        let mut state = lock(&self.shared.state);
        match std::mem::replace(&mut state.progress, Progress::Over) {
            Progress::Done(result) => return Poll::Ready(Some(result)),
            Progress::Over => return Poll::Ready(None),
            Progress::NotWanted => worker = state.worker.take(),
            Progress::Wanted => {}
        }
        state.progress = Progress::Wanted;
        let before = std::mem::replace(&mut state.waiter, waiter);
        drop(state);
        drop(before);
        worker.into_iter().for_each(Waker::wake);
        Poll::Pending
    }
}

impl<T> Drop for HandedOff<T> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl<T> Shared<T> {
    fn end(&self) {
        let mut state = lock(&self.state);
        let before = std::mem::replace(&mut state.progress, Progress::Over);
        let wakers = state.take_wakers();
        drop(state);
        wake(wakers);
        drop(before);
    }
}

impl<T> State<T> {
    /// To be woken without the lock: an executor may drop a task that is woken, and so either side.
    fn take_wakers(&mut self) -> Wakers {
        [self.worker.take(), self.waiter.take()]
    }
}

type Wakers = [Option<Waker>; 2];

fn wake(wakers: Wakers) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicU32, Ordering},
        task::Wake,
        time::Duration,
    };

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    fn wish<T>(handoff: &Handoff<T>) -> Wish {
        block_on(poll_fn(|cx| Poll::Ready(handoff.wish(cx))))
    }

    #[test]
    fn work_begins_when_its_result_is_waited_for() {
        let (handoff, mut handed_off) = Handoff::new();
        assert_eq!(wish(&handoff), Wish::Wait);
        block_on(async {
            assert!(poll_once(&mut handed_off).await.is_none());
            assert_eq!(wish(&handoff), Wish::Work);
            handoff.finish("result");
            assert_eq!(wish(&handoff), Wish::Wait);
            assert_eq!(handed_off.await, Some("result"));
        });
        assert_eq!(wish(&handoff), Wish::GiveUp);
    }

    #[test]
    fn work_that_nobody_waits_for_is_given_up() {
        let (handoff, mut handed_off) = Handoff::<()>::new();
        assert!(block_on(poll_once(&mut handed_off)).is_none());
        drop(handed_off);
        assert_eq!(wish(&handoff), Wish::GiveUp);
    }

    #[test]
    fn work_cannot_be_wanted_too_late() {
        let (handoff, handed_off) = Handoff::<()>::new();
        drop(handoff);
        assert_eq!(block_on(handed_off), None);
    }

    /// Otherwise a task that has both sides would never sleep.
    #[test]
    fn waiting_wakes_the_worker_once() {
        let (handoff, mut handed_off) = Handoff::<()>::new();
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..5 {
            handoff.wish(&cx);
            assert!(Pin::new(&mut handed_off).poll(&mut cx).is_pending());
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    }

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The task of a side. An executor may drop a task when it is woken, and does with its last waker.
    struct Task<S>(Mutex<Option<S>>);

    impl<S: Send + 'static> Task<S> {
        fn new() -> Arc<Self> {
            Arc::new(Self(Mutex::default()))
        }

        fn contain(&self, side: S) {
            *lock(&self.0) = Some(side);
        }
    }

    impl<S: Send + 'static> Wake for Task<S> {
        fn wake(self: Arc<Self>) {
            let side = lock(&self.0).take();
            drop(side);
        }
    }

    fn ends(case: fn()) {
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            case();
            ended.send(()).unwrap();
        });
        end.recv_timeout(Duration::from_secs(10)).expect("the case waits for a lock that it holds");
    }

    /// One side, whose other waits in a task.
    fn with_waiting_task() -> Handoff<()> {
        let (handoff, mut handed_off) = Handoff::new();
        let task = Task::new();
        let waker = Waker::from(Arc::clone(&task));
        assert!(Pin::new(&mut handed_off).poll(&mut Context::from_waker(&waker)).is_pending());
        task.contain(handed_off);
        handoff
    }

    #[test]
    fn a_task_may_be_dropped_when_the_work_is_done() {
        ends(|| with_waiting_task().finish(()));
    }

    #[test]
    fn a_task_may_be_dropped_when_the_other_side_is() {
        ends(|| drop(with_waiting_task()));
    }

    #[test]
    fn a_task_may_be_dropped_with_the_waker_that_another_replaces() {
        ends(|| {
            let (handoff, handed_off) = Handoff::<()>::new();
            let task = Task::new();
            task.contain(handed_off);
            let waker = Waker::from(task);
            handoff.wish(&Context::from_waker(&waker));
            drop(waker);
            assert_eq!(wish(&handoff), Wish::Wait);
            assert_eq!(wish(&handoff), Wish::GiveUp);
        });
        ends(|| {
            let (handoff, mut handed_off) = Handoff::<()>::new();
            let task = Task::new();
            task.contain(handoff);
            let waker = Waker::from(task);
            assert!(Pin::new(&mut handed_off).poll(&mut Context::from_waker(&waker)).is_pending());
            drop(waker);
            assert!(block_on(poll_once(&mut handed_off)).is_none());
            assert_eq!(block_on(handed_off), None);
        });
    }

    #[test]
    fn each_side_wakes_the_other() {
        for round in 0..100 {
            let (handoff, handed_off) = Handoff::new();
            let worker = std::thread::spawn(move || {
                block_on(poll_fn(|cx| match handoff.wish(cx) {
                    Wish::Wait => Poll::Pending,
                    Wish::Work => Poll::Ready(()),
                    Wish::GiveUp => panic!("it was wanted"),
                }));
                handoff.finish(round);
                block_on(poll_fn(|cx| match handoff.wish(cx) {
                    Wish::GiveUp => Poll::Ready(()),
                    _ => Poll::Pending,
                }));
            });
            assert_eq!(block_on(handed_off), Some(round));
            worker.join().unwrap();
        }
    }
}
