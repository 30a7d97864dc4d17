//! What becomes of an open connection when the peer's certificate expires or is revoked.

use super::{path::PathFinder, revocation::RevocationList};

/// What happens to an open connection when a certificate of the chain that the peer showed expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnExpiry {
    /// It is closed with IDENTITY_EXPIRED, immediately, as the endpoint's [`WallClock`] has it; where that
    /// clock is set forward, within ten minutes.
    #[default]
    Close,
    /// It stays open. A connection can last for years: choose this if there are other means to end it.
    Stay,
}

/// On which terms an open connection stays open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) revocations: Option<RevocationList>,
    pub(crate) on_expiry: OnExpiry,
    /// Finds another path, where the one that was found is no longer good. `None` with a verifier of the
    /// caller's own.
    pub(crate) paths: Option<PathFinder>,
}
