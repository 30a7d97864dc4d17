//! Reads events from a store, for subscribers whose next events are no longer in memory.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    ahead::Ahead,
    event_store::EventStore,
    on_thread::{catch_panic, on_thread},
    read_failures::ReadFailures,
    stored_event::StoredEvent,
};
use crate::{
    error::Result,
    runtime::Clock,
    sync::{Mutex, MutexGuard, Semaphore, SemaphoreGuardArc, lock},
};

/// The payload bytes that are read for a subscriber at a time: as many as it is sent together, because what
/// it does not take immediately stays in memory for it.
const READ_BYTES: usize = 16 * 1024;
/// Room for events is made before they are read, as if each took this much.
const USUAL_EVENT: usize = 128;
/// A disk that hangs keeps no more threads than this, of those that the whole process has for blocking work.
const READS_AT_A_TIME: usize = 4;

pub(super) struct Archive {
    store: Arc<dyn EventStore>,
    reads: Arc<Semaphore>,
    /// A subscriber could never get past an event that does not fit a frame. It is left out.
    max_payload_bytes: usize,
    clock: Clock,
    failures: Mutex<ReadFailures>,
}

impl Archive {
    pub(super) fn new(store: Arc<dyn EventStore>, max_payload_bytes: usize, clock: Clock) -> Self {
        let (reads, failures) = (Arc::new(Semaphore::new(READS_AT_A_TIME)), Mutex::default());
        Self { store, reads, max_payload_bytes, clock, failures }
    }

    pub(super) fn failures(&self) -> MutexGuard<'_, ReadFailures> {
        lock(&self.failures)
    }

    /// The events from number `from` up to `before`, or as many as are read at a time. From `before` on they
    /// are in memory.
    ///
    /// # Errors
    ///
    /// `Exhausted` if the store cannot be read, or breaks the rules of [`EventStore`]. The store is then not
    /// read again before the time that the error says.
    pub(super) async fn read(&self, from: u64, before: u64) -> Result<Ahead> {
        let turn = self.reads.acquire_arc().await;
        self.failures().check(self.clock.now())?;
        let read = self.read_now(from, before, turn).await;
        match read {
            Ok(ahead) => {
                self.failures().succeeded();
                Ok(ahead)
            }
            Err(error) => {
                tracing::warn!(%error, "events could not be read");
                Err(self.failures().failed(error.to_string().into(), self.clock.now()))
            }
        }
    }

    /// Hands over events from number `from` on, without holes, which the store has at hand.
    pub(super) fn read_cached(&self, from: u64, take: &mut dyn FnMut(u64, Bytes) -> bool) {
        let mut next = from;
        let mut take = |seq: u64, StoredEvent { payload, .. }: StoredEvent| {
            if seq != next || payload.len() > self.max_payload_bytes {
                return false;
            }
            next += 1;
            take(seq, payload)
        };
        let read = catch_panic(|| {
            self.store.read_cached(from, &mut take);
            Ok(())
        });
        if let Err(error) = read {
            tracing::warn!(%error, "events could not be read");
        }
    }

    async fn read_now(&self, from: u64, before: u64, turn: SemaphoreGuardArc) -> io::Result<Ahead> {
        let store = Arc::clone(&self.store);
        // Not on that thread, for which the allocator may keep memory.
        let mut events = Vec::with_capacity(READ_BYTES / USUAL_EVENT);
        let read = on_thread(move || {
            // Until the read ends, though the subscriber may have gone.
            let _turn = turn;
            let next = store.read(from, READ_BYTES, &mut events)?;
            Ok((events, next))
        });
        let (events, next) = read.await?;
        if events.is_empty() && next < before {
            // A store that has nothing more has lost what it had.
            return Ok(Ahead::nothing_before(before));
        }
        self.checked(from, before, events, next).ok_or_else(|| {
            io::Error::other("the store broke its rules: it returned other events than it was asked for")
        })
    }

    /// `None` if the store did not return events from `from` on, each once and in order.
    fn checked(
        &self,
        from: u64,
        before: u64,
        mut events: Vec<(u64, StoredEvent)>,
        next: u64,
    ) -> Option<Ahead> {
        let mut expected = from;
        let mut is_sound = true;
        events.retain(|(seq, event)| {
            is_sound &= *seq >= expected && *seq < u64::MAX;
            expected = seq.saturating_add(1);
            *seq < before && event.payload.len() <= self.max_payload_bytes
        });
        (is_sound && next >= expected && next > from).then(|| Ahead::new(events.into(), next.min(before)))
    }
}
