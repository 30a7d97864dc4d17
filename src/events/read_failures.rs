//! Reads of a store that fail, and when to try again. Decided without a clock and without a store.

use std::{sync::Arc, time::Instant};

use super::failure::Failure;
use crate::error::{Error, ErrorKind, Result};

/// Subscribers that come back as soon as they are sent away do not make a store read more often than it may
/// fail.
#[derive(Default)]
pub(super) struct ReadFailures {
    /// How many reads have failed.
    pub(super) count: u64,
    /// Of the latest read.
    latest: Option<Failure>,
}

impl ReadFailures {
    /// Whether the store may be read.
    pub(super) fn check(&self, now: Instant) -> Result<()> {
        match &self.latest {
            Some(failure) if !failure.left(now).is_zero() => Err(error(failure, now)),
            _ => Ok(()),
        }
    }

    /// A read failed. Returns the error for the subscriber.
    pub(super) fn failed(&mut self, reason: Arc<str>, now: Instant) -> Error {
        self.count += 1;
        let failure = match self.latest.take() {
            // Several reads run at a time.
            Some(latest) if !latest.left(now).is_zero() => latest.again(reason),
            latest => Failure::after(latest.as_ref(), reason, now),
        };
        error(self.latest.insert(failure), now)
    }

    pub(super) fn succeeded(&mut self) {
        self.latest = None;
    }

    /// Why the latest read failed.
    pub(super) fn reason(&self) -> Option<&str> {
        self.latest.as_ref().map(|failure| &*failure.reason)
    }
}

fn error(failure: &Failure, now: Instant) -> Error {
    let detail = format!("events cannot be read: {}", failure.reason);
    Error::new(ErrorKind::Exhausted).detail(detail).after(Some(failure.left(now)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::failure::FIRST_PAUSE, *};

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
