//! What stands between quinn and the application's writers.

use std::{
    io::{self, Write},
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use quinn::{QlogConfig, QlogStream, Side};

use super::OpenRecord;

pub(crate) type Record = Box<dyn Write + Send + Sync>;

/// The stream of one connection's record, if there is to be one. What goes wrong costs the record, and not
/// the connection.
pub(crate) fn open(open: &OpenRecord, remote: SocketAddr, side: Side, now: Instant) -> Option<QlogStream> {
    let opened = catch_unwind(AssertUnwindSafe(|| open(remote, side)));
    let Ok(record) = opened else {
        tracing::warn!(%remote, "opening a record panicked");
        return None;
    };
    let mut config = QlogConfig::default();
    config.writer(Box::new(Patient { record: Some(record?), remote })).start_time(now);
    config.into_stream()
}

/// Writes until it fails, and says so once. quinn would say so for every packet, and has the connection
/// locked meanwhile, so that a panic would be the end of more than this.
struct Patient {
    record: Option<Record>,
    remote: SocketAddr,
}

impl Patient {
    fn attempt(&mut self, write: impl FnOnce(&mut Record) -> io::Result<()>) {
        let Some(record) = &mut self.record else { return };
        let failure = match catch_unwind(AssertUnwindSafe(|| write(record))) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_panic) => io::Error::other("the writer panicked"),
        };
        tracing::warn!(remote = %self.remote, error = %failure, "a record of a connection ends here");
        let record = self.record.take();
        // The writer may panic once more when it is dropped.
        _ = catch_unwind(AssertUnwindSafe(move || drop(record)));
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(|record| record.write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt(Write::flush);
        Ok(())
    }
}
