//! What a log counts.

/// What an [`EventLog`](crate::EventLog) holds and has done since it was made or opened; see
/// [`EventLog::stats`](crate::EventLog::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStats {
    /// The sequence number of the oldest event held, or of the next event if none is held.
    pub first_seq: u64,
    /// The sequence number of the newest event that was published; 0 before the first.
    pub last_seq: u64,
    /// How many events subscribers can get, holes included.
    pub held: u64,
    /// How many events were published, without those that could not be written.
    pub published: u64,
    /// How many subscriptions are open.
    pub subscribers: u64,
    /// Events sent to subscribers, one for each event and subscriber.
    pub sent: u64,
    /// Gaps that subscribers were told of.
    pub gaps_sent: u64,
}
