//! Why a JSON body could not be read.

use super::MAX_NESTING;

/// Why a JSON body is not one that this protocol accepts.
///
/// It says where, and nothing of what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// This build reads and writes no JSON, since the feature `json` is off.
    #[error("the feature `json` of this build is off")]
    Disabled,
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
