//! The node's event log, and both ends of a subscription to it. No socket in here.

mod acknowledging;
mod ahead;
#[cfg(feature = "durable")]
mod archive;
mod backing;
mod builder;
#[cfg(feature = "durable")]
mod closing;
#[cfg(feature = "durable")]
mod commit;
#[cfg(feature = "durable")]
mod commit_settings;
#[cfg(feature = "durable")]
mod committer;
#[cfg(feature = "durable")]
mod conformance;
#[cfg(feature = "durable")]
mod consumer_file;
mod consumer_settings;
mod consumers;
mod cursor;
#[cfg(all(feature = "durable", unix))]
mod cursor_store;
#[cfg(all(feature = "durable", unix))]
mod cursor_table;
#[cfg(feature = "durable")]
mod event_store;
#[cfg(feature = "durable")]
mod failure;
mod follower;
mod gap;
mod health;
mod history;
mod keep_for_consumers;
#[cfg(feature = "durable")]
mod kept;
mod log;
mod log_clock;
#[cfg(all(feature = "durable", unix))]
mod log_files;
mod log_stats;
#[cfg(feature = "durable")]
mod memory_store;
#[cfg(all(feature = "durable", unix))]
mod mirrored;
mod new_epoch;
#[cfg(feature = "durable")]
mod on_thread;
#[cfg(feature = "durable")]
mod open;
#[cfg(feature = "durable")]
mod pending;
#[cfg(all(test, feature = "durable"))]
mod planted_fault;
mod publisher;
#[cfg(feature = "durable")]
mod read_failures;
mod reader;
mod ring;
#[cfg(all(feature = "durable", unix))]
mod segment;
mod served_log;
#[cfg(all(test, feature = "durable", feature = "sim", unix))]
mod simulated_files;
#[cfg(all(test, feature = "durable", feature = "sim"))]
mod simulated_threads;
#[cfg(feature = "durable")]
mod stored;
#[cfg_attr(not(feature = "durable"), expect(unreachable_pub, reason = "public for stores alone"))]
mod stored_event;

#[cfg(all(test, feature = "durable"))]
pub(crate) use self::planted_fault::PlantedFault;
#[cfg(all(fuzzing, feature = "durable", unix))]
pub use self::segment::fuzz::open_any_segment;
pub(crate) use self::{
    acknowledging::NotAcknowledged,
    consumers::Refused,
    follower::{Delivery, Follower, ended_without_reason},
    history::GapBefore,
    reader::EventReader,
};
pub use self::{
    builder::EventLogBuilder,
    consumers::ConsumerStatus,
    cursor::Cursor,
    gap::Gap,
    health::{LogHealth, LogState},
    log::EventLog,
    log_stats::LogStats,
    publisher::Publisher,
    served_log::ServedLog,
};
#[cfg(feature = "durable")]
pub use self::{
    conformance::conformance,
    event_store::{Batch, Clocks, EventStore, Extent, StoredEvent},
    memory_store::MemoryStore,
};
#[cfg(all(feature = "durable", unix))]
pub use self::{
    cursor_store::CursorStore,
    segment::{LostEvents, SegmentOptions, SegmentStore},
};
#[cfg(all(feature = "durable", unix))]
pub(crate) use self::{on_thread::unblock, served_log::MirroredLog};
#[cfg(all(test, feature = "durable", feature = "sim", unix))]
pub(crate) use self::{
    simulated_files::{Power, SimulatedDisk, StorageFault},
    simulated_threads::SimulatedThreads,
};
