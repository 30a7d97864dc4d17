//! What a message of JetStream says about the event that it carries.

use async_nats::{
    HeaderMap,
    header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID},
};
use palyra_quic::{Bytes, Cursor, Gap};

/// Header of a message that stands for missing events: the number of the first one.
pub const GAP_FROM: &str = "Palyra-Gap-From";
/// Header of a message that stands for missing events: the number of the first event that is not missing.
pub const GAP_NEXT: &str = "Palyra-Gap-Next";
/// Header of a message that stands for missing events: how many they are, or `unknown`.
pub const GAP_MISSED: &str = "Palyra-Gap-Missed";

/// An event, or a gap in its place, as it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// Behind the event or the gap: what the log is resumed from, and the id of the message.
    pub(crate) cursor: Cursor,
    pub(crate) gap: Option<Gap>,
    pub(crate) payload: Bytes,
}

impl Outgoing {
    pub(crate) fn event(epoch: u64, seq: u64, payload: Bytes) -> Self {
        Self { cursor: Cursor::new(Some(epoch), seq), gap: None, payload }
    }

    /// The number behind a gap is that of its last missing event; 0 if an epoch begins with event 1.
    pub(crate) fn gap(gap: Gap) -> Self {
        let cursor = Cursor::new(Some(gap.epoch), gap.next_seq.saturating_sub(1));
        Self { cursor, gap: Some(gap), payload: Bytes::new() }
    }

    pub(crate) fn id(&self) -> String {
        self.cursor.to_string()
    }

    /// The headers, with what must be true of the subject and of the stream if JetStream is to accept it.
    pub(crate) fn headers(&self, expected: &Expected) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, self.id());
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.subject_sequence.to_string());
        if let Some(id) = &expected.last_message_id {
            headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, id.as_str());
        }
        if let Some(Gap { from, next_seq, missed, .. }) = self.gap {
            headers.insert(GAP_FROM, from.to_string());
            headers.insert(GAP_NEXT, next_seq.to_string());
            let missed = missed.map_or_else(|| "unknown".to_owned(), |missed| missed.to_string());
            headers.insert(GAP_MISSED, missed);
        }
        headers
    }
}

/// Under which conditions JetStream may accept a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The stream sequence of the last message of the subject; 0 if it has none.
    pub(crate) subject_sequence: u64,
    /// The id of the last message of the whole stream.
    pub(crate) last_message_id: Option<String>,
}

/// The cursor in the id of a message of this bridge.
pub(crate) fn cursor_of(headers: &HeaderMap) -> Option<Cursor> {
    let cursor: Cursor = headers.get(NATS_MESSAGE_ID)?.as_str().parse().ok()?;
    cursor.epoch().map(|_| cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_message_is_the_cursor_behind_it() {
        let expected = Expected { subject_sequence: 7, last_message_id: Some("5:40".into()) };
        let headers = Outgoing::event(5, 41, Bytes::new()).headers(&expected);
        assert_eq!(cursor_of(&headers), Some(Cursor::new(Some(5), 41)));
        assert_eq!(headers.get(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE).unwrap().as_str(), "7");
        assert_eq!(headers.get(NATS_EXPECTED_LAST_MESSAGE_ID).unwrap().as_str(), "5:40");
        assert!(headers.get(GAP_FROM).is_none());
    }

    #[test]
    fn ids_of_others_are_no_cursor() {
        for id in ["", "41", "a:b", "5:41:1"] {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_MESSAGE_ID, id);
            assert_eq!(cursor_of(&headers), None, "{id:?}");
        }
        assert_eq!(cursor_of(&HeaderMap::new()), None);
    }
}
