//! Reads events from segments without waiting for the disk.

use std::{io, sync::Arc};

use super::{
    buffers::Buffers,
    hint::Hint,
    index::Index,
    open_segments::ReadStart,
    scan::{Found, Scanner},
};
use crate::{
    events::event_store::StoredEvent,
    sync::{Mutex, lock},
};

/// Hands over the events from this number on, if an earlier read ended exactly there: without a hole, as far
/// as they are in the memory of the operating system, and until `take` returns `false`.
///
/// What is not as expected is left for a read that may wait, which judges whether it is lost.
pub(super) fn read_cached(
    index: &Mutex<Index>,
    buffers: &Arc<Buffers>,
    from: u64,
    take: &mut dyn FnMut(u64, StoredEvent) -> bool,
) {
    let Some(start) = ({ lock(index).place_of(from) }) else { return };
    let mut behind = None;
    // An error only says that there is no more.
    let _ = take_records(&start, buffers, take, &mut behind);
    if let Some((number, position)) = behind {
        let ReadStart { segment, hint, .. } = start;
        lock(index).remember(Hint { salt: segment.header.salt, number, position }, Some(hint), &segment);
    }
}

/// `behind` becomes the number and the position behind the last record that was taken.
fn take_records(
    ReadStart { segment, hint, end }: &ReadStart,
    buffers: &Arc<Buffers>,
    take: &mut dyn FnMut(u64, StoredEvent) -> bool,
    behind: &mut Option<(u64, u64)>,
) -> io::Result<()> {
    let mut next = hint.number;
    let mut scanner = Scanner::new(&*segment.file, &segment.header, buffers, hint.position, next..*end)?;
    scanner.only_cached();
    while let Some(found) = scanner.next()? {
        let Found::Record { number, published, payload, place } = found else { continue };
        if number != next {
            break;
        }
        next += 1;
        *behind = Some((next, place.end));
        if !take(number, StoredEvent { payload, published }) {
            break;
        }
    }
    Ok(())
}
