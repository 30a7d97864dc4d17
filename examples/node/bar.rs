//! The progress bar of a transfer. A test includes this file, and draws the bar for the documentation.

use indicatif::{ProgressBar, ProgressStyle};

const TEMPLATE: &str =
    "{prefix} [{bar:30}] {percent:>3}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";

/// For a file of this name, whose size is not known yet.
pub(crate) fn bar(name: String) -> ProgressBar {
    ProgressBar::new(0).with_prefix(name).with_style(style())
}

pub(crate) fn style() -> ProgressStyle {
    ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
