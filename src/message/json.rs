//! JSON bodies: one object, for nodes of the tokio implementation.

use base64::{Engine, display::Base64Display, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::error::Category;

use super::{MAX_NESTING, MessageError, codec::FieldWriter};

/// Why a JSON body is not one that this protocol accepts.
///
/// It says where, and nothing of what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The body ends within the object.
    #[error("JSON ends within the object")]
    Truncated,
    /// There are bytes behind the object, be they blanks.
    #[error("bytes behind the JSON object")]
    TrailingBytes,
    /// The body is not UTF-8.
    #[error("JSON is not UTF-8")]
    Utf8,
    /// More levels of objects and arrays than a body of CBOR may have: 16.
    #[error("JSON nested deeper than {MAX_NESTING} levels")]
    TooDeep,
    /// The body is not JSON.
    #[error("malformed JSON at byte {column} of line {line}")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// The byte in the line, from 1.
        column: usize,
    },
    /// A field is there twice, is unknown, or has a value of the wrong type or out of range.
    #[error("unacceptable JSON field before byte {column} of line {line}")]
    Field {
        /// The line, from 1.
        line: usize,
        /// The byte in the line, from 1.
        column: usize,
    },
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            Category::Eof => Self::Truncated,
            Category::Data => Self::Field { line, column },
            Category::Syntax | Category::Io => Self::Malformed { line, column },
        }
    }
}

/// Reads the fields of a body.
pub(super) fn decode<F: DeserializeOwned>(body: &[u8]) -> Result<F, MessageError> {
    // All of it, because serde_json does not look at the text that it skips.
    let text = std::str::from_utf8(body).map_err(|_| JsonError::Utf8)?;
    check_nesting(body)?;
    let fields = serde_json::from_str(text).map_err(JsonError::from)?;
    if !text.ends_with('}') {
        return Err(JsonError::TrailingBytes.into());
    }
    Ok(fields)
}

/// Counts the levels that are open. Where the body is not JSON the count may be wrong, and no matter.
fn check_nesting(body: &[u8]) -> Result<(), JsonError> {
    let (mut levels, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => levels += 1,
            b'}' | b']' if !in_string => levels = levels.saturating_sub(1),
            _ => {}
        }
        if levels > MAX_NESTING {
            return Err(JsonError::TooDeep);
        }
    }
    Ok(())
}

/// For the fields that are byte strings: base64 of the standard alphabet, padded (RFC 4648, section 4).
pub(super) fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(text).map_err(|_| serde::de::Error::custom("not base64"))?;
    Ok(Some(bytes.into()))
}

/// Writes the fields of a message as one object.
pub(super) struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> ObjectWriter<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    pub(super) fn finish(self) {
        self.out.push(b'}');
    }

    fn field(&mut self, name: &'static str, value: impl Serialize) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.value(name);
        self.out.push(b':');
        self.value(value);
    }

    fn value(&mut self, value: impl Serialize) {
        let written = serde_json::to_writer(&mut *self.out, &value);
        debug_assert!(written.is_ok(), "a Vec takes every write, and no value here refuses to be written");
    }
}

impl FieldWriter for ObjectWriter<'_> {
    fn uint(&mut self, _key: u8, name: &'static str, value: u64) {
        self.field(name, value);
    }

    fn bool(&mut self, _key: u8, name: &'static str, value: bool) {
        self.field(name, value);
    }

    fn text(&mut self, _key: u8, name: &'static str, value: &str) {
        self.field(name, value);
    }

    fn bytes(&mut self, _key: u8, name: &'static str, value: &[u8]) {
        self.field(name, Base64(value));
    }

    fn absent(&mut self, name: &'static str) {
        self.field(name, ());
    }
}

/// Written piece by piece, without a string in between.
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}
