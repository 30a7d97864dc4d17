//! Messages: what the body of a frame says. Bytes to types and back, no I/O.
//!
//! A message is a few fields, each with a number for CBOR and a name for JSON. The three messages list
//! their fields once, in [`codec::Message::write`], and read them once per encoding, into a struct of
//! options that becomes the message where it is complete and consistent.

mod cbor;
mod codec;
mod error;
#[cfg(feature = "json")]
mod json;
mod notification;
mod request;
mod response;
mod validate;
mod wire_error;

pub(crate) use self::codec::is_json;
#[cfg(feature = "json")]
pub use self::json::JsonError;
pub(crate) use self::response::{encode_event, truncated, whole_millis};
pub(crate) use self::wire_error::printable;
pub use self::{
    codec::Codec,
    error::MessageError,
    notification::Notification,
    request::Request,
    response::Response,
    validate::{CborError, MAX_NESTING, validate_body, validate_item},
    wire_error::WireError,
};

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

#[cfg(test)]
mod tests;
