//! The node's event log, and both ends of a subscription to it. No socket in here.

mod backing;
mod builder;
#[cfg(feature = "durable")]
mod committer;
#[allow(dead_code, unreachable_pub, reason = "event logs do not use stores yet")]
mod conformance;
mod cursor;
#[cfg(feature = "durable")]
mod cursor_store;
#[allow(dead_code, unreachable_pub, reason = "event logs do not use stores yet")]
mod event_store;
mod follower;
mod gap;
mod history;
mod log;
#[allow(dead_code, unreachable_pub, reason = "event logs do not use stores yet")]
mod memory_store;
#[cfg(feature = "durable")]
mod open;
#[cfg(feature = "durable")]
mod progress;
mod ring;
#[cfg(all(feature = "durable", unix))]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "event logs do not use stores yet")]
mod segment;
#[cfg(feature = "durable")]
mod store;

#[cfg(feature = "durable")]
pub use self::cursor_store::CursorStore;
#[cfg(all(fuzzing, feature = "durable"))]
pub use self::segment::fuzz::open_any_segment;
pub use self::{builder::EventLogBuilder, cursor::Cursor, gap::Gap, log::EventLog};
pub(crate) use self::{
    follower::{Delivery, Follower, ended_without_reason},
    history::{GapBefore, Position},
};
