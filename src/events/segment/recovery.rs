//! What the newest segment says about the end of the log. No input or output in here.

use super::damage::most_events_in;
use crate::events::event_store::MAX_NUMBER;

/// What was found in the newest segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Findings {
    /// The first number of the segment.
    pub(super) first: u64,
    /// From the header: all events up to here were durable.
    pub(super) durable: u64,
    /// From the header: numbers from here on, up to `durable`, may never have been used.
    pub(super) uncertain_from: u64,
    /// From the header: nothing was appended since.
    pub(super) closed: bool,
    /// The valid batch header that is nearest to the end.
    pub(super) last_batch: Option<LastBatch>,
    /// The number behind the last valid record; `first` if there is none.
    pub(super) found_end: u64,
    pub(super) rest: Rest,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LastBatch {
    pub(super) first: u64,
    /// The number behind the last event.
    pub(super) end: u64,
    /// The number of the last event that was durable before.
    pub(super) durable: u64,
    /// Whether all its records are valid.
    pub(super) is_complete: bool,
    pub(super) written: Written,
}

/// How much of a batch was written. What was damaged later does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Written {
    #[default]
    Completely,
    /// A part of it was never written, so that nobody was told that it is durable.
    InPart,
    /// A part of it was never written, or was damaged in a way that looks like that.
    InDoubt,
}

/// What is behind the last batch, or at the start of a segment without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing was ever written there.
    #[default]
    Unwritten,
    /// Nothing that is there was acknowledged, but the next batch must not be written over it.
    Abandoned,
    /// Batches that were there are damaged.
    Damaged {
        /// How many bytes may have been records, behind those that were found.
        bytes: u64,
    },
    /// Batches that were there are damaged, or one that was there was never written completely.
    InDoubt {
        /// As for `Damaged`.
        bytes: u64,
    },
}

/// How the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The next number. What the segment has from this number on is void.
    pub(super) next: u64,
    /// All lost numbers from this one on may never have been used: the damage left open how many were.
    pub(super) uncertain_from: u64,
    /// Whether the next batch may be written behind the last one.
    pub(super) can_continue: bool,
}

impl Verdict {
    /// Ends the log with the last event that was found.
    pub(super) fn before_losses(self, found_end: u64) -> Self {
        if self.next <= found_end {
            return self;
        }
        Self { next: found_end, uncertain_from: found_end, can_continue: false }
    }
}

pub(super) fn judge(findings: &Findings) -> Verdict {
    let Findings { first, durable, uncertain_from, closed, last_batch, found_end, rest } = *findings;
    let batch_end = last_batch.map_or(first, |batch| batch.end);
    let is_complete = last_batch.is_none_or(|batch| batch.is_complete);
    let durable_end = durable.saturating_add(1);
    #[cfg(test)]
    if super::sabotage::is(super::sabotage::Sabotage::ReuseDamagedNumbers) && !is_complete {
        let next = last_batch.map_or(first, |batch| batch.first);
        return Verdict { next, uncertain_from: next, can_continue: false };
    }
    if closed {
        // Behind a damaged batch, later opens could not tell which of its events are in doubt.
        let can_continue = is_complete && rest == Rest::Unwritten && batch_end == durable_end;
        let uncertain_from = uncertain_from.min(durable_end);
        return Verdict { next: durable_end, uncertain_from, can_continue };
    }
    let durable_end = durable_end.max(last_batch.map_or(0, |batch| batch.durable.saturating_add(1)));
    let written_end = batch_end.max(durable_end);
    let (certain_end, used_end, bytes) = match rest {
        Rest::Unwritten | Rest::Abandoned => (written_end, written_end, 0),
        Rest::Damaged { bytes } => (written_end.max(found_end), written_end.max(found_end), bytes),
        Rest::InDoubt { bytes } => (written_end, written_end.max(found_end), bytes),
    };
    let (uncertain_from, next) = match last_batch.filter(|batch| !batch.is_complete) {
        // Power was lost while this batch was written: nobody was told that it is durable.
        Some(batch) if batch.written == Written::InPart => {
            let next = batch.first.max(durable_end);
            (next, next)
        }
        Some(batch) if batch.written == Written::InDoubt => (batch.first.max(durable_end), used_end),
        _ => (certain_end, used_end),
    };
    let end = next.saturating_add(most_events_in(bytes)).min(MAX_NUMBER + 1);
    Verdict {
        next: end,
        uncertain_from: uncertain_from.min(end),
        can_continue: is_complete && rest == Rest::Unwritten && next == batch_end,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Written::{Completely, InDoubt, InPart},
        *,
    };

    fn last(first: u64, end: u64, is_complete: bool, written: Written) -> Option<LastBatch> {
        Some(LastBatch { first, end, durable: first - 1, is_complete, written })
    }

    /// A segment that begins with number 1 and was not closed.
    fn findings(last_batch: Option<LastBatch>, found_end: u64, rest: Rest) -> Findings {
        Findings {
            first: 1,
            durable: 0,
            uncertain_from: u64::MAX,
            closed: false,
            last_batch,
            found_end,
            rest,
        }
    }

    fn next(findings: Findings) -> (u64, bool) {
        let verdict = judge(&findings);
        (verdict.next, verdict.can_continue)
    }

    #[test]
    fn a_complete_end_goes_on_where_it_is() {
        assert_eq!(next(findings(None, 1, Rest::Unwritten)), (1, true));
        assert_eq!(next(findings(last(7, 10, true, Completely), 10, Rest::Unwritten)), (10, true));
        assert_eq!(next(findings(last(7, 10, true, Completely), 10, Rest::Abandoned)), (10, false));
    }

    #[test]
    fn a_torn_batch_was_never_acknowledged() {
        assert_eq!(next(findings(last(7, 10, false, InPart), 9, Rest::Abandoned)), (7, false));
        assert_eq!(next(findings(last(4, 7, true, Completely), 10, Rest::Abandoned)), (7, false));
        // Only its last byte is missing.
        assert_eq!(next(findings(last(4, 7, true, InPart), 7, Rest::Abandoned)), (7, false));
        let durable = Findings { durable: 7, ..findings(last(7, 10, false, InPart), 9, Rest::Abandoned) };
        assert_eq!(next(durable), (8, false));
    }

    #[test]
    fn a_damaged_batch_keeps_its_numbers() {
        let verdict = judge(&findings(last(7, 10, false, Completely), 9, Rest::Unwritten));
        assert_eq!((verdict.next, verdict.uncertain_from, verdict.can_continue), (10, 10, false));
        let verdict = judge(&findings(last(4, 7, true, Completely), 9, Rest::Damaged { bytes: 0 }));
        assert_eq!((verdict.next, verdict.uncertain_from), (9, 9));
    }

    #[test]
    fn a_batch_in_doubt_keeps_its_numbers_and_they_may_not_have_been_used() {
        let verdict = judge(&findings(last(7, 10, false, InDoubt), 9, Rest::Unwritten));
        assert_eq!((verdict.next, verdict.uncertain_from), (10, 7));
        let verdict = judge(&findings(last(4, 7, true, Completely), 9, Rest::InDoubt { bytes: 28 }));
        assert_eq!((verdict.next, verdict.uncertain_from), (10, 7));
        let durable = Findings { durable: 8, ..findings(last(7, 10, false, InDoubt), 9, Rest::Unwritten) };
        assert_eq!(judge(&durable).uncertain_from, 9);
    }

    #[test]
    fn numbers_in_damage_of_unknown_content_are_not_used() {
        let verdict = judge(&findings(last(4, 7, true, Completely), 7, Rest::Damaged { bytes: 57 }));
        assert_eq!((verdict.uncertain_from, verdict.next), (7, 9), "two records of 28 bytes at most");
    }

    #[test]
    fn numbers_do_not_go_on_behind_the_greatest() {
        for end in [MAX_NUMBER, MAX_NUMBER + 5, u64::MAX] {
            let damaged = findings(last(4, end, true, Completely), 7, Rest::Damaged { bytes: u64::MAX });
            assert_eq!(next(damaged), (MAX_NUMBER + 1, false));
        }
    }

    #[test]
    fn a_closed_segment_knows_its_end_whatever_it_contains() {
        for rest in [Rest::Unwritten, Rest::Abandoned, Rest::Damaged { bytes: 9999 }] {
            let damaged = findings(last(4, 7, false, InPart), 5, rest);
            assert_eq!(next(Findings { closed: true, durable: 19, ..damaged }), (20, false));
        }
        let sound = findings(last(4, 7, true, Completely), 7, Rest::Unwritten);
        assert_eq!(next(Findings { closed: true, durable: 6, ..sound }), (7, true));
        let damaged = findings(last(4, 7, false, Completely), 6, Rest::Unwritten);
        assert_eq!(next(Findings { closed: true, durable: 6, ..damaged }), (7, false));
        let in_doubt = Findings { closed: true, durable: 19, uncertain_from: 12, ..sound };
        assert_eq!(judge(&in_doubt).uncertain_from, 12);
    }
}
