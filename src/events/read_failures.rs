//! Reads of a store that fail, and when to try again. Decided without a clock and without a store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, ErrorKind, Result},
    runtime::Clock,
};

/// After a read that failed, the store is left alone for this time, and for twice the time when the next read
/// fails, too.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A disk that works again is noticed within this time.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Subscribers that come back as soon as they are sent away do not make a store read more often than it may
/// fail.
#[derive(Default)]
pub(super) struct ReadFailures {
    /// How many reads have failed.
    pub(super) count: u64,
    latest: Option<Failure>,
}

/// The latest read failed.
struct Failure {
    reason: Arc<str>,
    until: Instant,
    pause: Duration,
}

impl ReadFailures {
    /// Whether the store may be read.
    pub(super) fn check(&self, now: Instant) -> Result<()> {
        match &self.latest {
            Some(failure) if now < failure.until => Err(failure.error(now)),
            _ => Ok(()),
        }
    }

    /// A read failed. Returns the error for the subscriber.
    pub(super) fn failed(&mut self, reason: Arc<str>, now: Instant) -> Error {
        self.count += 1;
        let (until, pause) = match &self.latest {
            // It began before that one ended, as several do at a time.
            Some(latest) if now < latest.until => (latest.until, latest.pause),
            latest => {
                let pause = latest.as_ref().map_or(FIRST_PAUSE, |latest| (latest.pause * 2).min(MAX_PAUSE));
                (Clock::after(now, pause), pause)
            }
        };
        self.latest.insert(Failure { reason, until, pause }).error(now)
    }

    pub(super) fn succeeded(&mut self) {
        self.latest = None;
    }

    /// Why the latest read failed.
    pub(super) fn reason(&self) -> Option<&str> {
        self.latest.as_ref().map(|failure| &*failure.reason)
    }
}

impl Failure {
    fn error(&self, now: Instant) -> Error {
        let left = self.until.saturating_duration_since(now);
        let detail = format!("events cannot be read: {}", self.reason);
        Error::new(ErrorKind::Exhausted).detail(detail).after(Some(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_each_failure_after_the_pause_before_and_end_with_a_success() {
        let mut failures = ReadFailures::default();
        let mut now = Instant::now();
        for millis in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            failures.check(now).unwrap();
            let pause = Duration::from_millis(millis);
            assert_eq!(failures.failed("full".into(), now).retry_after(), Some(pause));
            now += pause / 2;
            // Another one that began before.
            assert_eq!(failures.failed("full".into(), now).retry_after(), Some(pause / 2));
            let refused = failures.check(now).unwrap_err();
            assert_eq!((refused.kind(), refused.retry_after()), (&ErrorKind::Exhausted, Some(pause / 2)));
            now += pause / 2;
        }
        assert_eq!((failures.count, failures.reason()), (18, Some("full")));
        failures.succeeded();
        assert_eq!((failures.count, failures.reason()), (18, None));
        failures.check(now).unwrap();
        assert_eq!(failures.failed("full".into(), now).retry_after(), Some(FIRST_PAUSE));
    }
}
