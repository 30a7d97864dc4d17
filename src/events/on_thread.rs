//! Calls of a store, on threads of the crate `blocking`.

use std::{
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use blocking::Task;
use event_listener::Listener;

use crate::sync::{Event, Mutex, lock};

/// Runs this on a thread that may block. It does not begin if the task is dropped before that.
///
/// A test in virtual time has it run by the tasks of its simulation.
pub(crate) fn unblock<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    #[cfg(all(test, feature = "sim"))]
    if let Some(threads) = super::simulated_threads::current() {
        return threads.unblock(run);
    }
    blocking::unblock(run)
}

/// A call of a store. If it has not begun when this is dropped, it does not begin.
pub(super) struct StoreCall<T> {
    task: Task<()>,
    returned: Arc<Mutex<Option<io::Result<T>>>>,
}

/// Calls a store on a thread that may block.
pub(super) fn on_thread<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> StoreCall<T> {
    let returned = Arc::new(Mutex::new(None));
    let result = Arc::clone(&returned);
    let task = spawn(Box::new(move || {
        let called = catch_panic(call);
        *lock(&result) = Some(called);
    }));
    StoreCall { task, returned }
}

/// Runs this on a thread that may block, whether anybody waits for it or not.
pub(super) fn start_thread(run: impl FnOnce() + Send + 'static) {
    spawn(Box::new(run)).detach();
}

/// Boxed, because each type of task makes a program about 2 KiB larger.
fn spawn(run: Box<dyn FnOnce() + Send>) -> Task<()> {
    unblock(run)
}

/// As [`start_thread`], and waits for the end, but no longer than this.
pub(super) fn wait_for_thread(run: impl FnOnce() + Send + 'static, longest: Duration) {
    #[cfg(all(test, feature = "sim"))]
    if super::simulated_threads::current().is_some() {
        // Nothing else runs while the only thread of a simulation waits.
        return run();
    }
    let ended = Arc::new(Event::new());
    let listener = ended.listen();
    start_thread(move || {
        run();
        ended.notify(usize::MAX);
    });
    let _ = listener.wait_timeout(longest);
}

/// Calls a store. A panic of the store is an error.
pub(super) fn catch_panic<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let called = catch_unwind(AssertUnwindSafe(call));
    called.unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> io::Error {
    io::Error::other("the store panicked")
}

impl<T> StoreCall<T> {
    /// Has the call made though nobody waits for it.
    pub(super) fn detach(self) {
        self.task.detach();
    }
}

impl<T> Future for StoreCall<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        ready!(Pin::new(&mut self.task).poll(cx));
        // There is a result, since a panic is one.
        Poll::Ready(lock(&self.returned).take().unwrap_or_else(|| Err(panicked())))
    }
}
