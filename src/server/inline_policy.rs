//! When exchanges may run inline, and for how long in succession.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// An exchange that runs for longer without waiting delays the other streams of its connection. Exchanges
/// with small messages take a few microseconds, and a few tens if code and memory are not in the caches.
const MAX_INLINE_POLL: Duration = Duration::from_micros(100);
/// How many exchanges get tasks after one that ran for too long. The next one is then tried inline, so that a
/// handler which is always slow delays other streams once in 257 exchanges.
const SPAWN_COOLDOWN: u32 = 256;
/// After this time with exchanges in succession, their responses are sent and other tasks run. It suffices
/// for about a hundred small exchanges, and is short beside the round-trip time of most networks.
const MAX_INLINE_TIME: Duration = Duration::from_micros(250);

/// Decides whether the next exchange of a connection is polled inline.
///
/// Objective: a handler that computes for long without waiting delays the streams behind it only once in a
/// while, since other threads of the executor can serve those that have tasks.
#[derive(Debug, Default)]
pub(super) struct InlinePolicy {
    /// How many exchanges get tasks before the next is tried inline.
    to_spawn: AtomicU32,
}

impl InlinePolicy {
    pub(super) fn allows_inline(&self) -> bool {
        // Relaxed and not one step: an exchange that is recorded meanwhile may not count, and another will
        // come.
        let to_spawn = self.to_spawn.load(Ordering::Relaxed);
        if to_spawn > 0 {
            self.to_spawn.store(to_spawn - 1, Ordering::Relaxed);
        }
        to_spawn == 0
    }

    /// Takes into account how long one poll of an exchange took, inline or in a task.
    pub(super) fn record(&self, poll: Duration) {
        if poll > MAX_INLINE_POLL {
            self.to_spawn.store(SPAWN_COOLDOWN, Ordering::Relaxed);
        }
    }
}

/// The time since which exchanges have run inline, one after another.
///
/// Objective: other tasks on the thread, among them the one that sends, wait for at most [`MAX_INLINE_TIME`]
/// and one exchange.
#[derive(Debug)]
pub(super) struct InlineRun {
    began: Option<Instant>,
}

impl InlineRun {
    pub(super) const fn new() -> Self {
        Self { began: None }
    }

    /// An exchange begins, which may be the first.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began.get_or_insert(now);
    }

    pub(super) fn is_too_long(&self, now: Instant) -> bool {
        self.began.is_some_and(|began| now.saturating_duration_since(began) >= MAX_INLINE_TIME)
    }

    /// Other tasks get to run.
    pub(super) fn end(&mut self) {
        self.began = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_too_long_by_its_first_exchange() {
        let (mut run, start) = (InlineRun::new(), Instant::now());
        assert!(!run.is_too_long(start));
        run.begin(start);
        run.begin(start + MAX_INLINE_TIME / 2);
        assert!(!run.is_too_long(start + MAX_INLINE_TIME - Duration::from_micros(1)));
        assert!(run.is_too_long(start + MAX_INLINE_TIME));
        run.end();
        assert!(!run.is_too_long(start + MAX_INLINE_TIME));
        run.begin(start + MAX_INLINE_TIME);
        assert!(!run.is_too_long(start + MAX_INLINE_TIME), "a new one");
    }

    #[test]
    fn after_a_slow_exchange_others_get_tasks_for_a_while() {
        let policy = InlinePolicy::default();
        assert!(policy.allows_inline());
        policy.record(MAX_INLINE_POLL);
        assert!(policy.allows_inline(), "it was as quick as it had to be");
        policy.record(2 * MAX_INLINE_POLL);
        let spawned = (0..).take_while(|_| !policy.allows_inline()).count();
        assert_eq!(spawned, usize::try_from(SPAWN_COOLDOWN).unwrap());
    }
}
