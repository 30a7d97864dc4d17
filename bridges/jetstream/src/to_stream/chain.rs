//! Which message must be the last when the next one arrives.
//!
//! A message names the last message of its subject by its stream sequence. As long as messages are in
//! flight, that sequence is a prediction: the sequences of the messages of one session follow each other,
//! unless another client publishes in between. A wrong prediction could then name the sequence of a message
//! of that other client, for instance of this bridge before it was killed, whose last messages arrive late.
//! Therefore every message but the first of a session names also the message before it, by its id, as the
//! last of the whole stream. So JetStream accepts a message only directly behind the message for which it
//! was meant.
//!
//! The first message of a session names what was read from the subject, and nothing is sent behind it
//! before its sequence is known.

use crate::message::{Expected, Outgoing};

/// What the next messages must expect.
#[derive(Debug)]
pub(super) struct Chain {
    /// The stream sequence of the last message of each subject, in flight or not.
    last_of_subject: Vec<u64>,
    tail: Tail,
}

#[derive(Debug)]
enum Tail {
    /// Nothing was sent in this session.
    Empty,
    /// The first message is in flight, for this subject.
    FirstInFlight { log: usize, id: String },
    /// The last message that was sent has this id, and will have this sequence.
    Known { id: String, sequence: u64 },
}

impl Chain {
    pub(super) fn new(last_of_subject: Vec<u64>) -> Self {
        Self { last_of_subject, tail: Tail::Empty }
    }

    /// Whether a message can be sent now.
    pub(super) fn is_ready(&self) -> bool {
        !matches!(self.tail, Tail::FirstInFlight { .. })
    }

    /// What this message, which is sent next, must expect; `None` if it must wait.
    pub(super) fn push(&mut self, log: usize, message: &Outgoing) -> Option<Expected> {
        let subject_sequence = self.last_of_subject.get(log).copied()?;
        let id = message.id();
        let (tail, last_message_id) = match &self.tail {
            Tail::Empty => (Tail::FirstInFlight { log, id }, None),
            Tail::FirstInFlight { .. } => return None,
            Tail::Known { id: last, sequence } => {
                let sequence = sequence + 1;
                if let Some(last) = self.last_of_subject.get_mut(log) {
                    *last = sequence;
                }
                (Tail::Known { id, sequence }, Some(last.clone()))
            }
        };
        self.tail = tail;
        Some(Expected { subject_sequence, last_message_id })
    }

    /// JetStream has acknowledged the first message that was unconfirmed.
    pub(super) fn confirm(&mut self, sequence: u64) {
        if let Tail::FirstInFlight { log, id } = &self.tail {
            if let Some(last) = self.last_of_subject.get_mut(*log) {
                *last = sequence;
            }
            self.tail = Tail::Known { id: id.clone(), sequence };
        }
    }
}

#[cfg(test)]
mod tests {
    use palyra_quic::Bytes;

    use super::*;

    fn event(seq: u64) -> Outgoing {
        Outgoing::event(5, seq, Bytes::new())
    }

    #[test]
    fn nothing_follows_the_first_message_before_its_sequence_is_known() {
        let mut chain = Chain::new(vec![7]);
        let first = chain.push(0, &event(41)).unwrap();
        assert_eq!(first, Expected { subject_sequence: 7, last_message_id: None });
        assert!(!chain.is_ready() && chain.push(0, &event(42)).is_none());
        chain.confirm(12);
        let second = chain.push(0, &event(42)).unwrap();
        assert_eq!(second, Expected { subject_sequence: 12, last_message_id: Some("5:41".into()) });
    }

    #[test]
    fn each_subject_expects_its_own_last_message_and_the_last_of_the_stream() {
        let mut chain = Chain::new(vec![7, 9]);
        chain.push(0, &event(41)).unwrap();
        chain.confirm(10);
        let other = chain.push(1, &Outgoing::event(6, 1, Bytes::new())).unwrap();
        assert_eq!(other, Expected { subject_sequence: 9, last_message_id: Some("5:41".into()) });
        let back = chain.push(0, &event(42)).unwrap();
        assert_eq!(back, Expected { subject_sequence: 10, last_message_id: Some("6:1".into()) });
        let again = chain.push(1, &Outgoing::event(6, 2, Bytes::new())).unwrap();
        assert_eq!(again, Expected { subject_sequence: 11, last_message_id: Some("5:42".into()) });
    }
}
