//! How many of something there are, for as long as each of them lives.
//!
//! Of everybody together. `accounts.rs` counts by address and by identity.

use std::sync::{Arc, atomic::Ordering};

use crate::sync::AtomicUsize;

/// Counts what holds a [`CountGuard`], up to a limit. Nobody waits while the limit is reached.
#[derive(Debug)]
pub(crate) struct Count {
    value: AtomicUsize,
    max: usize,
}

/// Counts for one until it is dropped.
#[derive(Debug)]
pub(crate) struct CountGuard(Arc<Count>);

impl Count {
    pub(super) fn up_to(max: usize) -> Arc<Self> {
        Arc::new(Self { value: AtomicUsize::new(0), max })
    }

    /// Counts one more, unless the limit is reached.
    pub(super) fn add(self: &Arc<Self>) -> Option<CountGuard> {
        let below = |value: usize| (value < self.max).then_some(value + 1);
        self.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).ok()?;
        Some(CountGuard(Arc::clone(self)))
    }

    pub(super) fn value(&self) -> usize {
        self.value.load(Ordering::Relaxed)
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.value.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_stops_at_its_limit_and_falls_with_each_drop() {
        let count = Count::up_to(2);
        let (first, _second) = (count.add().unwrap(), count.add().unwrap());
        assert!(count.add().is_none());
        assert_eq!(count.value(), 2);
        drop(first);
        assert_eq!(count.value(), 1);
        assert!(count.add().is_some());
    }
}
