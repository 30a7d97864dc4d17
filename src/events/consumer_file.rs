//! Where the consumers of a log are saved.

use super::cursor::Cursor;
use crate::error::Result;

/// Saves the consumers of a log, with what they have acknowledged. A trait object, so that a program without
/// consumers does not contain it.
pub(crate) trait ConsumerFile: Send + Sync {
    /// The consumers that were saved last, and whether others were lost to damage.
    fn all(&self) -> (Vec<(Box<str>, Cursor)>, bool);

    /// Saves these and no others. Blocks.
    fn replace(&self, consumers: &[(Box<str>, Cursor)]) -> Result<()>;
}
