//! Turns the frames of a subscription into events, each once and in order, or gaps. No socket in here.

use std::fmt;

use bytes::Bytes;

use super::{cursor::Cursor, gap::Gap};
use crate::{
    error::{Error, ErrorKind, Result},
    message::Response,
};

/// The subscriber's side of `node.stream_events`, across any number of answers. Both ways to subscribe use
/// it.
///
/// Invariant: the cursor is that of the last frame that was accepted. A refused frame does not move it.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    cursor: Option<Cursor>,
    /// The next frame is the first of an answer.
    at_beginning: bool,
}

/// What a frame delivers to the subscriber.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Delivery {
    Event { seq: u64, epoch: Option<u64>, payload: Bytes },
    Gap(Gap),
}

impl Follower {
    pub(crate) fn new(cursor: Option<Cursor>) -> Self {
        Self { cursor, at_beginning: true }
    }

    /// Where to resume: after everything that was received.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// Another answer begins, to a request that resumes from the cursor.
    pub(crate) fn begin(&mut self) {
        self.at_beginning = true;
    }

    /// Takes the next frame, and returns what it delivers. A heartbeat delivers nothing.
    ///
    /// # Errors
    ///
    /// `Protocol` for a frame that breaks a rule of docs/protocol.md, section 7.2. The cursor then stays
    /// where it was.
    pub(crate) fn receive(&mut self, response: Response) -> Result<Option<Delivery>> {
        let received = match response {
            Response::Event { seq, epoch, payload } => {
                self.event(seq, epoch, payload.unwrap_or_default()).map(Some)
            }
            Response::Gap { first_seq, epoch, missed } => self.gap(first_seq, epoch, missed).map(Some),
            Response::Heartbeat { seq, epoch } => self.heartbeat(seq, epoch).map(|()| None),
            _ => Err(Error::protocol("the answer is not an event")),
        }?;
        self.at_beginning = false;
        Ok(received)
    }

    /// The same for an event.
    pub(crate) fn event(&mut self, seq: u64, epoch: Option<u64>, payload: Bytes) -> Result<Delivery> {
        if seq == 0 {
            return Err(numbered_from_1());
        }
        if let Some(cursor) = self.cursor {
            same_epoch(cursor, epoch)?;
            if seq.checked_sub(1) != Some(cursor.seq()) {
                return Err(Error::protocol(format!("event {seq} came after event {}", cursor.seq())));
            }
        }
        self.advance(epoch, seq);
        self.at_beginning = false;
        Ok(Delivery::Event { seq, epoch, payload })
    }

    fn gap(&mut self, first_seq: u64, epoch: u64, missed: Option<u64>) -> Result<Delivery> {
        let to = first_seq.checked_sub(1).ok_or_else(numbered_from_1)?;
        let gap = |from, missed| Gap { from, next_seq: first_seq, missed, epoch };
        let gap = match self.cursor {
            // Another history, of which only the number of its next event is known.
            Some(cursor) if same_epoch(cursor, Some(epoch)).is_err() => gap(1, missed),
            // The cursor tells how many are missing, whatever the peer counts.
            Some(cursor) if to > cursor.seq() => gap(cursor.seq() + 1, Some(to - cursor.seq())),
            // A log that does not reach up to the cursor has lost events that the subscriber had.
            Some(cursor) if to < cursor.seq() && self.at_beginning => gap(1, missed),
            Some(cursor) => {
                return Err(Error::protocol(format!(
                    "a gap to event {first_seq} does not lead forward from event {}",
                    cursor.seq()
                )));
            }
            None => {
                let from = missed.and_then(|missed| first_seq.checked_sub(missed)).unwrap_or(1).max(1);
                gap(from, missed)
            }
        };
        self.cursor = Some(Cursor::new(Some(epoch), to));
        Ok(Delivery::Gap(gap))
    }

    /// Invariant: a heartbeat comes only when the peer has sent every event of its log.
    fn heartbeat(&mut self, seq: u64, epoch: u64) -> Result<()> {
        if let Some(cursor) = self.cursor {
            same_epoch(cursor, Some(epoch))?;
            if seq != cursor.seq() {
                return Err(Error::protocol(format!(
                    "a heartbeat says that the log is at event {seq}, and this stream is at event {}",
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

/// The error of a followed stream that ended with FIN. A peer must give the reason, by a reset or an `error`.
pub(crate) fn ended_without_reason() -> Error {
    Error::new(ErrorKind::Truncated).detail("the peer ended a followed stream without a reason")
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { seq, epoch, payload } => fmt_event(f, *seq, *epoch, payload),
            Self::Gap(gap) => f.debug_tuple("Gap").field(gap).finish(),
        }
    }
}

/// Formats an event without its payload, which may be secret.
fn fmt_event(f: &mut fmt::Formatter<'_>, seq: u64, epoch: Option<u64>, payload: &Bytes) -> fmt::Result {
    f.debug_struct("Event")
        .field("seq", &seq)
        .field("epoch", &epoch)
        .field("payload_bytes", &payload.len())
        .finish()
}

fn numbered_from_1() -> Error {
    Error::protocol("event numbers start at 1, and the peer sent 0")
}

/// Only a gap may lead from one epoch to another. Nodes of the tokio implementation have no epochs.
fn same_epoch(cursor: Cursor, epoch: Option<u64>) -> Result<()> {
    match cursor.epoch().zip(epoch) {
        Some((ours, theirs)) if ours != theirs => {
            Err(Error::protocol(format!("epoch {theirs} follows epoch {ours} without a gap")))
        }
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

    fn received(follower: &mut Follower, response: Response) -> Option<Delivery> {
        follower.receive(response).unwrap()
    }

    #[test]
    fn events_pass_in_order_and_move_the_cursor() {
        let mut follower = Follower::new(None);
        for seq in 7..10 {
            let Some(Delivery::Event { seq: received, .. }) = received(&mut follower, event(seq)) else {
                panic!("event {seq} is missing");
            };
            assert_eq!(received, seq);
            assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), seq)));
        }
    }

    #[test]
    fn an_event_that_comes_again_is_a_violation() {
        let mut follower = at(3);
        for seq in [3, 1, 2] {
            assert!(follower.receive(event(seq)).is_err(), "{seq}");
        }
        assert!(received(&mut follower, event(4)).is_some());
        assert!(follower.receive(event(4)).is_err());
        follower.begin();
        assert!(follower.receive(event(4)).is_err(), "nor in the next answer, which resumes behind it");
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 4)));
    }

    #[test]
    fn event_numbers_start_at_1() {
        for mut follower in [Follower::new(None), Follower::new(Some(Cursor::new(None, u64::MAX))), at(0)] {
            assert!(follower.receive(event(0)).is_err());
            assert!(follower.receive(gap(0, EPOCH, None)).is_err());
        }
        assert_eq!(received(&mut at(0), heartbeat(0)), None, "an epoch without events");
        assert!(at(u64::MAX).receive(event(u64::MAX)).is_err());
        assert!(received(&mut at(u64::MAX - 1), event(u64::MAX)).is_some());
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
        let expected = Delivery::Gap(Gap { from: 42, next_seq: 100, missed: Some(58), epoch: EPOCH });
        assert_eq!(received(&mut follower, gap(100, 5, None)), Some(expected));
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 99)));
        assert!(received(&mut follower, event(100)).is_some());
    }

    #[test]
    fn a_gap_leads_forward() {
        for begins in [false, true] {
            let mut follower = at(99);
            follower.at_beginning = begins;
            assert!(follower.receive(gap(100, EPOCH, Some(0))).is_err(), "nothing is missing");
            assert!(received(&mut follower, gap(101, EPOCH, None)).is_some());
        }
        let mut follower = at(99);
        assert!(received(&mut follower, event(100)).is_some());
        for first_seq in [1, 50, 100, 101] {
            assert!(follower.receive(gap(first_seq, EPOCH, None)).is_err(), "{first_seq}");
        }
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 100)));
    }

    #[test]
    fn another_epoch_needs_a_gap_whose_size_nobody_knows() {
        let mut follower = at(41);
        let other = Response::Event { seq: 42, epoch: Some(6), payload: None };
        assert!(follower.receive(other.clone()).is_err());
        let expected = Delivery::Gap(Gap { from: 1, next_seq: 1, missed: None, epoch: 6 });
        assert_eq!(received(&mut follower, gap(1, 6, None)), Some(expected));
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(6), 0)));
        assert!(follower.receive(other).is_err(), "42 does not follow 0");
    }

    #[test]
    fn a_cursor_ahead_of_the_log_is_taken_back_by_the_first_frame_of_an_answer() {
        let mut follower = at(500);
        let expected = Delivery::Gap(Gap { from: 1, next_seq: 100, missed: None, epoch: EPOCH });
        assert_eq!(received(&mut follower, gap(100, 5, None)), Some(expected.clone()));
        assert_eq!(follower.cursor(), Some(Cursor::new(Some(EPOCH), 99)));
        assert!(follower.receive(gap(50, 5, None)).is_err(), "once");
        follower.begin();
        assert!(received(&mut follower, gap(50, 5, None)).is_some(), "and again in the next answer");

        let mut follower = at(500);
        assert_eq!(received(&mut follower, heartbeat(500)), None);
        assert!(follower.receive(gap(100, 5, None)).is_err(), "a heartbeat came first");
    }

    #[test]
    fn a_gap_before_the_first_event_starts_where_the_peer_says() {
        let mut follower = Follower::new(None);
        let expected = Delivery::Gap(Gap { from: 100, next_seq: 150, missed: Some(50), epoch: EPOCH });
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

    /// The frames of a responder whose log anything happens to, as `server::events` makes them.
    mod against_a_log {
        use futures_lite::future::block_on;
        use proptest::{collection::vec, prelude::*};

        use super::*;
        use crate::events::{EventLog, GapBefore, reader::EventReader};

        #[derive(Clone, Debug)]
        enum Step {
            Publish(u8),
            /// The responder loses its history, and with it the connection.
            BeginAnew,
            /// The connection is lost, and the subscriber resumes.
            Resume,
            /// Frames of at most this many bytes of events.
            Read(u16),
            Heartbeat,
        }

        fn steps() -> impl Strategy<Value = Vec<Step>> {
            let step = prop_oneof![
                4 => (1..20_u8).prop_map(Step::Publish),
                1 => Just(Step::BeginAnew),
                2 => Just(Step::Resume),
                6 => (1..400_u16).prop_map(Step::Read),
                2 => Just(Step::Heartbeat),
            ];
            vec(step, 1..60)
        }

        fn new_log() -> EventLog {
            EventLog::builder().max_events(8).build().unwrap()
        }

        fn frame(log: &EventLog, gap: GapBefore) -> Response {
            Response::Gap { first_seq: gap.first_seq, epoch: log.epoch(), missed: gap.missed }
        }

        /// Both ends of a subscription.
        struct Both {
            log: EventLog,
            reader: EventReader,
            follower: Follower,
            frames: Vec<Response>,
        }

        impl Both {
            fn new() -> Self {
                let log = new_log();
                let reader = log.subscribe(None, None);
                Self { log, reader, follower: Follower::new(None), frames: Vec::new() }
            }

            fn resume(&mut self) {
                self.follower.begin();
                let cursor = self.follower.cursor();
                self.reader = self.log.subscribe(cursor.map(Cursor::seq), cursor.and_then(Cursor::epoch));
                // What cannot be had comes first.
                self.read(0);
            }

            fn read(&mut self, bytes: usize) {
                let mut batch = Vec::new();
                let gap = block_on(self.log.read(&mut self.reader, bytes, &mut batch)).unwrap();
                self.frames.extend(gap.map(|gap| frame(&self.log, gap)));
                let epoch = Some(self.log.epoch());
                self.frames.extend(batch.into_iter().map(|(seq, payload)| Response::Event {
                    seq,
                    epoch,
                    payload: Some(payload),
                }));
            }

            fn step(&mut self, step: &Step) {
                match *step {
                    Step::Publish(count) => (0..count).for_each(|_| _ = self.log.publish_raw("x").unwrap()),
                    Step::BeginAnew => {
                        self.log = new_log();
                        self.resume();
                    }
                    Step::Resume => self.resume(),
                    Step::Read(bytes) => self.read(bytes.into()),
                    Step::Heartbeat => {
                        self.read(usize::MAX);
                        let (seq, epoch) = (self.reader.last_seq(), self.log.epoch());
                        self.frames.push(Response::Heartbeat { seq, epoch });
                    }
                }
            }
        }

        /// The events that were received and those that a gap announced, which are all that there were.
        fn account(items: &[Delivery], epoch: u64) -> Option<u64> {
            let mut last = None;
            for item in items {
                match item {
                    Delivery::Event { seq, epoch: of, .. } if *of == Some(epoch) => {
                        assert!(last.is_none_or(|last| last + 1 == *seq), "{seq} after {last:?}");
                        last = Some(*seq);
                    }
                    Delivery::Gap(gap) if gap.epoch == epoch => {
                        assert!(
                            last.is_none_or(|last| last + 1 == gap.from || gap.from == 1),
                            "{gap:?} after {last:?}"
                        );
                        last = Some(gap.next_seq - 1);
                    }
                    _ => {}
                }
            }
            last
        }

        proptest! {
            #[test]
            fn every_event_is_received_or_announced_as_lost(steps in steps()) {
                let mut both = Both::new();
                let mut items = Vec::new();
                for step in steps.iter().chain([&Step::Read(u16::MAX), &Step::Heartbeat]) {
                    both.step(step);
                    for response in std::mem::take(&mut both.frames) {
                        items.extend(both.follower.receive(response).unwrap());
                    }
                }
                let last = both.log.last_seq();
                prop_assert_eq!(both.follower.cursor().map(Cursor::seq), Some(last));
                prop_assert_eq!(account(&items, both.log.epoch()).unwrap_or(last), last);
            }

            /// The twin: a frame that is lost, repeated or altered on the way does not pass.
            #[test]
            fn a_frame_that_is_tampered_with_is_noticed(
                count in 3..8_u64,
                at in any::<prop::sample::Index>(),
                how in 0..4,
            ) {
                let mut both = Both::new();
                (0..count).for_each(|_| _ = both.log.publish_raw("x").unwrap());
                both.step(&Step::Heartbeat);
                let mut frames = both.frames.clone();
                let at = 1 + at.index(frames.len() - 2);
                match (how, &mut frames[at]) {
                    (0, _) => _ = frames.remove(at),
                    (1, again) => {
                        let again = again.clone();
                        frames.insert(at, again);
                    }
                    (2, Response::Event { epoch, .. }) => *epoch = epoch.map(|epoch| epoch ^ 1),
                    (_, Response::Event { seq, .. }) => *seq += 1,
                    (_, other) => panic!("{other:?}"),
                }
                let mut follower = Follower::new(None);
                prop_assert!(frames.into_iter().any(|frame| follower.receive(frame).is_err()));
            }
        }
    }

    #[test]
    fn other_answers_are_violations() {
        assert!(at(1).receive(Response::Result { payload: None }).is_err());
    }
}
