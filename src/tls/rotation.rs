//! New TLS for a running endpoint.

use super::{client::ClientTls, configs::TlsConfigs, server::ServerTls};

/// New TLS for a running endpoint, all of it in one step; see [`Endpoint::rotate`](crate::Endpoint::rotate).
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    pub(super) configs: TlsConfigs,
}

impl Rotation {
    /// Changes nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts with this from now on: identity, authorities and revocation list alike. Default: what is in
    /// use stays.
    #[must_use]
    pub fn server(mut self, tls: ServerTls) -> Self {
        self.configs.server = Some(tls);
        self
    }

    /// Dials with this from now on: identity, authorities, pins and revocation list alike. Default: what is
    /// in use stays.
    #[must_use]
    pub fn client(mut self, tls: ClientTls) -> Self {
        self.configs.client = Some(tls);
        self
    }
}
