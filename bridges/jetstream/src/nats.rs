//! The connection to NATS.

use std::{fmt, path::PathBuf, time::Duration};

use async_nats::{ConnectOptions, Event, ServerAddr, jetstream::Context};
use tokio::sync::watch;

use crate::error::{BridgeError, Result};

/// How to reach NATS, and who to be there.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct NatsOptions {
    /// One address, or several of one cluster, separated by commas. `tls://` requires TLS. Without name and
    /// password, which async-nats would ignore here.
    pub url: String,
    /// A name and its password.
    pub user: Option<(String, String)>,
    /// A PEM file with the authorities that may have signed the server's certificate. Default: those of the
    /// operating system. Requires TLS.
    pub authorities: Option<PathBuf>,
    /// PEM files with a certificate of this client and its key, for servers with `verify: true`. Require
    /// TLS.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// A credentials file, with a JWT and its seed, as `nsc` writes it.
    pub credentials: Option<PathBuf>,
    /// A file with the seed of an nkey, alone on its line.
    pub nkey_seed: Option<PathBuf>,
    /// How long JetStream may take to acknowledge a message or to answer a request. Default: 5 s.
    pub timeout: Option<Duration>,
}

/// Longer than the slowest disk takes to sync, and short enough that a lost answer delays little.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A server that is back is noticed within this time.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(1);

impl NatsOptions {
    /// With this address, and nothing else.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// Connects, and again whenever the connection is lost. A server that is not there yet is waited for.
    ///
    /// # Errors
    ///
    /// [`Options`](BridgeError::Options) if a file cannot be read; [`Connect`](BridgeError::Connect) if the
    /// address or the TLS settings cannot work.
    pub async fn connect(&self) -> Result<Nats> {
        let Self { url, user, authorities, certificate, credentials, nkey_seed, timeout } = self;
        let servers = servers(url)?;
        let timeout = timeout.unwrap_or(TIMEOUT);
        let (count_loss, losses) = watch::channel(0_u64);
        let mut options = ConnectOptions::new()
            .name("palyra-jetstream")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .request_timeout(Some(timeout))
            .reconnect_delay_callback(|attempts| {
                let exponent = u32::try_from(attempts.min(7)).unwrap_or(7);
                Duration::from_millis(5).saturating_mul(1 << exponent).min(MAX_RECONNECT_PAUSE)
            })
            .event_callback(move |event| {
                let count_loss = count_loss.clone();
                async move { observe(&event, &count_loss) }
            });
        if let Some(file) = authorities {
            options = options.require_tls(true).add_root_certificates(file.clone());
        }
        if let Some((certificate, key)) = certificate {
            options = options.require_tls(true).add_client_certificate(certificate.clone(), key.clone());
        }
        let unreadable = |file: &PathBuf, error| BridgeError::Options(format!("{}: {error}", file.display()));
        if let Some(file) = credentials {
            let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, error))?;
            options = options.credentials(&text).map_err(|error| unreadable(file, error))?;
        }
        if let Some(file) = nkey_seed {
            let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, error))?;
            options = options.nkey(text.trim().to_owned());
        }
        if let Some((name, password)) = user {
            options = options.user_and_password(name.clone(), password.clone());
        }
        let client = options.connect(servers).await.map_err(|error| BridgeError::Connect(error.into()))?;
        let mut context = async_nats::jetstream::new(client);
        context.set_timeout(timeout);
        Ok(Nats { context, losses })
    }
}

fn servers(urls: &str) -> Result<Vec<ServerAddr>> {
    let parse = |url: &str| {
        let server: ServerAddr = url.trim().parse().map_err(|error| BridgeError::Connect(Box::new(error)))?;
        if server.has_user_pass() {
            let text =
                "the address of NATS contains a name or a password, which belong into their own options";
            return Err(BridgeError::Options(text.into()));
        }
        Ok(server)
    };
    urls.split(',').map(parse).collect()
}

/// A connection to NATS that is made again whenever it is lost.
#[derive(Clone)]
pub struct Nats {
    pub(crate) context: Context,
    losses: watch::Receiver<u64>,
}

impl Nats {
    /// Counts the losses of the connection from now on.
    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        let mut losses = self.losses.clone();
        losses.mark_unchanged();
        losses
    }

    /// The largest message that the server accepts; `None` before the first connection.
    pub(crate) fn max_payload(&self) -> Option<usize> {
        Some(self.context.client().server_info().max_payload).filter(|bytes| *bytes > 0)
    }
}

/// Resolves when the connection has been lost.
pub(crate) async fn lost(losses: &mut watch::Receiver<u64>) {
    if losses.changed().await.is_err() {
        // The connection has ended, and with it its callback. Requests fail from now on.
        std::future::pending::<()>().await;
    }
}

fn observe(event: &Event, count_loss: &watch::Sender<u64>) {
    match event {
        Event::Disconnected => {
            tracing::warn!("the connection to NATS is lost");
            count_loss.send_modify(|losses| *losses += 1);
        }
        Event::Connected => tracing::info!("connected to NATS"),
        other => tracing::warn!("NATS: {other}"),
    }
}

impl fmt::Debug for NatsOptions {
    /// Without passwords, also those in a URL that [`connect`](Self::connect) will refuse.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, user, authorities, certificate, credentials, nkey_seed, timeout } = self;
        f.debug_struct("NatsOptions")
            .field("user", &user.as_ref().map(|(name, _)| name))
            .field("authorities", authorities)
            .field("certificate", certificate)
            .field("credentials", credentials)
            .field("nkey_seed", nkey_seed)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats")
            .field("state", &self.context.client().connection_state())
            .finish_non_exhaustive()
    }
}
