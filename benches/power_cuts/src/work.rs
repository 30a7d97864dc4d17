//! What a node does with its disk while the device is recorded.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use palyra_quic::{Cursor, CursorStore, ErrorKind, EventLog, SegmentOptions, SegmentStore};

use super::{Result, recorder::Recording};

/// Small, so that many segments begin, and many are removed.
const SEGMENT_BYTES: u64 = 64 * 1024;
const MAX_BYTES: u64 = 1024 * 1024;
const PUBLISHERS: u64 = 4;
/// A commit has at most one event of each publisher, and one more may be written meanwhile.
pub(super) const COMMIT_EVENTS: usize = 8;
/// How often the log is closed and opened again.
const STARTS: u64 = 4;
const EVENTS_OF_EACH: u64 = 250;
pub(super) const EPOCH: u64 = 7;

/// When a publisher is told that its event is safe.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledged {
    WhenDurable,
    /// The planted fault: what the power takes away has been promised.
    WhenPublished,
}

/// What the power must not take away, and from which step of the recording on.
#[derive(Default)]
pub(super) struct Promises {
    /// By number.
    pub(super) events: BTreeMap<u64, Promise>,
    /// By step: the oldest number that the log had to hold.
    pub(super) floors: BTreeMap<usize, u64>,
    /// By step: the cursor that was saved.
    pub(super) cursors: BTreeMap<usize, u64>,
}

pub(super) struct Promise {
    pub(super) since: usize,
    pub(super) payload: Vec<u8>,
}

/// Every payload says what it has to consist of.
pub(super) fn payload(publisher: u64, number: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(publisher << 32 | number);
    let len = if rng.u8(..8) == 0 { rng.usize(4_000..20_000) } else { rng.usize(0..300) };
    let head = [publisher.to_le_bytes(), number.to_le_bytes()].concat();
    head.into_iter().chain(std::iter::repeat_with(|| rng.u8(..)).take(len)).collect()
}

/// Whether some publisher has made this payload.
pub(super) fn was_published(bytes: &[u8]) -> bool {
    let Some((publisher, rest)) = bytes.split_first_chunk() else { return false };
    let Some(number) = rest.first_chunk() else { return false };
    payload(u64::from_le_bytes(*publisher), u64::from_le_bytes(*number)) == bytes
}

pub(super) fn options() -> SegmentOptions {
    SegmentOptions::default().segment_bytes(SEGMENT_BYTES).max_bytes(MAX_BYTES).epochs_from(|| EPOCH)
}

pub(super) fn log_in(directory: &Path) -> std::path::PathBuf {
    directory.join("log")
}

pub(super) fn cursors_in(directory: &Path) -> std::path::PathBuf {
    directory.join("cursors")
}

/// Publishes events and saves cursors, until all are done.
pub(super) fn run(directory: &Path, recording: &Recording, acknowledged: Acknowledged) -> Result<Promises> {
    let promises = Mutex::new(Promises::default());
    for start in 0..STARTS {
        let cursors = CursorStore::open(cursors_in(directory))?;
        let interval = match acknowledged {
            Acknowledged::WhenDurable => Duration::ZERO,
            Acknowledged::WhenPublished => Duration::from_millis(50),
        };
        let store = SegmentStore::open(log_in(directory), &options())?;
        let log = EventLog::builder().commit_interval(interval).on(store)?;
        smol::block_on(async {
            let publishers: Vec<_> = (0..PUBLISHERS)
                .map(|publisher| {
                    let publisher = start * PUBLISHERS + publisher;
                    publish(publisher, &log, &cursors, recording, acknowledged, &promises)
                })
                .collect();
            all(publishers).await?;
            log.close().await?;
            Ok::<_, super::Failure>(())
        })?;
    }
    Ok(promises.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// One after another where they wait, all at the same time otherwise.
async fn all<F: Future<Output = Result<()>>>(futures: Vec<F>) -> Result<()> {
    let executor = smol::LocalExecutor::new();
    let tasks: Vec<_> = futures.into_iter().map(|future| executor.spawn(future)).collect();
    executor
        .run(async {
            for task in tasks {
                task.await?;
            }
            Ok(())
        })
        .await
}

async fn publish(
    publisher: u64,
    log: &EventLog,
    cursors: &CursorStore,
    recording: &Recording,
    acknowledged: Acknowledged,
    promises: &Mutex<Promises>,
) -> Result<()> {
    for number in 0..EVENTS_OF_EACH {
        let payload = payload(publisher, number);
        let seq = match acknowledged {
            Acknowledged::WhenDurable => log.publish_durable_raw(payload.clone()).await?,
            Acknowledged::WhenPublished => publish_early(log, &payload).await?,
        };
        let promise = |apply: &dyn Fn(&mut Promises, usize)| {
            let since = recording.position();
            apply(&mut promises.lock().unwrap_or_else(PoisonError::into_inner), since);
        };
        promise(&|promises, since| {
            promises.events.insert(seq, Promise { since, payload: payload.clone() });
            promises.floors.insert(since, log.first_seq());
        });
        if publisher.is_multiple_of(PUBLISHERS) && number.is_multiple_of(16) {
            cursors.save("reader", Cursor::new(Some(EPOCH), seq)).await?;
            promise(&|promises, since| _ = promises.cursors.insert(since, seq));
        }
    }
    Ok(())
}

/// Publishes without waiting for the disk, but not faster than it writes.
async fn publish_early(log: &EventLog, payload: &[u8]) -> Result<u64> {
    loop {
        smol::Timer::after(Duration::from_millis(1)).await;
        match log.publish_raw(payload.to_vec()) {
            Err(error) if *error.kind() == ErrorKind::Exhausted => {}
            published => return Ok(published?),
        }
    }
}
