//! How long to wait before the next attempt.

use std::time::Duration;

use fastrand::Rng;

/// Pauses that grow from one failure to the next: exponential, with full jitter, up to a cap.
///
/// Each pause is chance's choice between nothing and a ceiling that doubles with every failure in a row, so
/// that the clients of a node that comes back do not come back together. A peer that says how long to wait is
/// left alone for that long, but for no more than an hour.
///
/// ```
/// use std::time::Duration;
/// use palyra_quic::Backoff;
///
/// let backoff = Backoff::new().first(Duration::from_millis(500)).cap(Duration::from_secs(60));
/// # drop(backoff);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Backoff {
    first: Duration,
    cap: Duration,
}

const FIRST: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(30);

impl Backoff {
    /// The defaults.
    pub fn new() -> Self {
        Self { first: FIRST, cap: CAP }
    }

    /// The ceiling of the first pause. Default: 100 ms.
    pub fn first(self, first: Duration) -> Self {
        Self { first, ..self }
    }

    /// The highest ceiling: the doubling stops here. Default: 30 s.
    pub fn cap(self, cap: Duration) -> Self {
        Self { cap, ..self }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// Failures in a row, and what they cost.
#[derive(Debug)]
pub(super) struct Failures {
    backoff: Backoff,
    count: u32,
    rng: Rng,
}

impl Failures {
    pub(super) fn new(backoff: Backoff, rng: Rng) -> Self {
        Self { backoff, count: 0, rng }
    }

    /// The pause after one more failure.
    pub(super) fn pause(&mut self) -> Duration {
        let Backoff { first, cap } = self.backoff;
        let ceiling = first.saturating_mul(1_u32.checked_shl(self.count).unwrap_or(u32::MAX)).min(cap);
        self.count = self.count.saturating_add(1);
        ceiling.mul_f64(self.rng.f64())
    }

    pub(super) fn longest_pause(&self) -> Duration {
        self.backoff.cap
    }

    pub(super) fn forget(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn failures(seed: u64) -> Failures {
        Failures::new(Backoff::new().first(100 * MILLI).cap(1000 * MILLI), Rng::with_seed(seed))
    }

    #[test]
    fn ceilings_double_up_to_the_cap() {
        for (attempt, ceiling) in [100, 200, 400, 800, 1000, 1000].into_iter().enumerate() {
            let pauses: Vec<_> = (0..200)
                .map(|seed| {
                    let mut failures = failures(seed);
                    (0..attempt).for_each(|_| _ = failures.pause());
                    failures.pause()
                })
                .collect();
            let ceiling = MILLI * ceiling;
            assert!(pauses.iter().all(|pause| *pause < ceiling));
            assert!(pauses.iter().any(|pause| *pause > ceiling.mul_f64(0.9)), "the ceiling is reached");
            assert!(pauses.iter().any(|pause| *pause < ceiling.mul_f64(0.1)), "jitter is full");
        }
    }

    #[test]
    fn any_number_of_failures_is_borne() {
        let mut failures = failures(1);
        assert!((0..1000).all(|_| failures.pause() <= 1000 * MILLI));
        let mut endless =
            Failures::new(Backoff::new().first(Duration::MAX).cap(Duration::MAX / 4), Rng::with_seed(1));
        endless.pause();
    }

    #[test]
    fn success_begins_anew() {
        let mut failures = failures(1);
        (0..10).for_each(|_| _ = failures.pause());
        failures.forget();
        assert!(failures.pause() < 100 * MILLI);
    }
}
