//! What happens to an open connection when the peer's certificate expires or is revoked.
//!
//! The settings alone: `src/link.rs` acts on them.

use std::sync::Arc;

use super::{path::PathFinder, revocation::RevocationCheck};

/// What happens to an open connection when a certificate of the chain that the peer showed expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnExpiry {
    /// It is closed with IDENTITY_EXPIRED, immediately, as the endpoint's [`WallClock`](crate::WallClock)
    /// has it; where that clock is set forward, within ten minutes.
    #[default]
    Close,
    /// It stays open. A connection can last for years: choose this if there are other means to end it.
    Stay,
}

/// When an open connection is closed for the peer's certificate.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValidityPolicy {
    pub(crate) revocations: Option<Arc<dyn RevocationCheck>>,
    pub(crate) on_expiry: OnExpiry,
    /// Looks for another path when the path found in the handshake is no longer valid. `None` with the
    /// caller's own verifier.
    pub(crate) paths: Option<PathFinder>,
}
