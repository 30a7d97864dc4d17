//! The TLS of an endpoint as it is at the moment.

use std::sync::{Arc, Mutex};

use quinn::crypto::rustls::QuicServerConfig;

use super::{ClientAuth, ClientTls, HandshakeReport, ServerTls, Surroundings, Terms, WallClock};
use crate::{
    error::{Error, Result},
    sync::lock,
};

/// What happens to an open connection when a certificate of the chain that the peer showed expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnExpiry {
    /// It is closed with IDENTITY_EXPIRED, at once, as the endpoint's [`WallClock`] has it; where that clock is set forward,
    /// within ten minutes.
    #[default]
    Close,
    /// It stays open. A connection can last for years: whoever chooses this has other means to end it.
    Stay,
}

/// Both halves of an endpoint's TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Halves {
    pub(crate) server: Option<ServerTls>,
    pub(crate) client: Option<ClientTls>,
}

/// Who dialled a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Dialled,
    Accepted,
}

/// The halves in use. Whoever reads them gets those of one moment.
#[derive(Debug)]
pub(crate) struct Security {
    present: Mutex<Arc<Halves>>,
    surroundings: Surroundings,
}

impl Security {
    pub(crate) fn new(halves: Halves, surroundings: Surroundings) -> Arc<Self> {
        Arc::new(Self { present: Mutex::new(Arc::new(halves)), surroundings })
    }

    /// For dialling with TLS that is not the endpoint's own.
    pub(crate) fn beside(&self, client: &ClientTls) -> Result<Arc<Self>> {
        // Here, and not in the copy: the original is to be prepared for the next time.
        client.prepared()?;
        let halves = Halves { server: None, client: Some(client.clone()) };
        Ok(Self::new(halves, self.surroundings.clone()))
    }

    pub(crate) fn present(&self) -> Arc<Halves> {
        Arc::clone(&lock(&self.present))
    }

    pub(crate) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    pub(crate) fn wall_clock(&self) -> &WallClock {
        &self.surroundings.wall_clock
    }

    pub(crate) fn client_auth(&self) -> ClientAuth {
        self.present().server.as_ref().map_or(ClientAuth::None, ServerTls::client_auth)
    }

    /// The configuration for one connection that is accepted.
    pub(crate) fn accepting(&self, report: &HandshakeReport) -> Result<Arc<QuicServerConfig>> {
        match &self.present().server {
            Some(server) => server.quic_config(&self.surroundings, report),
            None => Err(Error::invalid_config("the endpoint was built without server TLS")),
        }
    }

    pub(crate) fn terms(&self, side: Side) -> Terms {
        let present = self.present();
        let terms = match side {
            Side::Dialled => present.client.as_ref().map(ClientTls::terms),
            Side::Accepted => present.server.as_ref().map(ServerTls::terms),
        };
        terms.unwrap_or_default()
    }
}
