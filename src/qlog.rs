//! Records of connections in qlog, which quinn writes; none without feature `qlog`.

#[cfg(feature = "qlog")]
mod writer;

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

use quinn::{Side, TransportConfig};

#[cfg(feature = "qlog")]
pub(crate) use self::writer::{Record, open};

#[cfg(feature = "qlog")]
pub(crate) type OpenRecord = dyn Fn(SocketAddr, Side) -> Option<Record> + Send + Sync;

/// Says where the record of a connection goes, if there is to be one.
#[derive(Clone, Default)]
pub(crate) struct Recorder {
    #[cfg(feature = "qlog")]
    pub(crate) open: Option<Arc<OpenRecord>>,
}

impl Recorder {
    /// This configuration, for one connection that may be recorded. `None` where that is nothing else than it
    /// was.
    #[cfg(feature = "qlog")]
    pub(crate) fn attach(
        &self,
        transport: impl FnOnce() -> Arc<TransportConfig>,
        remote: SocketAddr,
        side: Side,
        now: Instant,
    ) -> Option<Arc<TransportConfig>> {
        let stream = open(self.open.as_deref()?, remote, side, now)?;
        let mut transport = transport();
        // Nobody else has it yet.
        Arc::get_mut(&mut transport)?.qlog_stream(Some(stream));
        Some(transport)
    }

    #[cfg(not(feature = "qlog"))]
    #[allow(clippy::unused_self, reason = "the other one uses it")]
    pub(crate) fn attach(
        &self,
        _transport: impl FnOnce() -> Arc<TransportConfig>,
        _remote: SocketAddr,
        _side: Side,
        _now: Instant,
    ) -> Option<Arc<TransportConfig>> {
        None
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}
