//! How large the size of a method are, as far as is known.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The largest answer of late. Each smaller one takes a sixteenth off, so that one large answer does not
/// count for ever.
#[derive(Debug, Default)]
pub(crate) struct ResponseSize(AtomicUsize);

impl ResponseSize {
    /// How many bytes the next answer may have.
    pub(crate) fn expected(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn observe(&self, length: usize) {
        let expected = self.expected();
        let next = length.max(expected - expected / 16);
        // One that is observed at the same time may be lost, and another will come.
        if next != expected {
            self.0.store(next, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_large_of_late_is_expected_again() {
        let size = ResponseSize::default();
        assert_eq!(size.expected(), 0);
        size.observe(1600);
        size.observe(10);
        assert_eq!(size.expected(), 1500);
        for _ in 0..100 {
            size.observe(10);
        }
        assert!(size.expected() < 32, "{}", size.expected());
        size.observe(5000);
        assert_eq!(size.expected(), 5000);
    }
}
