//! What people see: a table that is drawn again and again, or a line now and then, and the result.

use std::{fmt::Write, time::Duration};

use super::{
    board::ProcessState,
    fleet::{NamedLink, SensorLog},
    run::{Account, HarmCount, Totals},
};
use crate::{args::StageArgs, bounds::Bounds};

/// The rest of a state is not shown, so that a line has less than 90 columns.
const STATE_CHARS: usize = 22;
/// More faults of a log say nothing more.
const MAX_FAULTS: usize = 10;

/// How the fleet fares.
pub(crate) struct View<'a> {
    pub(crate) args: &'a StageArgs,
    pub(crate) seed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) done: &'a HarmCount,
    pub(crate) processes: &'a [ProcessState],
    pub(crate) links: &'a [NamedLink],
    pub(crate) logs: &'a [SensorLog],
}

/// A line of a table with a process.
struct Row<'a> {
    process: &'a ProcessState,
    log: &'a SensorLog,
    /// What this process follows; the sensor follows nothing.
    origin: Option<&'a ProcessState>,
    is_first: bool,
}

/// The table with all processes and links.
pub(crate) fn live(view: &View<'_>) -> String {
    let mut text = heading(view);
    text.push_str(
        "\n\nprocess   starts  log       state                     oldest   newest  behind    lost\n",
    );
    for row in rows(view) {
        text.push_str(&row.to_line());
    }
    text.push_str("\nlink                    state         datagrams lost\n");
    for NamedLink { name, link } in view.links {
        let state = match link.is_cut_for() {
            Some(left) => format!("cut, {:.1} s", left.as_secs_f64()),
            None => "open".into(),
        };
        let _ = writeln!(text, "{name:<22}  {state:<12}  {:>14}", link.lost());
    }
    text
}

/// The text in place of one with this many lines, above which the cursor is moved.
pub(crate) fn redraw(text: &str, drawn: usize) -> String {
    let mut redrawn = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
    for line in text.lines() {
        // The rest of what was there is erased.
        let _ = writeln!(redrawn, "{line}\x1b[K");
    }
    redrawn
}

/// All in a line: how far the centre is behind, and what the gateway found to be lost.
pub(crate) fn line(view: &View<'_>) -> String {
    let (mut newest, mut behind, mut lost) = (0, 0, 0);
    let [sensors @ .., gateway, centre] = view.processes else { return String::new() };
    for (SensorLog { log, .. }, sensor) in view.logs.iter().zip(sensors) {
        newest += sensor.newest(log);
        behind += sensor.newest(log).saturating_sub(centre.newest(log));
        lost += gateway.left_out(log);
    }
    format!("{}: {newest} events, the centre is {behind} behind, {lost} lost\n", heading(view))
}

/// What was done, and what became of each log.
pub(crate) fn result(totals: &Totals, accounts: &[Account]) -> String {
    let mut text = harms(totals);
    text.push_str("log        published  acknowledged    arrived   in gaps    gaps  result\n");
    for Account { log, acknowledged, verdict } in accounts {
        let result = match (verdict.faults.len(), log.bounds) {
            (0, Bounds::Newest) => "each once and in order, or in an explained gap",
            (0, _) => "each once and in order",
            _ => "FAILED",
        };
        let _ = writeln!(
            text,
            "{:<9}  {:>9}  {acknowledged:>12}  {:>9}  {:>8}  {:>6}  {result}",
            log.sensor, verdict.published, verdict.arrived, verdict.missing, verdict.gaps
        );
    }
    for Account { log, verdict, .. } in accounts {
        for fault in verdict.faults.iter().take(MAX_FAULTS) {
            let _ = writeln!(text, "{}: {fault}", log.sensor);
        }
        if let Some(more @ 1..) = verdict.faults.len().checked_sub(MAX_FAULTS) {
            let _ = writeln!(text, "{}: {more} more faults", log.sensor);
        }
    }
    let failed = accounts.iter().filter(|account| !account.verdict.faults.is_empty()).count();
    let _ = match failed {
        0 => writeln!(text, "all logs passed: {}", accounts.len()),
        _ => writeln!(text, "logs that failed: {failed} of {}, with seed {}", accounts.len(), totals.seed),
    };
    text
}

fn harms(totals: &Totals) -> String {
    let Totals { elapsed, done, processes, lost_datagrams, .. } = totals;
    let kills: Vec<_> =
        processes.iter().map(|process| format!("{} {}", process.name, process.kills)).collect();
    let mut text = format!(
        "\n{} kills ({}), {} of them of processes at work\n{} cuts and {} full disks, {lost_datagrams} datagrams \
         lost, {:.0} s\n",
        done.kills,
        kills.join(", "),
        done.kills_at_work,
        done.cuts,
        done.full_disks,
        elapsed.as_secs_f64()
    );
    for ProcessState { name, failures, .. } in processes.iter().filter(|process| process.failures > 0) {
        let _ = writeln!(text, "{name} ended with an error {failures} times, and was started again");
    }
    for ProcessState { name, crashes, .. } in processes {
        for crash in crashes {
            let _ = writeln!(text, "{name} crashed: {crash}");
        }
    }
    text.push('\n');
    text
}

fn heading(view: &View<'_>) -> String {
    let View { args, seed, elapsed, done, .. } = view;
    format!(
        "{:>4.0} s, seed {seed}: {} of {} kills, {} of {} cuts, {} of {} full disks",
        elapsed.as_secs_f64(),
        done.kills,
        args.kills,
        done.cuts,
        args.cuts,
        done.full_disks,
        args.full_disks
    )
}

fn rows<'a>(view: &View<'a>) -> Vec<Row<'a>> {
    let [sensors @ .., gateway, centre] = view.processes else { return Vec::new() };
    let of_sensors = sensors.iter().zip(view.logs);
    let row = |(process, log)| Row { process, log, origin: None, is_first: true };
    let mut rows: Vec<_> = of_sensors.clone().map(row).collect();
    for process in [gateway, centre] {
        rows.extend(of_sensors.clone().enumerate().map(|(number, (sensor, log))| {
            let origin = Some(if std::ptr::eq(process, gateway) { sensor } else { gateway });
            Row { process, log, origin, is_first: number == 0 }
        }));
    }
    rows
}

impl Row<'_> {
    fn to_line(&self) -> String {
        let Self { process, log, origin, is_first } = self;
        let SensorLog { sensor, log, .. } = log;
        let report = process.logs.get(log);
        let (first, last) = report.map_or((0, 0), |report| (report.first, report.last));
        let state = report.filter(|_| process.is_running).map_or("not running", |report| &report.state);
        let state: String = state.chars().take(STATE_CHARS).collect();
        let (name, starts) =
            if *is_first { (&*process.name, process.starts.to_string()) } else { ("", String::new()) };
        let (behind, lost) = match origin {
            None => (String::new(), String::new()),
            Some(origin) => {
                (origin.newest(log).saturating_sub(last).to_string(), process.left_out(log).to_string())
            }
        };
        format!(
            "{name:<9} {starts:>6}  {sensor:<8}  {state:<STATE_CHARS$}  {first:>8} {last:>8}  {behind:>6}  {lost:>6}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_drawn_over_the_one_before() {
        assert_eq!(redraw("a\nb\n", 0), "a\x1b[K\nb\x1b[K\n");
        assert_eq!(redraw("a\n", 2), "\x1b[2Aa\x1b[K\n");
    }
}
