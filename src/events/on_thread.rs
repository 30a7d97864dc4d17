//! Calls of a store, each on a thread of the crate `blocking`.

use std::{io, panic::AssertUnwindSafe};

use futures_lite::FutureExt;

/// A panic of the store is an error, since it would end the whole executor.
pub(super) async fn on_thread<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let called = AssertUnwindSafe(blocking::unblock(call)).catch_unwind().await;
    called.unwrap_or_else(|_| Err(io::Error::other("the store panicked")))
}
