//! One direction between two hosts: delay, loss and other effects on datagrams.

use std::time::{Duration, Instant};

use fastrand::Rng;

/// What happens to datagrams on their way from one host to another.
///
/// Probabilities are between 0 and 1, and hold for each datagram by itself. The default is perfect.
///
/// ```
/// use std::time::Duration;
/// use palyra_quic::sim::Link;
///
/// // A satellite on a rainy day.
/// let link = Link::new()
///     .delay(Duration::from_millis(300))
///     .jitter(Duration::from_millis(40))
///     .rate(1_000_000)
///     .queue(64 * 1024)
///     .loss_in_bursts(0.02, 3);
/// # drop(link);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a link does nothing until it is set"]
pub struct Link {
    delay: Duration,
    jitter: Duration,
    rate: Option<u64>,
    queue: Option<usize>,
    mtu: Option<usize>,
    loss: f64,
    burst: u32,
    most_lost_in_a_row: Option<u32>,
    corruption: f64,
    duplication: f64,
    reordering: f64,
    reordering_delay: Duration,
    blackhole: Option<(Duration, Duration)>,
    down: bool,
}

impl Link {
    /// A perfect link.
    pub fn new() -> Self {
        Self { burst: 1, ..Self::default() }
    }

    /// How long every datagram is in flight. Default: no time.
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Up to how much longer a datagram is in flight, by chance. Alone it reorders nothing. Default: none.
    pub fn jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// Bits per second. Datagrams beyond this rate queue. Default: no limit.
    pub fn rate(self, bits_per_second: u64) -> Self {
        Self { rate: Some(bits_per_second.max(1)), ..self }
    }

    /// How many bytes may queue for a link with a [`rate`](Self::rate). Datagrams that do not fit are lost.
    /// Default: no limit.
    pub fn queue(self, bytes: usize) -> Self {
        Self { queue: Some(bytes), ..self }
    }

    /// The longest UDP payload that passes, in bytes; longer ones are lost. Default: no limit.
    pub fn mtu(self, bytes: usize) -> Self {
        Self { mtu: Some(bytes), ..self }
    }

    /// The probability to be lost. Default: 0.
    pub fn loss(self, probability: f64) -> Self {
        self.loss_in_bursts(probability, 1)
    }

    /// Loses `length` datagrams in a row at a time, so rarely that `probability` of all are lost.
    pub fn loss_in_bursts(self, probability: f64, length: u32) -> Self {
        Self { loss: probability, burst: length.max(1), ..self }
    }

    /// Lets a datagram pass after this many that were lost in a row. Default: no limit.
    pub fn most_lost_in_a_row(self, count: u32) -> Self {
        Self { most_lost_in_a_row: Some(count), ..self }
    }

    /// The probability that a bit is flipped. Default: 0.
    pub fn corruption(self, probability: f64) -> Self {
        Self { corruption: probability, ..self }
    }

    /// The probability to arrive twice. Default: 0.
    pub fn duplication(self, probability: f64) -> Self {
        Self { duplication: probability, ..self }
    }

    /// The probability to be held back for `delay`, so that later ones overtake. Default: 0.
    pub fn reordering(self, probability: f64, delay: Duration) -> Self {
        Self { reordering: probability, reordering_delay: delay, ..self }
    }

    /// Passes everything for `on`, nothing for `off`, and so forth, from the beginning of the simulation.
    /// Default: always on.
    pub fn blackhole(self, on: Duration, off: Duration) -> Self {
        Self { blackhole: Some((on, off)), ..self }
    }

    /// Passes nothing.
    pub fn down(self) -> Self {
        Self { down: true, ..self }
    }

    fn swallows(&self, age: Duration) -> bool {
        let in_the_hole = |(on, off): (Duration, Duration)| {
            let period = (on + off).as_nanos();
            period > 0 && age.as_nanos() % period >= on.as_nanos()
        };
        self.down || self.blackhole.is_some_and(in_the_hole)
    }
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    /// It did not fit the queue or the MTU.
    Refused,
    Passed {
        at: Instant,
        again_at: Option<Instant>,
        flipped_bit: Option<usize>,
    },
}

/// What a direction remembers of the datagrams so far.
#[derive(Debug)]
pub(super) struct Traffic {
    busy_until: Instant,
    last_arrival: Instant,
    burst_left: u32,
    lost_in_a_row: u32,
}

impl Traffic {
    pub(super) fn new(start: Instant) -> Self {
        Self { busy_until: start, last_arrival: start, burst_left: 0, lost_in_a_row: 0 }
    }

    /// Sends `bytes` bytes at `now`, in a simulation that began at `start`.
    pub(super) fn pass(
        &mut self,
        link: &Link,
        (start, now): (Instant, Instant),
        bytes: usize,
        rng: &mut Rng,
    ) -> Fate {
        if link.mtu.is_some_and(|mtu| bytes > mtu) {
            return Fate::Refused;
        }
        let Some(departure) = self.depart(link, now, bytes) else {
            return Fate::Refused;
        };
        if link.swallows(now - start) || self.loses(link, rng) {
            return Fate::Lost;
        }
        let at = self.arrive(link, departure, rng);
        let again_at = chance(rng, link.duplication).then(|| self.arrive(link, departure, rng));
        let flipped_bit = (bytes > 0 && chance(rng, link.corruption)).then(|| rng.usize(..bytes * 8));
        Fate::Passed { at, again_at, flipped_bit }
    }

    /// When the last bit leaves; `None` where the queue is full.
    fn depart(&mut self, link: &Link, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate) = link.rate else { return Some(now) };
        let waiting = self.busy_until.saturating_duration_since(now);
        let queued = waiting.as_nanos() * u128::from(rate) / (8 * NANOS);
        let size = u128::try_from(bytes).unwrap_or(u128::MAX);
        if link.queue.is_some_and(|limit| queued + size > u128::try_from(limit).unwrap_or(u128::MAX)) {
            return None;
        }
        let takes = u64::try_from(size * 8 * NANOS / u128::from(rate)).unwrap_or(u64::MAX);
        self.busy_until = now + waiting + Duration::from_nanos(takes);
        Some(self.busy_until)
    }

    fn loses(&mut self, link: &Link, rng: &mut Rng) -> bool {
        if self.burst_left == 0 && chance(rng, link.loss / f64::from(link.burst)) {
            self.burst_left = link.burst;
        }
        let spared = link.most_lost_in_a_row.is_some_and(|most| self.lost_in_a_row >= most);
        let lost = self.burst_left > 0 && !spared;
        self.burst_left = self.burst_left.saturating_sub(1);
        self.lost_in_a_row = if lost { self.lost_in_a_row + 1 } else { 0 };
        lost
    }

    fn arrive(&mut self, link: &Link, departure: Instant, rng: &mut Rng) -> Instant {
        let at = departure + link.delay + link.jitter.mul_f64(rng.f64());
        if chance(rng, link.reordering) {
            return at + link.reordering_delay;
        }
        self.last_arrival = self.last_arrival.max(at);
        self.last_arrival
    }
}

const NANOS: u128 = 1_000_000_000;

fn chance(rng: &mut Rng, probability: f64) -> bool {
    probability > 0.0 && rng.f64() < probability
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// The fates of `count` datagrams of 1,000 bytes, `every` apart.
    fn fates(link: &Link, count: u32, every: Duration) -> (Instant, Vec<Fate>) {
        let start = Instant::now();
        let (mut traffic, mut rng) = (Traffic::new(start), Rng::with_seed(1));
        let fates =
            (0..count).map(|n| traffic.pass(link, (start, start + every * n), 1000, &mut rng)).collect();
        (start, fates)
    }

    fn lost(fates: &[Fate]) -> usize {
        fates.iter().filter(|fate| **fate == Fate::Lost).count()
    }

    fn arrivals(fates: &[Fate]) -> Vec<Instant> {
        let passed = fates.iter().filter_map(|fate| match fate {
            Fate::Passed { at, .. } => Some(*at),
            Fate::Lost | Fate::Refused => None,
        });
        passed.collect()
    }

    #[test]
    fn a_perfect_link_changes_nothing() {
        let (start, fates) = fates(&Link::new(), 10, MILLI);
        for (n, fate) in (0..).zip(fates) {
            assert_eq!(fate, Fate::Passed { at: start + n * MILLI, again_at: None, flipped_bit: None });
        }
    }

    #[test]
    fn a_rate_spaces_datagrams_and_a_full_queue_refuses_them() {
        // A thousand bytes take a millisecond.
        let link = Link::new().rate(8_000_000).queue(3000);
        let (start, fates) = fates(&link, 5, Duration::ZERO);
        assert_eq!(arrivals(&fates), [1, 2, 3].map(|n| start + n * MILLI));
        assert_eq!(fates[3..], [Fate::Refused, Fate::Refused]);
    }

    #[test]
    fn loss_is_as_frequent_as_it_should_be() {
        for link in [Link::new().loss(0.3), Link::new().loss_in_bursts(0.3, 3)] {
            let lost = lost(&fates(&link, 10_000, MILLI).1);
            assert!((2000..4000).contains(&lost), "{lost} of 10,000");
        }
    }

    #[test]
    fn losses_come_in_bursts_of_the_length_asked_for_and_no_longer_than_allowed() {
        let runs = |link: &Link| -> Vec<usize> {
            let fates = fates(link, 10_000, MILLI).1;
            fates.split(|fate| *fate != Fate::Lost).map(<[Fate]>::len).filter(|run| *run > 0).collect()
        };
        let bursts = runs(&Link::new().loss_in_bursts(0.1, 3));
        assert!(bursts.iter().all(|run| run % 3 == 0) && bursts.len() > 100);
        assert!(runs(&Link::new().loss(0.6)).iter().any(|run| *run > 3));
        assert!(runs(&Link::new().loss(0.6).most_lost_in_a_row(3)).iter().all(|run| *run <= 3));
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let ordered = |link: Link| arrivals(&fates(&link, 1000, MILLI).1).is_sorted();
        assert!(ordered(Link::new().jitter(50 * MILLI)));
        assert!(!ordered(Link::new().reordering(0.1, 50 * MILLI)));
    }

    #[test]
    fn what_is_too_long_for_the_mtu_is_refused() {
        assert_eq!(fates(&Link::new().mtu(999), 1, MILLI).1, [Fate::Refused]);
        assert_ne!(fates(&Link::new().mtu(1000), 1, MILLI).1, [Fate::Refused]);
    }

    #[test]
    fn a_blackhole_swallows_everything_for_its_time() {
        let fates = fates(&Link::new().blackhole(5 * MILLI, 2 * MILLI), 14, MILLI).1;
        let swallowed: Vec<_> = fates.iter().map(|fate| *fate == Fate::Lost).collect();
        let period = [false, false, false, false, false, true, true];
        assert_eq!(swallowed, [period, period].concat());
        assert_eq!(lost(&super::tests::fates(&Link::new().down(), 3, MILLI).1), 3);
    }

    #[test]
    fn duplicates_and_flipped_bits_happen() {
        let (_, fates) = fates(&Link::new().duplication(0.5).corruption(0.5), 100, MILLI);
        let count = |test: fn(&Fate) -> bool| fates.iter().filter(|fate| test(fate)).count();
        assert!((25..75).contains(&count(|fate| matches!(fate, Fate::Passed { again_at: Some(_), .. }))));
        let flipped =
            |fate: &Fate| matches!(fate, Fate::Passed { flipped_bit: Some(bit), .. } if *bit < 8000);
        assert!((25..75).contains(&fates.iter().filter(|fate| flipped(fate)).count()));
    }
}
