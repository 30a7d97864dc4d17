//! Hostile peers at full scale, with figures: `cargo bench --bench attack`, and `-- NAME` for one attack.
//!
//! The node under attack is a process of its own, and so nothing of the attack is in its figures. What is
//! attacked, and what protects it, is in `docs/attacks.md`. Progress goes to stderr, and the result to stdout
//! as a Markdown table; exit code 1 where a target is missed.

#[path = "support/attack/mod.rs"]
mod attack;

use std::{env, fmt::Display, process::ExitCode, time::Duration};

use palyra_quic::Code;

use attack::{
    Result, Stage,
    crowds::{self, Same},
    forged, half_open,
    half_open::{Retries, Senders},
    items::{self, Fault, Holding},
    logs::{self, Claim},
    meter::Memory,
    revoked,
    streams::{self, Abuse, Announced, Announcing, Slowly},
    victim::{self, Setup, Victim},
    windows::{self, Filling},
};

const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1024 * 1024;
/// Hostile peers of the attacks that take a crowd.
const PEERS: u16 = 64;
const DEFAULT: Setup = Setup::Node("");
const WITHIN_16_MIB: Setup = Setup::Node("within=16777216");

fn main() -> Result<ExitCode> {
    if victim::is_wanted() {
        victim::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    // `cargo test --benches` starts this too, and is not to wait for it.
    if env::args().all(|arg| arg != "--bench") {
        return Ok(ExitCode::SUCCESS);
    }
    let wanted: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let mut figures = Figures::default();
    for (name, run) in ATTACKS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("{name}");
            figures.attack = name;
            let stage = Stage::new(&[])?;
            if let Err(error) = run(&stage, &mut figures) {
                figures.add("could be carried out", error, "yes", false);
            }
        }
    }
    if figures.rows.is_empty() {
        let names: Vec<&str> = ATTACKS.iter().map(|(name, _)| *name).collect();
        return Err(format!("there are these attacks: {}", names.join(", ")).into());
    }
    println!("| attack | figure | target | measured | verdict |\n|---|---|---|---|---|");
    for row in &figures.rows {
        println!("{row}");
    }
    Ok(if figures.missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Attack = (&'static str, fn(&Stage, &mut Figures) -> Result<()>);

const ATTACKS: [Attack; 13] = [
    ("spoofed", spoofed),
    ("half-open", stalled),
    ("loris", loris),
    ("reset", reset),
    ("announced", announced),
    ("windows", filled),
    ("gaps", gaps),
    ("revoked", revocation),
    ("crowds", crowded),
    ("items", items_held),
    ("item-faults", item_faults),
    ("acks", acknowledgements),
    ("logs", logs_followed),
];

/// The rows of the table.
#[derive(Default)]
struct Figures {
    attack: &'static str,
    rows: Vec<String>,
    missed: usize,
}

impl Figures {
    fn add(&mut self, what: impl Display, measured: impl Display, target: impl Display, met: bool) {
        let verdict = if met { "met" } else { "**missed**" };
        self.missed += usize::from(!met);
        let Self { attack, .. } = self;
        eprintln!("    {what}: {measured} (target {target}, {verdict})");
        self.rows.push(format!("| {attack} | {what} | {target} | {measured} | {verdict} |"));
    }

    /// What is only told.
    fn tell(&mut self, what: impl Display, measured: impl Display) {
        let Self { attack, .. } = self;
        eprintln!("    {what}: {measured}");
        self.rows.push(format!("| {attack} | {what} | – | {measured} | – |"));
    }

    fn memory(&mut self, what: impl Display, growth: Memory, most: u64) {
        let measured = format!("{} MiB (allocated: {})", mib(growth.resident), mib(growth.anonymous));
        self.add(what, measured, format!("≤ {} MiB", most / MIB), growth.resident <= most);
    }

    fn newcomers(&mut self, what: impl Display, newcomers: &[Option<Duration>]) {
        let slowest = newcomers.iter().flatten().max();
        let inside = newcomers.iter().flatten().count();
        let slowest = slowest.map_or_else(|| "–".to_owned(), |slowest| millis(*slowest));
        let measured = format!("{inside} of {}, slowest {slowest}", newcomers.len());
        self.add(what, measured, "each ≤ 5 s", inside == newcomers.len());
    }
}

fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / MIB;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn spoofed(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let scale = forged::Scale {
        rate: 5000,
        pairs: 10,
        phase: 2 * SECOND,
        sources: 512,
        newcomers: 10,
        patience: 5 * SECOND,
    };
    let victim = Victim::start(stage, DEFAULT)?;
    let seen = smol::block_on(forged::spoof(stage, &victim, &scale))?;
    figures.tell("Initials sent", seen.sent);
    let mut ratios = seen.ratios.clone();
    ratios.sort_by(f64::total_cmp);
    // What else the machine does hits one of a pair now and then, and then hits hard.
    let at = |quarter: usize| ratios.get(ratios.len() * quarter / 4).copied().unwrap_or(f64::INFINITY);
    let (lower, median, upper) = (at(1), at(2), at(3));
    let measured = format!("{median:.2} ({lower:.2}–{upper:.2})");
    figures.add(
        "p99 of calls, under attack by quiet, median (quartiles) of pairs",
        measured,
        "≤ 3",
        median <= 3.0,
    );
    let p99 = format!("{} by {}", millis(seen.attacked.p99()), millis(seen.quiet.p99()));
    figures.tell("p99 of all calls, under attack by quiet", p99);
    let p50 = format!("{} by {}", millis(seen.attacked.p50()), millis(seen.quiet.p50()));
    figures.tell("p50 of calls, under attack by quiet", p50);
    let processor = format!("{} by {}", millis(seen.processor.1), millis(seen.processor.0));
    figures.tell("the node's processor time in 20 s, under attack by quiet", processor);
    let failed = seen.attacked.failed;
    figures.add("calls that failed under attack", failed, "0", failed == 0);
    figures.memory("growth of the node", seen.growth, 4 * MIB);
    figures.newcomers("newcomers let in under attack", &seen.newcomers);
    Ok(())
}

fn stalled(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let (ignored, followed) = (Retries::Ignored, Retries::Followed);
    let addresses = Senders::Addresses;
    for (what, retries, senders, renewed) in [
        ("forged", ignored, addresses(512), 9 * SECOND),
        ("forged in the newcomers' name", ignored, Senders::Newcomers, 9 * SECOND),
        ("from one address", followed, addresses(1), 9 * SECOND),
        ("from 512 addresses", followed, addresses(512), 9 * SECOND),
        ("from 512 addresses, in a hurry", followed, addresses(512), SECOND / 5),
    ] {
        let scale = half_open::Scale {
            handshakes: 512,
            senders,
            retries,
            renewed,
            newcomers: 20,
            pause: SECOND / 2,
            patience: 5 * SECOND,
        };
        let victim = Victim::start(stage, DEFAULT)?;
        let seen = smol::block_on(half_open::half_open(stage, &victim, &scale))?;
        let begun = format!(
            "{} begun, {} after a Retry, {} answers let lie",
            seen.begun, seen.followed, seen.stalled
        );
        figures.tell(format_args!("{what}: handshakes"), begun);
        figures.newcomers(format_args!("{what}: newcomers let in"), &seen.newcomers);
        // What 256 connections and 64 handshakes are reckoned at.
        figures.memory(format_args!("{what}: growth of the node"), seen.growth, 11 * MIB);
    }
    Ok(())
}

fn loris(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let victim = Victim::start(stage, DEFAULT)?;
    let slowly = Slowly { pause: SECOND / 4, patience: 13 * SECOND };
    let seen = smol::block_on(streams::loris(stage, &victim, &slowly))?;
    let late = |code: Code| code == Code::DEADLINE_EXCEEDED;
    let ended: Vec<Duration> =
        seen.ended.iter().flatten().filter(|(_, code)| late(*code)).map(|(after, _)| *after).collect();
    let measured = format!(
        "{} of {}, the last after {}",
        ended.len(),
        seen.ended.len(),
        millis(ended.iter().max().copied().unwrap_or_default())
    );
    let met = ended.len() == seen.ended.len() && ended.iter().all(|after| *after <= 11 * SECOND);
    figures.add("streams ended with DEADLINE_EXCEEDED", measured, "64 of 64 within 10 s + 1 s", met);
    figures.tell("p99 of others' calls meanwhile", millis(seen.others.p99()));
    figures.add("others' calls that failed", seen.others.failed, "0", seen.others.failed == 0);
    Ok(())
}

fn reset(stage: &Stage, figures: &mut Figures) -> Result<()> {
    for (what, abuse) in [
        ("open and reset", Abuse::Reset),
        ("empty", Abuse::Empty),
        ("invalid", Abuse::Invalid),
        ("given up", Abuse::GivenUp),
    ] {
        let victim = Victim::start(stage, DEFAULT)?;
        let seen = smol::block_on(streams::abuse(stage, &victim, abuse, 100_000))?;
        let closed = match seen.closed {
            Some(code) => format!("{code} after {} streams and {}", seen.streams, millis(seen.took)),
            None => format!("open after {} streams and {}", seen.streams, millis(seen.took)),
        };
        let met = seen.closed == Some(Code::EXCESSIVE_LOAD);
        figures.add(format_args!("{what}: the connection"), closed, "closed with EXCESSIVE_LOAD", met);
        let processor = millis(seen.processor);
        figures.add(
            format_args!("{what}: the node's processor time"),
            processor,
            "≤ 1 s",
            seen.processor <= SECOND,
        );
        figures.memory(format_args!("{what}: growth of the node"), seen.growth, 4 * MIB);
        let failed = seen.others.failed;
        figures.add(format_args!("{what}: others' calls that failed"), failed, "0", failed == 0);
    }
    Ok(())
}

fn announced(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let frame = 512 * 1024;
    let mut report = |what: &str, missing: u32, most: u64| -> Result<()> {
        let victim = Victim::start(stage, DEFAULT)?;
        let announcing = Announcing { peers: PEERS, frame, missing, hold: 8 * SECOND };
        let seen: Announced = smol::block_on(streams::announce(stage, &victim, &announcing))?;
        figures.memory(format_args!("{what}: growth of the node"), seen.growth, most);
        let sent = mib(u64::try_from(seen.sent)?);
        figures.tell(format_args!("{what}: taken from the peers"), format_args!("{sent} MiB"));
        figures.tell(format_args!("{what}: p99 of others' calls"), millis(seen.others.p99()));
        let failed = seen.others.failed;
        figures.add(format_args!("{what}: others' calls that failed"), failed, "0", failed == 0);
        figures.newcomers(format_args!("{what}: newcomer let in"), &[seen.newcomer]);
        Ok(())
    };
    let connections = u64::from(PEERS);
    // What `worst_case_bytes` reckons a connection and 64 streams at.
    report("one byte each", frame - 1, connections * (40 + 64 * 4) * 1024)?;
    // Twice the budget, as `worst_case_bytes` reckons, the windows, and the connections themselves.
    report("all but one byte", 1, 2 * 32 * MIB + 48 * MIB + connections * (40 + 64 * 4 + 768) * 1024)
}

fn filled(stage: &Stage, figures: &mut Figures) -> Result<()> {
    for (what, filling) in [
        ("unfinished frames", Filling::Unfinished),
        ("byte by byte", Filling::Trickled),
        ("unread answers", Filling::Unread),
        ("unread answers and unfinished frames", Filling::Both),
    ] {
        fill(stage, figures, what, WITHIN_16_MIB, filling, 16 * MIB)?;
    }
    Ok(())
}

fn gaps(stage: &Stage, figures: &mut Figures) -> Result<()> {
    fill(stage, figures, "every other byte", WITHIN_16_MIB, Filling::Gaps(windows::GAPS), 16 * MIB)
}

fn fill(
    stage: &Stage,
    figures: &mut Figures,
    what: &str,
    setup: Setup,
    filling: Filling,
    most: u64,
) -> Result<()> {
    let victim = Victim::start(stage, setup)?;
    let scale = windows::Scale { peers: PEERS - 2, frame: 32 * 1024, hold: 4 * SECOND };
    let seen = smol::block_on(windows::fill(stage, &victim, filling, &scale))?;
    figures.memory(format_args!("{what}: growth of the node"), seen.growth, most);
    let peers = format!("{} of {PEERS} connections, {} streams", seen.open + 1, seen.streams);
    figures.tell(format_args!("{what}: open in the end"), peers);
    let cheap = seen.processor <= SECOND;
    figures.add(format_args!("{what}: the node's processor time"), millis(seen.processor), "≤ 1 s", cheap);
    figures.newcomers(format_args!("{what}: newcomer let in"), &[seen.newcomer]);
    Ok(())
}

fn revocation(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let mut victim = Victim::start(stage, DEFAULT)?;
    let scale = revoked::Scale { peers: 200 };
    let seen = smol::block_on(revoked::revoke(stage, &mut victim, &scale))?;
    let yes_no = |yes| if yes { "yes" } else { "no" };
    figures.add("answered on a fresh connection", yes_no(seen.fresh), "no", !seen.fresh);
    figures.add("given something to resume with", yes_no(seen.kept), "no", !seen.kept);
    figures.add("answered with what it had kept", yes_no(seen.resumed), "no", !seen.resumed);
    let (closed, met) = match seen.closed {
        Some((after, code)) => {
            let name = code.map_or_else(|| "not by the node".to_owned(), |code| code.to_string());
            let met = after <= SECOND && code == Some(Code::IDENTITY_REJECTED);
            (format!("{name} after {}", millis(after)), met)
        }
        None => ("stays".to_owned(), false),
    };
    figures.add("open connection closed, among 200", closed, "IDENTITY_REJECTED within 1 s", met);
    figures.add("others still served", seen.others, "199", seen.others == 199);
    Ok(())
}

fn crowded(stage: &Stage, figures: &mut Figures) -> Result<()> {
    for (what, same, setup, most) in [
        ("one certificate", Same::Certificate, Setup::Node("max_connections_per_identity=4"), 4),
        ("one address", Same::Address, Setup::Node("max_connections_per_address=4"), 4),
        ("one address, rate 5/s", Same::Address, Setup::Node("connection_rate=5"), 60),
    ] {
        let victim = Victim::start(stage, setup)?;
        let seen = smol::block_on(crowds::connect(stage, &victim, same, 300))?;
        let inside = format!("{} of 300 ({} after the handshake)", seen.inside, seen.connected);
        figures.add(
            format_args!("{what}: connections that the attacker has"),
            inside,
            format_args!("≤ {most}"),
            seen.inside <= most,
        );
        figures.tell(format_args!("{what}: the node's processor time"), millis(seen.processor));
        let failed = seen.others.failed;
        figures.add(format_args!("{what}: others' calls that failed"), failed, "0", failed == 0);
        figures.newcomers(format_args!("{what}: newcomer let in"), &[seen.newcomer]);
    }
    let victim = Victim::start(stage, Setup::Node("request_rate=100"))?;
    let seen = smol::block_on(crowds::hurry(stage, &victim, 2000))?;
    let answered = format!("{} of {}", seen.answered, seen.calls);
    figures.add("100 requests/s allowed: served of 2,000", answered, "≤ 400", seen.answered <= 400);
    let closed = seen.closed.map_or_else(|| "open".to_owned(), |code| code.to_string());
    let met = seen.closed == Some(Code::RATE_LIMITED);
    figures.add("100 requests/s allowed: the connection", closed, "closed with RATE_LIMITED", met);
    Ok(())
}

fn acknowledgements(stage: &Stage, figures: &mut Figures) -> Result<()> {
    const COUNT: u32 = 20_000;
    for (what, claim, answer, expected) in [
        ("many names", Claim::ManyNames, "result", 64),
        ("forged", Claim::Forged, "permission_denied", COUNT),
        ("of the future", Claim::Future, "invalid_request", COUNT),
        ("a flood", Claim::Flood, "result", COUNT),
    ] {
        let victim = Victim::start(stage, DEFAULT)?;
        let seen = smol::block_on(logs::acknowledge(stage, &victim, claim, COUNT))?;
        let answered = seen.answered(answer);
        figures.add(
            format_args!("{what}: answered {answer}, of 20,000"),
            answered,
            expected,
            answered == expected,
        );
        figures.memory(format_args!("{what}: growth of the node"), seen.growth, 4 * MIB);
        let per_call = seen.processor / COUNT;
        figures.tell(format_args!("{what}: the node's processor time for each"), format!("{per_call:.1?}"));
        let failed = seen.others.failed;
        figures.add(format_args!("{what}: others' calls that failed"), failed, "0", failed == 0);
    }
    Ok(())
}

fn logs_followed(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let victim = Victim::start(stage, WITHIN_16_MIB)?;
    let seen = smol::block_on(logs::follow(stage, &victim, PEERS - 2, 4 * SECOND))?;
    figures.tell("subscriptions", seen.streams);
    figures.memory("growth of the node", seen.growth, 16 * MIB);
    figures.tell("the node's processor time", millis(seen.processor));
    figures.add("others' calls that failed", seen.others.failed, "0", seen.others.failed == 0);
    figures.newcomers("newcomer let in", &[seen.newcomer]);
    Ok(())
}

fn items_held(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let slowly = Setup::Node("within=16777216,request_read_timeout=2000");
    for (what, setup, holding) in [
        ("unread items", WITHIN_16_MIB, Holding::UnreadItems),
        ("10,000 unread calls on each stream", WITHIN_16_MIB, Holding::UnreadAnswers),
        ("unfinished items", WITHIN_16_MIB, Holding::UnfinishedItems),
        ("requests without their items", WITHIN_16_MIB, Holding::NoItems),
        ("slow items", slowly, Holding::SlowItems),
        ("slow calls", slowly, Holding::SlowCalls),
    ] {
        let victim = Victim::start(stage, setup)?;
        let scale = items::Scale { peers: PEERS - 2, item: 16 * 1024, hold: 4 * SECOND };
        let seen = smol::block_on(items::hold(stage, &victim, holding, &scale))?;
        figures.tell(format_args!("{what}: streams"), seen.streams);
        figures.memory(format_args!("{what}: growth of the node"), seen.growth, 16 * MIB);
        figures.tell(format_args!("{what}: the node's processor time"), millis(seen.processor));
        if setup == slowly {
            let late = seen.stopped.iter().filter(|code| **code == Code::DEADLINE_EXCEEDED).count();
            let measured =
                format!("{} of {}, {late} with DEADLINE_EXCEEDED", seen.stopped.len(), seen.streams);
            let met = late > 0 && seen.stopped.len() == seen.streams;
            figures.add(format_args!("{what}: streams stopped within 4 s"), measured, "all", met);
        }
        let failed = seen.others.failed;
        figures.add(format_args!("{what}: others' calls that failed"), failed, "0", failed == 0);
        figures.tell(format_args!("{what}: p99 of others' calls"), millis(seen.others.p99()));
        figures.newcomers(format_args!("{what}: newcomer let in"), &[seen.newcomer]);
    }
    Ok(())
}

fn item_faults(stage: &Stage, figures: &mut Figures) -> Result<()> {
    for (what, fault) in [
        ("too large", Fault::TooLarge),
        ("of the wrong shape", Fault::WrongShape),
        ("calls of the wrong shape, on one stream", Fault::WrongCalls),
        ("for a method that takes none", Fault::ForOthers),
        ("calls given up when they are sent", Fault::GivenUp),
        ("items reset after every byte", Fault::ResetItems),
        ("calls reset after every byte", Fault::ResetCalls),
    ] {
        let victim = Victim::start(stage, DEFAULT)?;
        let seen = smol::block_on(items::abuse(stage, &victim, fault, 100_000))?;
        let closed = seen.closed.map_or_else(|| "open".to_owned(), |code| code.to_string());
        let measured = format!("{closed} after {}", seen.done);
        let met = seen.closed == Some(Code::EXCESSIVE_LOAD);
        figures.add(format_args!("{what}: the connection"), measured, "closed with EXCESSIVE_LOAD", met);
        let cheap = seen.processor <= SECOND;
        let processor = millis(seen.processor);
        figures.add(format_args!("{what}: the node's processor time"), processor, "≤ 1 s", cheap);
        figures.memory(format_args!("{what}: growth of the node"), seen.growth, 4 * MIB);
        let failed = seen.others.failed;
        figures.add(format_args!("{what}: others' calls that failed"), failed, "0", failed == 0);
    }
    let victim = Victim::start(stage, DEFAULT)?;
    let seen = smol::block_on(items::after_end(stage, &victim, 2000))?;
    let measured = format!("{} of 2,000 in {}", seen.answered, millis(seen.took));
    let met = seen.answered == 2000 && seen.closed.is_none();
    figures.add("behind the answer: answered, the connection stays", measured, "2,000", met);
    figures.memory("behind the answer: growth of the node", seen.growth, 4 * MIB);
    Ok(())
}
