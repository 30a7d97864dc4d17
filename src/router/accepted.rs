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
    /// TLS has found the peer's certificate good by then, if it showed one; this is for what TLS cannot know:
    /// who is enrolled, who pays, who comes too often. A peer that is refused has its connection closed
    /// with the [`Refusal`]'s code and reason. So has one whose question is not answered within another
    /// `handshake_timeout` (DEADLINE_EXCEEDED), or panics (INTERNAL): nobody is let in by a failure. To
    /// the peer the handshake has succeeded, so that its [`connect`](crate::Endpoint::connect) may too,
    /// and the connection is closed right after.
    ///
    /// Until the answer is there, the connection holds its slot, so that no more questions run at a time than
    /// `max_connections` says. The question is dropped when the connection ends. Peers that this
    /// node dials are not asked about, since it chose them; what they may call is a matter of rules for
    /// methods.
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
    /// With state for the handlers, which can be looked up anywhere, since this may wait:
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

    /// Runs for each accepted connection once its handshake is over and it may stay, for nodes that call back
    /// the peers that dialled them. It is dropped when the connection ends; that it returns ends nothing.
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
