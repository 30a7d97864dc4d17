//! What the peer of one connection may take.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    accounts::Account,
    budget::{Charge, Share},
    count::CountGuard,
};
use crate::{
    limits::{Bucket, Rate, TransportLimits},
    runtime::Clock,
    sync::{Mutex, lock},
};

/// What the peer of one connection may take: memory for its frames, requests, and faults.
#[derive(Debug)]
pub(crate) struct Allowance {
    share: Arc<Share>,
    account: Option<Arc<Account>>,
    request_rate: Rate,
    /// Requests refused for their rate.
    refusals: Bucket,
    refusal_rate: Rate,
    faults: Bucket,
    fault_rate: Rate,
    max_notification_wait: Duration,
    /// Of a connection that this side dialled, until it is closed: handles may be kept for longer.
    dialled: Mutex<Option<CountGuard>>,
}

/// Requests come too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// After this long, one will be served.
    Wait(Duration),
    /// The peer was told so too often already.
    Enough(Duration),
}

impl Allowance {
    pub(super) fn new(
        limits: &TransportLimits,
        share: Arc<Share>,
        account: Option<Arc<Account>>,
        dialled: Option<CountGuard>,
        now: Instant,
    ) -> Self {
        let request_rate = limits.request_rate();
        Self {
            share,
            account,
            request_rate,
            refusals: Bucket::new(now),
            refusal_rate: request_rate.at_least(limits.max_concurrent_bidi_streams()),
            faults: Bucket::new(now),
            fault_rate: limits.fault_rate(),
            max_notification_wait: limits.request_read_timeout(),
            dialled: Mutex::new(dialled),
        }
    }

    /// Room for the bytes of a stream.
    pub(crate) fn charge(&self) -> Charge {
        self.share.charge()
    }

    /// Whether this connection's frames may take more memory.
    pub(crate) fn has_room(&self) -> bool {
        self.share.has_room()
    }

    /// How many unread pieces are kept, when `stream_frames` have come in all.
    pub(crate) fn unread_pieces(&self, stream_frames: u64, now: Instant) -> usize {
        self.share.pieces().unread(stream_frames, now)
    }

    /// The connection is gone: nobody has to wait for memory any more, and it no longer counts as one that
    /// this side dialled.
    pub(crate) fn abandon(&self) {
        self.share.abandon();
        drop(lock(&self.dialled).take());
    }

    /// Counts a request.
    pub(crate) fn take_request(&self, clock: &Clock) -> Result<(), TooMany> {
        let Some(account) = &self.account else { return Ok(()) };
        let now = clock.now();
        account.take_request(self.request_rate, now).map_err(|wait| {
            match self.refusals.take(self.refusal_rate, now) {
                Ok(()) => TooMany::Wait(wait),
                Err(_) => TooMany::Enough(wait),
            }
        })
    }

    /// Waits until a notification may be handled, which counts as a request; `false` where that is too long.
    pub(crate) async fn notification(&self, clock: &Clock) -> bool {
        let Some(account) = &self.account else { return true };
        match account.requests.take_later(self.request_rate, clock.now(), self.max_notification_wait) {
            Some(Duration::ZERO) => true,
            Some(wait) => {
                clock.sleep(wait).await;
                true
            }
            None => false,
        }
    }

    /// Counts an item as a request, and says when it may be handed over; `None` where that is too long.
    #[cfg(feature = "streams")]
    pub(crate) fn take_item(&self, now: Instant) -> Option<Instant> {
        let Some(account) = &self.account else { return Some(now) };
        let wait = account.requests.take_later(self.request_rate, now, self.max_notification_wait)?;
        Some(Clock::after(now, wait))
    }

    /// Counts something useless that costs its peer nothing; `false` once it exceeds `fault_rate`.
    pub(crate) fn try_consume_fault(&self, now: Instant) -> bool {
        self.faults.take(self.fault_rate, now).is_ok()
    }
}
