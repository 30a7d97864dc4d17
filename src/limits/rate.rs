//! How often something may happen: a token bucket without a lock.

use std::{
    fmt,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::sync::AtomicU64;

/// How often something may happen: this often a second, and in a burst after a rest.
///
/// This is a token bucket, which is full at the beginning.
///
/// ```
/// use std::time::Duration;
/// use palyra_quic::Rate;
///
/// let calls = Rate::per_second(50).burst(200);
/// let connections = Rate::every(Duration::from_secs(10)).burst(3);
/// assert_ne!(calls, connections);
/// assert_eq!(format!("{connections:?}"), "Rate { every: 10s, burst: 3 }");
/// assert_eq!(format!("{:?}", Rate::UNLIMITED), "Rate::UNLIMITED");
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    every: Duration,
    burst: u32,
}

impl Rate {
    /// As often as one likes.
    pub const UNLIMITED: Self = Self { every: Duration::ZERO, burst: u32::MAX };

    /// This often a second, with bursts as large. At 0, never.
    #[must_use]
    pub const fn per_second(times: u32) -> Self {
        match Duration::from_secs(1).checked_div(times) {
            Some(every) => Self { every, burst: times },
            None => Self { every: Duration::MAX, burst: 0 },
        }
    }

    /// Once in this time. Zero is [`UNLIMITED`](Self::UNLIMITED).
    #[must_use]
    pub const fn every(period: Duration) -> Self {
        if period.is_zero() { Self::UNLIMITED } else { Self { every: period, burst: 1 } }
    }

    /// How many may come together after a pause. Default: 1.
    #[must_use]
    pub const fn burst(self, burst: u32) -> Self {
        Self { burst, ..self }
    }

    /// Whether there is no bound.
    pub(crate) const fn is_unlimited(&self) -> bool {
        self.every.is_zero()
    }

    /// Whether nothing could ever happen.
    pub(crate) const fn is_never(&self) -> bool {
        self.burst == 0
    }

    /// The time for one token.
    pub(crate) const fn period(&self) -> Duration {
        self.every
    }

    /// Bursts of at least this many.
    pub(crate) fn at_least(self, burst: u32) -> Self {
        Self { burst: self.burst.max(burst), ..self }
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unlimited() {
            return f.write_str("Rate::UNLIMITED");
        }
        let Self { every, burst } = self;
        f.debug_struct("Rate").field("every", every).field("burst", burst).finish()
    }
}

/// What is left of a [`Rate`]. The generic cell rate algorithm: one number says it all.
#[derive(Debug)]
pub(crate) struct Bucket {
    epoch: Instant,
    /// When the bucket will be full again, in nanoseconds after `epoch`.
    full_at: AtomicU64,
}

impl Bucket {
    pub(crate) fn new(now: Instant) -> Self {
        Self { epoch: now, full_at: AtomicU64::new(0) }
    }

    /// Takes a token, or says after how long there will be one.
    pub(crate) fn take(&self, rate: Rate, now: Instant) -> Result<(), Duration> {
        if rate.is_unlimited() {
            return Ok(());
        }
        let now = nanos(now.saturating_duration_since(self.epoch));
        let every = nanos(rate.every);
        let capacity = every.saturating_mul(u64::from(rate.burst));
        let spend = |full_at: u64| {
            let spent = full_at.max(now).saturating_add(every);
            (spent - now <= capacity).then_some(spent)
        };
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        taken.map(drop).map_err(|full_at| {
            let spent = full_at.max(now).saturating_add(every);
            Duration::from_nanos((spent - now).saturating_sub(capacity))
        })
    }

    /// Takes the next token that there will be, and says after how long; unless that is too long.
    pub(crate) fn take_later(&self, rate: Rate, now: Instant, longest: Duration) -> Option<Duration> {
        if rate.is_unlimited() {
            return Some(Duration::ZERO);
        }
        let now = nanos(now.saturating_duration_since(self.epoch));
        let every = nanos(rate.every);
        let capacity = every.saturating_mul(u64::from(rate.burst));
        let wait = |spent: u64| (spent - now).saturating_sub(capacity);
        let spend = |full_at: u64| {
            let spent = full_at.max(now).saturating_add(every);
            (wait(spent) <= nanos(longest)).then_some(spent)
        };
        let before = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).ok()?;
        Some(Duration::from_nanos(wait(before.max(now).saturating_add(every))))
    }

    /// Puts a token back that was of no use.
    pub(crate) fn give_back(&self, rate: Rate) {
        let give = |full_at: u64| Some(full_at.saturating_sub(nanos(rate.every)));
        // Cannot fail: there is always a next value.
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
    }

    /// After how long it will be full.
    pub(crate) fn full_after(&self, now: Instant) -> Duration {
        let now = nanos(now.saturating_duration_since(self.epoch));
        Duration::from_nanos(self.full_at.load(Ordering::Relaxed).saturating_sub(now))
    }

    /// Takes a token, or empties the bucket if there is none.
    pub(crate) fn spend(&self, rate: Rate, now: Instant) {
        // Without a token the bucket is as empty as it gets.
        let _ = self.take(rate, now);
    }

    /// How many tokens it lacks.
    pub(crate) fn missing(&self, rate: Rate, now: Instant) -> u64 {
        nanos(self.full_after(now)).div_ceil(nanos(rate.every).max(1))
    }

    /// Whether nothing is missing from it.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_after(now).is_zero()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_and_then_as_often_as_the_rate_says() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        let rate = Rate::per_second(10).burst(3);
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, start), Ok(()));
        }
        assert_eq!(bucket.take(rate, start), Err(SECOND / 10));
        assert_eq!(bucket.take(rate, start + SECOND / 20), Err(SECOND / 20));
        assert_eq!(bucket.take(rate, start + SECOND / 10), Ok(()));
        assert!(bucket.take(rate, start + SECOND / 10).is_err());
        assert!(!bucket.is_full(start + SECOND / 10));
        assert!(bucket.is_full(start + SECOND));
    }

    #[test]
    fn a_rest_saves_up_no_more_than_a_burst() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        let rate = Rate::every(SECOND).burst(2);
        let later = start + 1000 * SECOND;
        assert_eq!([(); 3].map(|()| bucket.take(rate, later).is_ok()), [true, true, false]);
    }

    #[test]
    fn tokens_that_are_taken_early_are_waited_for_one_after_another() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        let rate = Rate::every(SECOND);
        let waits = [(); 5].map(|()| bucket.take_later(rate, start, 3 * SECOND));
        assert_eq!(waits, [Some(0), Some(1), Some(2), Some(3), None].map(|s| s.map(|s| s * SECOND)));
        bucket.give_back(rate);
        assert_eq!(bucket.take_later(rate, start, 3 * SECOND), Some(3 * SECOND));
        assert_eq!(bucket.take_later(Rate::UNLIMITED, start, Duration::ZERO), Some(Duration::ZERO));
    }

    #[test]
    fn no_bound_and_no_permission_are_what_they_say() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        assert!((0..1000).all(|_| bucket.take(Rate::UNLIMITED, start).is_ok()));
        assert!(bucket.is_full(start));
        assert!(bucket.take(Rate::per_second(0), start + SECOND).is_err());
        assert!(bucket.take(Rate::per_second(5).burst(0), start + SECOND).is_err());
        assert!(Rate::every(Duration::ZERO).is_unlimited());
    }
}
