//! The TLS of an endpoint as it was configured: for accepting, for dialling, or for both.

use super::{
    client::ClientTls, clock::WallClock, identity::Identity, server::ServerTls, usable::likely_refusal,
};

/// Both halves of an endpoint's TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Halves {
    pub(crate) server: Option<ServerTls>,
    pub(crate) client: Option<ClientTls>,
}

impl Halves {
    /// What this node shows.
    pub(super) fn identities(&self) -> impl Iterator<Item = &Identity> {
        let client = self.client.as_ref().and_then(ClientTls::own_identity);
        self.server.as_ref().map(ServerTls::own_identity).into_iter().chain(client)
    }

    pub(super) fn warn_of_own(&self, wall_clock: &WallClock) {
        for identity in self.identities() {
            let leaf = identity.chain().first();
            if let Some(fault) = leaf.and_then(|leaf| likely_refusal(leaf, wall_clock.unix_time())) {
                tracing::warn!("peers will refuse this node's own certificate {fault}");
            }
        }
    }
}
