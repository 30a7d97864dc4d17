//! Opens a directory of segments, and decides where the log goes on.

use std::{io, ops::Range};

use super::{
    begin::{Opened, begin, begin_after_loss},
    checksum::Checksum,
    create::Active,
    damage::{DamageReport, lost_events, save_if_possible},
    directory::{Fill, Segment, list, list_fills, remove_discarded},
    disk::{Disk, DiskFile, is_medium_error, read_full, write_all},
    fills::Fills,
    index::Index,
    layout::{BLOCK, BLOCK_LEN},
    log_epoch,
    names::{fill_name, segment_name},
    newest,
    number::to_usize,
    options::SegmentOptions,
    recovery::{Findings, Rest, Verdict, Written, judge},
    survey::{Recent, Survey, survey},
};
use crate::events::event_store::{Clocks, MAX_NUMBER};

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
    for segment in &mut segments {
        segment.is_of_other_epoch = segment.header.as_ref().is_some_and(|header| header.epoch != epoch);
        if segment.is_of_other_epoch {
            segment.header = None;
        }
    }
    let floor =
        segments.iter().filter_map(|segment| segment.header.as_ref()).map(|header| header.floor).max();
    let floor = floor.unwrap_or(1);
    remove_discarded(disk, &mut segments, floor)?;

    let oldest = segments.first().map_or(floor, |segment| segment.first);
    let fills = list_fills(disk, epoch, oldest, floor)?;
    let mut lost = Losses { damage: DamageReport::load(disk, epoch, floor)?, floor, fills: Fills::default() };
    fills.iter().for_each(|fill| lost.add_fill(fill));
    let end = find_end(disk, options, &segments, &mut lost)?;
    let mut clocks = end.clocks;
    let firsts: Vec<u64> = segments.iter().map(|segment| segment.first).collect();
    for (at, segment) in segments.iter().enumerate() {
        let Some(end) = firsts.get(at + 1).copied() else { break };
        match &segment.header {
            None => lost.add(segment.first..end, u64::MAX, segment.first),
            // Of the older ones, damage is found when they are read.
            Some(header) if at + 2 == segments.len() => {
                let found = survey(&*segment.open(disk)?, header, end)?;
                lost.add_missing(&found, end, header.uncertain_from());
                clocks = clocks.or(found.clocks);
            }
            Some(_) => {}
        }
    }
    let mut damage = lost.damage;
    save_if_possible(disk, &mut damage);
    let next = end.verdict.next;
    let log_epoch = log_epoch::load(disk, epoch, &options.new_epoch)?;
    if options.needs_epoch(log_epoch, next) {
        return begin(disk, options, &segments, (options.new_epoch)(), next, damage);
    }
    if next > MAX_NUMBER {
        return Err(io::Error::other("the numbers of the epoch are used up: begin a new one"));
    }
    // Of the older segments, at least the first batch says where the clock was.
    for segment in segments.iter().rev() {
        if clocks.is_none() {
            clocks = segment.first_clocks();
        }
    }
    let entries = segments.iter().map(Segment::entry).collect();
    let mut index = Index::new(entries, floor, next, clocks);
    add_fills(disk, &mut index, fills)?;
    Ok(Opened { epoch, log_epoch, index, active: end.active, recent: end.recent, damage })
}

fn add_fills(disk: &dyn Disk, index: &mut Index, fills: Vec<Fill>) -> io::Result<()> {
    for Fill { numbers, bytes, .. } in fills {
        if numbers.end <= index.next {
            index.add_fill(numbers, bytes);
        } else {
            // The end of the log was lost without a trace, and these numbers are used again.
            disk.unlink(&fill_name(&numbers))?;
        }
    }
    Ok(())
}

fn find_end(
    disk: &dyn Disk,
    options: &SegmentOptions,
    segments: &[Segment],
    lost: &mut Losses,
) -> io::Result<End> {
    let Some(newest) = segments.last() else { return Err(io::Error::other("no segment")) };
    let Some(header) = &newest.header else {
        let next = newest.first.saturating_add(newest.most_events(options)).min(MAX_NUMBER) + 1;
        lost.add(newest.first..next, newest.first, newest.first);
        let verdict = Verdict { next, uncertain_from: newest.first, can_continue: false };
        return Ok(End { verdict, clocks: None, active: None, recent: Vec::new() });
    };
    let file = newest.open(disk)?;
    let found = survey(&*file, header, MAX_NUMBER + 1)?;
    let mut verdict = judge(&found.findings);
    // After an end in order, numbers behind the last event are those of a gap.
    if options.repeats_numbers && !header.closed {
        verdict = verdict.before_losses(sound_end(&found));
    }
    lost.add_missing(&found, verdict.next, verdict.uncertain_from);
    let mut header = header.clone();
    if !header.closed || !verdict.can_continue {
        write_again(&*file, found.last_batch_bytes.clone())?;
        file.sync_data()?;
    }
    if !header.closed {
        // The verdict holds from now on, whatever happens to the end of the segment.
        header.durable = verdict.next.saturating_sub(1);
        header.certain = verdict.uncertain_from.min(verdict.next).saturating_sub(1);
        header.closed = true;
        disk.sync_dir()?;
        newest::save(disk, &header)?;
        header.replace(&*file)?;
    } else if newest.is_repaired && found.findings.found_end > header.first {
        header.replace(&*file)?;
    }
    let Survey { clocks, end, recent, .. } = found;
    if !verdict.can_continue {
        return Ok(End { verdict, clocks, active: None, recent: Vec::new() });
    }
    let checksum = Checksum::new(&header.salt);
    let active = Active { file, header, checksum, end };
    Ok(End { verdict, clocks, active: Some(active), recent })
}

/// The first number at the end that is missing, or may never have been written; behind the last event if
/// there is none.
fn sound_end(found: &Survey) -> u64 {
    let Findings { first, last_batch, found_end, rest, .. } = found.findings;
    let doubtful_from = match (last_batch, rest) {
        (Some(batch), _) if !batch.is_complete && batch.written == Written::InDoubt => batch.first,
        (batch, Rest::InDoubt { .. }) => batch.map_or(first, |batch| batch.end),
        _ => return found_end,
    };
    let missing = found.missing.iter().filter(|missing| missing.end > doubtful_from);
    missing
        .map(|missing| missing.start.max(doubtful_from))
        .min()
        .map_or(found_end, |first| first.min(found_end))
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

/// Collects what is lost above the floor.
struct Losses {
    damage: DamageReport,
    floor: u64,
    fills: Fills,
}

impl Losses {
    /// Numbers from `uncertain_from` on may never have been used.
    fn add(&mut self, numbers: Range<u64>, uncertain_from: u64, segment: u64) {
        for numbers in self.fills.without(numbers.start.max(self.floor)..numbers.end) {
            for lost in lost_events(numbers, uncertain_from) {
                self.damage.add(lost, &segment_name(segment));
            }
        }
    }

    /// What segments lack of these numbers is in this file.
    fn add_fill(&mut self, Fill { numbers, bytes, is_damaged }: &Fill) {
        self.fills.add(numbers.clone(), *bytes);
        if *is_damaged {
            for lost in lost_events(numbers.start.max(self.floor)..numbers.end, u64::MAX) {
                self.damage.add(lost, &fill_name(numbers));
            }
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
