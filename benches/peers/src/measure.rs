//! Takes turns: in each round every workload, and in each workload every contender, forwards in even rounds
//! and backwards in odd ones; so that what else the machine does meets them all.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    Result,
    contenders::{CONTENDERS, Contender},
    floor,
    nodes::{self, Nodes},
    processes::Cores,
    results::{Outcome, Results},
    stage::Stage,
    workloads::Turns,
};

/// How large and how long.
pub struct Plan {
    pub rounds: usize,
    pub quick: bool,
    /// The one workload to be run.
    pub only: Option<String>,
    /// The one placement of the two processes to be run.
    pub cores: Option<Cores>,
    /// The contenders to be run; all of them if none are named.
    pub contenders: Vec<String>,
    /// Whether clean builds are timed, which takes minutes for each contender.
    pub clean_builds: bool,
}

pub const WORKLOADS: [&str; 10] =
    ["unary", "streams", "events", "payloads", "handshakes", "crowd", "memory", "syscalls", "idle", "size"];
/// The workloads that are measured on all cores and then on one.
const ON_ONE_CORE: [&str; 5] = ["unary", "streams", "events", "payloads", "handshakes"];

impl Plan {
    pub fn is_whole(&self) -> bool {
        !self.quick && self.only.is_none() && self.cores.is_none() && self.contenders.is_empty()
    }

    fn takes(&self, workload: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == workload)
    }

    pub fn includes(&self, contender: &str) -> bool {
        self.contenders.is_empty() || self.contenders.iter().any(|name| name == contender)
    }

    /// How long a series takes, in milliseconds.
    pub fn millis(&self, full: u32) -> u32 {
        if self.quick { full / 4 } else { full }
    }

    fn rounds_of(&self, workload: &str) -> usize {
        match workload {
            "crowd" | "memory" | "syscalls" => self.rounds.div_ceil(3),
            "idle" | "size" => 1,
            _ => self.rounds,
        }
    }

    /// The placements of this workload's processes, in the order of their turns.
    fn placements(&self, workload: &str) -> Vec<Cores> {
        let placements = [Cores::All, Cores::First].into_iter();
        placements
            .filter(|cores| *cores == Cores::All || ON_ONE_CORE.contains(&workload))
            .filter(|cores| self.cores.is_none_or(|only| only == *cores))
            .collect()
    }

    /// The contenders in a workload, whether they are available or not, as they take turns in this round.
    fn order(&self, workload: &str, round: usize) -> Vec<&'static Contender> {
        let contenders = CONTENDERS.iter().filter(|contender| self.includes(contender.name));
        let mut order: Vec<_> = contenders.filter(|contender| contender.takes(workload)).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        order
    }

    /// The workloads of a round with their placements.
    fn round(&self, round: usize) -> Vec<(&'static str, Cores)> {
        let taken = WORKLOADS.into_iter().filter(|name| self.takes(name) && round < self.rounds_of(name));
        taken.flat_map(|name| self.placements(name).into_iter().map(move |cores| (name, cores))).collect()
    }
}

pub fn run(plan: &Plan) -> Result<Results> {
    let stage = Stage::new()?;
    let mut results = Results::default();
    let nodes = if ["memory", "idle", "size"].iter().any(|workload| plan.takes(workload)) {
        nodes::build(plan)?
    } else {
        Nodes::default()
    };
    for contender in CONTENDERS.iter().filter(|contender| !contender.is_available()) {
        eprintln!(
            "       {} is left out: {} is not installed",
            contender.name,
            contender.broker.unwrap_or("?")
        );
    }
    let mut progress = Progress::new(plan);
    for round in 0..plan.rounds {
        for (workload, cores) in plan.round(round) {
            let before = Instant::now();
            let turns = Turns { plan, stage: &stage, nodes: &nodes, round, cores };
            match workload {
                "idle" => turns.idle(&mut results),
                "size" => nodes::sizes(plan, &nodes, &mut results),
                _ => take(&turns, workload, &mut results, &progress),
            }
            progress.done(workload, cores, before.elapsed());
        }
        if plan.takes("unary") {
            aes(plan, round, &mut results)?;
        }
    }
    results.took = progress.started.elapsed();
    Ok(results)
}

fn take(turns: &Turns<'_>, workload: &str, results: &mut Results, progress: &Progress) {
    let place = if turns.cores == Cores::First { ", one core" } else { "" };
    let order = turns.plan.order(workload, turns.round);
    for contender in order.into_iter().filter(|contender| contender.is_available()) {
        let (round, rounds) = (turns.round + 1, turns.plan.rounds);
        eprint!(
            "{progress}  round {round}/{rounds}  {:20} {:14}",
            format!("{workload}{place}"),
            contender.name
        );
        eprintln!(
            "{}",
            turns.take(contender, workload, results).unwrap_or_else(|failure| failure.to_string())
        );
    }
}

/// How long it has taken, and how long it is expected to take.
struct Progress {
    started: Instant,
    /// The turns that are still to come.
    left: Vec<(&'static str, Cores)>,
    /// The time that a workload took last.
    last: BTreeMap<&'static str, Duration>,
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        let left = (0..plan.rounds).flat_map(|round| plan.round(round)).collect();
        Self { started: Instant::now(), left, last: BTreeMap::new() }
    }

    fn done(&mut self, workload: &'static str, cores: Cores, took: Duration) {
        if let Some(index) = self.left.iter().position(|turn| *turn == (workload, cores)) {
            self.left.remove(index);
        }
        self.last.insert(workload, took);
    }

    /// `None` until each workload has had a turn.
    fn rest(&self) -> Option<Duration> {
        self.left.iter().map(|(workload, _cores)| self.last.get(workload)).sum()
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:4} s", self.started.elapsed().as_secs())?;
        match self.rest() {
            Some(rest) => write!(f, ", {:3} min to go", rest.as_secs().div_ceil(60)),
            None => write!(f, "{:15}", ""),
        }
    }
}

/// The cipher has no processes, and takes its turn last.
fn aes(plan: &Plan, round: usize, results: &mut Results) -> Result<()> {
    let duration = Duration::from_millis(u64::from(plan.millis(100)));
    for (cipher, algorithm, key) in floor::CIPHERS {
        for packet in floor::PACKETS {
            let (sealing, opening) = floor::aes(algorithm, key, packet, duration)?;
            results.add(round, &format!("seal {packet}"), cipher, Outcome::Value(sealing));
            results.add(round, &format!("open {packet}"), cipher, Outcome::Value(opening));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let contenders = Vec::new();
        Plan { rounds: 4, quick: false, only: None, cores: None, contenders, clean_builds: false }
    }

    #[test]
    fn a_round_has_the_turns_on_one_core_right_behind_those_on_all() {
        let first = plan().round(0);
        assert_eq!(first[..2], [("unary", Cores::All), ("unary", Cores::First)]);
        assert_eq!(first.len(), WORKLOADS.len() + ON_ONE_CORE.len());
        assert_eq!(plan().round(2).len(), 2 * ON_ONE_CORE.len(), "memory and its like have had their rounds");
        let one_core = Plan { cores: Some(Cores::First), only: Some("crowd".into()), ..plan() };
        assert_eq!(one_core.round(0), [], "a crowd is not measured on one core");
    }

    #[test]
    fn every_second_round_is_in_reverse() {
        let three = Plan { contenders: vec!["tonic".into(), "palyra".into(), "nats".into()], ..plan() };
        let names = |workload, round| {
            three.order(workload, round).iter().map(|contender| contender.name).collect::<Vec<_>>()
        };
        assert_eq!(names("events", 0), ["palyra", "tonic", "nats"]);
        assert_eq!(names("events", 1), ["nats", "tonic", "palyra"]);
        assert_eq!(names("unary", 2), ["palyra", "tonic"], "a broker takes no unary calls");
    }

    #[test]
    fn the_rest_is_known_once_each_workload_had_a_turn() {
        let only = Plan { only: Some("unary".into()), ..plan() };
        let mut progress = Progress::new(&only);
        assert_eq!(progress.rest(), None);
        progress.done("unary", Cores::All, Duration::from_secs(10));
        assert_eq!(progress.rest(), Some(Duration::from_secs(70)));
        for round in 0..4 {
            for cores in if round == 0 { vec![Cores::First] } else { vec![Cores::All, Cores::First] } {
                progress.done("unary", cores, Duration::from_secs(10));
            }
        }
        assert_eq!(progress.rest(), Some(Duration::ZERO));
    }
}
