//! The two encodings, and what a message has to do with them.

use std::fmt;

#[cfg(feature = "json")]
use super::json;
use super::{MessageError, cbor};

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
pub enum Codec {
    /// CBOR ([RFC 8949](https://www.rfc-editor.org/rfc/rfc8949)), in its shortest form.
    #[default]
    Cbor,
    /// JSON ([RFC 8259](https://www.rfc-editor.org/rfc/rfc8259)), as nodes of the tokio implementation
    /// speak it.
    #[cfg(feature = "json")]
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

    /// Writes `message` behind the bytes that `out` holds already.
    pub(super) fn write(self, message: &impl Message, out: &mut Vec<u8>) {
        match self {
            Self::Cbor => message.write(&mut cbor::MapWriter::new(out)),
            #[cfg(feature = "json")]
            Self::Json => {
                let mut object = json::ObjectWriter::new(out);
                message.write(&mut object);
                object.finish();
            }
        }
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

/// Something that is a list of fields.
pub(super) trait Message {
    /// Writes the fields, in ascending order of their keys.
    fn write(&self, fields: &mut impl FieldWriter);
}

/// Where a message writes its fields: each by its key in CBOR and its name in JSON.
pub(super) trait FieldWriter {
    fn uint(&mut self, key: u8, name: &'static str, value: u64);
    fn bool(&mut self, key: u8, name: &'static str, value: bool);
    fn text(&mut self, key: u8, name: &'static str, value: &str);
    fn bytes(&mut self, key: u8, name: &'static str, value: &[u8]);

    /// A field without a value. Left out, but where the reference implementation writes `null`.
    fn absent(&mut self, _name: &'static str) {}

    fn optional_uint(&mut self, key: u8, name: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            self.uint(key, name, value);
        }
    }

    fn optional_bytes(&mut self, key: u8, name: &'static str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.bytes(key, name, value);
        }
    }
}

/// The `Debug` of a message: its fields as on the wire, and of byte strings the length alone, because
/// what an application sends is not for logs.
impl FieldWriter for fmt::DebugStruct<'_, '_> {
    fn uint(&mut self, _key: u8, name: &'static str, value: u64) {
        self.field(name, &value);
    }

    fn bool(&mut self, _key: u8, name: &'static str, value: bool) {
        self.field(name, &value);
    }

    fn text(&mut self, _key: u8, name: &'static str, value: &str) {
        self.field(name, &value);
    }

    fn bytes(&mut self, _key: u8, name: &'static str, value: &[u8]) {
        self.field(name, &format_args!("{} bytes", value.len()));
    }
}

pub(super) fn debug(name: &str, message: &impl Message, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut fields = f.debug_struct(name);
    message.write(&mut fields);
    fields.finish()
}

/// The longest method, in bytes of UTF-8. No method is empty.
const MAX_METHOD_LEN: usize = 128;

pub(super) fn check_method(method: &str) -> Result<(), MessageError> {
    if (1..=MAX_METHOD_LEN).contains(&method.len()) {
        Ok(())
    } else {
        Err(MessageError::MethodLength(method.len()))
    }
}

/// The two fields that open requests and notifications alike, as a peer sent them.
pub(super) fn required_head(
    protocol_version: Option<u16>,
    method: Option<Box<str>>,
) -> Result<(u16, Box<str>), MessageError> {
    let protocol_version = protocol_version.ok_or(MessageError::MissingField("protocol_version"))?;
    let method = method.ok_or(MessageError::MissingField("method"))?;
    check_method(&method).map_err(|_| MessageError::InvalidField("method"))?;
    Ok((protocol_version, method))
}
