//! Many publishers that each wait for their event.

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

use palyra_quic::{Batch, Clocks, EventLog, EventStore, Extent, MemoryStore, StoredEvent};

use super::{EVENT, ROUNDS, Result, device::Device, median};

const PUBLISHERS: u32 = 32;

pub(super) fn report(device: &Device) -> Result<()> {
    println!("\n| {PUBLISHERS} publishers | events/s | events for each commit |\n|---|---|---|");
    for (name, interval) in [("interval 0", Duration::ZERO), ("default interval", Duration::from_millis(20))]
    {
        let path = device.mounted().join("crowd");
        let figures = rounds(500, || {
            let _ = fs::remove_dir_all(&path);
            Ok(EventLog::builder().commit_interval(interval).open(&path)?)
        })?;
        print(name, figures);
    }
    let figures = rounds(50, || Ok(EventLog::builder().commit_interval(Duration::ZERO).on(Slow::new())?))?;
    print("interval 0, a disk that takes 2 ms", figures);
    Ok(())
}

fn print(name: &str, (rate, events): (f64, f64)) {
    eprintln!("{name}");
    println!("| {name} | {rate:.0} | {events:.1} |");
}

/// Events per second and per commit, as medians of the rounds.
fn rounds(events: u32, open: impl Fn() -> Result<EventLog>) -> Result<(f64, f64)> {
    let (mut rates, mut per_commit) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let log = open()?;
        let start = Instant::now();
        publish(&log, events)?;
        let count = f64::from(PUBLISHERS * events);
        rates.push(count / start.elapsed().as_secs_f64());
        per_commit.push(count / f64::from(u32::try_from(log.commits())?));
        smol::block_on(log.close())?;
    }
    Ok((median(rates), median(per_commit)))
}

fn publish(log: &EventLog, events: u32) -> Result<()> {
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|_| {
            let log = log.clone();
            smol::spawn(async move {
                for _ in 0..events {
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
        Ok(())
    })
}

/// A disk that takes as long for a commit as simple flash does.
struct Slow(MemoryStore);

impl Slow {
    fn new() -> Self {
        Self(MemoryStore::new(1))
    }
}

impl EventStore for Slow {
    fn extent(&self) -> Extent {
        self.0.extent()
    }

    fn last_clocks(&self) -> Option<Clocks> {
        self.0.last_clocks()
    }

    fn append(&self, batch: &Batch) -> io::Result<()> {
        thread::sleep(Duration::from_millis(2));
        self.0.append(batch)
    }

    fn read(&self, from: u64, max_bytes: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
        self.0.read(from, max_bytes, out)
    }

    fn discard(&self, below: u64) -> io::Result<()> {
        self.0.discard(below)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}
