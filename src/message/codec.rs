//! The two encodings of messages.

#[cfg(not(feature = "json"))]
use super::JsonError;
#[cfg(feature = "json")]
use super::json;
use super::{
    MessageError,
    cbor::{self, BodySource},
    fields::{FieldWriter, Message},
};

/// How the body of a message is encoded.
///
/// The first byte of a body that is not a blank (space, tab, line feed, carriage return) decides: `{` is
/// JSON, since in CBOR it begins a text string, which no body is. A responder answers in the encoding of the
/// request.
///
/// ```
/// use palyra_quic::Codec;
///
/// assert_eq!(Codec::default(), Codec::Cbor);
/// assert_eq!(Codec::of(&[0xa2, 0x00, 0x01]), Codec::Cbor);
/// # #[cfg(feature = "json")]
/// assert_eq!(Codec::of(b"\n {\"protocol_version\":1}"), Codec::Json);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// CBOR ([RFC 8949](https://www.rfc-editor.org/rfc/rfc8949)), in its shortest form.
    #[default]
    Cbor,
    /// JSON ([RFC 8259](https://www.rfc-editor.org/rfc/rfc8259)), as nodes of the tokio implementation
    /// speak it. In builds without the feature `json`, no message can be written in it:
    /// [`JsonError::Disabled`](crate::JsonError::Disabled), as a crate [`Error`](crate::Error) of kind
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig).
    Json,
}

impl Codec {
    /// The encoding that `body` is in, if it is in any. Without the feature `json` that is CBOR for
    /// every body, and one of JSON fails to decode.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        match body {
            #[cfg(feature = "json")]
            body if is_json(body) => Self::Json,
            _ => Self::Cbor,
        }
    }

    /// How long the body of `message` is, where this is known without writing it.
    pub(super) fn len_of(self, message: &impl Message) -> Option<usize> {
        match self {
            Self::Cbor => Some(cbor::MapLen::of(message)),
            Self::Json => None,
        }
    }

    /// Writes `message` behind the bytes that `out` holds already.
    pub(super) fn write(self, message: &impl Message, out: &mut Vec<u8>) -> Result<(), MessageError> {
        match self {
            Self::Cbor => {
                let mut map = cbor::MapWriter::new(out);
                message.write(&mut map);
                map.finish();
            }
            #[cfg(feature = "json")]
            Self::Json => {
                let mut object = json::ObjectWriter::new(out);
                message.write(&mut object);
                object.finish();
            }
            #[cfg(not(feature = "json"))]
            Self::Json => return Err(JsonError::Disabled.into()),
        }
        Ok(())
    }

    /// Adds a field to the message that begins at `start` and ends with `out`.
    pub(super) fn append_uint(
        self,
        (key, name): (u8, &'static str),
        value: u64,
        out: &mut Vec<u8>,
        start: usize,
    ) {
        match self {
            Self::Cbor => {
                let mut map = cbor::MapWriter::continued(out, start);
                map.uint(key, name, value);
                map.finish();
            }
            #[cfg(feature = "json")]
            Self::Json => {
                let mut object = json::ObjectWriter::continued(out);
                object.uint(key, name, value);
                object.finish();
            }
            #[cfg(not(feature = "json"))]
            Self::Json => {}
        }
    }
}

/// The fields of a message that every codec of this build can read.
#[cfg(feature = "json")]
pub(super) trait Fields: cbor::Fields + serde::de::DeserializeOwned {}
#[cfg(feature = "json")]
impl<F: cbor::Fields + serde::de::DeserializeOwned> Fields for F {}
#[cfg(not(feature = "json"))]
pub(super) use super::cbor::Fields;

/// Reads the fields of a body of either encoding.
pub(super) fn decode<F: Fields>(source: BodySource<'_>) -> Result<F, MessageError> {
    match Codec::of(source.body()) {
        Codec::Cbor => cbor::decode(source),
        #[cfg(feature = "json")]
        Codec::Json => json::decode(source.body()),
        #[cfg(not(feature = "json"))]
        Codec::Json => Err(JsonError::Disabled.into()),
    }
}

/// Whether `body` is in JSON, if it is in any encoding, also where this build cannot read it.
pub(crate) fn is_json(body: &[u8]) -> bool {
    body.iter().find(|byte| !is_blank(**byte)) == Some(&b'{')
}

/// Whether JSON may have this byte in front of its object ([RFC 8259, section
/// 2](https://www.rfc-editor.org/rfc/rfc8259#section-2)). No map of CBOR begins with one of them.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
