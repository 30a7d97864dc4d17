//! The report of damage, a text file in the directory of the segments.

use std::{
    io,
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    disk::{Disk, read_full, write_all},
    known_losses::KnownLosses,
    names::{DAMAGE, DAMAGE_NEW},
    number::{leading_number, to_u64, to_usize},
};
use crate::events::event_store::MAX_NUMBER;

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

impl LostEvents {
    fn count(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// What is left without these numbers, if they are of the same epoch.
    fn without(self, numbers: &Range<u64>, is_same_epoch: bool) -> impl Iterator<Item = Self> + use<> {
        let Self { first, last, .. } = self;
        let is_apart = !is_same_epoch || last < numbers.start || first >= numbers.end;
        let before = (first < numbers.start).then(|| Self { last: numbers.start - 1, ..self });
        let behind = (last >= numbers.end).then_some(Self { first: numbers.end, ..self });
        let parts = if is_apart { [Some(self), None] } else { [before, behind] };
        parts.into_iter().flatten()
    }
}

/// All damage that was found since somebody removed the file.
///
/// What was listed is not listed again, also after the file was removed: the owner who removes it has read
/// it.
#[derive(Debug)]
pub(super) struct DamageReport {
    /// With their epochs.
    lost: Vec<(LostEvents, u64)>,
    known: KnownLosses,
    epoch: u64,
    /// Lines that are not in the file yet.
    unsaved: String,
    /// Whether it says that there is more than it lists.
    is_full: bool,
}

/// A report that is longer ends with [`FULL`].
const MAX_BYTES: usize = 64 * 1024;
const MAX_LISTED: usize = 1024;
const FULL: &str = "further damage is not listed\n";

impl DamageReport {
    /// Reads the report that is in the directory, if any. What is reported of this epoch from number `floor`
    /// on is known.
    pub(super) fn load(disk: &dyn Disk, epoch: u64, floor: u64) -> io::Result<Self> {
        let text = load(disk)?;
        let listed: Vec<_> = text.lines().filter_map(parse).take(MAX_LISTED).collect();
        let mut known = KnownLosses::load(disk, epoch, floor)?;
        // The process may have ended before these were saved, too.
        let of_epoch = listed.iter().filter(|(_, of)| *of == epoch);
        of_epoch.for_each(|(lost, _)| known.insert(lost.first.max(floor)..lost.last.saturating_add(1)));
        Ok(Self { lost: listed, known, epoch, is_full: text.ends_with(FULL), unsaved: String::new() })
    }

    pub(super) fn lost(&self) -> Vec<LostEvents> {
        self.lost.iter().map(|(lost, _)| *lost).collect()
    }

    /// The numbers of this epoch that are known to be lost or left out, oldest first.
    pub(super) fn holes(&self) -> &[Range<u64>] {
        self.known.ranges()
    }

    /// How many numbers are listed.
    pub(super) fn count(&self) -> u64 {
        self.lost.iter().map(|(lost, _)| lost.count()).fold(0, u64::saturating_add)
    }

    /// Adds events that were not reported yet. Returns whether there were any.
    pub(super) fn add(&mut self, lost: LostEvents, file: &str) -> bool {
        let parts = self.known.unknown_in(lost.first..lost.last.saturating_add(1));
        for Range { start, end } in &parts {
            let lost = LostEvents { first: *start, last: end - 1, ..lost };
            if self.known.is_full() || self.lost.len() >= MAX_LISTED {
                let said_before = std::mem::replace(&mut self.is_full, true);
                self.unsaved.push_str(if said_before { "" } else { FULL });
                return !said_before;
            }
            self.unsaved.push_str(&line(&lost, self.epoch, file));
            self.lost.push((lost, self.epoch));
            self.known.insert(*start..*end);
        }
        !parts.is_empty()
    }

    /// These numbers have no events, which is no damage.
    pub(super) fn expect(&mut self, numbers: Range<u64>) {
        self.known.insert_in_any_case(numbers);
    }

    /// Makes space for more numbers if there is none. Those below `floor` were discarded.
    pub(super) fn make_space(&mut self, floor: u64) {
        self.known.make_space(floor);
    }

    /// These events are there again. The report lists them no longer, and lists them again if they are lost
    /// once more. A part that does not fit into the report stays in it.
    pub(super) fn restore(&mut self, numbers: &Range<u64>, disk: &dyn Disk) -> io::Result<()> {
        let epoch = self.epoch;
        let lost = std::mem::take(&mut self.lost).into_iter();
        self.lost = lost
            .flat_map(|(lost, of)| lost.without(numbers, of == epoch).map(move |lost| (lost, of)))
            .collect();
        self.lost.truncate(MAX_LISTED);
        self.unsaved = without(&self.unsaved, epoch, numbers);
        self.known.remove(numbers);
        let text = load(disk)?;
        let rest = without(&text, epoch, numbers);
        if rest != text {
            replace(disk, &rest)?;
        }
        self.save(disk)
    }

    /// Of the events of a new epoch, nothing is known.
    pub(super) fn begin_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.known = KnownLosses::none(epoch);
    }

    /// Writes what was added, all of it or nothing. If somebody has removed the file meanwhile, it lists only
    /// what was added.
    pub(super) fn save(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if !self.unsaved.is_empty() {
            let mut text = load(disk)?;
            for line in self.unsaved.split_inclusive('\n') {
                let is_short = text.len() + line.len() + FULL.len() <= MAX_BYTES;
                if !text.ends_with(FULL) {
                    text.push_str(if is_short { line } else { FULL });
                }
            }
            replace(disk, &text)?;
            self.unsaved.clear();
        }
        self.known.save(disk)
    }
}

/// A report that cannot be written must not keep the log from opening. It is tried again later.
pub(super) fn save_if_possible(disk: &dyn Disk, damage: &mut DamageReport) {
    if let Err(error) = damage.save(disk) {
        tracing::warn!(%error, "the report of damage to an event log cannot be written");
    }
}

fn load(disk: &dyn Disk) -> io::Result<String> {
    let file = match disk.open(DAMAGE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let mut bytes = vec![0; MAX_BYTES.min(to_usize(file.len()?))];
    let len = read_full(&*file, 0, &mut bytes)?;
    bytes.truncate(len);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Replaces the report. It is durable when this returns.
fn replace(disk: &dyn Disk, text: &str) -> io::Result<()> {
    let file = disk.create(DAMAGE_NEW)?;
    write_all(&*file, 0, text.as_bytes())?;
    file.sync_data()?;
    disk.rename(DAMAGE_NEW, DAMAGE)?;
    disk.sync_dir()
}

fn line(lost: &LostEvents, epoch: u64, file: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    line_with(lost, epoch, &format!(", in {file}, found at {now} s since 1970"))
}

fn line_with(lost: &LostEvents, epoch: u64, place: &str) -> String {
    let LostEvents { first, last, exact } = lost;
    let (count, at_most) = (lost.count(), if *exact { "" } else { "at most " });
    format!("events {first} to {last} of epoch {epoch} are lost ({at_most}{count}){place}\n")
}

/// The report without these numbers.
fn without(text: &str, epoch: u64, numbers: &Range<u64>) -> String {
    let mut rest = String::new();
    let mut left = text.len();
    for line in text.split_inclusive('\n') {
        left -= line.len();
        let Some((lost, of)) = parse(line) else {
            rest.push_str(line);
            continue;
        };
        let place = line.trim_end().split_once(')').map_or("", |(_, place)| place);
        let parts = lost.without(numbers, of == epoch);
        let parts: String = parts.map(|lost| line_with(&lost, of, place)).collect();
        // A line that is divided into two may be too much.
        let fits = rest.len() + parts.len() + left <= MAX_BYTES;
        rest.push_str(if fits { &parts } else { line });
    }
    rest
}

/// The events of a line, and their epoch. `None` if no store wrote this line.
fn parse(line: &str) -> Option<(LostEvents, u64)> {
    // Without a search for text, which would take more code.
    let (first, rest) = leading_number(line.strip_prefix("events ")?)?;
    let (last, rest) = leading_number(rest.strip_prefix(" to ")?)?;
    let (epoch, rest) = leading_number(rest.strip_prefix(" of epoch ")?)?;
    let rest = rest.strip_prefix(" are lost (")?;
    let lost = LostEvents { first, last, exact: !rest.starts_with("at most ") };
    (1 <= first && first <= last && last <= MAX_NUMBER).then_some((lost, epoch))
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
    use crate::events::segment::{names::DAMAGE_KNOWN, sim_disk::SimDisk};

    #[test]
    fn lines_say_what_they_were_made_of() {
        for exact in [true, false] {
            let lost = LostEvents { first: 10, last: 12, exact };
            assert_eq!(parse(&line(&lost, 7, "x.segment")), Some((lost, 7)));
        }
        let edited = [
            "",
            "events 2 to 1 of epoch 7 are lost (",
            "events to of epoch 7 are lost (",
            "events 0 to 18446744073709551615 of epoch 7 are lost (1)",
            "events 1 to 9007199254740992 of epoch 7 are lost (1)",
            FULL,
        ];
        for other in edited {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    fn lost(first: u64) -> LostEvents {
        LostEvents { first, last: first + 1, exact: true }
    }

    #[test]
    fn a_report_is_bounded_and_lists_nothing_twice() {
        let disk = SimDisk::new(1, true);
        let mut report = DamageReport::load(&disk, 7, 1).unwrap();
        assert!(report.add(lost(1), "a"));
        assert!(!report.add(lost(1), "a"));
        assert!(report.add(lost(5), "a"));
        assert!(report.add(LostEvents { first: 1, last: 6, exact: true }, "a"), "3 and 4 are new");
        assert_eq!((report.lost().last(), report.count()), (Some(&lost(3)), 6));
        assert!(!report.add(LostEvents { first: 2, last: 5, exact: true }, "a"));
        let added = (1..10_000).filter(|n| report.add(lost(10 * n), "a.segment")).count();
        assert!((500..10_000).contains(&added), "{added}");
        report.save(&disk).unwrap();
        let text = load(&disk).unwrap();
        assert!(text.len() <= MAX_BYTES && text.ends_with(FULL), "{}", text.len());
        assert!(!report.add(lost(1_000_000), "a"), "the report says that there is more");
        report.save(&disk).unwrap();
        assert_eq!(load(&disk).unwrap(), text);
    }

    #[test]
    fn adjacent_losses_do_not_grow_a_report_without_bound() {
        let disk = SimDisk::new(1, true);
        let mut report = DamageReport::load(&disk, 7, 1).unwrap();
        (1..10_000).for_each(|n| {
            report.add(lost(2 * n), "00000000000000000001.segment");
        });
        assert_eq!(report.lost().len(), MAX_LISTED);
        report.save(&disk).unwrap();
        assert!(load(&disk).unwrap().len() <= MAX_BYTES);
    }

    #[test]
    fn what_was_removed_is_not_reported_again_and_what_is_new_is() {
        let disk = SimDisk::new(1, true);
        let mut report = DamageReport::load(&disk, 7, 1).unwrap();
        report.add(lost(1), "a");
        report.save(&disk).unwrap();
        disk.replace(DAMAGE, None);
        assert!(!report.add(lost(1), "a"));
        report.save(&disk).unwrap();
        assert_eq!(load(&disk).unwrap(), "");
        report.add(lost(5), "a");
        report.save(&disk).unwrap();
        let mut report = DamageReport::load(&disk, 7, 1).unwrap();
        assert_eq!(report.lost(), [lost(5)]);
        assert!(!report.add(lost(1), "a"));
        // In another epoch, events of the same numbers are others.
        let mut other = DamageReport::load(&disk, 8, 1).unwrap();
        assert!(other.add(lost(1), "a") && other.add(lost(5), "a"));
    }

    #[test]
    fn what_is_there_again_is_reported_no_longer_and_again_if_it_is_lost_again() {
        let disk = SimDisk::new(1, true);
        let mut report = DamageReport::load(&disk, 7, 1).unwrap();
        let range = |first, last| LostEvents { first, last, exact: true };
        report.add(range(10, 19), "a.segment");
        report.save(&disk).unwrap();
        report.add(range(30, 31), "b.segment");
        report.restore(&(12..15), &disk).unwrap();
        report.restore(&(28..31), &disk).unwrap();
        let left = [range(10, 11), range(15, 19), range(31, 31)];
        assert_eq!((report.lost().as_slice(), report.count()), (left.as_slice(), 8));
        assert_eq!(report.holes(), [10..12, 15..20, 31..32]);
        let text = load(&disk).unwrap();
        assert!(text.contains("events 10 to 11 of epoch 7 are lost (2), in a.segment, found at "), "{text}");
        let mut report = DamageReport::load(&disk, 7, 1).unwrap();
        assert_eq!((report.lost().as_slice(), report.holes().len()), (left.as_slice(), 3));
        assert!(report.add(range(12, 14), "c.filled") && !report.add(range(15, 19), "a.segment"));
        report.restore(&(1..100), &disk).unwrap();
        assert_eq!((report.count(), load(&disk).unwrap().as_str()), (0, ""));
    }

    #[test]
    fn lines_of_another_epoch_and_of_others_stay() {
        let disk = SimDisk::new(1, true);
        let mut report = DamageReport::load(&disk, 7, 1).unwrap();
        report.add(lost(1), "a");
        report.save(&disk).unwrap();
        report.begin_epoch(8);
        report.add(lost(1), "a");
        report.save(&disk).unwrap();
        let before = load(&disk).unwrap();
        disk.replace(DAMAGE, Some([b"a note of the operator\n", before.as_bytes()].concat()));
        report.restore(&(1..3), &disk).unwrap();
        assert_eq!(report.lost(), [lost(1)], "that of epoch 7");
        let text = load(&disk).unwrap();
        assert!(text.starts_with("a note of the operator\nevents 1 to 2 of epoch 7"), "{text}");
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn a_report_whose_losses_were_not_saved_as_known_is_known() {
        let disk = SimDisk::new(1, true);
        let mut report = DamageReport::load(&disk, 7, 1).unwrap();
        report.add(lost(1), "a");
        report.save(&disk).unwrap();
        disk.replace(DAMAGE_KNOWN, None);
        let mut report = DamageReport::load(&disk, 7, 1).unwrap();
        assert!(!report.add(lost(1), "a"));
        report.save(&disk).unwrap();
        disk.replace(DAMAGE, None);
        assert!(!DamageReport::load(&disk, 7, 1).unwrap().add(lost(1), "a"));
    }
}
