//! The node's event log, and where a subscriber stands in it. No socket in here.

mod log;

pub(crate) use self::log::{Cursor, GapBefore};
pub use self::log::{EventLog, EventLogBuilder};
