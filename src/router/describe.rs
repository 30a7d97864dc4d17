//! What a router tells a peer about its methods.

use super::Router;
use crate::{
    method::MethodKind,
    protocol::{DESCRIBE, HEALTH, STREAM_EVENTS},
    tls::PeerIdentity,
};

/// The methods that every node serves.
const BUILT_IN: [(&str, MethodKind); 2] = [(DESCRIBE, MethodKind::Unary), (HEALTH, MethodKind::Unary)];

impl Router {
    /// The methods that this peer may use, by name, with their kinds.
    pub(crate) fn describe(&self, peer: Option<&PeerIdentity>) -> Vec<(&str, MethodKind)> {
        let methods = self.methods.iter().map(|(name, method)| (&**name, method.handler.kind()));
        let notifications = self.notifications.keys().map(|name| (&**name, MethodKind::Notification));
        let log = self.events.as_ref().map(|_| (STREAM_EVENTS, MethodKind::Log));
        let all = BUILT_IN.into_iter().chain(log).chain(methods).chain(notifications);
        let mut allowed: Vec<_> = all.filter(|(name, _)| self.allows(peer, name)).collect();
        allowed.sort_by_key(|(name, _)| *name);
        allowed
    }
}
