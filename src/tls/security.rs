//! The TLS that an endpoint uses now, and its replacement by a rotation.

use std::sync::{Arc, Mutex};

use event_listener::{Event, EventListener};
use quinn::{Side, crypto::ServerConfig};

use super::{
    certificate::CertificateFields,
    client::ClientTls,
    clock::WallClock,
    configs::TlsConfigs,
    context::TlsContext,
    identity::Identity,
    report::HandshakeReport,
    rotation::Rotation,
    server::{ClientAuth, ServerTls},
    validity_policy::ValidityPolicy,
};
use crate::{
    error::{Error, Result},
    sync::lock,
};

/// The configurations in use. A rotation replaces them together, so a reader never sees a mixture.
#[derive(Debug)]
pub(crate) struct Security {
    present: Mutex<Arc<TlsConfigs>>,
    changed: Event,
    context: TlsContext,
}

impl Security {
    /// Refuses an identity of this node's own whose chain is too large.
    pub(crate) fn new(configs: TlsConfigs, context: TlsContext) -> Result<Arc<Self>> {
        configs.identities().try_for_each(|own| own.check_size(context.chain_limit))?;
        Ok(Arc::new(Self { present: Mutex::new(Arc::new(configs)), changed: Event::new(), context }))
    }

    /// Logs a warning if peers are likely to refuse a certificate that this node shows.
    pub(crate) fn warn_about_own_certificates(&self) {
        let present = self.present();
        present.warn_about_own_certificates(self.wall_clock());
    }

    /// For dialling with TLS that is not the endpoint's own.
    pub(crate) fn with_client(&self, client: &ClientTls) -> Result<Arc<Self>> {
        // Here, and not in the copy: the original is to be prepared for the next time.
        client.prepared()?;
        let configs = TlsConfigs { server: None, client: Some(client.clone()) };
        Self::new(configs, self.context.clone())
    }

    pub(crate) fn present(&self) -> Arc<TlsConfigs> {
        Arc::clone(&lock(&self.present))
    }

    pub(crate) fn context(&self) -> &TlsContext {
        &self.context
    }

    pub(crate) fn wall_clock(&self) -> &WallClock {
        &self.context.wall_clock
    }

    /// Resolves with the next replacement.
    pub(crate) fn changed(&self) -> EventListener {
        self.changed.listen()
    }

    pub(crate) fn client_auth(&self) -> ClientAuth {
        self.present().server.as_ref().map_or(ClientAuth::None, ServerTls::client_auth)
    }

    /// The configuration for one connection that is accepted.
    pub(crate) fn server_config(&self, report: &HandshakeReport) -> Result<Arc<dyn ServerConfig>> {
        match &self.present().server {
            Some(server) => server.quic_config(&self.context, report),
            None => Err(Error::invalid_config("the endpoint was built without server TLS")),
        }
    }

    /// The policy for connections in which this node is the client, or the server.
    pub(crate) fn validity_policy(&self, side: Side) -> ValidityPolicy {
        let present = self.present();
        let policy = match side {
            Side::Client => present.client.as_ref().map(ClientTls::validity_policy),
            Side::Server => present.server.as_ref().map(ServerTls::validity_policy),
        };
        policy.unwrap_or_default()
    }

    /// Replaces what the rotation has, or nothing.
    pub(crate) fn rotate(&self, rotation: Rotation) -> Result<()> {
        let Rotation { configs } = rotation;
        configs.identities().try_for_each(|own| own.check_size(self.context.chain_limit))?;
        let TlsConfigs { server, client } = configs;
        // Every step that may fail comes before the replacement. Whether an endpoint accepts and dials never
        // changes, so that both can be checked without the lock.
        let present = self.present();
        if let Some(server) = &server {
            present.server.as_ref().ok_or_else(|| missing("server"))?;
            server.quic_config(&self.context, &HandshakeReport::default())?;
            self.check_identity(server.own_identity())?;
        }
        if let Some(client) = &client {
            present.client.as_ref().ok_or_else(|| missing("client"))?;
            client.prepared()?;
            client.own_identity().map_or(Ok(()), |identity| self.check_identity(identity))?;
        }
        TlsConfigs { server: server.clone(), client: client.clone() }
            .warn_about_own_certificates(self.wall_clock());
        {
            let mut present = lock(&self.present);
            let TlsConfigs { server: old_server, client: old_client } = TlsConfigs::clone(&present);
            *present = Arc::new(TlsConfigs { server: server.or(old_server), client: client.or(old_client) });
        }
        self.changed.notify(usize::MAX);
        Ok(())
    }

    /// No peer would believe an identity that has expired. One that is not valid yet may be so by a clock
    /// that is behind.
    fn check_identity(&self, identity: &Identity) -> Result<()> {
        let Some(now) = self.wall_clock().unix_time() else { return Ok(()) };
        let expired = |facts: CertificateFields<'_>| facts.not_after < now.as_secs();
        if identity.chain().first().and_then(CertificateFields::of).is_some_and(expired) {
            let fingerprint = identity.fingerprint();
            return Err(Error::invalid_config(format!(
                "this node's own certificate {fingerprint} has expired"
            )));
        }
        Ok(())
    }
}

fn missing(role: &str) -> Error {
    Error::invalid_config(format!("the endpoint was built without {role} TLS, and gets none by rotation"))
}
