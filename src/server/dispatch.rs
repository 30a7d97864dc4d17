//! Exchanges that are over when they are first polled, without a task of their own.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_lite::future;
use pin_project_lite::pin_project;
use tracing::Span;

use super::{
    connection_state::{ConnectionState, ExchangePermit},
    exchange,
};
use crate::{drain::TaskGuard, runtime::Turns, span};

/// A handler that takes longer before it first waits, or between two waits, holds up the others on its
/// connection.
const QUICK: Duration = Duration::from_micros(100);
/// How many exchanges get a task before they begin, after one that was not quick.
const TASKS_AFTER_A_SLOW_ONE: u32 = 256;
/// After so much time with exchanges in a row, what they answered is sent, and other tasks run.
const LONGEST_ROW: Duration = Duration::from_micros(250);

/// Serves the exchanges that the peer opens, until the connection ends.
///
/// Most requests are there whole when their stream is accepted, and most handlers answer without waiting for
/// anything. So each exchange is begun where it was accepted, and moves into a task of its own when it has to
/// wait. One that takes its time without waiting would keep the others from other threads of the executor;
/// after one that did, exchanges get their tasks before they begin, for a while.
///
/// A peer has no more streams to begin exchanges on than it has places, unless it acknowledges answers out of
/// their order so as to be [granted](super::stream_credit::UnackedResponses) too many. What it opens on those waits there.
pub(super) async fn serve_each(state: &Arc<ConnectionState>) {
    let (clock, tempo) = (&state.node.clock, &state.tempo);
    // Of the last exchange that was over when it was first polled: its place among those of the peer, and in
    // memory.
    let mut place: Option<ExchangePermit> = None;
    let mut room: Option<Pin<Box<Exchange<_>>>> = None;
    let mut turns = Turns::new();
    let mut ran = 0;
    let mut woke = clock.now();
    let mut ended = woke;
    let mut row = Row::default();
    loop {
        let taken = match place.take() {
            Some(place) => place,
            None => state.exchange_permits.acquire_arc().await,
        };
        let mut paused = false;
        let mut accept = pin!(state.link.quinn().accept_bi());
        let accepted = poll_fn(|cx| {
            let polled = accept.as_mut().poll(cx);
            if polled.is_pending() {
                // An idle connection needs no room for an exchange.
                room = None;
                if !std::mem::replace(&mut paused, true) {
                    state.unacked.grant_while_idle(&state.link);
                }
            }
            polled
        });
        let Ok((send, recv)) = accepted.await else { return };
        let mut exchange = room.take().unwrap_or_else(|| Box::pin(Exchange::none()));
        let mut begun = exchange.as_mut().project();
        *begun.span = span::exchange(state.link.span(), send.id());
        let span = begun.span.clone();
        // Made where it is polled: to move it would take longer than many a handler.
        begun.future.set(Some(exchange::serve(Arc::clone(state), send, recv, span)));
        if tempo.is_quick() {
            let begun = clock.now();
            if paused {
                row.end();
                turns.end(ran, true);
                let cycle = begun.saturating_duration_since(woke);
                // The exchange itself is about a third of what its request and its answer take.
                let work = cycle.min(3 * ended.saturating_duration_since(woke));
                turns.pause(cycle.saturating_sub(work), work);
                (ran, woke) = (0, begun);
            }
            row.begin(begun);
            let over = future::poll_once(exchange.as_mut()).await.is_some();
            ended = clock.now();
            tempo.judge(ended.saturating_duration_since(begun));
            ran += 1;
            let long = row.is_long(ended);
            if long || ran >= turns.length() {
                // The driver of the connection sends what was answered, so that the peer can begin on it.
                turns.end(ran, long);
                ran = 0;
                row.end();
                future::yield_now().await;
            }
            if over {
                (place, room) = (Some(taken), Some(exchange));
                continue;
            }
        }
        let task = state.node.drain.task();
        *exchange.as_mut().project().of = Some((Arc::clone(state), taken, task));
        clock.spawn_boxed(exchange);
    }
}

/// Since when exchanges have run in a row.
#[derive(Debug, Default)]
struct Row(Option<Instant>);

impl Row {
    fn begin(&mut self, now: Instant) {
        self.0.get_or_insert(now);
    }

    fn is_long(&self, now: Instant) -> bool {
        self.0.is_some_and(|began| now.saturating_duration_since(began) >= LONGEST_ROW)
    }

    fn end(&mut self) {
        self.0 = None;
    }
}

/// Whether the exchanges of a connection are quick, judged by the last of them.
#[derive(Debug, Default)]
pub(super) struct Tempo {
    /// How many get their tasks before the next is tried.
    tasks: AtomicU32,
}

impl Tempo {
    fn is_quick(&self) -> bool {
        // One that is judged at the same time may not count, and another will come.
        let tasks = self.tasks.load(Ordering::Relaxed);
        if tasks > 0 {
            self.tasks.store(tasks - 1, Ordering::Relaxed);
        }
        tasks == 0
    }

    fn judge(&self, took: Duration) {
        if took > QUICK {
            self.tasks.store(TASKS_AFTER_A_SLOW_ONE, Ordering::Relaxed);
        }
    }
}

pin_project! {
    /// An exchange in memory that is used again.
    struct Exchange<F> {
        #[pin]
        future: Option<F>,
        // The future is polled and dropped in it.
        span: Span,
        // Where it has a task: what it is judged for there, its place, and what counts the task, which is
        // dropped last.
        of: Option<(Arc<ConnectionState>, ExchangePermit, TaskGuard)>,
    }

    impl<F> PinnedDrop for Exchange<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.span.enter();
            this.future.set(None);
        }
    }
}

impl<F> Exchange<F> {
    const fn none() -> Self {
        Self { future: None, span: Span::none(), of: None }
    }
}

impl<F: Future<Output = ()>> Future for Exchange<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let mut future = this.future;
        let begun = this.of.as_ref().map(|(state, ..)| state.node.clock.now());
        let polled = this.span.in_scope(|| {
            let polled = future.as_mut().as_pin_mut().map_or(Poll::Ready(()), |future| future.poll(cx));
            if polled.is_ready() {
                future.set(None);
            }
            polled
        });
        if let Some(((state, ..), begun)) = this.of.as_ref().zip(begun) {
            state.tempo.judge(state.node.clock.now().saturating_duration_since(begun));
        }
        if polled.is_ready() {
            // It ends here, though its place may be kept for the next.
            *this.span = Span::none();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_long_by_its_first_exchange() {
        let (mut row, start) = (Row::default(), Instant::now());
        assert!(!row.is_long(start));
        row.begin(start);
        row.begin(start + LONGEST_ROW / 2);
        assert!(!row.is_long(start + LONGEST_ROW - Duration::from_micros(1)));
        assert!(row.is_long(start + LONGEST_ROW));
        row.end();
        assert!(!row.is_long(start + LONGEST_ROW));
        row.begin(start + LONGEST_ROW);
        assert!(!row.is_long(start + LONGEST_ROW), "a new one");
    }

    #[test]
    fn after_a_slow_one_exchanges_get_tasks_for_a_while() {
        let tempo = Tempo::default();
        assert!(tempo.is_quick());
        tempo.judge(QUICK);
        assert!(tempo.is_quick(), "it was as quick as it had to be");
        tempo.judge(2 * QUICK);
        let tasks = (0..).take_while(|_| !tempo.is_quick()).count();
        assert_eq!(tasks, usize::try_from(TASKS_AFTER_A_SLOW_ONE).unwrap());
    }
}
