//! How much runs before what it wrote is sent.

use std::time::Duration;

/// Decides how many exchanges or tasks are one batch. What they wrote is sent when the batch ends.
///
/// Objectives: packets are full, since a packet costs more than a small message in it; and the peer has work
/// while this side works.
///
/// - A batch that leaves something for the next makes the next one larger by a quarter, up to [`MAX_SIZE`]. A
///   node that is never idle for long has many peers, and small batches would send nearly empty packets.
/// - If all that is open went into one batch, each side of a connection might have to wait while the other
///   works. So after a long idle phase, a batch takes at most one of two or four equal parts of what ran
///   since the long idle phase before: the peer works on one part while this side works on another. Splits
///   cost packets, and gain nothing if the two sides share a processor or the path between them is long;
///   [`SplitProbe`] finds out how many there should be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchSizer {
    size: usize,
    /// How much has run since the last long idle phase, while work is split.
    since_long_idle: usize,
    /// How much has run since the last idle phase, however short.
    since_idle: usize,
    probe: SplitProbe,
}

/// As few small messages fill a packet of 1,200 bytes by half.
const MIN_SIZE: usize = 4;
/// As much as [`PollRuntime`](super::PollRuntime) runs before it looks at its sockets.
const MAX_SIZE: usize = 128;

impl BatchSizer {
    pub(crate) const fn new() -> Self {
        Self { size: MIN_SIZE, since_long_idle: 0, since_idle: 0, probe: SplitProbe::new() }
    }

    /// How much may run in the next batch.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// A batch has ended, in which `ran` exchanges or tasks ran. `grow` if a larger one would have run more.
    pub(crate) fn end_batch(&mut self, ran: usize, grow: bool) {
        self.since_long_idle = self.since_long_idle.saturating_add(ran);
        self.since_idle = self.since_idle.saturating_add(ran);
        if grow {
            self.size = MAX_SIZE.min(self.size + self.size / 4);
        }
    }

    /// There was nothing to do for `idle`, after `busy` with something to do. The idle phase is a long one
    /// if it is more than half of the busy one: then this side has waited for the peer. If two sides keep
    /// each other busy, idle phases are short.
    pub(crate) fn record_idle(&mut self, idle: Duration, busy: Duration) {
        let ran = std::mem::take(&mut self.since_idle);
        // Less than that is one batch however it is split.
        if ran >= MIN_SIZE {
            self.probe.record(idle.saturating_add(busy), ran);
        }
        if self.probe.splits == 1 {
            self.size = MAX_SIZE;
        } else if idle > busy / 2 {
            self.size = self.size.min(MIN_SIZE.max(self.since_long_idle / self.probe.splits));
            self.since_long_idle = 0;
        }
    }
}

/// Finds out into how many batches work has to be split to be done soonest, by the time that an exchange or
/// task takes, idle phases included.
///
/// Now and then, it tries twice or half as many splits for [`PROBE_LENGTH`] idle phases. The interval between
/// probes doubles each time that a probe changes nothing.
#[derive(Clone, Copy, Debug)]
struct SplitProbe {
    /// 1, 2 or 4.
    splits: usize,
    /// Nanoseconds of an exchange or task: a moving average, which none moves by more than a sixteenth.
    cost: u32,
    /// During a probe: the splits before it, and their cost.
    before: Option<(usize, u32)>,
    /// Whether the next probe is one of more splits, if there may be more.
    try_more: bool,
    /// Idle phases until the probe begins or ends.
    remaining: u32,
    /// Idle phases from a probe that changed nothing to the next.
    probe_interval: u32,
}

const MAX_SPLITS: usize = 4;
/// Idle phases that a probe lasts, and the first interval between two.
const PROBE_LENGTH: u32 = 32;
const MAX_PROBE_INTERVAL: u32 = 32 * PROBE_LENGTH;

impl SplitProbe {
    const fn new() -> Self {
        Self {
            splits: 2,
            cost: 0,
            before: None,
            try_more: false,
            remaining: PROBE_LENGTH,
            probe_interval: PROBE_LENGTH,
        }
    }

    /// Takes into account that `count` exchanges or tasks took `time`, with the idle phase after them.
    fn record(&mut self, time: Duration, count: usize) {
        let each = time / u32::try_from(count).unwrap_or(u32::MAX);
        let each = u32::try_from(each.as_nanos()).unwrap_or(u32::MAX);
        self.cost = match self.cost {
            0 => each,
            cost => cost - cost / 4 + each.clamp(cost - cost / 4, cost.saturating_add(cost / 4)) / 4,
        };
        self.remaining -= 1;
        if self.remaining == 0 {
            self.begin_or_end_probe();
        }
    }

    fn begin_or_end_probe(&mut self) {
        let Some((splits, cost)) = self.before.take() else {
            self.before = Some((self.splits, self.cost));
            self.splits = self.splits_to_try();
            self.remaining = PROBE_LENGTH;
            return;
        };
        let tried_more = self.splits > splits;
        let (more, fewer) = if tried_more { (self.cost, cost) } else { (cost, self.cost) };
        // More splits need more packets, so they have to be faster by more than a sixteenth.
        if tried_more == (more < fewer - fewer / 16) {
            self.probe_interval = PROBE_LENGTH;
        } else {
            (self.splits, self.cost) = (splits, cost);
            self.try_more = !self.try_more;
            self.probe_interval = MAX_PROBE_INTERVAL.min(2 * self.probe_interval);
        }
        self.remaining = self.probe_interval;
    }

    const fn splits_to_try(&self) -> usize {
        if self.splits == 1 || (self.try_more && self.splits < MAX_SPLITS) {
            2 * self.splits
        } else {
            self.splits / 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Duration = Duration::from_micros(100);
    const SHORT_IDLE: Duration = Duration::from_micros(40);
    const LONG_IDLE: Duration = Duration::from_micros(60);

    /// Runs `total` tasks, and returns the sizes of the batches.
    fn run(sizer: &mut BatchSizer, total: usize) -> Vec<usize> {
        let (mut left, mut sizes) = (total, Vec::new());
        while left > 0 {
            let batch = sizer.size().min(left);
            left -= batch;
            sizer.end_batch(batch, left > 0);
            sizes.push(batch);
        }
        sizes
    }

    #[test]
    fn batches_grow_up_to_a_limit() {
        let sizes = run(&mut BatchSizer::new(), 2000);
        assert!(sizes.starts_with(&[4, 5, 6, 7, 8, 10, 12, 15, 18]), "{sizes:?}");
        assert_eq!(sizes.iter().max(), Some(&128));
    }

    #[test]
    fn what_went_into_one_batch_is_halved_after_a_long_idle_phase() {
        let mut sizer = BatchSizer::new();
        run(&mut sizer, 2000);
        sizer.record_idle(LONG_IDLE, BUSY);
        for (total, expected) in
            [(32, vec![32]), (32, vec![16, 16]), (8, vec![8]), (8, vec![4, 4]), (1, vec![1]), (6, vec![4, 2])]
        {
            assert_eq!(run(&mut sizer, total), expected);
            sizer.record_idle(LONG_IDLE, BUSY);
        }
    }

    #[test]
    fn halves_are_not_halved_again_without_a_long_idle_phase() {
        let mut sizer = BatchSizer::new();
        run(&mut sizer, 2000);
        for _ in 0..2 {
            sizer.record_idle(LONG_IDLE, BUSY);
            run(&mut sizer, 32);
        }
        for _ in 0..10 {
            assert_eq!(run(&mut sizer, 16), [16]);
            sizer.record_idle(SHORT_IDLE, BUSY);
        }
    }

    /// Runs 32 tasks again and again, and returns how many of the last thousand times they took one batch,
    /// two and more. The idle and busy times may depend on that.
    fn batches(sizer: &mut BatchSizer, times: impl Fn(u64, usize) -> (Duration, Duration)) -> [usize; 3] {
        let mut counts = [0; 3];
        for batch in 0..5000 {
            let splits = run(sizer, 32).len();
            let (idle, busy) = times(batch, splits);
            sizer.record_idle(idle, busy);
            if batch >= 4000 {
                counts[(splits - 1).min(2)] += 1;
            }
        }
        counts
    }

    const fn two_are_quickest(_: u64, splits: usize) -> (Duration, Duration) {
        (if splits == 2 { LONG_IDLE } else { LONG_IDLE.saturating_mul(2) }, BUSY)
    }

    /// A number below `bound`, without a pattern.
    const fn any(batch: u64, bound: u64) -> u64 {
        (batch.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % bound
    }

    #[test]
    fn the_probe_finds_the_fastest_number_of_splits() {
        let mut sizer = BatchSizer::new();
        let [_, two, _] = batches(&mut sizer, two_are_quickest);
        assert!(two > 900, "{two}");
        let [one, ..] = batches(&mut sizer, |_, _| (LONG_IDLE, BUSY));
        assert!(one > 900, "not found out that splits gain nothing: {one}");
        let the_more_the_quicker =
            |_, splits: usize| (Duration::from_micros([160, 120, 90, 60][(splits - 1).min(3)]), BUSY);
        let [.., more] = batches(&mut sizer, the_more_the_quicker);
        assert!(more > 900, "not found out that more splits gain more: {more}");
        let [_, two, _] = batches(&mut sizer, two_are_quickest);
        assert!(two > 900, "not found out that there are too many: {two}");
    }

    #[test]
    fn time_that_other_programs_took_changes_nothing() {
        let disturbed = |batch, splits| match (any(batch, 10), two_are_quickest(batch, splits)) {
            (0, (idle, busy)) => (idle, 40 * busy),
            (1, (idle, busy)) => (40 * idle, busy),
            (_, times) => times,
        };
        let [_, two, _] = batches(&mut BatchSizer::new(), disturbed);
        assert!(two > 900, "{two}");
    }

    #[test]
    fn a_peer_that_is_far_away_gets_everything_in_one_batch() {
        let mut sizer = BatchSizer::new();
        let far = |batch, _| (Duration::from_millis(10 + any(batch, 30)), BUSY);
        let [one, ..] = batches(&mut sizer, far);
        assert!(one > 900, "{one}");
        for total in [4, 100] {
            assert_eq!(run(&mut sizer, total).len(), 1, "however much it is");
            sizer.record_idle(LONG_IDLE, BUSY);
        }
    }

    #[test]
    fn one_exchange_at_a_time_is_no_probe() {
        let mut sizer = BatchSizer::new();
        for _ in 0..1000 {
            run(&mut sizer, 1);
            sizer.record_idle(LONG_IDLE, BUSY);
        }
        assert_eq!(sizer.probe.remaining, PROBE_LENGTH);
    }
}
