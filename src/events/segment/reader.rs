//! Reads events from segments.

use std::{io, ops::Range};

use bytes::Bytes;

use super::{
    damage::LostEvents,
    disk::Disk,
    header::Header,
    index::{Hint, Index},
    names::segment_name,
    number::to_u64,
    scan::{Found, Scanner},
};
use crate::{
    events::event_store::StoredEvent,
    sync::{Mutex, lock},
};

/// One call of `read`.
pub(super) struct Reader<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) epoch: u64,
    pub(super) index: &'a Mutex<Index>,
    /// How many more bytes of payloads are wanted.
    pub(super) wanted: u64,
    pub(super) out: &'a mut Vec<(u64, StoredEvent)>,
    /// What was found to be lost, and in which segment.
    pub(super) lost: Vec<(LostEvents, String)>,
}

/// What one read returns at most, however small the events are.
const MAX_EVENTS: usize = 2048;

impl Reader<'_> {
    /// Reads from this number on, and returns the number to read from next.
    pub(super) fn read(&mut self, from: u64) -> io::Result<u64> {
        let mut number = from;
        let mut found = 0;
        loop {
            let segment = {
                let index = lock(self.index);
                number = number.max(index.first()).min(index.next);
                index.segment_of(number)
            };
            let Some(segment) = segment else { return Ok(number) };
            let before = self.out.len();
            number = self.read_segment(segment, number)?;
            found += self.out.len() - before;
            if found > 0 && self.wanted == 0 {
                return Ok(number);
            }
        }
    }

    fn read_segment(&mut self, segment: Range<u64>, from: u64) -> io::Result<u64> {
        let file = match self.disk.open(&segment_name(segment.start)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Discarded meanwhile, or somebody else removed it.
                if lock(self.index).segment_of(from) == Some(segment.clone()) {
                    self.add_lost(from..segment.end, segment.start);
                }
                return Ok(segment.end);
            }
            Err(error) => return Err(error),
        };
        let header = Header::read(&*file, segment.start)?.filter(|header| header.epoch == self.epoch);
        let Some(header) = header else {
            self.add_lost(from..segment.end, segment.start);
            return Ok(segment.end);
        };
        let hint = lock(self.index).hint(&header.salt, from);
        let (position, number) = hint.map_or((0, segment.start), |hint| (hint.position, hint.number));
        let mut scanner = Scanner::new(&*file, &header, position, number..segment.end)?;
        let mut expected = from;
        while let Some(found) = scanner.next()? {
            let Found::Record { number, published, payload, place } = found else { continue };
            if number < from {
                continue;
            }
            let event = StoredEvent { payload: Bytes::copy_from_slice(payload), published };
            self.add_lost(expected..number, segment.start);
            self.wanted = self.wanted.saturating_sub(to_u64(event.payload.len()));
            self.out.push((number, event));
            expected = number + 1;
            if self.wanted == 0 || self.out.len() >= MAX_EVENTS || expected == segment.end {
                let place = Hint { salt: header.salt, number: expected, position: place.end };
                lock(self.index).remember(place, hint);
                return Ok(expected);
            }
        }
        self.add_lost(expected..segment.end, segment.start);
        Ok(segment.end)
    }

    fn add_lost(&mut self, numbers: Range<u64>, segment: u64) {
        if let Some(last) = numbers.end.checked_sub(1).filter(|last| *last >= numbers.start) {
            let lost = LostEvents { first: numbers.start, last, exact: true };
            self.lost.push((lost, segment_name(segment)));
        }
    }
}
