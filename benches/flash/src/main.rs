//! What an event log costs flash: `cargo bench --bench flash`, as root. Publishes to a log, and appends to
//! a file whose space was written before, in turns, on an ext4 file system of its own with blocks of 4 KiB,
//! in an image on a loop device. Counts what reaches the device, and takes the time. Progress goes to
//! stderr, and the result to stdout as Markdown tables.

use std::{
    env,
    error::Error,
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use palyra_quic::EventLog;
use smol::future;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 9;
const COMMITS: u32 = 2000;
const EVENT: [u8; 64] = [b'x'; 64];
const MIB: u64 = 1024 * 1024;
const BLOCK: f64 = 4096.0;

fn main() -> Result<()> {
    // `cargo test --benches` starts this too, and is not to wait for it.
    if env::args().all(|arg| arg != "--bench") {
        return Ok(());
    }
    let device = Device::new()?;
    let mut logged = Vec::new();
    let mut plain = Vec::new();
    for round in 1..=ROUNDS {
        logged.push(device.measure(publish_alone)?);
        plain.push(device.measure(append)?);
        eprintln!("{round}/{ROUNDS} {COMMITS} commits of one event, and as many appends");
    }
    println!("| each of one event of 64 bytes | blocks of 4 KiB | flushes | p50 |\n|---|---|---|---|");
    for (name, costs) in [("`publish_durable`, interval 0", &logged), ("append into written space", &plain)] {
        println!("| {name} | {:.3} | {:.3} | {:.0} µs |", blocks(costs), flushes(costs), 1e6 * p50(costs));
    }
    println!("\nThe ratio of their p50 is {:.2}.", p50(&logged) / p50(&plain));
    println!("\n| 32 publishers | events/s | events per append |\n|---|---|---|");
    for (name, interval) in [("interval 0", Duration::ZERO), ("default interval", Duration::from_millis(20))]
    {
        let rate = device.crowd(interval)?;
        println!("| {name} | {rate:.0} | {:.1} |", rate * p50(&plain));
    }
    Ok(())
}

/// What one commit costs.
struct Cost {
    blocks: f64,
    flushes: f64,
    p50: f64,
}

/// A file system in a file, gone when this is dropped.
struct Device {
    directory: PathBuf,
    name: String,
}

impl Device {
    fn new() -> Result<Self> {
        let directory = env::temp_dir().join(format!("palyra-flash-{}", std::process::id()));
        fs::create_dir_all(directory.join("mounted"))?;
        let image = directory.join("image");
        // Written, so that the device itself has no holes to fill.
        fs::write(&image, vec![0; usize::try_from(256 * MIB)?])?;
        let loop_device = output(Command::new("losetup").args(["--show", "--find"]).arg(&image))?;
        let name = loop_device.trim_start_matches("/dev/").to_owned();
        let device = Self { directory, name };
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        output(Command::new("mkfs.ext4").args(["-q", "-b", "4096", "-E", lazy, &loop_device]))?;
        output(Command::new("mount").arg(&loop_device).arg(device.mounted()))?;
        Ok(device)
    }

    fn mounted(&self) -> PathBuf {
        self.directory.join("mounted")
    }

    /// Bytes written, and flushes.
    fn counters(&self) -> Result<(f64, f64)> {
        let text = fs::read_to_string(format!("/sys/block/{}/stat", self.name))?;
        let field = |at| text.split_whitespace().nth(at).and_then(|field| field.parse::<f64>().ok());
        let (Some(sectors), Some(flushes)) = (field(6), field(15)) else { return Err("no counters".into()) };
        Ok((512.0 * sectors, flushes))
    }

    /// Everything of this work reaches the device: beginning segments, and what the file system writes later.
    fn measure(&self, work: fn(&Path) -> Result<Vec<Duration>>) -> Result<Cost> {
        let path = self.mounted().join("work");
        output(&mut Command::new("sync"))?;
        let (bytes, flushes) = self.counters()?;
        let mut times = work(&path)?;
        output(Command::new("sync").arg("-f").arg(&path))?;
        let (bytes_after, flushes_after) = self.counters()?;
        if path.is_dir() {
            fs::remove_dir_all(path)?
        } else {
            fs::remove_file(path)?
        }
        let count = f64::from(COMMITS);
        times.sort_unstable();
        let p50 = times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64();
        Ok(Cost {
            blocks: (bytes_after - bytes) / BLOCK / count,
            flushes: (flushes_after - flushes) / count,
            p50,
        })
    }

    /// Events a second of 32 publishers that each wait for their event.
    fn crowd(&self, interval: Duration) -> Result<f64> {
        const PUBLISHERS: u32 = 32;
        const EVENTS: u32 = 500;
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let path = self.mounted().join("crowd");
            let log = EventLog::builder().commit_interval(interval).open(&path)?;
            let start = Instant::now();
            let publishers: Vec<_> = (0..PUBLISHERS)
                .map(|_| {
                    let log = log.clone();
                    smol::spawn(async move {
                        for _ in 0..EVENTS {
                            log.publish_durable_raw(EVENT.to_vec()).await?;
                        }
                        Ok::<_, palyra_quic::Error>(())
                    })
                })
                .collect();
            smol::block_on(async {
                for publisher in publishers {
                    publisher.await?;
                }
                Ok::<_, palyra_quic::Error>(())
            })?;
            rates.push(f64::from(PUBLISHERS * EVENTS) / start.elapsed().as_secs_f64());
            smol::block_on(log.close())?;
            fs::remove_dir_all(path)?;
        }
        Ok(median(rates))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.mounted()).status();
        let _ = Command::new("losetup").arg("--detach").arg(format!("/dev/{}", self.name)).status();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn publish_alone(path: &Path) -> Result<Vec<Duration>> {
    let log = EventLog::builder().commit_interval(Duration::ZERO).open(path)?;
    smol::block_on(async {
        let mut times = Vec::new();
        for _ in 0..COMMITS {
            let start = Instant::now();
            log.publish_durable_raw(EVENT.to_vec()).await?;
            times.push(start.elapsed());
            // The task that writes has its turn to end, as when events come one by one.
            future::yield_now().await;
        }
        log.close().await?;
        Ok(times)
    })
}

fn append(path: &Path) -> Result<Vec<Duration>> {
    let file: File = OpenOptions::new().create_new(true).write(true).open(path)?;
    let record = [EVENT.as_slice(), &[0; 28]].concat();
    let space = record.len() * usize::try_from(COMMITS)?;
    file.write_all_at(&vec![0; space.next_multiple_of(4096)], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    let mut offset = 0;
    for _ in 0..COMMITS {
        let start = Instant::now();
        file.write_all_at(&record, offset)?;
        file.sync_data()?;
        times.push(start.elapsed());
        offset += u64::try_from(record.len())?;
    }
    Ok(times)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn blocks(costs: &[Cost]) -> f64 {
    median(costs.iter().map(|cost| cost.blocks).collect())
}

fn flushes(costs: &[Cost]) -> f64 {
    median(costs.iter().map(|cost| cost.flushes).collect())
}

fn p50(costs: &[Cost]) -> f64 {
    median(costs.iter().map(|cost| cost.p50).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
