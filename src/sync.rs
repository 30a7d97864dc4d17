//! Locks, atomics, and waiting for what others change.

use std::sync::{Mutex, MutexGuard, PoisonError};

use event_listener::Event;
#[cfg(any(not(target_has_atomic = "64"), portable_atomic_u64))]
pub(crate) use portable_atomic::AtomicU64;
#[cfg(not(any(not(target_has_atomic = "64"), portable_atomic_u64)))]
pub(crate) use std::sync::atomic::AtomicU64;

/// Locks a mutex under which nothing panics halfway through a change, so that one that is poisoned is as good
/// as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves when the condition holds, of whose every change the event has to tell afterwards.
pub(crate) async fn wait_until(event: &Event, condition: impl Fn() -> bool) {
    while !condition() {
        let listener = event.listen();
        // The change may have come before there was a listener.
        if condition() {
            return;
        }
        listener.await;
    }
}
