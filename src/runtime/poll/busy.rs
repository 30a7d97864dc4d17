//! When to poll busily instead of sleeping.

use std::time::Duration;

/// Decides before each wait whether to poll busily, from how long the last waits were.
///
/// Consecutive waits are alike: they are short during sequential calls to a near peer, and long on an idle
/// node. So after a wait that was longer than `limit`, the next attempts to poll busily are skipped: 1, 3, 7
/// and so on up to 63 waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct BusyPoll {
    /// How long to poll busily before sleeping.
    limit: Duration,
    /// Waits to sleep through before the next attempt.
    skip: u32,
    /// The value that `skip` was last set to.
    last_skip: u32,
}

/// An attempt is made in one of 64 waits if all of them are too long.
const MAX_SKIP: u32 = 63;

impl BusyPoll {
    pub(super) const fn new(limit: Duration) -> Self {
        Self { limit, skip: 0, last_skip: 0 }
    }

    /// How long to poll busily in the wait that begins; zero means to sleep.
    pub(super) const fn begin(&mut self) -> Duration {
        if self.skip > 0 {
            self.skip -= 1;
            return Duration::ZERO;
        }
        self.limit
    }

    /// Records whether there was something to do within the limit.
    pub(super) fn record(&mut self, in_time: bool) {
        self.last_skip = if in_time { 0 } else { (2 * self.last_skip + 1).min(MAX_SKIP) };
        self.skip = self.last_skip;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    /// In how many of the waits busy polling is attempted.
    fn attempts(busy: &mut BusyPoll, waits: usize, in_time: bool) -> usize {
        let attempted = |_: &usize| {
            let attempted = !busy.begin().is_zero();
            if attempted {
                busy.record(in_time);
            }
            attempted
        };
        (0..waits).filter(attempted).count()
    }

    #[test]
    fn short_waits_are_always_polled() {
        assert_eq!(attempts(&mut BusyPoll::new(LIMIT), 100, true), 100);
    }

    #[test]
    fn long_waits_are_seldom_polled() {
        let mut busy = BusyPoll::new(LIMIT);
        assert_eq!(attempts(&mut busy, 64, false), 6, "waits 0, 2, 6, 14, 30 and 62");
        assert_eq!(attempts(&mut busy, 6400, false), 100);
        assert!(attempts(&mut busy, 64 + 100, true) >= 100, "found out when they are short again");
    }

    #[test]
    fn a_limit_of_zero_never_polls_busily() {
        assert_eq!(attempts(&mut BusyPoll::new(Duration::ZERO), 100, true), 0);
    }
}
