//! How a log fares.

/// How an [`EventLog`](crate::EventLog) fares; see [`EventLog::health`](crate::EventLog::health).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LogHealth {
    /// Whether events can be published.
    pub state: LogState,
    /// How many commits have failed since the log was opened.
    pub failed_commits: u64,
    /// How many events were given a number and then not written, because a commit failed. Their
    /// numbers were given again, to other events.
    pub unwritten_events: u64,
    /// How many events the store has lost to damage, as far as it knows, without those that a mirror has
    /// received again; see `EventStore::damaged`.
    pub damaged_events: u64,
    /// How many reads of the store have failed since the log was opened. The subscribers that they were for
    /// were sent away, and come back later: nothing is lost.
    pub failed_reads: u64,
    /// Why the latest read of the store failed, until one succeeds. Subscribers whose next events are no
    /// longer in memory are sent away meanwhile, for 100 ms and after more failures for up to 10 s.
    pub read_error: Option<String>,
}

/// Whether events can be published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogState {
    /// As far as is known.
    #[default]
    Writable,
    /// The latest commit failed, with this error. The next event is refused, or tries again.
    Failing(String),
    /// A commit has been running for more than ten seconds.
    Stalled,
    /// The log was closed. No event can be published any more.
    Closed,
}

impl LogState {
    /// Whether this is [`Writable`](Self::Writable).
    #[must_use]
    pub fn is_writable(&self) -> bool {
        *self == Self::Writable
    }
}
