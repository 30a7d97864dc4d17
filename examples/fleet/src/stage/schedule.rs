//! What is harmed, in which order, and for how long: all of it follows from one seed.

use std::time::Duration;

use fastrand::Rng;

/// Up to twice the time without data after which a connection ends.
const LONGEST_CUT: Duration = Duration::from_secs(4);
const LONGEST_FULL_DISK: Duration = Duration::from_millis(1500);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// One kill in this many comes while the process starts. The others wait until it has got something done.
const EARLY: u32 = 8;

/// How many of each, and among how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amounts {
    pub(crate) processes: usize,
    pub(crate) links: usize,
    pub(crate) kills: u32,
    pub(crate) cuts: u32,
    pub(crate) full_disks: u32,
}

/// What happens next, after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) pause: Duration,
    pub(crate) harm: Harm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    Kill {
        process: usize,
        moment: Moment,
    },
    /// A link loses every datagram for this long.
    Cut {
        link: usize,
        length: Duration,
    },
    /// A process can write nothing to its disk for this long.
    FullDisk {
        process: usize,
        length: Duration,
    },
}

/// When a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// As soon as it runs.
    Starting,
    /// When it has published or received events since it was started.
    Working,
}

/// Every process is killed about equally often, and every link cut, in a random order.
pub(crate) fn schedule(rng: &mut Rng, amounts: Amounts) -> Vec<Step> {
    let Amounts { processes, links, kills, cuts, full_disks } = amounts;
    let mut harms = Vec::new();
    for (number, process) in (0..kills).zip((0..processes).cycle()) {
        // The first kills wait, so that a short run has such, too.
        let moment = if number % EARLY == EARLY - 1 { Moment::Starting } else { Moment::Working };
        harms.push(Harm::Kill { process, moment });
    }
    for (_, link) in (0..cuts).zip((0..links).cycle()) {
        harms.push(Harm::Cut { link, length: up_to(rng, LONGEST_CUT) });
    }
    for (_, process) in (0..full_disks).zip((0..processes).cycle()) {
        harms.push(Harm::FullDisk { process, length: up_to(rng, LONGEST_FULL_DISK) });
    }
    rng.shuffle(&mut harms);
    harms.into_iter().map(|harm| Step { pause: LONGEST_PAUSE.mul_f64(rng.f64()), harm }).collect()
}

/// From a tenth of this to all of it.
fn up_to(rng: &mut Rng, longest: Duration) -> Duration {
    longest.mul_f64(0.1 + 0.9 * rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNTS: Amounts = Amounts { processes: 5, links: 4, kills: 200, cuts: 50, full_disks: 10 };

    #[test]
    fn every_process_and_every_link_gets_its_share() {
        let steps = schedule(&mut Rng::with_seed(1), AMOUNTS);
        assert_eq!(steps.len(), 260);
        let count = |wanted: &dyn Fn(Harm) -> bool| steps.iter().filter(|step| wanted(step.harm)).count();
        for process in 0..5 {
            assert_eq!(count(&|harm| matches!(harm, Harm::Kill { process: p, .. } if p == process)), 40);
            assert_eq!(count(&|harm| matches!(harm, Harm::FullDisk { process: p, .. } if p == process)), 2);
        }
        for link in 0..4 {
            let cuts = count(&|harm| matches!(harm, Harm::Cut { link: l, .. } if l == link));
            assert!((12..=13).contains(&cuts), "{cuts}");
        }
        assert_eq!(count(&|harm| matches!(harm, Harm::Kill { moment: Moment::Starting, .. })), 25);
    }

    #[test]
    fn the_seed_decides_everything() {
        let of = |seed| schedule(&mut Rng::with_seed(seed), AMOUNTS);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }
}
