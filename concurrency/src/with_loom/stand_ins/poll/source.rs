use crate::sync::Mutex;

/// No case has sockets.
pub(super) type Sources = Mutex<()>;
