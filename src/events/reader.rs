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

    /// Puts the next events into `batch`, until their payloads together reach `enough` bytes, and moves
    /// behind them. If the next event is lost, returns what was missed, and goes on after the gap.
    pub(super) async fn read(
        &mut self,
        history: &History,
        backing: &dyn Backing,
        enough: usize,
        batch: &mut Vec<(u64, Bytes)>,
    ) -> Result<Option<GapBefore>> {
        if self.ahead.end() <= self.position.next() {
            match history.read(&mut self.position, backing.older(), enough, batch) {
                Read::Events(gap) => return Ok(gap),
                Read::Stored { before } => {
                    let mut position = self.position;
                    let gap = position.move_to(position.next());
                    read_cached(&mut position, backing, before, enough, batch);
                    if position.next() > self.position.next() {
                        self.position = position;
                        return Ok(gap);
                    }
                    self.ahead = backing.read_older(self.position.next(), before).await?;
                }
            }
        }
        let gap = self.position.move_to(self.ahead.next());
        self.take(enough, batch);
        Ok(gap)
    }

    /// Takes events without a hole between them.
    fn take(&mut self, enough: usize, batch: &mut Vec<(u64, Bytes)>) {
        let mut bytes = 0;
        while bytes < enough
            && self.ahead.next() == self.position.next()
            && let Some((seq, payload)) = self.ahead.pop()
        {
            bytes += payload.len() + EVENT_OVERHEAD;
            batch.push((seq, payload));
            self.position.pass(seq);
        }
    }
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
