//! Counts what is running, so that a shutdown can wait for it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use event_listener::Event;

use crate::{stream::FrameWriter, sync::lock};

/// Whether the node is shutting down, and how many exchanges keep it from it.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    begun: AtomicBool,
    beginning: Event,
    running: AtomicUsize,
    idle: Event,
}

/// Held by an exchange until its answer has arrived, or is [kept](Undelivered) until then.
#[derive(Debug)]
pub(super) struct Running {
    node: Arc<super::Node>,
}

impl Drain {
    /// Turns new work away from now on.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.beginning.notify(usize::MAX);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Resolves when the shutdown begins.
    pub(super) async fn begun(&self) {
        wait(&self.beginning, || self.has_begun()).await;
    }

    /// Resolves when nothing is running.
    pub(crate) async fn idle(&self) {
        wait(&self.idle, || self.running.load(Ordering::SeqCst) == 0).await;
    }
}

impl Running {
    /// To be taken before asking [`Drain::has_begun`], so that a shutdown waits for whoever heard "no".
    pub(super) fn enter(node: &Arc<super::Node>) -> Self {
        node.drain.running.fetch_add(1, Ordering::SeqCst);
        Self { node: Arc::clone(node) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let drain = &self.node.drain;
        if drain.running.fetch_sub(1, Ordering::SeqCst) == 1 && drain.has_begun() {
            drain.idle.notify(usize::MAX);
        }
    }
}

/// The answers on a connection that have been written and may not have arrived, which closing it would take back.
///
/// To be told of each arrival would cost a wakeup for each answer; so nobody asks before another answer is written, or the node shuts down.
///
/// Their exchanges are over, and for QUIC their streams are open
/// ([RFC 9000, section 3.1](https://www.rfc-editor.org/rfc/rfc9000#section-3.1)). A peer with as many calls under way as it may have would wait
/// for its own acknowledgements half of the time, so it is lent streams for those.
#[derive(Debug)]
pub(super) struct Undelivered {
    queue: Mutex<Queue>,
    /// The exchanges that the peer may have under way, and so the most that it is lent.
    max: usize,
    /// So many are kept without a look at any.
    unasked: usize,
    /// So many more are lent at a time, while there are answers to come.
    step: usize,
}

/// More than this are not kept without a look at any.
const UNASKED: usize = 8;

#[derive(Debug, Default)]
struct Queue {
    writers: VecDeque<FrameWriter>,
    /// For so many of them, the peer has been lent a stream.
    lent: usize,
    /// Keeps a shutdown waiting.
    running: Option<Running>,
}

impl Queue {
    /// Forgets what has arrived, and lends for the rest where that is more than `unasked`, and at least `step` more than before.
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
    /// For a peer that may have so many exchanges under way.
    pub(super) fn new(max_exchanges: u32) -> Self {
        let max = usize::try_from(max_exchanges).unwrap_or(usize::MAX);
        Self { queue: Mutex::default(), max, unasked: UNASKED.min(max.div_ceil(4)), step: max / 8 + 1 }
    }

    /// Takes an answer that was finished, unless the shutdown has begun: then it is the exchange's to wait for. Gives how many streams the
    /// peer is to be lent altogether, where it is time for more.
    pub(super) fn keep(
        &self,
        writer: FrameWriter,
        running: Running,
    ) -> Result<Option<usize>, (FrameWriter, Running)> {
        let mut queue = lock(&self.queue);
        let Queue { writers, running: kept, .. } = &mut *queue;
        if running.node.drain.has_begun() {
            return Err((writer, running));
        }
        kept.get_or_insert(running);
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
        let Queue { writers, lent: _, running } = std::mem::take(&mut *lock(&self.queue));
        for writer in writers {
            // An error is the end of the connection, and of waiting for it.
            let _ = writer.stopped().await;
        }
        drop(running);
    }
}

async fn wait(event: &Event, condition: impl Fn() -> bool) {
    while !condition() {
        let listener = event.listen();
        if condition() {
            return;
        }
        listener.await;
    }
}
