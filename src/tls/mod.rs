//! Who this node is, whom it believes, and how a failed handshake is explained.
//!
//! Everything here ends in a rustls configuration with the same fixed properties: TLS 1.3 only, the
//! *ring* provider, one ALPN protocol, no resumption, no tickets and no early data.

mod certificate;
mod certificate_check;
mod classify;
mod client;
mod clock;
mod configs;
mod context;
mod describe;
mod error_text;
mod fingerprint;
mod handshake_failure;
mod handshake_limit;
mod identity;
mod names;
mod path;
mod path_count;
mod peer;
pub(crate) mod pem;
mod protocol;
mod provider;
mod report;
mod restart_key;
mod revocation;
mod rotation;
mod security;
mod server;
mod server_name;
#[cfg(feature = "cert")]
#[cfg(test)]
mod tests;
mod validity_policy;
mod verify_client;
mod verify_server;

#[cfg(feature = "cert")]
pub(crate) use self::{certificate::CertificateFields, error_text::ReadableError};
pub(crate) use self::{
    certificate::not_after,
    classify::classify,
    configs::TlsConfigs,
    context::{KeyLogger, TlsContext},
    handshake_failure::no_time,
    report::HandshakeReport,
    security::Security,
    server_name::server_name,
    validity_policy::ValidityPolicy,
};
pub use self::{
    client::ClientTls,
    clock::WallClock,
    fingerprint::{Fingerprint, Pin},
    identity::{Identity, Trust},
    peer::PeerIdentity,
    protocol::ALPN,
    restart_key::RestartKey,
    revocation::{RevocationList, Revoked},
    rotation::Rotation,
    server::{ClientAuth, ServerTls},
    validity_policy::OnExpiry,
};
