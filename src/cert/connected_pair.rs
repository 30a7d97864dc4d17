//! Two connected endpoints, for trying things out and for tests.

use std::net::{Ipv4Addr, SocketAddr};

use super::CertificateAuthority;
use crate::{
    connection::Connection,
    endpoint::Endpoint,
    error::Result,
    router::Router,
    tls::{ClientTls, ServerTls},
};

/// Two endpoints on loopback sockets of this process, and the connection between them; see
/// [`connected_pair`]. They are closed when the last handles to them are dropped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectedPair {
    /// The endpoint that serves the router.
    pub server: Endpoint,
    /// The endpoint that has dialled it.
    pub client: Endpoint,
    /// The connection, on the client's side. [`Endpoint::connections`] of `server` has it on the other.
    pub connection: Connection,
}

/// Two connected endpoints in one line, for trying things out and for tests. Each shows the other a
/// certificate of an authority that is made for the pair. They run on smol's global executor, with the limits
/// of the protocol.
///
/// ```
/// # #[cfg(feature = "smol")]
/// # fn main() -> palyra_quic::Result<()> {
/// use palyra_quic::{Router, connected_pair};
///
/// let router = Router::new().serve_raw("demo.echo", |_, params| async move { Ok(params) });
/// smol::block_on(async {
///     let pair = connected_pair(router).await?;
///     assert_eq!(pair.connection.call_raw("demo.echo", "hello").await?, "hello");
///     Ok(())
/// })
/// # }
/// # #[cfg(not(feature = "smol"))]
/// # fn main() {}
/// ```
///
/// # Errors
///
/// As for [`EndpointBuilder::bind`](crate::EndpointBuilder::bind), where feature `smol` is missing as well,
/// and [`Endpoint::connect`].
pub async fn connected_pair(router: Router) -> Result<ConnectedPair> {
    let authority = CertificateAuthority::new("Connected Pair CA")?;
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));

    let tls = ServerTls::new(authority.issue_server(&[])?.identity());
    let tls = tls.require_client_certificates(authority.trust());
    let server = Endpoint::builder().server(tls).router(router).bind(loopback)?;

    let tls = ClientTls::new(authority.trust()).identity(authority.issue_client("client")?.identity());
    let client = Endpoint::builder().client(tls).bind(loopback)?;
    let connection = client.connect(server.local_addr()?).await?;
    Ok(ConnectedPair { server, client, connection })
}

#[cfg(feature = "smol")]
#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;
    use crate::router::Context;

    #[test]
    fn the_two_are_connected_and_know_each_other() {
        let router = Router::new().serve("who", |context: Context, _: Option<()>| async move {
            Ok(context.peer().and_then(|peer| peer.common_name()).map(str::to_owned))
        });
        block_on(async {
            let pair = connected_pair(router).await.unwrap();
            let name: Option<String> = pair.connection.call("who", &()).await.unwrap();
            assert_eq!(name.as_deref(), Some("Palyra Device client"));
            assert_eq!(pair.connection.remote_address(), pair.server.local_addr().unwrap());
            let accepted = pair.server.connections();
            assert_eq!(accepted.len(), 1);
            assert_eq!(accepted[0].remote_address(), pair.client.local_addr().unwrap());
            assert_eq!(pair.client.connections().len(), 1);
        });
    }
}
