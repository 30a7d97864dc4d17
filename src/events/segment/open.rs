//! Opens a directory of segments, and decides where the log goes on.

use std::{io, ops::Range, sync::Arc};

use super::{
    checksum::Checksum,
    create::{Active, NewSegment},
    damage::{DamageReport, LostEvents, lost_events, most_events_in},
    disk::{Disk, DiskFile, is_medium_error, read_full, write_all},
    header::Header,
    index::{Entry, Index},
    layout::{BLOCK, BLOCK_LEN},
    names::{DAMAGE_NEW, SEGMENT_NEW, is_foreign, segment_name, segment_number},
    newest,
    number::to_usize,
    options::SegmentOptions,
    recovery::{Verdict, judge},
    scan::first_batch,
    survey::{Recent, Survey, survey},
};
use crate::events::event_store::{Clocks, MAX_NUMBER};

/// What an open store begins with.
pub(super) struct Opened {
    pub(super) epoch: u64,
    pub(super) index: Index,
    pub(super) active: Option<Active>,
    pub(super) recent: Vec<Recent>,
    pub(super) damage: DamageReport,
}

/// A segment in the directory.
struct Segment {
    first: u64,
    file: Arc<dyn DiskFile>,
    /// `None` if all copies are damaged.
    header: Option<Header>,
    /// Whether only the copies in another file are valid.
    is_repaired: bool,
}

/// Larger than the segments of most logs. Numbers are plentiful.
const LARGE_SEGMENT: u64 = 64 * 1024 * 1024;

impl Segment {
    fn entry(&self) -> io::Result<Entry> {
        let Self { first, file, header, is_repaired: _ } = self;
        let entry = Entry { first: *first, bytes: file.len()?, began: None };
        let Some(header) = header else { return Ok(entry) };
        let began = first_batch(&**file, header)?.map(|batch| batch.clocks.log);
        Ok(Entry { bytes: entry.bytes.max(header.capacity), began, ..entry })
    }
}

/// The end of the log.
struct End {
    verdict: Verdict,
    clocks: Option<Clocks>,
    active: Option<Active>,
    recent: Vec<Recent>,
}

pub(super) fn open(disk: &dyn Disk, options: &SegmentOptions) -> io::Result<Opened> {
    let mut segments = list(disk)?;
    let newest_header = segments.iter().rev().find_map(|segment| segment.header.as_ref());
    let Some(epoch) = newest_header.map(|header| header.epoch) else {
        return begin_after_loss(disk, options, &segments);
    };
    // Of another epoch: it was superseded, or does not belong here.
    segments
        .iter_mut()
        .for_each(|segment| segment.header = segment.header.take().filter(|h| h.epoch == epoch));
    let floor =
        segments.iter().filter_map(|segment| segment.header.as_ref()).map(|header| header.floor).max();
    let floor = floor.unwrap_or(1);
    remove_discarded(disk, &mut segments, floor)?;

    let mut lost = Losses { damage: DamageReport::load(disk, epoch, floor)?, floor };
    let end = find_end(disk, options, &segments, &mut lost)?;
    let mut clocks = end.clocks;
    let firsts: Vec<u64> = segments.iter().map(|segment| segment.first).collect();
    for (at, segment) in segments.iter().enumerate() {
        let Some(end) = firsts.get(at + 1).copied() else { break };
        match &segment.header {
            None => lost.add(segment.first..end, u64::MAX, segment.first),
            // Of the older ones, damage is found when they are read.
            Some(header) if at + 2 == segments.len() => {
                let found = survey(&*segment.file, header, end)?;
                lost.add_missing(&found, end, header.uncertain_from());
                clocks = clocks.or(found.clocks);
            }
            Some(_) => {}
        }
    }
    let mut damage = lost.damage;
    save(disk, &mut damage);
    let next = end.verdict.next;
    if !(1..=MAX_NUMBER).contains(&next) {
        return Err(io::Error::other("the numbers of the epoch are used up: begin a new one"));
    }
    if options.needs_epoch(epoch, next) {
        return begin(disk, options, &segments, (options.new_epoch)(), next, damage);
    }
    let entries = segments.iter().map(Segment::entry).collect::<io::Result<_>>()?;
    let index = Index::new(entries, floor, next, clocks);
    Ok(Opened { epoch, index, active: end.active, recent: end.recent, damage })
}

/// Begins an epoch in a directory of which no segment says which epoch it has: in an empty one, or because
/// all are damaged.
fn begin_after_loss(disk: &dyn Disk, options: &SegmentOptions, damaged: &[Segment]) -> io::Result<Opened> {
    let epoch = (options.new_epoch)();
    let mut damage = DamageReport::load(disk, epoch, 1)?;
    let mut next = 1;
    for Segment { first, file, .. } in damaged {
        let last = first.saturating_add(most_events_of(&**file, options)?);
        damage.add(LostEvents { first: *first, last, exact: false }, &segment_name(*first));
        next = next.max(last.saturating_add(1));
    }
    save(disk, &mut damage);
    begin(disk, options, damaged, epoch, next, damage)
}

/// Begins an epoch. Its numbers go on behind those of the segments that are there, so that these are below
/// its floor, and the new segment takes effect with its name.
fn begin(
    disk: &dyn Disk,
    options: &SegmentOptions,
    old: &[Segment],
    epoch: u64,
    next: u64,
    mut damage: DamageReport,
) -> io::Result<Opened> {
    damage.begin_epoch(epoch);
    let new = NewSegment {
        epoch,
        next,
        floor: next,
        bytes: options.layout.segment_bytes,
        batch_len: 0,
        fresh_blocks: options.layout.fresh_blocks,
        rewritten: &[],
        clocks: Clocks::default(),
    };
    let entries = old.iter().map(Segment::entry).collect::<io::Result<Vec<_>>>()?;
    let room = Index::new(entries, 1, next, None).room_for(new.capacity()?, options.layout.max_bytes);
    let old = remove(disk, old, |segment| segment.first < room)?;
    let (active, recent) = new.create(disk)?;
    disk.sync_dir()?;
    newest::save(disk, &active.header)?;
    // The new segment replaced one without events, if that began with the same number.
    let old = old.into_iter().filter(|segment| segment.first < next);
    let damaged = remove(disk, old, |segment| segment.header.is_some())?;
    // They count until they are removed to make room.
    let mut entries = damaged.into_iter().map(Segment::entry).collect::<io::Result<Vec<_>>>()?;
    entries.push(Entry { first: next, bytes: active.header.capacity, began: None });
    let index = Index::new(entries, next, next, None);
    Ok(Opened { epoch, index, active: Some(active), recent, damage })
}

/// Removes those segments for which this holds, and returns the others.
fn remove<'s>(
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
fn list(disk: &dyn Disk) -> io::Result<Vec<Segment>> {
    let names = disk.list()?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    firsts.sort_unstable();
    if let (true, Some(foreign)) = (firsts.is_empty(), names.iter().find(|name| is_foreign(name))) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the directory is not an event log: it has other files, such as {foreign:?}"),
        ));
    }
    // What was not complete when the process ended.
    for name in [SEGMENT_NEW, DAMAGE_NEW] {
        if names.iter().any(|existing| existing == name) {
            disk.unlink(name)?;
        }
    }
    let open = |first| -> io::Result<Segment> {
        let file = disk.open(&segment_name(first))?;
        let header = Header::read(&*file, first)?;
        Ok(Segment { first, file, header, is_repaired: false })
    };
    let mut segments = firsts.into_iter().map(open).collect::<io::Result<Vec<_>>>()?;
    if let Some(newest) = segments.last_mut().filter(|newest| newest.header.is_none()) {
        newest.header = newest::load(disk, newest.first)?;
        newest.is_repaired = true;
    }
    Ok(segments)
}

/// Removes the segments that have only discarded events, up to the first damaged one. A damaged segment goes
/// with the next ones that are removed later, so that an operator who reads the report at the start finds it.
fn remove_discarded(disk: &dyn Disk, segments: &mut Vec<Segment>, floor: u64) -> io::Result<()> {
    let is_discarded =
        |pair: &&[Segment]| matches!(pair, [oldest, next] if oldest.header.is_some() && next.first <= floor);
    let discarded = segments.windows(2).take_while(is_discarded).count();
    let discarded: Vec<Segment> = segments.drain(..discarded).collect();
    remove(disk, &discarded, |_| true).map(drop)
}

/// How many events a segment without a header may have had. It may have been truncated.
fn most_events_of(file: &dyn DiskFile, options: &SegmentOptions) -> io::Result<u64> {
    Ok(most_events_in(file.len()?.max(options.layout.segment_bytes).max(LARGE_SEGMENT)))
}

fn find_end(
    disk: &dyn Disk,
    options: &SegmentOptions,
    segments: &[Segment],
    lost: &mut Losses,
) -> io::Result<End> {
    let Some(newest) = segments.last() else { return Err(io::Error::other("no segment")) };
    let Some(header) = &newest.header else {
        let next = newest.first.saturating_add(most_events_of(&*newest.file, options)?).saturating_add(1);
        lost.add(newest.first..next, newest.first, newest.first);
        let verdict = Verdict { next, uncertain_from: newest.first, can_continue: false };
        return Ok(End { verdict, clocks: None, active: None, recent: Vec::new() });
    };
    let found = survey(&*newest.file, header, u64::MAX)?;
    let verdict = judge(&found.findings);
    lost.add_missing(&found, verdict.next, verdict.uncertain_from);
    let mut header = header.clone();
    if !header.closed || !verdict.can_continue {
        write_again(&*newest.file, found.last_batch_bytes.clone())?;
        newest.file.sync_data()?;
    }
    if !header.closed {
        // The verdict holds from now on, whatever happens to the end of the segment.
        header.durable = verdict.next.saturating_sub(1);
        header.certain = verdict.uncertain_from.min(verdict.next).saturating_sub(1);
        header.closed = true;
        disk.sync_dir()?;
        newest::save(disk, &header)?;
        header.replace(&*newest.file)?;
    } else if newest.is_repaired && found.findings.found_end > header.first {
        header.replace(&*newest.file)?;
    }
    let Survey { clocks, end, recent, .. } = found;
    if !verdict.can_continue {
        return Ok(End { verdict, clocks, active: None, recent: Vec::new() });
    }
    let checksum = Checksum::new(&header.salt);
    let active = Active { file: Arc::clone(&newest.file), header, checksum, end };
    Ok(End { verdict, clocks, active: Some(active), recent })
}

/// Writes the same bytes again. After a sync that failed, the operating system may take for durable what is
/// in its memory alone; if that is written again, the next sync writes it to the disk.
///
/// A block that cannot be read is not in memory either, and is left alone.
fn write_again(file: &dyn DiskFile, range: Range<u64>) -> io::Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let end = (offset / BLOCK * BLOCK).saturating_add(BLOCK).min(range.end);
        let mut block = [0; BLOCK_LEN];
        let Some(part) = block.get_mut(..to_usize(end - offset)) else { break };
        // This finds out whether the block can be read, and what follows is not in vain.
        read_full(file, offset, part)?;
        match file.read_intact_at(offset, part) {
            // Of a regular file, only the last read is short.
            Ok(read) => write_all(file, offset, part.get(..read).unwrap_or_default())?,
            Err(error) if is_medium_error(&error) => {}
            Err(error) => return Err(error),
        }
        offset = end;
    }
    Ok(())
}

/// A report that cannot be written must not keep the log from opening. It is tried again later.
fn save(disk: &dyn Disk, damage: &mut DamageReport) {
    if let Err(error) = damage.save(disk) {
        tracing::warn!(%error, "the report of damage to an event log cannot be written");
    }
}

/// Collects what is lost above the floor.
struct Losses {
    damage: DamageReport,
    floor: u64,
}

impl Losses {
    /// Numbers from `uncertain_from` on may never have been used.
    fn add(&mut self, numbers: Range<u64>, uncertain_from: u64, segment: u64) {
        for lost in lost_events(numbers.start.max(self.floor)..numbers.end, uncertain_from) {
            self.damage.add(lost, &segment_name(segment));
        }
    }

    fn add_missing(&mut self, found: &Survey, end: u64, uncertain_from: u64) {
        let segment = found.findings.first;
        for missing in &found.missing {
            self.add(missing.start..missing.end.min(end), uncertain_from, segment);
        }
        self.add(found.findings.found_end..end, uncertain_from, segment);
    }
}
