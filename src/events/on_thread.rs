//! Calls of a store, on threads of the crate `blocking`.

use std::{
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use blocking::Task;

use crate::sync::{Mutex, lock};

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
    blocking::unblock(run)
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
