//! What all TLS of an endpoint shares, whichever side dials.

use std::{fmt, sync::Arc};

use rustls::KeyLog;

use super::clock::WallClock;
use crate::limits::ChainLimit;

/// What all TLS of an endpoint shares, whichever side dials.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) wall_clock: WallClock,
    /// How large the chains of peers may be, and this node's own.
    pub(crate) chain_limit: ChainLimit,
    /// Told the secrets of all connections.
    pub(crate) key_log: Option<KeyLogger>,
}

#[derive(Clone)]
pub(crate) struct KeyLogger(pub(crate) Arc<dyn KeyLog>);

impl fmt::Debug for KeyLogger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Foreign, and may print the secrets that it was told.
        let Self(_foreign) = self;
        f.write_str("KeyLogger")
    }
}
