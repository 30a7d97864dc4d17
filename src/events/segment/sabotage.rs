//! Faults planted in the store, which the tests must find.

use std::cell::Cell;

use super::super::planted_fault::PlantedFault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    Nothing,
    SkipSync,
    IgnoreChecksums,
    /// A damaged last batch is truncated as if it were torn.
    ReuseDamagedNumbers,
    /// A zeroed sector is taken for one that was never written.
    TakeZerosForUnwritten,
    /// Acknowledged events in the block of a failed write are not written again.
    SkipRewrite,
    /// A failed write is tried again in the same segment.
    StayInFailedSegment,
    /// Damage is not reported.
    HideDamage,
    /// A segment is renamed before its content is durable.
    RenameEarly,
    /// What cannot be read counts as damaged, though the whole disk does not answer.
    TakeErrorsForDamage,
    /// A reader takes for lost what is not where it looked first.
    LookOnce,
    /// A hole is filled without a look whether it is one.
    FillHeldNumbers,
    /// A file that fills a hole is renamed before its content is durable.
    NameFillEarly,
}

thread_local! {
    static CURRENT: Cell<Sabotage> = const { Cell::new(Sabotage::Nothing) };
}

static PLANTED: PlantedFault<Sabotage> = PlantedFault::new(&CURRENT, Sabotage::Nothing);

pub(super) fn is(sabotage: Sabotage) -> bool {
    PLANTED.is(sabotage)
}

/// Runs the test with this fault planted on this thread.
pub(super) fn with<T>(sabotage: Sabotage, test: impl FnOnce() -> T) -> T {
    PLANTED.with(sabotage, test)
}
