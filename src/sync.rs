//! Locks, atomics and events, and waiting for what others change.
//!
//! Code whose correctness depends on the order in which threads run takes these from here: the package in
//! `concurrency/` compiles the same source files with the locks and atomics of a model checker, which it
//! selects with `cfg(model_checked)`. `Arc` is always the standard library's, since loom's own allows no
//! method that takes `&Arc<Self>`.

#[cfg(model_checked)]
pub(crate) use crate::model::*;
#[cfg(not(model_checked))]
pub(crate) use real::*;

use std::sync::PoisonError;

#[cfg(not(model_checked))]
mod real {
    pub(crate) use std::{
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize},
        },
        thread_local,
    };

    pub(crate) use async_lock::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};
    pub(crate) use async_lock::{Semaphore, SemaphoreGuardArc};
    pub(crate) use event_listener::{Event, EventListener};
    #[cfg(any(not(target_has_atomic = "64"), portable_atomic_u64))]
    pub(crate) use portable_atomic::AtomicU64;
    #[cfg(not(any(not(target_has_atomic = "64"), portable_atomic_u64)))]
    pub(crate) use std::sync::atomic::AtomicU64;
}

/// Locks a mutex under which nothing panics halfway through a change, so that one that is poisoned is as good
/// as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves when the condition holds. The event must be notified after every change that can make it hold.
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
