//! How often a log writes.

use std::{sync::Arc, time::Duration};

use quinn::Runtime;

#[derive(Clone, Debug)]
pub(super) struct CommitSettings {
    pub(super) runtime: Option<Arc<dyn Runtime>>,
    pub(super) commit_interval: Duration,
    pub(super) commit_events: usize,
    /// Whether the interval also passes before the first event after a pause is written.
    pub(super) delays_first: bool,
}

/// A person does not notice this delay, and flash is written at most fifty times per second.
const COMMIT_INTERVAL: Duration = Duration::from_millis(20);
const COMMIT_EVENTS: usize = 1024;

impl Default for CommitSettings {
    fn default() -> Self {
        Self {
            runtime: None,
            commit_interval: COMMIT_INTERVAL,
            commit_events: COMMIT_EVENTS,
            delays_first: false,
        }
    }
}
