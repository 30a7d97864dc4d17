//! What an event log needs from the place that keeps its events.

use std::{io, ops::Range, time::Duration};

pub use super::stored_event::StoredEvent;

/// A place that keeps the events of one log: memory, files, a database, a raw partition.
///
/// Events are numbered without gaps when they are appended, but for those that a mirror
/// [leaves out](EventStore::skip). A store may lose numbers later, because events
/// are discarded or because the medium was damaged, but it never assigns a number twice within an epoch: a
/// subscriber takes an event with a number that it has seen for the same event. A store that cannot rule
/// this out, for example because it lost its newest events and does not know how many, begins a new epoch
/// or skips more numbers than it can have lost.
///
/// All methods but those that are called cheap may block; an event log calls them on threads of the crate
/// `blocking`. It calls `append`, `discard` and `close` one at a time, and beside them `read` from several
/// threads and `fill` from one. A method must not panic.
///
/// [`conformance`](super::conformance) checks a store against these rules.
pub trait EventStore: Send + Sync + 'static {
    /// The epoch, the oldest number and the next number. Cheap: does not touch the medium.
    fn extent(&self) -> Extent;

    /// The clocks that came with the newest batch that the store holds. `None` if it holds no batch.
    fn last_clocks(&self) -> Option<Clocks>;

    /// A number below which every event was published before this time, on the clock of the log. A store
    /// that does not know answers with its oldest number. Cheap, like [`extent`](Self::extent).
    fn expired(&self, before: Duration) -> u64 {
        let _ = before;
        self.extent().first
    }

    /// A number below which events would have to go if the store were to take at most this many bytes. A
    /// store that does not know answers with its oldest number: then only numbers and ages of events bound
    /// what is kept on behalf of consumers. Cheap, like [`extent`](Self::extent).
    fn surplus(&self, max_bytes: u64) -> u64 {
        let _ = max_bytes;
        self.extent().first
    }

    /// How many numbers of events were lost to damage of the medium, and not [filled](Self::fill) since, as
    /// far as that is known. Cheap.
    fn damaged(&self) -> u64 {
        0
    }

    /// Stores a batch, all of it or nothing.
    ///
    /// When this returns `Ok`, the batch must survive the loss of power. When it returns an error, no event
    /// of the batch counts, [`extent`](Self::extent) is unchanged, and the store must accept another batch
    /// with the same numbers later. An empty batch changes nothing.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the batch does not begin with the next number;
    /// any other error of the medium. The log reports such an error to those who published, and appends
    /// again later.
    fn append(&self, batch: &Batch) -> io::Result<()>;

    /// Leaves out the numbers from the next one up to `to`, which becomes the next number: events that the
    /// origin of a [mirror](crate::Mirror) has lost. They count as lost, but not as damage. Survives a crash
    /// with the next batch at the latest. Does nothing if `to` is not above the next number.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) unless the store implements this; any error of the
    /// medium. The next number is unchanged.
    fn skip(&self, to: u64) -> io::Result<()> {
        let _ = to;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The holes that the store knows of: ranges of numbers below its newest event that it does not hold,
    /// because they were left out or lost to damage. Oldest first, and each so that [`fill`](Self::fill)
    /// takes it. A store may know only some of them, leaves out those that would soon be discarded, and may
    /// list one that was filled meanwhile. Default: none.
    fn holes(&self) -> Vec<Range<u64>> {
        Vec::new()
    }

    /// Stores events in a hole: events that another holder of this history still has. All of them or none,
    /// and when this returns `Ok`, they must survive the loss of power. What is held is never replaced, and
    /// the [clocks](Self::last_clocks) stay those of the newest batch.
    ///
    /// An event log calls this beside all other methods, but not a second time before it returns.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) unless the store implements this;
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if it holds one of these events;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for numbers that are not in one hole below its newest
    /// event, or that it has discarded; [`StorageFull`](io::ErrorKind::StorageFull) if these events would be
    /// the next to be discarded; any error of the medium.
    fn fill(&self, batch: &Batch) -> io::Result<()> {
        let _ = batch;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives the events that are held, and their numbers, another epoch: nothing else changes. Called beside
    /// other methods. When this returns `Ok`, the new epoch must survive the loss of power.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) unless the store implements this; any error of the
    /// medium. After an error, the epoch is unchanged until the store is opened again.
    fn set_epoch(&self, epoch: u64) -> io::Result<()> {
        let _ = epoch;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Puts the events from number `from` on into `out`, in order, until their payloads together reach
    /// `max_bytes`: at least one event if any is held there. Numbers that were lost are left out. A store
    /// may stop earlier, behind at least one event, if more would take another access to its medium.
    ///
    /// Returns the number to read from next. It is behind the last event in `out` and behind the lost
    /// numbers that follow it; the next number of the store if nothing more is held.
    ///
    /// # Errors
    ///
    /// An error of the medium, which may be temporary: content that could not be read is not lost. The log
    /// tries again after a pause.
    fn read(&self, from: u64, max_bytes: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64>;

    /// Hands over events from number `from` on, one after the other and without holes, until `take` returns
    /// `false` or the next one is not to be had without waiting for the medium. By default, none is.
    ///
    /// An event log calls this where its subscribers are served, and [`read`](Self::read) on another thread
    /// for what does not come this way: it must not block, and saves the change of threads.
    fn read_cached(&self, from: u64, take: &mut dyn FnMut(u64, StoredEvent) -> bool) {
        let _ = (from, take);
    }

    /// Gives up the events below this number. The store may keep some of them for as long as it likes.
    ///
    /// # Errors
    ///
    /// An error of the medium. The events may be gone or not; the log tries again later.
    fn discard(&self, below: u64) -> io::Result<()>;

    /// Ends the use of the store, so that another process can open it. Nothing is appended afterwards.
    ///
    /// # Errors
    ///
    /// An error of the medium. Events that were appended are as safe as without this call.
    fn close(&self) -> io::Result<()>;
}

/// The numbers that a store is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Identifies the sequence of numbers: between 1 and 2^53 - 1.
    pub epoch: u64,
    /// The oldest number that may be held; `next` if no event is held.
    pub first: u64,
    /// The number that the next event must have: at least 1, less than 2^53.
    pub next: u64,
}

/// Events that are stored together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The number of the first event. The others follow without gaps.
    pub first: u64,
    /// The events, oldest first.
    pub events: Vec<StoredEvent>,
    /// The clocks when the batch was made.
    pub clocks: Clocks,
}

/// Two clocks, read together, so that a log can estimate how long no process had it open. Kept in whole
/// milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// The clock of the log, which advances only with time that certainly passed.
    pub log: Duration,
    /// The wall clock, since 1970. It may jump.
    pub wall: Duration,
}

/// JSON, and the peers that speak it, hold integers exactly up to 2^53 (RFC 8259, section 6).
pub(super) const MAX_NUMBER: u64 = (1 << 53) - 1;

impl Extent {
    /// # Errors
    ///
    /// [`InvalidData`](io::ErrorKind::InvalidData) if a number is not as the fields say.
    pub(super) fn checked(self) -> io::Result<Self> {
        let Self { epoch, first, next } = self;
        if (1..=MAX_NUMBER).contains(&epoch) && 1 <= first && first <= next && next <= MAX_NUMBER {
            return Ok(self);
        }
        let text = format!("a store of events cannot be in epoch {epoch} with numbers {first} to {next}");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

impl Batch {
    /// The number after that of the last event.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the batch does not begin with `next`, or numbers
    /// would pass 2^53.
    pub fn end(&self, next: u64) -> io::Result<u64> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        if self.first != next {
            return Err(invalid(format!("the batch begins with number {}, not {next}", self.first)));
        }
        u64::try_from(self.events.len())
            .ok()
            .and_then(|count| self.first.checked_add(count))
            .filter(|end| *end <= MAX_NUMBER)
            .ok_or_else(|| invalid("the numbers of an epoch are used up".into()))
    }
}
