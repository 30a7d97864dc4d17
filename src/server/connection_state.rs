//! What the tasks that serve one connection share.

use std::sync::Arc;

use super::{inline_policy::InlinePolicy, node::Node, stream_credit::UnackedResponses};
use crate::{
    admission::ConnectionSlot,
    link::Link,
    sync::{Semaphore, SemaphoreGuardArc},
};

/// What the tasks that serve one connection share.
pub(super) struct ConnectionState {
    pub(super) node: Arc<Node>,
    pub(super) link: Arc<Link>,
    pub(super) exchange_permits: Arc<Semaphore>,
    #[cfg(feature = "streams")]
    pub(super) item_permits: Arc<Semaphore>,
    pub(super) unacked: UnackedResponses,
    pub(super) inline_policy: InlinePolicy,
    /// The slot of an accepted connection. It is free again when the last of the tasks has ended.
    _slot: Option<ConnectionSlot>,
}

/// Held by each exchange that the peer has open.
pub(super) type ExchangePermit = SemaphoreGuardArc;

impl ConnectionState {
    pub(super) fn new(node: &Arc<Node>, link: &Arc<Link>, slot: Option<ConnectionSlot>) -> Self {
        let max_exchanges = node.limits.max_concurrent_bidi_streams();
        Self {
            node: Arc::clone(node),
            link: Arc::clone(link),
            exchange_permits: semaphore(max_exchanges),
            #[cfg(feature = "streams")]
            item_permits: semaphore(node.limits.max_concurrent_item_exchanges()),
            unacked: UnackedResponses::new(max_exchanges),
            inline_policy: InlinePolicy::default(),
            _slot: slot,
        }
    }
}

pub(super) fn semaphore(permits: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(permits).unwrap_or(usize::MAX)))
}
