//! What `src/sync.rs` takes from here: shuttle's locks and atomics, and events and asynchronous locks that
//! shuttle can interrupt.
//!
//! Those two do what they do in one step, as far as shuttle is concerned, since it does not know of the locks
//! and atomics inside them. That is enough for code that uses them: they are tested where they are made.
//! Before each step, shuttle may choose another thread.

use std::sync::{Arc, atomic::Ordering};

pub(crate) use event_listener::EventListener;
pub(crate) use shuttle::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize},
    },
    thread_local,
};

pub(crate) type AsyncMutexGuard<'a, T> = async_lock::MutexGuard<'a, T>;

/// Lets another thread go on, if the schedule says so.
pub(crate) fn may_switch() {
    AtomicBool::new(false).load(Ordering::SeqCst);
}

#[derive(Debug, Default)]
pub(crate) struct Event(event_listener::Event);

impl Event {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn listen(&self) -> EventListener {
        may_switch();
        self.0.listen()
    }

    pub(crate) fn notify(&self, count: usize) {
        may_switch();
        self.0.notify(count);
    }
}

#[derive(Debug)]
pub(crate) struct AsyncMutex<T>(async_lock::Mutex<T>);

impl<T> AsyncMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(async_lock::Mutex::new(value))
    }

    pub(crate) async fn lock(&self) -> AsyncMutexGuard<'_, T> {
        may_switch();
        self.0.lock().await
    }
}

/// Each guard holds its semaphore, as async-lock's do.
#[derive(Debug)]
pub(crate) struct Semaphore(Arc<async_lock::Semaphore>);

#[derive(Debug)]
pub(crate) struct SemaphoreGuardArc {
    _permit: Permit,
    _semaphore: Arc<Semaphore>,
}

#[derive(Debug)]
struct Permit {
    _permit: async_lock::SemaphoreGuardArc,
}

impl Drop for Permit {
    fn drop(&mut self) {
        may_switch();
    }
}

impl Semaphore {
    pub(crate) fn new(permits: usize) -> Self {
        Self(Arc::new(async_lock::Semaphore::new(permits)))
    }

    pub(crate) fn try_acquire_arc(self: &Arc<Self>) -> Option<SemaphoreGuardArc> {
        may_switch();
        let permit = self.0.try_acquire_arc()?;
        Some(SemaphoreGuardArc { _permit: Permit { _permit: permit }, _semaphore: Arc::clone(self) })
    }
}
