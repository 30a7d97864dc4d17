//! The files of a log on a simulated disk, in a machine that loses power.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    consumer_file::ConsumerFile,
    consumer_settings::OpenFile,
    cursor_store::CursorStore,
    event_store::{Batch, Clocks, EventStore, Extent, StoredEvent},
    log_files::LogFiles,
    segment::{CONSUMERS, Call, Disk, DiskFile, Fault, FaultKind, SegmentOptions, SegmentStore, SimDisk},
};
use crate::{
    error::Result,
    sync::{AtomicU64, Event, wait_until},
};

/// The power of a machine, from when it is switched on until it is lost: nothing reaches a disk afterwards.
#[derive(Clone)]
pub(crate) struct Power(Arc<PowerState>);

struct PowerState {
    /// How many calls to disks there are until the power is lost.
    calls_left: AtomicU64,
    lost: Event,
}

/// A disk, which outlives the power of its machine.
#[derive(Clone)]
pub(crate) struct SimulatedDisk(SimDisk);

/// The disk as a log sees it until the power is lost.
#[derive(Clone)]
pub(crate) struct SimulatedFiles {
    disk: SimDisk,
    power: Power,
    fault: StorageFault,
}

/// A fault of what is below a log, planted for a checker to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StorageFault {
    Nothing,
    /// The disk says that something is durable which is not.
    SkipSync,
    /// The disk says so, and the log gives the numbers of lost events to others.
    ReuseNumbers,
    /// The log begins another epoch when it is opened.
    BeginEpoch,
    /// Nobody knows the consumers after a restart.
    ForgetConsumers,
    /// The store discards nothing when it has too many bytes.
    KeepTooMuch,
    /// The store keeps the newest few events, whether they are acknowledged or not.
    DiscardUnacknowledged,
}

impl Power {
    pub(crate) fn on() -> Self {
        let state = PowerState { calls_left: AtomicU64::new(u64::MAX), lost: Event::new() };
        Self(Arc::new(state))
    }

    /// Loses the power at some call to a disk.
    pub(crate) fn cut_after(&self, calls: u64) {
        self.0.calls_left.fetch_min(calls, Ordering::Relaxed);
        self.0.lost.notify(usize::MAX);
    }

    pub(crate) fn cut(&self) {
        self.cut_after(0);
    }

    /// Resolves when it is lost.
    pub(crate) async fn lost(&self) {
        wait_until(&self.0.lost, || self.0.calls_left.load(Ordering::Relaxed) == 0).await;
    }

    fn check(&self) -> io::Result<()> {
        let left = &self.0.calls_left;
        let count = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(1) };
        match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) {
            Ok(1) => drop(self.0.lost.notify(usize::MAX)),
            Ok(_) => return Ok(()),
            Err(_) => {}
        }
        Err(rustix::io::Errno::IO.into())
    }
}

impl SimulatedDisk {
    pub(crate) fn new(seed: u64, filled: bool) -> Self {
        Self(SimDisk::new(seed, filled))
    }

    pub(crate) fn files(&self, power: &Power, fault: StorageFault) -> SimulatedFiles {
        SimulatedFiles { disk: self.0.clone(), power: power.clone(), fault }
    }

    /// Of what was not synced, any part is lost.
    pub(crate) fn lose_power(&self) {
        self.0.lose_power();
    }

    /// Has no space left for this many writes.
    pub(crate) fn fill_up(&self, writes: u64) {
        self.0.inject(Fault { call: Call::Write, after: 0, times: writes, kind: FaultKind::Full });
    }

    pub(crate) fn heal(&self) {
        self.0.heal();
    }

    /// Changes a bit of the first bytes like these in any file.
    pub(crate) fn damage(&self, bytes: &[u8]) {
        for (name, content) in self.0.contents() {
            if let Some(at) = content.windows(bytes.len()).position(|found| found == bytes) {
                return self.0.rot(&name, |content| content[at] ^= 1);
            }
        }
        panic!("nothing to damage");
    }

    /// What the files with these parts of their names take.
    pub(crate) fn bytes_of(&self, part: &str) -> u64 {
        let lens = self.0.contents().into_iter().filter(|(name, _)| name.contains(part));
        lens.map(|(_, content)| u64::try_from(content.len()).unwrap()).sum()
    }
}

impl SimulatedFiles {
    fn powered(&self) -> Powered {
        Powered {
            disk: self.disk.clone(),
            power: self.power.clone(),
            skips_sync: matches!(self.fault, StorageFault::SkipSync | StorageFault::ReuseNumbers),
        }
    }
}

impl LogFiles for SimulatedFiles {
    fn store(&self, options: SegmentOptions) -> io::Result<Arc<dyn EventStore>> {
        let options = match self.fault {
            StorageFault::KeepTooMuch => options.max_bytes(u64::MAX),
            StorageFault::ReuseNumbers => options.repeat_numbers(),
            StorageFault::BeginEpoch => options.begin_epoch().epochs_from(|| fastrand::u64(1..1 << 50)),
            _ => options,
        };
        let store = SegmentStore::on(Arc::new(self.powered()), &options)?;
        match self.fault {
            StorageFault::DiscardUnacknowledged | StorageFault::KeepTooMuch => {
                Ok(Arc::new(FaultyStore { store, fault: self.fault }))
            }
            _ => Ok(Arc::new(store)),
        }
    }

    fn consumers(&self, _open: OpenFile) -> Result<Box<dyn ConsumerFile>> {
        let disk = self.powered();
        if self.fault == StorageFault::ForgetConsumers && disk.open(CONSUMERS).is_ok() {
            disk.unlink(CONSUMERS)?;
        }
        Ok(Box::new(CursorStore::on_disk(&disk, CONSUMERS)?))
    }

    fn location(&self) -> String {
        "a simulated disk".into()
    }
}

struct Powered {
    disk: SimDisk,
    power: Power,
    skips_sync: bool,
}

impl Powered {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(PoweredFile { file, power: self.power.clone(), skips_sync: self.skips_sync })
    }
}

impl Disk for Powered {
    fn list(&self) -> io::Result<Vec<String>> {
        self.power.check()?;
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.power.check()?;
        self.disk.create(name).map(|file| self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.power.check()?;
        self.disk.open(name).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.power.check()?;
        self.disk.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.power.check()?;
        self.disk.unlink(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.power.check()?;
        self.disk.sync_dir()
    }

    fn prefers_filled_files(&self) -> bool {
        self.disk.prefers_filled_files()
    }

    fn unlock(&self) {}
}

struct PoweredFile {
    file: Arc<dyn DiskFile>,
    power: Power,
    skips_sync: bool,
}

impl DiskFile for PoweredFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.power.check()?;
        self.file.read_at(offset, buffer)
    }

    fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.power.check()?;
        self.file.read_cached_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.power.check()?;
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.power.check()?;
        if self.skips_sync { Ok(()) } else { self.file.sync_data() }
    }

    fn len(&self) -> io::Result<u64> {
        self.power.check()?;
        self.file.len()
    }

    fn linked_len(&self) -> io::Result<Option<u64>> {
        self.power.check()?;
        self.file.linked_len()
    }
}

/// Has other bounds than it was told.
struct FaultyStore {
    store: SegmentStore,
    fault: StorageFault,
}

/// As many events as a store keeps that ignores acknowledgements.
const KEPT: u64 = 10;

impl EventStore for FaultyStore {
    fn extent(&self) -> Extent {
        let extent = self.store.extent();
        match self.fault {
            StorageFault::DiscardUnacknowledged => {
                Extent { first: extent.first.max(extent.next.saturating_sub(KEPT)), ..extent }
            }
            _ => extent,
        }
    }

    fn last_clocks(&self) -> Option<Clocks> {
        self.store.last_clocks()
    }

    fn expired(&self, before: Duration) -> u64 {
        self.store.expired(before)
    }

    fn surplus(&self, max_bytes: u64) -> u64 {
        if self.fault == StorageFault::KeepTooMuch { 0 } else { self.store.surplus(max_bytes) }
    }

    fn damaged(&self) -> u64 {
        self.store.damaged()
    }

    fn append(&self, batch: &Batch) -> io::Result<()> {
        self.store.append(batch)
    }

    fn skip(&self, to: u64) -> io::Result<()> {
        self.store.skip(to)
    }

    fn read(&self, from: u64, max_bytes: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
        self.store.read(from.max(self.extent().first), max_bytes, out)
    }

    fn read_cached(&self, from: u64, take: &mut dyn FnMut(u64, StoredEvent) -> bool) {
        self.store.read_cached(from, take);
    }

    fn discard(&self, below: u64) -> io::Result<()> {
        if self.fault == StorageFault::KeepTooMuch { Ok(()) } else { self.store.discard(below) }
    }

    fn close(&self) -> io::Result<()> {
        self.store.close()
    }
}
