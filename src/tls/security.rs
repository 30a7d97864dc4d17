//! The TLS of an endpoint as it is at the moment.

use std::sync::{Arc, Mutex};

use event_listener::{Event, EventListener};
use quinn::crypto::ServerConfig;

use super::{
    certificate::Facts,
    client::ClientTls,
    clock::WallClock,
    configs::Halves,
    context::Surroundings,
    identity::Identity,
    report::HandshakeReport,
    rotation::Rotation,
    server::{ClientAuth, ServerTls},
    session_policy::Terms,
};
use crate::{
    error::{Error, Result},
    sync::lock,
};

/// Who dialled a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Dialled,
    Accepted,
}

/// The halves in use, which are replaced together. A reader gets those of one moment.
#[derive(Debug)]
pub(crate) struct Security {
    present: Mutex<Arc<Halves>>,
    changed: Event,
    surroundings: Surroundings,
}

impl Security {
    /// Refuses an identity of this node's own whose chain is too large.
    pub(crate) fn new(halves: Halves, surroundings: Surroundings) -> Result<Arc<Self>> {
        halves.identities().try_for_each(|own| own.check_size(surroundings.chain_limit))?;
        Ok(Arc::new(Self { present: Mutex::new(Arc::new(halves)), changed: Event::new(), surroundings }))
    }

    /// Tells the log if peers will refuse what this node is about to show.
    pub(crate) fn warn_of_own(&self) {
        let present = self.present();
        present.warn_of_own(self.wall_clock());
    }

    /// For dialling with TLS that is not the endpoint's own.
    pub(crate) fn beside(&self, client: &ClientTls) -> Result<Arc<Self>> {
        // Here, and not in the copy: the original is to be prepared for the next time.
        client.prepared()?;
        let halves = Halves { server: None, client: Some(client.clone()) };
        Self::new(halves, self.surroundings.clone())
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

    /// Resolves with the next replacement.
    pub(crate) fn changed(&self) -> EventListener {
        self.changed.listen()
    }

    pub(crate) fn client_auth(&self) -> ClientAuth {
        self.present().server.as_ref().map_or(ClientAuth::None, ServerTls::client_auth)
    }

    /// The configuration for one connection that is accepted.
    pub(crate) fn accepting(&self, report: &HandshakeReport) -> Result<Arc<dyn ServerConfig>> {
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

    /// Replaces what the rotation has, or nothing.
    pub(crate) fn rotate(&self, rotation: Rotation) -> Result<()> {
        let Rotation { halves } = rotation;
        halves.identities().try_for_each(|own| own.check_size(self.surroundings.chain_limit))?;
        let Halves { server, client } = halves;
        // What may fail comes first. An endpoint keeps its halves for life, so that they may be looked at
        // beforehand.
        let present = self.present();
        if let Some(server) = &server {
            present.server.as_ref().ok_or_else(|| missing("server"))?;
            server.quic_config(&self.surroundings, &HandshakeReport::default())?;
            self.check_identity(server.own_identity())?;
        }
        if let Some(client) = &client {
            present.client.as_ref().ok_or_else(|| missing("client"))?;
            client.prepared()?;
            client.own_identity().map_or(Ok(()), |identity| self.check_identity(identity))?;
        }
        Halves { server: server.clone(), client: client.clone() }.warn_of_own(self.wall_clock());
        {
            let mut present = lock(&self.present);
            let Halves { server: old_server, client: old_client } = Halves::clone(&present);
            *present = Arc::new(Halves { server: server.or(old_server), client: client.or(old_client) });
        }
        self.changed.notify(usize::MAX);
        Ok(())
    }

    /// No peer would believe an identity that has expired. One that is not valid yet may be so by a clock
    /// that is behind.
    fn check_identity(&self, identity: &Identity) -> Result<()> {
        let Some(now) = self.wall_clock().unix_time() else { return Ok(()) };
        let expired = |facts: Facts<'_>| facts.not_after < now.as_secs();
        if identity.chain().first().and_then(Facts::of).is_some_and(expired) {
            let fingerprint = identity.fingerprint();
            return Err(Error::invalid_config(format!(
                "this node's own certificate {fingerprint} has expired"
            )));
        }
        Ok(())
    }
}

fn missing(half: &str) -> Error {
    Error::invalid_config(format!("the endpoint was built without {half} TLS, and gets none by rotation"))
}
