//! Whom a client calls, and how.

use std::{sync::Arc, time::Duration};

use super::{
    backoff::{Backoff, Failures},
    connector::Connector,
    policy::ConnectPolicy,
    reconnecting::{Client, Shared},
};
use crate::{
    endpoint::{Endpoint, ServerAddress},
    error::{Error, Result},
    tls::ClientTls,
};

/// Without a limit of its own, a call ends when the peer's limit for handlers does.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

impl Client {
    /// Chooses whom to call, and how.
    #[must_use]
    pub fn builder(endpoint: Endpoint) -> ClientBuilder {
        ClientBuilder {
            endpoint,
            addresses: Vec::new(),
            tls: None,
            backoff: Backoff::new(),
            call_timeout: CALL_TIMEOUT,
        }
    }
}

/// Collects what a [`Client`] is to be; see [`Client::builder`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    endpoint: Endpoint,
    addresses: Vec<ServerAddress>,
    tls: Option<ClientTls>,
    backoff: Backoff,
    call_timeout: Duration,
}

impl ClientBuilder {
    /// Adds an address of the peer, with the name that its certificate must be valid for: see
    /// [`ServerAddress`]. They are tried in turn, beginning with the first. Addresses of a family that the
    /// socket of the endpoint cannot send to are passed over, if there is another; so the addresses of a host
    /// can all be given. A host name is resolved anew for each attempt.
    #[must_use]
    pub fn address(mut self, address: impl Into<ServerAddress>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Dials with this. Default: the endpoint's own client TLS.
    #[must_use]
    pub fn tls(self, tls: ClientTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The pauses between attempts. Default: those of [`Backoff::new`].
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// How long a call may take, dialling and repeating included. Default: 30 s.
    #[must_use]
    pub fn call_timeout(self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self }
    }

    /// Makes the client, which dials when it is first needed.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) without an address, with a
    /// server name that is neither a DNS name nor an IP address, with an address that [no
    /// socket](Endpoint::connect) can reach, with none that this endpoint's socket can, with a time limit
    /// of zero, or with TLS that cannot work, by the size of its certificate chain for instance.
    pub fn build(self) -> Result<Client> {
        let Self { endpoint, addresses, tls, backoff, call_timeout } = self;
        if addresses.is_empty() {
            return Err(Error::invalid_config("a client needs an address"));
        }
        if call_timeout.is_zero() {
            return Err(Error::invalid_config("call_timeout is zero"));
        }
        let addresses = endpoint.dialable(addresses)?;
        let security = match tls {
            Some(tls) => endpoint.security().with_client(&tls)?,
            None => Arc::clone(endpoint.security()),
        };
        let failures = Failures::new(backoff, endpoint.fork_rng());
        let policy = ConnectPolicy::new(failures, addresses.len());
        let connector = Arc::new(Connector::new(endpoint, addresses, security, policy));
        Ok(Client { shared: Arc::new(Shared { connector, call_timeout }) })
    }
}
