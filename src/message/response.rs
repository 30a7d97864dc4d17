//! Each frame that comes back on a bidirectional stream.

use std::{fmt, time::Duration};

use bytes::Bytes;

use super::{
    MessageError,
    cbor::{self, BodySource, Key, split_bytes},
    codec::{self, Codec},
    event::{Event, split_usual},
    fields::{self, FieldWriter, Message},
};
use crate::{frame::Body, protocol::PROTOCOL_VERSION, retry_after, text::truncated, wire_error::WireError};

/// What a node answers: one of its kinds.
///
/// Fields that a peer sent beside those of the kind are dropped, so are unknown ones. `Debug` shows the
/// length of a payload, never its content.
///
/// ```
/// use palyra_quic::{Codec, Response, WireError};
///
/// # fn main() -> Result<(), palyra_quic::MessageError> {
/// let mut refusal = Response::error(WireError::PermissionDenied);
/// if let Response::Error { not_run, .. } = &mut refusal {
///     *not_run = true;
/// }
/// let mut body = Vec::new();
/// refusal.encode(Codec::Cbor, &mut body)?;
/// assert_eq!(Response::decode(&body.into())?, refusal);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// How the node is.
    #[non_exhaustive]
    Health {
        /// Whether it is well.
        ok: bool,
        /// Whether it asks every caller for a certificate; `None` where it does not say.
        node_rpc_mtls_required: Option<bool>,
        /// What an operator wants to know besides, as a CBOR map.
        payload: Option<Bytes>,
    },
    /// What an application method gave, or one piece of it.
    #[non_exhaustive]
    Result {
        /// In a form that the method defines.
        payload: Option<Bytes>,
    },
    /// An event of the node's log.
    #[non_exhaustive]
    Event {
        /// Its sequence number, from 1 and without holes within an epoch.
        seq: u64,
        /// The epoch of the log; nodes of the tokio implementation have none.
        epoch: Option<u64>,
        /// What happened, in a form that the application defines.
        payload: Option<Bytes>,
    },
    /// Events that the caller missed are gone from the log.
    #[non_exhaustive]
    Gap {
        /// The sequence number of the oldest event still held, or of the next one.
        first_seq: u64,
        /// The epoch of the log.
        epoch: u64,
        /// How many events are missing, where that is known.
        missed: Option<u64>,
    },
    /// Nothing happened for a while; the stream is alive.
    #[non_exhaustive]
    Heartbeat {
        /// The sequence number of the newest event; 0 before the first.
        seq: u64,
        /// The epoch of the log.
        epoch: u64,
    },
    /// The node did not do what it was asked.
    #[non_exhaustive]
    Error {
        /// Why.
        error: WireError,
        /// The same for people, in at most 256 bytes. Never a secret.
        detail: Option<Box<str>>,
        /// When it makes sense to ask again, in whole milliseconds on the wire.
        retry_after: Option<Duration>,
        /// Whether the node refused the request before a handler started. Where it is not set, the request
        /// may have run.
        not_run: bool,
    },
}

impl Response {
    /// A [`Health`](Self::Health) of a node that is well, without anything else.
    #[must_use]
    pub const fn health() -> Self {
        Self::Health { ok: true, node_rpc_mtls_required: None, payload: None }
    }

    /// A [`Result`](Self::Result).
    #[must_use]
    pub const fn result(payload: Option<Bytes>) -> Self {
        Self::Result { payload }
    }

    /// An [`Event`](Self::Event).
    #[must_use]
    pub const fn event(seq: u64, epoch: Option<u64>, payload: Option<Bytes>) -> Self {
        Self::Event { seq, epoch, payload }
    }

    /// A [`Gap`](Self::Gap).
    #[must_use]
    pub const fn gap(first_seq: u64, epoch: u64, missed: Option<u64>) -> Self {
        Self::Gap { first_seq, epoch, missed }
    }

    /// A [`Heartbeat`](Self::Heartbeat).
    #[must_use]
    pub const fn heartbeat(seq: u64, epoch: u64) -> Self {
        Self::Heartbeat { seq, epoch }
    }

    /// An [`Error`](Self::Error) without anything else: the request may have run.
    #[must_use]
    pub const fn error(error: WireError) -> Self {
        Self::Error { error, detail: None, retry_after: None, not_run: false }
    }

    /// Writes the body behind the bytes that `out` holds already.
    ///
    /// A `detail` of more than 256 bytes is cut to as many whole characters as fit, and a `retry_after`
    /// rounded up to milliseconds.
    ///
    /// # Errors
    ///
    /// [`JsonError::Disabled`](super::JsonError::Disabled) for JSON where this build has none; `out` is then
    /// untouched.
    pub fn encode(&self, codec: Codec, out: &mut Vec<u8>) -> Result<(), MessageError> {
        match (codec, self) {
            (Codec::Cbor, Self::Result { payload: Some(payload) }) => {
                out.push(MAP_OF_4);
                out.extend_from_slice(RESULT);
                cbor::put_bytes(out, payload);
                Ok(())
            }
            _ => codec.write(self, out),
        }
    }

    /// How long the body is, if this is known before it is written.
    pub(crate) fn encoded_len(&self, codec: Codec) -> Option<usize> {
        codec.len_of(self)
    }

    /// Reads a body of either encoding. With CBOR, payloads share the memory of `body`.
    ///
    /// # Errors
    ///
    /// The first fault found; see [`MessageError`].
    pub fn decode(body: &Bytes) -> Result<Self, MessageError> {
        Self::decode_from(BodySource::Owned(body))
    }

    /// The same, of a body where it lies, whose memory nothing may keep unless it is the body's own.
    pub(crate) fn read(body: Body<'_>) -> Result<Self, MessageError> {
        Self::decode_from(BodySource::from(&body))
    }

    pub(super) fn decode_from(source: BodySource<'_>) -> Result<Self, MessageError> {
        match Self::decode_usual(source) {
            Some(response) => Ok(response),
            None => Self::decode_any(source),
        }
    }

    /// The kinds that come by the million, in the form that this crate writes. Whatever is of another form,
    /// be it right or wrong, is not for here.
    fn decode_usual(source: BodySource<'_>) -> Option<Self> {
        let (&head, rest) = source.body().split_first()?;
        if head != MAP_OF_4 {
            let (seq, epoch, payload) = split_usual(source.body())?;
            return Some(Self::Event { seq, epoch, payload: Some(source.keep(payload)) });
        }
        let (payload, rest) = split_bytes(rest.strip_prefix(RESULT)?)?;
        rest.is_empty().then(|| Self::Result { payload: Some(source.keep(payload)) })
    }

    fn decode_any(source: BodySource<'_>) -> Result<Self, MessageError> {
        let fields: ResponseFields = codec::decode(source)?;
        fields.try_into()
    }
}

const MAP_OF_4: u8 = 0xa4;
/// The first fields of a result, up to the key of its payload.
pub(super) const RESULT: &[u8] = b"\x00\x01\x01\x66result\x02\xf5\x06";

/// How many bytes of UTF-8 a detail may have.
const MAX_DETAIL_LEN: usize = 256;

impl Message for Response {
    fn write(&self, fields: &mut impl FieldWriter) {
        match self {
            Self::Health { ok, node_rpc_mtls_required, payload } => {
                fields::write_response_head(fields, "health", *ok);
                if let Some(required) = *node_rpc_mtls_required {
                    fields.bool(4, "node_rpc_mtls_required", required);
                }
                fields.optional_bytes(6, "payload", payload.as_deref());
            }
            Self::Result { payload } => {
                fields::write_response_head(fields, "result", true);
                fields.optional_bytes(6, "payload", payload.as_deref());
            }
            &Self::Event { seq, epoch, ref payload } => {
                Event { seq, epoch, payload: payload.as_deref() }.write(fields);
            }
            Self::Gap { first_seq, epoch, missed } => {
                fields::write_response_head(fields, "gap", true);
                fields.uint(7, "epoch", *epoch);
                fields.uint(8, "first_seq", *first_seq);
                fields.optional_uint(9, "missed", *missed);
            }
            Self::Heartbeat { seq, epoch } => {
                fields::write_response_head(fields, "heartbeat", true);
                fields.uint(3, "seq", *seq);
                fields.uint(7, "epoch", *epoch);
            }
            Self::Error { error, detail, retry_after, not_run } => {
                fields::write_response_head(fields, "error", false);
                fields.text(5, "error", error.as_str());
                fields.optional_uint(10, "retry_after_ms", retry_after.map(retry_after::millis_rounded_up));
                if let Some(detail) = detail {
                    fields.text(11, "detail", truncated(detail, MAX_DETAIL_LEN));
                }
                if *not_run {
                    fields.bool(12, "not_run", true);
                }
            }
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fields::debug("Response", self, f)
    }
}

#[derive(Clone, Copy)]
#[cfg_attr(feature = "json", derive(serde::Deserialize), serde(from = "Box<str>"))]
enum Kind {
    Health,
    Result,
    Event,
    Gap,
    Heartbeat,
    Error,
    Unknown,
}

impl From<&str> for Kind {
    fn from(text: &str) -> Self {
        match text {
            "health" => Self::Health,
            "result" => Self::Result,
            "event" => Self::Event,
            "gap" => Self::Gap,
            "heartbeat" => Self::Heartbeat,
            "error" => Self::Error,
            _ => Self::Unknown,
        }
    }
}

#[cfg(feature = "json")]
impl From<Box<str>> for Kind {
    fn from(text: Box<str>) -> Self {
        Self::from(&*text)
    }
}

#[derive(Default)]
#[cfg_attr(feature = "json", derive(serde::Deserialize), serde(default))]
struct ResponseFields {
    protocol_version: Option<u16>,
    kind: Option<Kind>,
    ok: Option<bool>,
    seq: Option<u64>,
    node_rpc_mtls_required: Option<bool>,
    error: Option<Box<str>>,
    #[cfg_attr(feature = "json", serde(deserialize_with = "super::json::base64"))]
    payload: Option<Bytes>,
    epoch: Option<u64>,
    first_seq: Option<u64>,
    missed: Option<u64>,
    retry_after_ms: Option<u64>,
    detail: Option<Box<str>>,
    not_run: Option<NotRun>,
}

/// The key came with this version, and other kinds than `error` ignore it, whatever its value.
#[derive(Clone, Copy)]
enum NotRun {
    Bool(bool),
    OfAnotherType,
}

#[cfg(feature = "json")]
impl<'de> serde::Deserialize<'de> for NotRun {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let not_run = super::json::bool_or_other(deserializer)?;
        Ok(not_run.map_or(Self::OfAnotherType, Self::Bool))
    }
}

impl NotRun {
    fn read(value: &cbor::Value<'_>) -> Self {
        match value.bool("not_run") {
            Ok(Some(not_run)) => Self::Bool(not_run),
            Ok(None) | Err(_) => Self::OfAnotherType,
        }
    }
}

impl cbor::Fields for ResponseFields {
    fn read(&mut self, key: Key, value: &cbor::Value<'_>) -> Result<(), MessageError> {
        match key {
            Key::Unsigned(0) => self.protocol_version = value.u16("protocol_version")?,
            Key::Unsigned(1) => self.kind = value.text("kind")?,
            Key::Unsigned(2) => self.ok = value.bool("ok")?,
            Key::Unsigned(3) => self.seq = value.u64("seq")?,
            Key::Unsigned(4) => self.node_rpc_mtls_required = value.bool("node_rpc_mtls_required")?,
            Key::Unsigned(5) => self.error = value.text("error")?,
            Key::Unsigned(6) => self.payload = value.bytes("payload")?,
            Key::Unsigned(7) => self.epoch = value.u64("epoch")?,
            Key::Unsigned(8) => self.first_seq = value.u64("first_seq")?,
            Key::Unsigned(9) => self.missed = value.u64("missed")?,
            Key::Unsigned(10) => self.retry_after_ms = value.u64("retry_after_ms")?,
            Key::Unsigned(11) => self.detail = value.text("detail")?,
            Key::Unsigned(12) => self.not_run = Some(NotRun::read(value)),
            _ => {}
        }
        Ok(())
    }
}

impl TryFrom<ResponseFields> for Response {
    type Error = MessageError;

    fn try_from(fields: ResponseFields) -> Result<Self, MessageError> {
        let missing = MessageError::MissingField;
        match fields.protocol_version.ok_or(missing("protocol_version"))? {
            PROTOCOL_VERSION => {}
            other => return Err(MessageError::Version(other)),
        }
        if fields.detail.as_ref().is_some_and(|detail| detail.len() > MAX_DETAIL_LEN) {
            return Err(MessageError::InvalidField("detail"));
        }
        let kind = fields.kind.ok_or(missing("kind"))?;
        let ok = fields.ok.ok_or(missing("ok"))?;
        if !ok && !matches!(kind, Kind::Health | Kind::Error | Kind::Unknown) {
            return Err(MessageError::InvalidField("ok"));
        }
        let ResponseFields { seq, payload, epoch, first_seq, missed, detail, .. } = fields;
        Ok(match kind {
            Kind::Health => {
                Self::Health { ok, node_rpc_mtls_required: fields.node_rpc_mtls_required, payload }
            }
            Kind::Result => Self::Result { payload },
            Kind::Event => Self::Event { seq: seq.ok_or(missing("seq"))?, epoch, payload },
            Kind::Gap => {
                let (first_seq, epoch) =
                    (first_seq.ok_or(missing("first_seq"))?, epoch.ok_or(missing("epoch"))?);
                Self::Gap { first_seq, epoch, missed }
            }
            Kind::Heartbeat => {
                Self::Heartbeat { seq: seq.ok_or(missing("seq"))?, epoch: epoch.ok_or(missing("epoch"))? }
            }
            Kind::Error => {
                let error = WireError::from(&*fields.error.ok_or(missing("error"))?);
                let retry_after = fields.retry_after_ms.map(Duration::from_millis);
                let not_run = match fields.not_run {
                    None => false,
                    Some(NotRun::Bool(not_run)) => not_run,
                    Some(NotRun::OfAnotherType) => return Err(MessageError::InvalidField("not_run")),
                };
                Self::Error { error, detail, retry_after, not_run }
            }
            Kind::Unknown => return Err(MessageError::UnknownKind),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usual() -> impl Strategy<Value = Response> {
        let payload =
            || prop::collection::vec(any::<u8>(), 0..300).prop_map(|payload| Some(Bytes::from(payload)));
        prop_oneof![
            payload().prop_map(|payload| Response::Result { payload }),
            (prop_oneof![any::<u64>(), 0..70_000_u64], any::<Option<u64>>(), payload())
                .prop_map(|(seq, epoch, payload)| Response::Event { seq, epoch, payload }),
        ]
    }

    fn encoded(response: &Response) -> Bytes {
        let mut body = Vec::new();
        response.encode(Codec::Cbor, &mut body).unwrap();
        body.into()
    }

    #[test]
    fn a_result_is_written_in_one_piece_as_it_is_field_by_field() {
        for length in [0, 1, 23, 24, 255, 256, 65_535, 65_536, 100_000] {
            let result = Response::result(Some(vec![7; length].into()));
            let (body, mut expected) = (encoded(&result), Vec::new());
            Codec::Cbor.write(&result, &mut expected).unwrap();
            assert_eq!(body, expected);
        }
    }

    proptest! {
        #[test]
        fn what_this_crate_writes_is_read_at_a_glance(response in usual()) {
            let body = encoded(&response);
            prop_assert_eq!(response.encoded_len(Codec::Cbor), Some(body.len()));
            for source in [BodySource::Owned(&body), BodySource::Borrowed(&body)] {
                prop_assert_eq!(Response::decode_usual(source), Some(response.clone()));
            }
        }

        #[test]
        fn a_glance_says_what_a_thorough_look_does_or_nothing(
            response in usual(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let mut body = encoded(&response).to_vec();
            let length = body.len();
            body[at.index(length.min(24))] = byte;
            if !whole {
                body.truncate(cut.index(length));
            }
            let body = Bytes::from(body);
            for source in [BodySource::Owned(&body), BodySource::Borrowed(&body)] {
                if let Some(seen) = Response::decode_usual(source) {
                    prop_assert_eq!(Response::decode_any(source), Ok(seen));
                }
            }
        }
    }
}
