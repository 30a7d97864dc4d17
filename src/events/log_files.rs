//! Where the files of a log are.

use std::{io, path::Path, sync::Arc};

use super::{
    consumer_file::ConsumerFile,
    consumer_settings::OpenFile,
    event_store::EventStore,
    segment::{CONSUMERS, SegmentOptions, SegmentStore},
};
use crate::error::Result;

/// The files of one log: those in a directory, or on the simulated disk of a test.
pub(crate) trait LogFiles {
    /// Opens the store, or creates it.
    fn store(&self, options: SegmentOptions) -> io::Result<Arc<dyn EventStore>>;

    /// Opens the file of the consumers by `open`, or creates it. The store is open.
    fn consumers(&self, open: OpenFile) -> Result<Box<dyn ConsumerFile>>;

    /// The location, for an error.
    fn location(&self) -> String;
}

impl LogFiles for Path {
    fn store(&self, options: SegmentOptions) -> io::Result<Arc<dyn EventStore>> {
        Ok(Arc::new(SegmentStore::open(self, &options)?))
    }

    fn consumers(&self, open: OpenFile) -> Result<Box<dyn ConsumerFile>> {
        open(&self.join(CONSUMERS))
    }

    fn location(&self) -> String {
        self.display().to_string()
    }
}
