//! What the figures are called, in what unit they are shown, and what they are to be.

use crate::{
    contenders::{OTHERS, QUINN_TOKIO, REFERENCES},
    measure::{CROWD, GAINS, IDLE_CONNECTIONS, MIB, STREAMS, UNARY, part},
    processes::Cores,
    results::{Quartiles, Results},
};

/// Figures that belong together.
pub struct Section {
    pub title: &'static str,
    pub note: &'static str,
    pub figures: Vec<Figure>,
    /// The file of the plot, and the figures that it shows.
    pub plot: Option<(&'static str, Vec<String>)>,
}

pub struct Figure {
    pub metric: String,
    pub title: String,
    /// What the figure is multiplied by before it is shown.
    pub scale: f64,
    pub digits: usize,
    pub better: Better,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

impl Better {
    pub fn arrow(self) -> char {
        match self {
            Self::More => '↑',
            Self::Less => '↓',
        }
    }
}

impl Figure {
    fn more(metric: impl Into<String>, title: impl Into<String>, scale: f64, digits: usize) -> Self {
        Self { metric: metric.into(), title: title.into(), scale, digits, better: Better::More }
    }

    fn less(metric: impl Into<String>, title: impl Into<String>, scale: f64, digits: usize) -> Self {
        Self { better: Better::Less, ..Self::more(metric, title, scale, digits) }
    }

    pub fn display(&self, value: f64) -> String {
        let digits = self.digits;
        format!("{:.digits$}", value * self.scale)
    }
}

const MICROS: f64 = 1e6;
const MILLIS: f64 = 1e3;

pub fn sections() -> Vec<Section> {
    let names = |metrics: &[&str]| metrics.iter().map(|metric| (*metric).to_owned()).collect::<Vec<_>>();
    let mut rates = Vec::new();
    let mut latencies = Vec::new();
    let mut costs = Vec::new();
    for (connections, in_flight) in UNARY {
        let of = |what| format!("unary {connections} {in_flight} {what}");
        let plural = if connections == 1 { "" } else { "s" };
        let when = format!("{in_flight} in flight on {connections} connection{plural}");
        rates.push(Figure::more(of("rate"), format!("calls/s, {when}"), 1.0, 0));
        latencies.push(Figure::less(of("p50"), format!("p50 in µs, {when}"), MICROS, 1));
        latencies.push(Figure::less(of("p99"), format!("p99 in µs, {when}"), MICROS, 1));
        costs.push(Figure::less(of("cpu"), format!("CPU of both in µs per call, {when}"), MICROS, 2));
        costs.push(Figure::less(of("server cpu"), format!("CPU of the server in µs, {when}"), MICROS, 2));
        costs.push(Figure::less(of("client cpu"), format!("CPU of the client in µs, {when}"), MICROS, 2));
    }
    let mut memory = vec![
        Figure::less("memory idle", "resident in MiB, idle server", 1.0 / MIB, 2),
        Figure::less("memory idle anonymous", "of it not a file's, in MiB", 1.0 / MIB, 2),
    ];
    for connections in IDLE_CONNECTIONS {
        let of = |what| format!("memory {connections} {what}");
        memory.push(Figure::less(
            of("resident"),
            format!("resident in MiB, idle connections: {connections}"),
            1.0 / MIB,
            2,
        ));
        memory.push(Figure::less(
            of("each"),
            format!("KiB for each of {connections} idle connections"),
            1.0 / 1024.0,
            1,
        ));
    }
    memory.push(Figure::less(
        "memory load",
        "resident in MiB, 32 calls in flight on 16 connections",
        1.0 / MIB,
        2,
    ));
    vec![
        Section {
            title: "Unary calls: throughput",
            note: "64 bytes, and the same back. What is in flight is in flight on all connections together. On 16 connections few calls share a packet: with 32 in flight palyra sends about 1.2 datagrams a call, bare quinn 1.3. A packet is encrypted, acknowledged and watched by either side in QUIC; in TCP the kernel acknowledges segments, and with the next ones, so that tarpc costs less, and can be ahead, where there is little in a packet.",
            figures: rates,
            plot: Some(("throughput.svg", names(&["unary 1 32 rate", "unary 16 32 rate", "unary 1 1 rate"]))),
        },
        Section {
            title: "Unary calls: latency",
            note: "",
            figures: latencies,
            plot: Some(("latency.svg", names(&["unary 1 1 p50", "unary 1 1 p99", "unary 1 32 p99"]))),
        },
        Section {
            title: "Unary calls: processor time",
            note: "User and system time of the two processes, from their clocks.",
            figures: costs,
            plot: Some(("cpu.svg", names(&["unary 1 32 cpu", "unary 16 32 cpu", "unary 1 1 cpu"]))),
        },
        Section {
            title: "Streams",
            note: "Exchanges of 64 bytes on one connection. Pipelined calls share a stream, where a call has one of its own otherwise; all calls of tarpc share the one of TCP, so these are its ordinary calls. A client stream is one request with items, as fast as they are taken, and one answer; bidi is an item and its answer in turn.",
            figures: stream_figures(Cores::All),
            plot: Some((
                "streams.svg",
                names(&["streams pipelined 32 rate", "streams upload rate", "streams bidi 1 rate"]),
            )),
        },
        Section {
            title: "On one core",
            note: "The same with server and client on one core (`taskset -c 0`), as on a small node: neither can work while the other does, so what counts is how much work there is.",
            figures: stream_figures(Cores::First),
            plot: Some((
                "one-core.svg",
                names(&["core unary 32 rate", "core pipelined 32 rate", "core bidi 1 rate"]),
            )),
        },
        Section {
            title: "Events",
            note: "Events of 32 bytes; the reference's have no payload at all. Following: from publishing an event by a call until the call is answered and the event is back on the stream. The reference on one thread writes the whole replay before any of it is sent, and quinn looks for each packet's data in all that was written; that is why it is slower than on two. tonic is ahead in replays as it is with payloads: the kernel's TCP acknowledges, and TLS seals 16 KiB at once. palyra-large and quinn-tokio-large take datagrams of up to 32 KiB, which loopback carries.",
            figures: vec![
                Figure::more("replay rate", "replay, events/s", 1.0, 0),
                Figure::less("replay cpu", "replay, CPU of both in µs per event", MICROS, 3),
                Figure::less("follow p50", "follow, p50 in µs", MICROS, 1),
                Figure::less("follow p99", "follow, p99 in µs", MICROS, 1),
                Figure::less("follow cpu", "follow, CPU of both in µs per event", MICROS, 1),
            ],
            plot: Some(("events.svg", names(&["replay rate", "follow p50"]))),
        },
        Section {
            title: "Payloads of 512 KiB",
            note: "One at a time on one connection; 512 KiB less 64 bytes, so that a frame of 512 KiB holds one. palyra and bare quinn have windows of 128 KiB for a stream and 256 KiB for a connection; quinn-tokio-untuned has those that quinn has by default. palyra-large and quinn-tokio-large take datagrams of up to 32 KiB. To tonic and tarpc the kernel's TCP acknowledges, and a TLS record seals 16 KiB, a packet less than 1.5.",
            figures: vec![
                Figure::more("take rate", "payloads to the server, MiB/s", 1.0, 0),
                Figure::less("take cpu", "to the server, CPU of both in µs per payload", MICROS, 0),
                Figure::more("give rate", "payloads from the server, MiB/s", 1.0, 0),
                Figure::less("give cpu", "from the server, CPU of both in µs per payload", MICROS, 0),
            ],
            plot: Some(("payloads.svg", names(&["take rate", "give rate"]))),
        },
        Section {
            title: "Handshakes",
            note: "A full handshake with certificates of both sides (ECDSA P-256), one call, and the close; nothing is resumed. Servers of the reference, tonic and tarpc send tickets, as by default. TLS over TCP derives half as many keys as QUIC, and has no padding, which quinn reads byte by byte; docs/performance.md counts both. That is why tarpc is ahead.",
            figures: vec![
                Figure::more("handshakes 1 rate", "handshakes/s, one at a time", 1.0, 0),
                Figure::less("handshakes 1 cpu", "handshakes one at a time, CPU of both in µs", MICROS, 0),
                Figure::more("handshakes 8 rate", "handshakes/s, eight at a time", 1.0, 0),
                Figure::less("handshakes 8 cpu", "handshakes eight at a time, CPU of both in µs", MICROS, 0),
            ],
            plot: Some(("handshakes.svg", names(&["handshakes 1 rate", "handshakes 8 rate"]))),
        },
        Section {
            title: "A crowd",
            note: "1,024 connections with four calls in flight each, on one server thread (two workers for reference-2). A single call that failed would be a failure here. To QUIC they come in by one socket, and what its receive buffer does not hold, 208 KiB by default, is lost and sent again after a timeout, which is the p99; tonic and tarpc have a buffer for each connection. These figures are from before endpoints asked for a buffer of 4 MiB, as far as `net.core.rmem_max` allows. It loses nothing: p99 0.2 s, and 1.2 times the calls.",
            figures: vec![
                Figure::more("crowd rate", format!("calls/s, {CROWD} connections"), 1.0, 0),
                Figure::less("crowd p50", "p50 in ms", MILLIS, 1),
                Figure::less("crowd p99", "p99 in ms", MILLIS, 1),
                Figure::less("crowd cpu", "CPU of both in µs per call", MICROS, 2),
            ],
            plot: Some(("crowd.svg", names(&["crowd rate", "crowd p99"]))),
        },
        Section {
            title: "Memory of the server",
            note: "The node of each contender, built with profile `small`, from `/proc/PID/smaps_rollup`: with the pages of the program that it touched. Idle is after the start, with no events in the log.",
            figures: memory,
            plot: Some(("memory.svg", names(&["memory idle", "memory 256 each", "memory load"]))),
        },
        Section {
            title: "System calls",
            note: "Per call, counted by `strace -c -f`, which slows both sides down, and so changes how much they gather.",
            figures: vec![
                Figure::less("syscalls 1 server", "server, 1 in flight", 1.0, 2),
                Figure::less("syscalls 1 client", "client, 1 in flight", 1.0, 2),
                Figure::less("syscalls 32 server", "server, 32 in flight", 1.0, 2),
                Figure::less("syscalls 32 client", "client, 32 in flight", 1.0, 2),
            ],
            plot: Some(("syscalls.svg", names(&["syscalls 1 server", "syscalls 32 server"]))),
        },
        Section {
            title: "An idle server",
            note: "The node of each contender with one connected client, both sides with a keep-alive of 5 s where there is one; tarpc and its TCP have none.",
            figures: vec![
                Figure::less("idle wakeups", "wakeups a minute", 1.0, 0),
                Figure::less("idle share", "% of a core, idle with one peer", 100.0, 4),
            ],
            plot: None,
        },
        Section {
            title: "Size",
            note: "The node of each contender: mutual TLS, four methods, events where it has them; profile `small`. Crates are those of the normal dependency tree.",
            figures: vec![
                Figure::less("size bytes", "stripped program, MiB", 1.0 / MIB, 3),
                Figure::less("size crates", "crates", 1.0, 0),
                Figure::less("size seconds", "clean build, s", 1.0, 0),
            ],
            plot: Some(("size.svg", names(&["size bytes", "size crates"]))),
        },
    ]
}

fn stream_figures(cores: Cores) -> Vec<Figure> {
    let part = part(cores);
    let place = if cores == Cores::First { ", on one core" } else { "" };
    let mut figures = Vec::new();
    for (series, _command) in STREAMS {
        let (unit, each) = match series {
            "upload" => ("items/s", "item"),
            series if series.starts_with("bidi") => ("turns/s", "turn"),
            _ => ("calls/s", "call"),
        };
        let name = match series.rsplit_once(' ') {
            Some(("bidi", streams)) => format!("bidi, {streams} at a time"),
            Some((kind, in_flight)) => format!("{kind}, {in_flight} in flight"),
            None => "client stream".to_owned(),
        };
        figures.push(Figure::more(format!("{part}{series} rate"), format!("{unit}, {name}{place}"), 1.0, 0));
        let title = format!("CPU of both in µs per {each}, {name}{place}");
        figures.push(Figure::less(format!("{part}{series} cpu"), title, MICROS, 2));
    }
    for in_flight in GAINS {
        let title = format!("pipelined by unary calls/s, {in_flight} in flight{place}");
        figures.push(Figure::more(format!("{part}gain {in_flight}"), title, 1.0, 2));
    }
    figures
}

/// What is to be reached, and against whom.
pub struct Goal {
    pub metric: &'static str,
    /// Whoever of them comes off best is the one to be compared with; nobody: the figure itself counts.
    pub rivals: &'static [&'static str],
    pub bound: f64,
}

pub const GOALS: [Goal; 18] = [
    Goal { metric: "unary 1 32 rate", rivals: &REFERENCES, bound: 1.3 },
    Goal { metric: "unary 1 32 cpu", rivals: &REFERENCES, bound: 0.75 },
    Goal { metric: "unary 1 1 p50", rivals: &REFERENCES, bound: 0.85 },
    Goal { metric: "core gain 1", rivals: &[], bound: 1.1 },
    Goal { metric: "core gain 32", rivals: &[], bound: 2.2 },
    Goal { metric: "core pipelined 32 rate", rivals: &["tarpc"], bound: 1.7 },
    Goal { metric: "core bidi 1 rate", rivals: &[QUINN_TOKIO], bound: 0.95 },
    Goal { metric: "replay rate", rivals: &REFERENCES, bound: 40.0 },
    Goal { metric: "handshakes 1 rate", rivals: &REFERENCES, bound: 1.1 },
    Goal { metric: "handshakes 8 rate", rivals: &REFERENCES, bound: 1.1 },
    Goal { metric: "unary 1 1 cpu", rivals: &[QUINN_TOKIO], bound: 0.9 },
    Goal { metric: "unary 1 32 cpu", rivals: &[QUINN_TOKIO], bound: 0.9 },
    Goal { metric: "unary 16 32 cpu", rivals: &[QUINN_TOKIO], bound: 0.9 },
    Goal { metric: "memory idle", rivals: &[], bound: 3.0 * MIB },
    Goal { metric: "memory 256 each", rivals: &[], bound: 24.0 * 1024.0 },
    Goal { metric: "size bytes", rivals: &["reference-1"], bound: 0.7 },
    Goal { metric: "size bytes", rivals: &[], bound: 1.35 * MIB },
    Goal { metric: "idle share", rivals: &[], bound: 0.001 },
];

impl Goal {
    pub fn met(&self, better: Better, value: f64) -> bool {
        match better {
            Better::More => value >= self.bound,
            Better::Less => value <= self.bound,
        }
    }

    /// What of ours is held against the bound, and the rival that it is from.
    pub fn value(
        &self,
        results: &Results,
        ours: &'static str,
        better: Better,
    ) -> Option<(Quartiles, Option<&'static str>)> {
        if self.rivals.is_empty() {
            return Some((results.quartiles(self.metric, ours)?, None));
        }
        let ratios = self
            .rivals
            .iter()
            .filter_map(|rival| Some((results.ratios(self.metric, ours, rival)?, Some(*rival))));
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

/// Where nobody is to be ahead of us: all workloads, one figure each.
pub const RACES: [&str; 14] = [
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
    "crowd rate",
];

/// Against whom.
pub const RACERS: [&str; 3] = [QUINN_TOKIO, OTHERS[0], OTHERS[1]];
