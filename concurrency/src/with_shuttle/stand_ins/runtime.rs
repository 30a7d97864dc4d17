use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A clock that goes on by a step whenever it is read.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    began: Instant,
    step: Duration,
    reads: Arc<AtomicU64>,
}

impl Clock {
    pub(crate) fn stepping(step: Duration) -> Self {
        Self { began: Instant::now(), step, reads: Arc::default() }
    }

    pub(crate) fn now(&self) -> Instant {
        let reads = self.reads.fetch_add(1, Ordering::Relaxed);
        self.began + self.step * u32::try_from(reads).expect("a short test")
    }

    pub(crate) async fn sleep(&self, _time: Duration) {}
}
