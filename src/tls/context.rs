//! What the TLS configurations for accepting and for dialling share.

use std::{fmt, sync::Arc};

use rustls::KeyLog;

use super::clock::WallClock;
use crate::limits::ChainLimit;

/// What the TLS configurations of an endpoint share: one clock, one limit, and one key log.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsContext {
    pub(crate) wall_clock: WallClock,
    /// The largest certificate chain, of a peer or of this node.
    pub(crate) chain_limit: ChainLimit,
    /// Receives the secrets of all connections.
    pub(crate) key_log: Option<KeyLogger>,
}

#[derive(Clone)]
pub(crate) struct KeyLogger(pub(crate) Arc<dyn KeyLog>);

impl fmt::Debug for KeyLogger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The caller's logger may print the secrets that it has received.
        let Self(_callers_logger) = self;
        f.write_str("KeyLogger")
    }
}
