//! Who this node is, whom it believes, and how a failed handshake is explained.
//!
//! Everything here ends in a rustls configuration with the same fixed properties: TLS 1.3 only, the
//! *ring* provider, one ALPN protocol, no resumption, no tickets and no early data.

use std::{fmt, sync::Arc};

use rustls::KeyLog;

use crate::limits::ChainLimit;

mod bounded;
mod certificate;
mod client;
mod clock;
mod crl;
mod describe;
mod failure;
mod fingerprint;
mod identity;
mod path;
mod peer;
pub(crate) mod pem;
mod provider;
mod report;
mod restart;
mod revocation;
mod revoked;
mod security;
mod server;
#[cfg(test)]
#[cfg(feature = "cert")]
mod tests;
mod usable;
mod words;

pub(crate) use self::peer::not_after;
use self::provider::provider;
#[cfg(feature = "cert")]
pub(crate) use self::words::Cause;
pub(crate) use self::{
    certificate::Facts,
    failure::{classify, no_time},
    path::PathFinder,
    report::HandshakeReport,
    security::{Halves, Security, Side},
};
pub use self::{
    client::ClientTls,
    clock::WallClock,
    fingerprint::{Fingerprint, Pin},
    identity::{Identity, Trust},
    peer::PeerIdentity,
    restart::RestartKey,
    revocation::RevocationList,
    revoked::Revoked,
    security::{OnExpiry, Rotation},
    server::{ClientAuth, ServerTls},
};

/// On which terms an open connection stays open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) revocations: Option<RevocationList>,
    pub(crate) on_expiry: OnExpiry,
    /// Finds another path, where the one that was found is no longer good. `None` with a verifier of the
    /// caller's own.
    pub(crate) paths: Option<PathFinder>,
}

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

/// The application protocol of version 1, offered and demanded on both sides
/// ([RFC 9001, section 8.1](https://www.rfc-editor.org/rfc/rfc9001#section-8.1)).
pub const ALPN: &[u8] = b"palyra-quic-v1";

/// QUIC has no earlier version of TLS ([RFC 9001, section
/// 4.2](https://www.rfc-editor.org/rfc/rfc9001#section-4.2)).
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
