//! Begins an epoch.

use std::io;

use super::{
    create::{Active, NewSegment},
    damage::{DamageReport, LostEvents, save_if_possible},
    directory::{Segment, remove, remove_fills},
    disk::Disk,
    index::{Entry, Index},
    names::{damaged_name, segment_name},
    newest,
    options::SegmentOptions,
    survey::Recent,
};
use crate::events::event_store::{Clocks, MAX_NUMBER};

/// What an open store begins with.
pub(super) struct Opened {
    pub(super) epoch: u64,
    /// That of the log, which is another one if it was changed since the segments began.
    pub(super) log_epoch: u64,
    pub(super) index: Index,
    pub(super) active: Option<Active>,
    pub(super) recent: Vec<Recent>,
    pub(super) damage: DamageReport,
}

/// Begins an epoch in a directory of which no segment says which epoch it has: in an empty one, or because
/// all are damaged.
pub(super) fn begin_after_loss(
    disk: &dyn Disk,
    options: &SegmentOptions,
    damaged: &[Segment],
) -> io::Result<Opened> {
    let epoch = (options.new_epoch)();
    let mut damage = DamageReport::load(disk, epoch, 1)?;
    let mut next = 1;
    for segment in damaged {
        let first = segment.first;
        let last = first.saturating_add(segment.most_events(options)).min(MAX_NUMBER);
        damage.add(LostEvents { first, last, exact: false }, &segment_name(first));
        next = next.max(last.saturating_add(1));
    }
    save_if_possible(disk, &mut damage);
    begin(disk, options, damaged, epoch, next, damage)
}

/// An epoch does not begin with a greater number, so that it has enough of them.
const MAX_FIRST: u64 = MAX_NUMBER / 2;

/// Begins an epoch. Its numbers go on behind those of the segments that are there, so that these are below
/// its floor, and the new segment takes effect with its name. If too few numbers are left, they begin anew,
/// without the segments that are there.
pub(super) fn begin(
    disk: &dyn Disk,
    options: &SegmentOptions,
    old: &[Segment],
    epoch: u64,
    next: u64,
    mut damage: DamageReport,
) -> io::Result<Opened> {
    damage.begin_epoch(epoch);
    let (old, next) = if next <= MAX_FIRST {
        (old, next)
    } else {
        make_way(disk, old)?;
        (Default::default(), 1)
    };
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
    let entries = old.iter().map(Segment::entry).collect();
    let room = Index::new(entries, 1, next, None).room_for(new.capacity()?, options.layout.max_bytes);
    let old = remove(disk, old, |segment| segment.first < room)?;
    let (active, recent) = new.create(disk)?;
    disk.sync_dir()?;
    newest::save(disk, &active.header)?;
    remove_fills(disk)?;
    // The new segment replaced one without events, if that began with the same number.
    let old = old.into_iter().filter(|segment| segment.first < next);
    let damaged = remove(disk, old, |segment| segment.header.is_some() || segment.is_of_other_epoch)?;
    // They count until they are removed to make room.
    let mut entries: Vec<_> = damaged.into_iter().map(Segment::entry).collect();
    entries.push(Entry { first: next, bytes: active.header.capacity, began: None });
    let index = Index::new(entries, next, next, None);
    Ok(Opened { epoch, log_epoch: epoch, index, active: Some(active), recent, damage })
}

/// Takes all segments away. The damaged ones get another name, so that somebody can examine them. They are
/// the last, so that nothing goes on with their numbers if power is lost meanwhile.
fn make_way(disk: &dyn Disk, old: &[Segment]) -> io::Result<()> {
    let damaged = remove(disk, old, |segment| segment.header.is_some() || segment.is_of_other_epoch)?;
    remove_fills(disk)?;
    for segment in damaged {
        disk.rename(&segment_name(segment.first), &damaged_name(segment.first))?;
        disk.sync_dir()?;
    }
    Ok(())
}
