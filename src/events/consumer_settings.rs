//! For whom events are kept, and how many.

use std::time::Duration;

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
    pub(super) make: Option<fn(&Self, Duration) -> Result<Consumers>>,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            max_bytes: None,
            refuses: false,
            max: MAX_CONSUMERS,
            forget_after: None,
            declared: Vec::new(),
            make: None,
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

    /// The consumers at the start; `None` if the log has none.
    pub(super) fn consumers(&self, now: Duration) -> Result<Option<Consumers>> {
        self.make.map(|make| make(self, now)).transpose()
    }

    pub(super) fn make(&self, now: Duration) -> Result<Consumers> {
        let consumers = Consumers::new(self.max, self.forget_after);
        self.declared.iter().try_for_each(|name| consumers.declare(name, 0, now))?;
        Ok(consumers)
    }
}
