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
        let mut state = lock(&self.shared.state);
        state.worker = Some(cx.waker().clone());
        match state.progress {
            Progress::NotWanted | Progress::Done(_) => Wish::Wait,
            Progress::Wanted => Wish::Work,
            Progress::Over => Wish::GiveUp,
        }
    }

    /// The work is done.
    pub(crate) fn finish(&self, result: T) {
        let mut state = lock(&self.shared.state);
        if matches!(state.progress, Progress::Wanted) {
            state.progress = Progress::Done(result);
            state.wake();
        }
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
        let mut state = lock(&self.shared.state);
        match std::mem::replace(&mut state.progress, Progress::Over) {
            Progress::Done(result) => return Poll::Ready(Some(result)),
            Progress::Over => return Poll::Ready(None),
            Progress::NotWanted => worker = state.worker.take(),
            Progress::Wanted => {}
        }
        state.progress = Progress::Wanted;
        state.waiter = Some(cx.waker().clone());
        drop(state);
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
        state.wake();
        // Not under the lock, since a result may be anything.
        drop(state);
        drop(before);
    }
}

impl<T> State<T> {
    fn wake(&mut self) {
        [self.worker.take(), self.waiter.take()].into_iter().flatten().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicU32, Ordering},
        task::Wake,
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
