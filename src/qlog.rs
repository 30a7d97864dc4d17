//! Records of connections in qlog, which quinn writes; none without feature `qlog`.

#[cfg(feature = "qlog")]
mod writer;

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

use quinn::{Side, TransportConfig};

#[cfg(feature = "qlog")]
pub(crate) use self::writer::{OpenRecord, open};

/// Opens the record of a connection, if the application wants one.
#[derive(Clone, Default)]
pub(crate) struct Recorder {
    #[cfg(feature = "qlog")]
    pub(crate) open: Option<Arc<OpenRecord>>,
}

impl Recorder {
    /// A transport configuration with a record, for one connection; `None` if it is not recorded.
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
        // The one handle.
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
