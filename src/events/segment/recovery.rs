//! What the newest segment says about the end of the log. No input or output in here.

use super::damage::most_events_in;

/// What was found in the newest segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Findings {
    /// The first number of the segment.
    pub(super) first: u64,
    /// From the header: all events up to here were durable.
    pub(super) durable: u64,
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
    /// Whether a sector of it was never written, or its last byte was not.
    pub(super) is_cut_off: bool,
}

/// What is behind the last batch, or at the start of a segment without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// All zero.
    #[default]
    Unwritten,
    /// A part of a batch header, and nothing behind it: its write was cut off.
    CutOffHeader,
    /// The place of the next batch header is zero, and something behind it is not.
    WithoutHeader,
    /// There is something in the place of the next batch header, or the file is too short.
    Damaged {
        /// How many bytes may have been records.
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

pub(super) fn judge(findings: &Findings) -> Verdict {
    let Findings { first, durable, closed, last_batch, found_end, rest } = *findings;
    let batch_end = last_batch.map_or(first, |batch| batch.end);
    let is_complete = last_batch.is_none_or(|batch| batch.is_complete);
    let durable_end = durable.saturating_add(1);
    #[cfg(test)]
    if super::sabotage::is(super::sabotage::Sabotage::ReuseDamagedNumbers) && !is_complete {
        let next = last_batch.map_or(first, |batch| batch.first);
        return Verdict { next, uncertain_from: next, can_continue: false };
    }
    if closed {
        let can_continue = rest == Rest::Unwritten && batch_end == durable_end;
        return Verdict { next: durable_end, uncertain_from: durable_end, can_continue };
    }
    let durable_end = durable_end.max(last_batch.map_or(0, |batch| batch.durable.saturating_add(1)));
    let next = match (last_batch, rest) {
        // Power was lost while this batch was written: nobody was told that it is durable.
        (Some(batch), Rest::Unwritten | Rest::CutOffHeader)
            if !batch.is_complete && batch.is_cut_off && batch.end > durable_end =>
        {
            batch.first.max(durable_end)
        }
        // The same, and the sector with the header is among those that were not written.
        (_, Rest::WithoutHeader) if is_complete => batch_end.max(durable_end),
        _ => batch_end.max(durable_end).max(found_end),
    };
    let uncertain = match rest {
        Rest::Damaged { bytes } => most_events_in(bytes),
        Rest::Unwritten | Rest::CutOffHeader | Rest::WithoutHeader => 0,
    };
    Verdict {
        next: next.saturating_add(uncertain),
        uncertain_from: next,
        can_continue: is_complete && rest == Rest::Unwritten && next == batch_end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(first: u64, end: u64, is_complete: bool, is_cut_off: bool) -> Option<LastBatch> {
        Some(LastBatch { first, end, durable: first - 1, is_complete, is_cut_off })
    }

    /// A segment that begins with number 1 and was not closed.
    fn findings(last_batch: Option<LastBatch>, found_end: u64, rest: Rest) -> Findings {
        Findings { first: 1, durable: 0, closed: false, last_batch, found_end, rest }
    }

    fn next(findings: Findings) -> (u64, bool) {
        let verdict = judge(&findings);
        (verdict.next, verdict.can_continue)
    }

    #[test]
    fn a_complete_end_goes_on_where_it_is() {
        assert_eq!(next(findings(None, 1, Rest::Unwritten)), (1, true));
        assert_eq!(next(findings(last(7, 10, true, false), 10, Rest::Unwritten)), (10, true));
    }

    #[test]
    fn a_torn_batch_was_never_acknowledged() {
        assert_eq!(next(findings(last(7, 10, false, true), 9, Rest::Unwritten)), (7, false));
        assert_eq!(next(findings(last(4, 7, true, false), 10, Rest::WithoutHeader)), (7, false));
        assert_eq!(next(findings(last(4, 7, true, false), 7, Rest::CutOffHeader)), (7, false));
    }

    #[test]
    fn a_damaged_batch_keeps_its_numbers() {
        assert_eq!(next(findings(last(7, 10, false, false), 9, Rest::Unwritten)), (10, false));
        // Something behind shows that it was acknowledged.
        assert_eq!(next(findings(last(7, 10, false, true), 9, Rest::WithoutHeader)), (10, false));
        let durable = Findings { durable: 9, ..findings(last(7, 10, false, true), 9, Rest::Unwritten) };
        assert_eq!(next(durable), (10, false));
    }

    #[test]
    fn numbers_in_damage_of_unknown_content_are_not_used() {
        let verdict = judge(&findings(last(4, 7, true, false), 7, Rest::Damaged { bytes: 57 }));
        assert_eq!((verdict.uncertain_from, verdict.next), (7, 10), "three records of 28 bytes at most");
    }

    #[test]
    fn a_closed_segment_knows_its_end_whatever_it_contains() {
        for rest in [Rest::Unwritten, Rest::WithoutHeader, Rest::Damaged { bytes: 9999 }] {
            let damaged = findings(last(4, 7, false, true), 5, rest);
            assert_eq!(next(Findings { closed: true, durable: 19, ..damaged }), (20, false));
        }
        let sound = findings(last(4, 7, true, false), 7, Rest::Unwritten);
        assert_eq!(next(Findings { closed: true, durable: 6, ..sound }), (7, true));
    }
}
