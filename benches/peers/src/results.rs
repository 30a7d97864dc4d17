//! What was measured, and what is made of it.

use std::{collections::BTreeMap, time::Duration};

use crate::link::{Failure, Measured};

#[derive(Clone, Debug)]
pub enum Outcome {
    Value(f64),
    NotOffered(String),
    Failed(String),
}

/// The outcomes of all rounds, by metric and contender, in the order of the rounds.
#[derive(Default)]
pub struct Results {
    outcomes: BTreeMap<(String, &'static str), Vec<(usize, Outcome)>>,
    /// How long the whole run took.
    pub took: Duration,
}

impl Results {
    pub fn add(&mut self, round: usize, metric: &str, contender: &'static str, outcome: Outcome) {
        self.outcomes.entry((metric.to_owned(), contender)).or_default().push((round, outcome));
    }

    /// Notes the figures; where there are none, the reason for each that there should be.
    pub fn note(
        &mut self,
        round: usize,
        contender: &'static str,
        metrics: &[&str],
        measured: Measured<Vec<f64>>,
    ) {
        for (index, metric) in metrics.iter().enumerate() {
            let outcome = match &measured {
                Ok(values) => values.get(index).map_or_else(
                    || Outcome::Failed("not measured".to_owned()),
                    |value| Outcome::Value(*value),
                ),
                Err(Failure::NotOffered(why)) => Outcome::NotOffered((*why).to_owned()),
                Err(Failure::Failed(error)) => Outcome::Failed(error.to_string()),
            };
            self.add(round, metric, contender, outcome);
        }
    }

    pub fn has(&self, metric: &str) -> bool {
        self.outcomes.keys().any(|(known, _)| known == metric)
    }

    pub fn of(&self, metric: &str, contender: &'static str) -> &[(usize, Outcome)] {
        self.outcomes.get(&(metric.to_owned(), contender)).map_or(&[], Vec::as_slice)
    }

    pub fn quartiles(&self, metric: &str, contender: &'static str) -> Option<Quartiles> {
        Quartiles::of(self.values(metric, contender).into_values())
    }

    pub fn median(&self, metric: &str, contender: &'static str) -> Option<f64> {
        Some(self.quartiles(metric, contender)?.median)
    }

    /// The one's figure by the other's, of each round that has both.
    pub fn ratios(&self, metric: &str, one: &'static str, other: &'static str) -> Option<Quartiles> {
        let (one, other) = (self.values(metric, one), self.values(metric, other));
        Quartiles::of(one.iter().filter_map(|(round, value)| Some(value / other.get(round)?)))
    }

    fn values(&self, metric: &str, contender: &'static str) -> BTreeMap<usize, f64> {
        let outcomes = self.of(metric, contender).iter();
        outcomes
            .filter_map(|(round, outcome)| match outcome {
                Outcome::Value(value) => Some((*round, *value)),
                _ => None,
            })
            .collect()
    }

    /// Every failure once, with how often it happened.
    pub fn failures(&self) -> BTreeMap<(&'static str, String), usize> {
        let mut failures = BTreeMap::new();
        for ((_, contender), outcomes) in &self.outcomes {
            for (_, outcome) in outcomes {
                if let Outcome::Failed(why) = outcome {
                    *failures.entry((*contender, why.clone())).or_default() += 1;
                }
            }
        }
        failures
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Quartiles {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

impl Quartiles {
    /// `None` where nothing could be measured.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        // Between two values where it falls between them.
        let at = |quarter: usize| {
            let (below, rest) = (last * quarter / 4, last * quarter % 4);
            let (low, high) = (values[below], values[last.min(below + 1)]);
            low + (high - low) * [0.0, 0.25, 0.5, 0.75][rest]
        };
        Some(Self { lower: at(1), median: at(2), upper: at(3) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_values_where_there_is_no_middle_one() {
        let of = |values: &[f64]| {
            let Quartiles { lower, median, upper } = Quartiles::of(values.iter().copied())?;
            Some([lower, median, upper])
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0]), Some([3.0, 3.0, 3.0]));
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0]), Some([1.75, 2.5, 3.25]));
        assert_eq!(of(&[5.0, 4.0, f64::NAN, 3.0, 2.0, 1.0]), Some([2.0, 3.0, 4.0]));
    }
}
