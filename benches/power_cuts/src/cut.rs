//! Cuts the power at a step, and compares what is left with what was promised.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, process::Command};

use fastrand::Rng;
use palyra_quic::{Batch, CursorStore, EventStore, SegmentStore, StoredEvent};

use super::{
    Result,
    file_system::FileSystem,
    recorder::Step,
    work::{COMMIT_EVENTS, EPOCH, Promises, cursors_in, log_in, options, was_published},
};

/// A device may write sectors of 512 bytes in any order, or not at all, until it is told to flush.
const SECTOR: usize = 512;

/// What of the writes that were not flushed reaches the medium.
#[derive(Clone, Copy)]
enum Kept {
    Nothing,
    Everything,
    SomeWrites,
    SomeSectors,
}

/// Writes what is on the medium if the power fails behind the first `position` steps.
fn write_image(base: &Path, image: &Path, steps: &[Step], position: usize, rng: &mut Rng) -> Result<()> {
    let copied =
        Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(base).arg(image).status()?;
    if !copied.success() {
        return Err("the image was not copied".into());
    }
    let file = File::options().write(true).open(image)?;
    let steps = steps.get(..position).unwrap_or(steps);
    let flushed = steps.iter().rposition(|step| matches!(step, Step::Flush)).unwrap_or(0);
    let kinds = [Kept::Nothing, Kept::Everything, Kept::SomeWrites, Kept::SomeSectors];
    let kept = *rng.choice(&kinds).unwrap_or(&Kept::Nothing);
    for (at, step) in steps.iter().enumerate() {
        let Step::Write { offset, bytes } = step else { continue };
        if at < flushed {
            file.write_all_at(bytes, *offset)?;
        } else {
            write_some(&file, *offset, bytes, kept, rng)?;
        }
    }
    Ok(())
}

fn write_some(file: &File, offset: u64, bytes: &[u8], kept: Kept, rng: &mut Rng) -> io::Result<()> {
    match kept {
        Kept::Nothing => Ok(()),
        Kept::Everything => file.write_all_at(bytes, offset),
        Kept::SomeWrites if rng.bool() => file.write_all_at(bytes, offset),
        Kept::SomeWrites => Ok(()),
        Kept::SomeSectors => {
            let mut at = offset;
            for sector in bytes.chunks(SECTOR) {
                if rng.bool() {
                    file.write_all_at(sector, at)?;
                }
                at += u64::try_from(sector.len()).unwrap_or_default();
            }
            Ok(())
        }
    }
}

/// Cuts the power behind the first `position` steps. Returns which promises are broken.
pub(super) fn cut(
    file_system: &FileSystem,
    directory: &Path,
    steps: &[Step],
    position: usize,
    promises: &Promises,
    rng: &mut Rng,
) -> Result<Vec<String>> {
    let image = directory.join("cut");
    write_image(&directory.join("base"), &image, steps, position, rng)?;
    let mounted = file_system.mount_after_cut(&image, &directory.join("after"))?;
    let mut broken = Vec::new();
    if let Err(error) = check(&mounted.directory, position, promises, &mut broken) {
        broken.push(error.to_string());
    }
    Ok(broken)
}

fn check(directory: &Path, position: usize, promises: &Promises, broken: &mut Vec<String>) -> Result<()> {
    let store = SegmentStore::open(log_in(directory), &options())?;
    let extent = store.extent();
    let kept = promises.events.iter().filter(|(_, promise)| promise.since <= position);
    let newest = kept.clone().map(|(seq, _)| *seq).max().unwrap_or(0);
    if extent.epoch != EPOCH {
        broken.push(format!("a new epoch {}", extent.epoch));
    }
    if extent.next <= newest {
        broken.push(format!("number {} is used again, though {newest} was acknowledged", extent.next));
    }
    // The commit that the power cuts off may have discarded events before it, and the log counts those only
    // when it is complete: what publishers of earlier commits see meanwhile is too little.
    let most = promises.floors.range(position + 1..).nth(COMMIT_EVENTS).map_or(u64::MAX, |(_, first)| *first);
    if extent.first > most {
        broken.push(format!("events from {most} to {} were discarded", extent.first - 1));
    }
    let events = read_all(&store)?;
    for (seq, promise) in kept.filter(|(seq, _)| **seq >= extent.first) {
        match events.iter().find(|(found, _)| found == seq) {
            Some((_, event)) if event.payload == promise.payload => {}
            Some(_) => broken.push(format!("event {seq} has another payload")),
            None => broken.push(format!("event {seq} was acknowledged, and is lost")),
        }
    }
    let foreign = events.iter().filter(|(_, event)| !was_published(&event.payload));
    broken.extend(foreign.map(|(seq, _)| format!("event {seq} was never published")));
    go_on(directory, store, broken)?;
    let saved = promises.cursors.range(..=position).next_back().map_or(0, |(_, seq)| *seq);
    let loaded = CursorStore::open(cursors_in(directory))?.load("reader")?.map_or(0, |cursor| cursor.seq());
    if loaded < saved {
        broken.push(format!("the cursor {saved} was saved, and it is {loaded}"));
    }
    Ok(())
}

fn read_all(store: &SegmentStore) -> io::Result<Vec<(u64, StoredEvent)>> {
    let (mut events, mut from) = (Vec::new(), store.extent().first);
    while from < store.extent().next {
        from = store.read(from, 1 << 20, &mut events)?;
    }
    Ok(events)
}

/// The log takes events again, and keeps them across another start.
fn go_on(directory: &Path, store: SegmentStore, broken: &mut Vec<String>) -> Result<()> {
    let first = store.extent().next;
    let event = StoredEvent { payload: b"afterwards".to_vec().into(), published: Default::default() };
    let clocks = store.last_clocks().unwrap_or_default();
    store.append(&Batch { first, events: vec![event.clone()], clocks })?;
    store.close()?;
    drop(store);
    let mut found = Vec::new();
    SegmentStore::open(log_in(directory), &options())?.read(first, 1, &mut found)?;
    if found.first().is_none_or(|(seq, stored)| *seq != first || stored.payload != event.payload) {
        broken.push(format!("event {first}, published afterwards, is lost"));
    }
    Ok(())
}
