//! The lines that a process prints for the one that has started it.

use std::{fmt, net::SocketAddr};

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It serves its logs at this address.
    Listening(SocketAddr),
    /// The event with this number and counter is durable: `publish_durable` has returned.
    Acknowledged { seq: u64, counter: u64 },
    /// It publishes nothing more, as it was told.
    Stopped,
    /// What it has of a log.
    Log(LogReport),
}

/// What a process has of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogReport {
    pub(crate) log: String,
    /// 0 while a mirror has not heard of the log.
    pub(crate) epoch: u64,
    /// The oldest event.
    pub(crate) first: u64,
    /// The newest event that is on disk.
    pub(crate) last: u64,
    /// How many numbers a mirror has left out since it was started, because its origin no longer had them.
    pub(crate) skipped: u64,
    /// What it does, in words.
    pub(crate) state: String,
}

impl Report {
    /// The report in a line; `None` if it is none.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "listening" => Some(Self::Listening(rest.parse().ok()?)),
            "acknowledged" => {
                let (seq, counter) = rest.split_once(' ')?;
                Some(Self::Acknowledged { seq: seq.parse().ok()?, counter: counter.parse().ok()? })
            }
            "stopped" => Some(Self::Stopped),
            "log" => Some(Self::Log(LogReport::parse(rest)?)),
            _ => None,
        }
    }
}

impl LogReport {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(6, ' ');
        let log = words.next()?.into();
        let mut number = || words.next()?.parse().ok();
        let (epoch, first, last, skipped) = (number()?, number()?, number()?, number()?);
        Some(Self { log, epoch, first, last, skipped, state: words.next()?.into() })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening(address) => write!(f, "listening {address}"),
            Self::Acknowledged { seq, counter } => write!(f, "acknowledged {seq} {counter}"),
            Self::Stopped => f.write_str("stopped"),
            Self::Log(LogReport { log, epoch, first, last, skipped, state }) => {
                // A reason may have more lines than one.
                let state = state.replace(['\n', '\r'], " ");
                write!(f, "log {log} {epoch} {first} {last} {skipped} {state}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_are_written() {
        let log = LogReport {
            log: "plant.sensor-1".into(),
            epoch: 5,
            first: 3,
            last: 70,
            skipped: 2,
            state: "disconnected: no answer".into(),
        };
        for report in [
            Report::Listening(([127, 0, 0, 1], 80).into()),
            Report::Acknowledged { seq: 12, counter: 11 },
            Report::Stopped,
            Report::Log(log),
        ] {
            assert_eq!(Report::parse(&report.to_string()), Some(report));
        }
    }

    #[test]
    fn a_report_is_one_line() {
        let (log, state) = ("plant.sensor-1".to_owned(), "failing:\nno room\r\n".to_owned());
        let report = Report::Log(LogReport { log, epoch: 5, first: 3, last: 70, skipped: 2, state });
        assert_eq!(report.to_string().lines().count(), 1);
    }

    #[test]
    fn other_lines_are_no_reports() {
        for line in ["", "listening", "acknowledged 1", "acknowledged 1 x", "log a 1 2 3", "thread panicked"]
        {
            assert_eq!(Report::parse(line), None, "{line}");
        }
    }
}
