//! The frames of a unidirectional stream.

use std::fmt;

use bytes::Bytes;

use super::{
    MessageError,
    cbor::{self, BodySource, Key},
    codec::{self, Codec},
    fields::{self, FieldWriter, Message, TRACE_KEY},
    head,
    trace::TraceContext,
};
use crate::protocol::PROTOCOL_VERSION;

/// What a node tells another without waiting for an answer.
///
/// `Debug` shows the length of `params`, never their content.
///
/// ```
/// use palyra_quic::{Codec, Notification};
///
/// # fn main() -> Result<(), palyra_quic::MessageError> {
/// let note = Notification::new("demo.note").with_params(vec![0xf6]);
/// let mut body = Vec::new();
/// note.encode(Codec::Cbor, &mut body)?;
/// assert_eq!(Notification::decode(&body.into())?, note);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notification {
    /// The version of the protocol that the sender speaks. Any is decoded.
    pub protocol_version: u16,
    /// What it is about, in 1 to 128 bytes.
    pub method: Box<str>,
    /// What there is to tell, in a form that the method defines.
    pub params: Option<Bytes>,
    /// Boxed, because few notifications have one.
    pub(crate) trace: Option<Box<TraceContext>>,
}

impl Notification {
    /// A notification for `method` of this version of the protocol, without anything else.
    ///
    /// ```
    /// let note = palyra_quic::Notification::new("demo.note");
    /// assert_eq!(&*note.method, "demo.note");
    /// assert_eq!(note.params, None);
    /// ```
    #[must_use]
    pub fn new(method: impl Into<Box<str>>) -> Self {
        Self { protocol_version: PROTOCOL_VERSION, method: method.into(), params: None, trace: None }
    }

    /// Sets `params`.
    #[must_use]
    pub fn with_params(mut self, params: impl Into<Bytes>) -> Self {
        self.params = Some(params.into());
        self
    }

    /// Says which trace the notification belongs to. Only CBOR can say so.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(Box::new(trace));
        self
    }

    /// The trace that the notification belongs to. A value that is not valid is read as `None`.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace.as_deref().copied()
    }

    /// Writes the body behind the bytes that `out` holds already.
    ///
    /// # Errors
    ///
    /// [`MessageError::MethodLength`] for a method that is empty or too long;
    /// [`JsonError::Disabled`](super::JsonError::Disabled) for JSON where this build has none; `out` is then
    /// untouched.
    pub fn encode(&self, codec: Codec, out: &mut Vec<u8>) -> Result<(), MessageError> {
        head::check_method(&self.method)?;
        codec.write(self, out)
    }

    /// Reads a body of either encoding. With CBOR, `params` share the memory of `body`.
    ///
    /// # Errors
    ///
    /// The first fault found; see [`MessageError`]. Not an unknown `protocol_version`.
    pub fn decode(body: &Bytes) -> Result<Self, MessageError> {
        let NotificationFields { protocol_version, method, params, trace } =
            codec::decode(BodySource::Owned(body))?;
        let (protocol_version, method) = head::required_head(protocol_version, method)?;
        Ok(Self { protocol_version, method, params, trace })
    }
}

impl Message for Notification {
    fn write(&self, fields: &mut impl FieldWriter) {
        let Self { protocol_version, method, params, trace } = self;
        fields.uint(0, "protocol_version", u64::from(*protocol_version));
        fields.text(1, "method", method);
        fields.optional_bytes(3, "params", params.as_deref());
        if let Some(trace) = trace {
            fields.trace(trace);
        }
    }
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fields::debug("Notification", self, f)
    }
}

#[derive(Default)]
#[cfg_attr(feature = "json", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
struct NotificationFields {
    protocol_version: Option<u16>,
    method: Option<Box<str>>,
    #[cfg_attr(feature = "json", serde(deserialize_with = "super::json::base64"))]
    params: Option<Bytes>,
    #[cfg_attr(feature = "json", serde(skip))]
    trace: Option<Box<TraceContext>>,
}

impl cbor::Fields for NotificationFields {
    fn read(&mut self, key: Key, value: &cbor::Value<'_>) -> Result<(), MessageError> {
        match key {
            Key::Unsigned(0) => self.protocol_version = value.u16("protocol_version")?,
            Key::Unsigned(1) => self.method = value.text("method")?,
            Key::Unsigned(3) => self.params = value.bytes("params")?,
            Key::Unsigned(TRACE_KEY) => self.trace = value.trace().map(Box::new),
            Key::Unsigned(17..) => {}
            _ => return Err(cbor::unknown(key)),
        }
        Ok(())
    }
}
