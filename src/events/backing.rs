//! Where a log keeps its events: in memory only, or also in a file.

use std::sync::atomic::Ordering;

#[cfg(feature = "durable")]
use std::sync::Arc;

#[cfg(feature = "durable")]
use super::committer::Committer;
use super::{
    history::{History, closed_error},
    ring::StoredEvent,
};
use crate::{error::Result, sync::AtomicBool};

pub(super) enum Backing {
    Memory {
        closed: AtomicBool,
    },
    /// The committer appends events to the history once they are written.
    #[cfg(feature = "durable")]
    File(Arc<Committer>),
}

impl Backing {
    pub(super) fn memory() -> Self {
        Self::Memory { closed: AtomicBool::new(false) }
    }

    /// Publishes an event, and returns its number.
    pub(super) fn publish(&self, history: &History, event: StoredEvent) -> Result<u64> {
        match self {
            Self::Memory { closed } if closed.load(Ordering::Relaxed) => Err(closed_error()),
            Self::Memory { .. } => Ok(history.append([event])),
            #[cfg(feature = "durable")]
            Self::File(committer) => committer.publish(event),
        }
    }

    /// The number of the newest event that was published, whether subscribers can get it or not.
    pub(super) fn last_seq(&self, history: &History) -> u64 {
        match self {
            Self::Memory { .. } => history.last_seq(),
            #[cfg(feature = "durable")]
            Self::File(committer) => committer.last_seq(),
        }
    }

    /// Resolves when the event with this number is as durable as it gets.
    #[allow(clippy::unused_async)] // Without the feature, nothing is awaited.
    pub(super) async fn committed(&self, _seq: u64) -> Result<()> {
        match self {
            Self::Memory { .. } => Ok(()),
            #[cfg(feature = "durable")]
            Self::File(committer) => committer.committed(_seq).await,
        }
    }

    /// Resolves when all events published so far are as durable as they get.
    #[allow(clippy::unused_async)]
    pub(super) async fn flush(&self) -> Result<()> {
        match self {
            Self::Memory { .. } => Ok(()),
            #[cfg(feature = "durable")]
            Self::File(committer) => committer.flush().await,
        }
    }

    /// Refuses further events, and releases the file.
    #[allow(clippy::unused_async)]
    pub(super) async fn close(&self) -> Result<()> {
        match self {
            Self::Memory { closed } => {
                closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            #[cfg(feature = "durable")]
            Self::File(committer) => committer.close().await,
        }
    }

    #[cfg(feature = "durable")]
    pub(super) fn committer(&self) -> Option<&Committer> {
        match self {
            Self::Memory { .. } => None,
            Self::File(committer) => Some(committer),
        }
    }
}
