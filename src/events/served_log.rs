//! The log behind a method name.

#[cfg(all(feature = "durable", unix))]
use std::sync::Arc;

use super::log::EventLog;
#[cfg(all(feature = "durable", unix))]
use crate::sync::{Mutex, lock};

/// What a node serves under the name of a log: a log of its own, or what a mirror has.
///
/// Made from an [`EventLog`], or by [`Mirror::served`](crate::Mirror::served).
#[derive(Clone, Debug)]
pub struct ServedLog(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Own(EventLog),
    #[cfg(all(feature = "durable", unix))]
    Mirrored(MirroredLog),
}

#[cfg(all(feature = "durable", unix))]
/// The log of the epoch that a mirror follows. Nothing before the mirror knows which epoch that is.
#[derive(Clone, Debug)]
pub(crate) struct MirroredLog {
    current: Arc<Mutex<Option<EventLog>>>,
    max_payload_bytes: usize,
    has_consumers: bool,
}

impl ServedLog {
    #[cfg(all(feature = "durable", unix))]
    pub(crate) fn mirrored(log: MirroredLog) -> Self {
        Self(Kind::Mirrored(log))
    }

    /// The largest payload that events may have.
    pub(crate) fn max_payload_bytes(&self) -> usize {
        match &self.0 {
            Kind::Own(log) => log.max_payload_bytes(),
            #[cfg(all(feature = "durable", unix))]
            Kind::Mirrored(log) => log.max_payload_bytes,
        }
    }

    /// Whether events are kept on behalf of consumers.
    pub(crate) fn has_consumers(&self) -> bool {
        match &self.0 {
            Kind::Own(log) => log.has_consumers(),
            #[cfg(all(feature = "durable", unix))]
            Kind::Mirrored(log) => log.has_consumers,
        }
    }

    /// The log, if there is one now.
    pub(crate) fn current(&self) -> Option<EventLog> {
        match &self.0 {
            Kind::Own(log) => Some(log.clone()),
            #[cfg(all(feature = "durable", unix))]
            Kind::Mirrored(log) => log.get(),
        }
    }
}

impl From<EventLog> for ServedLog {
    fn from(log: EventLog) -> Self {
        Self(Kind::Own(log))
    }
}

#[cfg(all(feature = "durable", unix))]
impl MirroredLog {
    /// No log yet. None will have larger events than this.
    pub(crate) fn new(max_payload_bytes: usize, has_consumers: bool) -> Self {
        Self { current: Arc::default(), max_payload_bytes, has_consumers }
    }

    pub(crate) fn get(&self) -> Option<EventLog> {
        lock(&self.current).clone()
    }

    pub(crate) fn set(&self, log: EventLog) {
        let before = lock(&self.current).replace(log);
        if let Some(before) = before {
            before.replace();
        }
    }
}
