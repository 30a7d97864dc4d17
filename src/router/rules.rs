//! The rules of a router: which peers may call which method.

use super::{Router, peers::Peers};
use crate::tls::PeerIdentity;

impl Router {
    /// Lets only these peers use a method or a log. The rule covers requests and notifications of this name.
    /// The built-in methods `node.health`, `node.describe` and `node.stream_events` may have rules, too. A
    /// peer that asks for `node.describe` is told only of methods that it may use.
    ///
    /// A request of any other peer is answered with `permission_denied` before its parameters are decoded,
    /// and a stream with its notification is stopped with IDENTITY_REJECTED. Rules apply to peers that
    /// dialled this node and to peers that this node dialled. A later rule for the same method replaces this
    /// one. Default: the rule of [`allow_by_default`](Self::allow_by_default).
    ///
    /// Binding the endpoint fails with [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if the method is
    /// not served, or if the rule contains an empty name.
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

    /// Lets only these peers use methods that have no rule of their own, the built-in ones included. Other
    /// peers cannot find out which of those methods exist: they get `permission_denied` for unknown names
    /// as well. Default: [`Peers::anybody`].
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
