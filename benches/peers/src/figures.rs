//! What the figures are called, and in what unit they are shown.

use crate::{
    processes::Cores,
    workloads::{CROWD, GAINS, IDLE_CONNECTIONS, MIB, STREAMS, UNARY, part},
};

/// Figures that belong together.
pub struct Section {
    pub title: String,
    pub note: &'static str,
    pub figures: Vec<Figure>,
    /// The file of the plot, and the figures that it shows.
    pub plot: Option<(String, Vec<String>)>,
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

/// Where a workload is measured on all cores and on one, the section on one core comes right behind.
pub fn sections() -> Vec<Section> {
    let computed = [calls, latencies, costs, streams];
    let mut sections: Vec<_> =
        computed.into_iter().flat_map(|section| [Cores::All, Cores::First].map(section)).collect();
    for workload in FIXED {
        sections.extend([Cores::All, Cores::First].map(|cores| workload.section(cores)));
    }
    sections.extend([crowd(), memory(), system_calls(), idle(), size()]);
    sections
}

/// The section of a workload on all cores, or on one: `note` stands in the former only.
fn placed(
    cores: Cores,
    title: &'static str,
    note: &'static str,
    figures: Vec<Figure>,
    plot: (&'static str, &[&str]),
) -> Section {
    let part = part(cores);
    let (file, metrics) = plot;
    let place = |figure: Figure| match cores {
        Cores::All => figure,
        Cores::First => Figure {
            metric: format!("{part}{}", figure.metric),
            title: format!("{}, on one core", figure.title),
            ..figure
        },
    };
    let metrics = metrics.iter().map(|metric| format!("{part}{metric}")).collect();
    let file = match cores {
        Cores::All => format!("{file}.svg"),
        Cores::First => format!("{file}-one-core.svg"),
    };
    let figures = figures.into_iter().map(place).collect();
    match cores {
        Cores::All => Section { title: title.to_owned(), note, figures, plot: Some((file, metrics)) },
        Cores::First => {
            Section { title: format!("{title}, on one core"), note: "", figures, plot: Some((file, metrics)) }
        }
    }
}

/// The section of a workload that is measured on all cores only.
fn unplaced(title: &str, note: &'static str, figures: Vec<Figure>, plot: Option<(&str, &[&str])>) -> Section {
    let plot = plot.map(|(file, metrics)| {
        (format!("{file}.svg"), metrics.iter().map(|metric| (*metric).to_owned()).collect())
    });
    Section { title: title.to_owned(), note, figures, plot }
}

/// The names of figures of unary calls with what is in flight, and a title for it.
fn unary() -> impl Iterator<Item = (String, String)> {
    UNARY.into_iter().map(|(connections, in_flight)| {
        let plural = if connections == 1 { "" } else { "s" };
        let when = format!("{in_flight} in flight on {connections} connection{plural}");
        (format!("unary {connections} {in_flight}"), when)
    })
}

fn calls(cores: Cores) -> Section {
    let note = "64 bytes, and the same back. What is in flight is in flight on all connections together. On 16 connections few calls share a packet: with 32 in flight palyra sends about 1.0 datagrams a call, bare quinn 1.3. A packet is encrypted, acknowledged and watched by either side in QUIC; in TCP the kernel acknowledges segments, and with the next ones, so that tarpc costs less, and can be ahead, where there is little in a packet.";
    let figures =
        unary().map(|(name, when)| Figure::more(format!("{name} rate"), format!("calls/s, {when}"), 1.0, 0));
    let plot = ["unary 1 32 rate", "unary 16 32 rate", "unary 1 1 rate"];
    placed(cores, "Unary calls: throughput", note, figures.collect(), ("throughput", &plot))
}

fn latencies(cores: Cores) -> Section {
    let figures = unary().flat_map(|(name, when)| {
        ["p50", "p99"].map(|quantile| {
            Figure::less(format!("{name} {quantile}"), format!("{quantile} in µs, {when}"), MICROS, 1)
        })
    });
    let plot = ["unary 1 1 p50", "unary 1 1 p99", "unary 1 32 p99"];
    placed(cores, "Unary calls: latency", "", figures.collect(), ("latency", &plot))
}

fn costs(cores: Cores) -> Section {
    let note = "User and system time of the two processes, from their clocks.";
    let figures = unary().flat_map(|(name, when)| {
        [
            ("cpu", "of both in µs per call"),
            ("server cpu", "of the server in µs"),
            ("client cpu", "of the client in µs"),
        ]
        .map(|(what, whose)| {
            Figure::less(format!("{name} {what}"), format!("CPU {whose}, {when}"), MICROS, 2)
        })
    });
    let plot = ["unary 1 32 cpu", "unary 16 32 cpu", "unary 1 1 cpu"];
    placed(cores, "Unary calls: processor time", note, figures.collect(), ("cpu", &plot))
}

fn streams(cores: Cores) -> Section {
    let note = "Exchanges of 64 bytes on one connection. Pipelined calls share a stream, where a call has one of its own otherwise; all calls of tarpc share the one of TCP, so these are its ordinary calls. A client stream is one request with items, as fast as they are taken, and one answer; bidi is an item and its answer in turn.";
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
        figures.push(Figure::more(format!("streams {series} rate"), format!("{unit}, {name}"), 1.0, 0));
        let title = format!("CPU of both in µs per {each}, {name}");
        figures.push(Figure::less(format!("streams {series} cpu"), title, MICROS, 2));
    }
    for in_flight in GAINS {
        let title = format!("pipelined by unary calls/s, {in_flight} in flight");
        figures.push(Figure::more(format!("streams gain {in_flight}"), title, 1.0, 2));
    }
    let plot = ["streams pipelined 32 rate", "streams upload rate", "streams bidi 1 rate"];
    placed(cores, "Streams", note, figures, ("streams", &plot))
}

/// A workload with a fixed list of figures, measured on all cores and on one.
struct Workload {
    title: &'static str,
    note: &'static str,
    /// Which is better, the metric, its title, the scale, and the digits behind the point.
    figures: &'static [(Better, &'static str, &'static str, f64, usize)],
    plot: (&'static str, &'static [&'static str]),
}

impl Workload {
    fn section(&self, cores: Cores) -> Section {
        let figures = self.figures.iter().map(|(better, metric, title, scale, digits)| match better {
            Better::More => Figure::more(*metric, *title, *scale, *digits),
            Better::Less => Figure::less(*metric, *title, *scale, *digits),
        });
        placed(cores, self.title, self.note, figures.collect(), self.plot)
    }
}

const FIXED: [Workload; 3] = [
    Workload {
        title: "Events",
        note: "Events of 32 bytes; the reference's have no payload at all. Following: from publishing an event by a call until the call is answered and the event is back on the stream. The reference on one thread writes the whole replay before any of it is sent, and quinn looks for each packet's data in all that was written; that is why it is slower than on two. tonic is ahead in replays as it is with payloads: the kernel's TCP acknowledges, and TLS seals 16 KiB at once. Brokers have a client that publishes and reads; that a node holds a log of its own, and a broker one for many, is not measured. nats-server is measured with JetStream, whose stream, here in memory, is what an event log is: core NATS stores nothing, and does not answer who publishes. Its replay reads the stream by an ordered consumer; following publishes, waits for the acknowledgement, and receives the message from such a consumer. MQTT has no log: a queue of a session is read once, by that session, so that mosquitto's replay is a subscription to as many topics with a retained message each, the nearest thing that can be read again. All that is delivered by mosquitto is acknowledged one by one, as QoS 1 wants it.",
        figures: &[
            (Better::More, "replay rate", "replay, events/s", 1.0, 0),
            (Better::Less, "replay cpu", "replay, CPU of both in µs per event", MICROS, 3),
            (Better::Less, "follow p50", "follow, p50 in µs", MICROS, 1),
            (Better::Less, "follow p99", "follow, p99 in µs", MICROS, 1),
            (Better::Less, "follow cpu", "follow, CPU of both in µs per event", MICROS, 1),
        ],
        plot: ("events", &["replay rate", "follow p50"]),
    },
    Workload {
        title: "Payloads of 512 KiB",
        note: "One at a time on one connection; 512 KiB less 64 bytes, so that a frame of 512 KiB holds one. palyra keeps to the windows of the protocol's limits, 128 KiB for a stream and 256 KiB for a connection, and sends 56 datagrams or batches of them for a payload; with the windows that quinn has by default it would be the 50 of bare quinn. To tonic and tarpc the kernel's TCP acknowledges, and a TLS record seals 16 KiB, a packet less than 1.5.",
        figures: &[
            (Better::More, "take rate", "payloads to the server, MiB/s", 1.0, 0),
            (Better::Less, "take cpu", "to the server, CPU of both in µs per payload", MICROS, 0),
            (Better::More, "give rate", "payloads from the server, MiB/s", 1.0, 0),
            (Better::Less, "give cpu", "from the server, CPU of both in µs per payload", MICROS, 0),
        ],
        plot: ("payloads", &["take rate", "give rate"]),
    },
    Workload {
        title: "Handshakes",
        note: "A full handshake with certificates of both sides (ECDSA P-256), one call, and the close; nothing is resumed. Servers of the reference, tonic and tarpc send tickets, as by default. TLS over TCP derives half as many keys as QUIC, and has no padding, which quinn reads byte by byte; docs/performance.md counts both. That is why tarpc is ahead.",
        figures: &[
            (Better::More, "handshakes 1 rate", "handshakes/s, one at a time", 1.0, 0),
            (Better::Less, "handshakes 1 cpu", "handshakes one at a time, CPU of both in µs", MICROS, 0),
            (Better::More, "handshakes 8 rate", "handshakes/s, eight at a time", 1.0, 0),
            (Better::Less, "handshakes 8 cpu", "handshakes eight at a time, CPU of both in µs", MICROS, 0),
        ],
        plot: ("handshakes", &["handshakes 1 rate", "handshakes 8 rate"]),
    },
];

fn crowd() -> Section {
    let note = "1,024 connections with four calls in flight each, on one server thread (two workers for reference-2). A single call that failed would be a failure here. To QUIC they come in by one socket, and what its receive buffer does not hold is lost, and sent again after a timeout. palyra asks for a buffer of 4 MiB, which `net.core.rmem_max` has to allow; bare quinn and s2n-quic are given the same, and the reference keeps the system's default, 208 KiB as a rule. tonic and tarpc have a buffer for each connection. 4,096 calls are always in flight, so that the median is what those take: 0.2 s at 20,000 calls/s. The client starts one call on each connection before it starts the second on any. Both runtimes run all these tasks before they send, so that the calls of a connection share datagrams from then on: about 0.8 for a call with bare quinn, and 1.0 with palyra.";
    let figures = vec![
        Figure::more("crowd rate", format!("calls/s, {CROWD} connections"), 1.0, 0),
        Figure::less("crowd p50", format!("p50 in ms, {CROWD} connections"), MILLIS, 1),
        Figure::less("crowd p99", format!("p99 in ms, {CROWD} connections"), MILLIS, 1),
        Figure::less("crowd cpu", "CPU of both in µs per call", MICROS, 2),
    ];
    unplaced("A crowd", note, figures, Some(("crowd", &["crowd rate", "crowd p99"])))
}

fn memory() -> Section {
    let note = "The node of each contender, built with profile `small`, from `/proc/PID/smaps_rollup`: with the pages of the program that it touched. Idle is after the start, with no events in the log.";
    let mut figures = vec![
        Figure::less("memory idle", "resident in MiB, idle server", 1.0 / MIB, 2),
        Figure::less("memory idle anonymous", "of it not a file's, in MiB", 1.0 / MIB, 2),
    ];
    for connections in IDLE_CONNECTIONS {
        let resident = format!("resident in MiB, idle connections: {connections}");
        figures.push(Figure::less(format!("memory {connections} resident"), resident, 1.0 / MIB, 2));
        let each = format!("KiB for each of {connections} idle connections");
        figures.push(Figure::less(format!("memory {connections} each"), each, 1.0 / 1024.0, 1));
    }
    let load = "resident in MiB, 32 calls in flight on 16 connections";
    figures.push(Figure::less("memory load", load, 1.0 / MIB, 2));
    let plot = ["memory idle", "memory 256 each", "memory load"];
    unplaced("Memory of the server", note, figures, Some(("memory", &plot)))
}

fn system_calls() -> Section {
    let note = "Per call, counted by `strace -c -f`, which slows both sides down, and so changes how much they gather.";
    let figures = vec![
        Figure::less("syscalls 1 server", "server, 1 in flight", 1.0, 2),
        Figure::less("syscalls 1 client", "client, 1 in flight", 1.0, 2),
        Figure::less("syscalls 32 server", "server, 32 in flight", 1.0, 2),
        Figure::less("syscalls 32 client", "client, 32 in flight", 1.0, 2),
    ];
    let plot = ["syscalls 1 server", "syscalls 32 server"];
    unplaced("System calls", note, figures, Some(("syscalls", &plot)))
}

fn idle() -> Section {
    let note = "The node of each contender with one connected client, both sides with a keep-alive of 5 s where there is one; tarpc and its TCP have none.";
    let figures = vec![
        Figure::less("idle wakeups", "wakeups a minute", 1.0, 0),
        Figure::less("idle share", "% of a core, idle with one peer", 100.0, 4),
    ];
    unplaced("An idle server", note, figures, None)
}

fn size() -> Section {
    let note = "The node of each contender: mutual TLS, four methods, events where it has them; profile `small`. Crates are those of the normal dependency tree.";
    let figures = vec![
        Figure::less("size bytes", "stripped program, MiB", 1.0 / MIB, 3),
        Figure::less("size crates", "crates", 1.0, 0),
        Figure::less("size seconds", "clean build, s", 1.0, 0),
    ];
    unplaced("Size", note, figures, Some(("size", &["size bytes", "size crates"])))
}
