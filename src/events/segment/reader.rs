//! Reads events from segments.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    buffers::{Buffers, READ_BYTES},
    damage::{LostEvents, lost_events},
    disk::Disk,
    header::Header,
    hint::Hint,
    index::{Index, Source},
    number::to_u64,
    open_segments::OpenSegment,
    scan::{Found, Scanner},
    survey::Recent,
};
use crate::{
    events::event_store::StoredEvent,
    sync::{Mutex, lock},
};

/// One call of `read`. The payloads that it returns are parts of what was read from the file, without a copy.
/// Events are appended and segments removed meanwhile, so that what is not where it was
/// looked for may be elsewhere.
pub(super) struct Reader<'a> {
    disk: &'a dyn Disk,
    epoch: u64,
    index: &'a Mutex<Index>,
    buffers: &'a Arc<Buffers>,
    /// How many more bytes of payloads are wanted.
    wanted: u64,
    /// The number to read from next.
    next: u64,
    found: usize,
    out: &'a mut Vec<(u64, StoredEvent)>,
    /// What was found to be lost, and in which segment.
    lost: Vec<(LostEvents, String)>,
}

/// Where numbers were when a reader asked for them.
struct Segment {
    source: Source,
    generation: u64,
    /// Those of its numbers from here on may never have been used.
    uncertain_from: u64,
}

/// What one read returns at most, however small the events are.
const MAX_EVENTS: usize = 2048;

impl<'a> Reader<'a> {
    pub(super) fn new(
        disk: &'a dyn Disk,
        epoch: u64,
        index: &'a Mutex<Index>,
        buffers: &'a Arc<Buffers>,
        max_bytes: usize,
        out: &'a mut Vec<(u64, StoredEvent)>,
    ) -> Self {
        let wanted = to_u64(max_bytes);
        Self { disk, epoch, index, buffers, wanted, next: 0, found: 0, out, lost: Vec::new() }
    }

    /// Reads from this number on. Returns the number to read from next.
    pub(super) fn read(&mut self, from: u64) -> io::Result<u64> {
        self.next = from;
        while !self.is_full() && !self.has_enough() {
            let Some(segment) = self.segment() else { break };
            if let Err(error) = self.read_segment(segment) {
                // The next call fails at this place, if it still must.
                return if self.found == 0 { Err(error) } else { Ok(self.next) };
            }
        }
        Ok(self.next)
    }

    /// What was found to be lost.
    pub(super) fn into_lost(self) -> Vec<(LostEvents, String)> {
        self.lost
    }

    fn is_full(&self) -> bool {
        self.found > 0 && (self.wanted == 0 || self.found >= MAX_EVENTS)
    }

    /// Whether what was found is worth a call, and another read of the file would bring more than is wanted.
    fn has_enough(&self) -> bool {
        self.found > 0 && self.wanted < READ_BYTES
    }

    /// The segment that has the next number. `None` behind the last event.
    fn segment(&mut self) -> Option<Segment> {
        let index = lock(self.index);
        self.next = self.next.max(index.first()).min(index.next);
        let source = index.source_of(self.next)?;
        Some(Segment { source, generation: index.generation, uncertain_from: u64::MAX })
    }

    /// Reads until enough is found, or the segment ends, or another one may have the next number.
    fn read_segment(&mut self, mut segment: Segment) -> io::Result<()> {
        let numbers = segment.source.numbers.clone();
        let Some(open) = self.open(&segment.source)? else { return self.miss(numbers.end, &segment) };
        let OpenSegment { file, header } = &*open;
        segment.uncertain_from = header.uncertain_from();
        let hint = lock(self.index).hint(&header.salt, self.next);
        let (position, number) = hint.map_or((0, numbers.start), |hint| (hint.position, hint.number));
        let mut scanner = Scanner::new(&**file, header, self.buffers, position, number..numbers.end)?;
        let (mut behind, began) = (None, self.next);
        let read = self.read_records(&mut scanner, &segment, &mut behind);
        if let Some((number, position)) = behind {
            let used = hint.filter(|hint| hint.number == began);
            lock(self.index).remember(Hint { salt: header.salt, number, position }, used, &open);
        }
        read
    }

    /// `behind` becomes the number and the position behind the last record that was taken.
    fn read_records(
        &mut self,
        scanner: &mut Scanner<'_>,
        segment: &Segment,
        behind: &mut Option<(u64, u64)>,
    ) -> io::Result<()> {
        while let Some(found) = scanner.next()? {
            let Found::Record { number, published, payload, place } = found else { continue };
            if number < self.next {
                continue;
            }
            self.miss(number, segment)?;
            if self.next < number || self.is_full() {
                return Ok(());
            }
            self.take(number, published, payload);
            *behind = Some((self.next, place.end));
            if self.is_full() || self.next == segment.source.numbers.end {
                return Ok(());
            }
            if self.has_enough() {
                scanner.stay();
            }
        }
        self.miss(segment.source.numbers.end, segment)
    }

    /// `None` if there is no such file of this epoch, or its header is damaged.
    fn open(&self, source: &Source) -> io::Result<Option<Arc<OpenSegment>>> {
        let file = match self.disk.open(&source.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let header = Header::read(&*file, source.first)?.filter(|header| header.epoch == self.epoch);
        Ok(header.map(|header| Arc::new(OpenSegment { header, file })))
    }

    fn take(&mut self, number: u64, published: Duration, payload: Bytes) {
        self.wanted = self.wanted.saturating_sub(to_u64(payload.len()));
        self.next = number + 1;
        self.found += 1;
        self.out.push((number, StoredEvent { payload, published }));
    }

    /// The numbers from the next one up to `end` are not in the segment. Goes on behind those that are lost.
    /// Stops at one that may be found elsewhere, as in a hole that was filled, and if enough was found.
    ///
    /// # Errors
    ///
    /// If the store is closed: the next owner of the directory may have removed them.
    fn miss(&mut self, mut end: u64, segment: &Segment) -> io::Result<()> {
        if self.next >= end {
            return Ok(());
        }
        let in_memory: Vec<Recent> = {
            let index = lock(self.index);
            if index.is_closed {
                return Err(io::Error::other("the store is closed"));
            }
            #[cfg(test)]
            let looks_once = super::sabotage::is(super::sabotage::Sabotage::LookOnce);
            #[cfg(not(test))]
            let looks_once = false;
            if index.generation != segment.generation && !looks_once {
                return Ok(());
            }
            // Discarded meanwhile, which raises the floor before it removes anything.
            self.next = self.next.max(index.first().min(end));
            if segment.source.is_segment {
                end = index.filled_in(&(self.next..end)).unwrap_or(end);
            }
            let missed = self.next..end;
            index.recent.iter().filter(|recent| missed.contains(&recent.number)).cloned().collect()
        };
        for Recent { number, event, .. } in in_memory {
            self.lose(number, segment);
            self.take(number, event.published, event.payload);
            if self.is_full() {
                return Ok(());
            }
        }
        self.lose(end, segment);
        Ok(())
    }

    fn lose(&mut self, end: u64, segment: &Segment) {
        let lost = lost_events(self.next..end, segment.uncertain_from);
        self.lost.extend(lost.map(|lost| (lost, segment.source.name.clone())));
        self.next = self.next.max(end);
    }
}
