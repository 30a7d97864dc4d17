//! Appends batches to the newest segment, and begins new ones.

use std::io;

use super::{
    batch::{EncodedBatch, batch_start, encoded_len},
    create::{Active, NewSegment},
    disk::Disk,
    header::Header,
    index::{Entry, Index},
    layout::{block_start, end_offset_of},
    names::segment_name,
    newest,
    options::Layout,
    survey::Recent,
};
use crate::{
    events::event_store::Batch,
    sync::{Mutex, lock},
};

/// The end of the log on disk.
pub(super) struct Writer {
    /// The newest segment. `None` if the next batch must go to another one: after an error, and when a
    /// segment was left in a state that is not known.
    active: Option<Active>,
    /// The newest segment after an error, which may have left a part of a batch there.
    failed: Option<Active>,
    /// The events in the block that the next batch will share. If writing that batch fails, the block may
    /// be lost, and they are written again.
    recent: Vec<Recent>,
    is_closed: bool,
}

/// A store of which the writer is a part.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) layout: Layout,
    pub(super) epoch: u64,
    pub(super) index: &'a Mutex<Index>,
}

impl Writer {
    pub(super) fn new(active: Option<Active>, recent: Vec<Recent>) -> Self {
        Self { active, failed: None, recent, is_closed: false }
    }

    /// Writes a batch and makes it durable.
    pub(super) fn append(&mut self, target: Target<'_>, batch: &Batch) -> io::Result<()> {
        let Target { index, .. } = target;
        if self.is_closed {
            return Err(io::Error::other("the store is closed"));
        }
        let end = batch.end(lock(index).next)?;
        if batch.events.is_empty() {
            return Ok(());
        }
        let written = self.write(target, batch);
        #[cfg(test)]
        let stay = super::sabotage::is(super::sabotage::Sabotage::StayInFailedSegment);
        #[cfg(not(test))]
        let stay = false;
        match written {
            Ok(encoded) => {
                self.keep_recent(batch, &encoded);
                let mut index = lock(index);
                index.next = end;
                index.settled = end;
                index.clocks = Some(batch.clocks);
                index.recent.clone_from(&self.recent);
                Ok(())
            }
            Err(error) => {
                if !stay {
                    self.failed = self.active.take().or(self.failed.take());
                }
                Err(error)
            }
        }
    }

    /// Marks the newest segment as closed, so that its end is known whatever happens to its content.
    pub(super) fn close(&mut self, target: Target<'_>) -> io::Result<()> {
        self.is_closed = true;
        if let Some(active) = self.active.take() {
            return active.mark_closed(target);
        }
        // What a failed write left cannot be taken for acknowledged events then. Without the mark, they are
        // only in doubt: an error changes nothing.
        if let Some(failed) = self.failed.take()
            && failed.file.linked_len().is_ok_and(|len| len.is_some())
            && let Err(error) = failed.mark_closed(target)
        {
            tracing::debug!(%error, "a segment of an event log cannot be marked as closed");
        }
        Ok(())
    }

    fn write(&mut self, target: Target<'_>, batch: &Batch) -> io::Result<EncodedBatch> {
        let Target { index, .. } = target;
        let len = encoded_len(&batch.events)?;
        if let Some(active) = &self.active {
            if !active.is_intact()? {
                self.active = None;
            } else if !active.has_space_for(len) {
                self.active = None;
                // All of them are durable, and nothing more is written near them.
                self.recent.clear();
            }
        }
        if self.active.is_none() {
            self.begin_segment(target, batch, len)?;
        }
        let Some(active) = &mut self.active else { return Err(io::Error::other("no segment")) };
        let (floor, next) = {
            let index = lock(index);
            (index.floor, index.next)
        };
        if active.header.closed || active.begins_below(floor) {
            active.header.closed = false;
            if active.begins_below(floor) {
                let durable = next.saturating_sub(1);
                active.header = Header { floor, durable, certain: durable, ..active.header };
            }
            newest::save(target.disk, &active.header)?;
            active.header.replace(&*active.file)?;
        }
        let end = active.end;
        let encoded = active.write(batch, batch.first.saturating_sub(1)).inspect_err(|_| active.end = end)?;
        #[cfg(test)]
        if super::sabotage::is(super::sabotage::Sabotage::SkipSync) {
            return Ok(encoded);
        }
        active.file.sync_data()?;
        Ok(encoded)
    }

    /// Begins a segment for this batch, with the events that must be written again.
    fn begin_segment(&mut self, target: Target<'_>, batch: &Batch, batch_len: u64) -> io::Result<()> {
        let Target { disk, layout, epoch, index } = target;
        #[cfg(test)]
        if super::sabotage::is(super::sabotage::Sabotage::SkipRewrite) {
            self.recent.clear();
        }
        let (floor, clocks) = {
            let index = lock(index);
            (index.floor, index.clocks)
        };
        let new = NewSegment {
            epoch,
            next: batch.first,
            floor,
            bytes: layout.segment_bytes,
            batch_len,
            fresh_blocks: layout.fresh_blocks,
            rewritten: &self.recent,
            clocks: clocks.unwrap_or_default(),
        };
        make_room(target, new.capacity()?)?;
        let (active, recent) = new.create(disk)?;
        // Readers open files by name, and find the new one from here on.
        let Header { first, capacity, .. } = active.header;
        self.failed = None;
        lock(index).add_segment(Entry { first, bytes: capacity, began: Some(batch.clocks.log) });
        disk.sync_dir()?;
        newest::save(disk, &active.header)?;
        self.recent = recent;
        self.recent.retain(|recent| recent.end > block_start(active.end));
        self.active = Some(active);
        Ok(())
    }

    fn keep_recent(&mut self, batch: &Batch, encoded: &EncodedBatch) {
        let Some(active) = &self.active else { return };
        let start = block_start(encoded.end);
        self.recent.retain(|recent| recent.end > start);
        if active.header.fresh_blocks {
            self.recent.clear();
            return;
        }
        let records = (batch.first..).zip(&batch.events).zip(&encoded.record_ends);
        self.recent.extend(records.filter(|(_, end)| **end > start).map(|((number, event), end)| Recent {
            number,
            event: event.clone(),
            end: *end,
        }));
    }
}

/// Removes the oldest segments if another one of this size would be too much.
pub(super) fn make_room(target: Target<'_>, bytes: u64) -> io::Result<()> {
    let Target { layout, index, .. } = target;
    {
        let mut index = lock(index);
        let below = index.room_for(bytes, layout.max_bytes);
        index.floor = index.floor.max(below.min(index.next));
    }
    remove_discarded(target)
}

/// Removes the segments that have only discarded events.
pub(super) fn remove_discarded(Target { disk, index, .. }: Target<'_>) -> io::Result<()> {
    while let Some(oldest) = { lock(index).discarded_segment() } {
        match disk.unlink(&segment_name(oldest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let fills = lock(index).remove_oldest();
        disk.sync_dir()?;
        // Not before the segment is gone for good: what they fill would be damage of it. Those that stay are
        // removed when the log is opened.
        for fill in fills {
            match disk.unlink(&fill) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

impl Active {
    fn mark_closed(mut self, Target { disk, index, .. }: Target<'_>) -> io::Result<()> {
        let (floor, next) = {
            let index = lock(index);
            (index.floor, index.next)
        };
        let durable = next.saturating_sub(1);
        self.header = Header { floor, durable, certain: durable, closed: true, ..self.header };
        self.header.replace(&*self.file)?;
        newest::save(disk, &self.header)
    }

    /// Whether its first event gets a number above that of the segment, because what is in between was left
    /// out: the log does not have the numbers below, and its owner is not to be told so after a crash.
    fn begins_below(&self, floor: u64) -> bool {
        self.end == 0 && floor > self.header.first.max(self.header.floor)
    }

    fn has_space_for(&self, batch_len: u64) -> bool {
        let start = batch_start(self.end, self.header.fresh_blocks);
        end_offset_of(start.saturating_add(batch_len)) <= self.header.capacity
    }

    /// Whether the file was neither truncated nor unlinked nor replaced since it was written.
    fn is_intact(&self) -> io::Result<bool> {
        let least = if self.header.filled { self.header.capacity } else { end_offset_of(self.end) };
        Ok(self.file.linked_len()?.is_some_and(|len| self.end == 0 || len >= least))
    }
}
