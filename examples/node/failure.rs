//! Why a command failed, in one line.

use std::{
    error::Error as _,
    fmt,
    io::{self, Write},
};

use palyra_quic::{Error, ErrorKind, MessageError, WireError};

/// The longest line of an error, in characters. It is limited because a peer chooses a part of the text.
const MAX_CHARS: usize = 500;

pub(crate) enum Failure {
    /// The reader of standard output has closed it.
    ReaderGone,
    Explained(Line),
}

/// Text without control characters, safe to print as one line.
pub(crate) struct Line(String);

impl Failure {
    pub(crate) fn new(reason: impl fmt::Display) -> Self {
        Self::Explained(Line(one_line(&reason.to_string())))
    }

    /// An error, with a hint if there is one for its kind.
    pub(crate) fn hinting(error: Error, hint: impl FnOnce(&ErrorKind) -> Option<&'static str>) -> Self {
        let hint = hint(error.kind());
        let failure = Self::from(error);
        match hint {
            Some(hint) => failure.adding(hint),
            None => failure,
        }
    }

    /// Appends a hint after the reason, so that a long text of a peer cannot push it out of the line.
    pub(crate) fn adding(self, hint: &str) -> Self {
        match self {
            Self::ReaderGone => Self::ReaderGone,
            Self::Explained(Line(reason)) => Self::Explained(Line(format!("{reason} ({hint})"))),
        }
    }

    /// Puts the failed action in front of the reason.
    pub(crate) fn during(self, what: impl fmt::Display) -> Self {
        match self {
            Self::ReaderGone => Self::ReaderGone,
            Self::Explained(Line(reason)) => Self::new(format_args!("{what}: {reason}")),
        }
    }

    /// Writes the reason to standard error, without ending the command.
    pub(crate) fn report(&self, heading: &str) {
        if let Self::Explained(Line(reason)) = self {
            tell(heading, reason);
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::explaining(&error);
        match error.retry_after() {
            // The text of this kind contains the delay already.
            Some(delay) if !matches!(error.kind(), ErrorKind::ConnectionClosed(_)) => {
                failure.adding(&format!("retry_after_ms {}", delay.as_millis()))
            }
            _ => failure,
        }
    }
}

impl Failure {
    fn explaining(error: &Error) -> Self {
        match error.source() {
            // "I/O error" alone says little, and this side wrote these sources. A peer may have written
            // others.
            Some(source)
                if matches!(error.kind(), ErrorKind::Io | ErrorKind::InvalidConfig | ErrorKind::Codec)
                    // The socket has failed. Other sources of this kind only repeat that this side closed.
                    || *error.kind() == ErrorKind::Closed && source.is::<io::Error>() =>
            {
                Self::new(format_args!("{error}: {source}"))
            }
            // This side also wrote this source, which names the wrong field.
            Some(source) if source.is::<MessageError>() => {
                let cause = source.source().map_or_else(String::new, |cause| format!(": {cause}"));
                Self::new(format_args!("{error}: {source}{cause}"))
            }
            // Scripts can look for one word, whichever side notices the deadline first.
            _ if *error.kind() == ErrorKind::DeadlineExceeded => {
                Self::new(format_args!("{}: no answer in time", WireError::DeadlineExceeded))
            }
            _ => Self::new(error),
        }
    }
}

/// Writes a line to standard error.
pub(crate) fn tell(heading: &str, text: &str) {
    // One write, so that lines of several threads do not mix. An error means that stderr is closed.
    let _ = io::stderr().lock().write_all(format!("{heading}: {text}\n").as_bytes());
}

pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .take(MAX_CHARS)
        .map(|char| if is_control(char) { char::REPLACEMENT_CHARACTER } else { char })
        .collect()
}

/// Characters that a terminal may obey instead of showing them: controls, line separators, and controls of
/// the direction of text. All of them fit one UTF-16 unit.
pub(crate) fn is_control(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
