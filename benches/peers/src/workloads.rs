//! What is done in a turn of a workload, and which figures it gives.

use std::{collections::BTreeMap, thread, time::Duration};

use crate::{
    contenders::{CONTENDERS, Contender},
    link::{Failure, Measured},
    measure::Plan,
    nodes::Nodes,
    processes::Cores,
    results::Results,
    stage::{Pair, Stage},
};

/// Exchanges of 64 bytes on one connection that are compared with each other, with their commands.
pub const STREAMS: [(&str, &str); 7] = [
    ("unary 1", "calls 1"),
    ("pipelined 1", "pipelined 1"),
    ("unary 32", "calls 32"),
    ("pipelined 32", "pipelined 32"),
    ("upload", "upload"),
    ("bidi 1", "bidi 1"),
    ("bidi 8", "bidi 8"),
];
/// What the rate of pipelined calls is divided by, to say what a pipeline gains.
pub const GAINS: [u32; 2] = [1, 32];

/// Connections, and calls in flight on all of them together.
pub const UNARY: [(u32, u32); 6] = [(1, 1), (1, 8), (1, 32), (16, 1), (16, 8), (16, 32)];
pub const IDLE_CONNECTIONS: [u32; 3] = [1, 64, 256];
pub const CROWD: u32 = 1024;
const CROWD_CALLS: u32 = 4 * CROWD;
const EVENTS: u32 = 100_000;
pub const MIB: f64 = 1024.0 * 1024.0;

/// The turns of all contenders with one workload in one round.
pub struct Turns<'a> {
    pub plan: &'a Plan,
    pub stage: &'a Stage,
    pub nodes: &'a Nodes,
    pub round: usize,
    pub cores: Cores,
}

impl Turns<'_> {
    /// Measures, notes the figures, and gives some of them in a line.
    pub fn take(
        &self,
        contender: &'static Contender,
        workload: &str,
        results: &mut Results,
    ) -> Measured<String> {
        match workload {
            "unary" => self.unary(contender, results),
            "streams" => self.streams(contender, results),
            "events" => self.events(contender, results),
            "payloads" => self.payloads(contender, results),
            "handshakes" => self.handshakes(contender, results),
            "crowd" => self.crowd(contender, results),
            "memory" => self.memory(contender, results),
            _ => self.syscalls(contender, results),
        }
    }

    /// A fresh pair each time, because a process may be lucky or not for all its life.
    fn pair(&self, contender: &'static Contender, events: u32) -> Measured<Pair> {
        Ok(self.stage.pair(contender, events, 2 * CROWD, self.cores)?)
    }

    fn note<const N: usize>(
        &self,
        results: &mut Results,
        contender: &'static Contender,
        metrics: [String; N],
        measured: Measured<[f64; N]>,
    ) {
        let part = part(self.cores);
        let metrics: Vec<_> = metrics.iter().map(|metric| format!("{part}{metric}")).collect();
        let metrics: Vec<_> = metrics.iter().map(String::as_str).collect();
        results.note(self.round, contender.name, &metrics, measured.map(|values| values.to_vec()));
    }

    fn unary(&self, contender: &'static Contender, results: &mut Results) -> Measured<String> {
        let mut pair = self.pair(contender, 0);
        let mut shown = String::new();
        for (connections, in_flight) in UNARY {
            let measured = with(&mut pair, |pair| {
                pair.ask(&format!("connect {connections}"))?;
                pair.ask(&format!("calls {in_flight} {}", self.plan.millis(80)))?;
                let work = pair.work(&format!("calls {in_flight} {}", self.plan.millis(300)))?;
                let count = work.figures.of("count")?;
                let (server, client) = (work.server_cpu / count, work.client_cpu / count);
                let [p50, p99] = [work.figures.of("p50")?, work.figures.of("p99")?];
                Ok([work.figures.rate()?, p50, p99, server + client, server, client])
            });
            if let (1, Ok([rate, p50, _, cpu, ..])) = (connections, &measured) {
                shown +=
                    &format!("  {in_flight}: {rate:6.0}/s p50 {:5.1} us cpu {:4.1} us", p50 * 1e6, cpu * 1e6);
            }
            let metric = |what| format!("unary {connections} {in_flight} {what}");
            let metrics = ["rate", "p50", "p99", "cpu", "server cpu", "client cpu"].map(metric);
            self.note(results, contender, metrics, measured);
        }
        Ok(shown)
    }

    /// One after another between the same two processes, so that each is beside what it is compared with.
    fn streams(&self, contender: &'static Contender, results: &mut Results) -> Measured<String> {
        let mut pair = self.pair(contender, 0);
        let mut shown = String::new();
        let mut rates = BTreeMap::new();
        for (series, command) in STREAMS {
            let measured = with(&mut pair, |pair| {
                pair.ask("connect 1")?;
                pair.ask(&format!("{command} {}", self.plan.millis(80)))?;
                let work = pair.work(&format!("{command} {}", self.plan.millis(300)))?;
                let cpu = (work.server_cpu + work.client_cpu) / work.figures.of("count")?;
                Ok([work.figures.rate()?, cpu])
            });
            if let Ok([rate, _]) = measured {
                rates.insert(series, rate);
                shown += &format!("  {series}: {rate:.0}/s");
            }
            let metrics = ["rate", "cpu"].map(|what| format!("streams {series} {what}"));
            self.note(results, contender, metrics, measured);
        }
        for in_flight in GAINS {
            let rate = |kind: &str| rates.get(format!("{kind} {in_flight}").as_str());
            let gain = match (rate("pipelined"), rate("unary")) {
                (Some(pipelined), Some(unary)) => Ok([pipelined / unary]),
                _ => Err(Failure::NotOffered("–")),
            };
            self.note(results, contender, [format!("streams gain {in_flight}")], gain);
        }
        Ok(shown)
    }

    fn events(&self, contender: &'static Contender, results: &mut Results) -> Measured<String> {
        let events = if self.plan.quick { EVENTS / 5 } else { EVENTS };
        let mut pair = self.pair(contender, events);
        let replay = with(&mut pair, |pair| {
            pair.ask("connect 1")?;
            pair.ask("replay 1")?;
            let work = pair.work(&format!("replay {}", self.plan.millis(300)))?;
            let cpu = work.server_cpu + work.client_cpu;
            Ok([work.figures.rate()?, cpu / work.figures.of("count")?])
        });
        let follow = with(&mut pair, |pair| {
            let work = pair.work(&format!("follow {}", self.plan.millis(300)))?;
            let cpu = work.server_cpu + work.client_cpu;
            let [p50, p99] = [work.figures.of("p50")?, work.figures.of("p99")?];
            Ok([p50, p99, cpu / work.figures.of("count")?])
        });
        let shown = format!(
            "  replay {}  follow {}",
            show(&replay, |[rate, _]| format!("{rate:.0}/s")),
            show(&follow, |[p50, ..]| format!("p50 {:.1} us", p50 * 1e6))
        );
        self.note(results, contender, ["replay rate", "replay cpu"].map(String::from), replay);
        self.note(results, contender, ["follow p50", "follow p99", "follow cpu"].map(String::from), follow);
        Ok(shown)
    }

    fn payloads(&self, contender: &'static Contender, results: &mut Results) -> Measured<String> {
        let mut pair = self.pair(contender, 0);
        let mut shown = String::new();
        for direction in ["take", "give"] {
            let measured = with(&mut pair, |pair| {
                pair.ask("connect 1")?;
                pair.ask(&format!("{direction} {}", self.plan.millis(100)))?;
                let work = pair.work(&format!("{direction} {}", self.plan.millis(300)))?;
                let cpu = work.server_cpu + work.client_cpu;
                Ok([work.figures.rate()? / 2.0, cpu / work.figures.of("count")?])
            });
            shown += &format!("  {direction} {}", show(&measured, |[rate, _]| format!("{rate:.0} MiB/s")));
            let metrics = ["rate", "cpu"].map(|what| format!("{direction} {what}"));
            self.note(results, contender, metrics, measured);
        }
        Ok(shown)
    }

    fn handshakes(&self, contender: &'static Contender, results: &mut Results) -> Measured<String> {
        let mut shown = String::new();
        for at_once in [1, 8] {
            // What is left of closed connections is not to meet the other series.
            let mut pair = self.pair(contender, 0);
            let measured = with(&mut pair, |pair| {
                pair.ask(&format!("handshakes {at_once} {}", self.plan.millis(100)))?;
                let work = pair.work(&format!("handshakes {at_once} {}", self.plan.millis(500)))?;
                let cpu = work.server_cpu + work.client_cpu;
                Ok([work.figures.rate()?, cpu / work.figures.of("count")?])
            });
            shown += &format!("  {at_once}: {}", show(&measured, |[rate, _]| format!("{rate:.0}/s")));
            let metrics = ["rate", "cpu"].map(|what| format!("handshakes {at_once} {what}"));
            self.note(results, contender, metrics, measured);
        }
        Ok(shown)
    }

    /// 1,024 connections with four calls in flight each.
    fn crowd(&self, contender: &'static Contender, results: &mut Results) -> Measured<String> {
        let mut pair = self.pair(contender, 0);
        let measured = with(&mut pair, |pair| {
            pair.ask(&format!("connect {CROWD}"))?;
            pair.ask(&format!("count {CROWD_CALLS} {CROWD_CALLS}"))?;
            let work = pair.work(&format!("calls {CROWD_CALLS} {}", self.plan.millis(2000)))?;
            let cpu = work.server_cpu + work.client_cpu;
            let [p50, p99] = [work.figures.of("p50")?, work.figures.of("p99")?];
            Ok([work.figures.rate()?, p50, p99, cpu / work.figures.of("count")?])
        });
        let shown = show(&measured, |[rate, p50, p99, _]| {
            format!("  {rate:.0}/s p50 {:.1} ms p99 {:.1} ms", p50 * 1e3, p99 * 1e3)
        });
        let metrics = ["rate", "p50", "p99", "cpu"].map(|what| format!("crowd {what}"));
        self.note(results, contender, metrics, measured);
        Ok(shown)
    }

    fn memory(&self, contender: &'static Contender, results: &mut Results) -> Measured<String> {
        let Some(program) = self.nodes.program(contender) else {
            return Err(Failure::NotOffered("has no node of its own"));
        };
        let settle = || thread::sleep(Duration::from_millis(u64::from(self.plan.millis(400))));
        let mut pair: Measured<Pair> = self.stage.node(contender, program, 2 * CROWD).map_err(Failure::from);
        let idle = with(&mut pair, |pair| {
            settle();
            let resident = pair.server.resident()?;
            Ok([resident.all, resident.anonymous])
        });
        let mut shown = format!("  idle {}", show(&idle, |[all, _]| format!("{:.2} MiB", all / MIB)));
        let before = idle.as_ref().map_or(f64::NAN, |[all, _]| *all);
        self.note(results, contender, ["memory idle", "memory idle anonymous"].map(String::from), idle);
        for connections in IDLE_CONNECTIONS {
            let measured = with(&mut pair, |pair| {
                pair.ask(&format!("connect {connections}"))?;
                settle();
                let all = pair.server.resident()?.all;
                Ok([all, (all - before) / f64::from(connections)])
            });
            if connections > 1 {
                let each = show(&measured, |[_, each]| format!("{:.1} KiB", each / 1024.0));
                shown += &format!("  {connections}: {each} each");
            }
            let metrics = ["resident", "each"].map(|what| format!("memory {connections} {what}"));
            self.note(results, contender, metrics, measured);
        }
        let mut pair = self.stage.node(contender, program, 2 * CROWD).map_err(Failure::from);
        let load = with(&mut pair, |pair| {
            pair.ask("connect 16")?;
            pair.ask(&format!("calls 32 {}", self.plan.millis(1000)))?;
            Ok([pair.server.resident()?.all])
        });
        shown += &format!("  load {}", show(&load, |[all]| format!("{:.2} MiB", all / MIB)));
        self.note(results, contender, ["memory load".to_owned()], load);
        Ok(shown)
    }

    fn syscalls(&self, contender: &'static Contender, results: &mut Results) -> Measured<String> {
        let mut pair = self.pair(contender, 0);
        let mut shown = String::new();
        for (in_flight, count) in [(1, 2_000_u32), (32, 9_600)] {
            let count = self.plan.millis(count) / 32 * 32;
            let measured = with(&mut pair, |pair| {
                pair.ask("connect 1")?;
                pair.ask(&format!("count {in_flight} {count}"))?;
                let (server, client) = pair.system_calls(&format!("count {in_flight} {count}"))?;
                Ok([server / f64::from(count), client / f64::from(count)])
            });
            shown += &format!(
                "  {in_flight}: {}",
                show(&measured, |[server, client]| format!("{server:.2} + {client:.2}"))
            );
            let metrics = ["server", "client"].map(|side| format!("syscalls {in_flight} {side}"));
            self.note(results, contender, metrics, measured);
        }
        Ok(shown)
    }

    /// All at the same time: they have nothing to do.
    pub fn idle(&self, results: &mut Results) {
        let seconds = self.plan.millis(60);
        eprintln!("       idle: all at once for {seconds} s");
        let pairs = CONTENDERS.iter().filter_map(|contender| {
            let program = self.nodes.program(contender)?;
            let pair = self.stage.node(contender, program, 256).map_err(Failure::from);
            Some((contender, pair.and_then(|mut pair| pair.ask("connect 1").map(|_| pair))))
        });
        let mut pairs: Vec<_> = pairs.collect();
        thread::sleep(Duration::from_secs(2));
        let state = |pair: &Pair| Ok::<_, Failure>((pair.server.sleeps()?, pair.server.cpu()?));
        let before: Vec<_> = pairs.iter_mut().map(|(_, pair)| with(pair, |pair| state(pair))).collect();
        thread::sleep(Duration::from_secs(u64::from(seconds)));
        for ((contender, mut pair), before) in pairs.into_iter().zip(before) {
            let measured = before.and_then(|(sleeps, cpu)| {
                let after = with(&mut pair, |pair| state(pair))?;
                let seconds = f64::from(seconds);
                Ok([(after.0 - sleeps) * 60.0 / seconds, (after.1 - cpu) / seconds])
            });
            let shown = show(&measured, |[wakeups, share]| {
                format!("{wakeups:.0} wakeups a minute, {:.4} % of a core", share * 100.0)
            });
            eprintln!("       idle {:12} {shown}", contender.name);
            self.note(results, contender, ["idle wakeups", "idle share"].map(String::from), measured);
        }
    }
}

/// What the names of figures begin with.
pub fn part(cores: Cores) -> &'static str {
    match cores {
        Cores::All => "",
        Cores::First => "core ",
    }
}

/// What came of the pair, or why there is no pair (any more).
fn with<T>(pair: &mut Measured<Pair>, measure: impl FnOnce(&mut Pair) -> Measured<T>) -> Measured<T> {
    match pair {
        Ok(pair) => measure(pair),
        Err(failure) => Err(format!("no start: {failure}").into()),
    }
}

fn show<T>(measured: &Measured<T>, display: impl FnOnce(&T) -> String) -> String {
    measured.as_ref().map_or_else(ToString::to_string, display)
}
