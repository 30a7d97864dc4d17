//! Which events a log keeps.

use std::{fmt, str::FromStr};

use palyra_quic::{EventLog, EventLogBuilder};

/// So few that a log without a consumer drops events during a short cut of its link.
const NEWEST: usize = 64;
/// More than any run publishes.
const MOST_BYTES: u64 = 1 << 30;
const MAX_BYTES: u64 = 256 * 1024;
/// A reading has less than 100.
const MAX_PAYLOAD_BYTES: usize = 1024;

/// Which events a log keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// All of them.
    All,
    /// The newest, and those that the reader has not acknowledged. A gap in such a log is a fault.
    Unacknowledged,
    /// The newest alone, so that there are gaps if the reader cannot be reached for long.
    Newest,
}

impl Bounds {
    /// The bounds of a log with this reader.
    pub(crate) fn builder(self, reader: Option<&str>) -> EventLogBuilder {
        let builder = EventLog::builder().max_payload_bytes(MAX_PAYLOAD_BYTES);
        match self {
            Self::All => builder.max_events(usize::MAX).max_bytes(MOST_BYTES),
            Self::Newest => builder.max_events(NEWEST).max_bytes(MAX_BYTES),
            Self::Unacknowledged => {
                let builder = builder.max_events(NEWEST).max_bytes(MAX_BYTES).keep_unacknowledged(MOST_BYTES);
                // Declared, so that nothing is dropped before it was first heard of.
                reader.into_iter().fold(builder, |builder, reader| builder.consumer(consumer(reader)))
            }
        }
    }
}

/// The name under which a process acknowledges events: that of its certificate.
pub(crate) fn consumer(process: &str) -> String {
    format!("palyra:device:{process}")
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Unacknowledged => "unacknowledged",
            Self::Newest => "newest",
        })
    }
}

impl FromStr for Bounds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::All, Self::Unacknowledged, Self::Newest]
            .into_iter()
            .find(|bounds| bounds.to_string() == text)
            .ok_or_else(|| format!("{text}: not all, unacknowledged or newest"))
    }
}
