//! A page in Markdown, and plots beside it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Result, brokers,
    contenders::{CONTENDERS, LARGE, PALYRA, SLEEPS},
    figures::{Better, Figure, Section, sections},
    floor::{CIPHERS, PACKETS},
    goals::{Goal, RACERS, goals, races},
    measure::Plan,
    plot::{Bar, Panel, Target, svg},
    processes::Cores,
    results::{Outcome, Quartiles, Results},
};

/// Where the report goes: what is less than everything does not replace the page in docs.
pub fn directory(plan: &Plan) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    if plan.is_whole() { here.join("../../docs/benchmarks") } else { here.join("target/report") }
}

pub fn write(plan: &Plan, results: &Results, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let page = page(plan, results, directory)?;
    fs::write(directory.join("README.md"), &page)?;
    // In another directory, plots may be somebody else's.
    if plan.is_whole() && directory == self::directory(plan) {
        remove_stale_plots(&page, directory)?;
    }
    eprintln!("written to {}", directory.join("README.md").display());
    if plan.only.is_some() {
        print!("{page}");
    }
    Ok(())
}

/// Removes the plots of earlier runs that this page does not show.
fn remove_stale_plots(page: &str, directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".svg") && !page.contains(&format!("]({name})")) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn page(plan: &Plan, results: &Results, directory: &Path) -> Result<String> {
    let mut out = String::from("# palyra-quic beside others\n\n");
    preface(&mut out, plan, results)?;
    let sections = sections();
    targets(&mut out, &sections, results)?;
    standings(&mut out, &sections, results)?;
    for section in &sections {
        if !section.figures.iter().any(|figure| results.has(&figure.metric)) {
            continue;
        }
        writeln!(out, "## {}\n", section.title)?;
        if !section.note.is_empty() {
            writeln!(out, "{}\n", section.note)?;
        }
        if let Some((file, metrics)) = &section.plot {
            let panels: Vec<_> =
                metrics.iter().filter_map(|metric| panel(section, metric, results)).collect();
            fs::write(directory.join(file), svg(&section.title, &panels))?;
            writeln!(out, "![{}]({file})\n", section.title)?;
        }
        tables(&mut out, section, results)?;
    }
    floor(&mut out, results)?;
    failures(&mut out, results)?;
    Ok(out)
}

fn preface(out: &mut String, plan: &Plan, results: &Results) -> Result<()> {
    writeln!(
        out,
        "Written by `cargo run --release --manifest-path benches/peers/Cargo.toml -- run`{} on {}, of commit {}.\n",
        if !plan.is_whole() { ", **cut short: not to be relied on**," } else { "" },
        said_by("date", &["+%F"]),
        said_by("git", &["describe", "--always", "--dirty"])
    )?;
    writeln!(
        out,
        "Machine: {}. Linux {}, {}. Load when it was done: {}. The \
         run took {} minutes.\n",
        processor(),
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        said_by("rustc", &["--version"]),
        fs::read_to_string("/proc/loadavg")
            .unwrap_or_default()
            .split(' ')
            .take(3)
            .collect::<Vec<_>>()
            .join(" "),
        results.took.as_secs().div_ceil(60)
    )?;
    writeln!(
        out,
        "Server and client are processes of their own on this machine, over loopback, with TLS 1.3 and certificates of both \
         sides. In each of {} rounds all contenders take turns, forwards and backwards by turns (memory, system calls and the \
         crowd in a third of the rounds, idleness and size once). What is said to be on one core has server and client \
         on the same one (`taskset -c 0`), as on a small node: neither can work while the other does, so that the \
         amount of work counts. Figures are medians; a ratio is palyra's figure by the \
         other's in the same round, and what is shown is the median of the ratios with their quartiles. ↑ is better when \
         larger, ↓ when smaller.\n",
        plan.rounds
    )?;
    writeln!(out, "| contender | what it is |\n|---|---|")?;
    for contender in &CONTENDERS {
        let version = match contender.broker.map(|program| (program, brokers::find(program))) {
            None => String::new(),
            Some((_, Some(path))) => format!(" ({})", brokers::version(&path)),
            Some((program, None)) => format!("; left out, because {program} was not installed"),
        };
        writeln!(out, "| {} | {}{version} |", contender.name, contender.what)?;
    }
    out.push('\n');
    Ok(())
}

fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map_or_else(|_| "?".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut models = info.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    format!("{cores} × {}", models.next().map_or("processors of an unknown model", |(_, model)| model))
}

fn targets(out: &mut String, sections: &[Section], results: &Results) -> Result<()> {
    writeln!(
        out,
        "## Targets\n\nAgainst the reference, whichever of its two configurations does better in that figure counts. Quartiles in \
         parentheses.\n\n| figure | target | of | measured | |\n|---|---|---|---|---|"
    )?;
    let (mut met, mut missed) = (0, 0);
    for goal in goals() {
        let Some(figure) = find(sections, goal.metric) else { continue };
        let sign = if figure.better == Better::More { '≥' } else { '≤' };
        let bound = match goal.rivals {
            [] => shown(figure, goal.bound),
            rivals => format!("{} × {}", goal.bound, whose(rivals)),
        };
        let measured = match goal.value(results, figure.better) {
            None => "– | not measured".to_owned(),
            Some((value, rival)) => {
                let measured = match rival {
                    Some(rival) => format!("{} {rival}", ratio(value)),
                    None => spread(figure, value),
                };
                let is_met = goal.met(figure.better, value.median);
                if is_met {
                    met += 1
                } else {
                    missed += 1
                }
                format!("{measured} | {}", if is_met { "met" } else { "**missed**" })
            }
        };
        writeln!(out, "| {} | {sign} {bound} | {} | {measured} |", figure.title, goal.ours)?;
    }
    writeln!(out, "\n{met} targets are met, and {missed} are missed.\n")?;
    Ok(())
}

fn whose(rivals: &[&'static str]) -> &'static str {
    match rivals {
        [rival] => rival,
        _ => "the better reference",
    }
}

/// Who is ahead where.
fn standings(out: &mut String, sections: &[Section], results: &Results) -> Result<()> {
    writeln!(
        out,
        "One figure of each workload, in how many times as good ours is:\n\n\
         | | against | cores | ahead in | behind in |\n|---|---|---|---|---|"
    )?;
    for racer in RACERS {
        for ours in [PALYRA, SLEEPS] {
            for cores in [Cores::All, Cores::First] {
                standing(out, sections, results, (ours, racer), cores)?;
            }
        }
    }
    out.push('\n');
    Ok(())
}

fn standing(
    out: &mut String,
    sections: &[Section],
    results: &Results,
    (ours, racer): (&'static str, &'static str),
    cores: Cores,
) -> Result<()> {
    let mut behind = Vec::new();
    let mut ahead = 0;
    for metric in races(cores) {
        let Some(figure) = find(sections, &metric) else { continue };
        let Some(ratios) = results.ratios(&metric, ours, racer) else { continue };
        let times = if figure.better == Better::More { ratios.median } else { 1.0 / ratios.median };
        if times >= 1.0 { ahead += 1 } else { behind.push(format!("{} ({times:.2} ×)", figure.title)) }
    }
    let total = ahead + behind.len();
    let placement = if cores == Cores::All { "all" } else { "one" };
    let behind = if behind.is_empty() { "–".to_owned() } else { behind.join("; ") };
    if total > 0 {
        writeln!(out, "| {ours} | {racer} | {placement} | {ahead} of {total} | {behind} |")?;
    }
    Ok(())
}

fn find<'a>(sections: &'a [Section], metric: &str) -> Option<&'a Figure> {
    sections.iter().flat_map(|section| &section.figures).find(|figure| figure.metric == metric)
}

fn tables(out: &mut String, section: &Section, results: &Results) -> Result<()> {
    let figures: Vec<_> = section.figures.iter().filter(|figure| results.has(&figure.metric)).collect();
    let columns: Vec<_> = CONTENDERS
        .iter()
        .map(|contender| contender.name)
        .filter(|name| figures.iter().any(|figure| !results.of(&figure.metric, name).is_empty()))
        .collect();
    writeln!(out, "| median | {} |\n|---|{}", columns.join(" | "), "---|".repeat(columns.len()))?;
    for figure in &figures {
        let cells: Vec<_> = columns.iter().map(|name| cell(figure, results, name)).collect();
        writeln!(out, "| {} {} | {} |", figure.title, figure.better.arrow(), cells.join(" | "))?;
    }
    for ours in [PALYRA, LARGE] {
        if columns.contains(&ours) {
            let others: Vec<_> = columns.iter().filter(|name| **name != ours).copied().collect();
            ratios(out, &figures, results, ours, &others)?;
        }
    }
    out.push('\n');
    Ok(())
}

fn ratios(
    out: &mut String,
    figures: &[&Figure],
    results: &Results,
    ours: &'static str,
    others: &[&'static str],
) -> Result<()> {
    writeln!(out, "\n| {ours} by | {} |\n|---|{}", others.join(" | "), "---|".repeat(others.len()))?;
    for figure in figures {
        let ratio_to = |name: &&'static str| results.ratios(&figure.metric, ours, name);
        let cells: Vec<_> = others.iter().map(|name| ratio_to(name).map_or("–".to_owned(), ratio)).collect();
        writeln!(out, "| {} {} | {} |", figure.title, figure.better.arrow(), cells.join(" | "))?;
    }
    Ok(())
}

/// The median; where there is none, why. A figure that some rounds failed to give says so.
fn cell(figure: &Figure, results: &Results, name: &'static str) -> String {
    let outcomes = results.of(&figure.metric, name);
    let failed = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).count();
    match (results.median(&figure.metric, name), outcomes.first()) {
        (Some(median), _) if failed == 0 => figure.display(median),
        (Some(median), _) => format!("{} (failed {failed} of {})", figure.display(median), outcomes.len()),
        (None, Some((_, Outcome::NotOffered(why)))) => why.clone(),
        (None, Some(_)) => "**failed**".to_owned(),
        (None, None) => "–".to_owned(),
    }
}

fn ratio(Quartiles { lower, median, upper }: Quartiles) -> String {
    let digits = if median >= 10.0 { 1 } else { 2 };
    format!("{median:.digits$} ({lower:.digits$}–{upper:.digits$})")
}

fn spread(figure: &Figure, Quartiles { lower, median, upper }: Quartiles) -> String {
    format!("{} ({}–{})", figure.display(median), figure.display(lower), figure.display(upper))
}

/// A bound as its figure is shown, without needless zeros.
fn shown(figure: &Figure, value: f64) -> String {
    let text = figure.display(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn panel(section: &Section, metric: &str, results: &Results) -> Option<Panel> {
    let figure = section.figures.iter().find(|figure| figure.metric == metric)?;
    let bars = CONTENDERS.iter().filter_map(|contender| {
        let quartiles = results.quartiles(metric, contender.name)?;
        Some(Bar {
            label: contender.name,
            value: quartiles.median,
            spread: (quartiles.lower, quartiles.upper),
            text: figure.display(quartiles.median),
            ours: [PALYRA, SLEEPS, LARGE].contains(&contender.name),
        })
    });
    let target =
        goals().iter().find(|goal| goal.metric == metric).and_then(|goal| target(goal, figure, results));
    let direction = if figure.better == Better::More { "longer is better" } else { "shorter is better" };
    Some(Panel { title: format!("{} ({direction})", figure.title), bars: bars.collect(), target })
}

fn target(goal: &Goal, figure: &Figure, results: &Results) -> Option<Target> {
    let value = goal.line(results, figure.better)?;
    let of = match goal.rivals {
        [] => String::new(),
        rivals => format!(" ({} × {})", goal.bound, whose(rivals)),
    };
    Some(Target { value, text: format!("target {}{of}", shown(figure, value)) })
}

fn floor(out: &mut String, results: &Results) -> Result<()> {
    if !results.has("seal 128") {
        return Ok(());
    }
    writeln!(
        out,
        "## The cipher\n\n*ring* alone, which all contenders use but `udp` and the brokers: palyra with AES-128-GCM, the others with AES-256-GCM, as \
         rustls prefers it. It is what nobody gets below for a packet. An exchange of small packets seals and opens at least two.\n\n\
         | cipher | packet | sealing, ns | opening, ns |\n|---|---|---|---|"
    )?;
    for (cipher, ..) in CIPHERS {
        for packet in PACKETS {
            let nanos = |what: &str| {
                let seconds = results.median(&format!("{what} {packet}"), cipher);
                seconds.map_or("–".to_owned(), |seconds| format!("{:.0}", seconds * 1e9))
            };
            writeln!(out, "| {cipher} | {packet} bytes | {} | {} |", nanos("seal"), nanos("open"))?;
        }
    }
    out.push('\n');
    Ok(())
}

fn failures(out: &mut String, results: &Results) -> Result<()> {
    let failures = results.failures();
    if failures.is_empty() {
        return Ok(());
    }
    writeln!(out, "## Failures\n\n| contender | what it said | figures lost |\n|---|---|---|")?;
    for ((contender, why), count) in failures {
        writeln!(out, "| {contender} | {} | {count} |", why.replace('|', "/"))?;
    }
    out.push('\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_that_the_page_does_not_show_are_removed() {
        let directory = std::env::temp_dir().join(format!("peers-report-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for name in ["core.svg", "streams-core.svg", "notes.md"] {
            fs::write(directory.join(name), "").unwrap();
        }
        remove_stale_plots("![Streams](streams-core.svg)", &directory).unwrap();
        let left = ["core.svg", "streams-core.svg", "notes.md"].map(|name| directory.join(name).exists());
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(left, [false, true, true]);
    }
}
