//! What time it is, for devices that do not know when they boot.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

use crate::sync::AtomicU64;

/// When this crate was built, in seconds since 1970, as `build.rs` wrote it down.
const BUILT: u64 = seconds(env!("PALYRA_QUIC_BUILT"));

/// The time of day against which certificates are checked, at both ends of every connection of an endpoint.
///
/// A small board wakes up in 1970, and would take every certificate for one from the future. So a clock has a
/// floor, below which it never shows: the time at which this crate was built, or the latest that
/// [`raise_floor`](Self::raise_floor) was given. To get nearer than that, store [`now`](Self::now) from time
/// to time and give it back as the [`floor`](Self::floor) at the next start. The floor does not move by
/// itself: a clock that was wrong for a moment is right again when it is set.
///
/// Cloning gives another handle to the same clock. Default: [`system`](Self::system).
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use palyra_quic::WallClock;
///
/// let clock = WallClock::from_fn(|| Some(SystemTime::UNIX_EPOCH));
/// let built = clock.now().unwrap();
///
/// let stored = built + Duration::from_secs(60);
/// clock.raise_floor(stored);
/// assert_eq!(clock.now(), Some(stored));
///
/// let broken = WallClock::from_fn(|| None);
/// assert_eq!(broken.now(), None);
/// ```
#[derive(Clone)]
pub struct WallClock {
    shared: Arc<Shared>,
}

struct Shared {
    source: ClockSource,
    /// Seconds since 1970.
    floor: AtomicU64,
    failing: AtomicBool,
}

type Read = dyn Fn() -> Option<SystemTime> + Send + Sync;

enum ClockSource {
    System,
    Hardware(Box<Read>),
}

impl WallClock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::reading(ClockSource::System)
    }

    /// A clock of the caller's, for instance one of hardware. It is read in every handshake, and must not
    /// block.
    ///
    /// `None` says that the clock has failed. Then no handshake succeeds, whichever side began it, until it
    /// is well again: a certificate cannot be checked without a time. Connections that are open stay.
    #[must_use]
    pub fn from_fn(read: impl Fn() -> Option<SystemTime> + Send + Sync + 'static) -> Self {
        Self::reading(ClockSource::Hardware(Box::new(read)))
    }

    fn reading(source: ClockSource) -> Self {
        let shared = Shared { source, floor: AtomicU64::new(BUILT), failing: AtomicBool::new(false) };
        Self { shared: Arc::new(shared) }
    }

    /// Never shows an earlier time than this, in whole seconds. An earlier one than the present floor changes
    /// nothing.
    #[must_use]
    pub fn floor(self, floor: SystemTime) -> Self {
        self.raise_floor(floor);
        self
    }

    /// Raises the floor of a clock that is in use, for instance to the time that a trusted peer told. An
    /// earlier time changes nothing.
    pub fn raise_floor(&self, floor: SystemTime) {
        self.shared.floor.fetch_max(since_1970(floor).as_secs(), Ordering::Relaxed);
    }

    /// What time it is, no earlier than the floor; `None` where the clock has failed.
    #[must_use]
    pub fn now(&self) -> Option<SystemTime> {
        let read = match &self.shared.source {
            ClockSource::System => Some(SystemTime::now()),
            ClockSource::Hardware(read) => read(),
        };
        // Peers can have the clock read as often as they like; the log is to hear of it once.
        let failed_before = self.shared.failing.swap(read.is_none(), Ordering::Relaxed);
        if read.is_none() && !failed_before {
            tracing::warn!("the wall clock has failed: no handshake succeeds until it is well again");
        }
        let floor = Duration::from_secs(self.shared.floor.load(Ordering::Relaxed));
        Some(read?.max(UNIX_EPOCH.checked_add(floor)?))
    }

    /// The same, as certificates have it.
    pub(crate) fn unix_time(&self) -> Option<UnixTime> {
        self.now().map(|now| UnixTime::since_unix_epoch(since_1970(now)))
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::system()
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        self.unix_time()
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { source, floor, failing } = &*self.shared;
        let source = match source {
            ClockSource::System => "the system's clock",
            ClockSource::Hardware(_) => "the caller's clock",
        };
        f.debug_struct("WallClock")
            .field("source", &source)
            .field("floor", &floor.load(Ordering::Relaxed))
            .field("failing", &failing.load(Ordering::Relaxed))
            .finish()
    }
}

/// Times before 1970 count as 1970.
fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Reads a number while compiling, and fails there if it is none.
const fn seconds(digits: &str) -> u64 {
    match u64::from_str_radix(digits, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic!("the build script writes a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn built() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(BUILT)
    }

    #[test]
    fn no_clock_shows_a_time_before_the_floor() {
        let clock = WallClock::from_fn(|| Some(UNIX_EPOCH - HOUR));
        assert_eq!(clock.now(), Some(built()));
        let stored = built() + HOUR;
        clock.raise_floor(stored);
        clock.raise_floor(built());
        assert_eq!(clock.now(), Some(stored), "a floor is never lowered");
        assert_eq!(clock.unix_time().unwrap().as_secs(), BUILT + 3600);
    }

    #[test]
    fn above_the_floor_a_clock_may_go_back() {
        let ahead = Arc::new(AtomicBool::new(true));
        let read = Arc::clone(&ahead);
        let clock = WallClock::from_fn(move || {
            Some(built() + if read.load(Ordering::Relaxed) { 1000 * HOUR } else { HOUR })
        });
        assert_eq!(clock.now(), Some(built() + 1000 * HOUR));
        ahead.store(false, Ordering::Relaxed);
        assert_eq!(clock.now(), Some(built() + HOUR));
    }

    #[test]
    fn a_failed_clock_shows_nothing_and_says_so() {
        let clock = WallClock::from_fn(|| None).floor(built() + HOUR);
        assert_eq!((clock.now(), clock.current_time()), (None, None));
        assert!(format!("{clock:?}").contains("failing: true"));
        assert!(WallClock::system().now().is_some());
    }
}
