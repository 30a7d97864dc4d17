//! How much runs in a row before what it wrote is sent.

use std::time::Duration;

/// The lengths of turns, of which each ends with sending.
///
/// Where turns are short, packets are empty. So turns grow while they leave something for the next: who has
/// no rest has many peers, of which each has little in a turn. Where all that is open goes into one
/// turn, each side of a connection may wait while the other works. Then, after a rest, a turn takes no more
/// than a part of what ran since the rest before, so that the peer can work on one part while this side works
/// on another. Parts cost packets, and gain nothing where the two sides share a processor, or where the way
/// between them is long; so how many there are is [tried out](Trial).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns {
    length: usize,
    /// What has run since the last rest, where work is done in parts.
    ran: usize,
    /// What has run since the last pause.
    lately: usize,
    trial: Trial,
}

const SHORTEST: usize = 4;
const LONGEST: usize = 128;

impl Turns {
    pub(crate) const fn new() -> Self {
        Self { length: SHORTEST, ran: 0, lately: 0, trial: Trial::new() }
    }

    /// How much may run in the next turn.
    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// A turn is over, in which so much ran; and whether that was all there was.
    pub(crate) fn end(&mut self, ran: usize, all: bool) {
        self.ran = self.ran.saturating_add(ran);
        self.lately = self.lately.saturating_add(ran);
        if !all {
            self.length = LONGEST.min(self.length + self.length / 4);
        }
    }

    /// There was nothing to do for so long, after so much time with something to do. It was a rest if others
    /// were waited for: the pauses of two sides that keep each other busy are short beside their work.
    pub(crate) fn pause(&mut self, pause: Duration, work: Duration) {
        let lately = std::mem::take(&mut self.lately);
        // One turn takes less than that, whichever way.
        if lately >= SHORTEST {
            self.trial.took(pause.saturating_add(work), lately);
        }
        if self.trial.parts == 1 {
            self.length = LONGEST;
        } else if pause > work / 2 {
            self.length = self.length.min(SHORTEST.max(self.ran / self.trial.parts));
            self.ran = 0;
        }
    }
}

/// Finds out in how many parts work is done soonest, by the time that a task takes, pauses included.
///
/// Now and then twice as many are tried for a while, or half as many; less often, the longer that changed
/// nothing.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// 1, 2 or 4.
    parts: usize,
    /// Of a task, in nanoseconds: a moving average, which none moves by more than a sixteenth.
    cost: u32,
    /// How many parts there were before the trial that goes on, and what a task took then.
    before: Option<(usize, u32)>,
    /// Whether the next trial is one of more parts, if there may be more.
    more: bool,
    /// Pauses to come in which nothing changes.
    left: u32,
    /// Pauses from a trial that changed nothing to the next.
    patience: u32,
}

const MOST_PARTS: usize = 4;
/// How many pauses a trial lasts.
const TRIAL: u32 = 32;
const MOST_PATIENCE: u32 = 32 * TRIAL;

impl Trial {
    const fn new() -> Self {
        Self { parts: 2, cost: 0, before: None, more: false, left: TRIAL, patience: TRIAL }
    }

    /// `tasks` took this long, with the pause that came after them.
    fn took(&mut self, time: Duration, tasks: usize) {
        let each = time / u32::try_from(tasks).unwrap_or(u32::MAX);
        let each = u32::try_from(each.as_nanos()).unwrap_or(u32::MAX);
        self.cost = match self.cost {
            0 => each,
            cost => cost - cost / 4 + each.clamp(cost - cost / 4, cost.saturating_add(cost / 4)) / 4,
        };
        self.left -= 1;
        if self.left == 0 {
            self.decide();
        }
    }

    fn decide(&mut self) {
        let Some((parts, cost)) = self.before.take() else {
            self.before = Some((self.parts, self.cost));
            self.parts = self.next();
            self.left = TRIAL;
            return;
        };
        let were_more = self.parts > parts;
        let (more, fewer) = if were_more { (self.cost, cost) } else { (cost, self.cost) };
        // More parts need more packets, and so have to be clearly quicker.
        if were_more == (more < fewer - fewer / 16) {
            self.patience = TRIAL;
        } else {
            (self.parts, self.cost) = (parts, cost);
            self.more = !self.more;
            self.patience = MOST_PATIENCE.min(2 * self.patience);
        }
        self.left = self.patience;
    }

    /// How many parts to try next.
    const fn next(&self) -> usize {
        if self.parts == 1 || (self.more && self.parts < MOST_PARTS) {
            2 * self.parts
        } else {
            self.parts / 2
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

    /// Runs batches of 32 tasks, and says how many of the last thousand took one turn, two and more. How long
    /// the peer had to be waited for and how long the work took may hang on that.
    fn batches(turns: &mut Turns, times: impl Fn(u64, usize) -> (Duration, Duration)) -> [usize; 3] {
        let mut counts = [0; 3];
        for batch in 0..5000 {
            let parts = run(turns, 32).len();
            let (pause, work) = times(batch, parts);
            turns.pause(pause, work);
            if batch >= 4000 {
                counts[(parts - 1).min(2)] += 1;
            }
        }
        counts
    }

    const fn two_are_quickest(_: u64, parts: usize) -> (Duration, Duration) {
        (if parts == 2 { REST } else { REST.saturating_mul(2) }, WORK)
    }

    /// A number below `bound`, without a pattern.
    const fn any(batch: u64, bound: u64) -> u64 {
        (batch.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % bound
    }

    #[test]
    fn as_many_parts_as_are_quickest() {
        let mut turns = Turns::new();
        let [_, two, _] = batches(&mut turns, two_are_quickest);
        assert!(two > 900, "{two}");
        let [one, ..] = batches(&mut turns, |_, _| (REST, WORK));
        assert!(one > 900, "not found out that parts gain nothing: {one}");
        let the_more_the_quicker =
            |_, parts: usize| (Duration::from_micros([160, 120, 90, 60][(parts - 1).min(3)]), WORK);
        let [.., more] = batches(&mut turns, the_more_the_quicker);
        assert!(more > 900, "not found out that more parts gain more: {more}");
        let [_, two, _] = batches(&mut turns, two_are_quickest);
        assert!(two > 900, "not found out that there are too many: {two}");
    }

    #[test]
    fn time_that_other_programs_took_changes_nothing() {
        let disturbed = |batch, parts| match (any(batch, 10), two_are_quickest(batch, parts)) {
            (0, (pause, work)) => (pause, 40 * work),
            (1, (pause, work)) => (40 * pause, work),
            (_, times) => times,
        };
        let [_, two, _] = batches(&mut Turns::new(), disturbed);
        assert!(two > 900, "{two}");
    }

    #[test]
    fn a_peer_that_is_far_away_gets_all_at_once() {
        let mut turns = Turns::new();
        let far = |batch, _| (Duration::from_millis(10 + any(batch, 30)), WORK);
        let [one, ..] = batches(&mut turns, far);
        assert!(one > 900, "{one}");
        for total in [4, 100] {
            assert_eq!(run(&mut turns, total).len(), 1, "however much it is");
            turns.pause(REST, WORK);
        }
    }

    #[test]
    fn one_at_a_time_is_no_trial() {
        let mut turns = Turns::new();
        for _ in 0..1000 {
            run(&mut turns, 1);
            turns.pause(REST, WORK);
        }
        assert_eq!(turns.trial.left, TRIAL);
    }
}
