//! A store that fails, and when it is tried again. Decided without a clock and without a store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::runtime::Clock;

/// After a call that failed, the store is left alone for this time, and for twice the time when the next call
/// fails, too.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A disk that was full or unplugged is noticed within this time when it is back.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The latest call of one kind failed.
pub(super) struct Failure {
    pub(super) reason: Arc<str>,
    pub(super) pause: Duration,
    until: Instant,
}

impl Failure {
    /// A failure now, after the one `before`, if the call before failed, too.
    pub(super) fn after(before: Option<&Self>, reason: Arc<str>, now: Instant) -> Self {
        let pause = before.map_or(FIRST_PAUSE, |before| (2 * before.pause).min(MAX_PAUSE));
        Self { reason, pause, until: Clock::after(now, pause) }
    }

    /// A failure of another call that began before this one, and so does not make the pause longer.
    pub(super) fn again(self, reason: Arc<str>) -> Self {
        Self { reason, ..self }
    }

    /// How much is left of the pause.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }
}
