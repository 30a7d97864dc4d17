//! The cursors of subscribers, in a file.

use std::{fmt, io, path::Path, sync::Arc};

use super::{
    Cursor,
    cursor_table::{CursorTable, MAGIC, MAX_SLOT_BYTES, check_name},
    segment::{DiskFile, open_locked_file, read_full, write_all},
};
use crate::{
    error::{Error, Result},
    sync::{AsyncMutex, Mutex, lock},
};

/// Where the two slots begin. Far enough apart that no block of any flash holds parts of both, so that a
/// write to one cannot damage the other.
const SLOTS: [u64; 2] = [0, 128 * 1024];

/// Keeps the cursors of subscriptions across restarts, each under a name.
///
/// A cursor should be saved after its events were processed: a process that is killed in between gets those
/// events again, and misses none. Saves that come while another is being written are written together. Each
/// write is 4 KiB or more of flash, so that a busy subscriber should save from time to time, and not after
/// every event.
///
/// The file has all cursors twice. The newer copy is never overwritten, and both have a checksum. If both are
/// damaged, [`load`](Self::load) says so, instead of that there is no cursor.
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
}

impl CursorStore {
    /// Opens the file, or creates it. Blocks while the file is read. A symbolic link to a file is followed.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read or written, is something else, which is left
    /// alone, or is open elsewhere.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = open_locked_file(path.as_ref(), |file| initialize(file))?;
        Ok(Self::on(file)?)
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
        let written = blocking::unblock(move || {
            // Until the write ends, though the caller may have given up.
            let _turn = turn;
            shared.write()
        });
        written.await.map_err(Error::from)
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
    /// If it is not a file of cursors.
    fn read(file: Arc<dyn DiskFile>) -> io::Result<(Self, CursorTable)> {
        let mut newest: Option<(usize, u64, CursorTable)> = None;
        let mut is_ours = file.len()? == 0;
        for (slot, offset) in SLOTS.into_iter().enumerate() {
            let mut bytes = vec![0; MAX_SLOT_BYTES];
            let read = read_full(&*file, offset, &mut bytes)?;
            bytes.truncate(read);
            is_ours |= bytes.starts_with(&MAGIC);
            let Some((generation, table)) = CursorTable::decode(&bytes) else { continue };
            if newest.as_ref().is_none_or(|(_, other, _)| *other < generation) {
                newest = Some((slot, generation, table));
            }
        }
        match newest {
            Some((slot, generation, table)) => Ok((Self { file, next: 1 - slot, generation }, table)),
            None if is_ours => {
                tracing::warn!("both copies of the cursors are damaged");
                let table = CursorTable::incomplete();
                Ok((Self { file, next: 0, generation: 0 }, table))
            }
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is not one of cursors")),
        }
    }

    fn write(&mut self, table: &CursorTable) -> io::Result<()> {
        let offset = SLOTS.get(self.next).copied().unwrap_or_default();
        let generation = self.generation + 1;
        write_all(&*self.file, offset, &table.encode(generation))?;
        self.file.sync_data()?;
        self.generation = generation;
        self.next = 1 - self.next;
        Ok(())
    }
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
