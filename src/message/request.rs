//! The one frame that opens a bidirectional stream.

use std::fmt;

use bytes::Bytes;

use super::{
    MessageError,
    cbor::{self, BodySource, Key, split_bytes, split_text, split_uint},
    codec::{self, Codec},
    fields::{self, FieldWriter, Message, TRACE_KEY},
    head,
    trace::TraceContext,
};
use crate::{frame::Body, protocol::PROTOCOL_VERSION};

/// What a caller asks of a node.
///
/// `Debug` shows the length of `params`, never their content.
///
/// ```
/// use palyra_quic::{Codec, Request};
///
/// # fn main() -> Result<(), palyra_quic::MessageError> {
/// let request = Request::new("node.stream_events").with_resume_from(41).with_follow();
/// let mut body = Vec::new();
/// request.encode(Codec::Cbor, &mut body)?;
/// assert_eq!(Request::decode(&body.into())?, request);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The version of the protocol that the caller speaks. Any is decoded, so that a node can answer
    /// one that it does not speak with [`ProtocolMismatch`](super::WireError::ProtocolMismatch).
    pub protocol_version: u16,
    /// What is asked for, in 1 to 128 bytes.
    pub method: Box<str>,
    /// The last sequence number that the caller has processed, 0 for none; absent where it has not
    /// subscribed before.
    pub resume_from: Option<u64>,
    /// What the method wants to know, in a form that the method defines.
    pub params: Option<Bytes>,
    /// How long the caller will still wait, in milliseconds. A duration, so that the clocks of two
    /// nodes need not agree.
    pub timeout_ms: Option<u64>,
    /// Whether the stream stays open for events to come.
    pub follow: bool,
    /// The epoch that `resume_from` belongs to.
    pub epoch: Option<u64>,
    /// Boxed, because few requests have any, and all are moved around.
    pub(crate) additions: Option<Box<Additions>>,
}

impl Request {
    /// A request for `method` of this version of the protocol, without anything else.
    ///
    /// ```
    /// let request = palyra_quic::Request::new("node.health");
    /// assert_eq!(&*request.method, "node.health");
    /// assert_eq!(request.params, None);
    /// ```
    #[must_use]
    pub fn new(method: impl Into<Box<str>>) -> Self {
        Self {
            protocol_version: PROTOCOL_VERSION,
            method: method.into(),
            resume_from: None,
            params: None,
            timeout_ms: None,
            follow: false,
            epoch: None,
            additions: None,
        }
    }

    /// Sets `resume_from`.
    #[must_use]
    pub fn with_resume_from(mut self, seq: u64) -> Self {
        self.resume_from = Some(seq);
        self
    }

    /// Sets `params`.
    #[must_use]
    pub fn with_params(mut self, params: impl Into<Bytes>) -> Self {
        self.params = Some(params.into());
        self
    }

    /// Sets `timeout_ms`.
    #[must_use]
    pub fn with_timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.timeout_ms = Some(timeout_ms);
        self
    }

    /// Sets `follow`.
    #[must_use]
    pub fn with_follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Sets `epoch`.
    #[must_use]
    pub fn with_epoch(mut self, epoch: u64) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// Sets `more`: with `true`, [`Item`](super::Item)s follow on the stream. `false` says what its absence
    /// says, and also asks whether the peer knows the field: an earlier node answers `invalid_request`.
    #[must_use]
    pub fn with_more(mut self, more: bool) -> Self {
        self.additions.get_or_insert_default().more = Some(more);
        self
    }

    #[cfg(feature = "streams")]
    pub(crate) fn set_more(&mut self, more: bool) {
        self.additions.get_or_insert_default().more = Some(more);
    }

    /// Whether [`Item`](super::Item)s follow on the stream.
    ///
    /// A build without the feature `streams` refuses to read this field, as an earlier node does, with
    /// [`MessageError::UnknownKey`], or in JSON with [`JsonError::Field`](super::JsonError::Field).
    #[must_use]
    pub fn more(&self) -> Option<bool> {
        self.additions.as_ref()?.more
    }

    /// Says which trace the request belongs to. Only CBOR can say so.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.set_trace(Some(trace));
        self
    }

    #[inline]
    pub(crate) fn set_trace(&mut self, trace: Option<TraceContext>) {
        // Without additions, there is no trace to be taken back.
        if trace.is_some() || self.additions.is_some() {
            self.additions.get_or_insert_default().trace = trace;
        }
    }

    /// The trace that the request belongs to. A value that is not valid is read as `None`.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.additions.as_ref()?.trace
    }

    /// Writes the body behind the bytes that `out` holds already.
    ///
    /// JSON gets `protocol_version`, `method` and `resume_from`, and the others only where they are
    /// set: nodes of the tokio implementation refuse any but those three.
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

    /// How long the body is, if this is known before it is written.
    pub(crate) fn encoded_len(&self, codec: Codec) -> Option<usize> {
        codec.len_of(self)
    }

    /// Reads a body of either encoding. With CBOR, `params` share the memory of `body`.
    ///
    /// # Errors
    ///
    /// The first fault found; see [`MessageError`]. Not an unknown `protocol_version`.
    pub fn decode(body: &Bytes) -> Result<Self, MessageError> {
        Self::decode_from(BodySource::Owned(body))
    }

    /// The same, of a body where it lies, whose memory nothing may keep unless it is the body's own.
    pub(crate) fn read(body: Body<'_>) -> Result<Self, MessageError> {
        Self::decode_from(BodySource::from(&body))
    }

    fn decode_from(source: BodySource<'_>) -> Result<Self, MessageError> {
        match Self::decode_usual(source) {
            Some(request) => Ok(request),
            None => Self::decode_any(source),
        }
    }

    /// A call in the form that this crate writes. Whatever is of another form, be it right or wrong, is not
    /// for here.
    fn decode_usual(source: BodySource<'_>) -> Option<Self> {
        let (&head, rest) = source.body().split_first()?;
        let mut fields_left = head.checked_sub(MAP_OF_2)?;
        let (method, mut rest) = split_text(rest.strip_prefix(METHOD)?)?;
        head::check_method(method).ok()?;
        let (mut params, mut timeout_ms) = (None, None);
        if let Some(bytes) = rest.strip_prefix(&[3]) {
            let (bytes, behind) = split_bytes(bytes)?;
            params = Some(source.keep(bytes));
            rest = behind;
            fields_left = fields_left.checked_sub(1)?;
        }
        if let Some(number) = rest.strip_prefix(&[4]) {
            let (number, behind) = split_uint(number)?;
            timeout_ms = Some(number);
            rest = behind;
            fields_left = fields_left.checked_sub(1)?;
        }
        if fields_left != 0 || !rest.is_empty() {
            return None;
        }
        Some(Self {
            protocol_version: PROTOCOL_VERSION,
            method: method.into(),
            resume_from: None,
            params,
            timeout_ms,
            follow: false,
            epoch: None,
            additions: None,
        })
    }

    fn decode_any(source: BodySource<'_>) -> Result<Self, MessageError> {
        let fields: RequestFields = codec::decode(source)?;
        let (protocol_version, method) = head::required_head(fields.protocol_version, fields.method)?;
        #[cfg(feature = "streams")]
        let more = fields.more;
        #[cfg(not(feature = "streams"))]
        let more = None;
        let additions = Additions { more, trace: fields.trace };
        Ok(Self {
            protocol_version,
            method,
            resume_from: fields.resume_from,
            params: fields.params,
            timeout_ms: fields.timeout_ms,
            follow: fields.follow.unwrap_or(false),
            epoch: fields.epoch,
            additions: (additions != Additions::default()).then(|| Box::new(additions)),
        })
    }
}

/// Fields that the first release did not have.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Additions {
    pub(crate) more: Option<bool>,
    pub(crate) trace: Option<TraceContext>,
}

const MAP_OF_2: u8 = 0xa2;
/// The first fields of a request, up to its method.
const METHOD: &[u8] = b"\x00\x01\x01";

impl Message for Request {
    fn write(&self, fields: &mut impl FieldWriter) {
        let Self { protocol_version, method, resume_from, params, timeout_ms, follow, epoch, additions } =
            self;
        fields.uint(0, "protocol_version", u64::from(*protocol_version));
        fields.text(1, "method", method);
        match resume_from {
            Some(seq) => fields.uint(2, "resume_from", *seq),
            None => fields.absent("resume_from"),
        }
        fields.optional_bytes(3, "params", params.as_deref());
        fields.optional_uint(4, "timeout_ms", *timeout_ms);
        if *follow {
            fields.bool(5, "follow", true);
        }
        fields.optional_uint(6, "epoch", *epoch);
        if let Some(additions) = additions {
            additions.write(fields);
        }
    }
}

impl Additions {
    #[cold]
    fn write(&self, fields: &mut impl FieldWriter) {
        let Self { more, trace } = self;
        if let Some(more) = *more {
            fields.bool(7, "more", more);
        }
        if let Some(trace) = trace {
            fields.trace(trace);
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fields::debug("Request", self, f)
    }
}

#[derive(Default)]
#[cfg_attr(feature = "json", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
struct RequestFields {
    protocol_version: Option<u16>,
    method: Option<Box<str>>,
    resume_from: Option<u64>,
    #[cfg_attr(feature = "json", serde(deserialize_with = "super::json::base64"))]
    params: Option<Bytes>,
    timeout_ms: Option<u64>,
    follow: Option<bool>,
    epoch: Option<u64>,
    #[cfg(feature = "streams")]
    more: Option<bool>,
    #[cfg_attr(feature = "json", serde(skip))]
    trace: Option<TraceContext>,
}

impl cbor::Fields for RequestFields {
    fn read(&mut self, key: Key, value: &cbor::Value<'_>) -> Result<(), MessageError> {
        match key {
            Key::Unsigned(0) => self.protocol_version = value.u16("protocol_version")?,
            Key::Unsigned(1) => self.method = value.text("method")?,
            Key::Unsigned(2) => self.resume_from = value.u64("resume_from")?,
            Key::Unsigned(3) => self.params = value.bytes("params")?,
            Key::Unsigned(4) => self.timeout_ms = value.u64("timeout_ms")?,
            Key::Unsigned(5) => self.follow = value.bool("follow")?,
            Key::Unsigned(6) => self.epoch = value.u64("epoch")?,
            #[cfg(feature = "streams")]
            Key::Unsigned(7) => self.more = value.bool("more")?,
            Key::Unsigned(TRACE_KEY) => self.trace = value.trace(),
            Key::Unsigned(17..) => {}
            _ => return Err(cbor::unknown(key)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usual() -> impl Strategy<Value = Request> {
        let params = prop::option::of(prop::collection::vec(any::<u8>(), 0..300));
        ("[a-zé.]{1,64}", params, any::<Option<u64>>()).prop_map(|(method, params, timeout_ms)| Request {
            params: params.map(Bytes::from),
            timeout_ms,
            ..Request::new(method)
        })
    }

    fn encoded(request: &Request) -> Vec<u8> {
        let mut body = Vec::new();
        request.encode(Codec::Cbor, &mut body).unwrap();
        body
    }

    proptest! {
        #[test]
        fn what_this_crate_writes_is_read_at_a_glance(request in usual()) {
            let body = encoded(&request).into();
            prop_assert_eq!(request.encoded_len(Codec::Cbor), Some(Bytes::len(&body)));
            prop_assert_eq!(Request::decode_usual(BodySource::Owned(&body)), Some(request));
        }

        #[test]
        fn a_glance_says_what_a_thorough_look_does_or_nothing(
            request in usual(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let mut body = encoded(&request);
            let length = body.len();
            body[at.index(length)] = byte;
            if !whole {
                body.truncate(cut.index(length));
            }
            let body = Bytes::from(body);
            if let Some(seen) = Request::decode_usual(BodySource::Owned(&body)) {
                prop_assert_eq!(Request::decode_any(BodySource::Owned(&body)), Ok(seen));
            }
        }
    }
}
