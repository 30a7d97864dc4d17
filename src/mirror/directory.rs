//! Where a mirror keeps its events: a directory with one more for each epoch of the origin.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Error, Result},
    events::{EventLog, EventLogBuilder},
};

/// A mirror keeps the logs of this many epochs, so that an origin which loses its history again and again
/// does not fill the disk.
const MAX_EPOCHS: usize = 4;

/// The places of a mirror's logs. The epochs of an origin are random, so that each has a number, too, which
/// tells their order.
pub(super) trait EpochLogs: Send + Sync {
    /// The order and the epoch of each log.
    fn list(&self) -> Result<Vec<(u64, u64)>>;

    /// Opens a log, or begins it.
    fn open(&self, builder: EventLogBuilder, order: u64, epoch: u64) -> Result<EventLog>;

    fn remove(&self, order: u64, epoch: u64) -> Result<()>;
}

/// The logs of a mirror.
#[derive(Clone)]
pub(super) struct EpochDirectory {
    logs: Arc<dyn EpochLogs>,
    builder: EventLogBuilder,
    /// That of the newest epoch.
    order: u64,
}

impl EpochDirectory {
    /// Opens the log of the newest epoch, if there is one.
    pub(super) fn open(
        logs: Arc<dyn EpochLogs>,
        builder: EventLogBuilder,
    ) -> Result<(Self, Option<EventLog>)> {
        let mut directory = Self { logs, builder, order: 0 };
        let Some((order, epoch)) = directory.epochs()?.pop() else { return Ok((directory, None)) };
        directory.order = order;
        let log = directory.log(epoch)?;
        Ok((directory, Some(log)))
    }

    /// Begins the log of another epoch, and removes that of the oldest if there are many. Blocks.
    pub(super) fn begin(&mut self, epoch: u64) -> Result<EventLog> {
        let epochs = self.epochs()?;
        let removed = (epochs.len() + 1).saturating_sub(MAX_EPOCHS);
        for (order, epoch) in epochs.into_iter().take(removed) {
            tracing::warn!(epoch, "a mirror removes the events of an old epoch");
            self.logs.remove(order, epoch)?;
        }
        self.order += 1;
        self.log(epoch).inspect_err(|_| self.order -= 1)
    }

    /// The order and the epoch of each log, oldest first.
    fn epochs(&self) -> Result<Vec<(u64, u64)>> {
        let mut epochs = self.logs.list()?;
        epochs.sort_unstable();
        Ok(epochs)
    }

    fn log(&self, epoch: u64) -> Result<EventLog> {
        self.logs.open(self.builder.clone(), self.order, epoch)
    }
}

/// A directory with one more for each log, whose names begin with the order: `1-8213`, `2-4711`.
pub(super) struct Directories(PathBuf);

impl Directories {
    /// Makes the directory, in an existing one.
    pub(super) fn open(path: &Path) -> Result<Self> {
        match fs::create_dir(path) {
            Ok(()) => sync_parent(path)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self(path.to_owned()))
    }
}

impl EpochLogs for Directories {
    fn list(&self) -> Result<Vec<(u64, u64)>> {
        let Self(path) = self;
        let mut epochs = Vec::new();
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            let epoch = name.to_str().and_then(parse).ok_or_else(|| {
                let text = format!("{} is no mirror: it has {}", path.display(), name.display());
                Error::from(io::Error::new(io::ErrorKind::InvalidInput, text))
            })?;
            epochs.push(epoch);
        }
        Ok(epochs)
    }

    fn open(&self, builder: EventLogBuilder, order: u64, epoch: u64) -> Result<EventLog> {
        builder.open_mirror(self.0.join(name(order, epoch)).as_path(), epoch)
    }

    fn remove(&self, order: u64, epoch: u64) -> Result<()> {
        Ok(fs::remove_dir_all(self.0.join(name(order, epoch)))?)
    }
}

fn name(order: u64, epoch: u64) -> String {
    format!("{order}-{epoch}")
}

/// The order and the epoch in the name of a directory. No log has the greatest order: another one follows.
fn parse(name: &str) -> Option<(u64, u64)> {
    let (order, epoch) = name.split_once('-')?;
    let order = order.parse().ok().filter(|order| *order < u64::MAX)?;
    Some((order, epoch.parse().ok()?))
}

/// Makes the name of a new directory durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_order_and_the_epoch() {
        assert_eq!(parse(&name(2, 4711)), Some((2, 4711)));
        let last = name(u64::MAX, 4711);
        for other in ["", "2", "2-", "-4711", "2-4711-", "a-1", "lock", "2-4711.segment", &last] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_newest_epochs_are_kept() {
        let path = std::env::temp_dir().join(format!("palyra-epochs-{}", std::process::id()));
        let builder = EventLog::builder().max_payload_bytes(100).max_bytes(64 * 1024);
        let builder = builder.runtime(crate::runtime::AsyncIoRuntime::on(std::sync::Arc::new(
            async_executor::Executor::new(),
        )));
        let logs = || Arc::new(Directories::open(&path).unwrap());
        let (mut directory, log) = EpochDirectory::open(logs(), builder.clone()).unwrap();
        assert!(log.is_none());
        for epoch in (1..=12).rev() {
            drop(directory.begin(epoch).unwrap());
        }
        assert_eq!(directory.epochs().unwrap(), [(9, 4), (10, 3), (11, 2), (12, 1)]);
        let (directory, log) = EpochDirectory::open(logs(), builder).unwrap();
        assert_eq!((directory.order, log.unwrap().epoch()), (12, 1), "the newest one goes on");
        fs::remove_dir_all(&path).unwrap();
    }
}
