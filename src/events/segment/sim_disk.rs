//! A disk in memory that loses power, fails and rots as a test says.

#![cfg_attr(fuzzing, allow(dead_code, reason = "fuzzing needs no faults"))]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::{Arc, MutexGuard},
};

pub(in crate::events) use super::sim_fault::{Call, Fault, FaultKind};
use super::{
    disk::{Disk, DiskFile},
    number::to_usize,
    sim_fault::Interruption,
};
use crate::sync::{Mutex, lock};

const SECTOR: usize = 512;
const BLOCK: usize = 4096;

#[derive(Clone)]
pub(in crate::events) struct SimDisk(Arc<Mutex<State>>);

struct State {
    files: Vec<SimFile>,
    names: BTreeMap<String, usize>,
    /// The names that survive a loss of power for certain.
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    faults: Vec<Fault>,
    unreadable: Vec<(usize, Range<usize>)>,
    unopenable: BTreeSet<String>,
    interruptions: Vec<Interruption>,
    /// Whether new segments are to be filled.
    filled: bool,
    calls: u64,
    syncs: u64,
    random: fastrand::Rng,
}

struct SimFile {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// The sectors that may have reached the disk or not.
    unsynced: BTreeSet<usize>,
}

enum NameChange {
    Add(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

impl SimDisk {
    pub(in crate::events) fn new(seed: u64, filled: bool) -> Self {
        let state = State {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            faults: Vec::new(),
            unreadable: Vec::new(),
            unopenable: BTreeSet::new(),
            interruptions: Vec::new(),
            filled,
            calls: 0,
            syncs: 0,
            random: fastrand::Rng::with_seed(seed),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    pub(in crate::events) fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    pub(in crate::events) fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.unreadable.clear();
        state.unopenable.clear();
    }

    /// No byte of this part of a file can be read any more. A read that includes one fails, and so does a
    /// write of less than the whole part.
    pub(in crate::events) fn make_unreadable(&self, name: &str, part: Range<usize>) {
        let mut state = self.state();
        let inode = state.names[name];
        state.unreadable.push((inode, part));
    }

    pub(in crate::events) fn make_unopenable(&self, name: &str) {
        self.state().unopenable.insert(name.to_owned());
    }

    /// Has this done before a call, on the thread that calls.
    pub(in crate::events) fn interrupt(&self, call: Call, after: u64, work: impl FnOnce() + Send + 'static) {
        self.state().interruptions.push(Interruption { call, after, work: Box::new(work) });
    }

    /// Whether all interruptions were due.
    pub(in crate::events) fn is_uninterrupted(&self) -> bool {
        self.state().interruptions.is_empty()
    }

    /// The state, at the beginning of a call.
    fn begin(&self, call: Call) -> MutexGuard<'_, State> {
        loop {
            let mut state = self.state();
            let Some(work) = state.due(call) else { return state };
            drop(state);
            work();
        }
    }

    pub(in crate::events) fn calls(&self) -> u64 {
        self.state().calls
    }

    pub(in crate::events) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Of what was not synced, any part is lost: sectors, lengths and names.
    pub(in crate::events) fn lose_power(&self) {
        let mut state = self.state();
        let State { files, names, durable_names, unsynced_names, random, faults, .. } = &mut *state;
        for file in files {
            file.lose_power(random);
        }
        for change in unsynced_names.drain(..) {
            if random.bool() {
                change.apply(durable_names);
            }
        }
        names.clone_from(durable_names);
        faults.clear();
    }

    /// The contents of all files.
    pub(in crate::events) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].content.clone())).collect()
    }

    /// Changes a file behind the back of the store, durably.
    pub(in crate::events) fn rot(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let file = state.names[name];
        let file = &mut state.files[file];
        change(&mut file.content);
        file.durable.clone_from(&file.content);
        file.unsynced.clear();
    }

    /// Puts a file in place, or removes it, durably.
    pub(in crate::events) fn replace(&self, name: &str, content: Option<Vec<u8>>) {
        let mut state = self.state();
        let inode = state.files.len();
        let change = match content {
            Some(content) => {
                let durable = content.clone();
                state.files.push(SimFile { content, durable, unsynced: BTreeSet::new() });
                NameChange::Add(name.to_owned(), inode)
            }
            None => NameChange::Remove(name.to_owned()),
        };
        change.apply(&mut state.names);
        change.apply(&mut state.durable_names);
    }
}

impl SimFile {
    fn lose_power(&mut self, random: &mut fastrand::Rng) {
        let Self { content, durable, unsynced } = self;
        if random.bool() {
            durable.resize(content.len(), 0);
        }
        for sector in std::mem::take(unsynced) {
            if random.bool() {
                copy_sector(content, durable, sector);
            }
        }
        content.clone_from(durable);
    }

    /// A sync that fails: the operating system does not try again what it could not write.
    fn fail_to_sync(&mut self, random: &mut fastrand::Rng) {
        let forgets = random.bool();
        if self.durable.len() < self.content.len() {
            self.durable.resize(self.content.len(), 0);
        }
        for sector in std::mem::take(&mut self.unsynced) {
            if random.bool() {
                copy_sector(&self.content, &mut self.durable, sector);
            } else if forgets {
                copy_sector(&self.durable, &mut self.content, sector);
            }
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[offset..end].copy_from_slice(bytes);
        self.unsynced.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }
}

fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = sector * SECTOR;
    let end = (start + SECTOR).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Add(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl State {
    /// What is to be done before this call.
    fn due(&mut self, call: Call) -> Option<Box<dyn FnOnce() + Send>> {
        let of_call = |interruption: &&mut Interruption| [call, Call::Any].contains(&interruption.call);
        let at = self.interruptions.iter().position(|interruption| {
            [call, Call::Any].contains(&interruption.call) && interruption.after == 0
        });
        if let Some(at) = at {
            return Some(self.interruptions.remove(at).work);
        }
        self.interruptions.iter_mut().filter(of_call).for_each(|interruption| interruption.after -= 1);
        None
    }

    fn is_unreadable(&self, inode: usize, range: Range<usize>) -> bool {
        let mut of_file = self.unreadable.iter().filter(|(of, _)| *of == inode);
        of_file.any(|(_, part)| part.start < range.end && range.start < part.end)
    }

    /// The fault of this call, if it has one.
    fn fault(&mut self, call: Call) -> Option<FaultKind> {
        self.calls += 1;
        let mut found = None;
        for fault in &mut self.faults {
            if fault.call != call && fault.call != Call::Any || fault.times == 0 {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            fault.times -= 1;
            found = Some(fault.kind);
        }
        found
    }

    fn check(&mut self, call: Call) -> io::Result<()> {
        self.fault(call).filter(|kind| *kind != FaultKind::Short).map_or(Ok(()), |kind| Err(error(kind)))
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

fn error(kind: FaultKind) -> io::Error {
    match kind {
        FaultKind::Full => io::ErrorKind::StorageFull.into(),
        _ => rustix::io::Errno::IO.into(),
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.begin(Call::List);
        state.check(Call::List)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.begin(Call::Create);
        state.check(Call::Create)?;
        let inode = state.files.len();
        state.files.push(SimFile { content: Vec::new(), durable: Vec::new(), unsynced: BTreeSet::new() });
        state.change(NameChange::Add(name.to_owned(), inode));
        Ok(Arc::new(Handle { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.begin(Call::Open);
        state.check(Call::Open)?;
        if state.unopenable.contains(name) {
            return Err(error(FaultKind::Io));
        }
        let inode = *state.names.get(name).ok_or_else(not_found)?;
        Ok(Arc::new(Handle { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.begin(Call::Rename);
        state.check(Call::Rename)?;
        let inode = *state.names.get(from).ok_or_else(not_found)?;
        state.change(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut state = self.begin(Call::Unlink);
        state.check(Call::Unlink)?;
        if !state.names.contains_key(name) {
            return Err(not_found());
        }
        state.change(NameChange::Remove(name.to_owned()));
        drop(state);
        drop(self.begin(Call::Unlinked));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.begin(Call::SyncDir);
        state.check(Call::SyncDir)?;
        state.unsynced_names.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn prefers_filled_files(&self) -> bool {
        self.state().filled
    }

    fn unlock(&self) {}
}

struct Handle {
    disk: SimDisk,
    inode: usize,
}

impl DiskFile for Handle {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.begin(Call::Read);
        state.check(Call::Read)?;
        let start = to_usize(offset);
        if state.is_unreadable(self.inode, start..start.saturating_add(buffer.len())) {
            return Err(error(FaultKind::Io));
        }
        let content = &state.files[self.inode].content;
        let rest = content.get(start..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.begin(Call::Write);
        let fault = state.fault(Call::Write);
        let offset = to_usize(offset);
        let range = offset..offset + bytes.len();
        let is_written = |part: &(usize, Range<usize>)| {
            part.0 == self.inode && range.start <= part.1.start && part.1.end <= range.end
        };
        state.unreadable.retain(|part| fault.is_some() || !is_written(part));
        if state.is_unreadable(self.inode, range) {
            return Err(error(FaultKind::Io));
        }
        let State { files, random, .. } = &mut *state;
        let file = &mut files[self.inode];
        let Some(kind) = fault else {
            file.write(offset, bytes);
            return Ok(bytes.len());
        };
        if kind == FaultKind::DestroyBlocks {
            file.write(offset, bytes);
            let (start, end) = (offset / BLOCK * BLOCK, (offset + bytes.len()).next_multiple_of(BLOCK));
            let end = end.min(file.content.len());
            file.durable.resize(file.durable.len().max(file.content.len()), 0);
            random.fill(&mut file.content[start..end]);
            file.durable[start..end].copy_from_slice(&file.content[start..end]);
            return Err(error(kind));
        }
        let part = random.usize(..=bytes.len());
        // Systems copy whole pages from a program, so that a write ends between sectors.
        let beyond = (offset + part) % SECTOR;
        let part = if kind == FaultKind::Short { part } else { part.saturating_sub(beyond) };
        file.write(offset, &bytes[..part]);
        if kind == FaultKind::Short && part > 0 { Ok(part) } else { Err(error(kind)) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.begin(Call::Sync);
        state.syncs += 1;
        let fault = state.check(Call::Sync);
        let State { files, random, .. } = &mut *state;
        let file = &mut files[self.inode];
        if fault.is_err() {
            file.fail_to_sync(random);
            return fault;
        }
        file.durable.resize(file.content.len(), 0);
        for sector in std::mem::take(&mut file.unsynced) {
            copy_sector(&file.content, &mut file.durable, sector);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        Ok(super::number::to_u64(state.files[self.inode].content.len()))
    }

    fn linked_len(&self) -> io::Result<Option<u64>> {
        let is_linked = self.disk.state().names.values().any(|inode| *inode == self.inode);
        if is_linked { self.len().map(Some) } else { Ok(None) }
    }
}
