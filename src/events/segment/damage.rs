//! The report of damage, a text file in the directory of the segments.

use std::{
    io,
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    disk::{Disk, read_full, write_all},
    names::{DAMAGE, DAMAGE_NEW},
    number::{to_u64, to_usize},
};

/// Events that were lost to damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LostEvents {
    /// The number of the first lost event.
    pub first: u64,
    /// The number of the last lost event.
    pub last: u64,
    /// Whether all these numbers had been published. Otherwise the damage left open how many had been, and
    /// the numbers up to `last` are not used, so that none is used twice.
    pub exact: bool,
}

/// All damage that was found since somebody removed the file.
#[derive(Debug, Default)]
pub(super) struct DamageReport {
    text: String,
    lost: Vec<LostEvents>,
    is_saved: bool,
}

/// A report that is longer ends with [`FULL`].
const MAX_BYTES: usize = 64 * 1024;
const FULL: &str = "further damage is not listed\n";

impl DamageReport {
    /// Reads the report that is in the directory, if any.
    pub(super) fn load(disk: &dyn Disk) -> io::Result<Self> {
        let file = match disk.open(DAMAGE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            file => file?,
        };
        let mut bytes = vec![0; MAX_BYTES.min(to_usize(file.len()?))];
        let len = read_full(&*file, 0, &mut bytes)?;
        bytes.truncate(len);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { lost: text.lines().filter_map(parse).collect(), text, is_saved: true })
    }

    pub(super) fn lost(&self) -> &[LostEvents] {
        &self.lost
    }

    /// How many numbers are listed.
    pub(super) fn count(&self) -> u64 {
        self.lost.iter().map(|LostEvents { first, last, .. }| last - first + 1).fold(0, u64::saturating_add)
    }

    /// Adds events that the report does not list yet. Returns whether there were any.
    pub(super) fn add(&mut self, lost: LostEvents, file: &str) -> bool {
        if lost.first > lost.last || self.lists_all(&lost) {
            return false;
        }
        let line = line(&lost, file);
        if self.text.len() + line.len() + FULL.len() <= MAX_BYTES {
            self.text.push_str(&line);
            self.lost.push(lost);
        } else if self.text.ends_with(FULL) {
            return false;
        } else {
            self.text.push_str(FULL);
        }
        self.is_saved = false;
        true
    }

    fn lists_all(&self, lost: &LostEvents) -> bool {
        let mut number = lost.first;
        while number <= lost.last {
            let mut listed = self.lost.iter().filter(|listed| (listed.first..=listed.last).contains(&number));
            let Some(listed) = listed.next() else { return false };
            number = listed.last.saturating_add(1);
        }
        true
    }

    /// Writes the report if it has changed, all of it or nothing.
    pub(super) fn save(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.is_saved || self.text.is_empty() {
            return Ok(());
        }
        let file = disk.create(DAMAGE_NEW)?;
        write_all(&*file, 0, self.text.as_bytes())?;
        file.sync_data()?;
        disk.rename(DAMAGE_NEW, DAMAGE)?;
        disk.sync_dir()?;
        self.is_saved = true;
        Ok(())
    }
}

fn line(lost: &LostEvents, file: &str) -> String {
    let LostEvents { first, last, exact } = lost;
    let count = last - first + 1;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let at_most = if *exact { "" } else { "at most " };
    format!("events {first} to {last} are lost ({at_most}{count}), in {file}, found at {now} s since 1970\n")
}

fn parse(line: &str) -> Option<LostEvents> {
    let (first, rest) = line.strip_prefix("events ")?.split_once(" to ")?;
    let (last, rest) = rest.split_once(" are lost (")?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(LostEvents { first, last, exact: !rest.starts_with("at most ") })
}

/// The loss of these numbers, of which those from `uncertain_from` on may never have been used.
pub(super) fn lost_events(numbers: Range<u64>, uncertain_from: u64) -> impl Iterator<Item = LostEvents> {
    let Range { start, end } = numbers;
    let border = uncertain_from.clamp(start, end.max(start));
    [(start..border, true), (border..end, false)].into_iter().filter_map(|(numbers, exact)| {
        let last = numbers.end.checked_sub(1).filter(|last| *last >= numbers.start)?;
        Some(LostEvents { first: numbers.start, last, exact })
    })
}

/// The greatest count of events in this much damage: a record has at least the bytes beside its payload.
pub(super) fn most_events_in(bytes: u64) -> u64 {
    bytes / to_u64(super::batch::RECORD_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_they_were_made_of() {
        for exact in [true, false] {
            let lost = LostEvents { first: 10, last: 12, exact };
            assert_eq!(parse(&line(&lost, "x.segment")), Some(lost));
        }
        for other in ["", "events 2 to 1 are lost (", "events to are lost (", FULL] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_report_is_bounded_and_lists_nothing_twice() {
        let mut report = DamageReport::default();
        let lost = |first| LostEvents { first, last: first + 1, exact: true };
        assert!(report.add(lost(1), "a"));
        assert!(!report.add(lost(1), "a"));
        assert!(report.add(lost(5), "a"));
        assert!(report.add(LostEvents { first: 1, last: 6, exact: true }, "a"), "3 and 4 are new");
        assert!(!report.add(LostEvents { first: 2, last: 5, exact: true }, "a"));
        let added = (0..10_000).filter(|n| report.add(lost(10 * n + 7), "a")).count();
        assert!((500..10_000).contains(&added), "{added}");
        assert!(report.text.len() <= MAX_BYTES && report.text.ends_with(FULL));
    }
}
