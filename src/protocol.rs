//! What the protocol fixes: its version.

/// The version of the protocol that this crate speaks, as each message carries it.
///
/// ```
/// use palyra_quic::{Notification, PROTOCOL_VERSION, Request};
///
/// assert_eq!(PROTOCOL_VERSION, 1);
/// assert_eq!(Request::new("node.health").protocol_version, PROTOCOL_VERSION);
/// assert_eq!(Notification::new("demo.note").protocol_version, PROTOCOL_VERSION);
/// ```
pub const PROTOCOL_VERSION: u16 = 1;
