//! The rules of a router: which peers may call which method.

use super::{Router, peers::Peers};
use crate::tls::PeerIdentity;

impl Router {
    /// Keeps a method for these peers: one for requests, for notifications or both, `node.health` and
    /// `node.stream_events` among them.
    ///
    /// A request of anybody else is answered `permission_denied` before its parameters are decoded, and a
    /// stream with a notification of anybody else is stopped with IDENTITY_REJECTED. That goes for peers
    /// that dialled this node and for peers that it dialled. A second rule for a method takes the place
    /// of the first; one for a method that is not there, or with an empty name in it, is found when the
    /// endpoint is bound. Default: the rule of [`allow_by_default`](Self::allow_by_default).
    ///
    /// ```
    /// use palyra_quic::{Context, Peers, Router};
    ///
    /// let router = Router::new()
    ///     .serve_raw("demo.restart", |_: Context, params| async move { Ok(params) })
    ///     .allow("demo.restart", Peers::nobody().common_name("Palyra Operator"))
    ///     .allow("node.health", Peers::anybody())
    ///     .allow_by_default(Peers::identified());
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn allow(mut self, method: impl AsRef<str>, peers: Peers) -> Self {
        self.rules.insert(method.as_ref().into(), peers);
        self
    }

    /// Keeps every method that has no rule of its own for these peers, the built-in ones included. Others do
    /// not learn either which methods there are: to what has no rule, they get `permission_denied`
    /// whether it exists or not. Default: [`Peers::anybody`].
    #[must_use]
    pub fn allow_by_default(self, peers: Peers) -> Self {
        Self { default_rule: Some(peers), ..self }
    }

    /// Whether this peer may call this method. Of a method that is not there, whether it may know so.
    pub(crate) fn allows(&self, peer: Option<&PeerIdentity>, method: &str) -> bool {
        let rule = self.rules.get(method).or(self.default_rule.as_ref());
        rule.is_none_or(|peers| peers.contains(peer))
    }
}
