//! What a subscriber makes of the frames that it gets: every event once and in order, or a gap. No socket in here.

use bytes::Bytes;

use super::Cursor;
use crate::{
    error::{Error, Result},
    message::Response,
};

/// A subscriber's side of the protocol, across any number of streams.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    cursor: Option<Cursor>,
}

/// Something for the subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Event { seq: u64, epoch: Option<u64>, payload: Bytes },
    Gap { from: u64, to: u64, missed: Option<u64>, epoch: u64 },
}

impl Follower {
    pub(crate) fn new(cursor: Option<Cursor>) -> Self {
        Self { cursor }
    }

    /// Where to resume: behind everything that was received.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// Takes the next frame, and gives what it brings, if anything. An error leaves the cursor where it was.
    pub(crate) fn receive(&mut self, response: Response) -> Result<Option<Received>> {
        match response {
            Response::Event { seq, epoch, payload } => self.event(seq, epoch, payload.unwrap_or_default()),
            Response::Gap { first_seq, epoch, missed } => self.gap(first_seq, epoch, missed),
            Response::Heartbeat { seq, epoch } => self.heartbeat(seq, epoch).map(|()| None),
            _ => Err(Error::protocol("the answer is not an event")),
        }
    }

    fn event(&mut self, seq: u64, epoch: Option<u64>, payload: Bytes) -> Result<Option<Received>> {
        if let Some(cursor) = self.cursor {
            same_history(cursor, epoch)?;
            // Where epochs tell that it is the same event, it is here already. Without, it may be another.
            if seq <= cursor.seq() && cursor.epoch().is_some() && epoch.is_some() {
                return Ok(None);
            }
            if seq.checked_sub(1) != Some(cursor.seq()) {
                return Err(Error::protocol(format!("event {seq} follows event {}", cursor.seq())));
            }
        }
        self.advance(epoch, seq);
        Ok(Some(Received::Event { seq, epoch, payload }))
    }

    fn gap(&mut self, first_seq: u64, epoch: u64, missed: Option<u64>) -> Result<Option<Received>> {
        let Some(to) = first_seq.checked_sub(1) else {
            return Err(Error::protocol("events begin with number 1"));
        };
        let of_this_epoch =
            |cursor: &Cursor| same_history(*cursor, Some(epoch)).is_ok() && cursor.seq() <= to;
        let here = self.cursor.filter(of_this_epoch);
        let gap = match (here, self.cursor) {
            // Known to the event, whatever the peer counts.
            (Some(cursor), _) => {
                let missed = to - cursor.seq();
                (missed > 0).then(|| Received::Gap {
                    from: cursor.seq() + 1,
                    to,
                    missed: Some(missed),
                    epoch,
                })
            }
            // Another history, of which nothing is known but where it goes on.
            (None, Some(_)) => Some(Received::Gap { from: 1, to, missed, epoch }),
            (None, None) => {
                let from = missed.and_then(|missed| (to + 1).checked_sub(missed)).unwrap_or(1).max(1);
                Some(Received::Gap { from, to, missed, epoch })
            }
        };
        self.cursor = Some(Cursor::new(Some(epoch), to));
        Ok(gap)
    }

    /// A peer that has nothing to say must have said everything.
    fn heartbeat(&mut self, seq: u64, epoch: u64) -> Result<()> {
        if let Some(cursor) = self.cursor {
            same_history(cursor, Some(epoch))?;
            if seq != cursor.seq() {
                return Err(Error::protocol(format!(
                    "the log is at {seq}, and this stream at {}",
                    cursor.seq()
                )));
            }
        }
        self.advance(Some(epoch), seq);
        Ok(())
    }

    fn advance(&mut self, epoch: Option<u64>, seq: u64) {
        let known = self.cursor.and_then(Cursor::epoch);
        self.cursor = Some(Cursor::new(epoch.or(known), seq));
    }
}

/// Only a gap may lead from one epoch to another.
fn same_history(cursor: Cursor, epoch: Option<u64>) -> Result<()> {
    match cursor.epoch().zip(epoch) {
        Some((ours, theirs)) if ours != theirs => Err(Error::protocol("another epoch began without a gap")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 5;

    fn event(seq: u64) -> Response {
        Response::Event { seq, epoch: Some(EPOCH), payload: None }
    }

    fn gap(first_seq: u64, epoch: u64, missed: Option<u64>) -> Response {
        Response::Gap { first_seq, epoch, missed }
    }

    fn heartbeat(seq: u64) -> Response {
        Response::Heartbeat { seq, epoch: EPOCH }
    }

    fn at(seq: u64) -> Follower {
        Follower::new(Some(Cursor::new(Some(EPOCH), seq)))
    }

    fn received(follower: &mut Follower, response: Response) -> Option<Received> {
        follower.receive(response).unwrap()
    }

    #[test]
    fn events_pass_in_order_and_move_the_cursor() {
        let mut follower = Follower::new(None);
        for seq in 7..10 {
            let Some(Received::Event { seq: received, .. }) = received(&mut follower, event(seq)) else {
                panic!("event {seq} is missing");
            };
            assert_eq!(received, seq);
            assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), seq)));
        }
    }

    #[test]
    fn duplicates_are_dropped() {
        let mut follower = at(3);
        for seq in [3, 1, 2] {
            assert_eq!(received(&mut follower, event(seq)), None);
        }
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 3)));
        assert!(received(&mut follower, event(4)).is_some());
    }

    #[test]
    fn an_event_that_is_skipped_without_a_gap_is_a_violation() {
        let mut follower = at(3);
        assert!(follower.receive(event(5)).is_err());
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 3)), "nothing was received");
    }

    #[test]
    fn a_gap_counts_what_is_missing_from_the_cursor_on() {
        let mut follower = at(41);
        let expected = Received::Gap { from: 42, to: 99, missed: Some(58), epoch: EPOCH };
        assert_eq!(received(&mut follower, gap(100, 5, None)), Some(expected));
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 99)));
        assert_eq!(received(&mut follower, gap(100, 5, Some(0))), None, "nothing is missing");
        assert!(received(&mut follower, event(100)).is_some());
    }

    #[test]
    fn another_epoch_needs_a_gap_whose_size_nobody_knows() {
        let mut follower = at(41);
        let other = Response::Event { seq: 42, epoch: Some(6), payload: None };
        assert!(follower.receive(other.clone()).is_err());
        let expected = Received::Gap { from: 1, to: 0, missed: None, epoch: 6 };
        assert_eq!(received(&mut follower, gap(1, 6, None)), Some(expected));
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(6), 0)));
        assert!(follower.receive(other).is_err(), "42 does not follow 0");
    }

    #[test]
    fn a_cursor_ahead_of_the_log_is_taken_back() {
        let mut follower = at(500);
        let expected = Received::Gap { from: 1, to: 99, missed: None, epoch: EPOCH };
        assert_eq!(received(&mut follower, gap(100, 5, None)), Some(expected));
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 99)));
    }

    #[test]
    fn a_gap_before_the_first_event_starts_where_the_peer_says() {
        let mut follower = Follower::new(None);
        let expected = Received::Gap { from: 100, to: 149, missed: Some(50), epoch: EPOCH };
        assert_eq!(received(&mut follower, gap(150, 5, Some(50))), Some(expected));
        assert!(Follower::new(None).receive(gap(0, 5, None)).is_err());
        for missed in [None, Some(0), Some(u64::MAX)] {
            assert!(Follower::new(None).receive(gap(3, 5, missed)).is_ok());
        }
    }

    #[test]
    fn a_heartbeat_of_a_log_that_is_further_is_a_violation() {
        let mut follower = at(3);
        assert_eq!(received(&mut follower, heartbeat(3)), None);
        for seq in [4, 2] {
            assert!(follower.clone().receive(heartbeat(seq)).is_err());
        }
        assert!(follower.receive(Response::Heartbeat { seq: 3, epoch: 6 }).is_err());
    }

    #[test]
    fn a_heartbeat_tells_a_new_subscriber_where_the_log_is() {
        let mut follower = Follower::new(None);
        assert_eq!(received(&mut follower, heartbeat(9)), None);
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 9)));
        assert!(follower.receive(event(11)).is_err());
        assert!(follower.receive(event(10)).is_ok());
    }

    #[test]
    fn peers_without_epochs_can_be_followed() {
        let mut follower = Follower::new(Some(Cursor::new(None, 1)));
        let bare = |seq| Response::Event { seq, epoch: None, payload: None };
        assert!(received(&mut follower, bare(2)).is_some());
        assert!(received(&mut follower, event(3)).is_some(), "an epoch may become known");
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 3)));
        assert!(received(&mut follower, bare(4)).is_some());
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 4)), "and stays known");
    }

    #[test]
    fn other_answers_are_violations() {
        assert!(at(1).receive(Response::Result { payload: None }).is_err());
    }
}
