//! Event logs in files: a directory of segments, to which batches are appended.
//!
//! From the top: `store` is the store as the log sees it. `open` decides where a log goes on, with
//! `directory`, which finds the segments, `recovery`, which only thinks, and `survey` and `tail`, which read;
//! `begin` begins an epoch. `writer` appends and `create` makes segments; `fill` writes files into holes,
//! which `fills` lists; `reader` reads and `cached` reads what takes no wait, with `scan`, which finds
//! records, `stream`, which reads large pieces, and `buffers`, which has memory for them. `damage` and
//! `known_losses` keep what was lost. `batch`, `header`, `layout`, `unwritten` and `checksum` are the format,
//! which `docs/event-log-format.md` describes. `disk` is what all of them need from a file system,
//! `real_disk` the one of the operating system, and `retrying` reads around what a disk cannot read.

mod batch;
mod begin;
mod buffers;
mod cached;
mod checksum;
mod create;
mod damage;
mod directory;
mod disk;
mod fill;
mod fills;
#[cfg(fuzzing)]
pub mod fuzz;
mod header;
mod hint;
mod index;
mod known_losses;
mod layout;
mod log_epoch;
mod names;
mod newest;
mod number;
mod open;
mod open_segments;
mod options;
mod reader;
mod real_disk;
mod recovery;
mod retrying;
#[cfg(test)]
mod sabotage;
mod scan;
mod sectors;
#[cfg(any(test, fuzzing))]
mod sim_disk;
#[cfg(any(test, fuzzing))]
mod sim_fault;
mod store;
mod stream;
mod survey;
mod tail;
#[cfg(test)]
mod tests;
mod unwritten;
mod writer;

pub use self::{damage::LostEvents, options::SegmentOptions, store::SegmentStore};
#[cfg(test)]
pub(super) use self::{
    disk::Disk,
    sim_disk::{Call, Fault, FaultKind, SimDisk},
};
pub(super) use self::{
    disk::{DiskFile, is_medium_error, read_full, write_all},
    names::CONSUMERS,
    real_disk::open_locked_file,
};
