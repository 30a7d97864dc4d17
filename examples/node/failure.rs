//! Why a command failed, in one line.

use std::{
    error::Error as _,
    fmt,
    io::{self, Write},
};

use palyra_quic::{Error, ErrorKind, MessageError, WireError};

/// The longest line that an error makes, in characters: a peer chooses some of its words.
const MAX_CHARS: usize = 500;

pub(crate) enum Failure {
    /// Nobody reads standard output any more.
    ReaderGone,
    Explained(Line),
}

/// Text for one line of a terminal, whoever wrote it.
pub(crate) struct Line(String);

impl Failure {
    pub(crate) fn new(reason: impl fmt::Display) -> Self {
        Self::Explained(Line(one_line(&reason.to_string())))
    }

    /// Adds words of this program's own, which a peer's cannot crowd out.
    pub(crate) fn adding(self, hint: &str) -> Self {
        match self {
            Self::ReaderGone => Self::ReaderGone,
            Self::Explained(Line(reason)) => Self::Explained(Line(format!("{reason} ({hint})"))),
        }
    }

    /// Says what was being done.
    pub(crate) fn during(self, what: impl fmt::Display) -> Self {
        match self {
            Self::ReaderGone => Self::ReaderGone,
            Self::Explained(Line(reason)) => Self::new(format_args!("{what}: {reason}")),
        }
    }

    /// Says on standard error what does not end the command.
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
            // The reason of a connection's end says it already.
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
            // This side's own words, without which "I/O error" says little. Other sources may be a peer's.
            Some(source)
                if matches!(error.kind(), ErrorKind::Io | ErrorKind::InvalidConfig | ErrorKind::Codec)
                    // A socket that has failed; the other sources of this kind repeat that this side closed.
                    || *error.kind() == ErrorKind::Closed && source.is::<io::Error>() =>
            {
                Self::new(format_args!("{error}: {source}"))
            }
            // Which field was wrong, in this side's own words too.
            Some(source) if source.is::<MessageError>() => {
                let cause = source.source().map_or_else(String::new, |cause| format!(": {cause}"));
                Self::new(format_args!("{error}: {source}{cause}"))
            }
            // One word to look for, whichever side noticed first.
            _ if *error.kind() == ErrorKind::DeadlineExceeded => {
                Self::new(format_args!("{}: no answer in time", WireError::DeadlineExceeded))
            }
            _ => Self::new(error),
        }
    }
}

/// Writes a line to standard error.
pub(crate) fn tell(heading: &str, text: &str) {
    // In one write, so that lines of several threads do not mix. With stderr closed, nobody is left to tell.
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
