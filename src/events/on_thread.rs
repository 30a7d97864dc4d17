//! Calls of a store, on threads of the crate `blocking`.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use blocking::Task;

/// Calls a store on a thread that may block. A call that has not begun when the task is dropped does not
/// begin.
pub(super) fn on_thread<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Task<io::Result<T>> {
    blocking::unblock(move || catch_panic(call))
}

/// Runs this on a thread that may block, whether anybody waits for it or not.
pub(super) fn start_thread(run: impl FnOnce() + Send + 'static) {
    blocking::unblock(run).detach();
}

/// Calls a store. A panic of the store is an error.
pub(super) fn catch_panic<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let called = catch_unwind(AssertUnwindSafe(call));
    called.unwrap_or_else(|_| Err(io::Error::other("the store panicked")))
}
