//! What the protocol fixes: its version, the names of its own methods, and how long names may be.

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

/// Asks a node how it is.
pub(crate) const HEALTH: &str = "node.health";
/// Asks a node for its methods and limits.
pub(crate) const DESCRIBE: &str = "node.describe";
/// Asks for events of a node's log.
pub(crate) const STREAM_EVENTS: &str = "node.stream_events";
/// Tells a node which events of a log a consumer has processed.
pub(crate) const ACK_EVENTS: &str = "node.ack_events";
/// Names of methods that start with this are the protocol's own.
pub(crate) const RESERVED_PREFIX: &str = "node.";

/// The longest name of a method, in bytes of UTF-8. No name is empty.
pub(crate) const MAX_METHOD_BYTES: usize = 128;

/// Whether a message can carry this name of a method.
pub(crate) const fn is_method_len(bytes: usize) -> bool {
    1 <= bytes && bytes <= MAX_METHOD_BYTES
}

/// As many bytes as the name of a consumer may have.
const MAX_CONSUMER_BYTES: usize = 64;

/// Whether the name of a consumer may have this many bytes.
pub(crate) const fn is_consumer_len(bytes: usize) -> bool {
    1 <= bytes && bytes <= MAX_CONSUMER_BYTES
}
