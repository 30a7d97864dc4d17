//! The segments in a directory.

use std::{cmp::Reverse, collections::BinaryHeap, io, ops::Range, sync::Arc};

use super::{
    damage::most_events_in,
    disk::{Disk, DiskFile},
    header::Header,
    index::Entry,
    names::{
        DAMAGE_NEW, EPOCH_NEW, FILL_NEW, SEGMENT_NEW, fill_name, fill_numbers, is_foreign, segment_name,
        segment_number,
    },
    newest,
    options::SegmentOptions,
    scan::first_batch,
};
use crate::events::event_store::Clocks;

/// A segment in the directory. It is not kept open: a log may have more segments than a process may open.
pub(super) struct Segment {
    pub(super) first: u64,
    /// The length of the file.
    len: u64,
    first_clocks: Option<Clocks>,
    /// `None` if all copies are damaged, or of another epoch.
    pub(super) header: Option<Header>,
    /// Whether the header is valid, but of another epoch than the newest.
    pub(super) is_of_other_epoch: bool,
    /// Whether only the copies in another file are valid.
    pub(super) is_repaired: bool,
}

/// Larger than the segments of most logs. Numbers are plentiful.
const LARGE_SEGMENT: u64 = 64 * 1024 * 1024;

impl Segment {
    fn read(disk: &dyn Disk, first: u64) -> io::Result<Self> {
        let file = disk.open(&segment_name(first))?;
        let mut segment = Self {
            first,
            len: file.len()?,
            first_clocks: None,
            header: None,
            is_of_other_epoch: false,
            is_repaired: false,
        };
        segment.set_header(&*file, Header::read(&*file, first)?)?;
        Ok(segment)
    }

    fn set_header(&mut self, file: &dyn DiskFile, header: Option<Header>) -> io::Result<()> {
        let batch = header.as_ref().map(|header| first_batch(file, header)).transpose()?;
        self.first_clocks = batch.flatten().map(|batch| batch.clocks);
        self.header = header;
        Ok(())
    }

    pub(super) fn open(&self, disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        disk.open(&segment_name(self.first))
    }

    pub(super) fn entry(&self) -> Entry {
        let capacity = self.header.as_ref().map_or(0, |header| header.capacity);
        let began = self.first_clocks().map(|clocks| clocks.log);
        Entry { first: self.first, bytes: self.len.max(capacity), began }
    }

    /// The clocks of the first batch. `None` if it is damaged, or there is none.
    pub(super) fn first_clocks(&self) -> Option<Clocks> {
        self.first_clocks.filter(|_| self.header.is_some())
    }

    /// How many events a segment without a header may have had. It may have been truncated.
    pub(super) fn most_events(&self, options: &SegmentOptions) -> u64 {
        most_events_in(self.len.max(options.layout.segment_bytes).max(LARGE_SEGMENT))
    }
}

/// Removes those segments for which this holds, and returns the others.
pub(super) fn remove<'s>(
    disk: &dyn Disk,
    segments: impl IntoIterator<Item = &'s Segment>,
    is_removed: impl Fn(&Segment) -> bool,
) -> io::Result<Vec<&'s Segment>> {
    let (removed, others): (Vec<_>, Vec<_>) = segments.into_iter().partition(|segment| is_removed(segment));
    for segment in removed {
        disk.unlink(&segment_name(segment.first))?;
        disk.sync_dir()?;
    }
    Ok(others)
}

/// The segments, oldest first.
pub(super) fn list(disk: &dyn Disk) -> io::Result<Vec<Segment>> {
    let names = disk.list()?;
    // Sorts as well as `sort_unstable`, in a tenth of the code.
    let firsts: BinaryHeap<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    let firsts = firsts.into_sorted_vec();
    if let (true, Some(foreign)) = (firsts.is_empty(), names.iter().find(|name| is_foreign(name))) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the directory is not an event log: it has other files, such as {foreign:?}"),
        ));
    }
    // What was not complete when the process ended.
    for name in [SEGMENT_NEW, DAMAGE_NEW, EPOCH_NEW, FILL_NEW] {
        if names.iter().any(|existing| existing == name) {
            disk.unlink(name)?;
        }
    }
    let segments = firsts.into_iter().map(|first| Segment::read(disk, first));
    let mut segments = segments.collect::<io::Result<Vec<_>>>()?;
    if let Some(newest) = segments.last_mut().filter(|newest| newest.header.is_none()) {
        let header = newest::load(disk, newest.first)?;
        newest.set_header(&*newest.open(disk)?, header)?;
        newest.is_repaired = true;
    }
    Ok(segments)
}

/// A file that fills a hole.
pub(super) struct Fill {
    pub(super) numbers: Range<u64>,
    pub(super) bytes: u64,
    /// Whether all copies of its header are damaged.
    pub(super) is_damaged: bool,
}

/// The files that fill holes in this epoch, each before those that are inside it. Removes those whose segment
/// is gone, because it was older than the `oldest`, or that have only events below the floor.
pub(super) fn list_fills(disk: &dyn Disk, epoch: u64, oldest: u64, floor: u64) -> io::Result<Vec<Fill>> {
    let names = disk.list()?;
    let mut found: Vec<Range<u64>> = names.iter().filter_map(|name| fill_numbers(name)).collect();
    found.sort_unstable_by_key(|fill| (fill.start, Reverse(fill.end)));
    let mut fills = Vec::new();
    for fill in found {
        let file = disk.open(&fill_name(&fill))?;
        let header = Header::read(&*file, fill.start)?;
        let is_wanted = fill.start >= oldest && fill.end > floor;
        if is_wanted && header.as_ref().is_none_or(|header| header.epoch == epoch) {
            fills.push(Fill { numbers: fill, bytes: file.len()?, is_damaged: header.is_none() });
        } else {
            disk.unlink(&fill_name(&fill))?;
        }
    }
    Ok(fills)
}

/// Removes all files that fill holes.
pub(super) fn remove_fills(disk: &dyn Disk) -> io::Result<()> {
    for name in disk.list()?.iter().filter(|name| fill_numbers(name).is_some()) {
        disk.unlink(name)?;
    }
    Ok(())
}

/// Removes the segments that have only discarded events: those of another epoch, which a crash left when a
/// new one was begun, and others up to the first damaged one. A damaged segment goes with the next ones that
/// are removed later, so that an operator who reads the report at the start finds it.
pub(super) fn remove_discarded(disk: &dyn Disk, segments: &mut Vec<Segment>, floor: u64) -> io::Result<()> {
    let is_discarded = |pair: &&[Segment]| matches!(pair, [_, next] if next.first <= floor);
    let discarded = segments.windows(2).take_while(is_discarded).count();
    let kept = segments.split_off(discarded);
    let discarded = std::mem::replace(segments, kept);
    let is_damaged = |segment: &Segment| segment.header.is_none() && !segment.is_of_other_epoch;
    let before_damage = discarded.iter().find(|segment| is_damaged(segment)).map(|segment| segment.first);
    let is_removed = |segment: &Segment| {
        segment.is_of_other_epoch || before_damage.is_none_or(|damaged| segment.first < damaged)
    };
    remove(disk, &discarded, is_removed)?;
    segments.splice(..0, discarded.into_iter().filter(|segment| !is_removed(segment)));
    Ok(())
}
