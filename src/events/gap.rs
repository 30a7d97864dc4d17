//! A gap in a subscription.
//!
//! A log finds it in `history.rs`, and a subscriber counts it in `follower.rs`.

/// Events that a subscriber will not get, because the log that it follows no longer holds them.
///
/// Both [`Events`](crate::Events) and [`Subscription`](crate::Subscription) report a gap in the place of the
/// missing events.
///
/// ```
/// # fn example(gap: palyra_quic::Gap) {
/// match gap.missed {
///     Some(missed) => println!("missed {missed} events, from {} on", gap.from),
///     None => println!("the history of epoch {} begins at event {}", gap.epoch, gap.next_seq),
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Gap {
    /// The number of the first missing event. Equal to `next_seq` if no event of this epoch is known to be
    /// missing, as when a new epoch begins with event 1.
    pub from: u64,
    /// The number of the first event that is not missing: the oldest that the log holds, or the next to be
    /// published. The subscription goes on with it.
    pub next_seq: u64,
    /// How many events are missing. `None` if an epoch has ended, or the peer does not know.
    pub missed: Option<u64>,
    /// The epoch that `from`, `next_seq` and the events to come belong to.
    pub epoch: u64,
}
