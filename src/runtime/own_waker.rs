//! Futures that are not polled each time that their task is polled.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use pin_project_lite::pin_project;

use crate::sync::lock;

pin_project! {
    /// Polls a future only when it was woken itself. For rare events in a task that is often polled for
    /// other reasons: polling the connection and event listeners each time would take longer than the
    /// task's own work.
    pub(crate) struct OwnWaker<F> {
        #[pin]
        future: F,
        signal: Arc<Signal>,
        waker: Waker,
        // The same as in the signal.
        task: Option<Waker>,
    }
}

struct Signal {
    woken: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl<F> OwnWaker<F> {
    pub(crate) fn new(future: F) -> Self {
        let signal = Arc::new(Signal { woken: AtomicBool::new(true), task: Mutex::default() });
        let waker = Waker::from(Arc::clone(&signal));
        Self { future, signal, waker, task: None }
    }
}

impl<F: Future> Future for OwnWaker<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !this.signal.take(this.task, cx.waker()) {
            return Poll::Pending;
        }
        this.future.poll(&mut Context::from_waker(this.waker))
    }
}

impl Signal {
    /// Whether the future was woken since the last call, for a task with this waker. `task` is the one of the
    /// last call.
    fn take(&self, task: &mut Option<Waker>, waker: &Waker) -> bool {
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
            lock(&self.task).clone_from(task);
        }
        // After the waker was stored: one that wakes in between has either been seen here, or wakes this
        // task.
        let woken = self.woken.load(SeqCst);
        if woken {
            self.woken.store(false, SeqCst);
        }
        woken
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, SeqCst) {
            let task = lock(&self.task).clone();
            if let Some(task) = task {
                task.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::atomic::AtomicUsize};

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_future_is_polled_only_if_woken_and_wakes_the_task_that_polled_it_last() {
        let (polls, inner) = (AtomicUsize::new(0), Mutex::new(None::<Waker>));
        let future = poll_fn(|cx| {
            *lock(&inner) = Some(cx.waker().clone());
            if polls.fetch_add(1, SeqCst) == 2 { Poll::Ready(()) } else { Poll::Pending }
        });
        let mut future = pin!(OwnWaker::new(future));
        let [first, second] = [(); 2].map(|()| Arc::<Woken>::default());
        let mut poll = |task: &Arc<Woken>| {
            let waker = Waker::from(Arc::clone(task));
            future.as_mut().poll(&mut Context::from_waker(&waker))
        };
        for _ in 0..3 {
            assert!(poll(&first).is_pending());
        }
        assert_eq!(polls.load(SeqCst), 1, "nothing has woken it since");
        assert!(poll(&second).is_pending());
        let wake = || lock(&inner).clone().unwrap().wake();
        wake();
        wake();
        assert_eq!((first.0.load(SeqCst), second.0.load(SeqCst)), (0, 1), "once for both");
        assert!(poll(&second).is_pending());
        assert_eq!(polls.load(SeqCst), 2);
        wake();
        assert!(poll(&second).is_ready());
    }
}
