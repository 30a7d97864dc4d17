//! Answers that closing the connection would take back.

use std::{collections::VecDeque, sync::Mutex};

use crate::{
    drain::{Drain, WorkGuard},
    stream::FrameWriter,
    sync::lock,
};

/// The answers on a connection that have been written and may not have arrived, which closing it would take
/// back.
///
/// To be told of each arrival would cost a wakeup for each answer; so nobody asks before another answer is
/// written, or the node shuts down.
///
/// Their exchanges are over, and for QUIC their streams are open ([RFC 9000, section
/// 3.1](https://www.rfc-editor.org/rfc/rfc9000#section-3.1)). A peer with as many calls open as it may
/// have would wait for its own acknowledgements half of the time, so it is lent streams for those.
#[derive(Debug)]
pub(super) struct Undelivered {
    queue: Mutex<Queue>,
    /// The exchanges that the peer may have open, and so the most that it is lent.
    max: usize,
    /// How many are kept without a look at any.
    unasked: usize,
    /// How many more are lent at a time, while there are answers to come.
    step: usize,
}

/// More than this are not kept without a look at any.
const UNASKED: usize = 8;

#[derive(Debug, Default)]
struct Queue {
    writers: VecDeque<FrameWriter>,
    /// For how many of them the peer has been lent a stream.
    lent: usize,
    /// Keeps a shutdown waiting.
    work: Option<WorkGuard>,
    /// The connection has ended, and nothing is kept any more.
    ended: bool,
}

impl Queue {
    /// Forgets what has arrived, and lends for the rest where that is more than `unasked`, and at least
    /// `step` more than before.
    fn lend(&mut self, Undelivered { max, unasked, .. }: &Undelivered, step: usize) -> Option<usize> {
        let Self { writers, lent, .. } = self;
        if writers.len() <= *unasked || writers.len() < *lent + step {
            return None;
        }
        // Nearly always they arrive in their order.
        while writers.front().is_some_and(FrameWriter::is_delivered) {
            writers.pop_front();
        }
        if writers.len() > max.saturating_mul(2) {
            writers.retain(|writer| !writer.is_delivered());
        }
        let undelivered = writers.len().min(*max);
        // Those that were lent for answers that have arrived are used up.
        *lent = undelivered.min(*lent);
        if undelivered <= *unasked || undelivered - *lent < step {
            return None;
        }
        *lent = undelivered;
        Some(undelivered)
    }
}

impl Undelivered {
    /// For a peer that may have `max_exchanges` open.
    pub(super) fn new(max_exchanges: u32) -> Self {
        let max = usize::try_from(max_exchanges).unwrap_or(usize::MAX);
        Self { queue: Mutex::default(), max, unasked: UNASKED.min(max.div_ceil(4)), step: max / 8 + 1 }
    }

    /// Takes an answer that was finished, unless the shutdown has begun or the connection has ended: then it
    /// is the exchange's to wait for. Gives how many streams the peer is to be lent altogether, where it
    /// is time for more.
    pub(super) fn keep(
        &self,
        writer: FrameWriter,
        work: WorkGuard,
        drain: &Drain,
    ) -> Result<Option<usize>, (FrameWriter, WorkGuard)> {
        let mut queue = lock(&self.queue);
        let Queue { writers, work: kept, ended, .. } = &mut *queue;
        if *ended || drain.has_begun() {
            return Err((writer, work));
        }
        kept.get_or_insert(work);
        writers.push_back(writer);
        Ok(queue.lend(self, self.step))
    }

    /// The last answer for a while has been kept: gives as [`keep`](Self::keep) does, however little it is.
    pub(super) fn pause(&self) -> Option<usize> {
        lock(&self.queue).lend(self, 1)
    }

    /// Resolves when the shutdown has begun, and all that was kept before it has arrived.
    pub(super) async fn delivered(&self, drain: &Drain) {
        drain.begun().await;
        let Queue { writers, work, .. } = std::mem::take(&mut *lock(&self.queue));
        for writer in writers {
            // An error is the end of the connection, and of waiting for it.
            let _ = writer.stopped().await;
        }
        drop(work);
    }

    /// The connection has ended, which takes back what has not arrived. What it brought may be handled for a
    /// long time yet.
    pub(super) fn end(&self) {
        let Queue { writers, work, .. } =
            std::mem::replace(&mut *lock(&self.queue), Queue { ended: true, ..Queue::default() });
        drop((writers, work));
    }
}
