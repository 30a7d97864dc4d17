//! The cursors of subscribers, in a file.

use std::{fmt, io, path::Path, sync::Arc};

use super::{
    Cursor,
    consumer_file::ConsumerFile,
    cursor_table::{CursorTable, HEAD_LEN, MAGIC, check_name},
    on_thread::unblock,
    segment::{DiskFile, is_medium_error, open_locked_file, read_full, write_all},
};
use crate::{
    error::{Error, Result},
    sync::{AsyncMutex, Mutex, lock},
};

/// Where the two slots begin. Far enough apart that no block of any flash holds parts of both, so that a
/// write to one cannot damage the other.
const SLOTS: [u64; 2] = [0, 128 * 1024];
/// Slots are written in whole blocks, because a part of a block that cannot be read cannot be written.
const BLOCK: usize = 4096;
/// A slot counts as damaged after this many failed reads, if the other one can be read in between.
const ATTEMPTS: usize = 4;

/// Keeps the cursors of subscriptions across restarts, each under a name.
///
/// A cursor should be saved after its events were processed: a process that is killed in between gets those
/// events again, and misses none. Saves that come while another is being written are written together. Each
/// write is 4 KiB or more of flash, so that a busy subscriber should save from time to time, and not after
/// every event.
///
/// The file has all cursors twice, and both copies have a checksum. The older copy is overwritten only when
/// the newer one is durable. After a restart, the first save therefore writes the newer one again: the save
/// before may have failed, and what can be read may be in the memory of the operating system alone. If both
/// are damaged, [`load`](Self::load) says so, instead of that there is no cursor.
///
/// ```
/// use palyra_quic::{Cursor, CursorStore};
///
/// # let path = std::env::temp_dir().join(format!("cursors-{}", std::process::id()));
/// let store = CursorStore::open(&path)?;
/// assert_eq!(store.load("gateway")?, None);
/// smol::block_on(store.save("gateway", Cursor::new(Some(5), 41)))?;
/// assert_eq!(store.load("gateway")?, Some(Cursor::new(Some(5), 41)));
/// # drop(store);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone)]
pub struct CursorStore {
    shared: Arc<Shared>,
}

struct Shared {
    table: Mutex<Versioned>,
    /// Held while a caller writes, or waits for another's write.
    turn: Arc<AsyncMutex<()>>,
    file: Mutex<Slots>,
    /// The version of the table that is on disk.
    written: Mutex<u64>,
}

/// The cursors, of which some may have to be written.
struct Versioned {
    table: CursorTable,
    version: u64,
}

struct Slots {
    file: Arc<dyn DiskFile>,
    /// The slot to write next: not the one with the newest valid content.
    next: usize,
    generation: u64,
    /// The content of the other slot, unless it is known to be durable.
    unsettled: Option<Vec<u8>>,
}

impl CursorStore {
    /// Opens the file, or creates it. Blocks while the file is read. A symbolic link to a file is followed.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read or written, is something else or of a later
    /// version of this crate, which is left alone, or is open elsewhere.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = open_locked_file(path.as_ref(), |file| initialize(file))?;
        Ok(Self::on(file)?)
    }

    /// The consumers of a log on a simulated disk; made if it does not exist.
    #[cfg(test)]
    pub(super) fn on_disk(disk: &dyn super::segment::Disk, name: &str) -> io::Result<Self> {
        match disk.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let new = format!("{name}.new");
                let file = disk.create(&new)?;
                initialize(&*file)?;
                file.sync_data()?;
                disk.rename(&new, name)?;
                disk.sync_dir()?;
                Self::on(file)
            }
            file => Self::on(file?),
        }
    }

    fn on(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let (slots, table) = Slots::read(file)?;
        let shared = Shared {
            table: Mutex::new(Versioned { table, version: 0 }),
            turn: Arc::default(),
            file: Mutex::new(slots),
            written: Mutex::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The cursor that was saved last under this name; `None` if there was none. Of a cursor whose last
    /// save is not complete, an earlier one. From memory.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if there may have been one, but both copies of it were damaged, until
    /// one is saved again. [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a name that is empty or
    /// longer than 64 bytes.
    pub fn load(&self, name: &str) -> Result<Option<Cursor>> {
        check_name(name)?;
        let table = lock(&self.shared.table);
        match table.table.get(name) {
            None if table.table.is_incomplete() => Err(Error::from(io::Error::new(
                io::ErrorKind::InvalidData,
                "both copies of the cursors were damaged: this one may have been lost",
            ))),
            cursor => Ok(cursor),
        }
    }

    /// Saves a cursor under a name of 1 to 64 bytes; it survives the process and the machine once this
    /// resolves. At most 256 names are kept. Writing goes through the thread pool of the `blocking` crate.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be written; the cursor is then written with the next
    /// save. [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for another name, or one too many.
    ///
    /// # Cancellation
    ///
    /// The cursor is saved with this call or with the next.
    pub async fn save(&self, name: &str, cursor: Cursor) -> Result<()> {
        let version = {
            let mut table = lock(&self.shared.table);
            table.table.set(name, cursor)?;
            table.version += 1;
            table.version
        };
        let turn = self.shared.turn.lock_arc().await;
        // The caller who had the turn before may have written this one, too.
        if *lock(&self.shared.written) >= version {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let written = unblock(move || {
            // Until the write ends, though the caller may have given up.
            let _turn = turn;
            shared.write()
        });
        written.await.map_err(Error::from)
    }
}

impl ConsumerFile for CursorStore {
    fn all(&self) -> (Vec<(Box<str>, Cursor)>, bool) {
        let table = lock(&self.shared.table);
        (table.table.all(), table.table.is_incomplete())
    }

    fn replace(&self, consumers: &[(Box<str>, Cursor)]) -> Result<()> {
        {
            let mut table = lock(&self.shared.table);
            let lost = table.table.is_incomplete();
            // That some were lost stays known.
            let mut replaced = if lost { CursorTable::incomplete() } else { CursorTable::default() };
            consumers.iter().try_for_each(|(name, cursor)| replaced.set(name, *cursor))?;
            table.table = replaced;
            table.version += 1;
        }
        Ok(self.shared.write()?)
    }
}

impl Shared {
    fn write(&self) -> io::Result<()> {
        let mut slots = lock(&self.file);
        let (table, version) = {
            let table = lock(&self.table);
            (table.table.clone(), table.version)
        };
        slots.write(&table)?;
        *lock(&self.written) = version;
        Ok(())
    }
}

impl Slots {
    /// The newest cursors in the file.
    ///
    /// # Errors
    ///
    /// If it is not a file of cursors, if a later version of this crate wrote it, or if neither slot can be
    /// read.
    fn read(file: Arc<dyn DiskFile>) -> io::Result<(Self, CursorTable)> {
        let mut newest: Option<(usize, u64, CursorTable)> = None;
        let slots = read_slots(&*file)?;
        let is_ours = file.len()? == 0 || are_slots(&slots);
        for (slot, bytes) in slots.iter().enumerate() {
            let Some(bytes) = bytes else {
                tracing::warn!(slot, "a copy of the cursors cannot be read");
                continue;
            };
            let Some((generation, table)) = CursorTable::decode(bytes)? else { continue };
            if newest.as_ref().is_none_or(|(_, other, _)| *other < generation) {
                newest = Some((slot, generation, table));
            }
        }
        match newest {
            Some((slot, generation, table)) => {
                let unsettled = Some(table.encode(generation));
                Ok((Self { file, next: 1 - slot, generation, unsettled }, table))
            }
            None if is_ours => {
                tracing::warn!("both copies of the cursors are damaged");
                let table = CursorTable::incomplete();
                Ok((Self { file, next: 0, generation: 0, unsettled: None }, table))
            }
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is not one of cursors")),
        }
    }

    fn write(&mut self, table: &CursorTable) -> io::Result<()> {
        if let Some(newest) = &self.unsettled {
            // The same bytes, so that they are not lost if this is cut off.
            self.write_slot(1 - self.next, newest)?;
            self.unsettled = None;
        }
        let generation = self.generation + 1;
        self.write_slot(self.next, &table.encode(generation))?;
        self.generation = generation;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Writes a slot, and makes it durable.
    fn write_slot(&self, slot: usize, content: &[u8]) -> io::Result<()> {
        let offset = SLOTS.get(slot).copied().unwrap_or_default();
        let mut blocks = content.to_vec();
        blocks.resize(content.len().next_multiple_of(BLOCK), 0);
        write_all(&*self.file, offset, &blocks)?;
        self.file.sync_data()
    }
}

/// The content of both slots; `None` in the place of one that cannot be read.
///
/// # Errors
///
/// If both cannot be read: that may be temporary.
fn read_slots(file: &dyn DiskFile) -> io::Result<[Option<Vec<u8>>; 2]> {
    let mut attempts = 1;
    loop {
        match SLOTS.map(|offset| read_slot(file, offset)) {
            [Ok(one), Ok(other)] => return Ok([Some(one), Some(other)]),
            [Err(error), Err(_)] => return Err(error),
            [Err(error), Ok(_)] | [Ok(_), Err(error)] if !is_medium_error(&error) => return Err(error),
            [one, other] if attempts == ATTEMPTS => return Ok([one.ok(), other.ok()]),
            _ => attempts += 1,
        }
    }
}

/// Whether this is a file of cursors. Of a new one, the second slot is empty.
fn are_slots(slots: &[Option<Vec<u8>>]) -> bool {
    let mut readable = slots.iter().flatten();
    let is_one_unreadable = slots.contains(&None);
    readable.any(|slot| slot.starts_with(&MAGIC) || is_one_unreadable && slot.iter().all(|byte| *byte == 0))
}

/// What is in a slot, as far as it says how long that is: what is behind may be unreadable.
fn read_slot(file: &dyn DiskFile, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEAD_LEN];
    let head = read_full(file, offset, &mut bytes)?;
    let len = CursorTable::encoded_len(bytes.get(..head).unwrap_or_default()).unwrap_or(head);
    bytes.resize(len, 0);
    let read = read_full(file, offset, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Fills a new file: with its full length, so that later writes change no metadata, and with no cursors.
fn initialize(file: &dyn DiskFile) -> io::Result<()> {
    let zeros = vec![0; 32 * 1024];
    for offset in SLOTS {
        write_all(file, offset, &zeros)?;
    }
    write_all(file, SLOTS[0], &CursorTable::default().encode(1))
}

impl fmt::Debug for CursorStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CursorStore").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::{
        error::ErrorKind,
        events::segment::{Call, Disk, Fault, FaultKind, SimDisk},
    };

    const NAME: &str = "cursors";

    fn created(seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed, true);
        let file = disk.create(NAME).unwrap();
        initialize(&*file).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir().unwrap();
        disk
    }

    fn open(disk: &SimDisk) -> CursorStore {
        CursorStore::on(disk.open(NAME).unwrap()).unwrap()
    }

    #[test]
    fn cursors_of_a_later_version_are_refused_and_left_alone() {
        let disk = created(1);
        let mut later = CursorTable::default().encode(2);
        let content = later.len() - 4;
        later[MAGIC.len()] += 1;
        let crc = crc32fast::hash(&later[..content]);
        later[content..].copy_from_slice(&crc.to_le_bytes());
        let file = disk.open(NAME).unwrap();
        write_all(&*file, SLOTS[1], &later).unwrap();
        let refused = CursorStore::on(Arc::clone(&file)).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        assert_eq!(read_slot(&*file, SLOTS[1]).unwrap(), later);
        write_all(&*file, SLOTS[1], &[0; 64]).unwrap();
        assert!(CursorStore::on(file).is_ok(), "nothing else is wrong with it");
    }

    fn cursor(seq: u64) -> Cursor {
        Cursor::new(Some(5), seq)
    }

    #[test]
    fn a_cursor_that_was_saved_survives_the_loss_of_power() {
        for seed in 0..200 {
            let disk = created(seed);
            let mut saved = 0;
            for _ in 0..3 {
                let store = open(&disk);
                assert_eq!(store.load("a").unwrap().map_or(0, Cursor::seq), saved);
                for _ in 0..seed % 4 {
                    saved += 1;
                    block_on(store.save("a", cursor(saved))).unwrap();
                }
                // One that is cut off: written, and not synced.
                disk.inject(Fault { call: Call::Sync, after: 0, times: 1, kind: FaultKind::Io });
                let _ = block_on(store.save("a", cursor(saved + 1)));
                disk.heal();
                disk.lose_power();
                let found = open(&disk).load("a").unwrap().map_or(0, Cursor::seq);
                assert!(found == saved || found == saved + 1, "{found} of {saved}, seed {seed}");
                saved = found;
            }
        }
    }

    /// It can be read, until the operating system forgets it.
    #[test]
    fn a_save_that_failed_before_a_restart_does_not_take_the_place_of_one_that_did_not() {
        for seed in 0..1000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let disk = created(seed);
            // So that a write is of several sectors, of which some may reach the disk.
            let store = open(&disk);
            let names = (0..12).map(|n| format!("{n:064}"));
            names.for_each(|name| block_on(store.save(&name, cursor(1))).unwrap());
            drop(store);
            let (mut saved, mut tried) = (0, 0);
            for _ in 0..random.u8(2..6) {
                let store = open(&disk);
                let found = store.load("a").unwrap().map_or(0, Cursor::seq);
                assert!((saved..=tried).contains(&found), "{found} of {saved} to {tried}, seed {seed}");
                for _ in 0..random.u8(..4) {
                    let call = [Call::Sync, Call::Write, Call::Any][random.usize(..3)];
                    let kind = [FaultKind::Io, FaultKind::Full, FaultKind::Short][random.usize(..3)];
                    let times = [1, u64::MAX][random.usize(..2)];
                    if random.bool() {
                        disk.inject(Fault { call, after: random.u64(..5), times, kind });
                    }
                    tried += 1;
                    if block_on(store.save("a", cursor(tried))).is_ok() {
                        saved = tried;
                    }
                }
                disk.heal();
                // Otherwise the process alone ends.
                if random.u8(..3) == 0 {
                    disk.lose_power();
                }
            }
        }
    }

    #[test]
    fn a_copy_that_cannot_be_read_costs_at_most_the_newest_save() {
        for slot in SLOTS {
            let disk = created(1);
            let store = open(&disk);
            for seq in 1..=4 {
                block_on(store.save("a", cursor(seq))).unwrap();
            }
            let slot = usize::try_from(slot).unwrap();
            disk.make_unreadable(NAME, slot..slot + BLOCK);
            let store = open(&disk);
            assert!((3..=4).contains(&store.load("a").unwrap().unwrap().seq()));
            for seq in 5..=6 {
                block_on(store.save("a", cursor(seq))).unwrap();
            }
            assert_eq!(open(&disk).load("a").unwrap(), Some(cursor(6)));
        }
        // Of a new file, only the first is in use.
        let disk = created(1);
        disk.make_unreadable(NAME, 0..BLOCK);
        assert_eq!(open(&disk).load("a").unwrap_err().kind(), &ErrorKind::Io);
        disk.make_unreadable(NAME, usize::try_from(SLOTS[1]).unwrap()..usize::MAX);
        CursorStore::on(disk.open(NAME).unwrap()).map(drop).unwrap_err();
    }

    #[test]
    fn read_errors_that_go_away_cost_nothing() {
        for (after, times) in (0..5).flat_map(|after| (1..12).map(move |times| (after, times))) {
            let disk = created(1);
            let store = open(&disk);
            for seq in 1..=4 {
                block_on(store.save("a", cursor(seq))).unwrap();
            }
            disk.inject(Fault { call: Call::Read, after, times, kind: FaultKind::Io });
            let opened = (0..20).find_map(|_| CursorStore::on(disk.open(NAME).unwrap()).ok());
            assert_eq!(opened.unwrap().load("a").unwrap(), Some(cursor(4)), "{times} after {after}");
        }
    }

    #[test]
    fn damage_of_one_copy_costs_at_most_the_newest_save_and_that_of_both_is_told_from_absence() {
        let disk = created(1);
        let store = open(&disk);
        for seq in 1..=4 {
            block_on(store.save("a", cursor(seq))).unwrap();
        }
        let flip = |slot: u64| {
            disk.rot(NAME, |bytes| bytes[usize::try_from(slot).unwrap() + 30] ^= 1);
        };
        for (slot, left) in [(SLOTS[0], 3..=4), (SLOTS[1], 3..=4)] {
            flip(slot);
            assert!(left.contains(&open(&disk).load("a").unwrap().unwrap().seq()));
            flip(slot);
        }
        flip(SLOTS[0]);
        flip(SLOTS[1]);
        let store = open(&disk);
        assert_eq!(store.load("a").unwrap_err().kind(), &ErrorKind::Io);
        block_on(store.save("b", cursor(9))).unwrap();
        let store = open(&disk);
        assert_eq!(store.load("b").unwrap(), Some(cursor(9)));
        assert_eq!(store.load("a").unwrap_err().kind(), &ErrorKind::Io, "as long as nothing was saved");
        block_on(store.save("a", cursor(1))).unwrap();
        assert_eq!(open(&disk).load("a").unwrap(), Some(cursor(1)));
        // The twin.
        assert_eq!(open(&created(2)).load("a").unwrap(), None);
    }

    #[test]
    fn an_empty_file_is_damaged_and_another_one_is_refused() {
        let disk = created(1);
        disk.replace(NAME, Some(Vec::new()));
        assert_eq!(open(&disk).load("a").unwrap_err().kind(), &ErrorKind::Io);
        disk.replace(NAME, Some(b"these are no cursors".to_vec()));
        let refused = CursorStore::on(disk.open(NAME).unwrap()).map(drop);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_generation_that_has_no_next_one_is_damage() {
        let disk = created(1);
        let file = disk.open(NAME).unwrap();
        let mut table = CursorTable::default();
        table.set("a", cursor(3)).unwrap();
        for (generation, found) in [(u64::MAX, None), (u64::MAX - 1, Some(cursor(3)))] {
            for slot in SLOTS {
                write_all(&*file, slot, &table.encode(generation)).unwrap();
            }
            assert_eq!(open(&disk).load("a").ok().flatten(), found);
        }
        write_all(&*file, SLOTS[0], &table.encode(u64::MAX)).unwrap();
        write_all(&*file, SLOTS[1], &table.encode(7)).unwrap();
        block_on(open(&disk).save("a", cursor(4))).unwrap();
        assert_eq!(open(&disk).load("a").unwrap(), Some(cursor(4)));
    }

    #[test]
    fn a_failed_save_is_written_with_the_next_one_and_many_saves_are_written_together() {
        let disk = created(1);
        let store = open(&disk);
        disk.inject(Fault { call: Call::Write, after: 0, times: 1, kind: FaultKind::Io });
        assert_eq!(block_on(store.save("a", cursor(1))).unwrap_err().kind(), &ErrorKind::Io);
        block_on(store.save("b", cursor(2))).unwrap();
        assert_eq!(open(&disk).load("a").unwrap(), Some(cursor(1)));

        let before = disk.syncs();
        let held = block_on(store.shared.turn.lock());
        let mut saves: Vec<_> = (0..100).map(|n| Box::pin(store.save("a", cursor(n)))).collect();
        assert!(saves.iter_mut().all(|save| block_on(poll_once(save)).is_none()));
        drop(held);
        for save in saves {
            block_on(save).unwrap();
        }
        assert_eq!(disk.syncs() - before, 1);
        assert_eq!(open(&disk).load("a").unwrap(), Some(cursor(99)));
    }
}
