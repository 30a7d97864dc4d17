//! Errors of quinn that cannot be.

use crate::error::{Error, ErrorKind};

/// What cannot be without early data and unordered reads is still an error, and not a panic.
pub(super) fn never(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Closed).caused_by(error)
}
