//! A timer of the runtime, as quinn knows it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use quinn::AsyncTimer;

use super::shared::Shared;
use crate::sync::lock;

/// Makes no system call of its own: the next wait of the runtime's thread ends when the first timer fires.
#[derive(Debug)]
pub(super) struct Timer {
    shared: Arc<Shared>,
    key: usize,
}

impl Timer {
    pub(super) fn new(shared: Arc<Shared>, deadline: Instant) -> Self {
        let key = lock(&shared.timers).insert(deadline);
        Self { shared, key }
    }
}

impl AsyncTimer for Timer {
    fn reset(self: Pin<&mut Self>, deadline: Instant) {
        lock(&self.shared.timers).reset(self.key, deadline);
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = lock(&self.shared.timers).poll(self.key, cx.waker());
        self.shared.bell.ring();
        polled
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let waker = lock(&self.shared.timers).remove(self.key);
        drop(waker);
    }
}
