//! Locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex under which nothing panics halfway through a change, so that one that is poisoned is as good as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
