//! Why a file was not stored or not sent, and what a peer learns of it.

use std::{fmt, io, time::Duration};

use palyra_quic::MethodError;

use super::content::Content;

/// When a peer whose upload cannot be taken now should ask again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) enum FileError {
    /// There is no regular file of this name.
    NoSuchFile,
    /// Another upload writes a file of this name.
    Busy,
    /// The same peer uploads this name on another connection now.
    TakenOver,
    /// The transfer does not continue where the partial file ends.
    AnotherOffset {
        expected: u64,
    },
    /// The file is no longer what the peer was told about.
    Changed,
    /// The peer asks for bytes behind the last.
    BeyondEnd {
        size: u64,
    },
    /// A piece is longer than `file.offer` says.
    LongPiece {
        longest: usize,
    },
    /// A piece has no bytes, so that the transfer would not come nearer to its end.
    EmptyPiece,
    /// More bytes have arrived than the content has.
    TooMuch,
    /// The bytes ended before the content did.
    TooLittle {
        received: u64,
        size: u64,
    },
    /// What has arrived has another hash.
    AnotherHash,
    Io(io::Error),
}

impl FileError {
    /// For a file that ended while it was read.
    pub(crate) fn of_reading(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Changed,
            io::ErrorKind::NotFound => Self::NoSuchFile,
            _ => Self::Io(error),
        }
    }

    /// What arrived is shorter than the content.
    pub(crate) fn too_little(content: &Content, received: u64) -> Self {
        Self::TooLittle { received, size: content.size }
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchFile => f.write_str("there is no such file"),
            Self::Busy => f.write_str("another upload of this name is running"),
            Self::TakenOver => f.write_str("the same client has begun another upload of this name"),
            Self::AnotherOffset { expected } => write!(f, "the upload has to continue at offset {expected}"),
            Self::Changed => f.write_str("the file has changed"),
            Self::BeyondEnd { size } => write!(f, "the offset is beyond the {size} bytes of the file"),
            Self::LongPiece { longest } => write!(f, "a piece has more than {longest} bytes"),
            Self::EmptyPiece => f.write_str("a piece has no bytes"),
            Self::TooMuch => f.write_str("more bytes have arrived than were announced"),
            Self::TooLittle { received, size } => write!(f, "only {received} of {size} bytes have arrived"),
            Self::AnotherHash => f.write_str("what has arrived has another hash, and is deleted"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for FileError {}

impl From<FileError> for MethodError {
    fn from(error: FileError) -> Self {
        let text = error.to_string();
        match error {
            FileError::Busy => Self::resource_exhausted(text).retry_after(RETRY_AFTER),
            // An I/O error of the standard library names no path.
            FileError::Io(error) if is_full(&error) => {
                Self::resource_exhausted(format!("the disk of the node: {text}"))
            }
            FileError::Io(_) => Self::internal(format!("the disk of the node: {text}")),
            _ => Self::invalid_request(text),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
