//! A task that notices when the runtime drops its tasks.

use std::sync::Arc;

use super::shared::Shared;

/// Runs in a task that ends when its [`RuntimeWatch`] is dropped, unless the runtime drops it before.
pub(super) struct Sentinel(pub(super) Arc<Shared>);

impl Sentinel {
    pub(super) async fn watch(&self) {
        self.0.liveness.ended().await;
    }
}

impl Drop for Sentinel {
    /// The one place that learns that the runtime was dropped.
    fn drop(&mut self) {
        if self.0.liveness.drop_runtime() {
            self.0.wake_all();
        }
    }
}

/// Ends the task of [`Clock::watch_runtime`](super::Clock::watch_runtime) when it is dropped.
pub(crate) struct RuntimeWatch(pub(super) Arc<Shared>);

impl Drop for RuntimeWatch {
    fn drop(&mut self) {
        self.0.liveness.release();
    }
}
