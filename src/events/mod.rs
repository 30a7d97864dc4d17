//! The node's event log, and both ends of a subscription to it. No socket in here.

mod cursor;
mod follower;
mod log;

pub use self::{
    cursor::Cursor,
    log::{EventLog, EventLogBuilder},
};
pub(crate) use self::{
    follower::{Follower, Received},
    log::{GapBefore, Position},
};
