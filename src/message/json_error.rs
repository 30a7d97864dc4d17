//! Why a JSON body could not be read.

use serde_json::error::Category;

use super::MAX_NESTING;

/// Why a JSON body is not one that this protocol accepts.
///
/// It says where, and nothing of what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The body ends within the object.
    #[error("JSON ends within the object")]
    Truncated,
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
