//! Events in a file.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::ring::StoredEvent;
use crate::error::{Error, Result};

/// By sequence number: milliseconds since 1970, and the payload.
const EVENTS: TableDefinition<'_, u64, (u64, &[u8])> = TableDefinition::new("events");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const FORMAT: &str = "format";
const EPOCH: &str = "epoch";
/// Kept apart from the events, so that the numbers of evicted events are not used again.
const NEXT: &str = "next";
const CURRENT_FORMAT: u64 = 1;
/// No log publishes this many events, and arithmetic with numbers up to here cannot overflow.
const MAX_EVENTS: u64 = 1 << 53;
/// The default of redb is one gigabyte.
const CACHE_BYTES: usize = 1024 * 1024;

pub(super) struct Store {
    database: Database,
}

/// What a file holds.
pub(super) struct Contents {
    pub(super) epoch: u64,
    /// The number of the first event, or of the next event if there is none.
    pub(super) first: u64,
    pub(super) events: VecDeque<StoredEvent>,
}

/// What one commit writes.
pub(super) struct Batch {
    pub(super) first: u64,
    pub(super) events: Vec<StoredEvent>,
    /// Events below this number are removed.
    pub(super) oldest: u64,
}

pub(super) enum StoreError {
    /// The content of the file is not valid.
    Damaged(String),
    Io(io::Error),
}

pub(super) type StoreResult<T> = std::result::Result<T, StoreError>;

impl Store {
    /// Opens the file, or creates it. A damaged file is moved aside, and its new path returned.
    pub(super) fn open(
        path: &Path,
        new_epoch: impl Fn() -> u64,
    ) -> Result<(Self, Contents, Option<PathBuf>)> {
        let ((store, contents), damaged) = open_or_move_aside(path, || Self::try_open(path, &new_epoch))?;
        Ok((store, contents, damaged))
    }

    fn try_open(path: &Path, new_epoch: &impl Fn() -> u64) -> StoreResult<(Self, Contents)> {
        Self::on(open_database(path)?, new_epoch)
    }

    /// Reads the database, or begins a history in an empty one.
    pub(super) fn on(database: Database, new_epoch: &impl Fn() -> u64) -> StoreResult<(Self, Contents)> {
        let store = Self { database };
        let contents = match store.read()? {
            Some(contents) => contents,
            None => store.create(new_epoch())?,
        };
        Ok((store, contents))
    }

    /// `None` if nothing was ever written.
    fn read(&self) -> StoreResult<Option<Contents>> {
        let transaction = self.database.begin_read().map_err(redb::Error::from)?;
        let numbers = match transaction.open_table(NUMBERS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            numbers => numbers.map_err(redb::Error::from)?,
        };
        let number = |name: &str| -> StoreResult<u64> {
            let number = numbers.get(name).map_err(redb::Error::from)?;
            number
                .map(|number| number.value())
                .ok_or_else(|| StoreError::Damaged(format!("it has no {name}")))
        };
        match number(FORMAT)? {
            CURRENT_FORMAT => {}
            // Not damaged: the version that wrote it can still read it.
            other => {
                return Err(StoreError::Io(io::Error::other(format!("the event log is of format {other}"))));
            }
        }
        let (epoch, next) = (number(EPOCH)?, number(NEXT)?);
        let table = transaction.open_table(EVENTS).map_err(redb::Error::from)?;
        let mut events = VecDeque::new();
        let mut expected = None;
        for entry in table.iter().map_err(redb::Error::from)? {
            let (seq, event) = entry.map_err(redb::Error::from)?;
            let seq = seq.value();
            if expected.is_some_and(|expected| expected != seq) {
                return Err(StoreError::Damaged(format!("event {seq} does not follow the one before it")));
            }
            expected = seq.checked_add(1);
            let (published, payload) = event.value();
            let published = Duration::from_millis(published);
            events.push_back(StoredEvent { payload: Bytes::copy_from_slice(payload), published });
        }
        if expected.is_some_and(|expected| expected != next) || !(1..MAX_EVENTS).contains(&next) {
            return Err(StoreError::Damaged("its numbers contradict each other".into()));
        }
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        match next.checked_sub(count).filter(|first| *first > 0) {
            Some(first) => Ok(Some(Contents { epoch, first, events })),
            None => Err(StoreError::Damaged("it has more events than were published".into())),
        }
    }

    fn create(&self, epoch: u64) -> StoreResult<Contents> {
        let transaction = self.database.begin_write().map_err(redb::Error::from)?;
        {
            let mut numbers = transaction.open_table(NUMBERS).map_err(redb::Error::from)?;
            for (name, number) in [(FORMAT, CURRENT_FORMAT), (EPOCH, epoch), (NEXT, 1)] {
                numbers.insert(name, number).map_err(redb::Error::from)?;
            }
            transaction.open_table(EVENTS).map_err(redb::Error::from)?;
        }
        transaction.commit().map_err(redb::Error::from)?;
        Ok(Contents { epoch, first: 1, events: VecDeque::new() })
    }

    /// Writes the whole batch or nothing. It is on disk when this returns.
    pub(super) fn commit(&self, batch: &Batch) -> std::result::Result<(), redb::Error> {
        let Batch { first, events, oldest } = batch;
        let mut transaction = self.database.begin_write()?;
        // A one-phase commit relies on checksums, and a peer that chooses the payloads could make them match
        // after a commit that was cut off.
        transaction.set_two_phase_commit(true);
        {
            let mut table = transaction.open_table(EVENTS)?;
            let mut next = *first;
            for StoredEvent { payload, published } in events {
                // Events that would be removed immediately need not be written.
                if next >= *oldest {
                    let published = u64::try_from(published.as_millis()).unwrap_or(u64::MAX);
                    table.insert(next, (published, &**payload))?;
                }
                next += 1;
            }
            table.retain_in(..*oldest, |_, _| false)?;
            transaction.open_table(NUMBERS)?.insert(NEXT, next)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Opens the file, or creates it if it does not exist, and checks all of it.
pub(super) fn open_database(path: &Path) -> StoreResult<Database> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    if !path.try_exists().map_err(StoreError::Io)? {
        // Under another name first: a file that is incomplete because the process was killed would look
        // damaged.
        let new = with_suffix(path, ".new");
        remove_if_exists(&new).map_err(StoreError::Io)?;
        drop(builder.create(&new).map_err(redb::Error::from)?);
        fs::rename(&new, path).map_err(StoreError::Io)?;
    }
    Ok(builder.create(path).map_err(redb::Error::from)?)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Calls `open`. If the file is damaged, moves it aside and calls `open` again. Returns the path of a
/// damaged file.
pub(super) fn open_or_move_aside<T>(
    path: &Path,
    open: impl Fn() -> StoreResult<T>,
) -> Result<(T, Option<PathBuf>)> {
    let damage = match open() {
        Ok(opened) => return Ok((opened, None)),
        Err(StoreError::Io(error)) => return Err(error.into()),
        Err(StoreError::Damaged(damage)) => damage,
    };
    let aside = move_aside(path)?;
    tracing::warn!(
        %damage,
        path = %path.display(),
        aside = %aside.display(),
        "the file is damaged and was moved aside"
    );
    match open() {
        Ok(opened) => Ok((opened, Some(aside))),
        Err(StoreError::Io(error)) => Err(error.into()),
        Err(StoreError::Damaged(damage)) => Err(Error::from(io::Error::other(damage))),
    }
}

/// Renames the file to a free name.
fn move_aside(path: &Path) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for n in 0_u32.. {
        let count = if n == 0 { String::new() } else { format!("-{n}") };
        let aside = with_suffix(path, &format!(".damaged-{now}{count}"));
        if !aside.try_exists()? {
            fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists).into())
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        use redb::Error as E;
        match error {
            // The error of redb for a file of another format, or one that ends too early.
            E::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Self::Damaged(error.to_string())
            }
            E::Io(error) => Self::Io(error),
            error @ (E::Corrupted(_)
            | E::RepairAborted
            | E::TableTypeMismatch { .. }
            | E::TypeDefinitionChanged { .. }
            | E::TableIsMultimap(_)
            | E::TableDoesNotExist(_)) => Self::Damaged(error.to_string()),
            error @ E::DatabaseAlreadyOpen => Self::Io(io::Error::new(io::ErrorKind::ResourceBusy, error)),
            error => Self::Io(io::Error::other(error)),
        }
    }
}
