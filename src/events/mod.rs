//! The node's event log, and both ends of a subscription to it. No socket in here.

mod cursor;
#[cfg(feature = "durable")]
mod cursors;
#[cfg(feature = "durable")]
mod durable;
mod follower;
mod log;
mod ring;
#[cfg(feature = "durable")]
mod store;

#[cfg(feature = "durable")]
pub use self::cursors::CursorStore;
pub use self::{
    cursor::Cursor,
    log::{EventLog, EventLogBuilder},
};
pub(crate) use self::{
    follower::{Follower, Received, ended_without_reason},
    log::{GapBefore, Position},
};
