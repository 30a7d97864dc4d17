//! The clock in which a log measures the ages of its events.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

#[cfg(feature = "durable")]
use super::event_store::Clocks;

/// No machine that keeps a log is switched off for longer. A wall clock that has advanced further since the
/// log was last written is wrong now, or was wrong then.
#[cfg(feature = "durable")]
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Advances only with time that certainly passed, so that no event is discarded early because somebody set
/// the wall clock: with the monotonic clock while the log is open, and by what the wall clock advanced
/// while it was not.
#[derive(Clone)]
pub(super) struct LogClock {
    read: ReadClocks,
    opened: Instant,
    /// What this clock showed when the log was opened.
    base: Duration,
}

/// The monotonic clock, and the wall clock since 1970.
pub(super) type ReadClocks = Arc<dyn Fn() -> (Instant, Duration) + Send + Sync>;

impl LogClock {
    /// The clock of a log that begins now.
    pub(super) fn starting(read: ReadClocks) -> Self {
        let (opened, wall) = read();
        Self { read, opened, base: wall }
    }

    /// The clock of a log that was last written at `last`.
    #[cfg(feature = "durable")]
    pub(super) fn resuming(read: ReadClocks, last: Clocks) -> Self {
        let (opened, wall) = read();
        let pause = wall.saturating_sub(last.wall);
        let pause = if pause <= LONGEST_PAUSE { pause } else { Duration::ZERO };
        Self { read, opened, base: last.log.saturating_add(pause) }
    }

    pub(super) fn now(&self) -> Duration {
        self.at((self.read)().0)
    }

    #[cfg(feature = "durable")]
    pub(super) fn clocks(&self) -> Clocks {
        let (now, wall) = (self.read)();
        Clocks { log: self.at(now), wall }
    }

    fn at(&self, now: Instant) -> Duration {
        self.base.saturating_add(now.saturating_duration_since(self.opened))
    }
}

/// Reads the clocks of the system.
pub(super) fn system_clocks(monotonic: impl Fn() -> Instant + Send + Sync + 'static) -> ReadClocks {
    Arc::new(move || {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (monotonic(), wall)
    })
}

impl fmt::Debug for LogClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogClock").field("base", &self.base).finish_non_exhaustive()
    }
}

#[cfg(feature = "durable")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Mutex, lock};

    const HOUR: Duration = Duration::from_secs(3600);
    const IN_2026: Duration = Duration::from_secs(1_780_000_000);

    /// Clocks that the test sets.
    #[derive(Clone)]
    struct Set(Arc<Mutex<(Instant, Duration)>>);

    impl Set {
        fn at(wall: Duration) -> Self {
            Self(Arc::new(Mutex::new((Instant::now(), wall))))
        }

        fn read(&self) -> ReadClocks {
            let clocks = Arc::clone(&self.0);
            Arc::new(move || *lock(&clocks))
        }

        fn pass(&self, time: Duration) {
            let mut clocks = lock(&self.0);
            clocks.0 += time;
            clocks.1 += time;
        }

        fn set_wall(&self, wall: Duration) {
            lock(&self.0).1 = wall;
        }
    }

    #[test]
    fn a_wall_clock_that_jumps_while_the_log_is_open_changes_no_age() {
        let clocks = Set::at(IN_2026);
        let log = LogClock::starting(clocks.read());
        let published = log.now();
        clocks.pass(HOUR);
        for wall in [IN_2026 + 2 * HOUR, IN_2026 - HOUR, Duration::ZERO] {
            clocks.set_wall(wall);
            assert_eq!(log.now() - published, HOUR, "{wall:?}");
            assert_eq!(log.clocks(), Clocks { log: published + HOUR, wall });
        }
    }

    #[test]
    fn a_log_that_was_closed_ages_by_the_wall_clock() {
        let last = Clocks { log: IN_2026 + HOUR, wall: IN_2026 };
        let log = LogClock::resuming(Set::at(IN_2026 + HOUR).read(), last);
        assert_eq!(log.now(), last.log + HOUR);
    }

    /// A machine without a battery for its clock boots in 1970, and is set by the network later.
    #[test]
    fn a_boot_in_1970_ages_nothing() {
        let last = Clocks { log: IN_2026, wall: IN_2026 };
        let clocks = Set::at(Duration::from_secs(30));
        let log = LogClock::resuming(clocks.read(), last);
        assert_eq!(log.now(), last.log);
        clocks.set_wall(IN_2026 + HOUR);
        assert_eq!(log.now(), last.log);
        // And the other way round: what was written in 1970 is not 56 years old.
        let last = log.clocks();
        let in_1970 = Clocks { wall: Duration::from_secs(30), ..last };
        assert_eq!(LogClock::resuming(clocks.read(), in_1970).now(), last.log);
    }

    #[test]
    fn events_from_the_future_do_not_overflow() {
        let last = Clocks { log: Duration::MAX, wall: Duration::MAX };
        let clocks = Set::at(IN_2026);
        let log = LogClock::resuming(clocks.read(), last);
        clocks.pass(HOUR);
        assert_eq!(log.now(), Duration::MAX);
    }
}
