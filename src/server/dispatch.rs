//! Decides where each exchange of a connection runs: inline, which is within the task that accepts streams,
//! or in a task of its own.
//!
//! Most requests have arrived completely when their stream is accepted, and most handlers return without
//! waiting for anything. For such an exchange, a task would be most of the work: it has to be allocated,
//! queued, woken and freed. So [`serve_each`] polls each exchange once where it accepted it. If that finishes
//! the exchange, its memory and its permit are used for the next one; if the exchange has to wait, it moves
//! into a task.
//!
//! Exchanges that run one after another in one task could delay other work, so three policies limit that.
//! None of them changes what a peer receives, only when.
//!
//! | policy | limits | so that |
//! |---|---|---|
//! | [`InlinePolicy`] | which exchanges are polled inline | a slow handler delays only its own stream |
//! | [`InlineRun`] | the time until other tasks run | timers and other connections are served |
//! | [`BatchSizer`] | the exchanges until responses are sent | packets are full, and the peer has work |
//!
//! `docs/dispatch.md` has the constants with their reasons, and what they gain.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    time::Instant,
};

use futures_lite::future;
use quinn::{ConnectionError, RecvStream, SendStream};

use super::{
    connection_state::{ConnectionState, ExchangePermit},
    exchange,
    future_slot::{FutureSlot, Task},
    inline_policy::InlineRun,
};
use crate::{runtime::BatchSizer, span};

#[cfg(doc)]
use super::inline_policy::InlinePolicy;

/// Serves the exchanges that the peer opens, until the connection ends.
///
/// The peer cannot have more streams open than there are permits, unless it acknowledges responses out of
/// their order and is [granted](super::stream_credit::UnackedResponses) too many streams. Exchanges on those
/// wait for a permit here.
pub(super) async fn serve_each(state: &Arc<ConnectionState>) {
    let ConnectionState { node, link, inline_policy, .. } = &**state;
    let clock = &node.clock;
    // Of the last exchange that finished inline, for the next one.
    let mut spare_permit: Option<ExchangePermit> = None;
    let mut spare_slot: Option<Pin<Box<FutureSlot<_>>>> = None;
    let mut batch = Batch::new(clock.now());
    loop {
        let permit = match spare_permit.take() {
            Some(permit) => permit,
            None => state.exchange_permits.acquire_arc().await,
        };
        let mut was_idle = false;
        let Ok((send, recv)) = accept(state, &mut spare_slot, &mut was_idle).await else { return };
        let mut slot = spare_slot.take().unwrap_or_else(|| Box::pin(FutureSlot::empty()));
        let mut exchange = slot.as_mut().project();
        *exchange.span = span::exchange(link.span(), send.id());
        let span = exchange.span.clone();
        // Made where it is polled: to move it would take longer than many a handler.
        exchange.future.set(Some(exchange::serve(Arc::clone(state), send, recv, span)));
        if inline_policy.allows_inline() {
            let began = clock.now();
            batch.begin_exchange(began, was_idle);
            let finished = future::poll_once(slot.as_mut()).await.is_some();
            let ended = clock.now();
            inline_policy.record(ended.saturating_duration_since(began));
            if batch.end_exchange(ended) {
                // The driver of the connection sends the responses, so that the peer can begin on them.
                future::yield_now().await;
            }
            if finished {
                (spare_permit, spare_slot) = (Some(permit), Some(slot));
                continue;
            }
        }
        let task = Task { state: Arc::clone(state), _permit: permit, _guard: node.drain.task() };
        *slot.as_mut().project().task = Some(task);
        clock.spawn_boxed(slot);
    }
}

/// Accepts the next stream. Notes if none was there immediately.
async fn accept<F>(
    state: &ConnectionState,
    spare_slot: &mut Option<Pin<Box<FutureSlot<F>>>>,
    was_idle: &mut bool,
) -> Result<(SendStream, RecvStream), ConnectionError> {
    let mut accept = pin!(state.link.quinn().accept_bi());
    poll_fn(|cx| {
        let polled = accept.as_mut().poll(cx);
        if polled.is_pending() {
            // An idle connection keeps no memory for an exchange.
            *spare_slot = None;
            if !std::mem::replace(was_idle, true) {
                state.unacked.grant_while_idle(&state.link);
            }
        }
        polled
    })
    .await
}

/// Exchanges that have run inline since responses were last sent.
struct Batch {
    sizer: BatchSizer,
    run: InlineRun,
    exchanges: usize,
    /// When the connection was last idle, and when the last exchange since then ended.
    woke: Instant,
    ended: Instant,
}

impl Batch {
    const fn new(now: Instant) -> Self {
        Self { sizer: BatchSizer::new(), run: InlineRun::new(), exchanges: 0, woke: now, ended: now }
    }

    #[inline]
    fn begin_exchange(&mut self, now: Instant, was_idle: bool) {
        if was_idle {
            self.run.end();
            self.sizer.end_batch(self.exchanges, false);
            self.exchanges = 0;
            let cycle = now.saturating_duration_since(self.woke);
            let busy = cycle.min(WORK_PER_EXCHANGE * self.ended.saturating_duration_since(self.woke));
            self.sizer.record_idle(cycle.saturating_sub(busy), busy);
            self.woke = now;
        }
        self.run.begin(now);
    }

    /// Whether responses are to be sent now.
    #[inline]
    fn end_exchange(&mut self, now: Instant) -> bool {
        self.ended = now;
        self.exchanges += 1;
        let is_too_long = self.run.is_too_long(now);
        let ends = is_too_long || self.exchanges >= self.sizer.size();
        if ends {
            self.sizer.end_batch(self.exchanges, !is_too_long);
            self.exchanges = 0;
            self.run.end();
        }
        ends
    }
}

/// What a request and its response take altogether, as a multiple of what the exchange takes here: packets
/// and encryption take about twice as long as the exchange itself.
const WORK_PER_EXCHANGE: u32 = 3;
