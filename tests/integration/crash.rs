//! The program `examples/node`, killed without warning and started again: a follower gets every acknowledged
//! event, once.

use std::{
    collections::{BTreeMap, HashSet},
    env, fs,
    io::BufReader,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use palyra_quic::{
    Backoff, Client, ClientTls, Endpoint, ErrorKind, Identity, TransportLimits, Trust, WireError,
};
use serde_json::Value;

use crate::program::{binary, lines};

// Kill -9.

/// `PALYRA_CRASHES` asks for another number, and `PALYRA_CRASH_SEED` for the choices of a run that failed.
const CRASHES: u64 = 20;
/// Concurrent calls, so that commits have more than one event.
const LANES: u64 = 4;

#[test]
fn no_acknowledged_event_is_lost_or_changed_by_kill_9() {
    let crashes = env::var("PALYRA_CRASHES").map_or(CRASHES, |number| number.parse().unwrap());
    let seed = env::var("PALYRA_CRASH_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("PALYRA_CRASH_SEED={seed} PALYRA_CRASHES={crashes}");
    let mut rng = Rng::with_seed(seed);
    let begun = Instant::now();

    let node = Node::new();
    let first = node.serve("127.0.0.1:0", &[]);
    let address = first.address.clone();
    let mut follower = node.follow(&address);
    let ledger = Arc::new(Ledger::default());
    let publishers: Vec<_> = {
        let client = node.hasty_client(&address);
        (0..LANES).map(|lane| publish_on(lane, &client, &ledger, rng.fork())).collect()
    };

    // Which is there for the follower to get in.
    ledger.await_acknowledged(1);
    follower.read();
    first.kill();
    for _ in 1..crashes {
        let acknowledged = ledger.acknowledged();
        match rng.u8(..4) {
            // Among the first few things that it does.
            0 => {
                let newborn = node.spawn_server(&address, &[]);
                pass_by_chance(&mut rng, 60);
                newborn.kill();
            }
            // With open calls and hardly a pause between commits, whether the follower has found it or
            // not.
            1 | 2 => {
                let server = node.serve(&address, &["--commit-interval", "0"]);
                ledger.await_acknowledged(acknowledged + rng.usize(1..24));
                pass_by_chance(&mut rng, 25);
                server.kill();
            }
            // With a follower that has caught up.
            _ => {
                let server = node.serve(&address, &[]);
                ledger.await_acknowledged(acknowledged + 1);
                follower.read_to(ledger.newest());
                pass_by_chance(&mut rng, 25);
                server.kill();
            }
        }
    }

    let server = node.serve(&address, &[]);
    ledger.await_acknowledged(ledger.acknowledged() + 1);
    ledger.stop.store(true, Ordering::Relaxed);
    publishers.into_iter().for_each(smol::block_on);
    let replayed = node.replay(&address);
    let Some(Line::Event { seq: newest, .. }) = replayed.last() else { panic!("nothing was published") };
    follower.read_to(*newest);
    let (printed, losses) = follower.interrupt();
    server.kill();

    let account = Account::of(&ledger);
    let figures = account.check(&printed, &replayed).unwrap();
    println!(
        "{crashes} crashes in {:.1} s: {figures:?}, {losses} losses told by the follower",
        begun.elapsed().as_secs_f64()
    );
    println!("failed calls: {:?}", ledger.failures.lock().unwrap());
}

/// Not to wait for anything: chance decides at what the kill strikes.
fn pass_by_chance(rng: &mut Rng, at_most_ms: u64) {
    thread::sleep(Duration::from_micros(rng.u64(..at_most_ms * 1000)));
}

/// Publishes one event after the other, each with a payload that is nobody else's, until it is told to stop.
fn publish_on(lane: u64, client: &Client, ledger: &Arc<Ledger>, mut rng: Rng) -> smol::Task<()> {
    let (client, ledger) = (client.clone(), Arc::clone(ledger));
    smol::spawn(async move {
        for n in 0_u64.. {
            if ledger.stop.load(Ordering::Relaxed) {
                return;
            }
            let payload = format!("{lane}-{n}-{}", "x".repeat(rng.usize(..200)));
            match client.call_raw("demo.publish", payload.clone()).await {
                Ok(seq) => {
                    let seq = std::str::from_utf8(&seq).unwrap().parse().unwrap();
                    ledger.acknowledge(Published { seq, payload });
                }
                Err(error) => {
                    let mendable = matches!(
                        error.kind(),
                        ErrorKind::HandshakeTimeout
                            | ErrorKind::ConnectionLost
                            | ErrorKind::DeadlineExceeded
                            | ErrorKind::Remote(WireError::Unavailable)
                    );
                    assert!(mendable, "no crash explains {error:?}");
                    let (list, how) = if error.may_have_run() {
                        (&ledger.in_doubt, "in doubt")
                    } else {
                        (&ledger.refused, "refused")
                    };
                    list.lock().unwrap().push(payload);
                    *ledger.failures.lock().unwrap().entry(format!("{how}: {error}")).or_default() += 1;
                }
            }
        }
    })
}

// The end that was asked for.

#[test]
fn a_follower_survives_orderly_restarts() {
    let node = Node::new();
    let ticking = ["--publish-every", "3"];
    let mut server = node.serve("127.0.0.1:0", &ticking);
    let address = server.address.clone();
    let mut follower = node.follow(&address);
    for _ in 0..3 {
        follower.read_to(follower.newest() + 10);
        server.terminate();
        server = node.serve(&address, &ticking);
        // Certainly after the restart: all that was there before, and some more.
        follower.read_to(newest(&node.replay(&address)) + 1);
    }
    let (mut printed, losses) = follower.interrupt();
    let replayed = node.replay(&address);
    assert_eq!(losses, 3, "one line for each restart");
    assert!(newest(&replayed) >= newest(&printed));
    let more = History::of(&replayed).unwrap().events.into_iter().filter(|(seq, _)| *seq > newest(&printed));
    let epoch = printed[0].epoch();
    let more: Vec<_> =
        more.map(|(seq, payload)| Line::Event { seq, epoch, payload: payload.into() }).collect();
    printed.extend(more);
    assert_eq!(printed, replayed, "each event once");
}

/// The epoch goes on, and no number is used again: followers get on without knowing, and others get a gap.
#[test]
fn damage_costs_the_damaged_events_and_followers_go_on() {
    for damage in [Damage::Overwritten, Damage::Truncated] {
        let node = Node::new();
        let server = node.serve("127.0.0.1:0", &[]);
        let address = server.address.clone();
        let mut follower = node.follow(&address);
        for text in ["first", "second", "third"] {
            node.publish(&address, text);
        }
        follower.read_to(3);
        let epoch = follower.printed[0].epoch();
        server.kill();
        damage.inflict(&node.events);

        let server = node.serve(&address, &[]);
        let complaint = server.program.stderr.recv_timeout(TIMEOUT).unwrap();
        assert!(complaint.contains("lost to damage"), "{damage:?}: {complaint}");
        for text in ["anew", "and on"] {
            node.publish(&address, text);
        }
        let replayed = node.replay(&address);
        assert!(replayed.iter().all(|line| line.epoch() == epoch), "{damage:?}: {replayed:?}");
        let gaps: Vec<_> = replayed.iter().filter(|line| matches!(line, Line::Gap { .. })).collect();
        let expected = Line::Gap { first_seq: 3, missed: Some(1), epoch };
        match damage {
            Damage::Overwritten => assert_eq!(gaps, [&expected]),
            // Nobody knows how many there were: more numbers than that are not used again.
            Damage::Truncated => assert!(replayed.iter().all(|line| match line {
                Line::Event { seq, .. } => *seq > 3,
                Line::Gap { first_seq, .. } => *first_seq > 3,
            })),
        }
        let last = newest(&replayed);
        follower.read_to(last);
        let (printed, losses) = follower.interrupt();
        let texts = printed.iter().filter_map(|line| match line {
            Line::Event { payload, .. } => Some(payload.to_string()),
            Line::Gap { .. } => None,
        });
        assert_eq!(texts.collect::<Vec<_>>(), ["first", "second", "third", "anew", "and on"], "{damage:?}");
        assert_eq!(losses, 1, "{damage:?}");
        server.kill();
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Wherever an event's payload is.
    Overwritten,
    Truncated,
}

impl Damage {
    fn inflict(self, log: &Path) {
        let entries = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
        for file in entries.filter(|path| path.extension().is_some_and(|suffix| suffix == "segment")) {
            let mut bytes = fs::read(&file).unwrap();
            match self {
                Self::Overwritten => {
                    let text = b"second";
                    let at = position(&bytes, text).expect("the payload is in the file");
                    bytes[at..at + text.len()].fill(b'#');
                }
                // Behind the header.
                Self::Truncated => bytes.truncate(8192),
            }
            fs::write(&file, bytes).unwrap();
        }
    }
}

fn position(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

// What has to hold.

/// What the publishers know.
#[derive(Default)]
struct Ledger {
    acknowledged: Mutex<Vec<Published>>,
    progress: Condvar,
    /// Payloads of calls that failed and may have run.
    in_doubt: Mutex<Vec<String>>,
    /// Payloads of calls that failed and have certainly not run.
    refused: Mutex<Vec<String>>,
    failures: Mutex<BTreeMap<String, usize>>,
    stop: AtomicBool,
}

#[derive(Clone, Debug)]
struct Published {
    seq: u64,
    payload: String,
}

impl Ledger {
    fn acknowledge(&self, published: Published) {
        self.acknowledged.lock().unwrap().push(published);
        self.progress.notify_all();
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    fn await_acknowledged(&self, count: usize) {
        let acknowledged = self.acknowledged.lock().unwrap();
        let (_held, waited) =
            self.progress.wait_timeout_while(acknowledged, TIMEOUT, |list| list.len() < count).unwrap();
        assert!(
            !waited.timed_out(),
            "no call succeeded for {TIMEOUT:?}: {:?}",
            self.failures.lock().unwrap()
        );
    }

    fn newest(&self) -> u64 {
        self.acknowledged.lock().unwrap().iter().map(|published| published.seq).max().unwrap()
    }
}

/// What the publishers know in the end.
#[derive(Clone, Default)]
struct Account {
    acknowledged: Vec<Published>,
    in_doubt: Vec<String>,
    refused: Vec<String>,
}

/// How much was checked.
#[derive(Debug)]
#[allow(dead_code, reason = "read through `Debug`")]
struct Figures {
    acknowledged: usize,
    in_doubt: usize,
    in_doubt_published: usize,
    refused: usize,
    events_printed: usize,
    gaps_printed: usize,
}

impl Account {
    fn of(ledger: &Ledger) -> Self {
        Self {
            acknowledged: ledger.acknowledged.lock().unwrap().clone(),
            in_doubt: ledger.in_doubt.lock().unwrap().clone(),
            refused: ledger.refused.lock().unwrap().clone(),
        }
    }

    /// Whether the lines of a follower that was there from the first event on, and those of a replay in the
    /// end, are what they should be.
    fn check(&self, printed: &[Line], replayed: &[Line]) -> Result<Figures, String> {
        let follower = History::of(printed).map_err(|error| format!("the follower: {error}"))?;
        let replay = History::of(replayed).map_err(|error| format!("the replay: {error}"))?;
        if follower.first != 1 {
            return Err(format!("the follower began at {}", follower.first));
        }
        if follower.epoch != replay.epoch || follower.next != replay.next {
            return Err("the follower and the replay end in different places".into());
        }
        for (seq, payload) in &replay.events {
            if follower.events.get(seq).is_some_and(|printed| printed != payload) {
                return Err(format!("{seq} is not what it was"));
            }
        }

        let mut by_seq = BTreeMap::new();
        for Published { seq, payload } in &self.acknowledged {
            if by_seq.insert(*seq, &**payload).is_some() {
                return Err(format!("{seq} was acknowledged twice"));
            }
            for (who, history) in [("the follower", &follower), ("the replay", &replay)] {
                let excused = history.in_gap(*seq);
                match history.events.get(seq) {
                    Some(there) if there == payload => {}
                    None if excused => {}
                    there => return Err(format!("{seq} was {payload}, and {who} has {there:?}")),
                }
            }
        }
        let in_doubt: HashSet<_> = self.in_doubt.iter().map(String::as_str).collect();
        let mut seen = HashSet::new();
        for (seq, payload) in follower.events.iter().chain(&replay.events) {
            let known = by_seq.get(seq) == Some(payload) || in_doubt.contains(payload);
            if !known {
                // Of a call that has certainly not run, too.
                return Err(format!("nobody published {seq}: {payload}"));
            }
        }
        for (seq, payload) in &follower.events {
            if !seen.insert(*payload) {
                return Err(format!("{payload} was published again as {seq}"));
            }
        }
        Ok(Figures {
            acknowledged: self.acknowledged.len(),
            in_doubt: self.in_doubt.len(),
            in_doubt_published: in_doubt.intersection(&seen).count(),
            refused: self.refused.len(),
            events_printed: follower.events.len(),
            gaps_printed: follower.gaps.len(),
        })
    }
}

/// Lines that belong to one epoch and follow each other.
struct History<'a> {
    epoch: u64,
    first: u64,
    next: u64,
    events: BTreeMap<u64, &'a str>,
    /// Each from the first event that is missing to the next that is not.
    gaps: Vec<(u64, u64)>,
}

impl<'a> History<'a> {
    fn of(lines: &'a [Line]) -> Result<Self, String> {
        let Some(first) = lines.first() else { return Err("nothing was printed".into()) };
        let Line::Event { seq: first, epoch, .. } = *first else {
            return Err("a gap before the first event".into());
        };
        let mut history = Self { epoch, first, next: first, events: BTreeMap::new(), gaps: Vec::new() };
        for line in lines {
            if line.epoch() != epoch {
                return Err(format!("another epoch: {line:?}"));
            }
            match line {
                Line::Event { seq, payload, .. } => {
                    if *seq != history.next {
                        return Err(format!("{} is due, and this is {seq}", history.next));
                    }
                    history.events.insert(*seq, payload);
                    history.next += 1;
                }
                Line::Gap { first_seq, missed, .. } => {
                    if *first_seq <= history.next || *missed != Some(first_seq - history.next) {
                        return Err(format!("{} is due, and this is {line:?}", history.next));
                    }
                    history.gaps.push((history.next, *first_seq));
                    history.next = *first_seq;
                }
            }
        }
        Ok(history)
    }

    fn in_gap(&self, seq: u64) -> bool {
        seq < self.first || self.gaps.iter().any(|(from, to)| (*from..*to).contains(&seq))
    }
}

/// A line of `node events`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Event { seq: u64, epoch: u64, payload: String },
    Gap { first_seq: u64, missed: Option<u64>, epoch: u64 },
}

impl Line {
    fn parse(text: &str) -> Self {
        let line: Value = serde_json::from_str(text).unwrap();
        let number = |name: &str| line[name].as_u64();
        let epoch = number("epoch").unwrap();
        match line["kind"].as_str() {
            Some("event") => {
                let payload = line["payload"].as_str().unwrap().into();
                Self::Event { seq: number("seq").unwrap(), epoch, payload }
            }
            Some("gap") => {
                Self::Gap { first_seq: number("first_seq").unwrap(), missed: number("missed"), epoch }
            }
            _ => panic!("{text}"),
        }
    }

    fn epoch(&self) -> u64 {
        match self {
            Self::Event { epoch, .. } | Self::Gap { epoch, .. } => *epoch,
        }
    }
}

/// The number of the last event; 0 before the first.
fn newest(lines: &[Line]) -> u64 {
    let seqs = lines.iter().rev().filter_map(|line| match line {
        Line::Event { seq, .. } => Some(*seq),
        Line::Gap { .. } => None,
    });
    seqs.into_iter().next().unwrap_or_default()
}

// Whether the checks would notice.

/// Five events, of which the fourth is in doubt; a call that was refused, and one in doubt that has not run.
fn sound() -> (Account, Vec<Line>, Vec<Line>) {
    let lines: Vec<_> =
        (1..=5).map(|seq| Line::Event { seq, epoch: 7, payload: format!("p{seq}") }).collect();
    let acknowledged =
        [2, 1, 3, 5].map(|seq| Published { seq, payload: format!("p{seq}") }).into_iter().collect();
    let in_doubt = vec!["p4".into(), "never ran".into()];
    (Account { acknowledged, in_doubt, refused: vec!["refused".into()] }, lines.clone(), lines)
}

#[test]
fn the_checks_pass_correct_output() {
    let (account, printed, replayed) = sound();
    let figures = account.check(&printed, &replayed).unwrap();
    assert_eq!((figures.acknowledged, figures.in_doubt, figures.in_doubt_published), (4, 2, 1));

    let mut behind = printed.clone();
    behind.splice(1..3, [Line::Gap { first_seq: 4, missed: Some(2), epoch: 7 }]);
    assert_eq!(account.check(&behind, &replayed).unwrap().gaps_printed, 1, "a gap that counts right");
    assert!(account.check(&printed, &replayed[2..]).is_ok(), "a log that has forgotten its oldest");
}

#[test]
fn the_checks_notice_every_planted_fault() {
    type Fault = (&'static str, fn(&mut Account, &mut Vec<Line>, &mut Vec<Line>));
    fn set(line: &mut Line, text: &str) {
        match line {
            Line::Event { payload, .. } => *payload = text.into(),
            Line::Gap { .. } => panic!("an event is changed"),
        }
    }
    let faults: &[Fault] = &[
        ("a line is missing", |_, printed, _| _ = printed.remove(2)),
        ("the first line is missing", |_, printed, _| _ = printed.remove(0)),
        ("the last line is missing", |_, printed, _| _ = printed.pop()),
        ("nothing is printed", |_, printed, _| printed.clear()),
        ("a line is there twice", |_, printed, _| printed.insert(2, printed[2].clone())),
        ("lines are out of order", |_, printed, _| printed.swap(1, 2)),
        ("a payload is another's", |_, printed, _| set(&mut printed[2], "p4")),
        ("a payload is nobody's", |_, printed, replayed| {
            set(&mut printed[3], "made up");
            set(&mut replayed[3], "made up");
        }),
        ("a number is given to two payloads", |account, _, _| {
            account.acknowledged.push(Published { seq: 3, payload: "other".into() });
        }),
        ("a number is given again after a crash", |_, _, replayed| set(&mut replayed[3], "never ran")),
        ("an acknowledged event is lost everywhere", |_, printed, replayed| {
            printed.pop();
            replayed.pop();
        }),
        ("an event is published twice", |_, printed, replayed| {
            let again = Line::Event { seq: 6, epoch: 7, payload: "p4".into() };
            printed.push(again.clone());
            replayed.push(again);
        }),
        ("a call that was refused has run", |_, printed, replayed| {
            let refused = Line::Event { seq: 6, epoch: 7, payload: "refused".into() };
            printed.push(refused.clone());
            replayed.push(refused);
        }),
        ("another epoch", |_, _, replayed| {
            for line in replayed {
                let Line::Event { epoch, .. } = line else { panic!("only events") };
                *epoch = 8;
            }
        }),
        ("a gap that counts wrong", |_, printed, _| {
            printed.splice(1..3, [Line::Gap { first_seq: 4, missed: Some(1), epoch: 7 }]);
        }),
        ("a gap that does not count", |_, printed, _| {
            printed.splice(1..3, [Line::Gap { first_seq: 4, missed: None, epoch: 7 }]);
        }),
        ("the replay lacks an event", |_, _, replayed| _ = replayed.remove(2)),
        ("the replay has more", |account, _, replayed| {
            account.in_doubt.push("p6".into());
            replayed.push(Line::Event { seq: 6, epoch: 7, payload: "p6".into() });
        }),
    ];
    for (fault, plant) in faults {
        let (mut account, mut printed, mut replayed) = sound();
        plant(&mut account, &mut printed, &mut replayed);
        assert!(account.check(&printed, &replayed).is_err(), "{fault}");
    }
}

// The programs.

/// What takes this long hangs.
const TIMEOUT: Duration = Duration::from_secs(40);

/// A node's directory, which is gone with its handle.
pub(crate) struct Node {
    directory: PathBuf,
    events: PathBuf,
}

impl Node {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let unique = (process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = env::temp_dir().join(format!("palyra-quic-crash-{}-{}", unique.0, unique.1));
        // What another process of that number has left behind is nobody's any more.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        let node = Self { events: directory.join("events"), directory };
        let mut pki = Program::start(&["pki", "--dir", node.pki()]);
        assert_eq!(pki.ended(), (Some(0), String::new()));
        node
    }

    fn pki(&self) -> &str {
        self.directory.to_str().unwrap()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.directory.join(name)).unwrap()
    }

    fn spawn_server(&self, address: &str, options: &[&str]) -> Program {
        let durable = ["--durable", self.events.to_str().unwrap()];
        let command = [&["serve", "--listen", address, "--pki", self.pki()], &durable[..], options].concat();
        Program::start(&command)
    }

    /// A server that listens. The port of a server that has ended may be in use for a moment: the system
    /// may have given it to a socket that was bound to port 0.
    pub(crate) fn serve(&self, address: &str, options: &[&str]) -> Server {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let mut program = self.spawn_server(address, options);
            match program.stdout.recv_timeout(TIMEOUT) {
                Ok(line) => {
                    let listening: Value = serde_json::from_str(&line).unwrap();
                    let address = listening["listening"].as_str().unwrap().to_owned();
                    return Server { program, address };
                }
                Err(_) => {
                    let (_, complaint) = program.ended();
                    assert!(complaint.contains("in use") && Instant::now() < deadline, "{complaint}");
                }
            }
        }
    }

    fn client_program(&self, command: &str, address: &str, options: &[&str]) -> Program {
        Program::start(&[&[command, address, "--pki", self.pki()], options].concat())
    }

    fn follow(&self, address: &str) -> Follower {
        Follower { program: self.client_program("events", address, &["--follow"]), printed: Vec::new() }
    }

    /// What the log holds.
    fn replay(&self, address: &str) -> Vec<Line> {
        let mut replay = self.client_program("events", address, &[]);
        let lines = replay.stdout.iter().map(|line| Line::parse(&line)).collect();
        assert_eq!(replay.ended(), (Some(0), String::new()));
        lines
    }

    fn publish(&self, address: &str, text: &str) {
        let mut call = self.client_program("call", address, &["demo.publish", "--params", text]);
        assert_eq!(call.ended(), (Some(0), String::new()));
    }

    /// A client in this process, which finds out soon that the node is gone, and comes back soon.
    fn hasty_client(&self, address: &str) -> Client {
        let limits = TransportLimits::builder()
            .keep_alive_interval(Duration::from_millis(100))
            .idle_timeout(Duration::from_millis(400))
            .handshake_timeout(Duration::from_millis(400));
        self.client_within(limits.build().unwrap(), address)
    }

    /// A client in this process.
    pub(crate) fn client_within(&self, limits: TransportLimits, address: &str) -> Client {
        let identity = Identity::from_pem(&self.file("client.pem"), &self.file("client.key")).unwrap();
        let tls = ClientTls::new(Trust::from_pem(&self.file("ca.pem")).unwrap()).identity(identity);
        let endpoint = Endpoint::builder().client(tls).limits(limits);
        let endpoint = endpoint.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let backoff = Backoff::new().first(Duration::from_millis(5)).cap(Duration::from_millis(50));
        let client = Client::builder(endpoint).address(address.parse::<SocketAddr>().unwrap());
        client.backoff(backoff).build().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub(crate) struct Server {
    program: Program,
    pub(crate) address: String,
}

impl Server {
    /// The number of the process.
    #[cfg(target_os = "linux")]
    pub(crate) fn id(&self) -> u32 {
        self.program.child.id()
    }

    fn kill(self) {
        self.program.kill();
    }

    pub(crate) fn terminate(mut self) {
        self.program.signal("TERM");
        assert_eq!(self.program.ended(), (Some(0), String::new()));
    }
}

/// `node events --follow`.
struct Follower {
    program: Program,
    printed: Vec<Line>,
}

impl Follower {
    fn read(&mut self) {
        let line = self.program.stdout.recv_timeout(TIMEOUT).expect("another line");
        self.printed.push(Line::parse(&line));
    }

    /// Until this event, or a later one, is printed.
    fn read_to(&mut self, seq: u64) {
        while self.newest() < seq {
            self.read();
        }
    }

    fn newest(&self) -> u64 {
        newest(&self.printed)
    }

    /// All that it printed, and how often it told of a loss.
    fn interrupt(mut self) -> (Vec<Line>, usize) {
        self.program.signal("INT");
        self.printed.extend(self.program.stdout.iter().map(|line| Line::parse(&line)));
        let (code, complaints) = self.program.ended();
        assert_eq!(code, Some(0), "{complaints}");
        let told = complaints.lines().filter(|line| line.starts_with("reconnecting: ")).count();
        assert_eq!(told, complaints.lines().count(), "{complaints}");
        (self.printed, told)
    }
}

/// A child whose output is read as it comes, and which does not outlive its handle.
pub(crate) struct Program {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Program {
    fn start(args: &[&str]) -> Self {
        let mut node = Command::new(binary());
        node.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = node.spawn().unwrap();
        let stdout = lines(BufReader::new(child.stdout.take().unwrap()));
        let stderr = lines(BufReader::new(child.stderr.take().unwrap()));
        Self { child, stdout, stderr }
    }

    /// SIGKILL, for a program that runs and has had nothing to complain of.
    fn kill(mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        let complaints: String = self.stderr.iter().collect();
        assert_eq!((status.signal(), &*complaints), (Some(9), ""), "{status}");
    }

    fn signal(&self, name: &str) {
        // Not reaped yet, so the number is still the child's.
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
    }

    /// Waits for the end; gives the exit code, and what is left of standard error.
    fn ended(&mut self) -> (Option<i32>, String) {
        let mut complaints = String::new();
        loop {
            match self.stderr.recv_timeout(TIMEOUT) {
                Ok(line) => complaints.push_str(&line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("still running; so far: {complaints}"),
            }
        }
        (self.child.wait().unwrap().code(), complaints)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
