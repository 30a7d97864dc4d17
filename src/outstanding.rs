//! What this side has asked for or sent on a connection and has no answer or acknowledgement for.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Waker},
};

use event_listener::Event;

use crate::{drain::Drain, stream::FrameWriter, sync::lock};

/// Keeps the node's shutdown waiting for calls and notification streams of a connection, until that ends.
#[derive(Debug)]
pub(crate) struct Outstanding {
    drain: Arc<Drain>,
    /// How many calls and streams there are, and [`ENDED`].
    count: AtomicUsize,
    /// Notification streams that are finished and may not be acknowledged. Closing the connection would take
    /// them back.
    ///
    /// To be told of each acknowledgement would cost a task each, so nobody asks before the connection is to
    /// be closed. About twice as many as are not acknowledged, or [`UNEXAMINED`].
    streams: Mutex<Streams>,
    /// Told of each stream that is [kept](Self::keep) while a shutdown is in progress.
    kept: Event,
}

#[derive(Debug)]
struct Streams {
    writers: VecDeque<FrameWriter>,
    /// With this many, all are looked at.
    examined_at: usize,
}

/// Set in [`Outstanding::count`] when the connection has ended: what is counted there is no work any more,
/// though its owners may not have looked.
const ENDED: usize = 1 << (usize::BITS - 1);

/// As long as there are fewer streams than this, none is looked at.
const UNEXAMINED: usize = 8;

impl Outstanding {
    pub(crate) fn new(drain: Arc<Drain>) -> Self {
        Self {
            drain,
            count: AtomicUsize::new(0),
            streams: Mutex::new(Streams { writers: VecDeque::new(), examined_at: UNEXAMINED }),
            kept: Event::new(),
        }
    }

    pub(crate) fn drain(&self) -> &Arc<Drain> {
        &self.drain
    }

    /// Counts a call until the guard is dropped.
    pub(crate) fn call(&self) -> OutstandingCall<'_> {
        self.enter();
        OutstandingCall(self)
    }

    // In these three, work is added before the count that it belongs to and removed after, so that a shutdown
    // may see too much for a moment, and never too little.
    pub(crate) fn enter(&self) {
        self.drain.add_work();
        if self.count.fetch_add(1, SeqCst) & ENDED != 0 {
            self.drain.remove_work(1);
        }
    }

    pub(crate) fn exit(&self) {
        if self.count.fetch_sub(1, SeqCst) & ENDED == 0 {
            self.drain.remove_work(1);
        }
    }

    /// The connection has ended, and with it all that was outstanding.
    pub(crate) fn end(&self) {
        let count = self.count.fetch_or(ENDED, SeqCst);
        if count & ENDED == 0 {
            self.drain.remove_work(count);
        }
        self.forget(|_| true);
    }

    /// Counts a stream of notifications that is finished until it is acknowledged.
    pub(crate) fn keep(&self, writer: FrameWriter) {
        self.enter();
        let is_full = {
            let mut streams = lock(&self.streams);
            streams.writers.push_back(writer);
            streams.writers.len() >= streams.examined_at
        };
        if is_full {
            self.forget(is_over);
        }
        // A look at the streams that does not see this one comes before it, and so does the listener.
        if self.drain.has_begun() {
            self.kept.notify(usize::MAX);
        }
    }

    fn forget(&self, is_over: impl Fn(&FrameWriter) -> bool) {
        let (mut over, mut left) = (Vec::new(), VecDeque::new());
        {
            let mut streams = lock(&self.streams);
            for writer in std::mem::take(&mut streams.writers) {
                if is_over(&writer) {
                    over.push(writer);
                } else {
                    left.push_back(writer);
                }
            }
            // Doubled, so that a look at all of them is worth its while.
            streams.examined_at = (2 * left.len()).max(UNEXAMINED);
            streams.writers = left;
        }
        over.iter().for_each(|_| self.exit());
    }

    /// Whether there is a stream that may not be acknowledged.
    pub(crate) fn has_unacknowledged(&self) -> bool {
        self.forget(is_over);
        !lock(&self.streams).writers.is_empty()
    }

    /// Resolves when all streams that were [kept](Self::keep) are acknowledged, or never will be.
    pub(crate) async fn acknowledged(&self) {
        loop {
            let Some(stopped) = lock(&self.streams).writers.front().map(FrameWriter::stopped) else { return };
            // An error is the end of the connection, and of waiting for it.
            let _ = stopped.await;
            self.forget(is_over);
        }
    }

    /// Sees to it that each stream counts no longer than until it is acknowledged, also those that are
    /// [kept](Self::keep) later: handlers notify while their node shuts down. After the shutdown has
    /// begun; never resolves.
    pub(crate) async fn follow_acknowledgements(&self) {
        loop {
            let kept = self.kept.listen();
            self.acknowledged().await;
            kept.await;
        }
    }
}

/// See [`Outstanding::call`].
pub(crate) struct OutstandingCall<'a>(&'a Outstanding);

impl Drop for OutstandingCall<'_> {
    fn drop(&mut self) {
        self.0.exit();
    }
}

/// Whether the peer has acknowledged or stopped the stream, or the connection is gone.
fn is_over(writer: &FrameWriter) -> bool {
    writer.is_delivered() || pin!(writer.stopped()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::drain::Phase;

    fn is_idle(drain: &Drain) -> bool {
        block_on(poll_once(drain.idle())).is_some()
    }

    #[test]
    fn the_end_of_a_connection_ends_what_is_outstanding_on_it_and_nothing_else() {
        let drain = Arc::new(Drain::default());
        drain.advance(Phase::Draining);
        let [one, other] = [(); 2].map(|()| Outstanding::new(Arc::clone(&drain)));
        one.enter();
        one.enter();
        other.enter();
        one.end();
        one.end();
        assert!(!is_idle(&drain), "the other has its call");
        other.exit();
        assert!(is_idle(&drain));
        one.exit();
        one.enter();
        assert!(is_idle(&drain), "what comes or goes after the end counts for nothing");
        one.exit();
        one.exit();
        assert!(is_idle(&drain));
    }
}
