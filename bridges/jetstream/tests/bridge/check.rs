//! What must hold of the messages of a subject: the check of every test.

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID};
use palyra_jetstream::{GAP_FROM, GAP_MISSED, GAP_NEXT};

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) gap: Option<Missing>,
    payload: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) from: u64,
    pub(crate) next: u64,
    pub(crate) count: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A message that was there before, or one that belongs before it.
    Repeated(u64),
    /// No message for this event, and no gap.
    Missing(u64),
    /// Another payload than that of its event.
    Payload(u64),
    /// Another epoch, without a gap that says so.
    Epoch(u64),
}

impl Published {
    pub(crate) fn new(headers: Option<&HeaderMap>, payload: &[u8]) -> Self {
        let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(ToString::to_string);
        let id = headers.and_then(|headers| headers.get(NATS_MESSAGE_ID)).unwrap().to_string();
        let (epoch, seq) = id.split_once(':').unwrap();
        let gap = header(GAP_FROM).map(|from| Missing {
            from: from.parse().unwrap(),
            next: header(GAP_NEXT).unwrap().parse().unwrap(),
            count: header(GAP_MISSED).unwrap(),
        });
        Self { epoch: epoch.parse().unwrap(), seq: seq.parse().unwrap(), gap, payload: payload.to_vec() }
    }
}

/// The payload of every event in these tests.
pub(crate) fn payload(seq: u64) -> String {
    format!("event {seq}")
}

/// Each event once and in order, from number 1 to `last`, or a gap in its place.
pub(crate) fn check(messages: &[Published], last: u64) -> Result<(), Fault> {
    let mut position: Option<(u64, u64)> = None;
    for Published { epoch, seq, gap, payload: found } in messages {
        let (known, before) = position.unwrap_or((*epoch, 0));
        let due = before + 1;
        match gap {
            Some(gap) if known != *epoch => assert_eq!((gap.from, gap.next), (1, seq + 1)),
            Some(gap) => assert_eq!((gap.from, gap.next), (due, seq + 1)),
            None if known != *epoch => return Err(Fault::Epoch(*epoch)),
            None if *seq < due => return Err(Fault::Repeated(*seq)),
            None if *seq > due => return Err(Fault::Missing(due)),
            None if *found != payload(*seq).into_bytes() => return Err(Fault::Payload(*seq)),
            None => {}
        }
        position = Some((*epoch, *seq));
    }
    match position {
        Some((_, seq)) if seq == last => Ok(()),
        Some((_, seq)) if seq > last => Err(Fault::Repeated(seq)),
        _ => Err(Fault::Missing(position.map_or(1, |(_, seq)| seq + 1))),
    }
}
