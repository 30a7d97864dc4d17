//! Messages: what the body of a frame says. Bytes to types and back, no I/O.
//!
//! A message is a few fields, each with a number for CBOR and a name for JSON. The four messages list
//! their fields once, in [`fields::Message::write`], and read them once per encoding, into a struct of
//! options that becomes the message where it is complete and consistent.

mod ack;
mod cbor;
mod codec;
mod counted;
mod description;
mod error;
mod event;
mod fields;
mod head;
mod item;
#[cfg(feature = "json")]
mod json;
mod json_error;
mod notification;
mod request;
mod response;
mod trace;
mod validate;

#[cfg(any(fuzzing, feature = "__internals"))]
pub use self::ack::AckEvents;
#[cfg(not(any(fuzzing, feature = "__internals")))]
pub(crate) use self::ack::AckEvents;
pub(crate) use self::codec::is_json;
pub(crate) use self::description::{DescribedLimits, encode_description};
pub(crate) use self::event::{EVENT_OVERHEAD, encode_event, largest_event_payload, read_usual_event};
#[cfg(feature = "streams")]
pub(crate) use self::item::encode_item;
pub(crate) use self::request::Additions;
#[cfg(any(fuzzing, feature = "__internals"))]
pub use self::validate::validate_body;
#[cfg(not(any(fuzzing, feature = "__internals")))]
pub(crate) use self::validate::validate_item;
#[cfg(any(fuzzing, feature = "__internals"))]
pub use self::validate::validate_item;
pub use self::{
    codec::Codec,
    counted::CountedResponse,
    description::{DescribedMethod, Description},
    error::MessageError,
    item::Item,
    json_error::JsonError,
    notification::Notification,
    request::Request,
    response::Response,
    trace::TraceContext,
    validate::{CborError, MAX_NESTING},
};
pub(crate) use crate::{protocol::PROTOCOL_VERSION, text::printable, wire_error::WireError};

#[cfg(test)]
mod tests;
