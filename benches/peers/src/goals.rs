//! What the figures are to be, and who is ahead.

use crate::{
    contenders::{LARGE, OTHERS, PALYRA, QUINN_TOKIO, QUINN_TOKIO_LARGE, REFERENCES, S2N, SLEEPS},
    figures::Better,
    processes::Cores,
    results::{Quartiles, Results},
    workloads::{MIB, part},
};

/// A target of one of ours.
#[derive(Clone, Copy)]
pub struct Goal {
    pub ours: &'static str,
    pub metric: &'static str,
    /// The best of them is the one to be compared with. Without any, the figure itself counts.
    pub rivals: &'static [&'static str],
    pub bound: f64,
}

type Rivals = &'static [&'static str];
const REFERENCE: Rivals = &REFERENCES;
const QUINN: Rivals = &[QUINN_TOKIO];
const TONIC: Rivals = &["tonic"];
const TARPC: Rivals = &["tarpc"];
const NOBODY: Rivals = &[];

/// For palyra and for palyra-sleeps: what busy polling gains must not be needed for these.
const BOTH: [(&str, Rivals, f64); 30] = [
    ("core unary 1 32 rate", REFERENCE, 1.25),
    ("core unary 1 32 rate", QUINN, 1.1),
    ("core unary 16 32 rate", REFERENCE, 1.25),
    ("core unary 16 32 rate", QUINN, 1.1),
    ("core unary 1 32 cpu", REFERENCE, 0.8),
    ("core unary 1 32 cpu", QUINN, 0.9),
    ("core unary 16 32 cpu", REFERENCE, 0.8),
    ("core unary 16 32 cpu", QUINN, 0.9),
    ("core unary 1 1 p50", REFERENCE, 0.95),
    ("core unary 1 1 p50", QUINN, 0.95),
    ("core streams pipelined 32 rate", TARPC, 1.8),
    ("core streams gain 1", NOBODY, 1.1),
    ("core streams gain 32", NOBODY, 2.2),
    ("core streams bidi 1 rate", QUINN, 0.95),
    ("unary 1 32 rate", REFERENCE, 1.65),
    ("unary 1 32 cpu", REFERENCE, 0.8),
    ("unary 1 1 cpu", QUINN, 0.9),
    ("unary 1 32 cpu", QUINN, 0.9),
    ("unary 16 32 cpu", QUINN, 0.9),
    ("take rate", QUINN, 1.0),
    ("give rate", QUINN, 1.0),
    ("take rate", TONIC, 0.9),
    ("give rate", TONIC, 0.9),
    ("replay rate", TONIC, 0.8),
    ("replay rate", REFERENCE, 40.0),
    ("handshakes 1 rate", REFERENCE, 1.1),
    ("handshakes 8 rate", REFERENCE, 1.15),
    ("handshakes 8 rate", TARPC, 0.82),
    ("crowd rate", QUINN, 1.2),
    ("crowd p99", NOBODY, 0.25),
];

/// For one of ours.
const SINGLE: [(&str, &str, Rivals, f64); 11] = [
    (PALYRA, "unary 1 1 p50", REFERENCE, 0.55),
    (SLEEPS, "unary 1 1 p50", REFERENCE, 0.95),
    // With large datagrams, in which quinn has to send, too.
    (LARGE, "take rate", &[QUINN_TOKIO_LARGE], 1.0),
    (LARGE, "give rate", &[QUINN_TOKIO_LARGE], 1.0),
    (LARGE, "take rate", TONIC, 0.9),
    (LARGE, "give rate", TONIC, 0.9),
    (PALYRA, "memory idle", NOBODY, 3.0 * MIB),
    (PALYRA, "memory 256 each", NOBODY, 32.0 * 1024.0),
    (PALYRA, "size bytes", &[REFERENCES[0]], 0.7),
    (PALYRA, "size bytes", NOBODY, 1.35 * MIB),
    (PALYRA, "idle share", NOBODY, 0.001),
];

/// All targets, those of one figure behind each other.
pub fn goals() -> Vec<Goal> {
    let both = BOTH.into_iter().flat_map(|(metric, rivals, bound)| {
        [PALYRA, SLEEPS].map(|ours| Goal { ours, metric, rivals, bound })
    });
    let single = SINGLE.into_iter().map(|(ours, metric, rivals, bound)| Goal { ours, metric, rivals, bound });
    both.chain(single).collect()
}

impl Goal {
    pub fn met(&self, better: Better, value: f64) -> bool {
        match better {
            Better::More => value >= self.bound,
            Better::Less => value <= self.bound,
        }
    }

    /// What of ours is held against the bound, and the rival that it is from.
    pub fn value(&self, results: &Results, better: Better) -> Option<(Quartiles, Option<&'static str>)> {
        if self.rivals.is_empty() {
            return Some((results.quartiles(self.metric, self.ours)?, None));
        }
        let ratios = self
            .rivals
            .iter()
            .filter_map(|rival| Some((results.ratios(self.metric, self.ours, rival)?, Some(*rival))));
        let by_median =
            |one: &(Quartiles, _), other: &(Quartiles, _)| one.0.median.total_cmp(&other.0.median);
        match better {
            Better::More => ratios.min_by(by_median),
            Better::Less => ratios.max_by(by_median),
        }
    }

    /// The bound in the metric's own unit.
    pub fn line(&self, results: &Results, better: Better) -> Option<f64> {
        if self.rivals.is_empty() {
            return Some(self.bound);
        }
        let medians = self.rivals.iter().filter_map(|rival| results.median(self.metric, rival));
        let best = match better {
            Better::More => medians.reduce(f64::max),
            Better::Less => medians.reduce(f64::min),
        };
        Some(best? * self.bound)
    }
}

/// Where nobody is to be ahead of us: one figure of each workload.
const RACES: [&str; 13] = [
    "unary 1 1 p50",
    "unary 1 1 rate",
    "unary 1 8 rate",
    "unary 1 32 rate",
    "unary 16 1 rate",
    "unary 16 8 rate",
    "unary 16 32 rate",
    "replay rate",
    "follow p50",
    "take rate",
    "give rate",
    "handshakes 1 rate",
    "handshakes 8 rate",
];

pub fn races(cores: Cores) -> Vec<String> {
    // A crowd is measured on all cores only.
    let crowd = (cores == Cores::All).then_some("crowd rate");
    RACES.into_iter().chain(crowd).map(|metric| format!("{}{metric}", part(cores))).collect()
}

/// Against whom.
pub const RACERS: [&str; 4] = [QUINN_TOKIO, S2N, OTHERS[0], OTHERS[1]];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{figures::sections, results::Outcome};

    #[test]
    fn a_target_is_held_against_the_better_rival() {
        let mut results = Results::default();
        for (contender, value) in [(PALYRA, 6.0), (REFERENCES[0], 3.0), (REFERENCES[1], 4.0)] {
            results.add(0, "any", contender, Outcome::Value(value));
        }
        let goal = Goal { ours: PALYRA, metric: "any", rivals: REFERENCE, bound: 1.5 };
        let value = |better| goal.value(&results, better).map(|(ratio, rival)| (ratio.median, rival));
        assert_eq!(value(Better::More), Some((1.5, Some(REFERENCES[1]))));
        assert_eq!(goal.line(&results, Better::More), Some(6.0));
        assert_eq!(value(Better::Less), Some((2.0, Some(REFERENCES[0]))));
        assert_eq!(goal.line(&results, Better::Less), Some(4.5));
        let alone = Goal { rivals: NOBODY, ..goal };
        let value = alone.value(&results, Better::More).map(|(value, rival)| (value.median, rival));
        assert_eq!(value, Some((6.0, None)));
        assert_eq!(alone.line(&results, Better::More), Some(1.5));
    }

    #[test]
    fn a_target_is_met_from_its_bound_on() {
        let goal = Goal { ours: PALYRA, metric: "any", rivals: NOBODY, bound: 2.0 };
        let met = |better| [1.9, 2.0, 2.1].map(|value| goal.met(better, value));
        assert_eq!(met(Better::More), [false, true, true]);
        assert_eq!(met(Better::Less), [true, true, false]);
    }

    #[test]
    fn each_target_and_each_race_has_a_figure() {
        let sections = sections();
        let known = |metric: &str| {
            sections.iter().flat_map(|section| &section.figures).any(|figure| figure.metric == metric)
        };
        for goal in goals() {
            assert!(known(goal.metric), "{}", goal.metric);
        }
        for metric in [Cores::All, Cores::First].into_iter().flat_map(races) {
            assert!(known(&metric), "{metric}");
        }
        assert!(!known("core crowd rate"));
    }
}
