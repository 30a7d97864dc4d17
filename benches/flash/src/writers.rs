//! What writes one event after another.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_lite::future;
use palyra_quic::{Batch, Clocks, EventLog, EventStore, SegmentOptions, SegmentStore, StoredEvent};
use rusqlite::Connection;

use super::{EVENT, Result};

pub(super) const COMMITS: u32 = 2000;

pub(super) struct Writer {
    pub(super) name: &'static str,
    pub(super) work: fn(&Path) -> Result<Vec<Duration>>,
}

/// The plain append comes last: the others are compared with it.
pub(super) const ALL: [Writer; 6] = [
    Writer { name: "`publish_durable`, interval 0", work: |path| future::block_on(publish(path)) },
    Writer { name: "the same in `smol::block_on`", work: |path| smol::block_on(publish(path)) },
    Writer { name: "`SegmentStore::append`", work: store },
    Writer { name: "SQLite, WAL, synchronous FULL", work: insert },
    Writer { name: "append on a thread of `blocking`, in `smol::block_on`", work: append_on_thread },
    Writer { name: "append into written space", work: append },
];

async fn publish(path: &Path) -> Result<Vec<Duration>> {
    let log = EventLog::builder().commit_interval(Duration::ZERO).open(path.join("log"))?;
    let mut times = Vec::new();
    for _ in 0..COMMITS {
        let start = Instant::now();
        log.publish_durable_raw(EVENT.to_vec()).await?;
        times.push(start.elapsed());
    }
    log.close().await?;
    Ok(times)
}

fn store(path: &Path) -> Result<Vec<Duration>> {
    let store = SegmentStore::open(path.join("log"), &SegmentOptions::default())?;
    let mut times = Vec::new();
    for first in 1..=COMMITS {
        let event = StoredEvent { payload: EVENT.to_vec().into(), published: Duration::ZERO };
        let batch = Batch { first: first.into(), events: vec![event], clocks: Clocks::default() };
        let start = Instant::now();
        store.append(&batch)?;
        times.push(start.elapsed());
    }
    store.close()?;
    Ok(times)
}

/// As a log does whose interval between commits has this number of events.
pub(super) fn publish_groups(path: &Path, commits: u32, events: u32) -> Result<Vec<Duration>> {
    let builder = EventLog::builder().commit_interval(Duration::from_secs(3600)).delay_first_commit();
    let events_in_memory = usize::try_from(events)?;
    let log = builder.commit_events(events_in_memory + 1).open(path.join("log"))?;
    future::block_on(async {
        for _ in 0..commits {
            for _ in 0..events {
                log.publish_raw(EVENT.to_vec())?;
            }
            log.flush().await?;
        }
        log.close().await?;
        Ok(Vec::new())
    })
}

fn insert(path: &Path) -> Result<Vec<Duration>> {
    let database = Connection::open(path.join("database"))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, payload BLOB)", ())?;
    let mut insert = database.prepare("INSERT INTO events (payload) VALUES (?1)")?;
    let mut times = Vec::new();
    for _ in 0..COMMITS {
        let start = Instant::now();
        insert.execute([EVENT.as_slice()])?;
        times.push(start.elapsed());
    }
    Ok(times)
}

/// A file that is large enough, and was written and made durable before.
struct Space {
    file: File,
    record: Vec<u8>,
}

impl Space {
    fn new(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create_new(true).write(true).open(path.join("file"))?;
        let record = [EVENT.as_slice(), &[0; 28]].concat();
        let space = record.len() * usize::try_from(COMMITS)?;
        file.write_all_at(&vec![0; space.next_multiple_of(4096)], 0)?;
        file.sync_all()?;
        Ok(Self { file, record })
    }

    fn append(&self, number: u32) -> Result<()> {
        let offset = u64::from(number) * u64::try_from(self.record.len())?;
        self.file.write_all_at(&self.record, offset)?;
        Ok(self.file.sync_data()?)
    }
}

fn append(path: &Path) -> Result<Vec<Duration>> {
    let space = Space::new(path)?;
    let mut times = Vec::new();
    for number in 0..COMMITS {
        let start = Instant::now();
        space.append(number)?;
        times.push(start.elapsed());
    }
    Ok(times)
}

fn append_on_thread(path: &Path) -> Result<Vec<Duration>> {
    let space = Arc::new(Space::new(path)?);
    smol::block_on(async {
        let mut times = Vec::new();
        for number in 0..COMMITS {
            let space = Arc::clone(&space);
            let start = Instant::now();
            blocking::unblock(move || space.append(number)).await?;
            times.push(start.elapsed());
        }
        Ok(times)
    })
}
