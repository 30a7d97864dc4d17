//! What a test does to a simulated disk.

#![cfg_attr(fuzzing, allow(dead_code, reason = "fuzzing needs no faults"))]

/// What a test wants to go wrong.
#[derive(Clone, Debug)]
pub(in crate::events) struct Fault {
    pub(in crate::events) call: Call,
    /// This many calls of the kind work before.
    pub(in crate::events) after: u64,
    /// This many calls fail.
    pub(in crate::events) times: u64,
    pub(in crate::events) kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::events) enum Call {
    List,
    Create,
    Open,
    Rename,
    Unlink,
    /// The end of an unlink, for interruptions.
    Unlinked,
    SyncDir,
    Read,
    Write,
    Sync,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::events) enum FaultKind {
    Io,
    Full,
    /// Only a part of a write is done, without an error.
    Short,
    /// The write fails, and what its blocks contained is lost.
    DestroyBlocks,
}

/// Work that a test does in the middle of another call of the store, as another thread might.
pub(super) struct Interruption {
    pub(super) call: Call,
    /// This many calls of the kind come before.
    pub(super) after: u64,
    pub(super) work: Box<dyn FnOnce() + Send>,
}
