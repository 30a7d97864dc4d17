//! For whom events are kept, and how many.

#[cfg(all(feature = "durable", unix))]
use std::path::Path;
use std::time::Duration;

#[cfg(all(feature = "durable", unix))]
use super::consumer_file::ConsumerFile;
use super::consumers::{Consumers, MAX_CONSUMERS};
use crate::error::{Error, Result};

/// What the builder of a log says of consumers.
#[derive(Clone, Debug)]
pub(super) struct ConsumerSettings {
    /// The large bound. `None` if the log has no consumers.
    pub(super) max_bytes: Option<u64>,
    /// Whether publishing is refused at the large bound.
    pub(super) refuses: bool,
    pub(super) max: usize,
    pub(super) forget_after: Option<Duration>,
    pub(super) declared: Vec<Box<str>>,
    /// Makes the consumers. `None` if the log has none, so that a program without them does not contain it.
    pub(super) make: Option<Make>,
    /// Opens the file in which they are saved. `None` if the log has none, for the same reason.
    #[cfg(all(feature = "durable", unix))]
    pub(super) open_file: Option<OpenFile>,
}

#[cfg(all(feature = "durable", unix))]
pub(crate) type OpenFile = fn(&Path) -> Result<Box<dyn ConsumerFile>>;

/// Takes the consumers that were saved, with what they had acknowledged, and the time.
type Make = fn(&ConsumerSettings, &[(Box<str>, u64)], Duration) -> Result<Consumers>;

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            max_bytes: None,
            refuses: false,
            max: MAX_CONSUMERS,
            forget_after: None,
            declared: Vec::new(),
            make: None,
            #[cfg(all(feature = "durable", unix))]
            open_file: None,
        }
    }
}

impl ConsumerSettings {
    pub(super) fn check(&self) -> Result<()> {
        let is_changed = self.refuses || !self.declared.is_empty() || self.forget_after.is_some();
        if self.max_bytes.is_none() && is_changed {
            return Err(Error::invalid_config("consumers need keep_unacknowledged"));
        }
        Ok(())
    }

    /// The consumers at the start, with those that were saved; `None` if the log has none.
    pub(super) fn consumers(&self, saved: &[(Box<str>, u64)], now: Duration) -> Result<Option<Consumers>> {
        self.make.map(|make| make(self, saved, now)).transpose()
    }

    pub(super) fn make(&self, saved: &[(Box<str>, u64)], now: Duration) -> Result<Consumers> {
        let consumers = Consumers::new(self.max, self.forget_after);
        self.declared.iter().try_for_each(|name| consumers.declare(name, 0, now))?;
        saved.iter().try_for_each(|(name, acknowledged)| consumers.declare(name, *acknowledged, now))?;
        Ok(consumers)
    }
}
