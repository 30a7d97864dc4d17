//! From the name of a host to its addresses.

#[cfg(any(feature = "smol", feature = "durable"))]
use std::sync::OnceLock;
use std::{future::Future, net::SocketAddr, time::Duration};

#[cfg(any(feature = "smol", feature = "durable"))]
use super::look_ups::{Answer, LookUp, LookUps};
use crate::{
    error::{Error, ErrorKind, Result},
    runtime::{Clock, Elapsed, runtime_is_gone},
};

/// Asks the system for the addresses of hosts, for one endpoint. Made by the first call, so that a program
/// which dials nobody does not contain it.
#[cfg(any(feature = "smol", feature = "durable"))]
#[derive(Debug)]
pub(super) struct Resolver(OnceLock<LookUps>);

#[cfg(not(any(feature = "smol", feature = "durable")))]
#[derive(Debug)]
pub(super) struct Resolver;

#[cfg(any(feature = "smol", feature = "durable"))]
impl Resolver {
    pub(super) fn of_system() -> Self {
        Self(OnceLock::new())
    }

    /// Begins each look-up with this function.
    #[cfg(test)]
    pub(super) fn by(begin: impl Fn(LookUp) + Send + Sync + 'static) -> Self {
        Self(LookUps::new(begin).into())
    }

    /// The addresses of a host, in the order that the system prefers.
    pub(super) async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>> {
        // On threads of the crate `blocking`: a look-up may take as long as a timeout of DNS.
        let on_threads = || LookUps::new(|look_up| blocking::unblock(move || ask_system(look_up)).detach());
        addresses(self.0.get_or_init(on_threads).look_up(host, port).await)
    }
}

#[cfg(not(any(feature = "smol", feature = "durable")))]
impl Resolver {
    pub(super) fn of_system() -> Self {
        Self
    }

    pub(super) async fn resolve(&self, _host: &str, _port: u16) -> Result<Vec<SocketAddr>> {
        Err(Error::invalid_config(
            "this build resolves no host names: it has neither feature `smol` nor `durable`",
        ))
    }
}

/// Ends the wait for a look-up that takes too long. The look-up itself goes on in its thread.
pub(super) async fn within<T>(
    clock: &Clock,
    limit: Duration,
    look_up: impl Future<Output = Result<T>>,
) -> Result<T> {
    match clock.timeout(limit, look_up).await {
        Ok(looked_up) => looked_up,
        Err(Elapsed) if clock.is_runtime_dropped() => Err(runtime_is_gone()),
        Err(Elapsed) => Err(Error::new(ErrorKind::DeadlineExceeded)
            .detail("the host name was not resolved within handshake_timeout")
            .temporary()),
    }
}

#[cfg(any(feature = "smol", feature = "durable"))]
fn ask_system(look_up: LookUp) {
    use std::net::ToSocketAddrs;

    let found = (look_up.host(), look_up.port()).to_socket_addrs().map(Vec::from_iter);
    look_up.answer(found);
}

/// What the system says of a host may be different the next time.
#[cfg(any(feature = "smol", feature = "durable"))]
fn addresses(answer: Answer) -> Result<Vec<SocketAddr>> {
    // Of no kind of its own: a resolver that is out of reach says nothing about UDP to the peer, for which a
    // caller may turn to another transport.
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        let error = std::io::Error::other(error);
        Error::from(error).detail("the host name cannot be resolved").temporary()
    };
    let mut addresses = answer.map_err(|error| failed(error.into()))?.to_vec();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(failed(std::io::Error::from(std::io::ErrorKind::NotFound).into()));
    }
    Ok(addresses)
}

#[cfg(feature = "smol")]
#[cfg(test)]
mod tests {
    use std::{error::Error as _, future::pending, io, sync::Arc};

    use futures_lite::future::block_on;

    use super::*;
    use crate::{
        fallback::{FallbackPolicy, PathPrivilege},
        runtime::default_runtime,
    };

    #[test]
    fn a_host_name_has_addresses() {
        let addresses = block_on(Resolver::of_system().resolve("localhost", 7443)).unwrap();
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 7443));
    }

    #[test]
    fn a_name_that_the_system_does_not_know_may_be_known_later() {
        // The first is no name at all, so that no resolver is asked.
        let unknown = block_on(Resolver::of_system().resolve("no\0name.invalid", 1));
        let blocked = addresses(Err(Arc::new(io::ErrorKind::PermissionDenied.into())));
        for error in [unknown, addresses(Ok(Arc::default())), blocked] {
            let error = error.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Io);
            assert!(error.is_retryable() && !error.is_terminal());
            assert!(error.source().unwrap().is::<io::Error>());
            let fallback = FallbackPolicy::AllowExplicit.decide(&error, PathPrivilege::Unprivileged);
            assert_eq!(fallback, None);
        }
    }

    #[test]
    fn a_look_up_that_takes_too_long_ends() {
        let clock = Clock::new(default_runtime().unwrap());
        let look_up = |limit, address: Option<SocketAddr>| {
            let looking_up = async {
                match address {
                    Some(address) => Ok(address),
                    None => pending().await,
                }
            };
            block_on(within(&clock, limit, looking_up))
        };
        let address = SocketAddr::from(([192, 0, 2, 1], 7443));
        assert_eq!(look_up(Duration::from_secs(60), Some(address)).unwrap(), address);
        let error = look_up(Duration::from_millis(1), None).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::DeadlineExceeded);
        assert!(error.is_timeout() && error.is_retryable());
    }
}
