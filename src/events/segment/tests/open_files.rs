//! How many files a store has open.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    super::{
        SegmentOptions, SegmentStore,
        disk::{Disk, DiskFile},
        sim_disk::SimDisk,
    },
    EPOCH,
};
use crate::events::event_store::{Batch, Clocks, EventStore, StoredEvent};

/// A disk that counts the files which are open.
struct CountingDisk {
    disk: SimDisk,
    open: Arc<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct CountedFile {
    file: Arc<dyn DiskFile>,
    open: Arc<OpenFiles>,
}

impl CountingDisk {
    fn counted(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let now = self.open.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.most.fetch_max(now, Ordering::Relaxed);
        Arc::new(CountedFile { file, open: Arc::clone(&self.open) })
    }
}

impl Drop for CountedFile {
    fn drop(&mut self) {
        self.open.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Disk for CountingDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name).map(|file| self.counted(file))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name).map(|file| self.counted(file))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn unlink(&self, name: &str) -> io::Result<()> {
        self.disk.unlink(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
    fn prefers_filled_files(&self) -> bool {
        self.disk.prefers_filled_files()
    }
    fn unlock(&self) {
        self.disk.unlock();
    }
}

impl DiskFile for CountedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn linked_len(&self) -> io::Result<Option<u64>> {
        self.file.linked_len()
    }
}

#[test]
fn a_log_of_many_segments_opens_with_few_files_at_a_time() {
    const EVENTS: u64 = 200;
    let (disk, open) = (SimDisk::new(1, false), Arc::new(OpenFiles::default()));
    let options = SegmentOptions::default().segment_bytes(16 * 1024).epochs_from(|| EPOCH);
    let store = || {
        let disk = CountingDisk { disk: disk.clone(), open: Arc::clone(&open) };
        SegmentStore::on(Arc::new(disk), &options).unwrap()
    };
    let first = store();
    for number in 1..=EVENTS {
        // Two fill a segment.
        let event = StoredEvent { payload: vec![1; 8000].into(), published: Default::default() };
        first.append(&Batch { first: number, events: vec![event], clocks: Clocks::default() }).unwrap();
    }
    drop(first);
    assert_eq!(open.now.load(Ordering::Relaxed), 0);
    let segments = disk.contents().keys().filter(|name| name.ends_with(".segment")).count();
    assert!(segments >= 100, "{segments} segments");
    open.most.store(0, Ordering::Relaxed);
    let second = store();
    let mut events = Vec::new();
    let mut from = 1;
    while from <= EVENTS {
        from = second.read(from, usize::MAX, &mut events).unwrap();
    }
    assert_eq!(events.len(), 200);
    // The newest segment, and those that were read last.
    let most = open.most.load(Ordering::Relaxed);
    assert!((2..=12).contains(&most), "{most} files were open at a time");
}
