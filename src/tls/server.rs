//! TLS of the accepting side.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use quinn::{
    EndpointConfig,
    crypto::{self, rustls::QuicServerConfig},
};
use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{
    context::{KeyLogger, TlsContext},
    error_text::ReadableError,
    handshake_limit::SizeLimited,
    identity::{Identity, Trust},
    path::{PathFinder, Purpose},
    protocol::{ALPN, VERSIONS},
    provider::provider,
    report::{HandshakeReport, ReportingClock},
    revocation::{RevocationCheck, RevocationList},
    validity_policy::{OnExpiry, ValidityPolicy},
    verify_client::ClientVerifier,
};
use crate::{
    error::{Error, Result},
    limits::ChainLimit,
};

/// What a server shows to its clients, and what it asks of them.
///
/// TLS 1.3 only, [`ALPN`] only, and every connection a full handshake: no tickets, no resumption,
/// no early data. A resumed session would skip the check of the client's certificate, and with it
/// any revocation since.
///
/// ```
/// # #[cfg(feature = "cert")] {
/// use palyra_quic::{CertificateAuthority, ClientAuth, ServerTls};
///
/// let ca = CertificateAuthority::new("Example CA")?;
/// let identity = ca.issue_server(&["gateway.example"])?.identity();
///
/// let open = ServerTls::new(identity.clone());
/// assert_eq!(open.client_auth(), ClientAuth::None);
///
/// let mutual = ServerTls::new(identity).require_client_certificates(ca.trust());
/// assert_eq!(mutual.client_auth(), ClientAuth::Required);
/// # }
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone)]
pub struct ServerTls {
    identity: Identity,
    clients: Clients,
    revocations: Option<Arc<dyn RevocationCheck>>,
    on_expiry: OnExpiry,
    /// Made by the first connection.
    chains: OnceLock<Arc<dyn ClientCertVerifier>>,
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// Clients are not asked for one.
    None,
    /// Clients may show one, and it is checked if they do.
    Optional,
    /// Clients without one are refused in the handshake. `node.health` reports this as
    /// `node_rpc_mtls_required`.
    Required,
}

#[derive(Clone)]
enum Clients {
    Anonymous,
    Offered(Trust),
    Required(Trust),
    Custom(Arc<dyn ClientCertVerifier>),
}

impl ServerTls {
    /// Shows this identity, and asks clients for none.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            clients: Clients::Anonymous,
            revocations: None,
            on_expiry: OnExpiry::Close,
            chains: OnceLock::new(),
        }
    }

    /// Refuses clients without a valid certificate from one of these authorities.
    ///
    /// Replaces any earlier choice about client certificates, as the two methods below do.
    #[must_use]
    pub fn require_client_certificates(self, trust: Trust) -> Self {
        Self { clients: Clients::Required(trust), chains: OnceLock::new(), ..self }
    }

    /// Asks for a certificate from one of these authorities, and lets clients without one in.
    ///
    /// A certificate that is shown must be valid: a bad one is refused, not ignored.
    #[must_use]
    pub fn offer_client_certificates(self, trust: Trust) -> Self {
        Self { clients: Clients::Offered(trust), chains: OnceLock::new(), ..self }
    }

    /// Leaves client certificates to this verifier, for instance one that also looks them up in a
    /// revocation list.
    ///
    /// It alone decides: what it does not check, nobody does. The usual one wraps a
    /// [`WebPkiClientVerifier`] and delegates everything but
    /// `verify_client_cert`. It is asked in every handshake, never again on an open connection. What path it
    /// has found, it cannot say: [`PeerIdentity::chain`](super::PeerIdentity::chain) is the client's own
    /// certificate alone, and that is what expires and what revocation lists are asked about. Its
    /// `root_hint_subjects` are not sent.
    #[must_use]
    pub fn client_cert_verifier(self, verifier: Arc<dyn ClientCertVerifier>) -> Self {
        Self { clients: Clients::Custom(verifier), chains: OnceLock::new(), ..self }
    }

    /// Refuses clients that show a certificate on this list, and closes their connections when they get on
    /// it. On top of every other check, a verifier of the caller's own included.
    #[must_use]
    pub fn revocations(self, list: &RevocationList) -> Self {
        Self { revocations: Some(Arc::new(list.clone())), ..self }
    }

    /// What happens to an open connection when a certificate that the client showed expires. Default:
    /// [`OnExpiry::Close`].
    #[must_use]
    pub fn on_expiry(self, on_expiry: OnExpiry) -> Self {
        Self { on_expiry, ..self }
    }

    pub(super) fn validity_policy(&self) -> ValidityPolicy {
        ValidityPolicy {
            revocations: self.revocations.clone(),
            on_expiry: self.on_expiry,
            paths: self.paths(),
        }
    }

    pub(super) fn own_identity(&self) -> &Identity {
        &self.identity
    }

    /// quinn's configuration for an endpoint at this address.
    pub(crate) fn endpoint_config(&self, address: SocketAddr) -> Option<EndpointConfig> {
        self.identity.endpoint_config(address)
    }

    /// Whether clients have to show a certificate; a custom verifier is asked.
    #[must_use]
    pub fn client_auth(&self) -> ClientAuth {
        match &self.clients {
            Clients::Anonymous => ClientAuth::None,
            Clients::Offered(_) => ClientAuth::Optional,
            Clients::Required(_) => ClientAuth::Required,
            Clients::Custom(verifier) => {
                match (verifier.offer_client_auth(), verifier.client_auth_mandatory()) {
                    (false, _) => ClientAuth::None,
                    (true, false) => ClientAuth::Optional,
                    (true, true) => ClientAuth::Required,
                }
            }
        }
    }

    /// The configuration for one connection, which leaves in `report` that the client's certificate was
    /// looked at.
    pub(crate) fn quic_config(
        &self,
        context: &TlsContext,
        report: &HandshakeReport,
    ) -> Result<Arc<dyn crypto::ServerConfig>> {
        let config = QuicServerConfig::try_from(self.config(context, report)?).map_err(unusable)?;
        Ok(SizeLimited::new(config, context.chain_limit, report))
    }

    pub(super) fn config(&self, context: &TlsContext, report: &HandshakeReport) -> Result<ServerConfig> {
        let TlsContext { wall_clock, chain_limit, key_log } = context;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(unusable)?
            .with_client_cert_verifier(self.verifier(*chain_limit, report)?)
            .with_cert_resolver(self.identity.resolver());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.time_provider =
            Arc::new(ReportingClock { wall_clock: wall_clock.clone(), report: report.clone() });
        if let Some(KeyLogger(key_log)) = key_log {
            config.key_log = Arc::clone(key_log);
        }
        // A resumed session is never shown to the verifier of client certificates. The ticketer
        // that a configuration starts with makes no tickets.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        Ok(config)
    }

    fn verifier(
        &self,
        chain_limit: ChainLimit,
        report: &HandshakeReport,
    ) -> Result<Arc<dyn ClientCertVerifier>> {
        Ok(Arc::new(ClientVerifier {
            chains: Arc::clone(self.chains()?),
            paths: self.paths(),
            revocations: self.revocations.clone(),
            chain_limit,
            report: report.clone(),
        }))
    }

    fn paths(&self) -> Option<PathFinder> {
        match &self.clients {
            Clients::Offered(trust) | Clients::Required(trust) => {
                Some(PathFinder::new(trust.roots(), Purpose::Client))
            }
            Clients::Anonymous | Clients::Custom(_) => None,
        }
    }

    fn chains(&self) -> Result<&Arc<dyn ClientCertVerifier>> {
        if let Some(chains) = self.chains.get() {
            return Ok(chains);
        }
        let chains = self.verifier_of_chains()?;
        Ok(self.chains.get_or_init(|| chains))
    }

    fn verifier_of_chains(&self) -> Result<Arc<dyn ClientCertVerifier>> {
        let builder = |trust: &Trust| WebPkiClientVerifier::builder_with_provider(trust.roots(), provider());
        match &self.clients {
            Clients::Anonymous => Ok(WebPkiClientVerifier::no_client_auth()),
            Clients::Offered(trust) => builder(trust).allow_unauthenticated().build().map_err(unusable),
            Clients::Required(trust) => builder(trust).build().map_err(unusable),
            Clients::Custom(verifier) => Ok(Arc::clone(verifier)),
        }
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, clients, revocations, on_expiry, chains: _ } = self;
        let trust = match clients {
            Clients::Offered(trust) | Clients::Required(trust) => Some(trust),
            // Foreign, and may print anything.
            Clients::Anonymous | Clients::Custom(_) => None,
        };
        f.debug_struct("ServerTls")
            .field("identity", identity)
            .field("client_auth", &self.client_auth())
            .field("trust", &trust)
            .field("revocations", revocations)
            .field("on_expiry", on_expiry)
            .finish_non_exhaustive()
    }
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid_config("no TLS server configuration can be made").caused_by(ReadableError::other(error))
}

#[cfg(feature = "cert")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::CertificateAuthority;

    #[test]
    fn nothing_can_be_resumed() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let tls = ServerTls::new(ca.issue_server(&[]).unwrap().identity());
        let config = tls.config(&TlsContext::default(), &HandshakeReport::default()).unwrap();
        assert_eq!(config.alpn_protocols, [ALPN]);
        assert_eq!(config.send_tls13_tickets, 0);
        assert_eq!(config.max_early_data_size, 0);
        assert!(!config.session_storage.can_cache());
        assert!(!config.ticketer.enabled());
        assert!(tls.quic_config(&TlsContext::default(), &HandshakeReport::default()).is_ok());
    }

    #[test]
    fn client_auth_tells_what_the_verifier_demands() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let tls = ServerTls::new(ca.issue_server(&[]).unwrap().identity());
        for (tls, expected) in [
            (tls.clone(), ClientAuth::None),
            (tls.clone().offer_client_certificates(ca.trust()), ClientAuth::Optional),
            (tls.require_client_certificates(ca.trust()), ClientAuth::Required),
        ] {
            assert_eq!(tls.client_auth(), expected);
            let custom = tls.clone().client_cert_verifier(
                tls.verifier(ChainLimit::default(), &HandshakeReport::default()).unwrap(),
            );
            assert_eq!(custom.client_auth(), expected, "as a custom verifier");
        }
    }

    #[test]
    fn debug_shows_fingerprints_and_no_key() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let issued = ca.issue_server(&[]).unwrap();
        let tls = ServerTls::new(issued.identity()).require_client_certificates(ca.trust());
        let debug = format!("{tls:?}");
        assert!(debug.contains(&issued.fingerprint().to_string()), "{debug}");
        assert!(debug.len() < 300, "more than names and counts: {debug}");
    }
}
