//! When to look again and again instead of sleeping.

use std::time::Duration;

/// Decides before each wait, by how the last ones went.
///
/// Waits alike come in a row: those of a call at a time are as long as the peer takes, those of a node at
/// leisure are long. So after one that was too long, looking again is put off for a while, each time for
/// twice as many waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Busy {
    patience: Duration,
    /// Waits to sleep through before the next try.
    put_off: u32,
    /// The same, after the last try.
    puts_off: u32,
}

/// One wait in this many is tried where none is short enough.
const RAREST: u32 = 64;

impl Busy {
    pub(super) const fn new(patience: Duration) -> Self {
        Self { patience, put_off: 0, puts_off: 0 }
    }

    /// How long to look again and again in the wait that begins; zero where sleeping is better.
    pub(super) const fn begin(&mut self) -> Duration {
        if self.put_off > 0 {
            self.put_off -= 1;
            return Duration::ZERO;
        }
        self.patience
    }

    /// Whether there was something to do before patience ran out.
    pub(super) fn end(&mut self, in_time: bool) {
        self.puts_off = if in_time { 0 } else { (2 * self.puts_off + 1).min(RAREST - 1) };
        self.put_off = self.puts_off;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_micros(50);

    /// How many waits in a round are tried.
    fn tries(busy: &mut Busy, waits: usize, in_time: bool) -> usize {
        let tried = |_: &usize| {
            let tried = !busy.begin().is_zero();
            if tried {
                busy.end(in_time);
            }
            tried
        };
        (0..waits).filter(tried).count()
    }

    #[test]
    fn short_waits_are_always_tried() {
        assert_eq!(tries(&mut Busy::new(PATIENCE), 100, true), 100);
    }

    #[test]
    fn long_waits_are_seldom_tried() {
        let mut busy = Busy::new(PATIENCE);
        assert_eq!(tries(&mut busy, 64, false), 6, "waits 0, 2, 6, 14, 30 and 62");
        assert_eq!(tries(&mut busy, 6400, false), 100);
        assert!(tries(&mut busy, 64 + 100, true) >= 100, "and found out when they are short again");
    }

    #[test]
    fn without_patience_nothing_is_tried() {
        assert_eq!(tries(&mut Busy::new(Duration::ZERO), 100, true), 0);
    }
}
