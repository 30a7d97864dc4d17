//! Passes quinn's records on to the application's writers.

use std::{
    io::{self, Write},
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use quinn::{QlogConfig, QlogStream, Side};

pub(crate) type Record = Box<dyn Write + Send + Sync>;

pub(crate) type OpenRecord = dyn Fn(SocketAddr, Side) -> Option<Record> + Send + Sync;

/// The stream of one connection's record, if the application wants one. A failure ends the record, and not
/// the connection.
pub(crate) fn open(open: &OpenRecord, remote: SocketAddr, side: Side, now: Instant) -> Option<QlogStream> {
    let opened = catch_unwind(AssertUnwindSafe(|| open(remote, side)));
    let Ok(record) = opened else {
        tracing::warn!(%remote, "opening a record panicked");
        return None;
    };
    let mut config = QlogConfig::default();
    config.writer(Box::new(RecordWriter { record: Some(record?), remote })).start_time(now);
    config.into_stream()
}

/// Writes until it fails, and logs that once. quinn would log it for every packet; and it writes while it
/// holds the lock on the connection, so that a panic would end the connection, too.
struct RecordWriter {
    record: Option<Record>,
    remote: SocketAddr,
}

impl RecordWriter {
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

impl Write for RecordWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(|record| record.write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt(Write::flush);
        Ok(())
    }
}
