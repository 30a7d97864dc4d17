//! How far a transfer is: a bar on a terminal, lines elsewhere.

use std::{
    cell::Cell,
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::ProgressBar;
use palyra_quic::WireError;
use smol::Timer;

use crate::{bar::bar, failure::Failure, files::client::Progress, files::name::FileName, lines};

/// Shows what a transfer does, and notices when it does nothing.
pub(crate) struct Display {
    shown: Shown,
    /// How often something has happened.
    steps: Cell<u64>,
    /// The most bytes of the file that have been at the other side.
    furthest: Cell<u64>,
    /// Why a line could not be printed.
    failed: Cell<Option<Failure>>,
}

enum Shown {
    Bar(ProgressBar),
    /// One line at the beginning, and one for each tenth. The tenths that have been printed.
    Lines(Cell<Option<u64>>),
}

impl Display {
    /// The bar is on standard error, and there only if that is a terminal. Lines are on standard output.
    pub(crate) fn new(name: &FileName) -> Self {
        let shown = if io::stderr().is_terminal() {
            Shown::Bar(bar(name.to_string()))
        } else {
            Shown::Lines(Cell::default())
        };
        Self { shown, steps: Cell::new(0), furthest: Cell::new(0), failed: Cell::default() }
    }

    pub(crate) fn show(&self, progress: Progress) {
        self.steps.set(self.steps.get().wrapping_add(1));
        let Progress::Moved { bytes, size } = progress else { return };
        self.furthest.set(self.furthest.get().max(bytes));
        match &self.shown {
            Shown::Bar(bar) => {
                if bar.length() != Some(size) {
                    // The rate is that of this transfer: what an earlier one has moved does not count.
                    bar.set_length(size);
                    bar.reset_elapsed();
                    bar.set_position(bytes);
                    bar.reset_eta();
                }
                bar.set_position(bytes);
            }
            Shown::Lines(printed) => {
                let tenths = tenths(bytes, size);
                if printed.replace(Some(tenths)) != Some(tenths)
                    && let Err(failure) = lines::print(&lines::Moved { kind: "progress", bytes, size })
                {
                    self.failed.set(Some(failure));
                }
            }
        }
    }

    /// The most bytes of the file that have been at the other side. A later attempt may have begun before
    /// that.
    pub(crate) fn furthest(&self) -> u64 {
        self.furthest.get()
    }

    /// Says on standard error why the transfer waits.
    pub(crate) fn report_waiting(&self, reason: &Failure) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| reason.report("waiting")),
            Shown::Lines(_) => reason.report("waiting"),
        }
    }

    /// Resolves when nothing has happened for this long, or a line could not be printed.
    pub(crate) async fn stalled(&self, longest: Duration) -> Failure {
        loop {
            let before = self.steps.get();
            Timer::after(longest).await;
            if let Some(failure) = self.failed.take() {
                return failure;
            }
            if self.steps.get() == before {
                let late = WireError::DeadlineExceeded;
                return Failure::new(format_args!("{late}: the transfer makes no progress"));
            }
        }
    }

    /// Leaves the bar where it is.
    pub(crate) fn end(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.abandon();
        }
    }
}

/// An empty file is complete.
fn tenths(bytes: u64, size: u64) -> u64 {
    let tenths = (u128::from(bytes) * 10).checked_div(u128::from(size));
    tenths.and_then(|tenths| u64::try_from(tenths).ok()).unwrap_or(10)
}
