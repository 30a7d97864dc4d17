//! What a router does about each accepted connection.

use std::{any::Any, future::Future, sync::Arc};

use super::{
    Router,
    authorize::{Authorizer, PendingPeer, Refusal},
    handler::ConnectionHandler,
};
use crate::{connection::Connection, link::PeerState};

impl Router {
    /// Asks about each accepted connection once its handshake is over, and before anything that it sends is
    /// read. Handlers get what `hook` returns, which may have any type, with
    /// [`Context::state`](crate::Context::state).
    ///
    /// TLS has already verified the peer's certificate, if it showed one. The hook is for what TLS cannot
    /// know: which devices are enrolled, or which connect too often. If the hook returns a [`Refusal`], the
    /// connection is closed with its code and reason. The connection is also closed if the hook takes
    /// longer than another `handshake_timeout` (DEADLINE_EXCEEDED), or panics (INTERNAL). The peer's
    /// handshake is over by then, so its [`connect`](crate::Endpoint::connect) may succeed, and its
    /// connection is closed right after.
    ///
    /// While the hook runs, the connection holds its slot, so at most `max_connections` hooks run at a time.
    /// A hook is dropped when its connection ends. It does not run for peers that this node dials; rules of
    /// [`allow`](Self::allow) apply to them as well. A later hook replaces this one. Default: every peer may
    /// stay.
    ///
    /// ```
    /// use palyra_quic::{PendingPeer, Refusal, Router};
    ///
    /// let router = Router::new().authorize(|peer: PendingPeer| async move {
    ///     match peer.peer().and_then(|peer| peer.common_name()) {
    ///         Some(name) if name.starts_with("Palyra Device ") => Ok(()),
    ///         _ => Err(Refusal::rejected("not enrolled")),
    ///     }
    /// });
    /// # drop(router);
    /// ```
    ///
    /// The hook may wait, for instance for a database, and give handlers what it found:
    ///
    /// ```
    /// use palyra_quic::{Context, MethodError, PendingPeer, Refusal, Router};
    ///
    /// struct Account {
    ///     name: String,
    ///     may_publish: bool,
    /// }
    ///
    /// async fn find_account(peer: PendingPeer) -> Result<Account, Refusal> {
    ///     let name = peer.peer().and_then(|peer| peer.common_name());
    ///     let name = name.ok_or_else(|| Refusal::rejected("no certificate"))?.to_owned();
    ///     Ok(Account { may_publish: name == "Palyra Operator", name })
    /// }
    ///
    /// async fn who_am_i(context: Context, _params: Option<()>) -> Result<String, MethodError> {
    ///     let account = context.state::<Account>().ok_or_else(|| MethodError::internal("no account"))?;
    ///     Ok(format!("{}, may publish: {}", account.name, account.may_publish))
    /// }
    ///
    /// let router = Router::new().authorize(find_account).serve("demo.who_am_i", who_am_i);
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn authorize<F, R, S>(self, hook: F) -> Self
    where
        F: Fn(PendingPeer) -> R + Send + Sync + 'static,
        R: Future<Output = Result<S, Refusal>> + Send + 'static,
        S: Any + Send + Sync,
    {
        let hook = Arc::new(hook);
        let authorizer: Authorizer = Box::new(move |peer| {
            let hook = Arc::clone(&hook);
            Box::pin(async move { hook(peer).await.map(|state| -> PeerState { Box::new(state) }) })
        });
        Self { authorizer: Some(authorizer), ..self }
    }

    /// Runs for each accepted connection after its handshake and [`authorize`](Self::authorize), so that this
    /// node can call the peers that dialled it. The handler is dropped when the connection ends. The
    /// connection stays open when the handler returns. A later handler replaces this one.
    ///
    /// ```
    /// use palyra_quic::{Connection, Router};
    ///
    /// let router = Router::new().on_connection(|connection: Connection| async move {
    ///     if let Err(error) = connection.notify("device.welcome", "hello").await {
    ///         eprintln!("not welcomed: {error}");
    ///     }
    /// });
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn on_connection<F, R>(self, handler: F) -> Self
    where
        F: Fn(Connection) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let on_connection: ConnectionHandler = Box::new(move |connection| {
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler(connection).await })
        });
        Self { on_connection: Some(on_connection), ..self }
    }
}
