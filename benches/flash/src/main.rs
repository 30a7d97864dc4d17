//! What an event log costs flash, beside SQLite and a plain file:
//! `cargo run --release --manifest-path benches/flash/Cargo.toml`, as root.
//!
//! All of them write in turns, on an ext4 file system of their own with blocks of 4 KiB, in an image on a
//! loop device. Counts what reaches the device, and takes the time. Progress goes to stderr, and the result
//! to stdout as Markdown tables.

mod crowd;
mod device;
mod writers;

use std::time::Duration;

use device::{Cost, Device};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ROUNDS: usize = 9;
const EVENT: [u8; 64] = [b'x'; 64];
const BLOCK: f64 = 4096.0;

fn main() -> Result<()> {
    let device = Device::new()?;
    commits(&device)?;
    crowd::report(&device)?;
    wear(&device)
}

/// One event for each commit.
fn commits(device: &Device) -> Result<()> {
    let writers = writers::ALL;
    let mut costs: Vec<Vec<Cost>> = writers.iter().map(|_| Vec::new()).collect();
    for round in 1..=ROUNDS {
        for (writer, costs) in writers.iter().zip(&mut costs) {
            costs.push(device.measure(writer.work)?);
        }
        eprintln!("{round}/{ROUNDS} {} commits of one event by each of {}", writers::COMMITS, writers.len());
    }
    let append = costs.last().map(Vec::as_slice).unwrap_or_default();
    println!("| one event of 64 bytes for each commit | blocks of 4 KiB | flushes | p50 | of an append's |");
    println!("|---|---|---|---|---|");
    for (writer, costs) in writers.iter().zip(&costs) {
        let ratios = costs.iter().zip(append).map(|(cost, append)| cost.p50 / append.p50).collect();
        let [blocks, flushes, p50] = [
            median(costs.iter().map(|cost| cost.bytes / BLOCK / f64::from(writers::COMMITS)).collect()),
            median(costs.iter().map(|cost| cost.flushes / f64::from(writers::COMMITS)).collect()),
            median(costs.iter().map(|cost| 1e6 * cost.p50).collect()),
        ];
        println!("| {} | {blocks:.3} | {flushes:.3} | {p50:.0} µs | {:.2} |", writer.name, median(ratios));
    }
    Ok(())
}

/// What a log that gets so many events per second costs in ten years, by how often it commits.
fn wear(device: &Device) -> Result<()> {
    const TEN_YEARS: f64 = 10.0 * 365.25 * 24.0 * 3600.0;
    const INTERVALS: [u32; 3] = [0, 10, 60];
    println!("\n| events per second, 64 bytes each | interval 0 | interval 10 s | interval 60 s |");
    println!("|---|---|---|---|");
    for rate in [1, 10, 100_u32] {
        print!("| {rate} |");
        for interval in INTERVALS {
            let events = (rate * interval).max(1);
            let commits = (200_000 / events).clamp(50, 2000);
            let cost = device.measure(move |path| writers::publish_groups(path, commits, events))?;
            eprintln!("{commits} commits of {events} events");
            let all = TEN_YEARS * f64::from(rate) / f64::from(events) / f64::from(commits);
            print!(" {:.2} TB, {:.0} million flushes |", cost.bytes * all / 1e12, cost.flushes * all / 1e6);
        }
        println!();
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of times, in seconds.
fn p50(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64()
}
