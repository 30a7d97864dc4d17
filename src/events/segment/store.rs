//! The store as the log sees it.

use std::{
    fmt, io,
    ops::Range,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    begin::Opened,
    buffers::Buffers,
    cached::read_cached,
    damage::{DamageReport, LostEvents},
    disk::Disk,
    fill,
    index::Index,
    log_epoch,
    open::open,
    options::{Layout, SegmentOptions},
    reader::Reader,
    real_disk::RealDisk,
    retrying::RetryingDisk,
    writer::{Target, Writer, remove_discarded},
};
use crate::{
    events::event_store::{Batch, Clocks, EventStore, Extent, MAX_NUMBER, StoredEvent},
    sync::{AtomicU64, Mutex, lock},
};

/// An [`EventStore`] in the files of a directory.
///
/// Each batch is one write and one `fdatasync`, into space that was written and made durable before where
/// the file system profits from that. Damage costs the damaged events and no others: it is found by
/// checksums, reads skip it, and [`lost`](Self::lost) and the file `damage` in the directory list it until
/// somebody removes that file. The format is described in `docs/event-log-format.md`.
///
/// After an error of the disk, the store begins a new segment with the next batch, and so recovers when the
/// disk does. A read that fails is repeated, block by block; a block that fails four times is damaged if
/// the disk answers in between, and otherwise the read is an error. The payloads that one call of
/// [`read`](EventStore::read) returns are in one buffer, or a few if much is asked for, and a buffer is
/// freed with the last of them: a caller that keeps one for long should copy it. If a read for less than 20
/// KiB would need a second buffer, it returns less. Eight of the segments that were read last stay open: on
/// Linux, a subscriber goes on in one without a change of threads as long as it is in the page cache.
pub struct SegmentStore {
    disk: Arc<dyn Disk>,
    layout: Layout,
    /// That of the segments.
    epoch: u64,
    /// That of the log.
    log_epoch: AtomicU64,
    index: Mutex<Index>,
    buffers: Arc<Buffers>,
    writer: Mutex<Writer>,
    /// Locked while the report is written.
    damage: Mutex<DamageReport>,
    /// How many events the report counts.
    damaged: AtomicU64,
    /// Locked while a hole is filled.
    filling: Mutex<()>,
}

/// The payload bytes that are read at a time to see what is held.
const CHECKED_BYTES: usize = 64 * 1024;

impl SegmentStore {
    /// Opens the store in this directory, or creates it in an existing parent directory. Reads the headers
    /// of all segments and the contents of the last two.
    ///
    /// A symbolic link to a directory is followed.
    ///
    /// # Errors
    ///
    /// [`ResourceBusy`](io::ErrorKind::ResourceBusy) if another store has the directory open, in this
    /// process or another;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the path has something else, which is left alone;
    /// [`Unsupported`](io::ErrorKind::Unsupported) if a later version of this crate wrote it;
    /// any error of the file system.
    pub fn open(path: impl AsRef<Path>, options: &SegmentOptions) -> io::Result<Self> {
        Self::on(Arc::new(RealDisk::open(path.as_ref())?), options)
    }

    pub(in crate::events) fn on(disk: Arc<dyn Disk>, options: &SegmentOptions) -> io::Result<Self> {
        let disk: Arc<dyn Disk> = Arc::new(RetryingDisk(disk));
        let Opened { epoch, log_epoch, mut index, active, recent, damage } = open(&*disk, options)?;
        index.recent.clone_from(&recent);
        Ok(Self {
            disk,
            layout: options.layout,
            epoch,
            log_epoch: AtomicU64::new(log_epoch),
            index: Mutex::new(index),
            buffers: Arc::default(),
            writer: Mutex::new(Writer::new(active, recent)),
            damaged: AtomicU64::new(damage.count()),
            damage: Mutex::new(damage),
            filling: Mutex::new(()),
        })
    }

    /// The events that were lost to damage, in the order in which that was found: those in the file `damage`
    /// when the store was opened, and those found since. At most about a thousand entries are kept. Blocks
    /// while the report is written to the disk.
    #[must_use]
    pub fn lost(&self) -> Vec<LostEvents> {
        lock(&self.damage).lost()
    }

    fn target(&self) -> Target<'_> {
        Target { disk: &*self.disk, layout: self.layout, epoch: self.epoch, index: &self.index }
    }

    /// These events are there again, or were not missing.
    fn restored(&self, numbers: &Range<u64>) {
        let mut damage = lock(&self.damage);
        if lock(&self.index).is_closed {
            return;
        }
        let saved = damage.restore(numbers, &*self.disk);
        self.damaged.store(damage.count(), Ordering::Relaxed);
        if let Err(error) = saved {
            tracing::warn!(%error, "the report of damage to an event log cannot be written");
        }
    }

    /// # Errors
    ///
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if one of these numbers is held.
    fn check_hole(&self, numbers: &Range<u64>) -> io::Result<()> {
        #[cfg(test)]
        if super::sabotage::is(super::sabotage::Sabotage::FillHeldNumbers) {
            return Ok(());
        }
        let held = self.held_from(numbers.start, numbers.end)?;
        if held.is_empty() {
            return Ok(());
        }
        // Power was lost after the hole was filled, and before the report said so.
        self.restored(&held);
        Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("event {} is held", held.start)))
    }

    /// The next numbers that are held without a hole between them, from this one on and below `end`.
    fn held_from(&self, from: u64, end: u64) -> io::Result<Range<u64>> {
        let mut found = Vec::new();
        self.read(from, 0, &mut found)?;
        let start = found.pop().map_or(end, |(number, _)| number.min(end));
        let mut held = start..start;
        loop {
            found.clear();
            if held.end < end {
                self.read(held.end, CHECKED_BYTES, &mut found)?;
            }
            let before = held.end;
            for (number, _) in &found {
                held.end += u64::from(*number == held.end && *number < end);
            }
            if held.end == before {
                return Ok(held);
            }
        }
    }

    fn report(&self, lost: Vec<(LostEvents, String)>) {
        #[cfg(test)]
        if super::sabotage::is(super::sabotage::Sabotage::HideDamage) {
            return;
        }
        let mut damage = lock(&self.damage);
        let index = lock(&self.index);
        if index.is_closed {
            // The file may be that of the next owner.
            return;
        }
        damage.make_space(index.first());
        let not_filled = |(lost, segment): (LostEvents, String)| {
            let parts = index.not_filled(lost.first..lost.last.saturating_add(1), &segment).into_iter();
            let lost = parts.map(move |part| LostEvents { first: part.start, last: part.end - 1, ..lost });
            lost.map(move |lost| (lost, segment.clone()))
        };
        let lost: Vec<_> = lost.into_iter().flat_map(not_filled).collect();
        drop(index);
        for (lost, segment) in lost {
            if damage.add(lost, &segment) {
                let LostEvents { first, last, .. } = lost;
                tracing::warn!(first, last, segment, "events are lost: the segment is damaged");
            }
        }
        self.damaged.store(damage.count(), Ordering::Relaxed);
        if let Err(error) = damage.save(&*self.disk) {
            tracing::warn!(%error, "the report of damage to an event log cannot be written");
        }
    }
}

impl EventStore for SegmentStore {
    fn extent(&self) -> Extent {
        let index = lock(&self.index);
        let epoch = self.log_epoch.load(Ordering::Acquire);
        Extent { epoch, first: index.first(), next: index.next }
    }

    fn last_clocks(&self) -> Option<Clocks> {
        lock(&self.index).clocks
    }

    fn expired(&self, before: Duration) -> u64 {
        lock(&self.index).expired(before)
    }

    fn surplus(&self, max_bytes: u64) -> u64 {
        lock(&self.index).room_for(0, max_bytes)
    }

    fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    fn append(&self, batch: &Batch) -> io::Result<()> {
        lock(&self.writer).append(self.target(), batch)
    }

    fn skip(&self, to: u64) -> io::Result<()> {
        // Nothing is appended meanwhile.
        let _writer = lock(&self.writer);
        let (first, next) = {
            let index = lock(&self.index);
            (index.first(), index.next)
        };
        if to <= next {
            return Ok(());
        }
        if to > MAX_NUMBER {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no event {to}")));
        }
        let mut damage = lock(&self.damage);
        damage.make_space(first);
        damage.expect(next..to);
        damage.save(&*self.disk)?;
        lock(&self.index).skip(to);
        Ok(())
    }

    fn holes(&self) -> Vec<Range<u64>> {
        let damage = lock(&self.damage);
        let index = lock(&self.index);
        let Layout { segment_bytes, max_bytes, .. } = self.layout;
        let holes = damage.holes().iter().flat_map(|hole| index.fillable(hole));
        // Not those that go when the next segment begins.
        holes.filter(|hole| index.has_space(hole.start, segment_bytes, max_bytes)).collect()
    }

    fn fill(&self, batch: &Batch) -> io::Result<()> {
        let _filling = lock(&self.filling);
        let numbers = fill::numbers_to_fill(self.target(), batch)?;
        self.check_hole(&numbers)?;
        {
            // Not while a segment is begun.
            let _writer = lock(&self.writer);
            fill::make_room_for(self.target(), batch)?;
        }
        // What is appended need not wait for this.
        fill::write(&*self.disk, self.epoch, batch)?;
        {
            let _writer = lock(&self.writer);
            fill::publish(self.target(), batch, &numbers)?;
        }
        self.restored(&numbers);
        Ok(())
    }

    fn set_epoch(&self, epoch: u64) -> io::Result<()> {
        // One at a time, and not in the directory of the next owner.
        let _writer = lock(&self.writer);
        if lock(&self.index).is_closed {
            return Err(io::Error::other("the store is closed"));
        }
        log_epoch::save(&*self.disk, self.epoch, epoch)?;
        self.log_epoch.store(epoch, Ordering::Release);
        Ok(())
    }

    fn read(&self, from: u64, max_bytes: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
        let mut reader = Reader::new(&*self.disk, self.epoch, &self.index, &self.buffers, max_bytes, out);
        let next = reader.read(from);
        let lost = reader.into_lost();
        if !lost.is_empty() {
            self.report(lost);
        }
        next
    }

    fn read_cached(&self, from: u64, take: &mut dyn FnMut(u64, StoredEvent) -> bool) {
        read_cached(&self.index, &self.buffers, from, take);
    }

    fn discard(&self, below: u64) -> io::Result<()> {
        // Not while a segment is begun.
        let _writer = lock(&self.writer);
        {
            let mut index = lock(&self.index);
            index.floor = index.floor.max(below.min(index.next));
        }
        remove_discarded(self.target())
    }

    fn close(&self) -> io::Result<()> {
        let _filling = lock(&self.filling);
        let closed = lock(&self.writer).close(self.target());
        lock(&self.index).is_closed = true;
        let saved = lock(&self.damage).save(&*self.disk);
        self.disk.unlock();
        closed.and(saved)
    }
}

impl fmt::Debug for SegmentStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            disk: _,
            layout,
            epoch,
            log_epoch,
            index,
            buffers: _,
            writer: _,
            damage: _,
            damaged: _,
            filling: _,
        } = self;
        f.debug_struct("SegmentStore")
            .field("layout", layout)
            .field("epoch", epoch)
            .field("log_epoch", log_epoch)
            .field("index", &*lock(index))
            .finish_non_exhaustive()
    }
}
