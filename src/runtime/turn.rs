//! How much runs in a row before what it wrote is sent.

use std::time::Duration;

/// The lengths of turns, of which each ends with sending.
///
/// Where all that is under way goes into one turn, each side of a connection waits while the other works. Where turns are short, packets
/// are empty. So turns grow while they leave something for the next: who has no rest has many peers, of which each has little in a turn.
/// After a rest, a turn takes no more than half of what ran since the rest before, so that the peer can work on the one half while this side
/// works on the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns {
    length: usize,
    /// What has run since the last rest.
    ran: usize,
}

const SHORTEST: usize = 4;
const LONGEST: usize = 128;

impl Turns {
    pub(crate) const fn new() -> Self {
        Self { length: SHORTEST, ran: 0 }
    }

    /// How much may run in the next turn.
    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// A turn is over, in which so much ran; and whether that was all there was.
    pub(crate) fn end(&mut self, ran: usize, all: bool) {
        self.ran = self.ran.saturating_add(ran);
        if !all {
            self.length = LONGEST.min(self.length + self.length / 4);
        }
    }

    /// There was nothing to do for so long, after so much time with something to do. It was a rest if others were waited for: the pauses
    /// of two sides that keep each other busy are short beside their work.
    pub(crate) fn pause(&mut self, pause: Duration, work: Duration) {
        if pause > work / 2 {
            self.length = self.length.min(SHORTEST.max(self.ran / 2));
            self.ran = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Duration = Duration::from_micros(100);
    const PAUSE: Duration = Duration::from_micros(40);
    const REST: Duration = Duration::from_micros(60);

    /// Runs so much, and returns the lengths of the turns that it took.
    fn run(turns: &mut Turns, total: usize) -> Vec<usize> {
        let (mut left, mut lengths) = (total, Vec::new());
        while left > 0 {
            let turn = turns.length().min(left);
            left -= turn;
            turns.end(turn, left == 0);
            lengths.push(turn);
        }
        lengths
    }

    #[test]
    fn turns_grow_up_to_a_limit() {
        let lengths = run(&mut Turns::new(), 2000);
        assert!(lengths.starts_with(&[4, 5, 6, 7, 8, 10, 12, 15, 18]), "{lengths:?}");
        assert_eq!(lengths.iter().max(), Some(&128));
    }

    #[test]
    fn what_all_went_into_one_turn_is_halved_after_a_rest() {
        let mut turns = Turns::new();
        run(&mut turns, 2000);
        turns.pause(REST, WORK);
        for (total, expected) in
            [(32, vec![32]), (32, vec![16, 16]), (8, vec![8]), (8, vec![4, 4]), (1, vec![1]), (6, vec![4, 2])]
        {
            assert_eq!(run(&mut turns, total), expected);
            turns.pause(REST, WORK);
        }
    }

    #[test]
    fn halves_are_not_halved_again_while_there_is_no_rest() {
        let mut turns = Turns::new();
        run(&mut turns, 2000);
        for _ in 0..2 {
            turns.pause(REST, WORK);
            run(&mut turns, 32);
        }
        for _ in 0..10 {
            assert_eq!(run(&mut turns, 16), [16]);
            turns.pause(PAUSE, WORK);
        }
    }
}
