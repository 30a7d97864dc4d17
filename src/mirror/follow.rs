//! Follows the origin of a mirror.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_lite::future;

#[cfg(test)]
use super::sabotage::{self, Sabotage};
use super::{
    directory::EpochDirectory,
    status::{MirrorState, StatusCell},
};
use crate::{
    client::{Client, Subscription, SubscriptionItem},
    error::{Error, ErrorKind, Result},
    events::{Cursor, EventLog, Gap, MirroredLog, unblock},
    sync::Event,
    value::Raw,
};

/// After an error that trying again soon does not mend.
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// After a failure of the store that does not say when to try again.
const PAUSE: Duration = Duration::from_secs(1);

/// The log that is followed.
pub(super) struct Origin {
    pub(super) client: Client,
    /// The method that serves it.
    pub(super) log: Box<str>,
    /// The name under which events are acknowledged.
    pub(super) consumer: Option<Box<str>>,
}

/// Receives the events of the origin, and appends them under their numbers.
pub(super) struct Follow {
    origin: Origin,
    directory: EpochDirectory,
    log: MirroredLog,
    /// What was acknowledged last.
    acknowledged: Option<Cursor>,
    /// What the origin has confirmed last.
    confirmed: Option<Cursor>,
    /// Gaps that may be received again after a crash: the number behind each, and how many are missing.
    uncounted: Vec<(u64, u64)>,
    status: Arc<StatusCell>,
    /// Notified when another look for holders of missing events is worth it.
    look: Arc<Event>,
}

/// Why a mirror does not go on as it is.
enum Stop {
    /// The store cannot take the events now.
    Store(Error),
    /// The subscription has ended with an error.
    Subscription(Error),
    /// The origin has another history.
    Diverged(String),
}

/// The newest event that the mirror holds, which the origin sends once more.
type Overlap = Option<(u64, Bytes)>;

impl Follow {
    pub(super) fn new(
        origin: Origin,
        directory: EpochDirectory,
        log: MirroredLog,
        status: Arc<StatusCell>,
        look: Arc<Event>,
    ) -> Self {
        let (acknowledged, confirmed, uncounted) = (None, None, Vec::new());
        Self { origin, directory, log, acknowledged, confirmed, uncounted, status, look }
    }

    /// Goes on until the histories diverge.
    pub(super) async fn run(mut self) {
        loop {
            let Err(stop) = self.follow().await;
            let (state, pause) = match stop {
                Stop::Store(error) => {
                    let pause = error.retry_after().unwrap_or(PAUSE);
                    (MirrorState::Failing(error.to_string()), pause)
                }
                // The endpoint has ended.
                Stop::Subscription(error) if *error.kind() == ErrorKind::Closed => {
                    self.status.change(|status| status.state = MirrorState::Closed);
                    return;
                }
                Stop::Subscription(error) => (MirrorState::Disconnected(Some(error.to_string())), LONG_PAUSE),
                Stop::Diverged(reason) => {
                    tracing::warn!(
                        log = &*self.origin.log,
                        reason,
                        "a mirror has stopped: the histories diverge"
                    );
                    self.status.change(|status| status.state = MirrorState::Diverged(reason));
                    return;
                }
            };
            self.status.change(|status| status.state = state);
            self.origin.client.clock().sleep(pause).await;
        }
    }

    async fn follow(&mut self) -> std::result::Result<std::convert::Infallible, Stop> {
        let mut overlap = None;
        let mut subscription = self.subscribe();
        self.resume(&mut subscription, &mut overlap).await?;
        // Whether the origin was shown a cursor that it should not have reached.
        let mut shows_newest = false;
        loop {
            let item = self.next(&mut subscription).await;
            match item.map_err(Stop::Subscription)? {
                SubscriptionItem::Connected { .. } => {
                    self.status.change(|status| status.state = MirrorState::Following);
                    self.look.notify(usize::MAX);
                }
                #[cfg(test)]
                SubscriptionItem::Disconnected { .. } if sabotage::is(Sabotage::StopWhenDisconnected) => {
                    future::pending().await
                }
                SubscriptionItem::Disconnected { .. } if subscription.is_peer_behind() && !shows_newest => {
                    shows_newest = self.show_newest(&mut subscription);
                    overlap = None;
                }
                SubscriptionItem::Disconnected { error } => {
                    shows_newest = false;
                    let state = MirrorState::Disconnected(Some(error.to_string()));
                    self.status.change(|status| status.state = state);
                    self.resume(&mut subscription, &mut overlap).await?;
                }
                SubscriptionItem::Gap(gap) => {
                    (overlap, shows_newest) = (None, false);
                    self.skip(&gap).await?;
                }
                // The origin has reached the newest event after all, and it may be another one.
                SubscriptionItem::Event { .. } if shows_newest => {
                    shows_newest = false;
                    self.resume(&mut subscription, &mut overlap).await?;
                }
                SubscriptionItem::Event { seq, epoch, payload } => {
                    let epoch = epoch.ok_or_else(no_epochs)?;
                    match overlap.take() {
                        Some((last, held)) if last == seq => same(seq, &held, &payload)?,
                        _ => self.append(epoch, seq, payload).await?,
                    }
                }
            }
        }
    }

    /// The next item. Acknowledges meanwhile what becomes durable.
    async fn next(&mut self, subscription: &mut Subscription) -> Result<SubscriptionItem> {
        let Some(log) = self.log.get() else { return subscription.next_raw().await };
        loop {
            let (committed, answered) = (log.listen(), subscription.listen_to_acks());
            self.count_gaps_before(log.committed_seq());
            if answered.is_some() {
                self.acknowledge(&log, subscription);
            } else if self.uncounted.is_empty() {
                return subscription.next_raw().await;
            }
            let item = async { Some(subscription.next_raw().await) };
            let changed = async {
                match answered {
                    Some(answered) => future::or(committed, answered).await,
                    None => committed.await,
                }
                None
            };
            if let Some(item) = future::or(item, changed).await {
                return item;
            }
        }
    }

    /// Acknowledges what is durable, and notes what the origin says to that.
    fn acknowledge(&mut self, log: &EventLog, subscription: &Subscription) {
        let durable = Cursor::new(Some(log.epoch()), durable_seq(log));
        if durable.seq() > 0 && self.acknowledged != Some(durable) {
            subscription.ack_up_to(durable);
            self.acknowledged = Some(durable);
        }
        let (refused, confirmed) = (subscription.take_ack_error(), subscription.acknowledged());
        let is_confirmed = confirmed.is_some() && confirmed != self.confirmed;
        self.confirmed = confirmed;
        if refused.is_some() || is_confirmed {
            self.status.change(|status| status.ack_error = refused.map(|error| error.to_string()));
        }
    }

    /// Counts the gaps whose next event is durable, up to event `committed`.
    fn count_gaps_before(&mut self, committed: u64) {
        let before = self.uncounted.len();
        let mut skipped = 0;
        self.uncounted.retain(|(next, missing)| {
            let is_durable = *next <= committed;
            // An origin may claim any numbers, again and again.
            skipped = u64::saturating_add(skipped, if is_durable { *missing } else { 0 });
            !is_durable
        });
        if self.uncounted.len() < before {
            self.status.change(|status| status.skipped = status.skipped.saturating_add(skipped));
        }
    }

    fn subscribe(&self) -> Subscription {
        let subscribe = self.origin.client.subscribe::<Raw>(&*self.origin.log);
        match &self.origin.consumer {
            Some(consumer) => subscribe.consumer(&**consumer).open(),
            None => subscribe.open(),
        }
    }

    /// Goes on one event early, so that this is compared.
    async fn resume(
        &self,
        subscription: &mut Subscription,
        overlap: &mut Overlap,
    ) -> std::result::Result<(), Stop> {
        let cursor;
        (cursor, *overlap) = self.resume_point().await?;
        subscription.resume_at(cursor, overlap.as_ref().map(|(last, _)| *last));
        Ok(())
    }

    /// Shows the origin, which lacks the newest event that the mirror holds, that it is behind: it begins
    /// another epoch, or sends a gap that leads back. If it has the event by now, it says so, and the mirror
    /// compares again.
    fn show_newest(&self, subscription: &mut Subscription) -> bool {
        let Some(log) = self.log.get() else { return false };
        let last = log.last_seq();
        subscription.resume_at(Some(Cursor::new(Some(log.epoch()), last)), Some(last.saturating_add(1)));
        true
    }

    /// Where to go on: one event early, so that this is compared. Everything that was received before is
    /// durable, or is received again.
    async fn resume_point(&self) -> std::result::Result<(Option<Cursor>, Overlap), Stop> {
        let Some(log) = self.log.get() else { return Ok((None, None)) };
        log.flush().await.map_err(Stop::Store)?;
        let (epoch, last) = (Some(log.epoch()), log.last_seq());
        let held = log.payload_of(last).await.map_err(Stop::Store)?;
        let overlap = held.map(|payload| (last, payload));
        let before = if overlap.is_some() { last - 1 } else { last };
        Ok((Some(Cursor::new(epoch, before)), overlap))
    }

    async fn append(&mut self, epoch: u64, seq: u64, payload: Bytes) -> std::result::Result<(), Stop> {
        let log = self.log_of(epoch).await?;
        #[cfg(test)]
        if sabotage::is(Sabotage::LeaveOutEvents) && seq.is_multiple_of(8) {
            return self.leave_out(&log, seq + 1).await;
        }
        #[cfg(test)]
        let (seq, payload) = sabotage::changed(&log, seq, payload);
        if log.last_seq() == 0 && seq > 1 {
            // The first that the origin still had.
            self.leave_out(&log, seq).await?;
        }
        #[cfg(test)]
        if sabotage::is(Sabotage::AppendTwice) && seq.is_multiple_of(8) {
            log.append_mirrored(seq, payload.clone()).map_err(Stop::Store)?;
            return log.append_mirrored(seq + 1, payload).map_err(Stop::Store);
        }
        let appended = match log.append_mirrored(seq, payload.clone()) {
            Err(error) if *error.kind() == ErrorKind::Exhausted => {
                log.flush().await.map_err(Stop::Store)?;
                log.append_mirrored(seq, payload)
            }
            appended => appended,
        };
        appended.map_err(Stop::Store)?;
        self.status.change(|status| status.last_seq = seq);
        Ok(())
    }

    async fn skip(&mut self, gap: &Gap) -> std::result::Result<(), Stop> {
        let log = self.log_of(gap.epoch).await?;
        let last = log.last_seq();
        if gap.next_seq <= last {
            let next = gap.next_seq;
            return Err(Stop::Diverged(format!(
                "the origin goes on with event {next} of epoch {}, and the mirror has event {last}",
                gap.epoch
            )));
        }
        self.leave_out(&log, gap.next_seq).await
    }

    async fn leave_out(&mut self, log: &EventLog, to: u64) -> std::result::Result<(), Stop> {
        let skipped = to.saturating_sub(log.last_seq() + 1);
        #[cfg(test)]
        let skipped = if sabotage::is(Sabotage::DropGaps) { 0 } else { skipped };
        if skipped > 0 {
            log.skip_mirrored(to).await.map_err(Stop::Store)?;
            match self.uncounted.last_mut() {
                // No event is in between.
                Some((next, missing)) if *next == to - skipped => {
                    (*next, *missing) = (to, missing.saturating_add(skipped))
                }
                _ => self.uncounted.push((to, skipped)),
            }
            self.status.change(|status| status.last_seq = to - 1);
            self.look.notify(usize::MAX);
        }
        Ok(())
    }

    /// The log of this epoch. Another one than before begins in a place of its own: what is held is never
    /// overwritten.
    async fn log_of(&mut self, epoch: u64) -> std::result::Result<EventLog, Stop> {
        let before = self.log.get();
        if let Some(log) = &before
            && log.epoch() == epoch
        {
            return Ok(log.clone());
        }
        let mut directory = self.directory.clone();
        let begun = unblock(move || directory.begin(epoch).map(|log| (directory, log)));
        let (directory, log) = begun.await.map_err(Stop::Store)?;
        self.directory = directory;
        self.log.set(log.clone());
        self.look.notify(usize::MAX);
        self.status.change(|status| (status.epoch, status.last_seq) = (Some(epoch), log.last_seq()));
        if let Some(before) = before {
            tracing::info!(
                log = &*self.origin.log,
                epoch,
                before = before.epoch(),
                "the origin has another epoch"
            );
            // The log is closed in order, so that it goes on behind its gaps.
            self.count_gaps_before(u64::MAX);
            before.close().await.map_err(Stop::Store)?;
        }
        Ok(log)
    }
}

/// The newest event that the origin need not keep for this mirror any longer.
fn durable_seq(log: &EventLog) -> u64 {
    #[cfg(test)]
    if sabotage::is(Sabotage::AckReceived) {
        return log.last_seq();
    }
    log.committed_seq()
}

fn same(seq: u64, held: &Bytes, received: &Bytes) -> std::result::Result<(), Stop> {
    if held == received {
        return Ok(());
    }
    Err(Stop::Diverged(format!("event {seq} of the origin is another one than that of the mirror")))
}

fn no_epochs() -> Stop {
    Stop::Subscription(Error::new(ErrorKind::Unsupported).detail("the origin has no epochs"))
}
