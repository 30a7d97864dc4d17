//! The cursors of subscribers, in a file.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, ReadableDatabase, TableDefinition, TableError};

use super::{
    Cursor,
    store::{StoreError, StoreResult, open_database, open_or_move_aside},
};
use crate::error::{Error, Result};

const CURSORS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("cursors");

/// Keeps the cursors of subscriptions across restarts, each under a name.
///
/// A cursor should be saved after its events were processed: a process that is killed in between gets those
/// events again, and misses none. Each save writes to disk, so that a busy subscriber should save from time
/// to time, and not after every event.
///
/// ```
/// use palyra_quic::{Cursor, CursorStore};
///
/// # let path = std::env::temp_dir().join(format!("cursors-{}.redb", std::process::id()));
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
    database: Arc<Database>,
    damaged: Option<PathBuf>,
}

impl CursorStore {
    /// Opens the file, or creates it. Blocks while the file is read and checked. A damaged file is moved
    /// aside, and the store is then empty.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be opened, or another process has it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (database, damaged) = open_or_move_aside(path, || open_database(path))?;
        Ok(Self { database: Arc::new(database), damaged })
    }

    /// The path to which a damaged file was moved when this store was opened; `None` if the file was sound.
    #[must_use]
    pub fn damaged(&self) -> Option<&Path> {
        self.damaged.as_deref()
    }

    /// The cursor that was saved last under this name. Reads the file's pages, and so may block for a
    /// moment.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read; [`Codec`](crate::ErrorKind::Codec) if its
    /// entry is not a cursor.
    pub fn load(&self, name: &str) -> Result<Option<Cursor>> {
        match self.read(name) {
            Ok(bytes) => bytes.map(|bytes| Cursor::from_bytes(&bytes)).transpose(),
            Err(StoreError::Io(error)) => Err(error.into()),
            Err(StoreError::Damaged(damage)) => Err(Error::from(std::io::Error::other(damage))),
        }
    }

    /// Saves a cursor under a name; it survives the process and the machine once this resolves. Writing goes
    /// through the thread pool of the `blocking` crate.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be written.
    ///
    /// # Cancellation
    ///
    /// The cursor is saved all the same, or the one before stays.
    pub async fn save(&self, name: &str, cursor: Cursor) -> Result<()> {
        let (database, name) = (Arc::clone(&self.database), name.to_owned());
        let saved = blocking::unblock(move || write(&database, &name, cursor)).await;
        saved.map_err(|error| Error::from(std::io::Error::other(error)))
    }

    fn read(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        let transaction = self.database.begin_read().map_err(redb::Error::from)?;
        let cursors = match transaction.open_table(CURSORS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            cursors => cursors.map_err(redb::Error::from)?,
        };
        let cursor = cursors.get(name).map_err(redb::Error::from)?;
        Ok(cursor.map(|cursor| cursor.value().to_vec()))
    }
}

fn write(database: &Database, name: &str, cursor: Cursor) -> std::result::Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(CURSORS)?.insert(name, &*cursor.to_bytes())?;
    transaction.commit()?;
    Ok(())
}

impl fmt::Debug for CursorStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database: _, damaged } = self;
        f.debug_struct("CursorStore").field("damaged", damaged).finish_non_exhaustive()
    }
}
