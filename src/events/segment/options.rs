//! How a store keeps its events.

use std::fmt;

use crate::events::history::random_epoch;

/// Options of a [`SegmentStore`](super::SegmentStore).
pub struct SegmentOptions {
    pub(super) layout: Layout,
    pub(super) new_epoch: Box<dyn Fn() -> u64 + Send + Sync>,
    pub(super) begins_epoch: bool,
    /// Whether numbers that were lost at the end are given again, to the same events.
    pub(super) repeats_numbers: bool,
    pub(super) at_least: Option<(u64, u64)>,
}

/// How new segments are laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) segment_bytes: u64,
    pub(super) max_bytes: u64,
    pub(super) fresh_blocks: bool,
}

/// Each segment that begins costs one write of its size, so that larger ones spare nothing more; smaller
/// ones let a log of few megabytes discard its oldest events sooner.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// The header, its copy, and two blocks of events.
const MIN_SEGMENT_BYTES: u64 = 4 * 4096;

impl Default for SegmentOptions {
    fn default() -> Self {
        Self {
            layout: Layout { segment_bytes: SEGMENT_BYTES, max_bytes: u64::MAX, fresh_blocks: false },
            new_epoch: Box::new(random_epoch),
            begins_epoch: false,
            repeats_numbers: false,
            at_least: None,
        }
    }
}

impl SegmentOptions {
    /// The size of a segment in bytes. Events are discarded by whole segments, and a segment is filled before
    /// use. A batch that is larger gets a segment of its own size and up to 24 KiB more. Default: 4 MiB; at
    /// least 16 KiB.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.layout.segment_bytes = bytes.max(MIN_SEGMENT_BYTES);
        self
    }

    /// How many bytes of the disk the segments may take, those included that are damaged, and the files that
    /// fill their holes. Before a segment is begun that would be too much, the oldest ones are removed, but
    /// for the newest. So it is exceeded only by two segments that are larger together, and after it was made
    /// smaller, until a segment is begun. Beside the segments, the directory has at most 160 KiB: the report
    /// of damage, twice while it is replaced, the numbers that were ever in it, and copies of the header of
    /// the newest segment. Default: no bound; the owner of the store
    /// [discards](crate::EventStore::discard) what is old.
    ///
    /// A damaged segment is removed like any other, though not while the store is opened. What it had stays
    /// in the report.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.layout.max_bytes = bytes;
        self
    }

    /// Starts each commit in a fresh block of 4 KiB, for disks that may damage neighbouring sectors when
    /// power is lost while they write. Costs up to 4 KiB more space for each commit. Holds for segments that
    /// begin from now on. Default: commits share blocks.
    #[must_use]
    pub fn fresh_block_for_each_commit(mut self) -> Self {
        self.layout.fresh_blocks = true;
        self
    }

    /// Where the epoch of a new store comes from: a number between 1 and 2^53 - 1 that was not used before.
    /// Default: a random one.
    #[must_use]
    pub fn epochs_from(mut self, new_epoch: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.new_epoch = Box::new(new_epoch);
        self
    }

    /// Begins a new epoch without the events of the one before, as after a backup was restored: the events
    /// behind those of the backup had the same numbers that new ones would get. Also where a store cannot be
    /// opened because its numbers are used up, as it seems if a damaged segment has a very great number.
    #[must_use]
    pub fn begin_epoch(mut self) -> Self {
        self.begins_epoch = true;
        self
    }

    /// Says that event `number` of `epoch` exists, because the program keeps a counter elsewhere. A store
    /// of this epoch that ends before that number was restored from a backup, and a new epoch begins, as
    /// with [`begin_epoch`](Self::begin_epoch).
    #[must_use]
    pub fn at_least(mut self, epoch: u64, number: u64) -> Self {
        self.at_least = Some((epoch, number));
        self
    }

    /// Holds events of another node. If the last of them are lost, or may have been, the store goes on with
    /// the first of their numbers: the origin says again which events have them.
    pub(in crate::events) fn repeat_numbers(mut self) -> Self {
        self.repeats_numbers = true;
        self
    }

    /// Whether a store with these numbers must begin a new epoch.
    pub(super) fn needs_epoch(&self, epoch: u64, next: u64) -> bool {
        self.begins_epoch || self.at_least.is_some_and(|(known, number)| known == epoch && number >= next)
    }
}

impl fmt::Debug for SegmentOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layout, new_epoch: _, begins_epoch, repeats_numbers, at_least } = self;
        f.debug_struct("SegmentOptions")
            .field("layout", layout)
            .field("begins_epoch", begins_epoch)
            .field("repeats_numbers", repeats_numbers)
            .field("at_least", at_least)
            .finish_non_exhaustive()
    }
}
