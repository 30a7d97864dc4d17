//! A subscriber's place in a log, and what was read for it from the store.

use bytes::Bytes;

use super::{
    ahead::Ahead,
    backing::Backing,
    history::{GapBefore, History, Position, Read},
};
use crate::{error::Result, message::EVENT_OVERHEAD};

/// Reads a log for one subscriber: the newest events from memory, and older ones from the store.
#[derive(Debug)]
pub(crate) struct EventReader {
    position: Position,
    ahead: Ahead,
}

impl EventReader {
    pub(super) fn new(position: Position) -> Self {
        Self { position, ahead: Ahead::default() }
    }

    /// The last event that the subscriber has got, or that was before the first it is to get.
    pub(crate) fn last_seq(&self) -> u64 {
        self.position.last_seq()
    }

    /// The epoch of the events that were read.
    pub(crate) fn epoch(&self) -> u64 {
        self.position.epoch()
    }

    /// Puts the next events into `batch`, until their payloads together reach `enough` bytes, and moves
    /// behind them. If the next event is lost, or another epoch has begun, returns what was missed, and goes
    /// on after the gap.
    pub(super) async fn read(
        &mut self,
        history: &History,
        backing: &dyn Backing,
        enough: usize,
        batch: &mut Vec<(u64, Bytes)>,
    ) -> Result<Option<GapBefore>> {
        let before = batch.len();
        loop {
            let epoch = history.epoch();
            if self.epoch() != epoch {
                *self = Self::new(Position::of_new_epoch(epoch, backing.first_seq()));
            }
            let gap = match self.read_at_hand(history, backing, enough, batch) {
                Ok(gap) => gap,
                Err(NotAtHand { before }) => {
                    self.ahead = backing.read_older(self.position.next(), before).await?;
                    self.take(enough, batch)
                }
            };
            if history.epoch() == epoch {
                return Ok(gap);
            }
            // Of the events that were read, some may have been published in the epoch that has begun.
            batch.truncate(before);
        }
    }

    /// Reads what needs no access to the medium.
    fn read_at_hand(
        &mut self,
        history: &History,
        backing: &dyn Backing,
        enough: usize,
        batch: &mut Vec<(u64, Bytes)>,
    ) -> std::result::Result<Option<GapBefore>, NotAtHand> {
        if self.ahead.end() > self.position.next() {
            return Ok(self.take(enough, batch));
        }
        match history.read(&mut self.position, backing.older(), enough, batch) {
            Read::Events(gap) => Ok(gap),
            Read::Stored { before } => {
                let mut position = self.position;
                let gap = position.move_to(position.next());
                read_cached(&mut position, backing, before, enough, batch);
                if position.next() > self.position.next() {
                    self.position = position;
                    return Ok(gap);
                }
                Err(NotAtHand { before })
            }
        }
    }

    /// Takes events that were read ahead, without a hole between them. Returns the gap before them.
    fn take(&mut self, enough: usize, batch: &mut Vec<(u64, Bytes)>) -> Option<GapBefore> {
        let gap = self.position.move_to(self.ahead.next());
        let mut bytes = 0;
        while bytes < enough
            && self.ahead.next() == self.position.next()
            && let Some((seq, payload)) = self.ahead.pop()
        {
            bytes += payload.len() + EVENT_OVERHEAD;
            batch.push((seq, payload));
            self.position.pass(seq);
        }
        gap
    }
}

/// The next events are in the store, up to number `before`.
struct NotAtHand {
    before: u64,
}

/// Puts events into `batch` that the store has at hand, and moves behind them: without a change of threads,
/// and without memory for what is read ahead.
fn read_cached(
    position: &mut Position,
    backing: &dyn Backing,
    before: u64,
    enough: usize,
    batch: &mut Vec<(u64, Bytes)>,
) {
    let mut bytes = 0;
    backing.read_cached(position.next(), &mut |seq, payload| {
        if seq >= before {
            return false;
        }
        bytes += payload.len() + EVENT_OVERHEAD;
        batch.push((seq, payload));
        position.pass(seq);
        bytes < enough
    });
}
