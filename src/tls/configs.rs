//! The TLS configurations of an endpoint: for accepting, for dialling, or for both.

use super::{
    certificate_check::likely_refusal, client::ClientTls, clock::WallClock, identity::Identity,
    server::ServerTls,
};

/// What an endpoint accepts connections with, and what it dials with.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsConfigs {
    pub(crate) server: Option<ServerTls>,
    pub(crate) client: Option<ClientTls>,
}

impl TlsConfigs {
    /// The identities that this node shows to its peers.
    pub(super) fn identities(&self) -> impl Iterator<Item = &Identity> {
        let client = self.client.as_ref().and_then(ClientTls::own_identity);
        self.server.as_ref().map(ServerTls::own_identity).into_iter().chain(client)
    }

    /// Logs a warning for each identity that peers are likely to refuse.
    pub(super) fn warn_about_own_certificates(&self, wall_clock: &WallClock) {
        // A program without a subscriber contains nothing of what follows.
        if !tracing::enabled!(tracing::Level::WARN) {
            return;
        }
        for identity in self.identities() {
            let leaf = identity.chain().first();
            if let Some(fault) = leaf.and_then(|leaf| likely_refusal(leaf, wall_clock.unix_time())) {
                tracing::warn!("peers will refuse this node's own certificate {fault}");
            }
        }
    }
}
