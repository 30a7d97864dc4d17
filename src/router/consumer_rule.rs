//! Who may speak for a consumer.

use std::sync::Arc;

use crate::tls::PeerIdentity;

/// Decides whether a peer may acknowledge events as a consumer.
pub(super) type ConsumerRule = Arc<dyn Fn(&PeerIdentity, &str) -> bool + Send + Sync>;
