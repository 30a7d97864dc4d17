//! TLS of the connecting side.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
};

use quinn::crypto::{self, rustls::QuicClientConfig};
use rustls::{
    ClientConfig,
    client::{Resumption, WebPkiServerVerifier},
};

use super::{
    context::{KeyLogger, TlsContext},
    error_text::ReadableError,
    fingerprint::Pin,
    handshake_limit::SizeLimited,
    identity::{Identity, Trust},
    path::{PathFinder, Purpose},
    protocol::{ALPN, VERSIONS},
    provider::provider,
    report::{HandshakeReport, ReportingClock},
    revocation::{RevocationCheck, RevocationList},
    validity_policy::{OnExpiry, ValidityPolicy},
    verify_server::ServerVerifier,
};
use crate::error::{Error, Result};

/// Which servers a client believes, and what it shows to them.
///
/// TLS 1.3 only, [`ALPN`] only, and every connection a full handshake: no resumption, no early
/// data. Chain, name and pins are checked before this side shows its own certificate, so an
/// impostor does not even learn who called.
///
/// ```
/// # #[cfg(feature = "cert")] {
/// use palyra_quic::{CertificateAuthority, ClientTls, Pin};
///
/// let ca = CertificateAuthority::new("Example CA")?;
/// let gateway = ca.issue_server(&["gateway.example"])?;
///
/// let tls = ClientTls::new(ca.trust())
///     .identity(ca.issue_client("sensor")?.identity())
///     .pin(Pin::from(gateway.fingerprint()));
/// # drop(tls);
/// # }
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone)]
pub struct ClientTls {
    trust: Trust,
    identity: Option<Identity>,
    pins: Arc<BTreeSet<Pin>>,
    revocations: Option<Arc<dyn RevocationCheck>>,
    on_expiry: OnExpiry,
    prepared: OnceLock<PreparedConfig>,
}

/// What every connection attempt has in common, made by the first.
#[derive(Clone)]
pub(super) struct PreparedConfig {
    config: ClientConfig,
    chain: Arc<WebPkiServerVerifier>,
}

impl ClientTls {
    /// Believes servers with a certificate from one of these authorities, for the name that comes with the
    /// [address](crate::ServerAddress) dialled; shows no certificate.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            identity: None,
            pins: Arc::default(),
            revocations: None,
            on_expiry: OnExpiry::Close,
            prepared: OnceLock::new(),
        }
    }

    /// Shows this identity to servers that ask for one. Default: none.
    #[must_use]
    pub fn identity(self, identity: Identity) -> Self {
        Self { identity: Some(identity), prepared: OnceLock::new(), ..self }
    }

    /// Adds a pin: the server's own certificate, or its public key, must match one of them, and its chain
    /// must still be valid. Default: none, any valid chain will do.
    ///
    /// Pin the next certificate or key along with the present one before the server changes it.
    #[must_use]
    pub fn pin(self, pin: impl Into<Pin>) -> Self {
        self.pins([pin.into()])
    }

    /// Adds several pins; see [`pin`](Self::pin). An empty list adds none.
    #[must_use]
    pub fn pins(mut self, pins: impl IntoIterator<Item = Pin>) -> Self {
        Arc::make_mut(&mut self.pins).extend(pins);
        self
    }

    /// Refuses servers that show a certificate on this list, and closes the connections to them when they get
    /// on it.
    #[must_use]
    pub fn revocations(mut self, list: &RevocationList) -> Self {
        self.revocations = Some(Arc::new(list.clone()));
        self
    }

    /// What happens to an open connection when a certificate that the server showed expires. Default:
    /// [`OnExpiry::Close`].
    #[must_use]
    pub fn on_expiry(self, on_expiry: OnExpiry) -> Self {
        Self { on_expiry, ..self }
    }

    pub(super) fn validity_policy(&self) -> ValidityPolicy {
        ValidityPolicy {
            revocations: self.revocations.clone(),
            on_expiry: self.on_expiry,
            paths: Some(self.paths()),
        }
    }

    fn paths(&self) -> PathFinder {
        PathFinder::new(self.trust.roots(), Purpose::Server)
    }

    pub(super) fn own_identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The configuration for one connection attempt, which leaves in `report` why the server was
    /// not believed.
    pub(crate) fn quic_config(
        &self,
        context: &TlsContext,
        report: &HandshakeReport,
    ) -> Result<Arc<dyn crypto::ClientConfig>> {
        let config = QuicClientConfig::try_from(self.config(context, report)?).map_err(unusable)?;
        Ok(SizeLimited::new(config, context.chain_limit, report))
    }

    pub(super) fn config(&self, context: &TlsContext, report: &HandshakeReport) -> Result<ClientConfig> {
        let TlsContext { wall_clock, chain_limit, key_log } = context;
        let PreparedConfig { config, chain } = self.prepared()?;
        let mut config = config.clone();
        config.time_provider =
            Arc::new(ReportingClock { wall_clock: wall_clock.clone(), report: report.clone() });
        if let Some(KeyLogger(key_log)) = key_log {
            config.key_log = Arc::clone(key_log);
        }
        config.dangerous().set_certificate_verifier(Arc::new(ServerVerifier {
            chain: Arc::clone(chain),
            paths: self.paths(),
            pins: Arc::clone(&self.pins),
            revocations: self.revocations.clone(),
            chain_limit: *chain_limit,
            report: report.clone(),
        }));
        Ok(config)
    }

    pub(super) fn prepared(&self) -> Result<&PreparedConfig> {
        if let Some(prepared) = self.prepared.get() {
            return Ok(prepared);
        }
        let prepared = self.prepare()?;
        Ok(self.prepared.get_or_init(|| prepared))
    }

    fn prepare(&self) -> Result<PreparedConfig> {
        let chain = WebPkiServerVerifier::builder_with_provider(self.trust.roots(), provider())
            .build()
            .map_err(unusable)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(unusable)?
            .with_webpki_verifier(Arc::clone(&chain));
        let mut config = match &self.identity {
            Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the pins, and the server's look at our certificate.
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(PreparedConfig { config, chain })
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust, identity, pins, revocations, on_expiry, prepared: _ } = self;
        f.debug_struct("ClientTls")
            .field("trust", trust)
            .field("identity", identity)
            .field("pins", pins)
            .field("revocations", revocations)
            .field("on_expiry", on_expiry)
            .finish()
    }
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid_config("no TLS client configuration can be made").caused_by(ReadableError::other(error))
}

#[cfg(feature = "cert")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::CertificateAuthority;

    #[test]
    fn nothing_can_be_resumed() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let tls = ClientTls::new(ca.trust());
        let config = tls.config(&TlsContext::default(), &HandshakeReport::default()).unwrap();
        assert_eq!(config.alpn_protocols, [ALPN]);
        assert!(!config.enable_early_data);
        assert!(format!("{:?}", config.resumption).contains("NoClientSessionStorage"));
        assert!(tls.quic_config(&TlsContext::default(), &HandshakeReport::default()).is_ok());
    }

    #[test]
    fn what_is_set_after_the_first_connection_counts_for_the_next() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let tls = ClientTls::new(ca.trust());
        let shows_a_certificate = |tls: &ClientTls| {
            let config = tls.config(&TlsContext::default(), &HandshakeReport::default()).unwrap();
            config.client_auth_cert_resolver.has_certs()
        };
        assert!(!shows_a_certificate(&tls));
        assert!(shows_a_certificate(&tls.identity(ca.issue_client("late").unwrap().identity())));
    }

    #[test]
    fn debug_shows_fingerprints_and_no_key() {
        let ca = CertificateAuthority::new("ca").unwrap();
        let issued = ca.issue_client("a").unwrap();
        let pin = Pin::of(ca.certificate());
        let tls = ClientTls::new(ca.trust()).identity(issued.identity()).pin(pin);
        tls.config(&TlsContext::default(), &HandshakeReport::default()).unwrap();
        let debug = format!("{tls:?}");
        assert!(debug.contains(&issued.fingerprint().to_string()), "{debug}");
        assert!(debug.contains(&pin.to_string()), "{debug}");
        assert!(debug.len() < 400, "more than names and counts: {debug}");
    }
}
