//! How large the answers of a method are, as far as is known.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The largest answer of late. Each smaller one takes a sixteenth off, so that one large answer does not
/// count for ever.
#[derive(Debug, Default)]
pub(crate) struct Answers(AtomicUsize);

impl Answers {
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
        let answers = Answers::default();
        assert_eq!(answers.expected(), 0);
        answers.observe(1600);
        answers.observe(10);
        assert_eq!(answers.expected(), 1500);
        for _ in 0..100 {
            answers.observe(10);
        }
        assert!(answers.expected() < 32, "{}", answers.expected());
        answers.observe(5000);
        assert_eq!(answers.expected(), 5000);
    }
}
